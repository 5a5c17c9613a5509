//! Entries of interfaces that were moved to another network namespace while a port had them open.
//!
//! Such an interface keeps what the port gave it, and the port cannot reach it any more. The entry stays, under the namespace
//! and index of then; the next port or listing where the interface is now looks for it. What is certainly the same device, by
//! its permanent address and its place on a bus, is put back. A virtual interface has neither: one that has the name, kind and
//! address of then, and still what was given, is only named.

use serde::{Deserialize, Serialize};

use super::{Entry, Journal};
use crate::interface::Interface;
use crate::links::{LinkInfo, link};
use crate::settings::Setting;

/// What an interface is known by wherever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The permanent address and the device on a bus; of hardware only.
    device: Option<(String, String)>,
    kind: Option<String>,
    /// The address that it was found with.
    address: String,
}

impl Identity {
    pub fn of(info: &LinkInfo) -> Identity {
        let device = info.permanent.zip(info.parent.clone());
        Identity {
            device: device.map(|(address, parent)| (address.to_string(), parent)),
            kind: info.kind.clone(),
            address: info.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        }
    }
}

/// An entry of an interface that was elsewhere then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub entry: Entry,
    /// It is certainly that interface's.
    pub certain: bool,
}

impl Journal {
    /// The entry that was written of this interface in another namespace, or in this one when it had another index, if something is
    /// still as it was given. (It gets another one when it comes back and somebody else has taken its own.)
    pub fn of_moved(&self, interface: &Interface) -> Option<Moved> {
        let namespace = interface.namespace().ok()?;
        let mut all = self.of_all_namespaces();
        let elsewhere = |entry: &Entry| match entry.namespace == namespace {
            false => true,
            // Where its index is another interface's by now, that one is not meant.
            true => {
                entry.index != interface.index()
                    && link(entry.index).map_or(true, |now| entry.is_of(&now).is_none())
            }
        };
        all.retain(elsewhere);
        if all.is_empty() {
            return None;
        }
        let now = link(interface.index()).ok()?;
        let found = all.into_iter().filter_map(|entry| {
            let certain = entry.is_of(&now)?;
            Some(Moved { entry, certain })
        });
        // What is certain first.
        let mut found: Vec<Moved> = found.collect();
        found.sort_by_key(|moved| !moved.certain);
        found.into_iter().find(|moved| moved.entry.changes.iter().any(|c| c.is_still_so(interface)))
    }
}

impl Entry {
    /// Whether it is that interface's: `Some(true)` for certain, `Some(false)` by all that is known.
    fn is_of(&self, now: &LinkInfo) -> Option<bool> {
        let (then, now_is) = (self.identity.as_ref()?, Identity::of(now));
        if then.device.is_some() || now_is.device.is_some() {
            return (then.device == now_is.device).then_some(true);
        }
        let given = self.changes.iter().find(|change| change.setting == Setting::Mac);
        let same_address = match given {
            Some(change) => change.given.contains(&now_is.address),
            None => then.address == now_is.address,
        };
        (same_address && then.kind == now_is.kind && self.name == now.name).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Change;

    fn hardware(address: u8, parent: &str) -> LinkInfo {
        LinkInfo {
            name: "eth0".into(),
            permanent: Some(anyport::MacAddr([0, 0, 0, 0, 0, address])),
            parent: Some(parent.into()),
            ..LinkInfo::default()
        }
    }

    fn entry(info: &LinkInfo, changes: Vec<Change>) -> Entry {
        Entry {
            boot: String::new(),
            namespace: 1,
            inode: None,
            identity: Some(Identity::of(info)),
            index: 2,
            name: info.name.clone(),
            pid: 7,
            changes,
        }
    }

    #[test]
    fn hardware_is_known_by_address_and_bus_under_any_name() {
        let then = entry(&hardware(1, "0000:01:00.0"), Vec::new());
        let renamed = LinkInfo { name: "x".into(), ..hardware(1, "0000:01:00.0") };
        assert_eq!(then.is_of(&renamed), Some(true));
        assert_eq!(then.is_of(&hardware(2, "0000:01:00.0")), None);
        assert_eq!(then.is_of(&hardware(1, "0000:01:00.1")), None);
        // A virtual one of the same name.
        let other = LinkInfo { name: "eth0".into(), ..LinkInfo::default() };
        assert_eq!(then.is_of(&other), None);
        assert_eq!(entry(&other, Vec::new()).is_of(&hardware(1, "0000:01:00.0")), None);
        let old = Entry { identity: None, ..then };
        assert_eq!(old.is_of(&hardware(1, "0000:01:00.0")), None);
    }

    #[test]
    fn a_virtual_one_is_likely_by_name_kind_and_address() {
        let info = |name: &str, kind: &str, last: u8| LinkInfo {
            name: name.into(),
            kind: Some(kind.into()),
            mac: Some(anyport::MacAddr([2, 0, 0, 0, 0, last])),
            ..LinkInfo::default()
        };
        let then = entry(&info("a0", "veth", 1), Vec::new());
        assert_eq!(then.is_of(&info("a0", "veth", 1)), Some(false));
        for other in [info("a1", "veth", 1), info("a0", "macvlan", 1), info("a0", "veth", 2)] {
            assert_eq!(then.is_of(&other), None);
        }
        let (found, given) = ("02:00:00:00:00:01".into(), vec!["02:00:00:00:00:02".into()]);
        let change = Change { setting: Setting::Mac, found, given };
        let then = entry(&info("a0", "veth", 1), vec![change]);
        assert_eq!(then.is_of(&info("a0", "veth", 2)), Some(false));
        assert_eq!(then.is_of(&info("a0", "veth", 1)), None, "it has been put back");
    }
}
