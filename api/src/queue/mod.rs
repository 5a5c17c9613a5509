//! Queues: what a started port hands out, and where the contract is kept on the way of every burst.
//!
//! A queue handle ([`RxQueue`], [`TxQueue`]) is owned by one thread at a time (`&mut self`, contract Q2). It shares a
//! *cell* with its port: the driver's queue, caches and counters, behind a `gate`. `stop` takes the
//! cell's core out, so a handle that outlives its port answers `Closed` and nothing else (contract L10).

pub(crate) mod gate;
mod rx;
mod tx;

pub use rx::RxQueue;
pub(crate) use rx::{Look, RxCell, RxCore, RxPlan};
pub(crate) use tx::{TxCell, TxCore, TxPlan};
pub use tx::{TxQueue, TxTimestamp};

use std::sync::atomic::{AtomicU64, Ordering};

/// Who does an offload on a port, resolved from configuration and capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    Device,
    Software,
}

/// A counter that one thread writes and any may read: no read-modify-write on the fast path.
#[derive(Debug, Default)]
pub(crate) struct Cell64(AtomicU64);

impl Cell64 {
    #[inline]
    pub fn add(&self, value: u64) {
        // Only the gate's holder writes, so a load and a store are enough.
        self.0.store(self.0.load(Ordering::Relaxed) + value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the common layer counts per receive queue. It lies on cache lines of its own, apart from everything that
/// the fast path reads, and outlives stop and start (contract L5).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RxCounts {
    pub packets: Cell64,
    pub bytes: Cell64,
    pub too_long: Cell64,
    pub too_short: Cell64,
    pub filtered: Cell64,
}

/// What the common layer counts per transmit queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct TxCounts {
    pub packets: Cell64,
    pub bytes: Cell64,
    pub copied: Cell64,
    /// Accepted, then discarded by stop.
    pub discarded: Cell64,
    pub discarded_bytes: Cell64,
}
