//! L6: stopping while other threads are inside the queues, and what becomes of frames.

use std::time::Duration;

use anyport::{Burst, Error, RxQueue, TxQueue};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::Worker;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.stop_wakes_the_waiting",
        clauses: &["L6", "R10"],
        about: "Stops a port while a thread waits for frames without end.",
        why: "A service that does not react to stop has to be killed.",
        needs: &[],
        run: stop_wakes,
    },
    Case {
        name: "life.close_wakes_the_waiting",
        clauses: &["L6", "L10"],
        about: "Drops a port while a thread waits for frames without end.",
        why: "As with stop; and a program's panic drops its ports.",
        needs: &[],
        run: close_wakes,
    },
    Case {
        name: "life.stop_under_traffic",
        clauses: &["L6", "L5"],
        about: "Stops a port, several times, while one thread receives from it and another sends on it, both without a pause.",
        why: "Control comes from another thread than traffic, and must not need the traffic's consent.",
        needs: &[Need::TwoWay],
        run: stop_under_traffic,
    },
    Case {
        name: "life.stopped_queues_say_closed",
        clauses: &["L6", "L10", "T1"],
        about: "Calls everything that a queue has after its port was stopped, and again after the next start.",
        why: "A thread learns by `Closed` that it has to fetch new queues; its packets stay its own.",
        needs: &[Need::TwoWay],
        run: stopped_queues,
    },
    Case {
        name: "life.stop_sends_what_was_accepted",
        clauses: &["L6", "T2"],
        about: "Sends bursts and stops at once; counts at the far end.",
        why: "The last frames before a stop are often the goodbye of a protocol.",
        needs: &[Need::TwoWay],
        run: stop_sends,
    },
    Case {
        name: "life.stop_waits_for_the_device",
        clauses: &["L6"],
        about: "Stops a port whose frames are held back, and lets them go while stop is at it.",
        why: "A pause frame of a millisecond must not cost the frames behind it.",
        needs: &[Need::TwoWay, Need::Rig(Power::Pause)],
        run: stop_waits,
    },
    Case {
        name: "life.stop_gives_up_on_a_stuck_device",
        clauses: &["L6", "S1", "P1"],
        about: "Stops a port whose frames are held back for good; looks for them in the counters, in the pool and on the wire.",
        why: "Stop ends also when the peer never lets go; what was lost is known, and comes back as memory.",
        needs: &[Need::TwoWay, Need::Rig(Power::Pause)],
        run: stop_gives_up,
    },
    Case {
        name: "life.stop_frees_what_was_not_delivered",
        clauses: &["L6", "P1"],
        about: "Stops a port with frames in its receive ring and others in the application's hands.",
        why: "A frame that is lost at every stop starves the pool in the end.",
        needs: &[Need::TwoWay],
        run: stop_frees,
    },
];

/// A thread that waits for a frame, far longer than any case may take.
fn waiter(mut rx: RxQueue) -> Verdict<Worker<anyport::Result<anyport::Wake>>> {
    let waiter = Worker::start(move || rx.wait(Duration::from_secs(3600)))?;
    waiter.asleep()?;
    Ok(waiter)
}

fn stop_wakes(ctx: &Ctx) -> Verdict {
    for _ in 0..3 {
        let (mut port, rx, _tx, _) = ctx.start(End::A, "")?.into_parts();
        let waiters: Vec<_> = rx.into_iter().map(waiter).collect::<Verdict<_>>()?;
        port.stop()?;
        for waiter in waiters {
            refused!(waiter.join()?, Error::Closed, "the wait in progress");
        }
    }
    Ok(())
}

fn close_wakes(ctx: &Ctx) -> Verdict {
    let (port, rx, _tx, _) = ctx.start(End::A, "")?.into_parts();
    let waiters: Vec<_> = rx.into_iter().map(waiter).collect::<Verdict<_>>()?;
    drop(port);
    for waiter in waiters {
        refused!(waiter.join()?, Error::Closed, "the wait in progress");
    }
    Ok(ctx.open(End::A, "")?.close()?)
}

/// Receives until that fails; how many frames, and why it ended.
fn receive_on(mut rx: RxQueue) -> Verdict<Worker<(u64, Error)>> {
    Worker::start(move || {
        let (mut burst, mut count) = (Burst::new(), 0);
        loop {
            burst.clear();
            match rx.recv(&mut burst) {
                Ok(received) => count += received as u64,
                Err(error) => return (count, error),
            }
        }
    })
}

/// Sends frames until that fails; how many were accepted, and why it ended.
fn send_on(mut tx: TxQueue, pool: anyport::Pool, frame: Vec<u8>) -> Verdict<Worker<(u64, Error)>> {
    Worker::start(move || {
        let (mut burst, mut count) = (Burst::with_capacity(16), 0);
        loop {
            while let Some(packet) = (!burst.is_full()).then(|| pool.packet(&frame)).flatten() {
                let _ = burst.push(packet);
            }
            match tx.send(&mut burst) {
                Ok(sent) => count += sent as u64,
                Err(error) => return (count, error),
            }
        }
    })
}

fn stop_under_traffic(ctx: &Ctx) -> Verdict {
    let (a, b) = (ctx.start(End::A, "")?, ctx.start(End::B, "")?);
    ctx.settle(&a, &b)?;
    let (to_a, to_b) = (frames::numbered(a.mac(), 1, 60), frames::numbered(b.mac(), 2, 60));
    // The other end sends back, and is itself under traffic.
    let ((mut port_a, rx_a, tx_a, pool_a), (mut port_b, rx_b, tx_b, pool_b)) =
        (a.into_parts(), b.into_parts());
    let only = |mut rx: Vec<RxQueue>, mut tx: Vec<TxQueue>| (rx.remove(0), tx.remove(0));
    let (rx, tx) = only(rx_b, tx_b);
    let (sink_b, source_b) = (receive_on(rx)?, send_on(tx, pool_b.clone(), to_a)?);
    let (mut rx, mut tx) = only(rx_a, tx_a);
    for round in 0..5 {
        let before = port_a.stats().read().port;
        let (sink, source) = (receive_on(rx)?, send_on(tx, pool_a.clone(), to_b.clone())?);
        eventually("traffic both ways", || {
            let now = port_a.stats().read().port;
            let moved = now.rx_packets > before.rx_packets && now.tx_packets > before.tx_packets;
            Ok(moved.then_some(()))
        })?;
        port_a.stop()?;
        let ((received, end_rx), (sent, end_tx)) = (sink.join()?, source.join()?);
        for end in [end_rx, end_tx] {
            ensure!(
                matches!(end, Error::Closed),
                "round {round}: a thread's call ended with {end}"
            );
        }
        let now = port_a.stats().read().port;
        let counted = (now.rx_packets, now.tx_packets);
        let grown = (before.rx_packets.map(|n| n + received), before.tx_packets.map(|n| n + sent));
        same!(counted, grown, "round {round}: counted, and what the threads saw");
        same!(pool_a.free(), pool_a.capacity(), "round {round}: frames in the pool after stop");
        (rx, tx) = port_a.start()?.into_pair();
    }
    drop((rx, tx));
    port_b.stop()?;
    for worker in [sink_b, source_b] {
        let (_, end) = worker.join()?;
        ensure!(matches!(end, Error::Closed), "the far end's call ended with {end}");
    }
    same!(pool_b.free(), pool_b.capacity(), "frames in the far end's pool");
    Ok(())
}

/// Everything that the queues of a stopped port answer.
fn all_closed(rx: &mut RxQueue, tx: &mut TxQueue, burst: &mut Burst) -> Verdict {
    let (held, mut empty) = (burst.len(), Burst::new());
    refused!(rx.recv(&mut empty), Error::Closed, "recv");
    refused!(rx.wait(PATIENCE), Error::Closed, "wait");
    refused!(rx.wait(Duration::ZERO), Error::Closed, "wait with no time");
    refused!(rx.arm(), Error::Closed, "arm");
    refused!(tx.send(burst), Error::Closed, "send");
    refused!(tx.flush(PATIENCE), Error::Closed, "flush");
    refused!(tx.take(&mut empty, 1), Error::Closed, "take");
    refused!(tx.take_timestamp(), Error::Closed, "take_timestamp");
    same!((burst.len(), empty.len()), (held, 0), "packets kept, and packets out of nowhere");
    Ok(())
}

fn stopped_queues(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frames = frames::run(b.mac(), 3, 60);
    let mut burst = a.burst(&frames)?;
    a.port_mut().stop()?;
    all_closed(&mut a.rx[0], &mut a.tx[0], &mut burst)?;
    // A waker of a queue that is gone wakes nobody, and harms nobody.
    a.rx[0].waker().wake();
    all_closed(&mut a.rx[0], &mut a.tx[0], &mut burst)?;
    let (mut rx, mut tx) = (std::mem::take(&mut a.rx), std::mem::take(&mut a.tx));
    let queues = a.port_mut().start()?;
    (a.rx, a.tx) = (queues.rx, queues.tx);
    ctx.settle(&a, &b)?;
    all_closed(&mut rx[0], &mut tx[0], &mut burst)?;
    // What the old queue did not take, the new one does.
    a.send_burst(0, &mut burst)?;
    ensure!(b.receive(3)? == frames, "the frames changed");
    Ok(())
}

fn stop_sends(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let mut all = Vec::new();
    for round in 0..5 {
        let frames: Vec<_> =
            (0..40).map(|n| frames::numbered(b.mac(), round * 40 + n, 60 + n as usize)).collect();
        a.send(&frames)?;
        a.port_mut().stop()?;
        all.extend(frames);
        let arrived = b.receive(40)?;
        ensure!(arrived == all[all.len() - 40..], "round {round}: other frames than were accepted");
        a.restart()?;
    }
    let frames = frames::run(b.mac(), 1, 60);
    ensure!(a.pass_to(&mut b, &frames)? == frames, "something came twice");
    same!(
        (a.counters().tx_packets, a.counters().tx_dropped),
        (Some(202), Some(0)),
        "sent, dropped"
    );
    Ok(())
}

fn stop_waits(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    ctx.wires().pause(true)?;
    let frames = frames::run(b.mac(), 30, 60);
    a.send(&frames)?;
    let (mut port, mut rx, _tx, pool) = a.into_parts();
    let stopping = Worker::start(move || (port.stop(), port))?;
    // The queues close first: then stop has begun.
    eventually("stop to begin", || {
        let closed = matches!(rx[0].recv(&mut Burst::new()), Err(Error::Closed));
        Ok(closed.then_some(()))
    })?;
    ctx.wires().pause(false)?;
    let (stopped, port) = stopping.join()?;
    stopped?;
    let arrived = b.receive(frames.len())?;
    ensure!(arrived == frames, "other frames than were accepted");
    let counters = port.stats().read().port;
    same!((counters.tx_packets, counters.tx_dropped), (Some(30), Some(0)), "sent and dropped");
    drop((arrived, b));
    same!(pool.free(), pool.capacity(), "frames in the pool");
    Ok(())
}

fn stop_gives_up(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let before = frames::run(b.mac(), 7, 60);
    ensure!(a.pass_to(&mut b, &before)? == before, "frames were lost");
    ctx.wires().pause(true)?;
    a.send(&frames::run(b.mac(), 25, 100))?;
    a.port_mut().stop()?;
    same!(a.pool().free(), a.pool().capacity(), "frames in the pool");
    let counters = a.counters();
    same!((counters.tx_dropped, counters.tx_dropped_bytes), (Some(25), Some(2500)), "tx_dropped");
    same!((counters.tx_packets, counters.tx_bytes), (Some(8), Some(480)), "tx_packets");
    ctx.wires().pause(false)?;
    a.restart()?;
    let after = frames::run(b.mac(), 3, 80);
    ensure!(a.pass_to(&mut b, &after)? == after, "frames were sent that were counted as dropped");
    Ok(())
}

fn stop_frees(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    a.send(&frames::run(b.mac(), 40, 60))?;
    let mut kept = Burst::with_capacity(4);
    while !kept.is_full() {
        b.rx[0].wait(PATIENCE)?;
        b.rx[0].recv(&mut kept)?;
    }
    for side in [&mut a, &mut b] {
        side.port_mut().stop()?;
    }
    same!(a.pool().free(), a.pool().capacity(), "frames in the sender's pool");
    same!(b.pool().free(), b.pool().capacity() - 4, "frames in the receiver's pool");
    let numbers: Vec<_> = kept.iter().map(|packet| frames::number(packet.data())).collect();
    same!(numbers, [Some(0), Some(1), Some(2), Some(3)], "frames that the application holds");
    drop(kept);
    same!(b.pool().free(), b.pool().capacity(), "frames when the application has freed its own");
    Ok(())
}
