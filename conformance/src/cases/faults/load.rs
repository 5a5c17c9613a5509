//! F4 and F5: too much for a pool, too much for a ring, for long.

use std::time::{Duration, Instant};

use anyport::Burst;

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "faults.pool_exhausted_under_load",
        clauses: &["F4", "R7"],
        about: "Sends 20,000 frames as fast as they are accepted to an application that keeps its pool's frames and gives \
                them back in fits: delivered and counted add up, every byte is right, and afterwards everything passes.",
        why: "It is how an application with a slow consumer looks to its port, all day.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: pool_exhausted,
    },
    Case {
        name: "faults.a_ring_full_for_ten_seconds",
        clauses: &["F5", "R8", "T3"],
        about: "Nobody receives for 10 s while frames are sent on; where the rig can, the link is held still as well, so that \
                the transmit ring is full, too. The sender's calls return all the time, the other direction goes on, the \
                counts are exact, and afterwards both directions are as before.",
        why: "Something that only stands still for a while must not stand still for good.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: ring_full,
    },
];

fn pool_exhausted(ctx: &Ctx) -> Verdict {
    const COUNT: u32 = 20_000;
    let pool = ctx.pool(128)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let to = b.mac();
    let sent = frames::run(to, COUNT, 100);
    let mut delivered = 0;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| a.send(&sent));
        let mut held = Burst::with_capacity(128);
        let mut last = None;
        while !sending.is_finished() {
            let before = held.len();
            b.rx[0].recv(&mut held)?;
            for packet in &held[before..] {
                let number = frames::number(packet.data());
                ensure!(number > last, "{number:?} came after {last:?}");
                let frame = number.and_then(|number| sent.get(number as usize));
                ensure!(
                    frame.is_some_and(|frame| packet.data() == frame),
                    "frame {number:?} was changed"
                );
                last = number;
                delivered += 1;
            }
            // Most of the time nearly all frames are held.
            if held.len() >= 120 || held.len() == before {
                held.truncate(delivered % 120);
            }
        }
        sending.join().map_err(|_| "the sending thread panicked")?
    })?;
    let mut rest = b.take()?;
    a.mark(&mut b, &mut rest)?;
    let counters = b.counters();
    let accounted = (delivered + rest.len()) as u64 + counters.rx_dropped();
    same!(accounted, u64::from(COUNT), "delivered + counted, {counters:?}");
    let calm = frames::run(to, 200, 100);
    ensure!(a.pass_to(&mut b, &calm)? == calm, "afterwards frames were lost");
    drop(b);
    same!(pool.free(), 128, "frames that came back");
    Ok(())
}

/// One burst towards the other end; how many frames of it were accepted.
fn push(a: &mut Side, frames: &[Vec<u8>]) -> Verdict<u64> {
    Ok(a.offer(frames)? as u64)
}

fn ring_full(ctx: &Ctx) -> Verdict {
    const LONG: Duration = Duration::from_secs(10);
    let (mut a, mut b) = ctx.pair()?;
    let burst = frames::run(b.mac(), 32, 60);
    let back = frames::run(a.mac(), 1, 60);
    let mut accepted = 0;
    // Until the receive ring is full.
    let overflows = |b: &Side| b.counters().rx_dropped() > 0;
    while !overflows(&b) {
        accepted += push(&mut a, &burst)?;
        ensure!(accepted < 1 << 24, "the receive ring never got full");
    }
    let held_still = ctx.wires().pause(true).is_ok();
    let start = Instant::now();
    let (mut second, mut this_second, mut refused) = (0, 0, 0_u64);
    while start.elapsed() < LONG {
        let taken = push(&mut a, &burst)?;
        (accepted, this_second) = (accepted + taken, this_second + taken);
        refused += u64::from(taken == 0);
        if start.elapsed().as_secs() > second {
            ensure!(held_still || this_second > 0, "the sender stood still in second {second}");
            (second, this_second) = (start.elapsed().as_secs(), 0);
            if !held_still {
                b.send(&back)?;
                same!(a.receive(1)?, back, "the other direction in second {second}");
            }
        }
        // A flood, but none that takes a processor for itself.
        std::thread::sleep(Duration::from_micros(500));
    }
    if held_still {
        ensure!(refused > 100, "the transmit ring never got full");
        ctx.wires().pause(false)?;
    }
    let mut delivered = b.take()?;
    a.mark(&mut b, &mut delivered)?;
    ensure!(delivered.iter().all(|frame| burst.contains(frame)), "a frame was changed");
    let counters = b.counters();
    let accounted = delivered.len() as u64 + counters.rx_dropped();
    same!(accounted, accepted, "delivered + counted, {counters:?}");
    let calm = frames::run(b.mac(), 500, 60);
    ensure!(a.pass_to(&mut b, &calm)? == calm, "afterwards frames were lost");
    let calm = frames::run(a.mac(), 500, 60);
    ensure!(b.pass_to(&mut a, &calm)? == calm, "afterwards frames were lost on the way back");
    Ok(())
}
