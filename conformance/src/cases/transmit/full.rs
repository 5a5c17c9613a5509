//! T3 and T6: a transmit queue that is full, and what is still in it.

use std::time::{Duration, Instant};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, PATIENCE};
use crate::own::sleeps;
use crate::side::{Side, bytes};
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "transmit.a_full_queue_takes_fewer_then_none",
        clauses: &["T3", "T1"],
        about: "Holds the link still and sends until nothing is accepted: what is left in the burst is as it was; then \
                lets go, and everything arrives, each frame once and in order.",
        why: "A sender that blocks on a paused link stops serving its other ports; one that drops loses silently.",
        needs: &[Need::TwoWay, Need::Rig(Power::Pause)],
        run: full_takes_fewer,
    },
    Case {
        name: "transmit.room_comes_back",
        clauses: &["T3"],
        about: "Fills the queue to the last place 20 times, letting go in between.",
        why: "A queue that forgets a place each time it is full stands still after a day.",
        needs: &[Need::TwoWay, Need::Rig(Power::Pause)],
        run: room_comes_back,
    },
    Case {
        name: "transmit.flush_says_what_remains",
        clauses: &["T6"],
        about: "With the link held still, flush(0) and flush(20 ms) say how many frames remain; when it goes on, flush \
                waits for them and says 0.",
        why: "Who ends a program or reuses a frame's memory must know whether the device still reads it.",
        needs: &[Need::TwoWay, Need::Rig(Power::Pause)],
        run: flush_says,
    },
];

/// Both ends, the first with a small transmit ring.
fn small_tx_ring(ctx: &Ctx) -> Verdict<(Side, Side, usize)> {
    let ring = ctx.capability(End::A).tx_ring;
    let ring = 50.clamp(ring.min, ring.max);
    let (a, b) = ctx.pair_with(&format!("tx_ring={ring}"), "")?;
    Ok((a, b, ring as usize))
}

/// Sends until nothing more is accepted; how many were.
fn fill(a: &mut Side, frames: &[Vec<u8>]) -> Verdict<usize> {
    let mut accepted = 0;
    loop {
        let rest = &frames[accepted..];
        let offered = a.offer(&rest[..rest.len().min(32)])?;
        if offered == 0 {
            return Ok(accepted);
        }
        accepted += offered;
    }
}

fn full_takes_fewer(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, ring) = small_tx_ring(ctx)?;
    let sent = frames::run(b.mac(), 4 * ring as u32 + 64, 30);
    ctx.wires().pause(true)?;
    let accepted = fill(&mut a, &sent)?;
    ensure!(accepted >= ring, "{accepted} frames were accepted by a ring of {ring}");
    ensure!(accepted < sent.len(), "the queue never got full");
    let mut burst = a.burst(&sent[accepted..accepted + 40])?;
    let slept = sleeps()?;
    for _ in 0..1000 {
        same!(a.tx[0].send(&mut burst)?, 0, "what a full queue accepts");
    }
    // A lock that another thread holds may cost a few.
    let slept = sleeps()? - slept;
    ensure!(slept < 100, "in 1,000 calls on a full queue, send slept {slept} times");
    let left: Vec<_> = burst.iter().map(bytes).collect();
    ensure!(left == sent[accepted..accepted + 40], "what was not accepted was changed");
    let mut arrived = b.take()?;
    same!(arrived.len(), 0, "frames that arrived over a link that is held still");
    ctx.wires().pause(false)?;
    // Room comes back by itself.
    a.send_burst(0, &mut burst)?;
    a.mark(&mut b, &mut arrived)?;
    let expected: Vec<_> = sent[..accepted + 40].iter().cloned().map(frames::padded).collect();
    same!(arrived.len(), expected.len(), "frames that arrived in the end");
    ensure!(arrived == expected, "they arrived in another order");
    same!(a.counters().tx_packets, Some(expected.len() as u64 + 1), "frames counted as sent");
    Ok(())
}

fn room_comes_back(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, ring) = small_tx_ring(ctx)?;
    let sent = frames::run(b.mac(), 4 * ring as u32 + 64, 60);
    let mut room = None;
    for round in 0..20 {
        ctx.wires().pause(true)?;
        let accepted = fill(&mut a, &sent)?;
        same!(accepted, *room.get_or_insert(accepted), "the queue's room in round {round}");
        ctx.wires().pause(false)?;
        let mut arrived = Vec::new();
        a.mark(&mut b, &mut arrived)?;
        ensure!(arrived == sent[..accepted], "round {round}: {} arrived", arrived.len());
        same!(a.tx[0].flush(PATIENCE)?, 0, "what remains in round {round}");
    }
    Ok(())
}

fn flush_says(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, _) = small_tx_ring(ctx)?;
    let capacity = a.pool().capacity();
    same!(a.tx[0].flush(Duration::ZERO)?, 0, "what remains at first");
    ctx.wires().pause(true)?;
    let sent = frames::run(b.mac(), 30, 60);
    a.send(&sent)?;
    same!(a.tx[0].flush(Duration::ZERO)?, 30, "what remains, by a look");
    let start = Instant::now();
    same!(a.tx[0].flush(Duration::from_millis(20))?, 30, "what remains after 20 ms");
    ensure!(start.elapsed() >= Duration::from_millis(20), "the flush ended early");
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| a.tx[0].flush(PATIENCE));
        ctx.wires().pause(false)?;
        let left = flushing.join().map_err(|_| "flush panicked")??;
        same!(left, 0, "what remains after the link goes on");
        Ok::<_, crate::Failure>(())
    })?;
    same!(a.pool().free(), capacity, "free frames after that");
    same!(b.receive(30)?, sent, "what arrived");
    Ok(())
}
