//! S2 and S3: what is absent stays absent, nothing goes back, and reading changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyport::{Counters, Stats};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, eventually};
use crate::own::Worker;
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "counters.the_same_ones_all_life_long",
        clauses: &["S2", "L5"],
        about: "Compares which counters there are when the port is opened, started, under traffic, after drops, stopped and \
                closed.",
        why: "A graph with a counter that comes and goes has holes, and a 0 for `unknown` hides what it should show.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: the_same_ones,
    },
    Case {
        name: "counters.what_must_be_there",
        clauses: &["S1", "S2"],
        about: "Looks for the counters that every port can keep, and those that its capabilities promise.",
        why: "A port that cannot tell what it dropped has to say so; one that can has to tell.",
        needs: &[],
        run: what_must_be_there,
    },
    Case {
        name: "counters.never_go_back",
        clauses: &["S3", "Q2"],
        about: "Reads all counters without a pause on another thread, through traffic both ways, drops and restarts.",
        why: "A counter that goes back by one is read as four billion by every monitoring system.",
        needs: &[Need::TwoWay],
        run: never_go_back,
    },
    Case {
        name: "counters.queues_add_up",
        clauses: &["S3"],
        about: "Adds up the counters of the queues of ports with one queue each way, after traffic and drops.",
        why: "Two views of the same number must not differ.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: queues_add_up,
    },
    Case {
        name: "counters.many_queues_add_up",
        clauses: &["S3", "Q1"],
        about: "The same with four queues, on each of which flows are sent.",
        why: "Whoever looks for a slow core compares queues, and starts from their sum.",
        needs: &[Need::TwoWay, Need::Queues(4)],
        run: many_queues_add_up,
    },
    Case {
        name: "counters.reading_changes_nothing",
        clauses: &["S3"],
        about: "Reads two thousand times between frames, and after frames were dropped and filtered; every reading is the \
                same, and no frame is lost by it.",
        why: "Registers that clear when read, and readings that cost frames, are both to be had.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: reading_changes_nothing,
    },
    Case {
        name: "counters.each_port_begins_at_zero",
        clauses: &["S3", "L8"],
        about: "Closes ports after traffic and drops, and opens them again.",
        why: "A port counts from its own opening; the device's past is not its own.",
        needs: &[Need::TwoWay],
        run: begins_at_zero,
    },
];

fn names(stats: &Stats) -> Vec<&'static str> {
    stats.read().port.iter().map(|(name, _)| name).collect()
}

fn the_same_ones(ctx: &Ctx) -> Verdict {
    let mut a = ctx.start(End::A, "")?;
    // More frames than the ring takes: it is the ring that overflows.
    let pool = ctx.pool(4096)?;
    let mut port = ctx.open(End::B, "")?;
    let stats = port.stats();
    let opened = names(&stats);
    port.attach(&pool)?;
    let mut b = Side::start(port, pool)?;
    same!(names(&stats), opened, "counters when started, and when opened");
    ctx.settle(&a, &b)?;
    let frames = [frames::run(b.mac(), 20, 60), frames::run(frames::STRANGER, 20, 60)].concat();
    a.pass_to(&mut b, &frames)?;
    same!(names(&stats), opened, "counters after traffic, and when opened");
    overflow(&mut a, &mut b)?;
    same!(names(&stats), opened, "counters after drops, and when opened");
    b.port_mut().stop()?;
    same!(names(&stats), opened, "counters when stopped, and when opened");
    b.close()?;
    same!(names(&stats), opened, "counters when closed, and when opened");
    Ok(())
}

fn what_must_be_there(ctx: &Ctx) -> Verdict {
    for end in End::BOTH {
        let port = ctx.open(end, "")?;
        let (capability, there) = (port.capability().clone(), names(&port.stats()));
        let mut needed = vec!["rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "tx_copied"];
        // What the common layer itself refuses or discards.
        needed.extend(["rx_too_long", "rx_too_short", "tx_dropped", "tx_dropped_bytes"]);
        if capability.exact_drops {
            needed.extend(["rx_ring_full", "rx_no_buffer"]);
        }
        if !capability.filters {
            needed.push("rx_filtered");
        }
        for name in needed {
            ensure!(there.contains(&name), "`{name}` is absent; there are {there:?}");
        }
    }
    Ok(())
}

/// A thread that reads counters: when it shall end, and how often it has read.
#[derive(Default)]
struct Watch {
    end: AtomicBool,
    readings: AtomicU64,
}

impl Watch {
    /// Waits until the thread has read twice more. The second of them began after the call, so what was counted before is
    /// seen by it, however late the thread gets a processor.
    fn reads_again(&self) -> Verdict {
        let before = self.readings.load(Ordering::Acquire);
        eventually("another reading of the counters", || {
            // A thread that saw something go back ends; its finding is what counts then.
            let over = self.end.load(Ordering::Acquire);
            let read = self.readings.load(Ordering::Acquire) >= before + 2;
            Ok((over || read).then_some(()))
        })
    }
}

/// Reads until it is told to end; what went back, if something did, and after how many readings.
fn watch(stats: &Stats, watch: &Watch) -> (Option<String>, u64) {
    let mut last = stats.read();
    let mut readings = 0;
    while !watch.end.load(Ordering::Acquire) {
        let now = stats.read();
        let queues = |all: &anyport::PortCounters| -> Vec<Counters> {
            [&[all.port], &all.rx_queues[..], &all.tx_queues[..]].concat()
        };
        // Queues are added at starts, and never taken away.
        let (before, after) = (queues(&last), queues(&now));
        if before.len() == after.len() {
            for (before, after) in before.iter().zip(&after) {
                let after: Vec<_> = after.iter().collect();
                for (name, value) in before.iter() {
                    let now = after.iter().find(|(other, _)| *other == name).map(|(_, now)| *now);
                    if now.is_none_or(|now| now < value) {
                        watch.end.store(true, Ordering::Release);
                        return (Some(format!("{name} went from {value} to {now:?}")), readings);
                    }
                }
            }
        }
        (last, readings) = (now, readings + 1);
        watch.readings.store(readings, Ordering::Release);
    }
    (None, readings)
}

fn never_go_back(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let watches: [Arc<Watch>; 2] = Default::default();
    let watchers: Vec<_> = [(&a, &watches[0]), (&b, &watches[1])]
        .map(|(side, watched)| {
            let (stats, watched) = (side.port().stats(), watched.clone());
            Worker::start(move || watch(&stats, &watched))
        })
        .into_iter()
        .collect::<Verdict<_>>()?;
    let all_read = || watches.iter().try_for_each(|watched| watched.reads_again());
    let (to_a, to_b) = (a.mac(), b.mac());
    let verdict = (0..6).try_for_each(|round| {
        a.send(&frames::run(frames::STRANGER, 30, 60))?;
        // More than is received: some are dropped.
        a.send(&frames::run(to_b, 300, 60))?;
        b.take()?;
        b.pass_to(&mut a, &frames::run(to_a, 200, 60))?;
        a.pass_to(&mut b, &frames::run(to_b, 200, 60))?;
        // What this round counted is seen before the restart, and again after it.
        all_read()?;
        let side = if round % 2 == 0 { &mut a } else { &mut b };
        side.restart()?;
        ctx.settle(&a, &b)?;
        all_read()
    });
    watches.iter().for_each(|watched| watched.end.store(true, Ordering::Release));
    let mut fewest = u64::MAX;
    for watcher in watchers {
        let (went_back, readings) = watcher.join()?;
        if let Some(went_back) = went_back {
            return Err(format!("after {readings} readings, {went_back}").into());
        }
        fewest = fewest.min(readings);
    }
    verdict?;
    ensure!(fewest >= 24, "the counters were read {fewest} times in six rounds");
    Ok(())
}

/// Checks that each counter of the port is the sum over its queues. What only the port counts is no queue's.
fn add_up(side: &Side) -> Verdict {
    let all = side.port().stats().read();
    let mut sum = Counters::default();
    all.rx_queues.iter().chain(&all.tx_queues).for_each(|queue| sum.add(queue));
    for (name, total) in all.port.iter() {
        if let Some((_, queues)) = sum.iter().find(|(other, _)| *other == name) {
            same!(queues, total, "{name}: the sum over the queues, and the port's");
        }
    }
    for name in ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"] {
        ensure!(sum.iter().any(|(other, _)| other == name), "{name} is not kept by queue");
    }
    Ok(())
}

fn queues_add_up(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    overflow(&mut a, &mut b)?;
    let back = frames::run(a.mac(), 100, 200);
    ensure!(b.pass_to(&mut a, &back)? == back, "frames were lost or changed");
    for side in [&mut a, &mut b] {
        add_up(side)?;
        side.port_mut().stop()?;
        add_up(side)?;
    }
    Ok(())
}

fn many_queues_add_up(ctx: &Ctx) -> Verdict {
    const QUEUES: usize = 4;
    let (mut a, mut b) = ctx.pair_with("queues=4", "queues=4")?;
    let (mut sent, mut received) = (0, 0);
    for number in 0..200u16 {
        let frame = frames::udp(b.mac(), frames::Flow::nth(number), b"one of many flows");
        let mut burst = a.burst(&[frame])?;
        a.send_burst(usize::from(number) % QUEUES, &mut burst)?;
        sent += 1;
    }
    crate::ctx::eventually("all flows to arrive", || {
        let mut burst = anyport::Burst::new();
        for rx in &mut b.rx {
            received += rx.recv(&mut burst)?;
            burst.clear();
        }
        Ok((received >= sent).then_some(()))
    })?;
    let (there, here) = (a.port().stats().read(), b.port().stats().read());
    let by_queue: Vec<_> = there.tx_queues.iter().map(|queue| queue.tx_packets).collect();
    same!(by_queue, [Some(50); QUEUES], "tx_packets of each queue");
    same!(here.port.rx_packets, Some(sent as u64), "rx_packets");
    same!((here.rx_queues.len(), here.tx_queues.len()), (QUEUES, QUEUES), "queues");
    add_up(&a)?;
    add_up(&b)
}

fn reading_changes_nothing(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frames = frames::run(b.mac(), 40, 60);
    for round in 1..=10 {
        a.send(&frames[..20])?;
        // With frames in the ring, too.
        let stats = [a.port().stats(), b.port().stats()];
        let before = stats[0].read();
        for _ in 0..100 {
            stats[1].read();
            same!(stats[0].read(), before, "the sender's counters, read again");
        }
        b.receive(20)?;
        ensure!(a.pass_to(&mut b, &frames[20..])? == frames[20..], "frames were lost or changed");
        let before = stats[1].read();
        for _ in 0..100 {
            same!(stats[1].read(), before, "the receiver's counters, read again");
        }
        same!(before.port.rx_packets, Some(round * 41), "rx_packets");
        same!(before.port.rx_dropped(), 0, "drops");
    }
    // What the device itself counts as well.
    overflow(&mut a, &mut b)?;
    let before = b.port().stats().read();
    for _ in 0..100 {
        same!(b.port().stats().read(), before, "counters of frames that were dropped, read again");
    }
    Ok(())
}

/// Sends foreign frames, and more than a receive ring of usual size holds; waits until all are counted.
fn overflow(a: &mut Side, b: &mut Side) -> Verdict {
    a.send(&frames::run(frames::STRANGER, 20, 60))?;
    for _ in 0..5 {
        a.send(&frames::run(b.mac(), 500, 60))?;
    }
    b.take()?;
    a.mark(b, &mut Vec::new())
}

fn begins_at_zero(ctx: &Ctx) -> Verdict {
    let mut a = ctx.start(End::A, "")?;
    for _ in 0..3 {
        let mut b = ctx.start(End::B, "")?;
        ctx.settle(&a, &b)?;
        let fresh: Vec<_> = b.counters().iter().filter(|(_, value)| *value != 0).collect();
        same!(fresh, [], "counters of a port that was just opened");
        let frames = [frames::run(b.mac(), 20, 60), frames::run(frames::STRANGER, 20, 60)].concat();
        a.pass_to(&mut b, &frames)?;
        for _ in 0..5 {
            a.send(&frames::run(b.mac(), 500, 60))?;
        }
        b.close()?;
    }
    Ok(())
}
