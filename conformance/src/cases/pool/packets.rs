//! P4 and P5: room before and behind, and copies.

use anyport::packet::{Checksums, L4Checksum, TxRequests};
use anyport::{Error, Packet, Pool};

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, PATIENCE};
use crate::side::bytes;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "pool.head_room",
        clauses: &["P4"],
        about: "Puts headers before received packets and takes them off, up to the bound and past it; sends the result.",
        why: "Encapsulation without a copy is what head room is for.",
        needs: &[Need::TwoWay],
        run: head_room,
    },
    Case {
        name: "pool.tail_room",
        clauses: &["P4"],
        about: "Adds bytes behind received packets and takes them off, up to the bound and past it; sends the result.",
        why: "As above, for trailers.",
        needs: &[Need::TwoWay],
        run: tail_room,
    },
    Case {
        name: "pool.room_of_chains",
        clauses: &["P4"],
        about: "The same for a packet of three segments.",
        why: "A chain's room is that of its ends, and its length that of all.",
        needs: &[],
        run: room_of_chains,
    },
    Case {
        name: "pool.copies_have_the_metadata",
        clauses: &["P5", "R9"],
        about: "Receives a packet with all the metadata that can be had, marks it, and copies it to another pool.",
        why: "Who copies a packet to keep it wants to keep its time and its tag.",
        needs: &[Need::TwoWay],
        run: copies_have_the_metadata,
    },
    Case {
        name: "pool.copies_are_independent",
        clauses: &["P5", "P2"],
        about: "Changes a copy and its original, frees one, and reads the other.",
        why: "A copy that shares anything with its original is none.",
        needs: &[],
        run: copies_are_independent,
    },
    Case {
        name: "pool.copies_of_chains",
        clauses: &["P5", "P1"],
        about: "Copies packets of one and several segments into pools with smaller and larger frames, and into one that is too \
                small.",
        why: "Pools of different ports have frames of different sizes.",
        needs: &[],
        run: copies_of_chains,
    },
];

/// A call that must be refused and must change nothing.
fn refused_whole(packet: &mut Packet, call: impl FnOnce(&mut Packet) -> bool) -> Verdict {
    let before = (bytes(packet), packet.len(), packet.headroom(), packet.tailroom());
    ensure!(call(packet), "room beyond the bound was given");
    let after = (bytes(packet), packet.len(), packet.headroom(), packet.tailroom());
    ensure!(after == before, "a refused call changed the packet");
    Ok(())
}

fn no_room<T>(result: anyport::Result<T>, asked: usize, available: usize) -> bool {
    matches!(result, Err(Error::NoRoom { asked: a, available: b, .. }) if (a, b) == (asked, available))
}

fn head_room(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frame = frames::numbered(b.mac(), 1, 200);
    a.send(std::slice::from_ref(&frame))?;
    let mut packet = b.receive_packet()?;
    let room = packet.headroom();
    refused_whole(&mut packet, |p| no_room(p.grow_head(room + 1).map(drop), room + 1, room))?;
    packet.grow_head(room)?.fill(7);
    same!((packet.headroom(), packet.len()), (0, room + 200), "room and length");
    ensure!(packet.data()[..room].iter().all(|byte| *byte == 7), "the bytes that were put before");
    ensure!(packet.data()[room..] == frame, "the bytes behind them");
    refused_whole(&mut packet, |p| no_room(p.grow_head(1).map(drop), 1, 0))?;
    packet.shrink_head(room + 50)?;
    ensure!(packet.data() == &frame[50..], "what is left");
    refused_whole(&mut packet, |p| no_room(p.shrink_head(151), 151, 150))?;
    // A new Ethernet header before what is left of the frame.
    packet.grow_head(14)?.copy_from_slice(&frames::numbered(a.mac(), 0, 18)[..14]);
    let expected = packet.data().to_vec();
    b.send_burst(0, &mut burst_of(packet)?)?;
    ensure!(a.receive(1)? == [expected], "the frame with its new header was changed");
    Ok(())
}

fn burst_of(packet: Packet) -> Verdict<anyport::Burst> {
    let mut burst = anyport::Burst::with_capacity(1);
    burst.push(packet).map_err(|_| "a new burst is full")?;
    Ok(burst)
}

fn tail_room(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frame = frames::numbered(a.mac(), 1, 200);
    a.send(&[frames::numbered(b.mac(), 1, 200)])?;
    let mut packet = b.receive_packet()?;
    packet.data_mut()[..6].copy_from_slice(&a.mac().0);
    let room = packet.tailroom();
    refused_whole(&mut packet, |p| no_room(p.grow_tail(room + 1).map(drop), room + 1, room))?;
    packet.grow_tail(room)?.fill(9);
    same!((packet.tailroom(), packet.len()), (0, room + 200), "room and length");
    ensure!(packet.data()[..200] == frame, "the bytes before");
    ensure!(packet.data()[200..].iter().all(|byte| *byte == 9), "the bytes that were added");
    refused_whole(&mut packet, |p| no_room(p.grow_tail(1).map(drop), 1, 0))?;
    packet.shrink_tail(room + 100)?;
    refused_whole(&mut packet, |p| no_room(p.shrink_tail(101), 101, 100))?;
    packet.grow_tail(3)?.copy_from_slice(b"end");
    let expected = [&frame[..100], b"end"].concat();
    ensure!(packet.data() == expected, "the frame with its trailer");
    b.send_burst(0, &mut burst_of(packet)?)?;
    ensure!(a.receive(1)? == [expected], "the frame with its trailer was changed");
    Ok(())
}

/// A small pool, and a packet of three segments with these bytes.
fn chain() -> Verdict<(Pool, Packet, Vec<u8>)> {
    let pool = Pool::builder().frames(16).frame_size(512).headroom(128).build()?;
    let frame = frames::numbered(frames::GROUP, 5, 2 * pool.room() + 100);
    let packet = pool.packet(&frame).ok_or("a new pool is empty")?;
    same!((packet.segment_count(), packet.len()), (3, frame.len()), "segments and length");
    Ok((pool, packet, frame))
}

fn room_of_chains(_: &Ctx) -> Verdict {
    let (pool, mut packet, mut frame) = chain()?;
    same!(packet.headroom(), 128, "head room");
    refused_whole(&mut packet, |p| no_room(p.grow_head(129).map(drop), 129, 128))?;
    packet.grow_head(4)?.copy_from_slice(b"head");
    frame.splice(..0, *b"head");
    let room = packet.tailroom();
    // Behind the last segment there is at most what its frame has.
    ensure!((100..512).contains(&room), "a tail room of {room}");
    refused_whole(&mut packet, |p| no_room(p.grow_tail(room + 1).map(drop), room + 1, room))?;
    packet.grow_tail(4)?.copy_from_slice(b"tail");
    frame.extend(b"tail");
    ensure!(bytes(&packet) == frame, "the bytes of the grown chain");
    same!(packet.len(), frame.len(), "its length");
    refused_whole(&mut packet, |p| p.shrink_tail(105).is_err())?;
    packet.shrink_tail(50)?;
    packet.shrink_head(20)?;
    ensure!(bytes(&packet) == frame[20..frame.len() - 50], "the bytes of the shrunk chain");
    same!((packet.len(), pool.free()), (frame.len() - 70, 13), "its length, and free frames");
    let first = packet.data().len();
    refused_whole(&mut packet, |p| no_room(p.shrink_head(first + 1), first + 1, first))?;
    drop(packet);
    same!(pool.free(), 16, "free frames");
    Ok(())
}

/// All that a packet says of itself.
fn metadata(packet: &Packet) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        (packet.timestamp(), packet.vlan(), packet.rss_hash(), packet.queue()),
        (packet.ip_checksum(), packet.l4_checksum()),
        (packet.mark(), packet.requests(), packet.len()),
    )
}

fn copies_have_the_metadata(ctx: &Ctx) -> Verdict {
    let keys = "rx_timestamp=auto,rss_hash=auto,rx_checksum=auto,vlan_strip=auto";
    let (mut a, mut b) = ctx.pair_with("", keys)?;
    let flow = frames::Flow::nth(9);
    let frame = frames::udp(b.mac(), flow, b"a datagram with all that can be said of it");
    a.send(&[frames::tagged(frame.clone(), 0x8100, 0x6123), frame.clone()])?;
    let mut packets = Vec::new();
    while packets.len() < 2 {
        b.rx[0].wait(PATIENCE)?;
        packets.extend(b.receive_packets()?.drain());
    }
    ensure!(packets[0].timestamp().is_some() && packets[0].rss_hash().is_some(), "no metadata");
    same!((packets[0].vlan(), packets[1].vlan()), (Some(0x6123), None), "the tags");
    let other = ctx.pool(16)?;
    let checksums = Checksums { ipv4: true, l4: L4Checksum::Udp };
    let requests = TxRequests { checksums, vlan: Some(7), timestamp: true };
    for marked in [false, true] {
        for packet in &mut packets {
            if marked {
                packet.set_mark(0xdead_beef);
                packet.set_requests(requests);
            }
            let copy = packet.copy_to(&other).ok_or("the other pool is empty")?;
            same!(metadata(&copy), metadata(packet), "the copy's metadata");
            ensure!(bytes(&copy) == bytes(packet), "the copy's bytes");
            same!((copy.pool_id(), other.free()), (other.id(), 15), "the copy's pool");
        }
    }
    same!(other.free(), 16, "free frames of the other pool");
    Ok(())
}

fn copies_are_independent(ctx: &Ctx) -> Verdict {
    let (one, other) = (ctx.pool(16)?, ctx.pool(16)?);
    let frame = frames::numbered(frames::GROUP, 5, 300);
    for pool in [&one, &other] {
        let mut packet = one.packet(&frame).ok_or("a new pool is empty")?;
        packet.set_mark(1);
        let mut copy = packet.copy_to(pool).ok_or("the pool is empty")?;
        copy.data_mut().fill(3);
        copy.set_mark(2);
        ensure!(packet.data() == frame && packet.mark() == Some(1), "the original changed");
        packet.data_mut().fill(4);
        packet.set_mark(5);
        drop(packet);
        drop(one.packet(&[6; 300]));
        ensure!(copy.data() == [3; 300] && copy.mark() == Some(2), "the copy changed");
        drop(copy);
        same!((one.free(), other.free()), (16, 16), "free frames");
    }
    Ok(())
}

fn copies_of_chains(_: &Ctx) -> Verdict {
    let (pool, chain, frame) = chain()?;
    let single = pool.packet(&frame[..200]).ok_or("the pool is empty")?;
    for (size, headroom) in [(512, 0), (512, 256), (2048, 0), (32768, 256)] {
        let builder = Pool::builder().frames(8).frame_size(size).headroom(headroom);
        let other = builder.build()?;
        for (packet, frame) in [(&chain, &frame[..]), (&single, &frame[..200])] {
            let copy = packet.copy_to(&other).ok_or("the other pool is empty")?;
            ensure!(bytes(&copy) == frame && copy.len() == frame.len(), "the bytes of a copy");
            let segments = frame.len().div_ceil(other.room());
            same!(copy.segment_count(), segments, "segments in frames of {size} bytes");
            same!(other.free(), 8 - segments, "free frames of the other pool");
        }
        same!(other.free(), 8, "free frames when the copies are gone");
    }
    let small = Pool::builder().frames(2).frame_size(512).build()?;
    ensure!(chain.copy_to(&small).is_none(), "a copy in fewer frames than it takes");
    same!((small.free(), pool.free()), (2, 12), "free frames after a copy that did not fit");
    ensure!(single.copy_to(&small).is_some(), "no copy that fits");
    Ok(())
}
