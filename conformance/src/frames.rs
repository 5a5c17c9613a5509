//! Test frames: numbered, recognisable, of any length.

use anyport::MacAddr;

/// The EtherType of test frames: the first of the two for local experiments (IEEE 802).
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A locally administered source address that is nobody's own.
pub const STRANGER: MacAddr = MacAddr([2, 0xa, 0xb, 0xc, 0xd, 0xe]);

/// A group address.
pub const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 1, 2, 3]);

/// A frame of `length` bytes (at least 18): addresses, test EtherType, number, then bytes that depend on number and place.
pub fn numbered(to: MacAddr, number: u32, length: usize) -> Vec<u8> {
    let mut frame = to.0.to_vec();
    frame.extend(STRANGER.0);
    frame.extend(ETHERTYPE);
    frame.extend(number.to_be_bytes());
    let salt = number.wrapping_mul(0x9e37_79b9);
    frame.extend((frame.len()..length).map(|at| (salt >> (at % 4 * 8)) as u8 ^ at as u8));
    frame.truncate(length);
    frame
}

/// The number of a test frame, also behind a VLAN tag.
pub fn number(frame: &[u8]) -> Option<u32> {
    let rest = match frame.get(12..14)? {
        [0x81, 0x00] | [0x88, 0xa8] => frame.get(16..)?,
        _ => frame.get(12..)?,
    };
    let (ethertype, rest) = rest.split_first_chunk::<2>()?;
    (*ethertype == ETHERTYPE).then_some(())?;
    Some(u32::from_be_bytes(*rest.first_chunk()?))
}

/// `count` numbered frames of a length.
pub fn run(to: MacAddr, count: u32, length: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| numbered(to, number, length)).collect()
}

/// The frame with a tag put in after the addresses; 4 bytes longer.
pub fn tagged(mut frame: Vec<u8>, tpid: u16, tci: u16) -> Vec<u8> {
    let [a, b] = tpid.to_be_bytes();
    let [c, d] = tci.to_be_bytes();
    frame.splice(12..12, [a, b, c, d]);
    frame
}

/// The type of the outermost tag, if there is one.
pub fn tag(frame: &[u8]) -> Option<u16> {
    let tpid = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    [0x8100, 0x88a8].contains(&tpid).then_some(tpid)
}

/// The frame with zero bytes up to 60, as it comes out of a wire (contract T5).
pub fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// Addresses of an IPv4 datagram.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Source address.
    pub from: [u8; 4],
    /// Destination address.
    pub to: [u8; 4],
    /// Source port.
    pub from_port: u16,
    /// Destination port.
    pub to_port: u16,
}

impl Flow {
    /// The flow of that number: flows differ in addresses and ports.
    pub fn nth(number: u16) -> Flow {
        let [high, low] = number.to_be_bytes();
        Flow {
            from: [10, 1, high, low],
            to: [10, 2, low, high],
            from_port: 1024 + number,
            to_port: 20_000 + number % 7,
        }
    }
}

/// A UDP datagram in IPv4 in Ethernet with right checksums.
pub fn udp(to: MacAddr, flow: Flow, payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(STRANGER.0, to.0)
        .ipv4(flow.from, flow.to, 64)
        .udp(flow.from_port, flow.to_port);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    // Writing into a vector cannot fail, and the lengths fit for any payload that the suite uses.
    let written = builder.write(&mut frame, payload);
    debug_assert!(written.is_ok());
    frame
}

/// A TCP segment in IPv4 in Ethernet with right checksums.
pub fn tcp(to: MacAddr, flow: Flow, payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(STRANGER.0, to.0)
        .ipv4(flow.from, flow.to, 64)
        .tcp(flow.from_port, flow.to_port, 1, 4096);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    // As in `udp`.
    let written = builder.write(&mut frame, payload);
    debug_assert!(written.is_ok());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_again() {
        for length in [18, 60, 1514] {
            let frame = numbered(GROUP, 77, length);
            assert_eq!((frame.len(), number(&frame)), (length, Some(77)));
            assert_eq!(number(&tagged(frame, 0x8100, 5)), Some(77));
        }
        assert_ne!(numbered(GROUP, 1, 60)[20..], numbered(GROUP, 2, 60)[20..]);
        assert_eq!(number(&[0; 60]), None);
        assert_eq!(number(&[0; 13]), None);
        assert_eq!(udp(GROUP, Flow::nth(3), b"abc").len(), 14 + 20 + 8 + 3);
    }
}
