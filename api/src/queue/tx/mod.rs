//! The transmit side: the handle that the application owns, and the cell that it shares with its port.
//!
//! Here are the gate and what is done for the queue as a whole; what happens to a burst between the application and the driver
//! is in `pipeline`.

mod pipeline;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::gate::Gated;
use crate::burst::Burst;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Refused, Result};
use crate::packet::{Packet, Timestamp};
use crate::pool::PoolCache;
use crate::port::PortShared;
pub(crate) use pipeline::{TxCore, TxPlan};

/// The transmit side of one queue pair; owned by one thread at a time.
///
/// A sent packet is gone (contract P2); this does not compile:
///
/// ```compile_fail
/// fn twice(tx: &mut anyport::TxQueue, packet: anyport::Packet) {
///     let mut burst = anyport::Burst::new();
///     burst.push(packet).unwrap();
///     tx.send(&mut burst).unwrap();
///     packet.data();
/// }
/// ```
pub struct TxQueue {
    cell: Arc<TxCell>,
    /// The port's other transmit queues, if the device may have frames of theirs: what it has completed of them goes back
    /// to its pool by calls on this one, too (contract T6). They are kept here, and not in the cell: cells that held each
    /// other would never be freed.
    others: Vec<Arc<TxCell>>,
    /// For `send_one`.
    one: Burst,
}

/// When a packet that asked for it left (contract O4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxTimestamp {
    /// The packet's mark, 0 if it had none.
    pub mark: u32,
    /// When.
    pub at: Timestamp,
}

/// What a queue handle and its port share.
pub(crate) struct TxCell {
    pub core: Gated<TxCore>,
    /// Whether the device may still have frames; so that others need not enter to find out that it has none.
    outstanding: AtomicBool,
    pub port: Arc<PortShared>,
}

impl TxCell {
    pub fn new(port: Arc<PortShared>, core: TxCore) -> Arc<TxCell> {
        Arc::new(TxCell { core: Gated::new(core), outstanding: AtomicBool::new(false), port })
    }

    /// Runs a call inside the gate.
    #[inline]
    fn with<T>(&self, call: impl FnOnce(&mut TxCore) -> Result<T>) -> Result<T> {
        call(&mut *self.core.enter().inspect_err(|_| self.let_go())?)
    }

    /// As with the receive side's cell.
    #[cold]
    fn let_go(&self) {
        if self.port.is_closed() {
            drop(self.core.take_idle());
        }
    }

    /// Gives completed frames back, if the owner is not inside (it does so itself then).
    pub fn sweep(&self) {
        if self.outstanding.load(Ordering::Relaxed)
            && let Some(mut core) = self.core.try_enter()
        {
            self.reclaim(&mut core);
        }
    }

    fn reclaim(&self, core: &mut TxCore) {
        let left = core.driver.reclaim(&mut core.caches).unwrap_or_default();
        self.outstanding.store(left.packets > 0, Ordering::Relaxed);
    }

    /// Gives the caches' frames back, so that none is stranded while the port's owner sleeps (contract P1); whether the device
    /// still has frames, and has to be looked after (contract T2, T6).
    pub fn settle(&self) -> bool {
        if let Some(mut core) = self.core.try_enter() {
            if self.outstanding.load(Ordering::Relaxed) {
                self.reclaim(&mut core);
            }
            core.caches.iter_mut().for_each(PoolCache::flush);
        }
        self.outstanding.load(Ordering::Relaxed)
    }
}

impl TxQueue {
    /// A handle to queue `index` of a port.
    pub(crate) fn new(cells: &[Arc<TxCell>], index: usize) -> TxQueue {
        let cell = cells[index].clone();
        let mut others = Vec::new();
        if cell.port.defers_tx() {
            others.extend_from_slice(&cells[..index]);
            others.extend_from_slice(&cells[index + 1..]);
        }
        TxQueue { cell, others, one: Burst::with_capacity(1) }
    }

    /// Brings frames home that the device has completed of other queues.
    #[inline]
    fn sweep_others(&self) {
        self.others.iter().for_each(|cell| cell.sweep());
    }

    /// Sends packets from the front of the burst; how many. The others stay the caller's, in order, unchanged
    /// (contract T1). Never blocks: a full queue, or a link that is down, takes fewer, down to 0 (T3, T8).
    ///
    /// # Errors
    /// Nothing was taken. [`Error::FrameTooShort`] and [`Error::FrameTooLong`] (T4), [`Error::OffloadOff`] and
    /// [`Error::Unsendable`] speak of the burst's first packet: take it out and go on. [`Error::Closed`] after stop or
    /// close, [`Error::DeviceGone`] after the device went away.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> Result<usize> {
        self.sweep_others();
        let cell = &*self.cell;
        cell.with(|core| core.send(burst, cell))
    }

    /// Sends one packet: `None` if it was taken, the packet itself if there is no room now.
    ///
    /// # Errors
    /// As [`send`](TxQueue::send), with the packet, which is the caller's as it was (contract T1).
    #[expect(
        clippy::result_large_err,
        reason = "it is the caller's packet, and no memory may be needed to return it"
    )]
    pub fn send_one(&mut self, packet: Packet) -> Result<Option<Packet>, Refused> {
        self.sweep_others();
        let (cell, one) = (&*self.cell, &mut self.one);
        if let Err(packet) = one.push(packet) {
            // Only a panic in a call before leaves something in it.
            one.clear();
            let _ = one.push(packet);
        }
        let result = cell.with(|core| core.send(one, cell));
        match (result, one.pop_front()) {
            (Err(error), Some(packet)) => Err(Refused { error, packet }),
            (_, left) => Ok(left),
        }
    }

    /// Waits until the device has sent everything that this queue accepted, and gives its cached frames back to their
    /// pools; how many of its frames are left when the time is over (contract T6). Zero polls. For the port's other queues it
    /// does not wait, but brings back what the device has completed of them.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::DeviceGone`].
    pub fn flush(&mut self, timeout: Duration) -> Result<usize> {
        let deadline = Instant::now().checked_add(timeout);
        let mut pause = Duration::from_micros(1);
        self.sweep_others();
        loop {
            let left = self.cell.with(|core| {
                let left = core.driver.reclaim(&mut core.caches)?;
                core.caches.iter_mut().for_each(PoolCache::flush);
                self.cell.outstanding.store(left.packets > 0, Ordering::Relaxed);
                Ok(left.packets)
            })?;
            if left == 0 || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(left);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    /// Adds up to `count` empty packets from the port's first pool to the burst; how many. They come from the queue's
    /// cache, where completed transmissions put them.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn take(&mut self, burst: &mut Burst, count: usize) -> Result<usize> {
        self.cell.with(|core| {
            let want = count.min(burst.room());
            let mut taken = core.caches[0].take_into(burst, want);
            if taken < want && core.driver.reclaim(&mut core.caches).is_ok() {
                // The device had finished some, which are in the cache now or, without one, in the pool.
                taken += core.caches[0].take_into(burst, want - taken);
            }
            Ok(taken)
        })
    }

    /// The next transmit timestamp of a packet that asked for one (contract O4).
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn take_timestamp(&mut self) -> Result<Option<TxTimestamp>> {
        self.cell.with(|core| Ok(core.driver.take_timestamp()))
    }
}

impl std::fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxQueue").field("port", &self.cell.port.title()).finish()
    }
}
