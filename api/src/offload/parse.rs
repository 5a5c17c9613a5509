//! Where a frame's headers are.
//!
//! Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP, UDP or SCTP. Every length is checked here, once, so that
//! who reads a [`Headers`] can rely on it (see [`Transport`]). Trap: a frame may be longer than its packet,
//! since Ethernet pads to 60 bytes; the transport's length comes from the IP header, never from the frame.
//!
//! Everything on the common way is `inline(always)`: a [`Headers`] that passes between functions lives in memory,
//! and one that does not lives in registers, and what nobody asks for is never computed. Measured: 4 ns instead of 8
//! for an untagged TCP frame.

/// The EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// The EtherType of an 802.1ad service tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IPv6 extension headers that are walked through; a packet with more has no usable transport.
const MAX_EXTENSIONS: usize = 8;
/// Options of an IPv6 destination options header that are looked at.
const MAX_OPTIONS: usize = 8;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;

/// The network layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Neither IPv4 nor IPv6, or a header that is cut off or invalid in itself.
    Other,
    /// IPv4; the whole header, options included, lies in the first segment.
    Ipv4 {
        /// Bytes of the header with its options: 20 to 60.
        header_len: usize,
    },
    /// IPv6; the fixed header of 40 bytes lies in the first segment.
    Ipv6,
}

/// The transport layer. All but `Unusable` promise: the packet is no fragment, it ends within the frame
/// (`l4_offset + l4_len <= frame length`), and its headers lie in the first segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// None that can be worked on: no IP, a fragment, a length that cannot be, headers outside the first segment.
    Unusable,
    /// TCP: `l4_len >= 20`, and 20 bytes lie in the first segment.
    Tcp,
    /// UDP: `l4_len` is the length field of the UDP header, at least 8 and no more than IP's payload.
    Udp,
    /// SCTP: `l4_len >= 12`, and 12 bytes lie in the first segment.
    Sctp,
    /// Another protocol, see [`Headers::protocol`].
    Other,
}

/// Where a frame's headers are; offsets are bytes from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// VLAN tags in front of the EtherType: 0 to 2.
    pub vlan_tags: u8,
    /// What follows the tags: an EtherType, or a length if below 0x600.
    pub ethertype: u16,
    /// The byte behind the EtherType.
    pub l3_offset: usize,
    /// The network layer.
    pub network: Network,
    /// The packet is a fragment. An IPv6 packet that has a fragment header but is whole is none.
    pub fragment: bool,
    /// The addresses of the transport's pseudo header are not (or not surely) those of the IP header: an IPv6
    /// routing header has segments left, or there is a home address option (RFC 8200 8.1, RFC 6275 6.3).
    pub rerouted: bool,
    /// IP's protocol number, behind IPv6's extension headers; 0 without IP.
    pub protocol: u8,
    /// The transport.
    pub transport: Transport,
    /// Where the transport's header starts; 0 if it is unusable.
    pub l4_offset: usize,
    /// Bytes of the transport's header and payload, padding excluded; 0 if it is unusable.
    pub l4_len: usize,
}

impl Headers {
    /// Finds the headers of a frame. `None` if it is too short for its Ethernet header and tags.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Headers> {
        Headers::parse_first(frame, frame.len())
    }

    /// Finds the headers of a frame whose first segment is `first` and whose length is `frame_len`.
    #[inline]
    pub fn parse_first(first: &[u8], frame_len: usize) -> Option<Headers> {
        Headers::ethernet(first, 0, frame_len)
    }

    /// As [`parse_first`](Headers::parse_first), for a frame that starts at `start`, inside a tunnel, and ends by `limit`.
    #[inline(always)]
    pub(super) fn ethernet(first: &[u8], start: usize, limit: usize) -> Option<Headers> {
        let mut l3_offset = start + 14;
        let mut ethertype = be16(first, start + 12)?;
        let mut tags = 0;
        while tags < 2 && matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            ethertype = be16(first, l3_offset + 2)?;
            l3_offset += 4;
            tags += 1;
        }
        let mut headers = Headers::network(first, l3_offset, ethertype, limit);
        headers.vlan_tags = tags;
        Some(headers)
    }

    /// Finds the headers from the network layer on.
    #[inline(always)]
    pub(super) fn network(first: &[u8], start: usize, ethertype: u16, limit: usize) -> Headers {
        let mut headers = Headers {
            vlan_tags: 0,
            ethertype,
            l3_offset: start,
            network: Network::Other,
            fragment: false,
            rerouted: false,
            protocol: 0,
            transport: Transport::Unusable,
            l4_offset: 0,
            l4_len: 0,
        };
        match ethertype {
            ETHERTYPE_IPV4 => headers.ipv4(first, limit),
            ETHERTYPE_IPV6 => headers.ipv6(first, limit),
            _ => {}
        }
        headers
    }

    #[inline(always)]
    fn ipv4(&mut self, first: &[u8], limit: usize) {
        let start = self.l3_offset;
        let Some(fixed) = chunk::<20>(first, start) else { return };
        let header_len = usize::from(fixed[0] & 15) * 4;
        if fixed[0] >> 4 != 4 || header_len < 20 || first.len() < start + header_len {
            return;
        }
        self.network = Network::Ipv4 { header_len };
        self.protocol = fixed[9];
        // More fragments, or an offset; "do not fragment" and the reserved bit are none of our business.
        self.fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if !self.fragment && total >= header_len {
            self.transport(first, start + header_len, start + total, limit);
        }
    }

    #[inline(always)]
    fn ipv6(&mut self, first: &[u8], limit: usize) {
        let start = self.l3_offset;
        let Some(fixed) = chunk::<40>(first, start) else { return };
        if fixed[0] >> 4 != 6 {
            return;
        }
        self.network = Network::Ipv6;
        self.protocol = fixed[6];
        let mut offset = start + 40;
        // A jumbogram says 0 here; then whatever follows lies outside, and the transport is unusable.
        let end = offset + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if is_extension(self.protocol) {
            let walked = walk(first, self.protocol, offset, end);
            self.protocol = walked.protocol;
            (self.fragment, self.rerouted) = (walked.fragment, walked.rerouted);
            match walked.l4_offset {
                Some(l4_offset) => offset = l4_offset,
                None => return,
            }
        }
        self.transport(first, offset, end, limit);
    }

    /// Checks the transport of a packet that is no fragment.
    #[inline(always)]
    fn transport(&mut self, first: &[u8], offset: usize, end: usize, limit: usize) {
        if end > limit || offset > end || offset > first.len() {
            return;
        }
        let (mut len, here) = (end - offset, first.len() - offset);
        self.transport = match self.protocol {
            TCP if len >= 20 && here >= 20 => Transport::Tcp,
            UDP if len >= 8 && here >= 8 => {
                let field = be16(first, offset + 4).map_or(0, usize::from);
                if !(8..=len).contains(&field) {
                    return;
                }
                len = field;
                Transport::Udp
            }
            SCTP if len >= 12 && here >= 12 => Transport::Sctp,
            TCP | UDP | SCTP => return,
            _ => Transport::Other,
        };
        (self.l4_offset, self.l4_len) = (offset, len);
    }
}

/// What the walk through IPv6's extension headers comes to.
struct Walked {
    protocol: u8,
    fragment: bool,
    rerouted: bool,
    /// Where the transport begins, if it can be told.
    l4_offset: Option<usize>,
}

#[cold]
fn walk(first: &[u8], protocol: u8, mut offset: usize, end: usize) -> Walked {
    let mut walked = Walked { protocol, fragment: false, rerouted: false, l4_offset: None };
    for _ in 0..MAX_EXTENSIONS {
        let Some(header) = chunk::<8>(first, offset) else { return walked };
        let len = match walked.protocol {
            44 => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if offset + len > end {
            return walked;
        }
        match walked.protocol {
            43 => walked.rerouted |= header[3] != 0,
            44 => walked.fragment = u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0,
            60 => {
                let options = first.get(offset + 2..offset + len);
                walked.rerouted |= options.is_none_or(may_have_home_address);
            }
            _ => {}
        }
        walked.protocol = header[0];
        offset += len;
        if walked.fragment {
            return walked;
        }
        if !is_extension(walked.protocol) {
            walked.l4_offset = Some(offset);
            return walked;
        }
    }
    walked
}

/// Hop-by-hop, routing, fragment, authentication, destination options.
#[inline]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60)
}

/// Whether the options of a destination options header have, or may have, a home address.
fn may_have_home_address(mut options: &[u8]) -> bool {
    for _ in 0..MAX_OPTIONS {
        let skip = match options {
            [] => return false,
            [0xc9, ..] => return true,
            [0, ..] => 1,
            [_, len, ..] => usize::from(*len) + 2,
            [_] => return true,
        };
        options = options.get(skip..).unwrap_or_default();
    }
    !options.is_empty()
}

/// A big-endian 16-bit field.
#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    chunk(bytes, at).map(|field| u16::from_be_bytes(*field))
}

/// `N` bytes from `at` on.
#[inline]
pub(super) fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}
