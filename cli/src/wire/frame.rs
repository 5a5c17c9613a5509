//! The frames that `gen` makes: Ethernet, IPv4, UDP, a stamp, zeros.
//!
//! Addresses are of the range that is set aside for benchmarks (RFC 2544: 198.18.0.0/15). The IPv4 checksum is right,
//! the UDP checksum is zero ("none", which IPv4 allows), so that a stamp changes nothing but itself.

use anyport::MacAddr;

use super::stamp::{self, Stamp};

/// The least frame: a stamp behind its headers, and what Ethernet wants, which happens to be the same.
pub const MIN_FRAME: usize = HEADERS + stamp::LEN;

/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

/// The simple Internet mix of 7 : 4 : 1 (64, 594 and 1,518 bytes with FCS), spread evenly.
pub const IMIX: [usize; 12] = [60, 590, 60, 590, 60, 60, 1514, 60, 590, 60, 590, 60];

/// Where generated frames go unless told otherwise: a locally administered unicast address that no device has, so that
/// switches flood it and hosts leave it alone.
pub const DEFAULT_DESTINATION: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);

const SOURCE_IP: [u8; 4] = [198, 18, 0, 1];
const DESTINATION_IP: [u8; 4] = [198, 19, 0, 1];

/// The headers of all generated frames of one size.
#[derive(Debug, Clone)]
pub struct Template {
    headers: [u8; HEADERS],
    size: usize,
}

impl Template {
    /// Frames of that size in bytes, at least [`MIN_FRAME`] and at most 65,535.
    pub fn new(destination: MacAddr, source: MacAddr, size: usize) -> Template {
        let size = size.clamp(MIN_FRAME, 65535);
        let ip_length = ((size - 14) as u16).to_be_bytes();
        let udp_length = ((size - 34) as u16).to_be_bytes();
        let mut headers = [0; HEADERS];
        headers[..6].copy_from_slice(&destination.0);
        headers[6..12].copy_from_slice(&source.0);
        headers[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut headers[14..34];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&ip_length);
        ip[6] = 0x40; // do not fragment; so the identification may be zero (RFC 6864)
        ip[8] = 64; // time to live
        ip[9] = 17; // UDP
        ip[12..16].copy_from_slice(&SOURCE_IP);
        ip[16..20].copy_from_slice(&DESTINATION_IP);
        let sum: u32 =
            ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        headers[36..38].copy_from_slice(&stamp::PORT.to_be_bytes());
        headers[38..40].copy_from_slice(&udp_length);
        Template { headers, size }
    }

    /// Bytes of the frames.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes headers and stamp to the front of a frame of this size; what is behind them stays as it is.
    ///
    /// # Panics
    /// If the frame is shorter than [`MIN_FRAME`].
    #[inline]
    pub fn write(&self, frame: &mut [u8], flow: u16, stamp: Stamp) {
        let front: &mut [u8; MIN_FRAME] =
            frame.first_chunk_mut().expect("a frame of at least 60 bytes");
        front[..HEADERS].copy_from_slice(&self.headers);
        front[34..36].copy_from_slice(&flow.to_be_bytes());
        front[HEADERS..].copy_from_slice(&stamp.to_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_parser_finds_them_right() {
        for size in [60, 61, 590, 1514, 9014, 65535] {
            let mut frame = vec![0; size];
            let stamp = Stamp { run: 1, clock: 2, sequence: 3, time: 4 };
            let template = Template::new(DEFAULT_DESTINATION, MacAddr([2, 0, 0, 0, 0, 1]), size);
            template.write(&mut frame, 1025, stamp);
            let parsed = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = &parsed.net else {
                panic!("no IPv4 in {size} bytes")
            };
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!((header.source, header.destination), (SOURCE_IP, DESTINATION_IP));
            let Some(etherparse::TransportSlice::Udp(udp)) = &parsed.transport else {
                panic!("no UDP")
            };
            assert_eq!((udp.source_port(), udp.destination_port(), udp.checksum()), (1025, 9, 0));
            assert_eq!((usize::from(udp.length()), udp.payload().len()), (size - 34, size - 42));
            assert_eq!(stamp::find(&frame, size), Some((1025, stamp)));
        }
    }

    #[test]
    fn the_mix_is_seven_four_one() {
        let number = |size| IMIX.iter().filter(|s| **s == size).count();
        assert_eq!((number(60), number(590), number(1514)), (7, 4, 1));
    }
}
