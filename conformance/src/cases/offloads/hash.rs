//! O5: the hash is the Toeplitz hash of the configured key.

use std::net::IpAddr;

use anyport::MacAddr;
use anyport::config::RssKey;

use super::{RSS_HASH, each_way};
use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::{self, Flow};
use crate::side::Side;
use crate::{ensure, ip, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "offloads.hash_of_the_verification_suite",
        clauses: &["O5"],
        about: "Sends the packets of the published verification suite for the default key, over TCP and UDP, and without \
                ports: the hash in the packet is the published one.",
        why: "Who spreads flows over machines by this hash needs the same one everywhere.",
        needs: &[Need::TwoWay],
        run: verification_suite,
    },
    Case {
        name: "offloads.hash_of_the_configured_key",
        clauses: &["O5"],
        about: "Computes the hash by its definition for three keys, and compares.",
        why: "A device that keeps its own key gives other hashes than the software beside it.",
        needs: &[Need::TwoWay],
        run: configured_key,
    },
    Case {
        name: "offloads.symmetric_hash",
        clauses: &["O5"],
        about: "With rss_key=symmetric both directions of 200 flows have the same hash, and different flows different ones.",
        why: "A firewall must see both directions of a connection in the same place.",
        needs: &[Need::TwoWay],
        run: symmetric,
    },
    Case {
        name: "offloads.hash_of_what_has_none",
        clauses: &["O5"],
        about: "Frames that are no IP have no hash; fragments have that of their addresses.",
        why: "A hash of bytes that are no ports sends the fragments of a datagram to different places.",
        needs: &[Need::TwoWay],
        run: what_has_none,
    },
];

/// Destination, source, hash of the addresses, hash with the ports; from "Verifying the RSS Hash Calculation".
const SUITE: [(&str, u16, &str, u16, u32, u32); 8] = [
    ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e_8fc2, 0x51cc_c178),
    ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718_262a, 0xc626_b0ea),
    ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0_a5de, 0x5c2b_394a),
    ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x8298_9176, 0xafc7_327f),
    ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d18_09c5, 0x10e8_28a2),
    ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc1_8cd5, 0x4020_7d3d),
    ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c_461c, 0xdde5_1bbf),
    (
        "fe80::200:f8ff:fe21:67cf",
        38024,
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
        44251,
        0x4b61_e985,
        0x02d1_feef,
    ),
];

/// What comes behind the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
    /// ICMP: no ports.
    Echo,
}

/// A frame between two hosts.
fn frame(mac: MacAddr, from: (IpAddr, u16), to: (IpAddr, u16), transport: Transport) -> Vec<u8> {
    let ethernet = etherparse::PacketBuilder::ethernet2(frames::STRANGER.0, mac.0);
    let ip = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        // The suite has no such pair.
        _ => return Vec::new(),
    };
    let mut frame = Vec::new();
    // Writing into a vector cannot fail.
    let _ = match (transport, from.0.is_ipv4()) {
        (Transport::Udp, _) => ip.udp(from.1, to.1).write(&mut frame, b"payload"),
        (Transport::Tcp, _) => ip.tcp(from.1, to.1, 1, 1).write(&mut frame, b"payload"),
        (Transport::Echo, true) => {
            ip.icmpv4_echo_request(from.1, to.1).write(&mut frame, b"payload")
        }
        (Transport::Echo, false) => {
            ip.icmpv6_echo_request(from.1, to.1).write(&mut frame, b"payload")
        }
    };
    frames::padded(frame)
}

/// The hash in the packet that a frame becomes.
fn hash(a: &mut Side, b: &mut Side, frame: &[u8]) -> Verdict<Option<u32>> {
    a.send(&[frame.to_vec()])?;
    Ok(b.receive_packet()?.rss_hash())
}

fn verification_suite(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, RSS_HASH, |keys, _| {
        let (mut a, mut b) = ctx.pair_with("", keys)?;
        for (to, to_port, from, from_port, addresses, with_ports) in SUITE {
            let parse = |text: &str| text.parse::<IpAddr>().map_err(|error| error.to_string());
            let (from, to) = ((parse(from)?, from_port), (parse(to)?, to_port));
            let kinds = [
                (Transport::Tcp, with_ports),
                (Transport::Udp, with_ports),
                (Transport::Echo, addresses),
            ];
            for (transport, expected) in kinds {
                let frame = frame(b.mac(), from, to, transport);
                let found = hash(&mut a, &mut b, &frame)?;
                same!(found, Some(expected), "{transport:?} from {from:?} to {to:?}");
            }
        }
        Ok(())
    })
}

/// By the definition: for each bit of the input that is set, the 32 bits of the key from there on.
fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let window = |at: usize| (at..at + 32).fold(0, |w: u32, at| w << 1 | u32::from(bit(key, at)));
    (0..8 * input.len()).filter(|at| bit(input, *at) == 1).fold(0, |hash, at| hash ^ window(at))
}

fn configured_key(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, RSS_HASH, |keys, _| {
        let mut odd = [0; 40];
        odd.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 73 + 11) as u8);
        for key in [odd, [0xff; 40], RssKey::default().0] {
            let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let (mut a, mut b) = ctx.pair_with("", &format!("{keys},rss_key={text}"))?;
            for number in 0..50 {
                let flow = Flow::nth(number * 311);
                let ports = [flow.from_port.to_be_bytes(), flow.to_port.to_be_bytes()].concat();
                let input = [&flow.from[..], &flow.to[..], &ports].concat();
                let frame = frames::padded(frames::udp(b.mac(), flow, b"payload"));
                let found = hash(&mut a, &mut b, &frame)?;
                same!(found, Some(toeplitz(&key, &input)), "flow {number}, key {text}");
            }
        }
        Ok(())
    })
}

fn symmetric(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, RSS_HASH, |keys, _| {
        let (mut a, mut b) = ctx.pair_with("", &format!("{keys},rss_key=symmetric"))?;
        let mut hashes = std::collections::HashSet::new();
        for number in 0..200 {
            let flow = Flow::nth(number);
            let back = Flow {
                from: flow.to,
                to: flow.from,
                from_port: flow.to_port,
                to_port: flow.from_port,
            };
            let mac = b.mac();
            let [one, other] = [flow, back].map(|flow| frames::padded(frames::tcp(mac, flow, b"")));
            let (one, other) = (hash(&mut a, &mut b, &one)?, hash(&mut a, &mut b, &other)?);
            ensure!(one.is_some() && one == other, "flow {number}: {one:x?} and {other:x?}");
            hashes.insert(one);
        }
        ensure!(hashes.len() > 100, "200 flows have {} hashes", hashes.len());
        Ok(())
    })
}

fn what_has_none(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, RSS_HASH, |keys, _| {
        let (mut a, mut b) = ctx.pair_with("", keys)?;
        let plain = frames::numbered(b.mac(), 1, 60);
        same!(hash(&mut a, &mut b, &plain)?, None, "the hash of what is no IP");
        let flow = Flow::nth(7);
        let addresses = [&flow.from[..], &flow.to[..]].concat();
        let expected = toeplitz(&RssKey::default().0, &addresses);
        for fragment in [0x2000, 0x2003, 0x0003] {
            let mut frame = frames::padded(frames::udp(b.mac(), flow, &[7; 30]));
            ip::put(&mut frame, ip::Headers::UDP.l3() + 6, fragment);
            let found = hash(&mut a, &mut b, &frame)?;
            same!(found, Some(expected), "the hash of the fragment {fragment:#06x}");
        }
        Ok(())
    })
}
