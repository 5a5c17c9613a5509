//! What rtnetlink knows of the interfaces: kind, limits, and which sits on which.

use std::ffi::CStr;
use std::io;

use anyport::MacAddr;

use crate::netlink::{Netlink, attribute, attributes, read};

/// `struct ifinfomsg`: family, padding, type, index, flags, change mask.
const LINK_HEADER: usize = 16;

const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_PARENT_DEV_NAME: u16 = 56;

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkInfo {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware type: `ARPHRD_ETHER` (1) and the like.
    pub hardware: u16,
    /// Switched on.
    pub up: bool,
    /// With a carrier.
    pub carrier: bool,
    /// Its address, if it has one of 48 bits.
    pub mac: Option<MacAddr>,
    /// The address that it was made with, where it has one: hardware does.
    pub permanent: Option<MacAddr>,
    /// The device on a bus that it belongs to: `0000:01:00.0`, `virtio0`. (Linux 5.14.)
    pub parent: Option<String>,
    /// Its MTU.
    pub mtu: u32,
    /// The least MTU that it takes (0 before Linux 4.19).
    pub min_mtu: u32,
    /// The greatest MTU that it takes; 0 for no limit.
    pub max_mtu: u32,
    /// The kind of a virtual interface: `veth`, `tun`, `bridge`, ... `None` for a device with a driver of its own.
    pub kind: Option<String>,
    /// Its flags follow its carrier at once: it hangs on another interface (a VLAN's parent, a veth's peer). The kernel sees
    /// that from the indexes being different; of a peer in another namespace that has the same index by chance it does not,
    /// and lets the flags be up to a second late, as for a device on its own.
    pub prompt: bool,
    /// That other interface's index, if it is in this namespace.
    pub lower: Option<u32>,
    /// It receives whatever is on the wire: somebody holds a promiscuous membership, or switched its flag.
    pub promiscuous: bool,
    /// The bridge, bond or the like that it is a member of.
    pub master: Option<u32>,
}

impl LinkInfo {
    fn parse(body: &[u8]) -> Option<LinkInfo> {
        let mut info = LinkInfo {
            hardware: read(body.get(2..)?)?,
            index: read(body.get(4..)?)?,
            ..LinkInfo::default()
        };
        let flags: u32 = read(body.get(8..)?)?;
        info.up = flags & libc::IFF_UP as u32 != 0;
        info.carrier = flags & libc::IFF_LOWER_UP as u32 != 0;
        let (mut elsewhere, mut lower) = (false, None);
        for (kind, content) in attributes(body.get(LINK_HEADER..)?) {
            match kind {
                libc::IFLA_IFNAME => info.name = text(content),
                libc::IFLA_ADDRESS => info.mac = content.try_into().ok().map(MacAddr),
                IFLA_PERM_ADDRESS => info.permanent = content.try_into().ok().map(MacAddr),
                IFLA_PARENT_DEV_NAME => info.parent = Some(text(content)),
                libc::IFLA_MTU => info.mtu = read(content).unwrap_or_default(),
                libc::IFLA_MIN_MTU => info.min_mtu = read(content).unwrap_or_default(),
                libc::IFLA_MAX_MTU => info.max_mtu = read(content).unwrap_or_default(),
                libc::IFLA_LINK => lower = read(content),
                libc::IFLA_LINK_NETNSID => elsewhere = true,
                libc::IFLA_PROMISCUITY => {
                    info.promiscuous = read::<u32>(content).is_some_and(|count| count > 0);
                }
                libc::IFLA_MASTER => info.master = read(content),
                libc::IFLA_LINKINFO => {
                    info.kind = attributes(content)
                        .find(|(kind, _)| *kind == libc::IFLA_INFO_KIND)
                        .map(|(_, kind)| text(kind));
                }
                _ => {}
            }
        }
        info.prompt = lower.is_some_and(|lower: u32| lower != info.index);
        // A VLAN whose parent is in another namespace has index 0 or one of over there.
        info.lower = lower.filter(|index| *index != 0 && !elsewhere);
        Some(info)
    }

    /// Whether its frames begin with an Ethernet header (`ARPHRD_ETHER`).
    pub fn is_ethernet(&self) -> bool {
        self.hardware == libc::ARPHRD_ETHER
    }

    /// The kernels of the hosts or guests behind this link are software, too: they may leave checksums unfinished and
    /// segments uncut (contract R3, R4). So do all virtual interfaces (they have a kind), and a hypervisor's network cards.
    pub fn is_software(&self, driver: &str) -> bool {
        const PARAVIRTUAL: [&str; 5] =
            ["virtio_net", "vmxnet3", "hv_netvsc", "vif", "xen_netfront"];
        self.kind.is_some() || driver == "tun" || PARAVIRTUAL.contains(&driver)
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    match CStr::from_bytes_until_nul(bytes) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// All interfaces of the calling thread's network namespace, by index.
///
/// # Errors
/// The system's.
pub fn links() -> io::Result<Vec<LinkInfo>> {
    links_by(&mut Netlink::open()?)
}

/// The same in the network namespace of that socket.
pub(crate) fn links_by(netlink: &mut Netlink) -> io::Result<Vec<LinkInfo>> {
    let mut all = std::collections::BTreeMap::new();
    netlink.dump(libc::RTM_GETLINK, &[0; LINK_HEADER], |_, body| {
        if let Some(info) = LinkInfo::parse(body) {
            all.insert(info.index, info);
        }
    })?;
    Ok(all.into_values().collect())
}

/// The interface of that index in the calling thread's network namespace.
///
/// # Errors
/// `ENODEV` if there is none; the system's.
pub fn link(index: u32) -> io::Result<LinkInfo> {
    let mut body = [0; LINK_HEADER];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    // Statistics and the state of virtual functions are not wanted.
    const EXT_MASK_SKIP_STATS: u32 = 1 << 3;
    let mut request = body.to_vec();
    request.extend(attribute(libc::IFLA_EXT_MASK, &EXT_MASK_SKIP_STATS.to_ne_bytes()));
    Netlink::open()?.ask(libc::RTM_GETLINK, &request, |_, body| found = LinkInfo::parse(body))?;
    found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADMSG))
}

/// The interfaces whose frames come through that one: itself, the bridges and bonds that it is a member of, the VLANs and
/// macvlans on it, and so on upwards.
pub(crate) fn stack(all: &[LinkInfo], index: u32) -> Vec<u32> {
    let mut found = vec![index];
    let mut at = 0;
    while let Some(lower) = found.get(at).copied() {
        at += 1;
        let master = all.iter().find(|info| info.index == lower).and_then(|info| info.master);
        let uppers = all.iter().filter(|info| info.lower == Some(lower) && !is_pair(all, info));
        for upper in uppers.map(|info| info.index).chain(master) {
            if !found.contains(&upper) {
                found.push(upper);
            }
        }
    }
    found
}

/// Two that hang on each other are a pair of ends (veth), not one on the other.
fn is_pair(all: &[LinkInfo], one: &LinkInfo) -> bool {
    all.iter().any(|other| one.lower == Some(other.index) && other.lower == Some(one.index))
}

/// The interfaces that may carry that one's frames: itself, what it hangs on, its members, and so on downwards.
pub(crate) fn beneath(all: &[LinkInfo], index: u32) -> Vec<u32> {
    let mut found = vec![index];
    let mut at = 0;
    while let Some(upper) = found.get(at).copied() {
        at += 1;
        let lower = all
            .iter()
            .filter(|info| info.index == upper && !is_pair(all, info))
            .filter_map(|info| info.lower);
        let members = all.iter().filter(|info| info.master == Some(upper)).map(|info| info.index);
        for lower in lower.chain(members) {
            if !found.contains(&lower) {
                found.push(lower);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sits_on_an_interface_is_found_and_a_pair_is_not_a_stack() {
        let link = |index, lower, master| LinkInfo { index, lower, master, ..LinkInfo::default() };
        // 2 and 3 are a veth pair; 2 is in bridge 4, which has the VLAN 5, with the macvlan 6 on it; 7 is apart.
        let all = [
            link(2, Some(3), Some(4)),
            link(3, Some(2), None),
            link(4, None, None),
            link(5, Some(4), None),
            link(6, Some(5), None),
            link(7, None, Some(7)),
        ];
        assert_eq!(stack(&all, 2), [2, 4, 5, 6]);
        assert_eq!(stack(&all, 3), [3]);
        assert_eq!(stack(&all, 5), [5, 6]);
        assert_eq!(stack(&all, 7), [7]);
        assert_eq!(beneath(&all, 6), [6, 5, 4, 2]);
        assert_eq!(beneath(&all, 2), [2]);
        assert_eq!(beneath(&all, 3), [3]);
        assert_eq!(beneath(&all, 7), [7]);
        assert_eq!(stack(&all, 99), [99]);
    }

    #[test]
    fn the_loopback_interface_is_known_by_itself_and_among_all() {
        let all = links().unwrap();
        let lo = all.iter().find(|info| info.name == "lo").unwrap();
        assert_eq!((lo.hardware, lo.is_ethernet(), lo.kind.as_deref()), (772, false, None));
        assert_eq!(link(lo.index).unwrap(), *lo);
        assert_eq!(link(0x7fff_fff0).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
