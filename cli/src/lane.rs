//! A lane: from one receive queue to one transmit queue, per burst, with nothing lost silently. `fwd` has two for each
//! pair of queues, `reflect` one.
//!
//! What the output does not take stays in the burst, and the lane receives nothing more until it is gone: it is tried again
//! for [`PATIENCE`], then dropped and counted. From then on, until the output takes something, each burst is tried only
//! once: an output that is down must not hold up the input. A frame that the output can never take (too long for its
//! maximum, say) is taken out, counted by its cause, and the lane goes on behind it (contract T4).

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use anyport::{Burst, Error, RxQueue, TxQueue};

use crate::report::Drops;
use crate::run::{Ladder, Run, recv_at_most};
use crate::wire::clock;

/// How long a burst is offered to an output that takes nothing.
const PATIENCE: Duration = Duration::from_millis(10);

/// The pause between attempts while nothing else is to do.
const PAUSE: Duration = Duration::from_micros(20);

/// What is done to received frames before they are sent; it may take some out.
pub type Change = fn(burst: &mut Burst);

/// A receive queue, a transmit queue, and what is under way between them.
pub struct Lane {
    /// The port that it receives from.
    from: String,
    rx: RxQueue,
    tx: TxQueue,
    change: Option<Change>,
    burst: Burst,
    /// The input has ended.
    ended: bool,
    /// Since when the output has taken nothing.
    full_since: Option<Instant>,
    /// The output has taken nothing for longer than it is waited for.
    blocked: bool,
    totals: Totals,
}

/// What a lane has moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Which lane it was.
    pub lane: usize,
    /// Frames received.
    pub received: u64,
    /// Frames that the output accepted.
    pub sent: u64,
    /// Frames that the lane's change took out.
    pub taken_out: u64,
    /// Dropped: the output took nothing for too long.
    pub output_full: u64,
    /// Dropped: longer than the output's maximum frame.
    pub too_long: u64,
    /// Dropped: cannot be sent on the output for another reason.
    pub unsendable: u64,
}

impl Totals {
    /// Adds another lane's.
    pub fn add(&mut self, other: &Totals) {
        self.received += other.received;
        self.sent += other.sent;
        self.taken_out += other.taken_out;
        self.output_full += other.output_full;
        self.too_long += other.too_long;
        self.unsendable += other.unsendable;
    }

    /// Frames that the lane dropped, by cause.
    pub fn drops(&self) -> Drops {
        Drops::from([
            ("fwd_output_full", self.output_full),
            ("fwd_too_long", self.too_long),
            ("fwd_unsendable", self.unsendable),
        ])
    }
}

impl Lane {
    /// A lane from a queue of the port of that name; `number` comes back in its totals.
    pub fn new(
        number: usize,
        from: &str,
        rx: RxQueue,
        tx: TxQueue,
        change: Option<Change>,
    ) -> Lane {
        Lane {
            from: from.to_owned(),
            rx,
            tx,
            change,
            burst: Burst::new(),
            ended: false,
            full_since: None,
            blocked: false,
            totals: Totals { lane: number, ..Totals::default() },
        }
    }

    /// The lane's number.
    pub fn number(&self) -> usize {
        self.totals.lane
    }

    /// Whether nothing more will come out of it.
    fn is_over(&self) -> bool {
        self.ended && self.burst.is_empty()
    }

    /// One burst, if there is one: how many frames came or went.
    #[inline]
    fn step(&mut self, run: &Run) -> anyport::Result<u64> {
        if !self.burst.is_empty() {
            let sent = self.push_out(run)?;
            if !self.burst.is_empty() {
                return Ok(sent);
            }
        }
        let room = self.burst.room() as u64;
        let claimed = if self.ended { 0 } else { run.budget().claim(room) };
        if claimed == 0 {
            return Ok(0);
        }
        let received = recv_at_most(&mut self.rx, &mut self.burst, claimed);
        run.settle(claimed, *received.as_ref().unwrap_or(&0) as u64);
        let received = match received {
            Ok(0) => return Ok(0),
            Ok(received) => received,
            Err(Error::Ended) => {
                self.ended = true;
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        self.totals.received += received as u64;
        if let Some(change) = self.change {
            change(&mut self.burst);
            self.totals.taken_out += (received - self.burst.len()) as u64;
        }
        self.push_out(run)?;
        Ok(received as u64)
    }

    /// Offers the burst to the output; how many frames left it. What the output can never take is dropped.
    #[inline]
    fn push_out(&mut self, run: &Run) -> anyport::Result<u64> {
        let before = self.burst.len();
        // Each round takes at least one frame out of the burst, or ends.
        while !self.burst.is_empty() {
            match self.tx.send(&mut self.burst) {
                Ok(0) => {
                    self.full(run);
                    break;
                }
                Ok(sent) => {
                    self.totals.sent += sent as u64;
                    (self.full_since, self.blocked) = (None, false);
                }
                Err(error) => self.refused(run, error)?,
            }
        }
        Ok((before - self.burst.len()) as u64)
    }

    /// The output took nothing.
    #[cold]
    fn full(&mut self, run: &Run) {
        let since = self.full_since.get_or_insert_with(Instant::now);
        if self.blocked || since.elapsed() >= PATIENCE {
            self.blocked = true;
            self.give_up(run);
        }
    }

    fn give_up(&mut self, run: &Run) {
        let frames = self.burst.len() as u64;
        self.totals.output_full += frames;
        run.lost(frames);
        self.burst.clear();
    }

    /// The output refused the first frame, or everything.
    #[cold]
    fn refused(&mut self, run: &Run, error: Error) -> anyport::Result<()> {
        match error {
            Error::FrameTooLong { .. } => self.totals.too_long += 1,
            Error::FrameTooShort { .. } | Error::Unsendable { .. } | Error::OffloadOff { .. } => {
                self.totals.unsendable += 1;
            }
            other => return Err(other),
        }
        run.lost(1);
        drop(self.burst.pop_front());
        Ok(())
    }

    /// The end: what is under way is offered once more, for a bounded time.
    fn finish(mut self, run: &Run) -> Totals {
        let deadline = Instant::now() + PATIENCE;
        while !self.burst.is_empty() && Instant::now() < deadline {
            match self.push_out(run) {
                Ok(0) => std::thread::sleep(PAUSE),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.give_up(run);
        self.totals
    }
}

/// Works on lanes until the run ends or all inputs have: the body of a worker.
pub fn work(mut lanes: Vec<Lane>, run: &Run) -> (Vec<Totals>, Result<()>) {
    lanes.iter().for_each(|lane| run.wakes(&lane.rx));
    let result = pump(&mut lanes, run);
    (lanes.into_iter().map(|lane| lane.finish(run)).collect(), result)
}

fn pump(lanes: &mut [Lane], run: &Run) -> Result<()> {
    let mut ladder = Ladder::default();
    while !run.stopping() && !lanes.iter().all(Lane::is_over) {
        let mut moved = 0;
        for lane in &mut *lanes {
            moved += lane.step(run)?;
        }
        if moved > 0 {
            run.saw(clock::now());
            ladder.busy();
        } else if lanes.iter().any(|lane| !lane.burst.is_empty()) {
            std::thread::sleep(PAUSE);
        } else if !ladder.poll_on() {
            let open = lanes.iter_mut().filter(|lane| !lane.ended);
            let mut queues: Vec<_> = open.map(|lane| (lane.from.as_str(), &mut lane.rx)).collect();
            ladder.sleep(&mut queues).context("waiting for frames")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::EndedBy;
    use anyport::{Pool, Port};

    fn open(spec: &str, pool: &Pool) -> (Port, RxQueue, TxQueue) {
        let mut port = anyport_backends::registry().open_with(spec, pool).unwrap();
        let (rx, tx) = port.start().unwrap().into_pair();
        (port, rx, tx)
    }

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.resize(length, 7);
        frame
    }

    fn send(tx: &mut TxQueue, pool: &Pool, lengths: &[usize]) {
        for length in lengths {
            assert!(tx.send_one(pool.packet(&frame(*length)).unwrap()).unwrap().is_none());
        }
    }

    fn step_all(lane: &mut Lane, run: &Run) -> u64 {
        (0..10).map(|_| lane.step(run).unwrap()).sum()
    }

    #[test]
    fn frames_that_the_output_cannot_take_are_counted_and_do_not_wedge() {
        let pool = Pool::builder().frames(256).build().unwrap();
        let (_far, _, mut source) = open("loop:lane-long-in.0", &pool);
        let (_a, rx, _) = open("loop:lane-long-in.1", &pool);
        let (_b, _, tx) = open("loop:lane-long-out.0,max_frame=600", &pool);
        let (_sink, mut out, _) = open("loop:lane-long-out.1", &pool);
        send(&mut source, &pool, &[100, 601, 600, 1514, 1514, 60]);
        let run = Run::new(None);
        let mut lane = Lane::new(4, "in", rx, tx, None);
        step_all(&mut lane, &run);
        let totals = lane.finish(&run);
        assert_eq!((totals.lane, totals.received, totals.sent, totals.too_long), (4, 6, 3, 3));
        let mut burst = Burst::new();
        assert_eq!(out.recv(&mut burst).unwrap(), 3);
        assert_eq!(burst.iter().map(|p| p.len()).collect::<Vec<_>>(), [100, 600, 60]);
        assert_eq!(run.lost_so_far(), 3);
    }

    #[test]
    fn an_output_that_takes_nothing_is_waited_for_and_then_counted() {
        let pool = Pool::builder().frames(1024).build().unwrap();
        let (_far, _, mut source) = open("loop:lane-full-in.0", &pool);
        let (_a, rx, _) = open("loop:lane-full-in.1", &pool);
        let (out, _, tx) = open("loop:lane-full-out.0", &pool);
        let (_sink, mut received, _) = open("loop:lane-full-out.1", &pool);
        let cable = anyport_loopback::Cable::named("lane-full-out");
        cable.set_link(false);
        let run = Run::new(None);
        let mut lane = Lane::new(0, "in", rx, tx, None);
        send(&mut source, &pool, &[60; 10]);
        for _ in 0..100_000 {
            lane.step(&run).unwrap();
            if lane.totals.output_full > 0 {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        assert_eq!((lane.totals.received, lane.totals.output_full), (10, 10));
        // Now it is not waited for any more.
        send(&mut source, &pool, &[60; 5]);
        step_all(&mut lane, &run);
        assert_eq!((lane.totals.output_full, lane.burst.len()), (15, 0));
        cable.set_link(true);
        out.control().wait_link_up(Duration::from_secs(5)).unwrap();
        // The carrier is looked at every 50 ms; until then frames are lost, and counted.
        let mut offered = 15;
        let mut burst = Burst::new();
        for _ in 0..10_000 {
            send(&mut source, &pool, &[60]);
            offered += 1;
            lane.step(&run).unwrap();
            if received.recv(&mut burst).unwrap() > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let totals = lane.finish(&run);
        assert_eq!((totals.sent, burst.len()), (1, 1));
        assert_eq!((totals.received, totals.output_full), (offered, offered - 1));
    }

    #[test]
    fn a_count_is_exact_over_lanes() {
        let pool = Pool::builder().frames(1024).build().unwrap();
        let (_far, _, mut source) = open("loop:lane-count-in.0", &pool);
        let (_a, rx, _) = open("loop:lane-count-in.1", &pool);
        let (_b, _, tx) = open("loop:lane-count-out.0", &pool);
        let (_sink, mut out, _) = open("loop:lane-count-out.1", &pool);
        send(&mut source, &pool, &[60; 200]);
        let run = Run::new(Some(70));
        let (totals, result) = work(vec![Lane::new(0, "in", rx, tx, None)], &run);
        result.unwrap();
        assert_eq!((totals[0].received, totals[0].sent, run.ended_by()), (70, 70, EndedBy::Count));
        let mut burst = Burst::with_capacity(256);
        while out.recv(&mut burst).unwrap() > 0 {}
        assert_eq!(burst.len(), 70);
    }
}
