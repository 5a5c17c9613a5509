//! What all queues of a started port share: the interface, and what came of frames that only the backend knows of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyport::pool::Lent;
use anyport::{Counters, Error, Result};
use anyport_netdev::Interface;
use anyport_netdev::error::explain;

use crate::ring::Broken;
use crate::socket::Statistics;

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

/// When the device itself is asked for its carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The flags will do.
    Never,
    /// If its flags may be late.
    IfLate,
    /// In any case. The answer comes when the kernel has done all that a change of the carrier brings along.
    Always,
}

/// The interface of a started port.
pub(crate) struct Device {
    pub title: String,
    interface: Interface,
    /// Flags know of the loss of a carrier at once.
    prompt: bool,
    /// Frames that the kernel still had when their queue went.
    left: Mutex<Vec<Lent>>,
}

impl Device {
    pub fn new(title: &str, interface: Interface, prompt: bool) -> Device {
        Device { title: title.into(), interface, prompt, left: Mutex::default() }
    }

    /// Whether frames can pass.
    ///
    /// The interface's flags may know of a lost carrier a second late; the device itself does not, but asking it takes the
    /// kernel's lock on all network configuration, so that is not for every wait (contract T8).
    pub fn link_up(&self, ask: Ask) -> Result<bool> {
        let reading = |error| explain(&self.title, "reading the link", error);
        let flags = self.interface.flags().map_err(reading)?;
        if !(flags.up && flags.running) {
            return Ok(false);
        }
        let ask = match ask {
            Ask::Never => false,
            Ask::IfLate => !self.prompt,
            Ask::Always => true,
        };
        Ok(!ask || self.interface.carrier().map_err(reading)? != Some(false))
    }

    /// Keeps what a queue that goes has lent, until the kernel has let go of it.
    pub fn keep(&self, lent: Lent) {
        lock(&self.left).push(lent);
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

/// What one queue has counted since the port was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Of sockets that are closed by now.
    earlier: Mutex<Statistics>,
    pub tx_dropped: AtomicU64,
    pub tx_dropped_bytes: AtomicU64,
    pub lost: AtomicU64,
}

impl Counts {
    /// Adds what a socket had counted when it was closed.
    pub fn settle(&self, last: &Statistics) {
        let mut earlier = lock(&self.earlier);
        *earlier = earlier.plus(last);
    }

    /// Receive counters, with those of the socket that is open now.
    ///
    /// A frame that finds the fill ring empty counts twice in the kernel's statistics, as dropped and as that; what is dropped
    /// otherwise was too long for a frame of the pool (`net/xdp/xsk.c`, contract S4).
    pub fn rx(&self, now: &Statistics) -> Counters {
        let all = lock(&self.earlier).plus(now);
        let mut counters = Counters::default();
        counters.rx_ring_full = Some(all.ring_full);
        counters.rx_no_buffer = Some(all.fill_empty);
        counters.rx_too_long = Some(all.dropped.saturating_sub(all.fill_empty));
        counters
    }

    /// Descriptors that the kernel did not take, so far. Their frames stay lent until stop, which counts those that were to be
    /// sent as dropped.
    pub fn invalid(&self, now: &Statistics) -> u64 {
        let all = lock(&self.earlier).plus(now);
        all.invalid_fill + all.invalid_tx
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
