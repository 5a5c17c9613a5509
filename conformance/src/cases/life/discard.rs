//! L7: what arrived before or during a stop is never delivered after the next start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyport::{Burst, Pool, TxQueue};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, PATIENCE, eventually};
use crate::own::Worker;
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.stop_discards_the_ring",
        clauses: &["L7", "L6"],
        about: "Leaves frames in the receive ring, stops, starts, and sends one more.",
        why: "A program that starts again takes what it receives for new.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: discards_the_ring,
    },
    Case {
        name: "life.stop_discards_what_wait_has_seen",
        clauses: &["L7", "L6", "R10"],
        about: "Waits until frames are there, does not receive them, stops and starts.",
        why: "A wait may have taken frames out of the device already; they are old all the same.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: discards_what_wait_has_seen,
    },
    Case {
        name: "life.frames_to_a_stopped_port_are_lost",
        clauses: &["L7"],
        about: "Sends frames to a stopped port, starts it, and sends others.",
        why: "A stopped port does not listen; its peer finds out by its protocol, not by ghosts.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: frames_to_a_stopped_port,
    },
    Case {
        name: "life.restarts_in_a_stream",
        clauses: &["L7", "L5"],
        about: "Stops and starts a port ten times in a stream that never pauses; each frame says after which stop it was made.",
        why: "Under load there are always frames on their way when a port stops.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: restarts_in_a_stream,
    },
];

/// Sends 10 frames, of which the receiver takes the first 5 and no more.
fn leave_frames(a: &mut Side, b: &mut Side) -> Verdict {
    a.send(&frames::run(b.mac(), 10, 60))?;
    let mut burst = Burst::with_capacity(1);
    for number in 0..5 {
        eventually("a frame", || Ok((b.rx[0].recv(&mut burst)? > 0).then_some(())))?;
        same!(burst.pop_front().and_then(|p| frames::number(p.data())), Some(number), "a frame");
    }
    Ok(())
}

/// Starts the receiver again: only what is sent then may come.
fn only_new_frames(a: &mut Side, b: &mut Side) -> Verdict {
    b.restart()?;
    b.port().control().wait_link_up(PATIENCE)?;
    a.port().control().wait_link_up(PATIENCE)?;
    let new = frames::run(b.mac(), 3, 100);
    let arrived = a.pass_to(b, &new)?;
    ensure!(arrived == new, "{} frames came, 3 were sent after the start", arrived.len());
    Ok(())
}

fn discards_the_ring(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for _ in 0..3 {
        leave_frames(&mut a, &mut b)?;
        only_new_frames(&mut a, &mut b)?;
    }
    // Three times five, and three and a marker.
    same!(b.counters().rx_packets, Some(3 * (5 + 4)), "rx_packets: what the application got");
    Ok(())
}

fn discards_what_wait_has_seen(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for _ in 0..3 {
        leave_frames(&mut a, &mut b)?;
        same!(b.rx[0].wait(PATIENCE)?, anyport::Wake::Ready, "why wait returned");
        only_new_frames(&mut a, &mut b)?;
    }
    same!(b.counters().rx_packets, Some(3 * (5 + 4)), "rx_packets: what the application got");
    Ok(())
}

fn frames_to_a_stopped_port(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for _ in 0..3 {
        b.port_mut().stop()?;
        a.send(&frames::run(b.mac(), 20, 60))?;
        only_new_frames(&mut a, &mut b)?;
    }
    same!(b.counters().rx_packets, Some(3 * 4), "rx_packets: what the application got");
    for side in [&mut a, &mut b] {
        side.port_mut().stop()?;
        same!(side.pool().free(), side.pool().capacity(), "frames in the pool");
    }
    Ok(())
}

/// What the sender and the case tell each other.
#[derive(Default)]
struct Stream {
    /// The stop after which frames are made now.
    generation: AtomicU32,
    /// The generation of the last burst that was accepted whole.
    accepted: AtomicU32,
    end: AtomicBool,
}

fn stream(
    mut tx: TxQueue,
    pool: Pool,
    to: anyport::MacAddr,
    stream: &Stream,
) -> anyport::Result<()> {
    let mut burst = Burst::with_capacity(8);
    while !stream.end.load(Ordering::Relaxed) {
        let generation = stream.generation.load(Ordering::Acquire);
        while let Some(packet) =
            (!burst.is_full()).then(|| pool.packet(&frames::numbered(to, generation, 60))).flatten()
        {
            let _ = burst.push(packet);
        }
        while !burst.is_empty() && !stream.end.load(Ordering::Relaxed) {
            tx.send(&mut burst)?;
        }
        stream.accepted.store(generation, Ordering::Release);
    }
    Ok(())
}

fn restarts_in_a_stream(ctx: &Ctx) -> Verdict {
    let (a, mut b) = ctx.pair()?;
    let (to, shared) = (b.mac(), Arc::new(Stream::default()));
    let (port_a, _rx, mut tx, pool) = a.into_parts();
    let (tx, theirs) = (tx.remove(0), shared.clone());
    let worker = Worker::start(move || stream(tx, pool, to, &theirs))?;
    let verdict = (1..=10u32).try_for_each(|generation| {
        b.receive(20)?;
        b.port_mut().stop()?;
        shared.generation.store(generation, Ordering::Release);
        // From then on, nothing of an earlier generation is sent any more.
        eventually("the stream to go on", || {
            Ok((shared.accepted.load(Ordering::Acquire) == generation).then_some(()))
        })?;
        b.restart()?;
        for frame in b.receive(20)? {
            let of = frames::number(&frame);
            same!(of, Some(generation), "the stop after which a frame was made");
        }
        Ok(())
    });
    shared.end.store(true, Ordering::Relaxed);
    let sent = worker.join()?;
    drop(port_a);
    verdict.and(Ok(sent?))
}
