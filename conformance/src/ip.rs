//! IP frames for cases about checksums: built right by etherparse, then broken, left unfinished, or judged.
//!
//! Trap: nothing here uses the code under test. Sums are the plain ones of RFC 1071, and what a frame means is asked of
//! etherparse.

use anyport::MacAddr;
use etherparse::PacketBuilder;

use crate::frames::{self, Flow};

/// Which headers a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Tags before the IP header, outermost first: type and control word.
    pub tags: &'static [(u16, u16)],
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// TCP instead of UDP.
    pub tcp: bool,
}

/// Neither, one or two tags, both versions, both transports.
pub fn kinds() -> impl Iterator<Item = Headers> {
    let tags: [&[(u16, u16)]; 4] =
        [&[], &[(0x8100, 0x2005)], &[(0x88a8, 7)], &[(0x88a8, 7), (0x8100, 5)]];
    tags.into_iter().flat_map(|tags| {
        let pairs = [(false, false), (false, true), (true, false), (true, true)];
        pairs.map(|(v6, tcp)| Headers { tags, v6, tcp })
    })
}

impl Headers {
    /// UDP in IPv4.
    pub const UDP: Headers = Headers { tags: &[], v6: false, tcp: false };
    /// TCP in IPv4.
    pub const TCP: Headers = Headers { tags: &[], v6: false, tcp: true };

    /// A frame with right checksums.
    pub fn frame(&self, to: MacAddr, flow: Flow, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(frames::STRANGER.0, to.0);
        let ip = match self.v6 {
            false => ethernet.ipv4(flow.from, flow.to, 64),
            true => ethernet.ipv6(long(flow.from), long(flow.to), 64),
        };
        let mut frame = Vec::new();
        // Writing into a vector cannot fail, and the lengths fit for any payload that the suite uses.
        let written = match self.tcp {
            false => ip.udp(flow.from_port, flow.to_port).write(&mut frame, payload),
            true => ip.tcp(flow.from_port, flow.to_port, 1, 4096).write(&mut frame, payload),
        };
        debug_assert!(written.is_ok());
        for (tpid, tci) in self.tags.iter().rev() {
            frame = frames::tagged(frame, *tpid, *tci);
        }
        frame
    }

    /// Where the IP header is.
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the TCP or UDP header is.
    pub fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 }
    }

    /// Where TCP's or UDP's checksum is.
    pub fn field(&self) -> usize {
        self.l4() + if self.tcp { 16 } else { 6 }
    }

    /// The folded sum of the pseudo header: what a kernel leaves in the field of a checksum that a device is to finish.
    pub fn pseudo(&self, frame: &[u8]) -> u16 {
        let l3 = self.l3();
        let addresses = if self.v6 { &frame[l3 + 8..l3 + 40] } else { &frame[l3 + 12..l3 + 20] };
        let length = (frame.len() - self.l4()) as u32;
        let protocol = if self.tcp { 6 } else { 17 };
        sum(&[addresses, &length.to_be_bytes(), &[0, protocol]].concat())
    }

    /// The frame with its checksum left as a kernel leaves it for a device.
    pub fn unfinished(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let pseudo = self.pseudo(&frame);
        put(&mut frame, self.field(), pseudo);
        frame
    }

    /// The frame with a payload (of at least two bytes) such that the right checksum is `value`.
    pub fn with_checksum(&self, mut frame: Vec<u8>, value: u16) -> Vec<u8> {
        let at = self.l4() + if self.tcp { 20 } else { 8 };
        put(&mut frame, at, 0);
        put(&mut frame, self.field(), value);
        let covered = sum(&frame[self.l4()..]);
        // What is missing to all ones, in arithmetic modulo 65,535.
        let rest = u32::from(covered) + u32::from(self.pseudo(&frame));
        put(&mut frame, at, (0xffff - rest % 0xffff) as u16);
        frame
    }
}

/// An IPv6 address of one's own network for each IPv4 address.
fn long(address: [u8; 4]) -> [u8; 16] {
    let mut long = [0; 16];
    (long[0], long[15]) = (0xfd, 1);
    long[8..12].copy_from_slice(&address);
    long
}

/// Writes a 16-bit field.
pub fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Reads a 16-bit field.
pub fn get(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// The folded sum of RFC 1071.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The CRC32c of RFC 3720, as SCTP has it in its header: bit by bit, least first.
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let step = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    let crc =
        bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |c, _| step(c)));
    (!crc).to_le_bytes()
}

/// An SCTP packet over IPv4 with a right checksum.
pub fn sctp(to: MacAddr, flow: Flow, chunk: &[u8]) -> Vec<u8> {
    // As UDP, whose header is four bytes shorter; then the protocol is another.
    let mut frame = Headers::UDP.frame(to, flow, &[&[0; 4], chunk].concat());
    let (l3, l4) = (Headers::UDP.l3(), Headers::UDP.l4());
    frame[l3 + 9] = 132;
    put(&mut frame, l3 + 10, 0);
    let header = sum(&frame[l3..l4]);
    put(&mut frame, l3 + 10, !header);
    // Verification tag, checksum.
    frame[l4 + 4..l4 + 12].copy_from_slice(&[1, 2, 3, 4, 0, 0, 0, 0]);
    let crc = crc32c(&frame[l4..]);
    frame[l4 + 8..l4 + 12].copy_from_slice(&crc);
    frame
}

/// Whether a whole frame's IPv4 header checksum (if it has one) and its TCP or UDP checksum are right, as etherparse
/// sees it. `None` if it is neither TCP nor UDP.
pub fn right(frame: &[u8]) -> Option<bool> {
    let (ip, l4) = judge(frame);
    Some(ip.unwrap_or(true) && l4?)
}

/// Whether the IPv4 header's and the transport's checksum are right, as etherparse sees it; `None` where it sees none:
/// no IP, a fragment, UDP without a checksum, lengths that contradict each other.
pub fn judge(frame: &[u8]) -> (Option<bool>, Option<bool>) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let ip = ipv4_header(frame).map(|header| sum(header) == 0xffff);
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return (ip, None) };
    let l4 = match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let ip = ip.header();
            let value = tcp.calc_checksum_ipv4(ip.source(), ip.destination());
            value.ok().map(|value| same(value, tcp.checksum()))
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let ip = ip.header();
            let value = tcp.calc_checksum_ipv6(ip.source(), ip.destination());
            value.ok().map(|value| same(value, tcp.checksum()))
        }
        (Some(_), Some(TransportSlice::Udp(udp))) if udp.checksum() == 0 => None,
        (Some(net), Some(TransportSlice::Udp(udp))) => {
            // `payload` ends where UDP's own length says.
            let header = udp.to_header();
            match net {
                NetSlice::Ipv4(ip) => {
                    let ip = ip.header();
                    header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload()).ok()
                }
                NetSlice::Ipv6(ip) => {
                    let ip = ip.header();
                    header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), udp.payload()).ok()
                }
                NetSlice::Arp(_) => None,
            }
            .map(|value| same(value, udp.checksum()))
        }
        _ => None,
    };
    (ip, l4)
}

/// Zero has two forms.
fn same(one: u16, other: u16) -> bool {
    one % 0xffff == other % 0xffff
}

/// The bytes of an IPv4 header, behind at most two tags.
fn ipv4_header(frame: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    for _ in 0..2 {
        if matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
            at += 4;
        }
    }
    (frame.get(at..at + 2)? == [8, 0]).then_some(())?;
    let rest = frame.get(at + 2..)?;
    let first = *rest.first()?;
    let length = usize::from(first & 15) * 4;
    (first >> 4 == 4 && length >= 20).then(|| rest.get(..length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_right_until_they_are_broken() {
        for kind in kinds() {
            for length in [2, 3, 60, 101] {
                let frame = kind.frame(frames::GROUP, Flow::nth(3), &vec![0xa5; length]);
                assert_eq!(right(&frame), Some(true), "{kind:?} {length}");
                let unfinished = kind.unfinished(frame.clone());
                assert_eq!(right(&unfinished), Some(false), "{kind:?} {length}");
                for value in [1, 0x1234, 0xffff, kind.pseudo(&frame)] {
                    let crafted = kind.with_checksum(frame.clone(), value);
                    assert_eq!((right(&crafted), get(&crafted, kind.field())), (Some(true), value));
                }
            }
        }
    }

    #[test]
    fn crc_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283_u32.to_le_bytes());
        let frame = sctp(frames::GROUP, Flow::nth(3), &[9; 20]);
        assert_eq!((frame.len(), judge(&frame)), (14 + 20 + 12 + 20, (Some(true), None)));
    }

    #[test]
    fn what_has_no_checksum_is_not_judged() {
        assert_eq!(judge(&frames::numbered(frames::GROUP, 1, 60)), (None, None));
        let mut frame = Headers::UDP.frame(frames::GROUP, Flow::nth(3), b"abc");
        put(&mut frame, Headers::UDP.field(), 0);
        assert_eq!(judge(&frame), (Some(true), None));
        frame[20] = 0x20;
        assert_eq!(judge(&frame), (Some(false), None));
        assert_eq!(judge(&frame[..30]), (None, None));
    }
}
