//! What is inside a tunnel, for finishing checksums (contract R3).
//!
//! A kernel that sends a tunnel's packets over a software link leaves the innermost TCP or UDP checksum
//! unfinished, not the tunnel's: with VXLAN over veth on Linux 6.18, the inner field held the pseudo-header sum,
//! and the outer UDP checksum was already the one that fits once the inner is finished. Without looking inside,
//! such traffic would be lost behind a forwarder just as plain TCP would.
//!
//! Known are VXLAN (UDP ports 4789 and 8472), Geneve (6081), GRE, and IP in IP in all four combinations. Trap: a
//! UDP tunnel on another port cannot be told from other UDP, and MPLS and PPPoE are not looked into.

use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Transport, be16, chunk};

/// Transparent Ethernet bridging: an Ethernet frame in GRE or Geneve.
const ETHERTYPE_TEB: u16 = 0x6558;

const VXLAN: u16 = 4789;
/// Linux's own default for VXLAN, from before the port was assigned.
const VXLAN_LINUX: u16 = 8472;
const GENEVE: u16 = 6081;

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;

/// Whether these may be the outer headers of a tunnel that is known: a quick look, before [`inner`].
#[inline]
pub fn may_carry(first: &[u8], outer: &Headers) -> bool {
    match outer.transport {
        Transport::Udp => {
            matches!(be16(first, outer.l4_offset + 2), Some(VXLAN | VXLAN_LINUX | GENEVE))
        }
        Transport::Other => matches!(outer.protocol, IPV4_IN_IP | IPV6_IN_IP | GRE),
        _ => false,
    }
}

/// The headers of what the tunnel carries whose outer headers are `outer`; offsets are from the start of `first`,
/// as in `outer`. `None` if it is no tunnel that is known, or broken.
pub fn inner(first: &[u8], outer: &Headers) -> Option<Headers> {
    match outer.transport {
        Transport::Udp => match be16(first, outer.l4_offset + 2)? {
            VXLAN | VXLAN_LINUX => vxlan(first, outer),
            GENEVE => geneve(first, outer),
            _ => None,
        },
        Transport::Other => match outer.protocol {
            IPV4_IN_IP => payload(first, outer, 0, ETHERTYPE_IPV4),
            IPV6_IN_IP => payload(first, outer, 0, ETHERTYPE_IPV6),
            GRE => gre(first, outer),
            _ => None,
        },
        _ => None,
    }
}

/// RFC 7348: eight bytes, of which the flag "identifier is valid" matters here.
fn vxlan(first: &[u8], outer: &Headers) -> Option<Headers> {
    let header = chunk::<8>(first, outer.l4_offset + 8)?;
    (header[0] & 0x08 != 0).then_some(())?;
    payload(first, outer, 16, ETHERTYPE_TEB)
}

/// RFC 8926: eight bytes and options.
fn geneve(first: &[u8], outer: &Headers) -> Option<Headers> {
    let header = chunk::<8>(first, outer.l4_offset + 8)?;
    (header[0] >> 6 == 0).then_some(())?;
    let options = usize::from(header[0] & 0x3f) * 4;
    payload(first, outer, 16 + options, u16::from_be_bytes([header[2], header[3]]))
}

/// RFC 2784 and 2890: four bytes, and four more for each of checksum, key and sequence number.
fn gre(first: &[u8], outer: &Headers) -> Option<Headers> {
    let header = chunk::<4>(first, outer.l4_offset)?;
    // Source routing (obsolete) and other versions are not understood.
    (header[0] & 0x40 == 0 && header[1] & 7 == 0).then_some(())?;
    let optional = (header[0] & 0b1011_0000).count_ones() as usize * 4;
    payload(first, outer, 4 + optional, u16::from_be_bytes([header[2], header[3]]))
}

/// What follows `skip` bytes of tunnel header, within the outer packet.
fn payload(first: &[u8], outer: &Headers, skip: usize, ethertype: u16) -> Option<Headers> {
    if skip > outer.l4_len {
        return None;
    }
    let (start, limit) = (outer.l4_offset + skip, outer.l4_offset + outer.l4_len);
    match ethertype {
        ETHERTYPE_TEB => Headers::ethernet(first, start, limit),
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Some(Headers::network(first, start, ethertype, limit)),
        _ => None,
    }
}
