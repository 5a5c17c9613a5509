//! What all queues of a started port share: the interface, and what came of frames that only the backend knows of.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyport::pool::Lent;
use anyport::{Counters, Error, Result};
use anyport_netdev::error::{explain, gone};
use anyport_netdev::{Ask, Interface};

use crate::ring::Broken;
use crate::socket::{Socket, Statistics};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the kernel does its part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// The device moves frames itself.
    pub zero_copy: bool,
    /// The driver's work is done within this process's system calls, as far as they come often enough.
    pub busy_poll: bool,
    /// Frames may lie in several descriptors.
    pub segments: bool,
}

/// The interface of a started port.
pub(crate) struct Device {
    pub title: String,
    interface: Interface,
    /// Flags know of the loss of a carrier at once.
    prompt: bool,
    /// A socket was unbound by the kernel: the interface was taken away, whether it is there again or not.
    lost: AtomicBool,
    /// Frames that the kernel still had when their queue went.
    left: Mutex<Vec<Lent>>,
}

impl Device {
    pub fn new(title: &str, interface: Interface, prompt: bool) -> Device {
        Device {
            title: title.into(),
            interface,
            prompt,
            lost: AtomicBool::new(false),
            left: Mutex::default(),
        }
    }

    /// Whether frames can pass. `socket` is the one of the queue that asks.
    pub fn link_up(&self, socket: &Socket, ask: Ask) -> Result<bool> {
        if socket.take_error() == Some(libc::ENETDOWN) {
            self.lost.store(true, Ordering::Relaxed);
        }
        if self.lost.load(Ordering::Relaxed) {
            return Err(gone(&self.title));
        }
        let reading = |error| explain(&self.title, "reading the link", error);
        let flags = self.interface.flags().map_err(reading)?;
        self.interface.can_pass(flags, self.prompt, ask).map_err(reading)
    }

    /// Keeps what a queue that goes has lent, until the kernel has let go of it.
    pub fn keep(&self, lent: Lent) {
        lock(&self.left).push(lent);
    }

    /// Bytes to be sent that queues that have gone had lent.
    pub fn left_bytes(&self) -> u64 {
        lock(&self.left).iter().map(|lent| lent.outstanding().bytes).sum()
    }

    /// What queues that have gone had lent.
    pub fn take_left(&self) -> Vec<Lent> {
        std::mem::take(&mut lock(&self.left))
    }

    /// The error of a ring that says what cannot be, or of a frame that comes back and was never lent (contract F8).
    #[cold]
    pub fn broken(&self, what: &str) -> Error {
        let reason = format!(
            "the kernel's {what}: its memory was written to by somebody else, or it is broken"
        );
        Error::Backend { device: self.title.clone(), reason }
    }

    /// As [`broken`](Device::broken), for indices. The error is made only where there is one: this is on the way of every burst.
    #[inline]
    pub fn broken_ring(&self, which: &'static str) -> impl FnOnce(Broken) -> Error {
        move |Broken| self.broken(&format!("{which} ring has an index that cannot be"))
    }
}

/// What became of frames that a queue did not get, by cause.
///
/// From the kernel's statistics (`net/xdp/xsk.c`, contract S4): a frame that finds the fill ring empty counts there as dropped and,
/// in copy mode, as that. What is dropped otherwise was too long for a frame of the pool. A frame that may lie in several is
/// never too long, and finds the fill ring empty also where there are too few for all of it, which counts once.
#[derive(Debug, Clone, Copy, Default)]
struct Missed {
    ring_full: u64,
    no_buffer: u64,
    too_long: u64,
    invalid: u64,
}

impl Missed {
    fn of(all: &Statistics, ways: Ways) -> Missed {
        let (no_buffer, too_long) = match (ways.zero_copy, ways.segments) {
            // A driver that asks for a frame in advance and gets none has lost nothing by that.
            (true, _) => (0, all.dropped),
            (false, true) => (all.dropped, 0),
            (false, false) => (all.fill_empty, all.dropped.saturating_sub(all.fill_empty)),
        };
        let invalid = all.invalid_fill + all.invalid_tx;
        Missed { ring_full: all.ring_full, no_buffer, too_long, invalid }
    }

    fn plus(self, other: Missed) -> Missed {
        Missed {
            ring_full: self.ring_full + other.ring_full,
            no_buffer: self.no_buffer + other.no_buffer,
            too_long: self.too_long + other.too_long,
            invalid: self.invalid + other.invalid,
        }
    }
}

/// What one queue has counted since the port was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// By sockets that are closed by now.
    earlier: Mutex<Missed>,
    pub tx_dropped: AtomicU64,
    pub tx_dropped_bytes: AtomicU64,
    pub lost: AtomicU64,
}

impl Counts {
    /// Adds what a socket had counted when it was closed.
    pub fn settle(&self, last: &Statistics, ways: Ways) {
        let mut earlier = lock(&self.earlier);
        *earlier = earlier.plus(Missed::of(last, ways));
    }

    fn missed(&self, now: &Statistics, ways: Ways) -> Missed {
        lock(&self.earlier).plus(Missed::of(now, ways))
    }

    /// Receive counters, with those of the socket that is open now, which works like that.
    pub fn rx(&self, now: &Statistics, ways: Ways) -> Counters {
        let missed = self.missed(now, ways);
        let mut counters = Counters::default();
        counters.rx_ring_full = Some(missed.ring_full);
        // What a device drops for want of a frame is the device's to count (contract S2).
        counters.rx_no_buffer = (!ways.zero_copy).then_some(missed.no_buffer);
        counters.rx_too_long = Some(missed.too_long);
        counters
    }

    /// Descriptors that the kernel did not take, so far.
    pub fn invalid(&self, now: &Statistics, ways: Ways) -> u64 {
        self.missed(now, ways).invalid
    }

    /// Transmit counters.
    pub fn tx(&self) -> Counters {
        let mut counters = Counters::default();
        counters.tx_dropped = Some(self.tx_dropped.load(Ordering::Relaxed));
        counters.tx_dropped_bytes = Some(self.tx_dropped_bytes.load(Ordering::Relaxed));
        counters.lost = Some(self.lost.load(Ordering::Relaxed));
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_has_one_cause() {
        let all = Statistics { dropped: 7, fill_empty: 4, ring_full: 2, ..Statistics::default() };
        let causes = |zero_copy, segments| {
            let missed = Missed::of(&all, Ways { zero_copy, segments, busy_poll: false });
            (missed.no_buffer, missed.too_long, missed.ring_full)
        };
        assert_eq!(causes(false, false), (4, 3, 2));
        assert_eq!(causes(false, true), (7, 0, 2));
        assert_eq!(causes(true, false), (0, 7, 2));
    }

    #[test]
    fn what_closed_sockets_had_counted_stays() {
        let counts = Counts::default();
        let (whole, segments) = (Ways::default(), Ways { segments: true, ..Ways::default() });
        let of = |dropped| Statistics { dropped, fill_empty: 1, ..Statistics::default() };
        counts.settle(&of(3), whole);
        let now = counts.rx(&of(5), segments);
        assert_eq!((now.rx_no_buffer, now.rx_too_long), (Some(6), Some(2)));
    }
}
