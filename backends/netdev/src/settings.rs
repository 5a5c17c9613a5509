//! The interface's settings that ports change, and putting them back (contract L8, M1, M2).
//!
//! [`Settings`] holds the interface of an open port: every change is written down first, and what was changed is put back
//! when it is dropped. What an earlier process left changed because it was killed is put back when the interface is opened, or
//! when devices are listed (contract L8).

use std::fmt;
use std::io;

use anyport::driver::DeviceLock;
use anyport::{Error, MacAddr, Result};
use serde::{Deserialize, Serialize};

use crate::error::explain;
use crate::interface::Interface;
use crate::journal::{Change, Entry, Journal, Moved, elsewhere};
use crate::links::{LinkInfo, link};
use crate::namespaces::Namespaces;
use crate::open::lock_key;

/// Something that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Setting {
    Mac,
    Mtu,
    /// An offload switch, as `ethtool -k` calls it.
    Feature(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Mac => f.write_str("address"),
            Setting::Mtu => f.write_str("MTU"),
            Setting::Feature(name) => write!(f, "offload switch {name}"),
        }
    }
}

impl Setting {
    pub fn read(&self, interface: &Interface) -> io::Result<String> {
        Ok(match self {
            Setting::Mac => interface.mac()?.to_string(),
            Setting::Mtu => interface.mtu()?.to_string(),
            Setting::Feature(name) => {
                let [feature] = interface.features([name])?;
                on_off(feature.is_some_and(|feature| feature.active)).into()
            }
        })
    }

    fn write(&self, interface: &Interface, value: &str) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        match self {
            Setting::Mac => interface.set_mac(value.parse().map_err(|_| invalid())?),
            Setting::Mtu => interface.set_mtu(value.parse().map_err(|_| invalid())?),
            Setting::Feature(name) => interface.set_feature(name, value == "on"),
        }
    }

    /// The command that does the same.
    fn command(&self, device: &str, value: &str) -> String {
        match self {
            Setting::Mac => format!("ip link set {device} address {value}"),
            Setting::Mtu => format!("ip link set {device} mtu {value}"),
            Setting::Feature(name) => format!("ethtool -K {device} {name} {value}"),
        }
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// The interface of an open port, with what it was found with.
#[derive(Debug)]
pub struct Settings {
    title: String,
    interface: Interface,
    info: LinkInfo,
    journal: Journal,
    entry: Entry,
    mac: MacAddr,
    mtu: usize,
    found_mtu: usize,
}

impl Settings {
    /// Takes the interface over for a port that errors call `title`. The lock on it is held (the registry takes it before it
    /// calls a backend's `open`), so what an earlier process left changed is put back here.
    ///
    /// # Errors
    /// [`Error::DeviceGone`]; the system's.
    pub fn open(interface: Interface, title: &str) -> Result<Settings> {
        Settings::with(interface, title, Journal::default())
    }

    fn with(interface: Interface, title: &str, journal: Journal) -> Result<Settings> {
        let failed = |doing: &'static str| move |error| explain(title, doing, error);
        journal.forget_gone(&Namespaces::of_this_thread());
        let left = journal.read(&interface).map_err(failed("reading the journal"))?;
        // What could not be put back stays written down: it is what the interface was found with, after all.
        let entry = left.and_then(|entry| put_back(&interface, title, entry, &journal));
        let entry = match entry {
            Some(entry) => entry,
            None => Entry::new(&interface).map_err(failed("reading the interface"))?,
        };
        let moved = moved_here(&interface, title, &journal);
        for left in moved.into_iter().chain(left_elsewhere(&interface)) {
            tracing::warn!("{title}: {left}");
        }
        let mac = interface.mac().map_err(failed("reading the address"))?;
        let info = link(interface.index()).map_err(failed("reading the interface"))?;
        let mtu = interface.mtu().map_err(failed("reading the MTU"))?;
        Ok(Settings {
            title: title.into(),
            interface,
            info,
            journal,
            entry,
            mac,
            mtu,
            found_mtu: mtu,
        })
    }

    /// The interface.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// What was known of it when it was opened.
    pub fn info(&self) -> &LinkInfo {
        &self.info
    }

    /// Its address now.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Its MTU now.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// The MTU that it was found with.
    pub fn found_mtu(&self) -> usize {
        self.found_mtu
    }

    /// The least and the greatest MTU that the device takes, the latter at most `most`.
    pub fn mtu_range(&self, most: usize) -> (usize, usize) {
        // An IPv4 interface takes at least 68, and a device without a limit says 0.
        let least = (self.info.min_mtu as usize).max(68);
        let greatest = match self.info.max_mtu as usize {
            0 => most,
            limit => limit.min(most),
        };
        // What it has now, it takes.
        (least.min(self.found_mtu), greatest.max(self.found_mtu))
    }

    /// Sets the address (contract M1).
    ///
    /// # Errors
    /// [`Error::Permission`], [`Error::DeviceGone`]; [`Error::Unsupported`] with what would help.
    pub fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        if mac == self.mac {
            return Ok(());
        }
        let name = self.entry.name.clone();
        self.change(&Setting::Mac, &mac.to_string()).map_err(|error| {
            let Some(limit) = address_limit(&name, &error) else {
                return explain(&self.title, "setting the address", error);
            };
            let (device, asked) = (self.title.clone(), mac.to_string());
            Error::Unsupported { device, field: "mac".into(), asked, limit }
        })?;
        self.mac = mac;
        Ok(())
    }

    /// Sets the MTU (contract M2).
    ///
    /// # Errors
    /// [`Error::Permission`], [`Error::DeviceGone`]; [`Error::Unsupported`] with what the device says.
    pub fn set_mtu(&mut self, mtu: usize) -> Result<()> {
        if mtu == self.mtu {
            return Ok(());
        }
        self.change(&Setting::Mtu, &mtu.to_string()).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EINVAL | libc::ERANGE | libc::EBUSY | libc::EOPNOTSUPP) => {
                    Error::Unsupported {
                        device: self.title.clone(),
                        field: "max_frame".into(),
                        asked: (mtu + 14).to_string(),
                        limit: format!("the device refuses an MTU of {mtu} ({error})"),
                    }
                }
                _ => explain(&self.title, "setting the MTU", error),
            }
        })?;
        self.mtu = mtu;
        Ok(())
    }

    /// Switches off those of the offload switches (as `ethtool -k` calls them) that are on and can be switched; those that it
    /// did switch off.
    ///
    /// # Errors
    /// [`Error::Permission`], [`Error::DeviceGone`]; the system's.
    pub fn switch_off<const N: usize>(
        &mut self,
        names: [&'static str; N],
    ) -> Result<Vec<&'static str>> {
        let mut switched = Vec::new();
        let failed = |error| explain(&self.title, "reading the offload switches", error);
        let features = match self.interface.features(names) {
            // A device without any.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(switched),
            features => features.map_err(failed)?,
        };
        for (name, feature) in names.iter().zip(features) {
            if !feature.is_some_and(|feature| feature.active && feature.changeable) {
                continue;
            }
            match self.change(&Setting::Feature((*name).into()), "off") {
                // It is on because something else is.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => {
                    return Err(explain(&self.title, &format!("switching {name} off"), error));
                }
                Ok(()) => switched.push(*name),
            }
        }
        Ok(switched)
    }

    /// Switches the offload switches back to what they were found as.
    pub fn switch_back(&mut self) {
        let is_switch = |change: &Change| matches!(change.setting, Setting::Feature(_));
        if !self.entry.changes.iter().any(is_switch) {
            return;
        }
        let (switches, others) = self.entry.changes.drain(..).partition(is_switch);
        self.entry.changes = switches;
        let there = restore(&self.interface, &self.title, &mut self.entry);
        // What cannot be switched back is tried again at the end, in the same order.
        self.entry.changes.splice(0..0, others);
        if there {
            finish(&self.journal, &self.entry);
        }
    }

    /// Writes the change down, then makes it.
    fn change(&mut self, setting: &Setting, value: &str) -> io::Result<()> {
        let known = self.entry.changes.iter_mut().find(|change| change.setting == *setting);
        match known {
            Some(change) if change.given.iter().any(|given| given == value) => {}
            Some(change) => change.given.push(value.into()),
            None => {
                let found = setting.read(&self.interface)?;
                let given = vec![value.into()];
                self.entry.changes.push(Change { setting: setting.clone(), found, given });
            }
        }
        self.entry.name = self.interface.name()?;
        self.entry.pid = std::process::id();
        if let Err(error) = self.journal.write(&self.entry) {
            tracing::warn!(
                "{}: should this process be killed, the {setting} of the interface stays changed: no journal can be \
                 written ({error}); set XDG_RUNTIME_DIR to a directory of your own",
                self.title
            );
        }
        setting.write(&self.interface, value)
    }
}

/// Why a device did not take an address, if that is not a matter of privilege or of the interface being gone.
fn address_limit(name: &str, error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::EBUSY => Some(format!(
            "this driver changes it only while the interface is down: `ip link set {name} down` before opening the port, and \
             up again afterwards"
        )),
        libc::EOPNOTSUPP => Some("this kind of interface cannot change it".into()),
        libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EINVAL => {
            Some(format!("the device refuses it ({error})"))
        }
        _ => None,
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        if !self.entry.changes.is_empty() {
            let mut entry = self.entry.clone();
            if restore(&self.interface, &self.title, &mut entry) {
                finish(&self.journal, &entry);
                return;
            }
            // What was written down stays so, unless somebody has already put it back where the interface is now.
            tracing::warn!(
                "{}: the interface is not in this network namespace any more. If it was moved to another one, it is still \
                 changed: {} puts it back there; `anyport list` there does so, or names it",
                self.title,
                commands(&entry.name, &entry.changes)
            );
        }
    }
}

/// Puts back what is still as it was given. What cannot be put back stays in the entry; false if the interface is not there.
fn restore(interface: &Interface, title: &str, entry: &mut Entry) -> bool {
    let mut there = true;
    // The last change first: an earlier one may have made it possible.
    entry.changes.reverse();
    entry.changes.retain(|Change { setting, found, given }| {
        let result = setting.read(interface).and_then(|now| {
            let ours = now != *found && given.contains(&now);
            if ours { setting.write(interface, found) } else { Ok(()) }
        });
        match result {
            Ok(()) => false,
            // It may be in another network namespace.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                there = false;
                true
            }
            Err(error) => {
                tracing::warn!(
                    "{title}: the {setting} cannot be put back to {found} ({error}); `{}` does it",
                    setting.command(&entry.name, found)
                );
                true
            }
        }
    });
    entry.changes.reverse();
    there
}

/// Keeps what is left of an entry, or removes it.
fn finish(journal: &Journal, entry: &Entry) {
    if entry.changes.is_empty() {
        journal.remove(entry);
    } else {
        // It was written before; what fails here is not worse than it was.
        let _ = journal.write(entry);
    }
}

/// Puts back what a killed process had changed, and says so; what remains, if that is not possible.
fn put_back(
    interface: &Interface,
    title: &str,
    mut entry: Entry,
    journal: &Journal,
) -> Option<Entry> {
    let before = entry.changes.clone();
    restore(interface, title, &mut entry);
    finish(journal, &entry);
    let done: Vec<String> = before
        .iter()
        .filter(|change| !entry.changes.contains(change))
        .map(|change| format!("{} {}", change.setting, change.found))
        .collect();
    if !done.is_empty() {
        let pid = entry.pid;
        tracing::warn!(
            "{title}: put back what process {pid} left changed when it was killed or lost the interface: {}",
            done.join(", ")
        );
    }
    (!entry.changes.is_empty()).then_some(entry)
}

/// Looks for what a killed process left changed of an interface that nobody has open, and puts it back; what of that is not
/// possible, in words, with the command that does it.
pub(crate) fn recover(interface: &Interface, title: &str) -> Option<String> {
    recover_from(&Journal::default(), interface, title)
}

fn recover_from(journal: &Journal, interface: &Interface, title: &str) -> Option<String> {
    // A look without the lock first: taking it could be in the way of somebody who opens the interface just now.
    let own = journal.read(interface).ok()?.is_some() || journal.of_moved(interface).is_some();
    if !own && left_elsewhere(interface).is_none() {
        return None;
    }
    let lock = DeviceLock::take(&lock_key(interface, title).ok()?, title).ok()?;
    let entry = journal.read(interface).ok()?;
    let left = entry.and_then(|entry| put_back(interface, title, entry, journal));
    let left = left.map(|left| {
        let commands = commands(&name_of(interface), &left.changes);
        format!("a process that was killed left it changed; {commands} puts it back")
    });
    let moved = moved_here(interface, title, journal);
    let elsewhere = left_elsewhere(interface);
    drop(lock);
    let all: Vec<String> = left.into_iter().chain(moved).chain(elsewhere).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What killed processes of other users left changed, in words.
fn left_elsewhere(interface: &Interface) -> Option<String> {
    let all: Vec<String> = elsewhere(interface)
        .into_iter()
        .map(|(user, changes)| {
            let commands = commands(&name_of(interface), &changes);
            format!(
                "a process of user {user} that was killed says that it left it changed; {commands} puts it back, or the \
                 next port of that user"
            )
        })
        .collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Puts back what a port changed of the interface before it was moved here; in words, what is only likely to be so, or was not
/// possible.
fn moved_here(interface: &Interface, title: &str, journal: &Journal) -> Option<String> {
    let Moved { entry, certain } = journal.of_moved(interface)?;
    let (pid, name) = (entry.pid, name_of(interface));
    let left = if certain { put_back(interface, title, entry, journal)? } else { entry };
    let changed = left.changes.into_iter().filter(|change| change.is_still_so(interface));
    let commands = commands(&name, &changed.collect::<Vec<_>>());
    Some(format!(
        "it looks like one that a port of process {pid} had changed when it was moved here from another network namespace; \
         {commands} puts it back"
    ))
}

fn name_of(interface: &Interface) -> String {
    interface.name().unwrap_or_default()
}

/// The commands that put changes back.
fn commands(name: &str, changes: &[Change]) -> String {
    let commands = changes.iter().map(|change| change.setting.command(name, &change.found));
    commands.map(|command| format!("`{command}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
