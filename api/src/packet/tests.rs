//! Packets: room, chains, metadata, copies.

use proptest::prelude::*;

use super::*;

fn pool(frames: u32) -> Pool {
    Pool::builder().frames(frames).frame_size(512).headroom(64).build().unwrap()
}

fn bytes(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

#[test]
fn room_is_bounded_and_errors_change_nothing() {
    let pool = pool(4);
    let mut packet = pool.packet(&[7; 100]).unwrap();
    assert_eq!((packet.headroom(), packet.tailroom()), (64, 348));
    assert!(packet.grow_head(65).is_err() && packet.grow_tail(349).is_err());
    assert!(packet.shrink_head(101).is_err() && packet.shrink_tail(101).is_err());
    assert!(packet.fill(&[1; 449]).is_err() && packet.set_len(449).is_err());
    assert_eq!(packet.data(), [7; 100]);
    packet.grow_head(64).unwrap().fill(1);
    packet.grow_tail(348).unwrap().fill(2);
    assert_eq!((packet.len(), packet.headroom(), packet.tailroom()), (512, 0, 0));
    packet.shrink_head(64).unwrap();
    packet.shrink_tail(348).unwrap();
    assert_eq!(packet.data(), [7; 100]);
}

#[test]
fn long_frames_become_chains_and_come_back() {
    let pool = pool(16);
    let long: Vec<u8> = (0..1500u32).map(|i| i as u8).collect();
    let mut packet = pool.packet(&long).unwrap();
    assert_eq!((packet.len(), packet.segment_count(), pool.free()), (1500, 4, 12));
    assert_eq!(bytes(&packet), long);
    assert_eq!(packet.tailroom(), 448 * 4 - 1500);
    assert!(matches!(packet.linearize(), Err(Error::NoRoom { asked: 1500, available: 448, .. })));
    assert_eq!(bytes(&packet), long);
    packet.shrink_tail(100).unwrap();
    packet.shrink_head(400).unwrap();
    assert_eq!(bytes(&packet), &long[400..1400]);
    packet.grow_tail(2).unwrap().fill(9);
    assert_eq!((packet.len(), bytes(&packet).len()), (1002, 1002));
    drop(packet);
    assert_eq!(pool.free(), 16);
    assert!(pool.packet(&[0; 448 * 17]).is_none());
    assert_eq!(pool.free(), 16, "a packet that cannot be made leaves nothing behind");
}

#[test]
fn a_chain_is_taken_apart_segment_by_segment() {
    let pool = Pool::builder().frames(8).build().unwrap();
    let bytes: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
    let mut packet = pool.packet(&bytes).unwrap();
    assert_eq!(packet.segment_count(), 3);
    let (mut all, mut counts) = (Vec::new(), Vec::new());
    loop {
        let rest = packet.split_off_rest();
        assert!(!packet.is_chain());
        all.extend_from_slice(packet.data());
        counts.push(rest.as_ref().map(|rest| (rest.segment_count(), rest.len())));
        match rest {
            Some(rest) => packet = rest,
            None => break,
        }
    }
    assert_eq!(all, bytes);
    let room = pool.room();
    assert_eq!(counts, [Some((2, 5000 - room)), Some((1, 5000 - 2 * room)), None]);
    drop(packet);
    assert_eq!(pool.free(), 8);
}

#[test]
fn appending_joins_chains_and_linearizing_frees_them() {
    let pool = pool(16);
    let other_pool = super::tests::pool(2);
    let mut packet = pool.packet(b"ab").unwrap();
    let mut second = pool.packet(b"cd").unwrap();
    second.append(pool.packet(b"ef").unwrap()).unwrap();
    packet.append(second).unwrap();
    packet.append(pool.packet(b"gh").unwrap()).unwrap();
    let refused = packet.append(other_pool.packet(b"no").unwrap()).unwrap_err();
    assert_eq!(refused.data(), b"no");
    assert_eq!(
        (packet.segment_count(), packet.len(), bytes(&packet)),
        (4, 8, b"abcdefgh".to_vec())
    );
    packet.linearize().unwrap();
    assert_eq!((packet.segment_count(), packet.data(), pool.free()), (1, &b"abcdefgh"[..], 15));
}

#[test]
fn a_frame_that_is_used_again_carries_nothing_over() {
    let pool = pool(1);
    let mut packet = pool.packet(&[1; 20]).unwrap();
    packet.set_mark(5);
    packet.set_vlan(6);
    packet.set_rss_hash(7);
    packet.set_queue(8);
    packet.set_checksum_status(ChecksumStatus::Good, ChecksumStatus::Bad);
    let (source, clock) = (TimestampSource::Kernel, Clock::Device);
    packet.set_timestamp(Timestamp { ns: 9, source, clock });
    packet.set_requests(TxRequests { vlan: Some(3), ..TxRequests::default() });
    packet.grow_head(10).unwrap();
    let check = |packet: &Packet| {
        assert_eq!((packet.mark(), packet.vlan(), packet.rss_hash()), (None, None, None));
        assert_eq!((packet.queue(), packet.timestamp()), (0, None));
        assert_eq!(packet.ip_checksum(), ChecksumStatus::Unknown);
        assert_eq!(packet.l4_checksum(), ChecksumStatus::Unknown);
        assert!(packet.requests().is_empty());
    };
    let copy_pool = super::tests::pool(1);
    let copy = packet.copy_to(&copy_pool).unwrap();
    assert_eq!(
        (copy.mark(), copy.vlan(), copy.rss_hash(), copy.queue()),
        (Some(5), Some(6), Some(7), 8)
    );
    assert_eq!(
        (copy.ip_checksum(), copy.l4_checksum()),
        (ChecksumStatus::Good, ChecksumStatus::Bad)
    );
    assert_eq!((copy.timestamp(), copy.requests()), (packet.timestamp(), packet.requests()));
    assert_eq!((copy.data(), copy.timestamp().unwrap().clock), (packet.data(), Clock::Device));
    drop(packet);
    let fresh = pool.take().unwrap();
    check(&fresh);
    assert_eq!((fresh.len(), fresh.headroom()), (0, 64));
    let mut again = copy;
    again.reset_metadata();
    check(&again);
    assert_eq!(again.len(), 30);
}

#[test]
fn padding_is_zero_and_comes_off_again() {
    let pool = pool(2);
    drop(pool.packet(&[0xff; 448]).unwrap());
    let mut packet = pool.packet(&[1; 14]).unwrap();
    assert!(packet.pad_to(60));
    assert_eq!((&packet.data()[..14], &packet.data()[14..]), (&[1; 14][..], &[0; 46][..]));
    packet.unpad();
    assert_eq!(packet.data(), [1; 14]);
    packet.unpad();
    assert_eq!(packet.len(), 14);
    packet.shrink_head(14).unwrap();
    packet.grow_head(78).unwrap();
    packet.set_len(78).unwrap();
    assert!(packet.pad_to(60) && packet.len() == 78);
}

#[test]
fn chains_are_padded_behind_their_last_segment() {
    let pool = pool(2);
    let dirty = [pool.packet(&[0xff; 448]), pool.packet(&[0xff; 448])];
    drop(dirty);
    for (first, second) in [(14, 2), (1, 30), (30, 29), (59, 1)] {
        let mut packet = pool.packet(&vec![1; first]).unwrap();
        packet.append(pool.packet(&vec![2; second]).unwrap()).unwrap();
        let bytes = |packet: &Packet| packet.segments().flatten().copied().collect::<Vec<u8>>();
        let before = bytes(&packet);
        assert!(packet.pad_to(60));
        assert_eq!((packet.len(), bytes(&packet).len()), (60, 60));
        assert!(bytes(&packet).starts_with(&before));
        assert!(bytes(&packet)[before.len()..].iter().all(|byte| *byte == 0));
        packet.unpad();
        assert_eq!(bytes(&packet), before);
    }
}

proptest! {
    /// Whatever is done to a packet, its bytes are those of a vector to which the same is done, and no frame is lost.
    #[test]
    fn a_packet_is_a_vector(steps in prop::collection::vec((0..6u8, 0..600usize), 1..40)) {
        let pool = pool(64);
        let mut packet = pool.take().unwrap();
        let mut model: Vec<u8> = Vec::new();
        for (at, (step, size)) in steps.into_iter().enumerate() {
            let fill = at as u8;
            match step {
                0 => if let Ok(bytes) = packet.grow_head(size) {
                    bytes.fill(fill);
                    model.splice(0..0, std::iter::repeat_n(fill, size));
                },
                1 => if let Ok(bytes) = packet.grow_tail(size) {
                    bytes.fill(fill);
                    model.extend(std::iter::repeat_n(fill, size));
                },
                2 => if packet.shrink_head(size).is_ok() { model.drain(..size); },
                3 => if packet.shrink_tail(size).is_ok() { model.truncate(model.len() - size); },
                4 => if let Some(other) = pool.packet(&vec![fill; size]) {
                    prop_assert!(packet.append(other).is_ok());
                    model.extend(std::iter::repeat_n(fill, size));
                },
                _ => { let _ = packet.linearize(); }
            }
            prop_assert_eq!(packet.len(), model.len());
            prop_assert_eq!(bytes(&packet), &model[..]);
            prop_assert_eq!(pool.free() + packet.segment_count(), 64);
        }
        let copy = packet.copy_to(&pool);
        if let Some(copy) = copy {
            prop_assert_eq!(bytes(&copy), model);
        }
        drop(packet);
        prop_assert_eq!(pool.free(), 64);
    }
}
