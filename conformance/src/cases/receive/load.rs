//! R7 and R8: what becomes of frames for which there is no room.

use anyport::{Burst, Wake};

use crate::case::{Case, Failure, Need, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::Worker;
use crate::side::{Side, bytes};
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.a_dry_pool_costs_counted_frames",
        clauses: &["R7", "S4"],
        about: "Keeps every packet of a pool of 64 while 200 frames arrive, then gives some back.",
        why: "Frames lost for want of memory must show up under that name, and must not take the port with them.",
        needs: &[Need::TwoWay],
        run: a_dry_pool,
    },
    Case {
        name: "receive.a_pool_with_free_frames_is_not_dry",
        clauses: &["R7", "R2"],
        about: "Small bursts arrive at a port with a pool of 64 and are freed at once, 300 of each size from 1 to 7: none is \
                lost.",
        why: "A port that waits for many free places before it gives the device new frames runs dry beside a full pool.",
        needs: &[Need::TwoWay],
        run: free_frames_are_used,
    },
    Case {
        name: "receive.frames_given_back_wake_a_starved_wait",
        clauses: &["R7", "R10"],
        about: "A thread waits on a port whose pool is empty; another gives the frames back, then frames are sent.",
        why: "A queue that ran dry and sleeps is never filled again by itself: the port is deaf for ever.",
        needs: &[Need::TwoWay],
        run: given_back_while_waiting,
    },
    Case {
        name: "receive.overload_is_counted_exactly",
        clauses: &["R8", "S1"],
        about: "Sends eight times as many frames as the receive ring holds while nobody receives: delivered and counted add \
                up to what was sent, and afterwards everything passes.",
        why: "A loss that is not counted looks like a fault of the network; one that wedges the port is one of ours.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: overload_is_counted,
    },
    Case {
        name: "receive.overload_between_ports_of_one_pool",
        clauses: &["R8", "S1", "P1"],
        about: "The same between two ports that share a pool, as a forwarder's do; in the end every frame is back in it.",
        why: "Where frames are handed over instead of copied, a full ring must still cost only the frames that are counted.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: overload_of_one_pool,
    },
    Case {
        name: "receive.overload_does_not_stall_the_sender",
        clauses: &["R8", "T3"],
        about: "Sends 50,000 frames to a port that is started and never receives; every one must be accepted.",
        why: "One slow receiver must not stop a sender that serves others as well.",
        needs: &[Need::TwoWay],
        run: overload_does_not_stall,
    },
];

/// Receives into `held` until all `sent` frames were delivered or counted as dropped.
fn account(b: &mut Side, held: &mut Burst, sent: u64) -> Verdict {
    eventually("delivered + counted = sent", || {
        b.rx[0].recv(held)?;
        let counted = b.counters().rx_dropped();
        let sum = held.len() as u64 + counted;
        ensure!(sum <= sent, "{} delivered and {counted} counted of {sent} sent", held.len());
        Ok((sum == sent).then_some(()))
    })
}

fn a_dry_pool(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(64)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let sent = frames::run(b.mac(), 200, 60);
    let mut held = Burst::with_capacity(300);
    a.send(&sent)?;
    account(&mut b, &mut held, 200)?;
    ensure!((1..=64).contains(&held.len()), "{} frames of a pool of 64 were delivered", held.len());
    // Not always the first ones: the port may get one frame back for the next before the last has arrived.
    let mut rest = sent.iter();
    for packet in &held {
        ensure!(
            rest.any(|frame| frame == packet.data()),
            "a frame was changed, or came out of order"
        );
    }
    let counted = b.counters();
    same!(counted.rx_no_buffer, Some(200 - held.len() as u64), "frames counted as rx_no_buffer");
    // With half of them back reception goes on.
    held.truncate(held.len() / 2);
    let marker = frames::numbered(b.mac(), 999, 60);
    eventually("reception going on", || {
        a.send(std::slice::from_ref(&marker))?;
        Ok((!b.take()?.is_empty()).then_some(()))
    })?;
    // Whatever is still under way of those.
    a.mark(&mut b, &mut Vec::new())?;
    let more = frames::run(b.mac(), 100, 60);
    let mut arrived = Vec::new();
    for chunk in more.chunks(4) {
        arrived.extend(a.pass_to(&mut b, chunk)?);
    }
    ensure!(arrived == more, "{} of 100 frames arrived afterwards", arrived.len());
    drop(held);
    Ok(())
}

fn free_frames_are_used(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(64)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let frames = frames::run(b.mac(), 7, 60);
    for size in 1..=frames.len() {
        for round in 0..300 {
            a.send(&frames[..size])?;
            // Once it has what was sent it does not ask again: the next burst is on its way.
            let mut arrived = Vec::new();
            while arrived.len() < size {
                let burst = b.receive_packets().map_err(|Failure(error)| {
                    let dropped = b.counters().rx_no_buffer;
                    format!("round {round} of {size} frames, rx_no_buffer {dropped:?}: {error}")
                })?;
                arrived.extend(burst.iter().map(bytes));
            }
            ensure!(
                arrived == frames[..size],
                "round {round}: other frames than the {size} sent came"
            );
        }
    }
    same!(b.counters().rx_dropped(), 0, "drops");
    Ok(())
}

fn given_back_while_waiting(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(64)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let to = b.mac();
    let mut held = Burst::with_capacity(300);
    a.send(&frames::run(to, 200, 60))?;
    account(&mut b, &mut held, 200)?;
    let (_port, mut rx, _tx, _) = b.into_parts();
    let mut rx = rx.swap_remove(0);
    let waiting = Worker::start(move || {
        let wake = rx.wait(3 * PATIENCE);
        let mut burst = Burst::new();
        let got = rx.recv(&mut burst);
        (wake, got, burst.pop_front().and_then(|packet| frames::number(packet.data())))
    })?;
    waiting.asleep()?;
    drop(held);
    // A device that has to be given frames first may lose the first of these.
    eventually("the wait ending", || {
        if !waiting.is_finished() {
            a.send(&[frames::numbered(to, 7777, 60)])?;
        }
        Ok(waiting.is_finished().then_some(()))
    })?;
    let (wake, got, number) = waiting.join()?;
    same!(wake?, Wake::Ready, "what the wait returned");
    ensure!(got? > 0, "wait said that a frame is there, and there was none");
    same!(number, Some(7777), "the first frame after the drought");
    Ok(())
}

fn overload_is_counted(ctx: &Ctx) -> Verdict {
    let ring = small_ring(ctx);
    let (mut a, mut b) = ctx.pair_with("", &format!("rx_ring={ring}"))?;
    overload(&mut a, &mut b, ring)
}

fn overload_of_one_pool(ctx: &Ctx) -> Verdict {
    let ring = small_ring(ctx);
    let pool = ctx.pool(4096)?;
    let mut a = ctx.start_with(End::A, "", &pool)?;
    let mut b = ctx.start_with(End::B, &format!("rx_ring={ring}"), &pool)?;
    ctx.settle(&a, &b)?;
    overload(&mut a, &mut b, ring)?;
    drop((a, b));
    same!(pool.free(), pool.capacity(), "frames that came back");
    Ok(())
}

fn small_ring(ctx: &Ctx) -> u32 {
    let ring = ctx.capability(End::B).rx_ring;
    64.clamp(ring.min, ring.max)
}

/// Sends much more than the receive ring holds, three times.
fn overload(a: &mut Side, b: &mut Side, ring: u32) -> Verdict {
    for round in 0..3 {
        let before = b.counters().rx_dropped();
        let sent = frames::run(b.mac(), 8 * ring, 60);
        a.send(&sent)?;
        let mut arrived = eventually("the first frames", || {
            let arrived = b.take()?;
            Ok((!arrived.is_empty()).then_some(arrived))
        })?;
        a.mark(b, &mut arrived)?;
        let counters = b.counters();
        let dropped = counters.rx_dropped() - before;
        same!(
            arrived.len() as u64 + dropped,
            sent.len() as u64,
            "round {round}: delivered + counted"
        );
        ensure!(dropped > 0, "round {round}: the ring was never full");
        same!(counters.rx_ring_full, Some(before + dropped), "round {round}: the cause");
        let mut last = None;
        for frame in &arrived {
            let number = frames::number(frame);
            ensure!(number > last && sent.contains(frame), "{number:?} came after {last:?}");
            last = number;
        }
        let calm = frames::run(b.mac(), 100, 60);
        ensure!(a.pass_to(b, &calm)? == calm, "round {round}: afterwards frames were lost");
    }
    Ok(())
}

fn overload_does_not_stall(ctx: &Ctx) -> Verdict {
    let (mut a, b) = ctx.pair()?;
    let portion = frames::run(b.mac(), 1000, 60);
    for _ in 0..50 {
        // An error if it is not accepted in time.
        a.send(&portion)?;
    }
    same!(a.counters().tx_packets, Some(50_000), "frames counted as sent");
    same!(a.counters().tx_dropped.unwrap_or(0), 0, "frames that the sender lost");
    Ok(())
}
