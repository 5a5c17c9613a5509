//! The Toeplitz hash of receive side scaling (contract O5).
//!
//! Over source and destination address, and the ports as well for TCP and UDP that is not fragmented: in network
//! byte order, as they stand in the frame. Where IPv6 has extension headers, the addresses are still those of the
//! fixed header. The key decides everything: devices with the same key give the same hash, and
//! [`SYMMETRIC_KEY`] gives both directions of a flow the same one.
//!
//! Tables are by nibble, 4.5 KiB. By byte they would be 36 KiB, most of a first-level cache, to save 2 ns of 5
//! for IPv4 and 6 of 13 for IPv6 in a loop that does nothing else.

use super::parse::{Headers, Network, Transport, chunk};

/// The key of Microsoft's RSS verification suite, which many drivers have as their default.
pub const DEFAULT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, //
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, //
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// 0x6d5a, repeated: words 16 bits apart can be exchanged without changing the hash.
pub const SYMMETRIC_KEY: [u8; 40] = {
    let mut key = [0x6d; 40];
    let mut i = 1;
    while i < 40 {
        key[i] = 0x5a;
        i += 2;
    }
    key
};

/// The longest input: two IPv6 addresses and two ports.
const MAX_INPUT: usize = 36;

/// The tables of one key.
#[derive(Clone)]
pub struct Toeplitz {
    /// `tables[i][n]`: what the nibble `n` contributes as the input's `i`-th.
    tables: [[u32; 16]; 2 * MAX_INPUT],
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

impl Default for Toeplitz {
    fn default() -> Toeplitz {
        Toeplitz::new(&DEFAULT_KEY)
    }
}

impl Toeplitz {
    /// Makes the tables of a key.
    pub fn new(key: &[u8; 40]) -> Toeplitz {
        let mut tables = [[0; 16]; 2 * MAX_INPUT];
        for (i, table) in tables.iter_mut().enumerate() {
            for (nibble, entry) in table.iter_mut().enumerate() {
                *entry = (0..4)
                    .filter(|bit| nibble & 8 >> bit != 0)
                    .fold(0, |hash, bit| hash ^ window(key, 4 * i + bit));
            }
        }
        Toeplitz { tables }
    }

    /// The hash of an input of up to 36 bytes; bytes beyond are ignored.
    #[inline]
    pub fn hash(&self, input: &[u8]) -> u32 {
        let (tables, _) = self.tables.as_chunks::<2>();
        input.iter().zip(tables).fold(0, |hash, (byte, [high, low])| {
            hash ^ high[usize::from(byte >> 4)] ^ low[usize::from(byte & 15)]
        })
    }

    /// The hash of a frame, as a device would give it; `None` if it is not IP. A chain's first segment does.
    #[inline]
    pub fn hash_frame(&self, frame: &[u8]) -> Option<u32> {
        match tuple(frame)? {
            Tuple::Ipv4(addresses, None) => Some(self.hash(addresses)),
            Tuple::Ipv4(addresses, Some(ports)) => {
                Some(self.hash(&join::<8, 12>(addresses, ports)))
            }
            Tuple::Ipv6(addresses, None) => Some(self.hash(addresses)),
            Tuple::Ipv6(addresses, Some(ports)) => {
                Some(self.hash(&join::<32, 36>(addresses, ports)))
            }
        }
    }
}

/// The hash of a frame under a key, as [`Toeplitz::hash_frame`], for who hashes too little to keep tables.
pub fn rss_hash(frame: &[u8], key: &[u8; 40]) -> Option<u32> {
    let (addresses, ports): (&[u8], _) = match tuple(frame)? {
        Tuple::Ipv4(addresses, ports) => (addresses, ports),
        Tuple::Ipv6(addresses, ports) => (addresses, ports),
    };
    let input = addresses.iter().chain(ports.into_iter().flatten());
    Some(input.enumerate().fold(0, |hash, (i, byte)| {
        (0..8)
            .filter(|bit| byte & 0x80 >> bit != 0)
            .fold(hash, |hash, bit| hash ^ window(key, 8 * i + bit))
    }))
}

/// The 32 bits of the key from bit `at` on; `at < 288`.
fn window(key: &[u8; 40], at: usize) -> u32 {
    let mut bits = [0; 8];
    bits[..5].copy_from_slice(&key[at / 8..at / 8 + 5]);
    (u64::from_be_bytes(bits) << (at % 8) >> 32) as u32
}

/// What is hashed: addresses, and ports if there are.
enum Tuple<'a> {
    Ipv4(&'a [u8; 8], Option<&'a [u8; 4]>),
    Ipv6(&'a [u8; 32], Option<&'a [u8; 4]>),
}

#[inline]
fn tuple(frame: &[u8]) -> Option<Tuple<'_>> {
    // Whether the packet is complete is no matter here, as it is none to a device.
    let headers = Headers::parse_first(frame, usize::MAX)?;
    let ports = match headers.transport {
        Transport::Tcp | Transport::Udp => chunk(frame, headers.l4_offset),
        _ => None,
    };
    match headers.network {
        Network::Ipv4 { .. } => Some(Tuple::Ipv4(chunk(frame, headers.l3_offset + 12)?, ports)),
        Network::Ipv6 => Some(Tuple::Ipv6(chunk(frame, headers.l3_offset + 8)?, ports)),
        Network::Other => None,
    }
}

#[inline]
fn join<const A: usize, const N: usize>(addresses: &[u8; A], ports: &[u8; 4]) -> [u8; N] {
    let mut input = [0; N];
    input[..A].copy_from_slice(addresses);
    input[A..].copy_from_slice(ports);
    input
}
