//! R11: waiting on several queues at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyport::{Burst, Error, Wake, wait_any};

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, PATIENCE};
use crate::own::Worker;
use crate::side::woken;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "wait.a_flood_does_not_starve_the_other_queue",
        clauses: &["R11"],
        about: "One thread waits on the queues of both ports; one is flooded, the other gets a frame now and then and must \
                be reported within 100 turns.",
        why: "A forwarder that serves only the busy side is a denial of service for the other.",
        needs: &[Need::TwoWay],
        run: flood_does_not_starve,
    },
    Case {
        name: "wait.all_queues_that_have_something_are_reported",
        clauses: &["R11", "R10"],
        about: "Waits on both ports' queues with frames at neither, one, both; with wakers; for the timeout.",
        why: "Who is told of one queue only has to wait again to hear of the other.",
        needs: &[Need::TwoWay],
        run: all_are_reported,
    },
    Case {
        name: "wait.a_stopped_queue_among_several_is_reported",
        clauses: &["R11", "R10", "L6"],
        about: "A thread waits on the queues of both ports; one port is stopped.",
        why: "A loop over many ports must hear that one of them is gone, or it turns for ever without it.",
        needs: &[],
        run: stopped_is_reported,
    },
];

fn flood_does_not_starve(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let over = AtomicBool::new(false);
    let (to_a, to_b) = (a.mac(), b.mac());
    let flood = frames::run(to_b, 32, 60);
    let pool = a.pool().clone();
    let (rx_a, tx_a) = (&mut a.rx[0], &mut a.tx[0]);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| -> Verdict {
            let mut burst = Burst::with_capacity(flood.len());
            while !over.load(Ordering::Relaxed) {
                for frame in &flood {
                    let _ = pool.packet(frame).map(|packet| burst.push(packet));
                }
                tx_a.send(&mut burst)?;
                burst.clear();
            }
            Ok(())
        });
        let verdict = (0..50).try_for_each(|number| {
            b.send(&[frames::numbered(to_a, number, 60)])?;
            let mut burst = Burst::new();
            for _ in 0..100 {
                let mut wakes = [Wake::Timeout; 2];
                wait_any(&mut [&mut b.rx[0], &mut *rx_a], &mut wakes, PATIENCE)?;
                if wakes[1] == Wake::Ready {
                    same!(rx_a.recv(&mut burst)?, 1, "frames at the other queue");
                    return Ok(());
                }
                b.rx[0].recv(&mut burst)?;
                burst.clear();
            }
            Err(format!("frame {number} was not reported in 100 turns of a flooded queue").into())
        });
        over.store(true, Ordering::Relaxed);
        flooding.join().map_err(|_| "the flooding thread panicked")??;
        verdict
    })
}

fn stopped_is_reported(ctx: &Ctx) -> Verdict {
    let (a, b) = ctx.pair()?;
    let ((_port_a, mut a, ..), (mut port_b, mut b, ..)) = (a.into_parts(), b.into_parts());
    let waiting = Worker::start(move || {
        let mut wakes = [Wake::Ended; 2];
        let count = wait_any(&mut [&mut a[0], &mut b[0]], &mut wakes, 3 * PATIENCE);
        (count, wakes, b)
    })?;
    waiting.asleep()?;
    port_b.stop()?;
    let (count, wakes, mut b) = waiting.join()?;
    same!((count?, wakes), (1, [Wake::Timeout, Wake::Ready]), "what was reported");
    refused!(b[0].recv(&mut Burst::new()), Error::Closed, "recv on the reported queue");
    let mut again = [Wake::Ended; 1];
    same!(wait_any(&mut [&mut b[0]], &mut again, PATIENCE)?, 1, "queues reported after that");
    Ok(())
}

fn all_are_reported(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let (to_a, to_b) = (a.mac(), b.mac());
    let (ready, none) = (Wake::Ready, Wake::Timeout);
    for (at_a, at_b) in [(false, false), (true, false), (false, true), (true, true)] {
        if at_a {
            b.send(&frames::run(to_a, 3, 60))?;
            same!(woken(&mut a.rx[0])?, ready, "the frames at the first port");
        }
        if at_b {
            a.send(&frames::run(to_b, 3, 60))?;
            same!(woken(&mut b.rx[0])?, ready, "the frames at the second port");
        }
        let timeout = if at_a || at_b { PATIENCE } else { Duration::from_millis(20) };
        let mut wakes = [Wake::Ended; 2];
        let count = wait_any(&mut [&mut a.rx[0], &mut b.rx[0]], &mut wakes, timeout)?;
        let expected = [at_a, at_b].map(|there| if there { ready } else { none });
        same!(wakes, expected, "what the queues have");
        same!(count, usize::from(at_a) + usize::from(at_b), "how many have something");
        for (side, there) in [(&mut a, at_a), (&mut b, at_b)] {
            let took = if there { side.receive(3)?.len() } else { side.take()?.len() };
            same!(took, if there { 3 } else { 0 }, "frames received");
        }
    }
    let waker = b.rx[0].waker();
    waker.wake();
    let mut wakes = [Wake::Ended; 2];
    wait_any(&mut [&mut a.rx[0], &mut b.rx[0]], &mut wakes, PATIENCE)?;
    same!(wakes, [none, Wake::Waker], "after a waker was called");
    let mut one = [Wake::Ended; 1];
    let refused = wait_any(&mut [&mut a.rx[0], &mut b.rx[0]], &mut one, PATIENCE);
    ensure!(refused.is_err(), "two queues and a place for one answer");
    Ok(())
}
