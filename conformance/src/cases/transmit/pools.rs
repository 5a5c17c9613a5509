//! T6 and T7: where frames go after they were sent, and which are copied.

use std::time::Duration;

use anyport::packet::TxRequests;
use anyport::{Burst, Packet, Pool};

use crate::case::{Case, Need, Power, Verdict};
use crate::cases::queues::gather;
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "transmit.sent_frames_come_back",
        clauses: &["T6", "P1"],
        about: "Sends ten times a pool's frames; after each portion one call of send, recv or flush brings all of them back.",
        why: "Frames that come back only when the ring wraps are missing when the pool runs dry, and the sender stands \
              still with an idle link.",
        needs: &[Need::TwoWay],
        run: sent_frames_come_back,
    },
    Case {
        name: "transmit.sent_frames_come_back_by_any_queue",
        clauses: &["T6", "Q2"],
        about: "Sends on one queue of several; calls on the others, send, recv and flush in turn, bring the frames back.",
        why: "A queue that is used now and then keeps a ring full of frames, and the busy ones run dry.",
        needs: &[Need::TwoWay, Need::Queues(3)],
        run: back_by_any_queue,
    },
    Case {
        name: "transmit.foreign_packets_are_copied_and_counted",
        clauses: &["T7"],
        about: "Sends packets of a pool that is not attached, linear and in chains: they arrive whole, their frames go home \
                at once, and tx_copied counts them.",
        why: "A device cannot reach memory that it was not given; who does not know that it is copied wonders where the \
              time goes.",
        needs: &[Need::TwoWay],
        run: foreign_are_copied,
    },
    Case {
        name: "transmit.foreign_packets_wait_for_a_frame",
        clauses: &["T7", "T3"],
        about: "Sends packets of a foreign pool while the port's own pool is empty: none is accepted, none is lost; with \
                frames in the pool they go.",
        why: "A copy that finds no frame must be a full queue, not an error and not a loss.",
        needs: &[Need::TwoWay],
        run: foreign_wait_for_a_frame,
    },
    Case {
        name: "transmit.foreign_packets_keep_what_they_ask_for",
        clauses: &["T7", "O3"],
        about: "A packet of a foreign pool asks for a tag.",
        why: "A copy of the bytes alone loses the request.",
        needs: &[Need::TwoWay],
        run: foreign_keep_requests,
    },
    Case {
        name: "transmit.attached_pools_are_not_foreign",
        clauses: &["T7"],
        about: "Attaches two pools and sends from the second: nothing is counted as copied, and the frames come back to it.",
        why: "A forwarder attaches the pools of all its ports so that nothing is copied.",
        needs: &[Need::TwoWay, Need::Pools(2)],
        run: attached_are_not_foreign,
    },
    Case {
        name: "transmit.attached_packets_are_not_copied",
        clauses: &["T7"],
        about: "With the link held still, frames of an attached pool stay out of it while they are in the ring, and no frame \
                of the first pool is used.",
        why: "zero_copy is a promise about the cost of every frame.",
        needs: &[Need::TwoWay, Need::ZeroCopy, Need::Pools(2), Need::Rig(Power::Pause)],
        run: attached_are_not_copied,
    },
    Case {
        name: "transmit.from_an_attached_pool_with_the_first_one_empty",
        clauses: &["T7"],
        about: "Sends from the second attached pool while every frame of the first is taken.",
        why: "A copy that nobody declared shows when there is nothing left to copy into.",
        needs: &[Need::TwoWay, Need::ZeroCopy, Need::Pools(2)],
        run: with_the_first_empty,
    },
];

fn sent_frames_come_back(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(64)?;
    let mut a = ctx.start_with(End::A, "", &pool)?;
    let mut b = ctx.start(End::B, "")?;
    ctx.settle(&a, &b)?;
    // Frames in receive rings are not free, but they are not sent ones either.
    let free = pool.free();
    let mut nothing = Burst::new();
    for round in 0..30 {
        // All but what the copies of the way may need.
        let sent = frames::run(b.mac(), free as u32 - 16, 60);
        a.send(&sent)?;
        same!(b.receive(sent.len())?.len(), sent.len(), "frames that arrived in round {round}");
        eventually("the frames being back", || {
            match round % 3 {
                0 => a.tx[0].send(&mut nothing).map(drop)?,
                1 => a.rx[0].recv(&mut nothing).map(drop)?,
                _ => a.tx[0].flush(Duration::ZERO).map(drop)?,
            }
            Ok((pool.free() == free).then_some(()))
        })?;
    }
    same!(a.tx[0].flush(PATIENCE)?, 0, "what flush says");
    Ok(())
}

fn back_by_any_queue(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(128)?;
    let mut a = ctx.start_with(End::A, "queues=3", &pool)?;
    // As many as the sender has: the sender's queue may decide by which one a frame comes (Q1).
    let mut b = ctx.start(End::B, "queues=3")?;
    ctx.settle(&a, &b)?;
    let free = pool.free();
    let mut nothing = Burst::new();
    for round in 0..18 {
        let (from, by) = (round % 3, (round + 1 + round / 9) % 3);
        let sent = frames::run(b.mac(), 40, 60);
        let mut burst = a.burst(&sent)?;
        a.send_burst(from, &mut burst)?;
        let arrived = gather(&mut b.rx, sent.len())?;
        same!(arrived.len(), sent.len(), "frames that arrived in round {round}");
        let what = format!("frames of queue {from} coming back by queue {by} (round {round})");
        eventually(&what, || {
            match round / 3 % 3 {
                0 => a.tx[by].send(&mut nothing).map(drop)?,
                1 => a.rx[by].recv(&mut nothing).map(drop)?,
                _ => a.tx[by].flush(Duration::ZERO).map(drop)?,
            }
            Ok((pool.free() == free).then_some(()))
        })?;
    }
    Ok(())
}

fn foreign_are_copied(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    // Small frames: longer ones are chains.
    let foreign = Pool::builder().frames(64).frame_size(512).build()?;
    let lengths = [60, 14, 256, 257, 1000, 1514, 61];
    for round in 0..20 {
        let mut burst = Burst::with_capacity(lengths.len());
        let mut expected = Vec::new();
        for length in lengths {
            let mut frame = frames::numbered(b.mac(), round, length.max(18));
            frame.truncate(length);
            let packet = foreign.packet(&frame).ok_or("the foreign pool is empty")?;
            let _ = burst.push(packet);
            expected.push(frames::padded(frame));
        }
        a.send_burst(0, &mut burst)?;
        same!(foreign.free(), 64, "frames that are home after send in round {round}");
        same!(b.receive(lengths.len())?, expected, "what arrived in round {round}");
    }
    let counters = a.counters();
    same!(counters.tx_copied, Some(140), "frames counted as copied");
    same!(counters.tx_packets, Some(140), "frames counted as sent");
    // An own packet is none of them.
    a.send(&frames::run(b.mac(), 10, 60))?;
    same!(a.counters().tx_copied, Some(140), "frames counted as copied after own ones");
    Ok(())
}

/// Takes every frame of a pool.
fn hold_all(pool: &Pool) -> Vec<anyport::Packet> {
    std::iter::from_fn(|| pool.take()).collect()
}

fn foreign_wait_for_a_frame(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let foreign = ctx.pool(64)?;
    let sent = frames::run(b.mac(), 10, 60);
    let mut burst = Burst::with_capacity(10);
    for frame in &sent {
        let _ = burst.push(foreign.packet(frame).ok_or("the foreign pool is empty")?);
    }
    // Frames in caches are found, too.
    a.tx[0].flush(PATIENCE)?;
    let held = hold_all(a.pool());
    same!(a.pool().free(), 0, "frames left in the port's pool");
    for _ in 0..100 {
        same!(a.tx[0].send(&mut burst)?, 0, "packets accepted with no frame to copy into");
    }
    same!(burst.len(), 10, "packets that are still the caller's");
    drop(held);
    a.send_burst(0, &mut burst)?;
    let mut arrived = Vec::new();
    a.mark(&mut b, &mut arrived)?;
    same!(arrived, sent, "what arrived");
    same!(a.counters().tx_copied, Some(10), "frames counted as copied");
    Ok(())
}

fn foreign_keep_requests(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("vlan_insert=auto", "")?;
    let foreign = ctx.pool(64)?;
    for tci in [5, 0xffff] {
        let frame = frames::numbered(b.mac(), tci.into(), 100);
        let mut packet = foreign.packet(&frame).ok_or("the foreign pool is empty")?;
        packet.set_requests(TxRequests { vlan: Some(tci), ..TxRequests::default() });
        ensure!(a.tx[0].send_one(packet)?.is_none(), "the packet was not accepted");
        same!(b.receive(1)?, [frames::tagged(frame, 0x8100, tci)], "what arrived");
    }
    Ok(())
}

/// The first end with two pools attached, the second as usual.
fn two_pools(ctx: &Ctx) -> Verdict<(Side, Side, Pool)> {
    let (first, second) = (ctx.pool(512)?, ctx.pool(512)?);
    let mut port = ctx.open(End::A, "")?;
    port.attach(&first)?;
    port.attach(&second)?;
    same!(port.pools().len(), 2, "attached pools");
    let a = Side::start(port, first)?;
    let b = ctx.start(End::B, "")?;
    ctx.settle(&a, &b)?;
    Ok((a, b, second))
}

fn burst_from(pool: &Pool, frames: &[Vec<u8>]) -> Verdict<Burst> {
    let mut burst = Burst::with_capacity(frames.len());
    for frame in frames {
        let _ = burst.push(pool.packet(frame).ok_or("the pool is empty")?);
    }
    Ok(burst)
}

fn attached_are_not_foreign(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, second) = two_pools(ctx)?;
    for round in 0..20 {
        let sent = frames::run(b.mac(), 32, 60 + round);
        let mut burst = burst_from(&second, &sent)?;
        a.send_burst(0, &mut burst)?;
        same!(b.receive(32)?, sent, "what arrived in round {round}");
        eventually("the frames being back", || {
            a.tx[0].flush(Duration::ZERO)?;
            Ok((second.free() == 512).then_some(()))
        })?;
    }
    same!(a.counters().tx_copied, Some(0), "frames counted as copied");
    Ok(())
}

fn attached_are_not_copied(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, second) = two_pools(ctx)?;
    let free = a.pool().free();
    ctx.wires().pause(true)?;
    let sent = frames::run(b.mac(), 32, 60);
    let mut burst = burst_from(&second, &sent)?;
    let place = |packet: &Packet| second.region().offset_of(packet);
    let of_packets: Vec<_> = burst.iter().map(place).collect();
    a.send_burst(0, &mut burst)?;
    same!(second.free(), 512 - 32, "free frames of the pool that was sent from");
    // Sent are the packets' own frames, not others of the same pool.
    let others: Vec<_> = std::iter::from_fn(|| second.take()).take(512).collect();
    let reused = others.iter().filter(|packet| of_packets.contains(&place(packet))).count();
    same!(reused, 0, "frames that came back while their packets wait");
    drop(others);
    same!(a.pool().free(), free, "free frames of the first pool");
    ctx.wires().pause(false)?;
    same!(b.receive(32)?, sent, "what arrived");
    same!(a.tx[0].flush(PATIENCE)?, 0, "what flush says");
    same!(second.free(), 512, "free frames after that");
    same!(a.counters().tx_copied, Some(0), "frames counted as copied");
    Ok(())
}

fn with_the_first_empty(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, second) = two_pools(ctx)?;
    let held = hold_all(a.pool());
    let sent = frames::run(b.mac(), 64, 60);
    let mut burst = burst_from(&second, &sent)?;
    a.send_burst(0, &mut burst)?;
    same!(b.receive(64)?, sent, "what arrived");
    drop(held);
    Ok(())
}
