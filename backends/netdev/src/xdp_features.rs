//! What an interface's driver can do with XDP, as the kernel tells by the generic-netlink family `netdev` (Linux 6.3).
//!
//! The family's number is asked for by its name first, as is usual with generic netlink. Source:
//! `include/uapi/linux/netdev.h`, `net/core/netdev-genl.c`. Asking needs no privilege.
//!
//! Trap: what a driver declares may depend on how the interface is set up now (veth declares `redirect` only with GRO or with
//! a program), and it does not say up to which MTU it takes a program.

use std::io;

use crate::netlink::{Netlink, attribute, attributes, read};

/// `struct genlmsghdr`: command, version, two bytes that stay zero.
const HEADER: usize = 4;

/// The family that knows the others.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;
const DEVICE_ZERO_COPY_SEGMENTS: u16 = 4;

/// What a driver declares (`enum netdev_xdp_act`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct XdpFeatures {
    /// Programs run in the driver, before the kernel has made a packet of its own of the frame.
    pub native: bool,
    /// They can redirect frames from it.
    pub redirect: bool,
    /// Frames can be redirected to it.
    pub transmit: bool,
    /// AF_XDP sockets can be in zero-copy mode.
    pub zero_copy: bool,
    /// Received frames may have several buffers.
    pub segments: bool,
    /// The most descriptors of one frame in zero-copy mode; `None` before Linux 6.6, and without zero-copy.
    pub zero_copy_segments: Option<u32>,
}

impl XdpFeatures {
    fn parse(body: &[u8]) -> Option<XdpFeatures> {
        let (mut declared, mut zero_copy_segments) = (None, None);
        for (kind, content) in attributes(body.get(HEADER..)?) {
            match kind {
                DEVICE_FEATURES => declared = read::<u64>(content),
                DEVICE_ZERO_COPY_SEGMENTS => zero_copy_segments = read::<u32>(content),
                _ => {}
            }
        }
        let declared = declared?;
        let bit = |bit: u32| declared & 1 << bit != 0;
        Some(XdpFeatures {
            native: bit(0),
            redirect: bit(1),
            transmit: bit(2),
            zero_copy: bit(3),
            segments: bit(5),
            zero_copy_segments,
        })
    }
}

/// What the driver of the interface of that index in the calling thread's network namespace declares; `None` if the kernel
/// does not tell (before Linux 6.3).
///
/// # Errors
/// `ENODEV` if there is no such interface; the system's.
pub fn xdp_features(interface: u32) -> io::Result<Option<XdpFeatures>> {
    let mut netlink = match Netlink::open_with(libc::NETLINK_GENERIC) {
        Ok(netlink) => netlink,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut family = None;
    let request = request(GET_FAMILY, &attribute(FAMILY_NAME, b"netdev\0"));
    let asked = netlink.ask(CONTROL, &request, |_, body| {
        let mut all = attributes(body.get(HEADER..).unwrap_or_default());
        family = all.find(|(kind, _)| *kind == FAMILY_ID).and_then(|(_, id)| read::<u16>(id));
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        asked => asked?,
    }
    let Some(family) = family else { return Ok(None) };
    let mut features = None;
    let request = self::request(DEVICE_GET, &attribute(DEVICE_INDEX, &interface.to_ne_bytes()));
    netlink.ask(family, &request, |_, body| features = XdpFeatures::parse(body))?;
    Ok(features)
}

fn request(command: u8, attributes: &[u8]) -> Vec<u8> {
    let mut request = vec![command, 1, 0, 0];
    request.extend(attributes);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interface;
    use crate::testing::{in_namespace, ip};

    #[test]
    fn what_was_declared_is_read_and_what_is_cut_off_is_nothing() {
        let mut body = vec![DEVICE_GET, 1, 0, 0];
        body.extend(attribute(DEVICE_INDEX, &7u32.to_ne_bytes()));
        body.extend(attribute(DEVICE_FEATURES, &0b10_1001u64.to_ne_bytes()));
        let older =
            XdpFeatures { native: true, zero_copy: true, segments: true, ..XdpFeatures::default() };
        assert_eq!(XdpFeatures::parse(&body), Some(older));
        assert_eq!(XdpFeatures::parse(&body[..16]), None);
        assert_eq!(XdpFeatures::parse(&[1]), None);
        body.extend(attribute(DEVICE_ZERO_COPY_SEGMENTS, &17u32.to_ne_bytes()));
        let newer = XdpFeatures { zero_copy_segments: Some(17), ..older };
        assert_eq!(XdpFeatures::parse(&body), Some(newer));
    }

    #[test]
    fn a_veth_has_native_xdp_and_no_zero_copy_and_a_bridge_has_none() {
        in_namespace(|| {
            ip("link add b0 type bridge");
            let of = |name: &str| xdp_features(Interface::open(name).unwrap().index()).unwrap();
            let Some(veth) = of("a0") else {
                // A kernel that does not tell.
                assert_eq!(of("b0"), None);
                return;
            };
            assert!(veth.native && veth.redirect && !veth.zero_copy, "{veth:?}");
            assert_eq!(veth.zero_copy_segments, None);
            assert_eq!(of("b0"), Some(XdpFeatures::default()));
            let gone = xdp_features(0x7fff_fff0).unwrap_err();
            assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
        });
    }
}
