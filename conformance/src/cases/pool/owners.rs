//! P2 and P3 at run time: one owner per frame, whoever that is.

use std::collections::HashSet;
use std::sync::mpsc::channel;

use anyport::packet::TxRequests;
use anyport::{Burst, Packet, Pool};

use super::take_all;
use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::Worker;
use crate::side::{Side, bytes};
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "pool.held_packets_are_left_alone",
        clauses: &["P2"],
        about: "Holds 200 received packets while 3,000 other frames pass, and compares their bytes.",
        why: "A frame with two owners is changed under the hands of one of them.",
        needs: &[Need::TwoWay],
        run: held_are_left_alone,
    },
    Case {
        name: "pool.held_packets_of_a_shared_pool_are_left_alone",
        clauses: &["P2", "T7"],
        about: "The same with one pool for both ends.",
        why: "As above; a sent frame may be in the receiver's hands while the sender's port still counts it as its own.",
        needs: &[Need::TwoWay],
        run: held_of_a_shared_pool,
    },
    Case {
        name: "pool.no_frame_is_given_twice",
        clauses: &["P2", "P1"],
        about: "After traffic, takes all frames and looks at where they lie; then writes to all and reads them again.",
        why: "A frame that is on the free list twice has two owners later.",
        needs: &[Need::TwoWay],
        run: none_is_given_twice,
    },
    Case {
        name: "pool.unaccepted_packets_stay_unchanged",
        clauses: &["P2", "T1", "T5"],
        about: "Offers bursts of short frames to a queue until it takes no more; what stays in the burst is as it was.",
        why: "Padding or copying for a send that did not happen must leave no trace.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Rig(crate::Power::Cable)],
        run: unaccepted_stay,
    },
    Case {
        name: "pool.packets_for_a_full_ring_stay_unchanged",
        clauses: &["P2", "T1", "T3", "T5"],
        about: "The same where the transmit ring is full, which is noticed later: after padding, copying and inserting.",
        why: "A packet that is offered again must not have two tags, or grow with each attempt.",
        needs: &[Need::TwoWay, Need::Rig(crate::Power::Pause)],
        run: full_ring_leaves_packets,
    },
    Case {
        name: "pool.freed_by_any_thread",
        clauses: &["P3", "P1"],
        about: "Receives on one thread and frees on three others; sends packets that yet another thread took.",
        why: "Pipelines of threads are the usual form of a packet application.",
        needs: &[Need::TwoWay],
        run: freed_by_any_thread,
    },
    Case {
        name: "pool.received_packets_are_sent_on",
        clauses: &["P3", "T7", "P1"],
        about: "Sends received packets back by the other end's port, of whose pools theirs is none.",
        why: "A forwarder whose ports have pools of their own is a forwarder, too.",
        needs: &[Need::TwoWay],
        run: received_are_sent_on,
    },
];

/// Holds packets while others pass.
fn hold_and_pass(a: &mut Side, b: &mut Side) -> Verdict {
    let held_frames: Vec<_> =
        (0..200).map(|number| frames::numbered(b.mac(), number, 60 + number as usize)).collect();
    let mut held = Vec::new();
    for chunk in held_frames.chunks(20) {
        a.send(chunk)?;
        let mut burst = Burst::with_capacity(chunk.len());
        while !burst.is_full() {
            b.rx[0].wait(PATIENCE)?;
            b.rx[0].recv(&mut burst)?;
        }
        held.extend(burst.drain());
    }
    let others: Vec<_> =
        (1000..4000).map(|number| frames::numbered(b.mac(), number, 300)).collect();
    ensure!(a.pass_to(b, &others)? == others, "frames were lost or changed");
    let now: Vec<_> = held.iter().map(bytes).collect();
    ensure!(now == held_frames, "packets changed while they were held");
    Ok(())
}

fn held_are_left_alone(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    hold_and_pass(&mut a, &mut b)
}

fn held_of_a_shared_pool(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(4096)?;
    let mut a = ctx.start_with(End::A, "", &pool)?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    hold_and_pass(&mut a, &mut b)?;
    hold_and_pass(&mut b, &mut a)
}

fn none_is_given_twice(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(2048)?;
    let mut a = ctx.start_with(End::A, "", &pool)?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    hold_and_pass(&mut a, &mut b)?;
    hold_and_pass(&mut b, &mut a)?;
    a.port_mut().stop()?;
    b.port_mut().stop()?;
    let mut all = take_all(&pool);
    same!(all.len(), pool.capacity(), "frames that can be taken");
    let places: HashSet<_> = all.iter().filter_map(|p| pool.region().offset_of(p)).collect();
    same!(places.len(), all.len(), "places that they lie at");
    for (number, packet) in (0u32..).zip(&mut all) {
        packet.fill(&frames::numbered(frames::GROUP, number, 1500))?;
    }
    for (number, packet) in (0u32..).zip(&all) {
        let expected = frames::numbered(frames::GROUP, number, 1500);
        ensure!(packet.data() == expected, "frame {number} was overwritten by another");
    }
    Ok(())
}

/// A burst of short frames, of which every third is of a pool that is not attached.
fn short_frames(a: &Side, foreign: &Pool, frames: &[Vec<u8>]) -> Verdict<Burst> {
    let mut burst = Burst::with_capacity(frames.len());
    for (at, frame) in frames.iter().enumerate() {
        let pool = if at % 3 == 2 { foreign } else { a.pool() };
        let _ = burst.push(pool.packet(frame).ok_or("the pool is empty")?);
    }
    Ok(burst)
}

/// Checks that a queue takes nothing more, and leaves the packets as they were: bytes, pools, room.
fn leaves_all(a: &mut Side, burst: &mut Burst, frames: &[Vec<u8>]) -> Verdict {
    let state = |burst: &Burst| -> Vec<_> {
        burst.iter().map(|p| (bytes(p), p.pool_id(), p.headroom(), p.tailroom())).collect()
    };
    let before = state(burst);
    for _ in 0..3 {
        same!(a.tx[0].send(burst)?, 0, "frames taken");
        ensure!(state(burst) == before, "packets that were not accepted have changed");
    }
    let now: Vec<_> = burst.iter().map(bytes).collect();
    ensure!(now == frames, "packets that were not accepted have other bytes than they were given");
    Ok(())
}

fn unaccepted_stay(ctx: &Ctx) -> Verdict {
    let (mut a, b) = ctx.pair()?;
    let sent: Vec<_> =
        (0..16).map(|number| frames::numbered(b.mac(), number, 18 + number as usize)).collect();
    ctx.wires().set_link(false)?;
    let foreign = ctx.pool(64)?;
    let mut burst = eventually("a queue that takes nothing", || {
        let mut burst = short_frames(&a, &foreign, &sent)?;
        Ok((a.tx[0].send(&mut burst)? == 0).then_some(burst))
    })?;
    leaves_all(&mut a, &mut burst, &sent)
}

fn full_ring_leaves_packets(ctx: &Ctx) -> Verdict {
    let ring = ctx.capability(End::A).tx_ring.min.max(8);
    let (mut a, mut b) = ctx.pair_with(&format!("tx_ring={ring},vlan_insert=auto"), "")?;
    let foreign = ctx.pool(64)?;
    let sent: Vec<_> =
        (0..16).map(|number| frames::numbered(b.mac(), number, 18 + number as usize)).collect();
    ctx.wires().pause(true)?;
    // Each of the kinds comes first once: a run of packets, one that is copied, one that gets a tag.
    for skip in 0..4 {
        let mut full = eventually("a full transmit ring", || {
            let mut burst = short_frames(&a, &foreign, &sent)?;
            (0..skip).for_each(|_| drop(burst.pop_front()));
            if skip == 3 {
                let requests = TxRequests { vlan: Some(5), ..TxRequests::default() };
                burst[0].set_requests(requests);
            }
            Ok((a.tx[0].send(&mut burst)? == 0).then_some(burst))
        })?;
        leaves_all(&mut a, &mut full, &sent[skip..])?;
    }
    ctx.wires().pause(false)?;
    a.mark(&mut b, &mut Vec::new())
}

fn freed_by_any_thread(ctx: &Ctx) -> Verdict {
    let (mut a, b) = ctx.pair()?;
    let (to, pool_a) = (b.mac(), a.pool().clone());
    let (mut port_b, mut rx, _tx, pool_b) = b.into_parts();
    let mut freers = Vec::new();
    for _ in 0..3 {
        let (give, take) = channel::<Packet>();
        freers
            .push((give, Worker::start(move || take.into_iter().map(|p| p.len()).sum::<usize>())?));
    }
    let taker = pool_a.clone();
    let (give, take) = channel::<Packet>();
    let making = Worker::start(move || {
        for number in 0..1500 {
            let packet = taker.packet(&frames::numbered(to, number, 100));
            if packet.is_none_or(|packet| give.send(packet).is_err()) {
                return false;
            }
        }
        true
    })?;
    let (mut sending, mut received, mut next) = (Burst::with_capacity(20), Burst::new(), 0);
    while next < 1500 {
        while let Some(packet) = (!sending.is_full()).then(|| take.recv().ok()).flatten() {
            let _ = sending.push(packet);
        }
        let count = sending.len();
        a.send_burst(0, &mut sending)?;
        for _ in 0..count {
            while received.is_empty() {
                rx[0].wait(PATIENCE)?;
                rx[0].recv(&mut received)?;
            }
            let packet = received.pop_front().ok_or("no packet")?;
            same!(frames::number(packet.data()), Some(next), "the next frame");
            let (give, _) = &freers[next as usize % freers.len()];
            give.send(packet).map_err(|_| "a freeing thread has ended")?;
            next += 1;
        }
    }
    ensure!(making.join()?, "the pool ran dry");
    for (give, freer) in freers {
        drop(give);
        same!(freer.join()?, 500 * 100, "bytes that a thread has freed");
    }
    port_b.stop()?;
    a.port_mut().stop()?;
    same!((pool_a.free(), pool_b.free()), (4096, 4096), "free frames");
    Ok(())
}

fn received_are_sent_on(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let there = frames::run(b.mac(), 500, 120);
    let mut back = Vec::new();
    for chunk in there.chunks(20) {
        a.send(chunk)?;
        let mut burst = Burst::with_capacity(chunk.len());
        while !burst.is_full() {
            b.rx[0].wait(PATIENCE)?;
            b.rx[0].recv(&mut burst)?;
        }
        // By the port that they were sent from: their pool is not attached to it.
        for packet in &mut burst {
            packet.data_mut()[..6].copy_from_slice(&b.mac().0);
        }
        a.send_burst(0, &mut burst)?;
        back.extend(b.receive(chunk.len())?);
    }
    ensure!(back == there, "frames were lost or changed on their second way");
    same!(a.counters().tx_copied, Some(500), "tx_copied");
    a.port_mut().stop()?;
    b.port_mut().stop()?;
    same!((a.pool().free(), b.pool().free()), (4096, 4096), "free frames");
    Ok(())
}
