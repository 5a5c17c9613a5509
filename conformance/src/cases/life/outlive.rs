//! L10: queues, packets and handles that outlive their port or pool.

use std::time::Duration;

use anyport::{Burst, Error};

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::{Worker, descriptors};
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.queues_outlive_their_port",
        clauses: &["L10"],
        about: "Drops a port and uses its queues, here and on another thread.",
        why: "Threads end in any order when a program shuts down.",
        needs: &[],
        run: queues_outlive,
    },
    Case {
        name: "life.handles_outlive_their_port",
        clauses: &["L10", "S3", "Q2"],
        about: "Drops a port and uses its handles for control and statistics.",
        why: "A statistics page is still open when the port is gone, and shows its last numbers.",
        needs: &[Need::TwoWay],
        run: handles_outlive,
    },
    Case {
        name: "life.packets_outlive_port_and_pool",
        clauses: &["L10", "P3"],
        about: "Keeps received packets, drops ports and pools, reads the packets, and drops them on another thread.",
        why: "A packet that is queued for analysis lives longer than the port that it came by.",
        needs: &[Need::TwoWay],
        run: packets_outlive,
    },
    Case {
        name: "life.port_outlives_the_pool_handle",
        clauses: &["L10", "P1"],
        about: "Attaches a pool, drops the handle, and passes traffic.",
        why: "What is attached is kept; the application need not keep it as well.",
        needs: &[Need::TwoWay],
        run: port_outlives_handle,
    },
    Case {
        name: "life.port_is_dropped_under_traffic",
        clauses: &["L10", "L6", "L8"],
        about: "Drops a port while other threads send and receive on its queues, ten times.",
        why: "A shutdown does not wait for every thread first.",
        needs: &[Need::TwoWay],
        run: dropped_under_traffic,
    },
];

fn queues_outlive(ctx: &Ctx) -> Verdict {
    for other_thread in [false, true] {
        let (port, mut rx, mut tx, pool) = ctx.start(End::A, "")?.into_parts();
        drop(port);
        let mut work = move || -> Verdict {
            let mut burst = Burst::new();
            refused!(rx[0].recv(&mut burst), Error::Closed, "recv");
            refused!(rx[0].wait(PATIENCE), Error::Closed, "wait");
            refused!(rx[0].arm(), Error::Closed, "arm");
            ensure!(rx[0].descriptor() >= 0, "the queue has no descriptor any more");
            let _ = burst.push(pool.packet(&[2; 60]).ok_or("the pool is empty")?);
            refused!(tx[0].send(&mut burst), Error::Closed, "send");
            refused!(tx[0].flush(PATIENCE), Error::Closed, "flush");
            same!(burst.len(), 1, "packets that the application still has");
            Ok(())
        };
        match other_thread {
            false => work()?,
            true => Worker::start(work)?.join()??,
        }
    }
    ctx.start(End::A, "")?.close()
}

fn handles_outlive(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frames = frames::run(b.mac(), 33, 90);
    a.pass_to(&mut b, &frames)?;
    let (control, stats) = (b.port().control(), b.port().stats());
    let last = stats.read();
    same!(last.port.rx_packets, Some(34), "rx_packets");
    b.close()?;
    same!(stats.read(), last, "counters after close");
    refused!(control.mac(), Error::Closed, "the address of a closed port");
    refused!(control.link(), Error::Closed, "the link of a closed port");
    refused!(control.wait_link_up(PATIENCE), Error::Closed, "waiting for the link");
    if ctx.capability(End::B).set_mac {
        refused!(control.set_mac(frames::STRANGER), Error::Closed, "setting the address");
    }
    if ctx.capability(End::B).promiscuous {
        refused!(control.set_promiscuous(true), Error::Closed, "switching promiscuous mode");
    }
    // The next port of the device is another one.
    let b = ctx.start(End::B, "")?;
    same!(b.counters().rx_packets, Some(0), "the next port's rx_packets");
    refused!(control.link(), Error::Closed, "the link by the old handle");
    same!(stats.read(), last, "counters by the old handle");
    Ok(())
}

fn packets_outlive(ctx: &Ctx) -> Verdict {
    let before = descriptors()?;
    let (mut a, mut b) = ctx.pair()?;
    let frames: Vec<_> = (0..20)
        .map(|number| frames::numbered(b.mac(), number, 60 + 30 * number as usize))
        .collect();
    a.send(&frames)?;
    let mut held = Burst::with_capacity(20);
    while !held.is_full() {
        b.rx[0].wait(PATIENCE)?;
        b.rx[0].recv(&mut held)?;
    }
    drop((a, b));
    let reader = Worker::start(move || {
        let read: Vec<_> = held.iter().map(crate::side::bytes).collect();
        // The pool's memory goes with the last of them.
        drop(held);
        read
    })?;
    ensure!(reader.join()? == frames, "the packets changed with their port");
    eventually("the end of the pool's memory", || Ok((descriptors()? <= before).then_some(())))
}

fn port_outlives_handle(ctx: &Ctx) -> Verdict {
    let (a, b) = (ctx.start(End::A, "")?, ctx.start(End::B, "")?);
    ctx.settle(&a, &b)?;
    let to = b.mac();
    let ((_port_a, _rx, mut tx, pool_a), (mut port_b, mut rx, _tx, pool_b)) =
        (a.into_parts(), b.into_parts());
    let mut burst = Burst::with_capacity(16);
    for frame in frames::run(to, 16, 60) {
        let _ = burst.push(pool_a.packet(&frame).ok_or("the pool is empty")?);
    }
    drop((pool_a, pool_b));
    eventually("room in the transmit queue", || {
        tx[0].send(&mut burst)?;
        Ok(burst.is_empty().then_some(()))
    })?;
    let mut received = Burst::with_capacity(16);
    while !received.is_full() {
        rx[0].wait(PATIENCE)?;
        rx[0].recv(&mut received)?;
    }
    let arrived: Vec<_> = received.iter().map(crate::side::bytes).collect();
    ensure!(arrived == frames::run(to, 16, 60), "frames were lost or changed");
    // And once more, from the pool that only the port holds.
    port_b.stop()?;
    same!(port_b.start()?.rx.len(), 1, "queues after a restart");
    Ok(())
}

fn dropped_under_traffic(ctx: &Ctx) -> Verdict {
    let b = ctx.start(End::B, "")?;
    let frame = frames::numbered(b.mac(), 1, 60);
    for round in 0..10 {
        let (port, mut rx, mut tx, pool) = ctx.start(End::A, "")?.into_parts();
        let (stats, theirs, frame) = (port.stats(), pool.clone(), frame.clone());
        let (mut rx, mut tx) = (rx.remove(0), tx.remove(0));
        let receiving = Worker::start(move || {
            let mut burst = Burst::new();
            loop {
                burst.clear();
                if let Err(error) = rx.wait(Duration::ZERO).and_then(|_| rx.recv(&mut burst)) {
                    return error;
                }
            }
        })?;
        let sending = Worker::start(move || {
            loop {
                let mut burst = Burst::with_capacity(8);
                while let Some(packet) = (!burst.is_full()).then(|| theirs.packet(&frame)).flatten()
                {
                    let _ = burst.push(packet);
                }
                if let Err(error) = tx.send(&mut burst) {
                    return error;
                }
            }
        })?;
        eventually("traffic", || Ok((stats.read().port.tx_packets > Some(50)).then_some(())))?;
        drop(port);
        for end in [receiving.join()?, sending.join()?] {
            ensure!(matches!(end, Error::Closed), "round {round}: a call ended with {end}");
        }
        same!(pool.free(), pool.capacity(), "round {round}: frames in the pool");
    }
    Ok(())
}
