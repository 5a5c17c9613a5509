//! Sums, `verify` and `fill`.

use proptest::prelude::*;

use super::super::checksum::*;
use super::super::crc32c::Crc32c;
use super::{Ip, Transport, cut, naive_checksum, naive_sum, recipe};

const GOOD: Verified = Verified { ip: Status::Good, l4: Status::Good };

proptest! {
    #[test]
    fn sums_are_those_by_the_book(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        from in 0..8usize,
    ) {
        let bytes = &bytes[from.min(bytes.len())..];
        prop_assert_eq!(checksum(bytes), naive_checksum(bytes));
    }

    #[test]
    fn sums_of_pieces_are_those_of_the_whole(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        start in any::<u16>(),
    ) {
        let mut sum = Accumulator::with(start);
        pieces.iter().for_each(|piece| sum.add(piece));
        let whole = [start.to_be_bytes().to_vec(), pieces.concat()].concat();
        prop_assert_eq!(sum.fold(), naive_sum(&whole));
    }

    #[test]
    fn pseudo_headers_are_those_by_the_book(
        v4 in any::<[[u8; 4]; 2]>(),
        v6 in any::<[[u8; 16]; 2]>(),
        protocol in any::<u8>(),
        len in any::<u16>(),
        long in any::<u32>(),
    ) {
        let bytes = [&v4.concat()[..], &[0, protocol], &len.to_be_bytes()].concat();
        prop_assert_eq!(pseudo_ipv4(v4[0], v4[1], protocol, len), naive_sum(&bytes));
        let bytes = [&v6.concat()[..], &long.to_be_bytes(), &[0, 0, 0, protocol]].concat();
        prop_assert_eq!(pseudo_ipv6(v6[0], v6[1], protocol, long), naive_sum(&bytes));
    }

    /// Of the frame as built, and of the frame with one bit of IP packet or header flipped.
    #[test]
    fn verify_tells_right_from_wrong(recipe in recipe(), bit in any::<prop::sample::Index>()) {
        let built = recipe.build();
        let v4 = matches!(recipe.ip, Ip::V4 { .. });
        let ip = if v4 { Status::Good } else { Status::Unknown };
        let l4 = if recipe.has_l4_checksum() { Status::Good } else { Status::Unknown };
        prop_assert_eq!(verify(&built.frame), Verified { ip, l4 });

        let mut frame = built.frame.clone();
        let bit = bit.index((built.end - built.l4) * 8);
        let at = built.l4 + bit / 8;
        frame[at] ^= 1 << (bit % 8);
        let found = verify(&frame);
        prop_assert_eq!(found.ip, ip);
        let field = u16::from_be_bytes([frame[built.field], frame[built.field + 1]]);
        let udp_len = recipe.transport == Transport::Udp && (built.l4 + 4..built.l4 + 6).contains(&at);
        if recipe.has_l4_checksum() && !udp_len && !(recipe.transport == Transport::Udp && field == 0) {
            prop_assert_eq!(found.l4, Status::Bad);
        } else if udp_len {
            // With another length, it is another datagram, or none.
            prop_assert_ne!(found.l4, Status::Good);
        } else {
            prop_assert_eq!(found.l4, Status::Unknown);
        }
        // Padding is nobody's business.
        let mut frame = built.frame.clone();
        frame[built.end..].fill(0xa5);
        prop_assert_eq!(verify(&frame), Verified { ip, l4 });
        if v4 {
            let mut frame = built.frame.clone();
            frame[built.l3 + 8] ^= 1;
            prop_assert_eq!(verify(&frame), Verified { ip: Status::Bad, l4 });
        }
    }

    /// What `fill` writes is what etherparse computes, whatever was in the fields.
    #[test]
    fn fill_is_what_etherparse_computes(recipe in recipe(), garbage in any::<[u8; 2]>()) {
        use etherparse::{NetSlice, SlicedPacket, TransportSlice};
        let built = recipe.build();
        let v4 = matches!(recipe.ip, Ip::V4 { .. });
        let l4 = match recipe.transport {
            Transport::Tcp { .. } => FillL4::Tcp,
            Transport::Udp => FillL4::Udp,
            _ => FillL4::None,
        };
        let mut frame = built.frame.clone();
        if v4 {
            frame[built.l3 + 10..built.l3 + 12].copy_from_slice(&garbage);
        }
        if recipe.has_l4_checksum() {
            frame[built.field..built.field + 2].copy_from_slice(&garbage);
        }
        let damaged = frame.clone();
        prop_assert_eq!(fill(&mut frame, Fill { ipv4: v4, l4 }), Ok(()));
        prop_assert_eq!(&frame, &built.frame);

        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let field = u16::from_be_bytes([frame[built.field], frame[built.field + 1]]);
        match (packet.net.as_ref().unwrap(), packet.transport.as_ref()) {
            (NetSlice::Ipv4(ip), Some(TransportSlice::Tcp(tcp))) => {
                let computed = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination());
                prop_assert_eq!(computed, Ok(field));
            }
            (NetSlice::Ipv6(ip), Some(TransportSlice::Tcp(tcp))) => {
                let computed = tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination());
                prop_assert_eq!(computed, Ok(field));
            }
            (NetSlice::Ipv4(ip), Some(TransportSlice::Udp(udp))) => {
                let computed = udp.to_header().calc_checksum_ipv4_raw(
                    ip.header().source(),
                    ip.header().destination(),
                    udp.payload(),
                );
                prop_assert_eq!(computed, Ok(field));
            }
            (NetSlice::Ipv6(ip), Some(TransportSlice::Udp(udp))) => {
                let computed = udp.to_header().calc_checksum_ipv6_raw(
                    ip.header().source(),
                    ip.header().destination(),
                    udp.payload(),
                );
                prop_assert_eq!(computed, Ok(field));
            }
            _ => prop_assert!(!recipe.has_l4_checksum()),
        }
        if let NetSlice::Ipv4(ip) = packet.net.as_ref().unwrap() {
            let computed = ip.header().to_header().calc_header_checksum();
            prop_assert_eq!(computed, ip.header().header_checksum());
        }

        // Asked for nothing, nothing happens; asked for what is not there, neither.
        let mut frame = damaged.clone();
        prop_assert_eq!(fill(&mut frame, Fill::default()), Ok(()));
        if !v4 {
            let result = fill(&mut frame, Fill { ipv4: true, l4 });
            prop_assert_eq!(result, Err(FillError::NotIpv4));
        }
        if l4 != FillL4::Tcp {
            let result = fill(&mut frame, Fill { ipv4: v4, l4: FillL4::Tcp });
            prop_assert_eq!(result, Err(FillError::NotTcp));
        }
        if l4 != FillL4::Udp {
            let result = fill(&mut frame, Fill { ipv4: v4, l4: FillL4::Udp });
            prop_assert_eq!(result, Err(FillError::NotUdp));
        }
        prop_assert_eq!(&frame, &damaged);
    }

    #[test]
    fn chains_are_as_good_as_one_slice(
        recipe in recipe(),
        first in 0..200usize,
        piece in 1..700usize,
        garbage in any::<[u8; 2]>(),
    ) {
        let mut built = recipe.build();
        let first = built.l4 + 20 + first;
        let whole = verify(&built.frame);
        let found = verify_segments(cut(&built.frame, first, piece).into_iter());
        prop_assert_eq!(found, whole);

        let request = Fill {
            ipv4: matches!(recipe.ip, Ip::V4 { .. }),
            l4: match recipe.transport {
                Transport::Tcp { .. } => FillL4::Tcp,
                Transport::Udp => FillL4::Udp,
                _ => FillL4::None,
            },
        };
        let right = built.frame.clone();
        if recipe.has_l4_checksum() {
            built.frame[built.field..built.field + 2].copy_from_slice(&garbage);
        }
        let filled = fill_segments(cut(&built.frame, first, piece).into_iter(), request).unwrap();
        filled.apply(&mut built.frame);
        prop_assert_eq!(&built.frame, &right);
    }
}

#[test]
fn the_carry_goes_all_the_way() {
    // All ones, of every length: the sum is 0xffff, or 0xff00 more for an odd byte.
    for len in 0..=200 {
        let bytes = vec![0xff; len];
        assert_eq!(checksum(&bytes), naive_checksum(&bytes), "{len}");
    }
    let big = vec![0xff; 1 << 20];
    assert_eq!(checksum(&big), 0);
    // RFC 1071's own example.
    assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
}

#[test]
fn udp_without_a_checksum_is_unknown_and_0_is_sent_as_ffff() {
    let recipe = super::Recipe {
        tags: vec![],
        ip: Ip::V4 { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], options: 0 },
        transport: Transport::Udp,
        ports: [0, 1, 0, 2],
        payload: vec![0, 0],
        padding: vec![0; 16],
    };
    let mut built = recipe.build();
    built.frame[40..42].fill(0);
    assert_eq!(verify(&built.frame), Verified { ip: Status::Good, l4: Status::Unknown });
    // A payload that brings the sum to 0xffff.
    let mut recipe = recipe;
    let (_, segment, _) = recipe.segment();
    let without = naive_sum(&[recipe.pseudo(17, segment.len()), segment].concat());
    recipe.payload = (!without).to_be_bytes().to_vec();
    let mut built = recipe.build();
    built.frame[40..42].fill(0x55);
    assert_eq!(fill(&mut built.frame, Fill { ipv4: false, l4: FillL4::Udp }), Ok(()));
    assert_eq!(built.frame[40..42], [0xff, 0xff]);
    assert_eq!(verify(&built.frame), GOOD);
    // TCP has no such rule, and both forms are right.
    recipe.transport = Transport::Tcp { options: 0 };
    let (_, segment, _) = recipe.segment();
    let with = naive_sum(&[recipe.pseudo(6, segment.len()), segment].concat());
    let payload = u16::from_be_bytes([recipe.payload[0], recipe.payload[1]]);
    let missing = (u32::from(payload) + u32::from(!with)) % 0xffff;
    recipe.payload = (missing as u16).to_be_bytes().to_vec();
    let mut built = recipe.build();
    assert_eq!(fill(&mut built.frame, Fill { ipv4: false, l4: FillL4::Tcp }), Ok(()));
    assert_eq!(built.frame[50..52], [0, 0]);
    assert_eq!(verify(&built.frame), GOOD);
    built.frame[50..52].fill(0xff);
    assert_eq!(verify(&built.frame), GOOD);
}

#[test]
fn crc32c_has_its_published_values() {
    let crc = |pieces: &[&[u8]]| {
        let mut crc = Crc32c::default();
        pieces.iter().for_each(|piece| crc.add(piece));
        crc.finish()
    };
    assert_eq!(crc(&[b"123456789"]), 0xe306_9283);
    assert_eq!(crc(&[b"1", b"2345678", b"", b"9"]), 0xe306_9283);
    // RFC 3720 B.4.
    assert_eq!(crc(&[&[0; 32]]), 0x8a91_36aa);
    assert_eq!(crc(&[&[0xff; 32]]), 0x62a8_ab43);
    let up: Vec<u8> = (0..32).collect();
    assert_eq!(crc(&[&up]), 0x46dd_794e);
    assert_eq!(crc(&[&up[..13], &up[13..]]), 0x46dd_794e);
}
