//! The run of a command that moves packets: what ends it, and who watches.
//!
//! ```text
//!   main thread   supervise: waits for signals, the deadline, idleness, the workers' end; shows the live line
//!   workers       one per queue pair (or as many as cores were named): move packets until Run::stopping
//!   signal thread passes SIGINT and SIGTERM on to the main thread
//! ```
//!
//! Everything that ends a run goes through [`Run::end`], which wakes workers out of their waits; the first reason is the
//! one that is told. Workers return their totals whatever happened, so a run that fails still has totals to show.

mod budget;
mod ladder;
pub mod live;
mod pace;
mod receive;
mod retry;
pub mod signals;
mod supervise;
mod trim;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyport::RxQueue;
use anyport::wait::Waker;
use serde::Serialize;

pub use budget::Budget;
pub use ladder::Ladder;
pub use pace::{Pacer, precise_sleeps, wait_until};
pub use receive::{receive_all, recv_at_most};
pub use retry::Retry;
pub use signals::Signals;
pub use supervise::{Limits, Worker, supervise};

use crate::wire::clock;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// `--count` was reached.
    Count,
    /// `--duration` was over.
    Duration,
    /// No frame came for as long as `--idle` says.
    Idle,
    /// SIGINT or SIGTERM.
    Signal,
    /// The input has ended.
    EndOfInput,
    /// Whoever read the output has gone.
    OutputClosed,
    /// Something failed.
    Error,
}

/// What the workers of a run and the main thread share.
#[derive(Debug, Default)]
pub struct Run {
    stop: AtomicBool,
    reason: OnceLock<EndedBy>,
    wakers: Mutex<Vec<Waker>>,
    budget: Budget,
    /// When the first and the last burst with frames that count were seen, by the monotonic clock; 0: none yet.
    first: AtomicU64,
    last: AtomicU64,
    /// Frames that the command itself lost so far, for the live line.
    lost: AtomicU64,
}

impl Run {
    /// A run that ends after so many frames, if a count is given.
    pub fn new(count: Option<u64>) -> Run {
        Run { budget: Budget::new(count), ..Run::default() }
    }

    /// Whether workers are to end.
    #[inline]
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the run; only the first reason counts.
    pub fn end(&self, why: EndedBy) {
        let _ = self.reason.set(why);
        self.stop.store(true, Ordering::Release);
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.iter().for_each(Waker::wake);
    }

    /// Why it ended; the end of the input if nobody said otherwise.
    pub fn ended_by(&self) -> EndedBy {
        *self.reason.get().unwrap_or(&EndedBy::EndOfInput)
    }

    /// Lets the end of the run wake the owner of a queue out of its wait.
    pub fn wakes(&self, queue: &RxQueue) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.push(queue.waker());
        if self.stopping() {
            wakers.iter().for_each(Waker::wake);
        }
    }

    /// The frames that `--count` leaves.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Settles a claim on the budget, and ends the run if that was the last frame of it.
    #[inline]
    pub fn settle(&self, claimed: u64, used: u64) {
        if self.budget.settle(claimed, used) {
            self.end(EndedBy::Count);
        }
    }

    /// Notes that frames came (or left) at `now`.
    #[inline]
    pub fn saw(&self, now: u64) {
        if self.first.load(Ordering::Relaxed) == 0 {
            let _ = self.first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.last.store(now, Ordering::Relaxed);
    }

    /// Notes frames that the command itself loses.
    pub fn lost(&self, frames: u64) {
        self.lost.fetch_add(frames, Ordering::Relaxed);
    }

    /// Frames that the command itself lost so far.
    pub fn lost_so_far(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// From the first to the last burst with frames.
    pub fn traffic_time(&self) -> Duration {
        let (first, last) = (self.first.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        Duration::from_nanos(last.saturating_sub(first))
    }

    /// What is wrong with a sender's run that was to last a while, if the port took nothing (and nothing was left out)
    /// in all that time.
    pub fn sent_nothing(&self, port: &str, frames: u64) -> Option<anyhow::Error> {
        (self.ended_by() == EndedBy::Duration && frames == 0)
            .then(|| anyhow::anyhow!("{port} took no frame in that time; is its link down?"))
    }

    /// How long ago the last frames were seen; `None` before the first ones.
    fn idle_for(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed);
        (last != 0).then(|| Duration::from_nanos(clock::now().saturating_sub(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_told() {
        let run = Run::new(Some(3));
        assert_eq!(run.ended_by(), EndedBy::EndOfInput);
        let claimed = run.budget().claim(64);
        run.settle(claimed, 2);
        assert!(!run.stopping());
        let claimed = run.budget().claim(64);
        run.settle(claimed, 1);
        assert!(run.stopping());
        run.end(EndedBy::Signal);
        assert_eq!(run.ended_by(), EndedBy::Count);
    }

    #[test]
    fn a_sender_that_sent_nothing_failed_unless_it_was_interrupted() {
        let run = Run::new(None);
        run.end(EndedBy::Duration);
        assert!(run.sent_nothing("pcap:eth0", 1).is_none());
        let error = run.sent_nothing("pcap:eth0", 0).unwrap().to_string();
        assert!(error.contains("pcap:eth0"), "{error}");
        let run = Run::new(None);
        run.end(EndedBy::Signal);
        assert!(run.sent_nothing("pcap:eth0", 0).is_none());
    }

    #[test]
    fn time_is_from_the_first_to_the_last_frame() {
        let run = Run::new(None);
        assert_eq!((run.traffic_time(), run.idle_for()), (Duration::ZERO, None));
        run.saw(1000);
        run.saw(3000);
        assert_eq!(run.traffic_time(), Duration::from_nanos(2000));
        assert!(run.idle_for().is_some());
    }
}
