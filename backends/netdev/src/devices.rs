//! The interfaces of this machine, for a listing: what they are, and what stands in the way of opening them.

use std::io;

use anyport::driver::{DeviceInfo, DeviceLock};

use crate::interface::Interface;
use crate::journal::Journal;
use crate::links::{LinkInfo, links};
use crate::namespaces::Namespaces;
use crate::open::{lock_key, not_ethernet};
use crate::packet_socket;
use crate::privilege::{Privilege, missing, remedy};
use crate::settings::recover;
use crate::takeover::Host;

/// How a backend reaches interfaces, and what only it knows of them.
pub struct Listing<'a> {
    /// The backend's name.
    pub backend: &'a str,
    /// By which means, in a few words.
    pub by: &'a str,
    /// A port can share the interface with the host (contract R13).
    pub shares: bool,
    /// What a port needs.
    pub needs: &'a [Privilege],
    /// Whether this process has that.
    pub permitted: fn() -> io::Result<()>,
    /// What only the backend knows of an interface; `held` says that another port has it open.
    pub more: fn(&LinkInfo, held: bool) -> More,
}

/// What is to be said of an interface besides.
#[derive(Debug, Default)]
pub struct More {
    /// Words for its description.
    pub words: Vec<String>,
    /// What stands in the way.
    pub obstacles: Vec<String>,
}

/// All interfaces of the calling thread's network namespace, as devices of a backend called `backend` that reaches them
/// `by` packet sockets of some sort.
///
/// Nobody who has one open is disturbed. What a killed process left changed is put back, or named (contract L8).
pub fn devices(backend: &str, by: &str) -> Vec<DeviceInfo> {
    let needs = &[Privilege::NetRaw];
    let more = |_: &LinkInfo, _| More::default();
    Listing { backend, by, shares: true, needs, permitted: packet_socket::may_open, more }.devices()
}

impl Listing<'_> {
    /// As [`devices`].
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let backend = self.backend;
        Journal::default().forget_gone(&Namespaces::of_this_thread());
        let Ok(all) = links() else { return Vec::new() };
        // What is put back changes what there is to say.
        let put_back = |info: &LinkInfo| {
            let interface = Interface::open(&info.name).ok()?;
            not_ethernet(info)
                .is_none()
                .then(|| recover(&interface, &format!("{backend}:{}", info.name)))?
        };
        let left: Vec<_> = all.iter().map(|info| (info.index, put_back(info))).collect();
        let Ok(all) = links() else { return Vec::new() };
        let host = Host::look().unwrap_or_default();
        let privilege = (self.permitted)().err().map(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                format!("no privilege: it needs {}; {}", missing(self.needs), remedy())
            }
            _ => error.to_string(),
        });
        all.iter()
            .map(|info| {
                let spec = format!("{backend}:{}", info.name);
                let interface = Interface::open(&info.name).ok();
                let (mut words, mut obstacles) = (Vec::new(), Vec::new());
                if let Some(reason) = not_ethernet(info) {
                    obstacles.push(reason);
                } else {
                    let holder = interface.as_ref().and_then(|interface| holder(interface, &spec));
                    let held = holder.is_some();
                    obstacles.extend(holder);
                    obstacles.extend(privilege.clone());
                    if let Ok(Some(carries)) = host.carries(&all, info.index) {
                        let or = if self.shares { ", or with shared=true" } else { "" };
                        obstacles
                            .push(format!("it carries {carries}: open it with takeover=true{or}"));
                    }
                    if !info.up {
                        obstacles.push(format!("it is down: `ip link set {} up`", info.name));
                    }
                    let left = left.iter().find(|(index, _)| *index == info.index);
                    obstacles.extend(left.and_then(|(_, left)| left.clone()));
                    let more = (self.more)(info, held);
                    words = more.words;
                    obstacles.extend(more.obstacles);
                }
                let mut description = describe(info, interface.as_ref(), self.by);
                for word in words {
                    description.push_str(&format!(", {word}"));
                }
                let obstacle = (!obstacles.is_empty()).then(|| obstacles.join("; "));
                DeviceInfo::new(spec, description).with_obstacle(obstacle)
            })
            .collect()
    }
}

/// Who has it open.
fn holder(interface: &Interface, spec: &str) -> Option<String> {
    match DeviceLock::holder(&lock_key(interface, spec).ok()?)? {
        0 => Some("it is in use by another open port".into()),
        pid => Some(format!("it is in use by process {pid}")),
    }
}

/// Driver, address, state, speed, in a few words.
fn describe(info: &LinkInfo, interface: Option<&Interface>, by: &str) -> String {
    let mut words = vec![by.to_owned()];
    let driver = interface.and_then(|interface| interface.driver().ok()).unwrap_or_default();
    words.extend(Some(driver).filter(|driver| !driver.is_empty()));
    words.extend(info.mac.map(|mac| mac.to_string()));
    words.push(
        match (info.up, info.carrier) {
            (false, _) => "down",
            (true, false) => "no carrier",
            (true, true) => "up",
        }
        .into(),
    );
    let speed = interface.and_then(|interface| interface.speed().ok()).unwrap_or_default();
    if info.carrier
        && let Some(mbps) = speed.mbps
    {
        let duplex = match speed.full_duplex {
            Some(true) => " full duplex",
            Some(false) => " half duplex",
            None => "",
        };
        words.push(format!("{mbps} Mbit/s{duplex}"));
    }
    words.push(format!("MTU {}", info.mtu));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::testing::{in_namespace, ip, may_keep_a_journal};

    fn thread_id() -> libc::c_long {
        // SAFETY: it takes nothing and cannot fail.
        unsafe { libc::syscall(libc::SYS_gettid) }
    }

    #[test]
    fn an_interface_that_was_away_during_a_listing_is_put_back_when_it_returns() {
        in_namespace(|| {
            if !may_keep_a_journal() {
                return;
            }
            let a0 = || Interface::open("a0").unwrap();
            let mut settings = Settings::open(a0(), "test:a0").unwrap();
            settings.set_mtu(4000).unwrap();
            // As if killed.
            std::mem::forget(settings);
            let here = thread_id();
            let (go, gone) = std::sync::mpsc::channel();
            let (back, come) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                let other = scope.spawn(move || {
                    // SAFETY: no pointers; it changes this thread alone.
                    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
                    go.send(thread_id()).unwrap();
                    come.recv().unwrap();
                    ip(&format!("link set a0 netns {here}"));
                });
                ip(&format!("link set a0 netns {}", gone.recv().unwrap()));
                let shown = |name: &str| {
                    let spec = format!("test:{name}");
                    devices("test", "test").iter().any(|device| device.spec == spec)
                };
                assert!(shown("a1") && !shown("a0"));
                back.send(()).unwrap();
                other.join().unwrap();
                assert_eq!(a0().mtu().unwrap(), 4000);
                let all = devices("test", "test");
                let shown = all.iter().find(|device| device.spec == "test:a0").unwrap();
                // As it is now, not as it was found by the listing.
                assert!(shown.description.ends_with(", MTU 1500"), "{}", shown.description);
                assert_eq!(a0().mtu().unwrap(), 1500);
            });
        });
    }
}
