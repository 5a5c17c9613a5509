//! Q, queues: which frame comes where, and who may use what at the same time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyport::{Burst, Packet, Pool, RxQueue, TxQueue};

use crate::case::{Case, Failure, Need, Verdict};
use crate::ctx::{Ctx, PATIENCE};
use crate::frames::{self, Flow};
use crate::side::{Side, woken};
use crate::{ensure, same};

pub(super) const CASES: &[&[Case]] = &[&[
    Case {
        name: "queues.as_many_as_declared",
        clauses: &["Q1"],
        about: "Starts both ports with the most queues that they declare, sends on each transmit queue, and receives on \
                all; then with different numbers each way.",
        why: "A queue that exists on paper only loses what is sent on it.",
        needs: &[Need::TwoWay],
        run: as_many_as_declared,
    },
    Case {
        name: "queues.a_flow_stays_on_its_queue",
        clauses: &["Q1", "R2"],
        about: "Sends three frames of each of 1,000 flows, each flow on one transmit queue: they come by one receive queue, \
                in order, and the packet says by which.",
        why: "A flow that is spread over queues is reordered by the threads that serve them.",
        needs: &[Need::TwoWay, Need::Queues(4)],
        run: a_flow_stays,
    },
    Case {
        name: "queues.flows_reach_every_queue",
        clauses: &["Q1"],
        about: "Sends 1,000 flows to ports with 2, 3 and the most receive queues that there are (up to 16), on one transmit \
                queue where flows are dealt out, else on one per receive queue: each queue gets some.",
        why: "A queue that nothing reaches is a core that does nothing.",
        needs: &[Need::TwoWay, Need::Queues(3)],
        run: flows_reach_every_queue,
    },
    Case {
        name: "queues.from_threads_of_their_own",
        clauses: &["Q2", "R2"],
        about: "Two threads send on a queue each, two receive on a queue each, a fifth reads counters, link and modes: every \
                frame comes once.",
        why: "This is what queues are for.",
        needs: &[Need::TwoWay, Need::Queues(2)],
        run: from_threads,
    },
    Case {
        name: "queues.each_direction_in_its_own_thread",
        clauses: &["Q2"],
        about: "Both ports send in one thread and receive in another, all four at once, while a fifth reads counters and \
                link: every frame comes once, in order.",
        why: "A forwarder's two directions share ports, and must not share a lock.",
        needs: &[Need::TwoWay],
        run: each_direction,
    },
    Case {
        name: "queues.can_be_handed_over",
        clauses: &["Q2"],
        about: "Moves the receive and the transmit queue to another thread and back, 50 times, using them in between.",
        why: "A queue that remembers its thread fails in every runtime that moves tasks.",
        needs: &[Need::TwoWay],
        run: handed_over,
    },
]];

/// Receives on all queues until so many packets have come; each with the number of its queue.
pub(super) fn gather(rx: &mut [RxQueue], count: usize) -> Verdict<Vec<(usize, Packet)>> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::with_capacity(count);
    let mut burst = Burst::new();
    while all.len() < count {
        for (queue, rx) in rx.iter_mut().enumerate() {
            rx.recv(&mut burst)?;
            all.extend(burst.drain().map(|packet| (queue, packet)));
        }
        if Instant::now() > deadline {
            return Err(Failure(format!("{} of {count} frames came", all.len())));
        }
    }
    Ok(all)
}

/// A frame of a flow, with a number in its payload.
fn of_flow(to: anyport::MacAddr, flow: u16, number: u32) -> Vec<u8> {
    let payload = [&flow.to_be_bytes()[..], &number.to_be_bytes(), &[0x5a; 20]].concat();
    let build = if flow.is_multiple_of(2) { frames::udp } else { frames::tcp };
    build(to, Flow::nth(flow), &payload)
}

/// Flow and number of such a frame.
fn flow_of(frame: &[u8]) -> Option<(u16, u32)> {
    let at = frame.len().checked_sub(26)?;
    let flow = u16::from_be_bytes(frame[at..at + 2].try_into().ok()?);
    Some((flow, u32::from_be_bytes(frame[at + 2..at + 6].try_into().ok()?)))
}

fn most_queues(ctx: &Ctx) -> (u16, u16) {
    let least = |value: fn(&anyport::Capability) -> u16| {
        crate::End::BOTH.map(|end| value(ctx.capability(end))).into_iter().min().unwrap_or(1)
    };
    (least(|c| c.max_rx_queues), least(|c| c.max_tx_queues))
}

fn as_many_as_declared(ctx: &Ctx) -> Verdict {
    let (most_rx, most_tx) = most_queues(ctx);
    for (rx, tx) in [(most_rx, most_tx), (most_rx, 1), (1, most_tx)] {
        let keys = format!("rx_queues={rx},tx_queues={tx}");
        let (mut a, mut b) = ctx.pair_with(&keys, &keys)?;
        for side in [&a, &b] {
            same!((side.rx.len(), side.tx.len()), (rx.into(), tx.into()), "queues for {keys}");
        }
        let per_queue = 40;
        // Where nothing deals flows out, the sender's queue decides, and what has no queue opposite is not the port's (Q1).
        let used = if ctx.capability(crate::End::B).rss { tx } else { tx.min(rx) };
        for queue in 0..usize::from(used) {
            let frames: Vec<_> = (0..per_queue)
                .map(|number| of_flow(b.mac(), (queue * 100 + number) as u16, queue as u32))
                .collect();
            let mut burst = a.burst(&frames)?;
            a.send_burst(queue, &mut burst)?;
        }
        let arrived = gather(&mut b.rx, usize::from(used) * per_queue)?;
        let mut seen = HashSet::new();
        for (queue, packet) in &arrived {
            same!(usize::from(packet.queue()), *queue, "the queue that the packet says");
            ensure!(seen.insert(packet.data().to_vec()), "a frame came twice");
        }
    }
    Ok(())
}

/// Sends three frames of each flow, flow by flow on transmit queues in turn; what came by which queue. The second time
/// the flows come in another order, so that who deals them out in turn is found out.
fn pass_flows(a: &mut Side, b: &mut Side, flows: u16) -> Verdict<Vec<(usize, Packet)>> {
    let queues = a.tx.len();
    let mut arrived = Vec::new();
    for number in 0..3 {
        for first in (0..flows).step_by(20) {
            for queue in 0..queues {
                let mine =
                    (first..(first + 20).min(flows)).filter(|f| usize::from(*f) % queues == queue);
                let mut frames: Vec<_> = mine.map(|flow| of_flow(b.mac(), flow, number)).collect();
                if number == 1 {
                    frames.reverse();
                }
                let mut burst = a.burst(&frames)?;
                a.send_burst(queue, &mut burst)?;
            }
            let count = usize::from(flows.min(first + 20) - first);
            arrived.extend(gather(&mut b.rx, count)?);
        }
    }
    Ok(arrived)
}

fn a_flow_stays(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("queues=4", "queues=4")?;
    let arrived = pass_flows(&mut a, &mut b, 1000)?;
    let mut homes: HashMap<u16, (usize, u32)> = HashMap::new();
    for (queue, packet) in &arrived {
        let (flow, number) = flow_of(packet.data()).ok_or("a frame that was never sent")?;
        same!(usize::from(packet.queue()), *queue, "the queue that the packet says");
        let (home, next) = homes.entry(flow).or_insert((*queue, 0));
        same!(*queue, *home, "the queue of frame {number} of flow {flow}");
        same!(number, *next, "the next frame of flow {flow}");
        *next += 1;
    }
    ensure!(homes.len() == 1000 && homes.values().all(|(_, next)| *next == 3), "flows are missing");
    Ok(())
}

fn flows_reach_every_queue(ctx: &Ctx) -> Verdict {
    let most = most_queues(ctx).0.min(16);
    for queues in [2, 3, most] {
        let sender = if ctx.capability(crate::End::B).rss { 1 } else { queues };
        let keys = [format!("tx_queues={sender}"), format!("rx_queues={queues}")];
        let (mut a, mut b) = ctx.pair_with(&keys[0], &keys[1])?;
        let arrived = pass_flows(&mut a, &mut b, 1000)?;
        let mut per_queue = vec![0; queues.into()];
        arrived.iter().for_each(|(queue, _)| per_queue[*queue] += 1);
        ensure!(per_queue.iter().all(|count| *count > 0), "frames per queue: {per_queue:?}");
        same!(per_queue.iter().sum::<i32>(), 3000, "frames on all queues");
    }
    Ok(())
}

/// Sends `count` frames, as one of so many senders, never more ahead of the receivers than a ring holds.
fn send_all(
    tx: &mut TxQueue,
    pool: &Pool,
    frame: impl Fn(u32) -> Vec<u8>,
    (count, senders): (u32, u64),
    received: &AtomicU64,
) -> Verdict {
    let deadline = Instant::now() + PATIENCE;
    let mut burst = Burst::with_capacity(16);
    let mut next = 0;
    while next < count || !burst.is_empty() {
        ensure!(Instant::now() < deadline, "{next} of {count} frames were sent");
        if u64::from(next) * senders > received.load(Ordering::Acquire) + 64 {
            std::thread::yield_now();
            continue;
        }
        while next < count && !burst.is_full() {
            let packet = pool.packet(&frame(next)).ok_or("the pool is empty")?;
            let _ = burst.push(packet);
            next += 1;
        }
        tx.send(&mut burst)?;
    }
    Ok(())
}

/// Runs jobs in threads of their own while another reads what there is to be read; the first error.
fn at_once<'a>(side: &Side, jobs: Vec<Box<dyn FnOnce() -> Verdict + Send + 'a>>) -> Verdict {
    let (stats, control) = (side.port().stats(), side.port().control());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| -> Verdict {
            let mut last = 0;
            while !over.load(Ordering::Acquire) {
                let now = stats.read().port.rx_packets.unwrap_or(0);
                ensure!(now >= last, "rx_packets went back from {last} to {now}");
                last = now;
                ensure!(control.link()?.up, "the link went down");
                ensure!(!control.promiscuous(), "promiscuous mode is on");
                // Often enough to meet every kind of call, without taking a processor for itself.
                std::thread::sleep(Duration::from_micros(100));
            }
            Ok(())
        });
        let jobs: Vec<_> = jobs.into_iter().map(|job| scope.spawn(job)).collect();
        let results: Vec<Verdict> = jobs
            .into_iter()
            .map(|job| job.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect();
        over.store(true, Ordering::Release);
        let read = reading.join().map_err(|_| "the reading thread panicked")?;
        results.into_iter().chain([read]).collect()
    })
}

fn from_threads(ctx: &Ctx) -> Verdict {
    const COUNT: u32 = 3000;
    let (mut a, mut b) = ctx.pair_with("queues=2", "queues=2")?;
    let (to, pool) = (b.mac(), a.pool().clone());
    let received = AtomicU64::new(0);
    let seen: Vec<AtomicBool> = (0..2 * COUNT).map(|_| AtomicBool::new(false)).collect();
    let mut rx = std::mem::take(&mut b.rx);
    let mut jobs: Vec<Box<dyn FnOnce() -> Verdict + Send + '_>> = Vec::new();
    for (sender, tx) in (0..2).zip(&mut a.tx) {
        // Flows of even and odd ports, so that each receiver gets some.
        let frame =
            move |number: u32| of_flow(to, (number % 32 * 2 + sender) as u16, number * 2 + sender);
        let (pool, received) = (pool.clone(), &received);
        jobs.push(Box::new(move || send_all(tx, &pool, frame, (COUNT, 2), received)));
    }
    for rx in &mut rx {
        let (received, seen) = (&received, &seen);
        jobs.push(Box::new(move || {
            let mut burst = Burst::new();
            let mut last: HashMap<u16, u32> = HashMap::new();
            let deadline = Instant::now() + PATIENCE;
            while received.load(Ordering::Acquire) < 2 * u64::from(COUNT) {
                ensure!(Instant::now() < deadline, "{received:?} frames came");
                // The other queue may get the last frames: nothing tells this one.
                rx.wait(Duration::from_millis(5))?;
                rx.recv(&mut burst)?;
                for packet in &burst {
                    let (flow, number) = flow_of(packet.data()).ok_or("a frame never sent")?;
                    let twice = seen[number as usize].swap(true, Ordering::Relaxed);
                    ensure!(!twice, "frame {number} came twice");
                    let before = last.insert(flow, number);
                    ensure!(before < Some(number), "flow {flow}: {number} after {before:?}");
                }
                received.fetch_add(burst.len() as u64, Ordering::AcqRel);
                burst.clear();
            }
            Ok(())
        }));
    }
    at_once(&b, jobs)?;
    same!(b.counters().rx_packets, Some(2 * u64::from(COUNT)), "frames counted as received");
    same!(b.counters().rx_dropped(), 0, "drops");
    Ok(())
}

/// Receives `count` numbered frames in order.
fn receive_all(rx: &mut RxQueue, count: u32, received: &AtomicU64) -> Verdict {
    let mut burst = Burst::new();
    let mut next = 0;
    while next < count {
        woken(rx)?;
        rx.recv(&mut burst)?;
        for packet in burst.drain() {
            same!(frames::number(packet.data()), Some(next), "the next frame");
            next += 1;
        }
        received.store(next.into(), Ordering::Release);
    }
    Ok(())
}

fn each_direction(ctx: &Ctx) -> Verdict {
    const COUNT: u32 = 5000;
    let (mut a, mut b) = ctx.pair()?;
    let (to_a, to_b) = (a.mac(), b.mac());
    let (pool_a, pool_b) = (a.pool().clone(), b.pool().clone());
    let received = [AtomicU64::new(0), AtomicU64::new(0)];
    let (mut rx_a, mut tx_a) = (a.rx.swap_remove(0), a.tx.swap_remove(0));
    let (mut rx_b, mut tx_b) = (b.rx.swap_remove(0), b.tx.swap_remove(0));
    let [at_a, at_b] = &received;
    at_once(
        &b,
        vec![
            Box::new(|| {
                send_all(&mut tx_a, &pool_a, |n| frames::numbered(to_b, n, 60), (COUNT, 1), at_b)
            }),
            Box::new(|| {
                send_all(&mut tx_b, &pool_b, |n| frames::numbered(to_a, n, 60), (COUNT, 1), at_a)
            }),
            Box::new(|| receive_all(&mut rx_a, COUNT, at_a)),
            Box::new(|| receive_all(&mut rx_b, COUNT, at_b)),
        ],
    )?;
    for side in [&a, &b] {
        let counters = side.counters();
        let counted = (counters.rx_packets, counters.tx_packets, counters.rx_dropped());
        same!(counted, (Some(COUNT.into()), Some(COUNT.into()), 0), "received, sent, dropped");
    }
    Ok(())
}

fn handed_over(ctx: &Ctx) -> Verdict {
    let (mut a, b) = ctx.pair()?;
    let (to, pool) = (b.mac(), a.pool().clone());
    let (_port, mut rx, ..) = b.into_parts();
    let (mut rx, mut tx) = (rx.swap_remove(0), a.tx.swap_remove(0));
    for round in 0..50 {
        let frame = frames::numbered(to, round, 60);
        let pool = pool.clone();
        let handed = std::thread::spawn(move || {
            let packet = pool.packet(&frame).ok_or("the pool is empty")?;
            ensure!(tx.send_one(packet)?.is_none(), "the frame was not accepted");
            woken(&mut rx)?;
            Ok((rx, tx))
        });
        (rx, tx) = handed.join().map_err(|_| Failure("a thread panicked".into()))??;
        let mut burst = Burst::new();
        same!(rx.recv(&mut burst)?, 1, "frames in round {round}");
        same!(frames::number(burst[0].data()), Some(round), "the frame");
    }
    Ok(())
}
