//! P1: free + held by the application + held by ports = capacity; caches are bounded and strand nothing.

use std::time::Duration;

use anyport::{Burst, Pool};

use super::take_all;
use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, PATIENCE};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "pool.frames_add_up",
        clauses: &["P1", "L6"],
        about: "Passes 600 frames each way, holds some of them, stops both ports, and counts.",
        why: "A frame lost here and there is a port that goes deaf after a week.",
        needs: &[Need::TwoWay],
        run: frames_add_up,
    },
    Case {
        name: "pool.frames_add_up_in_a_shared_pool",
        clauses: &["P1", "T7"],
        about: "The same with one pool for both ends, whose frames may change hands on the wire.",
        why: "Forwarders share a pool between their ports; that is where nobody knows whose a frame is.",
        needs: &[Need::TwoWay],
        run: frames_add_up_shared,
    },
    Case {
        name: "pool.frames_add_up_after_drops",
        clauses: &["P1", "R8", "R4"],
        about: "Lets frames be lost for every cause that can be provoked, stops, and counts.",
        why: "The paths on which frames are dropped are those that nobody looks at.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: frames_add_up_after_drops,
    },
    Case {
        name: "pool.frames_add_up_after_refusals",
        clauses: &["P1", "T1", "T4"],
        about: "Offers frames that are refused, too short and too long, first and in mid-burst, and counts.",
        why: "As above: what is refused stays the application's, and comes back when that drops it.",
        needs: &[Need::TwoWay],
        run: frames_add_up_after_refusals,
    },
    Case {
        name: "pool.caches_are_bounded",
        clauses: &["P1"],
        about: "Takes all frames that can be had right after traffic: what queues keep in their caches is within bounds.",
        why: "Many queues with large caches would empty a pool that is full.",
        needs: &[Need::TwoWay],
        run: caches_are_bounded,
    },
    Case {
        name: "pool.flush_empties_the_caches",
        clauses: &["P1", "T6"],
        about: "Sends, flushes, and takes all frames that the pool counts as free.",
        why: "A thread that goes to sleep must not keep frames that others need.",
        needs: &[Need::TwoWay],
        run: flush_empties,
    },
    Case {
        name: "pool.waiting_empties_the_caches",
        clauses: &["P1", "R10"],
        about: "Passes traffic, waits for more that does not come, and takes all frames that the pool counts as free.",
        why: "As above, for receivers.",
        needs: &[Need::TwoWay],
        run: waiting_empties,
    },
    Case {
        name: "pool.small_pool_goes_on",
        clauses: &["P1", "T6", "R7"],
        about: "Passes 2,000 frames through pools that hold hardly more than the rings.",
        why: "Where a few frames are stranded in caches, a small pool stands still.",
        needs: &[Need::TwoWay],
        run: small_pool,
    },
    Case {
        name: "pool.empty_gives_none",
        clauses: &["P1"],
        about: "Takes frames out of an empty pool in every way there is, and again when one has come back.",
        why: "A call that waits for a frame waits for ever if the waiting thread holds them.",
        needs: &[Need::TwoWay],
        run: empty_gives_none,
    },
];

/// Passes frames one way, and then some that the receiver holds.
fn pass_and_hold(from: &mut Side, to: &mut Side, hold: usize) -> Verdict<Burst> {
    let frames = frames::run(to.mac(), 600, 200);
    ensure!(from.pass_to(to, &frames)? == frames, "frames were lost or changed");
    from.send(&frames[..hold])?;
    let mut held = Burst::with_capacity(hold);
    while !held.is_full() {
        to.rx[0].wait(PATIENCE)?;
        to.rx[0].recv(&mut held)?;
    }
    Ok(held)
}

/// Stops the ports; then they hold nothing.
fn stop(sides: [&mut Side; 2]) -> Verdict {
    sides.into_iter().try_for_each(|side| Ok(side.port_mut().stop()?))
}

/// Checks that all frames are there, but for those that the application holds, and can be taken.
fn all_there(pool: &Pool, held: usize) -> Verdict {
    same!(pool.free(), pool.capacity() - held, "free frames, with {held} held");
    same!(take_all(pool).len(), pool.capacity() - held, "frames that can be taken, {held} held");
    same!(pool.free(), pool.capacity() - held, "free frames after they were taken and dropped");
    Ok(())
}

fn frames_add_up(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let at_b = pass_and_hold(&mut a, &mut b, 17)?;
    let at_a = pass_and_hold(&mut b, &mut a, 5)?;
    // What is held is held, whatever the ports have besides.
    for (side, held) in [(&a, 5), (&b, 17)] {
        let free = side.pool().free();
        ensure!(free <= side.pool().capacity() - held, "{free} frames are free, with {held} held");
    }
    stop([&mut a, &mut b])?;
    all_there(a.pool(), 5)?;
    all_there(b.pool(), 17)?;
    drop((at_a, at_b));
    all_there(a.pool(), 0)?;
    all_there(b.pool(), 0)
}

fn frames_add_up_shared(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(4096)?;
    let mut a = ctx.start_with(End::A, "", &pool)?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    for _ in 0..2 {
        let at_b = pass_and_hold(&mut a, &mut b, 17)?;
        let at_a = pass_and_hold(&mut b, &mut a, 5)?;
        ensure!(pool.free() <= pool.capacity() - 22, "more frames are free than there are");
        stop([&mut a, &mut b])?;
        all_there(&pool, 22)?;
        drop(at_a);
        all_there(&pool, 17)?;
        drop(at_b);
        all_there(&pool, 0)?;
        a.restart()?;
        b.restart()?;
        ctx.settle(&a, &b)?;
    }
    Ok(())
}

fn frames_add_up_after_drops(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(1024)?;
    drop_frames(ctx, &pool, &ctx.pool(ring_pool(ctx, 32))?)?;
    // And with one pool for both ends.
    drop_frames(ctx, &pool, &pool)
}

/// Loses frames for every cause that can be provoked.
fn drop_frames(ctx: &Ctx, pool_a: &Pool, pool_b: &Pool) -> Verdict {
    let rings = |end: End| format!("rx_ring={}", ctx.capability(end).rx_ring.min);
    let mut a = ctx.start_with(End::A, &rings(End::A), pool_a)?;
    let mut b = ctx.start_with(End::B, &rings(End::B), pool_b)?;
    ctx.settle(&a, &b)?;
    let to = b.mac();
    let mut held = Burst::with_capacity(512);
    for _ in 0..3 {
        // Foreign ones, and more than the ring takes, and more than the pool has.
        a.send(&frames::run(frames::STRANGER, 20, 60))?;
        for _ in 0..20 {
            a.send(&frames::run(to, 64, 60))?;
            b.rx[0].recv(&mut held)?;
        }
        ensure!(!held.is_empty(), "nothing arrived");
        held.clear();
        b.take()?;
        a.mark(&mut b, &mut Vec::new())?;
    }
    // Others may lose frames that they know nothing of, or have a larger ring than they say.
    let tells = ctx.capability(End::B).exact_drops;
    ensure!(!tells || b.counters().rx_dropped() > 0, "nothing was dropped");
    stop([&mut a, &mut b])?;
    all_there(pool_a, 0)?;
    all_there(pool_b, 0)
}

fn frames_add_up_after_refusals(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let (to, max) = (b.mac(), a.port().control().max_frame());
    let good = |number| frames::numbered(to, number, 60);
    let (short, long) = (to.0.to_vec(), frames::numbered(to, 0, max + 1));
    let bursts = [
        vec![short.clone(), good(1)],
        vec![long.clone(), good(1)],
        vec![good(1), short.clone(), good(2), long.clone()],
        vec![good(3), long.clone(), short.clone(), good(4)],
        vec![short.clone(); 5],
    ];
    let mut accepted = 0;
    for _ in 0..20 {
        for frames in &bursts {
            accepted += a.offer(frames).unwrap_or(0);
        }
    }
    same!(accepted, 40, "frames accepted");
    let mut arrived = Vec::new();
    a.mark(&mut b, &mut arrived)?;
    same!(arrived.len(), accepted, "frames that arrived");
    stop([&mut a, &mut b])?;
    all_there(a.pool(), 0)?;
    all_there(b.pool(), 0)
}

/// The most frames that the caches of a port with one queue each way hold (P1).
fn cached_at_most(pool: &Pool) -> usize {
    2 * (pool.capacity() / 16).min(64)
}

fn caches_are_bounded(ctx: &Ctx) -> Verdict {
    for frames in [1024, 4096] {
        let pools = [ctx.pool(frames)?, ctx.pool(frames)?];
        let mut a = ctx.start_with(End::A, "", &pools[0])?;
        let mut b = ctx.start_with(End::B, "", &pools[1])?;
        ctx.settle(&a, &b)?;
        drop(pass_and_hold(&mut a, &mut b, 40)?);
        drop(pass_and_hold(&mut b, &mut a, 40)?);
        for pool in &pools {
            let (taken, free) = (take_all(pool), pool.free());
            // What is free now lies in caches.
            let most = cached_at_most(pool);
            let taken = taken.len();
            ensure!(free <= most, "{taken} frames were taken, {free} are in caches, above {most}");
        }
    }
    Ok(())
}

fn flush_empties(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let (_, mac) = (a.rx[0].wait(Duration::from_millis(1))?, b.mac());
    for count in [1, 7, 33, 200] {
        a.send(&frames::run(mac, count, 60))?;
        same!(a.tx[0].flush(PATIENCE)?, 0, "frames that the device still has");
        let free = a.pool().free();
        same!(take_all(a.pool()).len(), free, "frames that can be taken after flush");
        b.receive(count as usize)?;
    }
    Ok(())
}

fn waiting_empties(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for round in 0..3 {
        drop(pass_and_hold(&mut a, &mut b, 9)?);
        drop(pass_and_hold(&mut b, &mut a, 9)?);
        for side in [&mut a, &mut b] {
            let wake = side.rx[0].wait(Duration::from_millis(1))?;
            same!(wake, anyport::Wake::Timeout, "why wait returned");
            let free = side.pool().free();
            let taken = take_all(side.pool()).len();
            same!(taken, free, "round {round}: frames that can be taken after a wait");
        }
    }
    Ok(())
}

/// So many frames more than the smallest rings of both ends can hold.
fn ring_pool(ctx: &Ctx, more: u32) -> u32 {
    let rings = End::BOTH.map(|end| {
        let capability = ctx.capability(end);
        capability.rx_ring.min + capability.tx_ring.min
    });
    more + 2 * rings[0].max(rings[1])
}

fn small_pool(ctx: &Ctx) -> Verdict {
    let keys = |end| {
        let capability = ctx.capability(end);
        format!("rx_ring={},tx_ring={}", capability.rx_ring.min, capability.tx_ring.min)
    };
    let frames = ring_pool(ctx, 16);
    let pools = [ctx.pool(frames)?, ctx.pool(frames)?];
    let mut a = ctx.start_with(End::A, &keys(End::A), &pools[0])?;
    let mut b = ctx.start_with(End::B, &keys(End::B), &pools[1])?;
    ctx.settle(&a, &b)?;
    for number in 0..2000 {
        // One at a time: no ring is ever full.
        let frame = frames::numbered(b.mac(), number, 60);
        a.send(std::slice::from_ref(&frame))?;
        ensure!(b.receive(1)? == [frame], "frame {number} was changed");
    }
    same!(b.counters().rx_dropped(), 0, "drops");
    stop([&mut a, &mut b])?;
    pools.iter().try_for_each(|pool| all_there(pool, 0))
}

fn empty_gives_none(ctx: &Ctx) -> Verdict {
    let (mut a, other) = (ctx.start(End::A, "")?, ctx.pool(8)?);
    let original = other.packet(&[1; 60]).ok_or("a new pool is empty")?;
    let pool = a.pool().clone();
    a.rx[0].wait(Duration::from_millis(1))?;
    let mut all = take_all(&pool);
    let (mut cache, mut burst) = (pool.cache(32), Burst::new());
    same!(pool.free(), 0, "free frames of the empty pool");
    for _ in 0..2 {
        ensure!(pool.take().is_none(), "take");
        ensure!(pool.packet(&[1; 60]).is_none(), "packet");
        ensure!(cache.take().is_none(), "a cache's take");
        ensure!(original.copy_to(&pool).is_none(), "copy_to");
        same!(a.tx[0].take(&mut burst, 4)?, 0, "a transmit queue's take");
        same!(a.rx[0].recv(&mut burst)?, 0, "recv");
        same!(a.rx[0].wait(Duration::from_millis(1))?, anyport::Wake::Timeout, "wait");
    }
    let chain = vec![1; pool.room() + 1];
    drop((all.pop(), all.pop()));
    let packet = pool.packet(&chain).ok_or("two frames came back, and a chain of two is none")?;
    ensure!(pool.take().is_none(), "a third one");
    drop(packet);
    drop(all.pop());
    // Three are back; a chain of four must not take them along.
    ensure!(pool.packet(&vec![1; 3 * pool.room() + 1]).is_none(), "a chain of four");
    same!(pool.free(), 3, "free frames after a chain that was too long");
    same!(a.tx[0].take(&mut burst, 4)?, 3, "a transmit queue's take");
    Ok(())
}
