//! The interfaces of this machine, for a listing: what they are, and what stands in the way of opening them.

use anyport::driver::{DeviceInfo, DeviceLock};

use crate::interface::Interface;
use crate::journal::Journal;
use crate::links::{LinkInfo, links};
use crate::open::{lock_key, not_ethernet};
use crate::packet_socket;
use crate::privilege::{Privilege, remedy};
use crate::settings::recover;
use crate::takeover::Host;

/// All interfaces of the calling thread's network namespace, as devices of a backend called `backend` that reaches them
/// `by` some means.
///
/// Nobody who has one open is disturbed. What a killed process left changed is put back, or named (contract L8).
pub fn devices(backend: &str, by: &str) -> Vec<DeviceInfo> {
    let Ok(all) = links() else { return Vec::new() };
    let host = Host::look().unwrap_or_default();
    forget_gone(&all);
    let privilege = packet_socket::may_open()
        .err()
        .map(|_| format!("no privilege: it needs {}; {}", Privilege::NetRaw.name(), remedy()));
    all.iter()
        .map(|info| {
            let spec = format!("{backend}:{}", info.name);
            let interface = Interface::open(&info.name).ok();
            let mut obstacles = Vec::new();
            if let Some(reason) = not_ethernet(info) {
                obstacles.push(reason);
            } else {
                obstacles.extend(interface.as_ref().and_then(|interface| holder(interface, &spec)));
                obstacles.extend(privilege.clone());
                if let Ok(Some(carries)) = host.carries(&all, info.index) {
                    obstacles.push(format!(
                        "it carries {carries}: open it with takeover=true, or with shared=true"
                    ));
                }
                if !info.up {
                    obstacles.push(format!("it is down: `ip link set {} up`", info.name));
                }
                obstacles
                    .extend(interface.as_ref().and_then(|interface| recover(interface, &spec)));
            }
            let description = describe(info, interface.as_ref(), by);
            let obstacle = (!obstacles.is_empty()).then(|| obstacles.join("; "));
            DeviceInfo::new(spec, description).with_obstacle(obstacle)
        })
        .collect()
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

/// Entries of interfaces that are gone have nothing to say any more.
fn forget_gone(all: &[LinkInfo]) {
    let journal = Journal::default();
    let Some(namespace) =
        all.iter().find_map(|info| Interface::open(&info.name).ok()?.namespace().ok())
    else {
        return;
    };
    for entry in journal.all(namespace).unwrap_or_default() {
        if !all.iter().any(|info| info.index == entry.index) {
            journal.remove(&entry);
        }
    }
}
