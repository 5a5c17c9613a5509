//! The RSS hash, against Microsoft's verification suite and the definition.

use std::net::IpAddr;

use proptest::prelude::*;

use super::super::toeplitz::{DEFAULT_KEY, SYMMETRIC_KEY, Toeplitz, rss_hash};
use super::{Ip, Recipe, Transport, recipe};

/// By the definition: the key is shifted left by one bit for each bit of input.
fn naive(key: &[u8; 40], input: &[u8]) -> u32 {
    let mut key = *key;
    let mut hash = 0;
    for byte in input {
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                hash ^= u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
            }
            for i in 0..40 {
                key[i] = key[i] << 1 | key.get(i + 1).map_or(0, |next| next >> 7);
            }
        }
    }
    hash
}

/// Destination, source, hash of the addresses, hash with the ports of TCP; from "Verifying the RSS Hash Calculation".
const SUITE: [(&str, u16, &str, u16, u32, u32); 8] = [
    ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e8fc2, 0x51ccc178),
    ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718262a, 0xc626b0ea),
    ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0a5de, 0x5c2b394a),
    ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xafc7327f),
    ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d1809c5, 0x10e828a2),
    ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc18cd5, 0x40207d3d),
    ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c461c, 0xdde51bbf),
    (
        "fe80::200:f8ff:fe21:67cf",
        38024,
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
        44251,
        0x4b61e985,
        0x02d1feef,
    ),
];

#[test]
fn microsofts_verification_suite() {
    let table = Toeplitz::default();
    for (destination, to_port, source, from_port, addresses, with_ports) in SUITE {
        let ip = match (source.parse().unwrap(), destination.parse().unwrap()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Ip::V4 { source: source.octets(), destination: destination.octets(), options: 0 }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => Ip::V6 {
                source: source.octets(),
                destination: destination.octets(),
                extensions: vec![],
            },
            _ => unreachable!(),
        };
        let [a, b] = u16::to_be_bytes(from_port);
        let [c, d] = u16::to_be_bytes(to_port);
        for (transport, expected) in [
            (Transport::Tcp { options: 0 }, with_ports),
            (Transport::Udp, with_ports),
            (Transport::Icmp, addresses),
        ] {
            let recipe = Recipe {
                tags: vec![],
                ip: ip.clone(),
                transport,
                ports: [a, b, c, d],
                payload: vec![1],
                padding: vec![],
            };
            let frame = recipe.build().frame;
            assert_eq!(table.hash_frame(&frame), Some(expected), "{source} {transport:?}");
            assert_eq!(rss_hash(&frame, &DEFAULT_KEY), Some(expected), "{source} {transport:?}");
        }
    }
}

proptest! {
    #[test]
    fn the_tables_are_the_definition(
        key in proptest::collection::vec(any::<u8>(), 40),
        input in proptest::collection::vec(any::<u8>(), 0..=36),
    ) {
        let key: [u8; 40] = key.try_into().unwrap();
        prop_assert_eq!(Toeplitz::new(&key).hash(&input), naive(&key, &input));
    }

    #[test]
    fn frames_are_hashed_by_addresses_and_ports(recipe in recipe(), fragment in any::<bool>()) {
        let mut built = recipe.build();
        let (mut input, v4) = match &recipe.ip {
            Ip::V4 { source, destination, .. } => ([*source, *destination].concat(), true),
            Ip::V6 { source, destination, .. } => ([*source, *destination].concat(), false),
        };
        if v4 && fragment {
            built.frame[built.l3 + 6] |= 0x20;
        } else if recipe.has_l4_checksum() {
            input.extend(recipe.ports);
        }
        let expected = naive(&DEFAULT_KEY, &input);
        prop_assert_eq!(Toeplitz::default().hash_frame(&built.frame), Some(expected));
        prop_assert_eq!(rss_hash(&built.frame, &DEFAULT_KEY), Some(expected));
        // A chain's first segment gives the same hash.
        let first = &built.frame[..built.frame.len().min(built.l4 + 20)];
        prop_assert_eq!(Toeplitz::default().hash_frame(first), Some(expected));
        // What is not IP has none.
        built.frame[built.l3 - 2..built.l3].copy_from_slice(&[0x08, 0x06]);
        prop_assert_eq!(Toeplitz::default().hash_frame(&built.frame), None);
        prop_assert_eq!(rss_hash(&built.frame, &DEFAULT_KEY), None);
    }

    #[test]
    fn the_symmetric_key_is_symmetric(recipe in recipe()) {
        let mut back = recipe.clone();
        match &mut back.ip {
            Ip::V4 { source, destination, .. } => std::mem::swap(source, destination),
            Ip::V6 { source, destination, .. } => std::mem::swap(source, destination),
        }
        back.ports.rotate_left(2);
        let table = Toeplitz::new(&SYMMETRIC_KEY);
        let there = table.hash_frame(&recipe.build().frame);
        prop_assert!(there.is_some());
        prop_assert_eq!(there, table.hash_frame(&back.build().frame));
    }
}
