//! The receive side: the handle that the application owns, and the cell that it shares with its port.
//!
//! Here are the gate, waiting and the descriptors; what happens to a burst between the driver and the application
//! is in `pipeline`.

mod clock;
mod pipeline;
mod sources;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::gate::Gated;
use crate::burst::Burst;
use crate::error::{Error, Result};
use crate::port::PortShared;
use crate::wait::{Armed, Epoll, EventFd, Polled, Wake, Waker};
pub(super) use pipeline::fits;
pub(crate) use pipeline::{RxCore, RxPlan};

/// The receive side of one queue pair; owned by one thread at a time.
///
/// Using it from two threads at once does not compile (contract Q2):
///
/// ```compile_fail
/// fn both(rx: &mut anyport::RxQueue) {
///     std::thread::scope(|scope| {
///         scope.spawn(|| rx.recv(&mut anyport::Burst::new()));
///         scope.spawn(|| rx.recv(&mut anyport::Burst::new()));
///     });
/// }
/// ```
pub struct RxQueue {
    cell: Arc<RxCell>,
}

/// What a queue handle and its port share.
pub(crate) struct RxCell {
    pub core: Gated<RxCore>,
    pub signal: Arc<EventFd>,
    pub called: Arc<AtomicBool>,
    epoll: Epoll,
    pub port: Arc<PortShared>,
}

impl RxCell {
    pub fn new(port: Arc<PortShared>, core: RxCore) -> Result<Arc<RxCell>> {
        let system = |source| Error::os(port.title(), "making a queue's descriptors", source);
        let signal = Arc::new(EventFd::new().map_err(system)?);
        let epoll = Epoll::new().map_err(system)?;
        epoll.add(signal.as_raw_fd()).map_err(system)?;
        if let Some(fd) = core.driver.event_descriptor() {
            epoll.add(fd).map_err(system)?;
        }
        Ok(Arc::new(RxCell { core: Gated::new(core), signal, called: Arc::default(), epoll, port }))
    }

    /// Runs a call inside the gate.
    #[inline]
    fn with<T>(&self, call: impl FnOnce(&mut RxCore) -> Result<T>) -> Result<T> {
        call(&mut *self.core.enter().inspect_err(|_| self.let_go())?)
    }

    /// After a close that gave up on a call of this queue's owner: the owner drops what it was left with, and the device
    /// is free (contract L10).
    #[cold]
    fn let_go(&self) {
        if self.port.is_closed() {
            drop(self.core.take_idle().map(|core| self.apart(core)));
        }
    }

    /// Takes the core out of a cell whose gate is closed.
    pub fn take_core(&self) -> Option<RxCore> {
        self.core.take().map(|core| self.apart(core))
    }

    /// The driver's descriptors go with the core.
    fn apart(&self, mut core: RxCore) -> RxCore {
        core.sources.forget(&self.epoll);
        core.driver.event_descriptor().into_iter().for_each(|fd| self.epoll.remove(fd));
        core
    }
}

/// What [`RxQueue::prepare`] looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Frames and wakers: what costs little while there is traffic.
    Frames,
    /// All reasons to return, without sleeping.
    Poll,
    /// All reasons, and if there is none, the descriptors are left armed.
    Arm,
    /// The same for a sleep of our own, which knows that it was woken: only if it was, and there is no frame, is the device asked for
    /// its link (or if the last look is a while ago), for that costs system calls.
    Sleep {
        /// Something has ended a sleep.
        woken: bool,
    },
}

impl RxQueue {
    pub(crate) fn new(cell: Arc<RxCell>) -> RxQueue {
        RxQueue { cell }
    }

    /// Adds frames that have arrived to the burst, at most its free room; how many. Never blocks, 0 means
    /// none (contract R1).
    ///
    /// # Errors
    /// [`Error::Closed`] after stop or close, [`Error::DeviceGone`] after the device went away, [`Error::Ended`]
    /// when an input that can end has ended and everything was delivered.
    #[inline]
    pub fn recv(&mut self, burst: &mut Burst) -> Result<usize> {
        let cell = &*self.cell;
        cell.with(|core| {
            if core.sources.watched() {
                core.unwatch_when_polled(&cell.epoll);
            }
            core.recv(burst, cell)
        })
    }

    /// Returns when a frame is there, or for the other reasons that [`Wake`] names (contract R10). A zero timeout
    /// polls: a link change is told within 50 ms then.
    ///
    /// # Errors
    /// As [`recv`](RxQueue::recv), but an ended input is [`Wake::Ended`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Wake> {
        let deadline = Instant::now().checked_add(timeout);
        let mut woken = false;
        loop {
            let look = if timeout.is_zero() { Look::Poll } else { Look::Sleep { woken } };
            match self.prepare(look)? {
                Some(wake) => return Ok(wake),
                None if timeout.is_zero() => return Ok(Wake::Timeout),
                None => {}
            }
            let left =
                deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            let system = |source| Error::os(self.cell.port.title(), "waiting for frames", source);
            match self.cell.epoll.wait(left).map_err(system)? {
                Polled::Interrupted => return Ok(Wake::Signal),
                Polled::Sources => woken = true,
                Polled::Nothing => woken = false,
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                // One more look: a frame may have come with the last tick.
                return Ok(self.prepare(Look::Poll)?.unwrap_or(Wake::Timeout));
            }
        }
    }

    /// Prepares for sleeping on [`descriptor`](RxQueue::descriptor) in a loop of the application's own (contract R12):
    /// `Ready` if there is something to do now; `Armed` if the descriptor will tell. Arm again after each wake-up.
    ///
    /// # Errors
    /// As [`recv`](RxQueue::recv).
    pub fn arm(&mut self) -> Result<Armed> {
        Ok(match self.prepare(Look::Arm)? {
            Some(_) => Armed::Ready,
            None => Armed::Armed,
        })
    }

    /// The descriptor to sleep on after [`arm`](RxQueue::arm): an epoll descriptor, readable when a frame is there, or
    /// when the port stops or dies, or when a starved queue's pool has frames again. It belongs to the queue.
    pub fn descriptor(&self) -> RawFd {
        self.cell.epoll.as_raw_fd()
    }

    /// Something that wakes this queue's owner out of `wait`, from any thread.
    pub fn waker(&self) -> Waker {
        Waker { signal: self.cell.signal.clone(), called: self.cell.called.clone() }
    }

    /// Looks for something to report.
    pub(crate) fn prepare(&self, look: Look) -> Result<Option<Wake>> {
        let cell = &*self.cell;
        let (arm, woken) = match look {
            Look::Arm => (true, true),
            Look::Sleep { woken } => (true, woken),
            Look::Frames | Look::Poll => (false, false),
        };
        if arm {
            // Before any look: whoever signals from now on is seen, by the looks below or by the descriptor.
            cell.signal.drain();
        }
        if cell.called.swap(false, Ordering::AcqRel) {
            // A stopped port comes first: it says so for good, and the descriptor stays readable (contract L6).
            cell.with(|_| Ok(())).inspect_err(|_| cell.signal.signal())?;
            cell.signal.drain();
            return Ok(Some(Wake::Waker));
        }
        let found = cell
            .with(|core| {
                if core.fill_stash(cell)? {
                    return Ok(Some(Wake::Ready));
                }
                if core.ended {
                    return Ok(Some(Wake::Ended));
                }
                if look != Look::Frames
                    && let Some(wake) = core.link_change(&cell.port, woken)?
                {
                    return Ok(Some(wake));
                }
                if arm {
                    core.cache.flush();
                    let mut outstanding = false;
                    for cell in &core.plan.tx {
                        outstanding |= cell.settle();
                    }
                    if core.cache.was_starved() {
                        core.cache.pool().wake_when_filled(cell.signal.clone());
                    }
                    let system = |source| {
                        Error::os(cell.port.title(), "watching the queue's descriptor", source)
                    };
                    core.watch(&cell.epoll).map_err(system)?;
                    core.driver.arm()?;
                    let after = core.look_after(cell.port.capability(), outstanding);
                    core.sources.tick(&cell.epoll, after).map_err(system)?;
                    if core.fill_stash(cell)? {
                        return Ok(Some(Wake::Ready));
                    }
                    // That look may have taken frames for what then was dropped, and found no more.
                    core.cache.flush();
                    if core.cache.was_starved() {
                        core.cache.pool().wake_when_filled(cell.signal.clone());
                    }
                }
                Ok(None)
            })
            .inspect_err(|_| cell.signal.signal())?;
        if found.is_some() {
            return Ok(found);
        }
        if woken && cell.signal.drain_in_any_case() {
            // For what it was made readable is to be seen by now.
            return self.prepare(Look::Sleep { woken: false });
        }
        Ok(None)
    }
}

/// The descriptor of [`RxQueue::descriptor`], for safe wrappers of `poll`, `epoll` and async runtimes.
impl AsFd for RxQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cell.epoll.as_fd()
    }
}

/// As [`RxQueue::descriptor`].
impl AsRawFd for RxQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor()
    }
}

impl std::fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RxQueue").field("port", &self.cell.port.title()).finish()
    }
}
