//! R11: waiting on several queues at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyport::{Burst, Error, Pool, RxQueue, TxQueue, Wake, wait_any};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, PATIENCE, eventually};
use crate::frames::Flow;
use crate::own::Worker;
use crate::side::{Side, woken};
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "wait.a_flood_does_not_starve_the_other_queue",
        clauses: &["R11"],
        about: "One thread waits on the queues of both ports; one is flooded, the other gets a frame now and then and must \
                be reported within 100 turns.",
        why: "A forwarder that serves only the busy side is a denial of service for the other.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: flood_does_not_starve,
    },
    Case {
        name: "wait.a_flood_does_not_starve_another_queue_of_the_port",
        clauses: &["R11"],
        about: "The same with two receive queues of one port, of which each is flooded once.",
        why: "Flows that share a queue with an attack are lost; those of other queues need not be.",
        needs: &[Need::TwoWay, Need::Queues(2), Need::Rig(Power::Direct)],
        run: flood_on_one_queue_of_two,
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
    let frame = frames::numbered(to_b, 0, 60);
    let pool = a.pool().clone();
    let (rx_a, tx_a) = (&mut a.rx[0], &mut a.tx[0]);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(tx_a, &pool, &frame, &over));
        let verdict = (0..50).try_for_each(|number| {
            under_way(&mut b.rx[0])?;
            b.send(&[frames::numbered(to_a, number, 60)])?;
            reported_in_time(number, &mut b.rx[0], rx_a)
        });
        over.store(true, Ordering::Relaxed);
        flooding.join().map_err(|_| "the flooding thread panicked")??;
        verdict
    })
}

/// A frame of a flow that is sent by a certain queue, and the receive queue that it comes out of.
struct Way {
    frame: Vec<u8>,
    tx: usize,
    rx: usize,
}

impl Way {
    fn find(a: &mut Side, b: &mut Side, flow: u16, tx: usize) -> Verdict<Way> {
        let frame = frames::udp(b.mac(), Flow::nth(flow), b"which way does it go");
        let mut burst = a.burst(std::slice::from_ref(&frame))?;
        a.send_burst(tx, &mut burst)?;
        let rx = eventually("a frame", || {
            for (queue, rx) in b.rx.iter_mut().enumerate() {
                if rx.recv(&mut Burst::new())? > 0 {
                    return Ok(Some(queue));
                }
            }
            Ok(None)
        })?;
        Ok(Way { frame, tx, rx })
    }
}

fn flood_on_one_queue_of_two(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("queues=2", "queues=2")?;
    let one = Way::find(&mut a, &mut b, 0, 0)?;
    let other = (1..64).find_map(|flow| match Way::find(&mut a, &mut b, flow, 1) {
        Ok(way) if way.rx == one.rx => None,
        way => Some(way),
    });
    let other = other.ok_or("of 64 flows none comes by another queue than the first")??;
    flood_one(&mut a, &mut b, &one, &other)?;
    flood_one(&mut a, &mut b, &other, &one)
}

/// Floods one way, and sends a frame on the other now and then, which must be reported.
fn flood_one(a: &mut Side, b: &mut Side, flooded: &Way, quiet: &Way) -> Verdict {
    let (over, pool) = (AtomicBool::new(false), a.pool().clone());
    let [tx_0, tx_1] = &mut a.tx[..] else { return Err("not two queues".into()) };
    let [rx_0, rx_1] = &mut b.rx[..] else { return Err("not two queues".into()) };
    let (tx, other_tx) = if flooded.tx == 0 { (tx_0, tx_1) } else { (tx_1, tx_0) };
    let (rx, other_rx) = if flooded.rx == 0 { (rx_0, rx_1) } else { (rx_1, rx_0) };
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(tx, &pool, &flooded.frame, &over));
        let verdict = (0..50).try_for_each(|number| {
            under_way(rx)?;
            let packet = eventually("a frame for a packet", || Ok(pool.packet(&quiet.frame)))?;
            let taken = other_tx.send_one(packet)?.is_none();
            ensure!(taken, "frame {number} was not accepted");
            reported_in_time(number, rx, other_rx)
        });
        over.store(true, Ordering::Relaxed);
        flooding.join().map_err(|_| "the flooding thread panicked")??;
        verdict
    })?;
    // What is left of the flood.
    while rx.recv(&mut Burst::new())? > 0 {}
    Ok(())
}

/// Sends a frame again and again until it is over.
fn flood(tx: &mut TxQueue, pool: &Pool, frame: &[u8], over: &AtomicBool) -> Verdict {
    let mut burst = Burst::with_capacity(32);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..32 {
            let _ = pool.packet(frame).map(|packet| burst.push(packet));
        }
        tx.send(&mut burst)?;
        burst.clear();
    }
    Ok(())
}

/// Waits until the flood is there: the thread behind it may need a while to begin, and to go on.
fn under_way(flooded: &mut RxQueue) -> Verdict {
    same!(woken(flooded)?, Wake::Ready, "what a wait on the flooded queue returned");
    flooded.recv(&mut Burst::new())?;
    Ok(())
}

/// Waits on a flooded queue and a quiet one until the quiet one is reported, at most 100 turns.
fn reported_in_time(number: u32, flooded: &mut RxQueue, quiet: &mut RxQueue) -> Verdict {
    let mut burst = Burst::new();
    for _ in 0..100 {
        let mut wakes = [Wake::Timeout; 2];
        wait_any(&mut [&mut *flooded, &mut *quiet], &mut wakes, PATIENCE)?;
        if wakes[1] == Wake::Ready {
            same!(quiet.recv(&mut burst)?, 1, "frames at the other queue");
            return Ok(());
        }
        flooded.recv(&mut burst)?;
        burst.clear();
    }
    Err(format!("frame {number} was not reported in 100 turns of a flooded queue").into())
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
