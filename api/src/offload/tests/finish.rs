//! Unfinished checksums (contract R3).

use proptest::prelude::*;

use super::super::checksum::{Status, Verified, finish, finish_segments, verify};
use super::super::crc32c::Crc32c;
use super::super::parse::Headers;
use super::super::tunnel;
use super::{Built, Ip, Recipe, Transport, cut, naive_sum, recipe};

/// As a kernel leaves it.
fn unfinish(recipe: &Recipe, built: &Built) -> Vec<u8> {
    let mut frame = built.frame.clone();
    match recipe.transport {
        Transport::Tcp { .. } | Transport::Udp => {
            frame[built.field..built.field + 2].copy_from_slice(&recipe.pseudo_sum().to_be_bytes());
        }
        _ => {}
    }
    frame
}

/// The frame with this in its checksum field.
fn with_field(built: &Built, field: u16) -> Vec<u8> {
    let mut frame = built.frame.clone();
    frame[built.field..built.field + 2].copy_from_slice(&field.to_be_bytes());
    frame
}

/// A recipe whose right checksum is, modulo 65,535, the sum of its pseudo header, if `zero` with both being 0.
fn coincidence(mut recipe: Recipe, zero: bool) -> Recipe {
    recipe.payload.splice(0..0, [0, 0]);
    if zero {
        // An address that brings the pseudo header's sum to 0xffff.
        let (first, second) = match &mut recipe.ip {
            Ip::V4 { source, .. } => source.split_at_mut(2),
            Ip::V6 { source, .. } => source.split_at_mut(2),
        };
        first.fill(0);
        second[0] |= 1;
        let missing = (!recipe.pseudo_sum()).to_be_bytes();
        match &mut recipe.ip {
            Ip::V4 { source, .. } => source[..2].copy_from_slice(&missing),
            Ip::V6 { source, .. } => source[..2].copy_from_slice(&missing),
        }
    }
    // 2 P + R = 0, with R the sum of the segment without the field: the payload's first word is chosen so. It lies
    // at an even offset, since all headers are of even length.
    let pseudo = u64::from(recipe.pseudo_sum());
    let (_, segment, _) = recipe.segment();
    let rest = u64::from(naive_sum(&segment));
    let word = (2 * 0xffff - (2 * pseudo + rest) % 0xffff) % 0xffff;
    recipe.payload[..2].copy_from_slice(&(word as u16).to_be_bytes());
    recipe
}

proptest! {
    /// Finishing gives the right checksum, says whether it changed anything, and is idempotent.
    #[test]
    fn unfinished_frames_are_made_right(recipe in recipe()) {
        let built = recipe.build();
        let mut frame = built.frame.clone();
        if recipe.transport != Transport::Sctp {
            prop_assert!(!finish(&mut frame), "a right frame was changed");
            prop_assert_eq!(&frame, &built.frame);
        }
        let mut frame = unfinish(&recipe, &built);
        let changed = frame != built.frame;
        if recipe.has_l4_checksum() {
            prop_assert_eq!(finish(&mut frame), changed);
            prop_assert_eq!(&frame, &built.frame);
            prop_assert_eq!(verify(&frame).l4, Status::Good);
        }
        finish(&mut frame);
        let once = frame.clone();
        prop_assert!(!finish(&mut frame));
        prop_assert_eq!(frame, once);
    }

    #[test]
    fn other_values_stay(recipe in recipe(), field in any::<u16>()) {
        let built = recipe.build();
        let frame = with_field(&built, field);
        let mut copy = frame.clone();
        let unfinished = recipe.has_l4_checksum() && field == recipe.pseudo_sum();
        if recipe.transport != Transport::Sctp && !unfinished {
            prop_assert!(!finish(&mut copy));
            prop_assert_eq!(copy, frame);
        }
    }

    /// A right checksum that is the pseudo header's sum stays, in either form of 0; and so does UDP's "none".
    #[test]
    fn a_right_checksum_that_looks_unfinished_stays(recipe in recipe(), zero in any::<bool>()) {
        let transport = match recipe.has_l4_checksum() {
            true => recipe.transport,
            false => Transport::Tcp { options: 0 },
        };
        let recipe = coincidence(Recipe { transport, ..recipe }, zero);
        let built = recipe.build();
        let pseudo = recipe.pseudo_sum();
        let right = u16::from_be_bytes([built.frame[built.field], built.frame[built.field + 1]]);
        prop_assert_eq!(right % 0xffff, pseudo % 0xffff, "the test's own arithmetic");
        if zero {
            prop_assert_eq!(pseudo, 0xffff);
        }
        for field in [right, pseudo] {
            let mut frame = with_field(&built, field);
            prop_assert_eq!(verify(&frame).l4, Status::Good);
            let before = frame.clone();
            prop_assert!(!finish(&mut frame));
            prop_assert_eq!(frame, before);
        }
        if recipe.transport == Transport::Udp {
            let mut frame = with_field(&built, 0);
            prop_assert!(!finish(&mut frame));
        }
    }

    #[test]
    fn chains_are_finished_alike(recipe in recipe(), first in 0..200usize, piece in 1..700usize) {
        let built = recipe.build();
        let mut whole = unfinish(&recipe, &built);
        let mut chained = whole.clone();
        let segments = cut(&whole, built.l4 + 20 + first, piece);
        let patch = finish_segments(segments.into_iter());
        prop_assert_eq!(finish(&mut whole), patch.is_some());
        if let Some(patch) = patch {
            prop_assert!(patch.offset + patch.bytes().len() <= built.l4 + 20);
            patch.apply(&mut chained);
        }
        prop_assert_eq!(chained, whole);
    }

    #[test]
    fn fragments_stay(mut recipe in recipe(), source in any::<[u8; 4]>()) {
        if matches!(recipe.ip, Ip::V6 { .. }) {
            recipe.ip = Ip::V4 { source, destination: [10, 0, 0, 1], options: 0 };
        }
        let built = recipe.build();
        let mut frame = unfinish(&recipe, &built);
        frame[built.l3 + 6] |= 0x20;
        let before = frame.clone();
        prop_assert!(!finish(&mut frame));
        prop_assert_eq!(frame, before);
    }

    /// An unfinished frame in any tunnel is finished as it would be outside.
    #[test]
    fn inside_tunnels(
        inner in recipe(),
        outer in recipe(),
        kind in 0..6usize,
        geneve_options in 0..5usize,
        gre_flags in 0..8u8,
    ) {
        let built = inner.build();
        let unfinished = unfinish(&inner, &built);
        let l3_type = [built.frame[built.l3 - 2], built.frame[built.l3 - 1]];
        let (port, header, payload_at): (u16, Vec<u8>, usize) = match kind {
            0 => (4789, vec![8, 0, 0, 0, 0, 0, 7, 0], 0),
            1 => (8472, vec![8, 0, 0, 0, 0, 0, 7, 0], 0),
            2 => {
                let mut header = vec![geneve_options as u8, 0, 0x65, 0x58, 0, 0, 1, 0];
                header.extend(vec![0; geneve_options * 4]);
                (6081, header, 0)
            }
            3 => (6081, [&[0, 0][..], &l3_type, &[0, 0, 1, 0]].concat(), built.l3),
            4 => {
                let flags = (gre_flags & 4) << 5 | (gre_flags & 3) << 4;
                let mut header = vec![flags, 0, 0x65, 0x58];
                header.extend(vec![0; gre_flags.count_ones() as usize * 4]);
                (0, header, 0)
            }
            _ => (0, vec![], built.l3),
        };
        let protocol = match (kind, &inner.ip) {
            (4, _) => 47,
            (_, Ip::V4 { .. }) => 4,
            (_, Ip::V6 { .. }) => 41,
        };
        let wrap = |inner: &[u8]| {
            let mut outer = outer.clone();
            outer.padding.clear();
            outer.payload = [&header, &inner[payload_at..]].concat();
            if port != 0 {
                outer.transport = Transport::Udp;
                outer.ports[2..].copy_from_slice(&port.to_be_bytes());
                return outer.build().frame;
            }
            // Without a transport: an ICMP header's eight bytes are taken out again, and its protocol replaced.
            outer.transport = Transport::Icmp;
            let built = outer.build();
            let mut frame = built.frame;
            frame.drain(built.l4..built.l4 + 8);
            let len = (frame.len() - built.l3) as u16;
            match &outer.ip {
                Ip::V4 { .. } => {
                    frame[built.l3 + 2..built.l3 + 4].copy_from_slice(&len.to_be_bytes());
                    frame[built.l3 + 9] = protocol;
                }
                Ip::V6 { extensions, .. } => {
                    frame[built.l3 + 4..built.l3 + 6].copy_from_slice(&(len - 40).to_be_bytes());
                    let mut at = built.l3 + 6;
                    if !extensions.is_empty() {
                        at = built.l3 + 40;
                        for kind in &extensions[..extensions.len() - 1] {
                            at += super::extension(*kind).len();
                        }
                    }
                    frame[at] = protocol;
                }
            }
            frame
        };
        let mut frame = wrap(&unfinished);
        let headers = Headers::parse(&frame).unwrap();
        let found = tunnel::inner(&frame, &headers).expect("a tunnel");
        prop_assert_eq!(found.l4_len, built.end - built.l4);
        let shift = found.l4_offset - built.l4;
        // The outer checksum is the one that fits the finished frame, as with a kernel; either way it stays.
        let before = frame.clone();
        let changed = finish(&mut frame);
        if inner.has_l4_checksum() {
            let expected = unfinished != built.frame;
            prop_assert_eq!(changed, expected);
            let field = built.field + shift;
            prop_assert_eq!(&frame[field..field + 2], &built.frame[built.field..built.field + 2]);
            frame[field..field + 2].copy_from_slice(&before[field..field + 2]);
            prop_assert_eq!(frame, before);
        }
    }
}

/// All 65,536 values of the field of one frame: it changes if and only if it is the pseudo header's sum.
#[test]
fn every_value_of_one_field() {
    for ip in [
        Ip::V4 { source: [10, 1, 2, 3], destination: [10, 9, 8, 7], options: 0 },
        Ip::V6 { source: [3; 16], destination: [5; 16], extensions: vec![] },
    ] {
        for transport in [Transport::Tcp { options: 0 }, Transport::Udp] {
            let (tags, ports) = (vec![], [1, 2, 3, 4]);
            let payload = vec![9; 11];
            let recipe =
                Recipe { tags, ip: ip.clone(), transport, ports, payload, padding: vec![0; 9] };
            let built = recipe.build();
            let mut changed = Vec::new();
            for field in 0..=0xffff {
                let frame = with_field(&built, field);
                let mut copy = frame.clone();
                if finish(&mut copy) {
                    assert_eq!(copy, built.frame);
                    changed.push(field);
                } else {
                    assert_eq!(copy, frame);
                }
            }
            assert_eq!(changed, [recipe.pseudo_sum()]);
        }
    }
}

#[test]
fn sctp_gets_its_crc() {
    let recipe = Recipe {
        tags: vec![],
        ip: Ip::V4 { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], options: 0 },
        transport: Transport::Sctp,
        ports: [0x10, 0, 0x20, 0],
        // An INIT chunk's first bytes will do.
        payload: vec![1, 0, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        padding: vec![0xaa; 4],
    };
    let built = recipe.build();
    let mut frame = built.frame.clone();
    let mut crc = Crc32c::default();
    crc.add(&frame[built.l4..built.end]);
    let expected = crc.finish().to_le_bytes();
    let patch = finish_segments(cut(&frame, 50, 7).into_iter()).unwrap();
    assert_eq!((patch.offset, patch.bytes()), (42, &expected[..]));
    assert!(finish(&mut frame));
    assert_eq!(frame[42..46], expected);
    assert_eq!((&frame[..42], &frame[46..]), (&built.frame[..42], &built.frame[46..]));
    let finished = frame.clone();
    assert!(!finish(&mut frame));
    assert_eq!(frame, finished);
    assert_eq!(verify(&frame), Verified { ip: Status::Good, l4: Status::Unknown });
}

#[test]
fn a_tunnel_that_ends_in_its_own_header_is_none() {
    for (len, some) in [(7, false), (8, true)] {
        let recipe = Recipe {
            tags: vec![],
            ip: Ip::V4 { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], options: 0 },
            transport: Transport::Udp,
            ports: [0, 1, 0x12, 0xb5],
            payload: vec![8; len],
            // An Ethernet header's worth, behind the packet.
            padding: vec![8; 20],
        };
        let frame = recipe.build().frame;
        let headers = Headers::parse(&frame).unwrap();
        assert_eq!(tunnel::inner(&frame, &headers).is_some(), some, "{len}");
    }
}

#[test]
fn a_chain_that_ends_too_soon_stays() {
    let recipe = Recipe {
        tags: vec![],
        ip: Ip::V4 { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], options: 0 },
        transport: Transport::Udp,
        ports: [0; 4],
        payload: vec![1; 100],
        padding: vec![],
    };
    let frame = unfinish(&recipe, &recipe.build());
    let segments = cut(&frame, 60, 20);
    assert!(finish_segments(segments.iter().copied()).is_some());
    let short = &segments[..segments.len() - 1];
    assert_eq!(finish_segments(short.iter().copied()), None);
    // Headers that are not all in the first segment.
    assert_eq!(finish_segments(cut(&frame, 41, 20).into_iter()), None);
}

/// Frames taken from a veth pair of Linux 6.18 whose offloads were as they are by default.
mod from_a_kernel {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
        hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    #[test]
    fn tcp_and_udp() {
        for (hex, ip) in [
            (
                "3e99d1917f1a1680fa5e7ba308004500003c1faa4000400606fe0a0900010a090002ba30138806fa2e6800000000\
                 a002faf014430000020405b40402080ab2e7f451000000000103030a",
                Status::Good,
            ),
            (
                "3e99d1917f1a1680fa5e7ba308004500003b071f400040111f7f0a0900010a0900028fa917700027144d79797979\
                 797979797979797979797979797979797979797979797979797979",
                Status::Good,
            ),
            (
                "3e99d1917f1a1680fa5e7ba386dd600700cf00271140fd000000000000000000000000000001fd00000000000000\
                 0000000000000002d52017710027fa3c79797979797979797979797979797979797979797979797979797979797979",
                Status::Unknown,
            ),
        ] {
            let mut frame = bytes(hex);
            assert_eq!(verify(&frame), Verified { ip, l4: Status::Bad });
            assert!(finish(&mut frame));
            assert_eq!(verify(&frame), Verified { ip, l4: Status::Good });
            assert!(!finish(&mut frame));
        }
    }

    /// VXLAN with an outer checksum: it is wrong until the inner one is finished.
    #[test]
    fn vxlan() {
        let mut frame = bytes(
            "e681c2cb357bf28c02c1a7f3080045000087af9200004011b6bf0a0900010a090002c0a712b5007320a8080000000000\
             0700aa369c62e8426aa5b4d8a5f2080045000055329640004006f3f60a0a00010a0a0002eb921388e42f3e9eb2dc98c4\
             80180040145e00000101080a380e72902a9eabaa78787878787878787878787878787878787878787878787878787878\
             7878787878",
        );
        assert_eq!(verify(&frame), Verified { ip: Status::Good, l4: Status::Bad });
        assert_eq!(verify(&frame[50..]), Verified { ip: Status::Good, l4: Status::Bad });
        assert!(finish(&mut frame));
        assert_eq!(verify(&frame), Verified { ip: Status::Good, l4: Status::Good });
        assert_eq!(verify(&frame[50..]), Verified { ip: Status::Good, l4: Status::Good });
        assert!(!finish(&mut frame));
    }
}
