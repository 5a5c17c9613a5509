//! The one's complement sum behind the Internet checksum (RFC 1071), and the pseudo headers.
//!
//! Traps of the arithmetic. Sums are taken modulo 65,535, where 0 and 0xffff are the same number; a sum of
//! anything but zeros folds to 1..=0xffff, never to 0, so its complement is 0..=0xfffe. A checksum field of 0xffff
//! is therefore as right as one of 0, and UDP, where 0 means "none", uses that. Sums are given in network
//! byte order's numbers, whatever the machine's.

/// The one's complement sum of a byte sequence that comes in pieces, of any lengths.
///
/// ```
/// use anyport::offload::sum::{Accumulator, checksum};
/// let mut sum = Accumulator::default();
/// sum.add(&[1, 2, 3]);
/// sum.add(&[4, 5]);
/// assert_eq!(!sum.fold(), checksum(&[1, 2, 3, 4, 5]));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Accumulator {
    /// Of words as this machine loads them: the sum's bytes come out in the frame's order all the same.
    sum: u64,
    /// An odd number of bytes was added: the next one is the second of its word.
    odd: bool,
}

impl Accumulator {
    /// Starts with the folded sum of something else, such as a pseudo header.
    #[inline]
    pub fn with(folded: u16) -> Accumulator {
        Accumulator { sum: u64::from(folded.to_be()), odd: false }
    }

    /// Adds the next piece.
    #[inline]
    pub fn add(&mut self, piece: &[u8]) {
        let sum = fold(sum(piece));
        // One byte further on, every byte stands in the other half of its word (RFC 1071 2.B).
        self.sum += u64::from(if self.odd { sum.swap_bytes() } else { sum });
        self.odd ^= piece.len() & 1 != 0;
    }

    /// The sum in 16 bits, as the field would be read in network byte order; not complemented.
    #[inline]
    pub fn fold(self) -> u16 {
        u16::from_be(fold(self.sum))
    }
}

/// The Internet checksum of some bytes, as it stands in a header (network byte order).
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    !u16::from_be(fold(sum(bytes)))
}

/// The folded sum of IPv4's pseudo header (RFC 9293 3.1), not complemented.
#[inline]
pub fn pseudo_ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> u16 {
    let [s, d] = [source, destination].map(|address| u64::from(u32::from_ne_bytes(address)));
    let rest = u16::from(protocol).to_be();
    u16::from_be(fold(s + d + u64::from(rest) + u64::from(len.to_be())))
}

/// The folded sum of IPv6's pseudo header (RFC 8200 8.1), not complemented.
#[inline]
pub fn pseudo_ipv6(source: [u8; 16], destination: [u8; 16], protocol: u8, len: u32) -> u16 {
    let mut addresses = [0; 32];
    addresses[..16].copy_from_slice(&source);
    addresses[16..].copy_from_slice(&destination);
    pseudo_ipv6_bytes(&addresses, protocol, len)
}

/// As [`pseudo_ipv6`], with the addresses as they stand in the header.
#[inline]
pub(super) fn pseudo_ipv6_bytes(addresses: &[u8; 32], protocol: u8, len: u32) -> u16 {
    let rest = u64::from(len.to_be()) + u64::from(u16::from(protocol).to_be());
    u16::from_be(fold(sum(addresses) + rest))
}

/// Sums words as the machine loads them; folded, the bytes are in the frame's order. No overflow below 16 GiB.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    // Eight independent lanes of 32 bits into 64: what a compiler makes vector instructions of.
    let mut lanes = [0u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<4>();
    let tail = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
    let last = match *rest {
        [a] => u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c] => u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, 0])),
        _ => 0,
    };
    lanes.iter().sum::<u64>() + tail + last
}

#[inline]
pub(super) fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}
