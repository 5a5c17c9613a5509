//! R9: a delivered packet carries nothing of its frame's former life.

use anyport::packet::{
    ChecksumStatus, Checksums, Clock, L4Checksum, Timestamp, TimestampSource, TxRequests,
};
use anyport::{Burst, Packet, Pool};

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::{self, Flow};
use crate::side::bytes;
use crate::{ensure, ip, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.nothing_of_what_the_sender_asked_for",
        clauses: &["R9"],
        about: "Two ports share a small pool; packets with a mark, transmit requests and every kind of metadata are sent \
                and received by a port without offloads, many times over the same frames.",
        why: "A packet that is handed over with its old mark or tag is treated by the application as somebody else's.",
        needs: &[Need::TwoWay],
        run: nothing_of_the_sender,
    },
    Case {
        name: "receive.nothing_of_what_a_chain_was",
        clauses: &["R9"],
        about: "The same with chains of two segments, between ports with a pool each and between ports of one pool.",
        why: "Chains take another way through the port than frames in one piece.",
        needs: &[Need::TwoWay, Need::Segments(2)],
        run: nothing_of_a_chain,
    },
    Case {
        name: "receive.nothing_of_an_earlier_reception",
        clauses: &["R9"],
        about: "A port with all receive offloads fills a pool's frames with timestamps, tags, hashes and statuses; the \
                same pool then serves a port without any.",
        why: "A timestamp of an earlier frame is worse than none.",
        needs: &[Need::TwoWay],
        run: nothing_of_an_earlier_reception,
    },
    Case {
        name: "receive.no_bytes_of_a_longer_frame",
        clauses: &["R9", "R3"],
        about: "Long frames and short ones take turns in a pool of 8 frames.",
        why: "A length that stays, or a chain that is not taken apart, shows one frame's bytes behind another's.",
        needs: &[Need::TwoWay],
        run: no_bytes_of_a_longer_frame,
    },
    Case {
        name: "receive.a_frame_without_a_tag_has_none",
        clauses: &["R9", "O3"],
        about: "With tags stripped on receive, tagged and untagged frames take turns in a pool of 8 frames.",
        why: "The tag of the frame before puts a frame into another network.",
        needs: &[Need::TwoWay],
        run: no_tag_of_another,
    },
];

/// Everything that a packet can carry.
fn burden(packet: &mut Packet, requests: TxRequests) {
    packet.set_mark(0xdead_beef);
    packet.set_vlan(0x7abc);
    packet.set_rss_hash(0x1234_5678);
    packet.set_checksum_status(ChecksumStatus::Bad, ChecksumStatus::Good);
    let (source, clock) = (TimestampSource::Hardware, Clock::Device);
    packet.set_timestamp(Timestamp { ns: 77, source, clock });
    packet.set_requests(requests);
}

/// Checks that a packet carries nothing, as on a port without offloads.
fn is_bare(packet: &Packet) -> Verdict {
    same!(packet.mark(), None, "the mark");
    same!(packet.vlan(), None, "the stripped tag");
    same!(packet.rss_hash(), None, "the hash");
    same!(packet.timestamp(), None, "the timestamp");
    let unknown = ChecksumStatus::Unknown;
    same!((packet.ip_checksum(), packet.l4_checksum()), (unknown, unknown), "the statuses");
    ensure!(packet.requests().is_empty(), "transmit requests: {:?}", packet.requests());
    same!((packet.queue(), packet.segment_count()), (0, 1), "queue and segments");
    Ok(())
}

/// A pool that both ends have, so small that its frames come back soon.
fn shared_pool(ctx: &Ctx, frames: u32) -> Verdict<Pool> {
    ctx.pool(frames)
}

fn nothing_of_the_sender(ctx: &Ctx) -> Verdict {
    let pool = shared_pool(ctx, 64)?;
    let timestamp = ctx.capability(End::A).offloads.tx_timestamp;
    let keys = match timestamp {
        true => "tx_checksum=auto,vlan_insert=auto,tx_timestamp=auto",
        false => "tx_checksum=auto,vlan_insert=auto",
    };
    let mut a = ctx.start_with(End::A, keys, &pool)?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let frame = frames::udp(b.mac(), Flow::nth(1), b"a datagram of some length");
    let checksums = Checksums { ipv4: true, l4: L4Checksum::Udp };
    let asked = [
        TxRequests::default(),
        TxRequests { checksums, ..TxRequests::default() },
        TxRequests { checksums, vlan: Some(5), timestamp },
    ];
    for round in 0..300 {
        let requests = asked[round % asked.len()];
        let mut burst = Burst::with_capacity(1);
        let mut packet = pool.packet(&frame).ok_or("the pool is empty")?;
        burden(&mut packet, requests);
        let _ = burst.push(packet);
        a.send_burst(0, &mut burst)?;
        let packet = b.receive_packet()?;
        is_bare(&packet)?;
        let expected = match requests.vlan {
            Some(tci) => frames::tagged(frame.clone(), 0x8100, tci),
            None => frame.clone(),
        };
        same!(packet.data(), &frames::padded(expected)[..], "the bytes in round {round}");
    }
    Ok(())
}

/// The frame in two segments.
fn chain(pool: &Pool, frame: &[u8]) -> Verdict<Packet> {
    let none = "the pool is empty";
    let mut packet = pool.packet(&frame[..100]).ok_or(none)?;
    let rest = pool.packet(&frame[100..]).ok_or(none)?;
    packet.append(rest).map_err(|_| "a chain in one pool was refused")?;
    Ok(packet)
}

fn nothing_of_a_chain(ctx: &Ctx) -> Verdict {
    let shared = shared_pool(ctx, 64)?;
    for pool_a in [shared_pool(ctx, 64)?, shared.clone()] {
        let mut a = ctx.start_with(End::A, "max_segments=2", &pool_a)?;
        let mut b = ctx.start_with(End::B, "max_segments=2", &shared)?;
        ctx.settle(&a, &b)?;
        for round in 0..100 {
            let sent = frames::run(b.mac(), 3, 200 + round);
            let mut burst = Burst::with_capacity(3);
            for frame in &sent {
                let mut packet = chain(&pool_a, frame)?;
                burden(&mut packet, TxRequests::default());
                let _ = burst.push(packet);
            }
            a.send_burst(0, &mut burst)?;
            let mut arrived = Vec::new();
            while arrived.len() < sent.len() {
                for mut packet in b.receive_packets()?.drain() {
                    arrived.push(bytes(&packet));
                    // How many pieces it comes in is the receiving port's affair.
                    packet.linearize()?;
                    is_bare(&packet)?;
                }
            }
            same!(arrived, sent, "the bytes in round {round}");
        }
    }
    Ok(())
}

fn nothing_of_an_earlier_reception(ctx: &Ctx) -> Verdict {
    let pool = shared_pool(ctx, 64)?;
    let keys = "rx_timestamp=auto,rx_checksum=auto,vlan_strip=auto,rss_hash=auto";
    let mut a = ctx.start_with(End::A, keys, &pool)?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let udp = ip::Headers { tags: &[(0x8100, 0x6005)], ..ip::Headers::UDP };
    for round in 0..200 {
        b.send(&[frames::padded(udp.frame(
            a.mac(),
            Flow::nth(round),
            b"tagged, hashed, stamped",
        ))])?;
        let mut packet = a.receive_packet()?;
        let had = (packet.timestamp().is_some(), packet.vlan(), packet.rss_hash().is_some());
        same!(had, (true, Some(0x6005), true), "what the offloads gave");
        // The same packet goes back, or its frame is used for another one.
        let mut burst = Burst::with_capacity(1);
        if round % 2 == 0 {
            packet.data_mut()[..6].copy_from_slice(&b.mac().0);
            let _ = burst.push(packet);
        } else {
            drop(packet);
            let _ = burst.push(a.packet(&frames::numbered(b.mac(), round.into(), 60))?);
        }
        a.send_burst(0, &mut burst)?;
        is_bare(&b.receive_packet()?)?;
    }
    Ok(())
}

fn no_bytes_of_a_longer_frame(ctx: &Ctx) -> Verdict {
    let pool = shared_pool(ctx, 8)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let lengths = [1514, 60, 1000, 61, 14, 1514, 20];
    for round in 0..300 {
        let frame =
            frames::numbered(b.mac(), round, lengths[round as usize % lengths.len()].max(18));
        a.send(std::slice::from_ref(&frame))?;
        let packet = b.receive_packet()?;
        same!(packet.data(), &frames::padded(frame)[..], "the frame of round {round}");
        is_bare(&packet)?;
    }
    Ok(())
}

fn no_tag_of_another(ctx: &Ctx) -> Verdict {
    let pool = shared_pool(ctx, 8)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "vlan_strip=auto", &pool)?;
    ctx.settle(&a, &b)?;
    for round in 0..300u16 {
        let plain = frames::numbered(b.mac(), round.into(), 60);
        let tci = (round % 3 == 0).then_some(round);
        let sent = match tci {
            Some(tci) => frames::tagged(plain.clone(), 0x8100, tci),
            None => plain.clone(),
        };
        a.send(&[sent])?;
        let packet = b.receive_packet()?;
        same!((packet.vlan(), packet.data()), (tci, &plain[..]), "tag and bytes in round {round}");
    }
    Ok(())
}
