//! Waiting: what `wait` answers, wakers, and waiting on several queues.
//!
//! Each receive queue has one epoll descriptor over the device's descriptors and an [`EventFd`] of its own, which
//! stop, wakers and pools signal. So the application has one descriptor to poll, whatever is under the queue
//! (contract R12), and the common layer closes the gap in which wake-ups get lost: after arming it receives
//! once more, into a stash that the next `recv` delivers from.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::queue::{Look, RxQueue};

/// Why a wait returned (contract R10). Stop, close and the loss of the device are errors: [`Error::Closed`] and
/// [`Error::DeviceGone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wake {
    /// A frame is there: `recv` will deliver it.
    Ready,
    /// The time is over.
    Timeout,
    /// The link came up.
    LinkUp,
    /// The link went down.
    LinkDown,
    /// A [`Waker`] was called.
    Waker,
    /// A signal arrived.
    Signal,
    /// The input has ended (contract R14).
    Ended,
}

/// What `arm` answers (contract R12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Armed {
    /// A frame is there (or an event): call `recv`; nothing was armed.
    Ready,
    /// The descriptor becomes readable when a frame arrives, or when the port stops or dies.
    Armed,
}

/// Wakes a queue's owner out of `wait`, from any thread.
#[derive(Debug, Clone)]
pub struct Waker {
    pub(crate) signal: Arc<EventFd>,
    pub(crate) called: Arc<AtomicBool>,
}

impl Waker {
    /// Lets the wait in progress, or else the next one, return [`Wake::Waker`].
    pub fn wake(&self) {
        self.called.store(true, Ordering::Release);
        self.signal.signal();
    }
}

/// A non-blocking eventfd: readable from `signal` to `drain`.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
    /// Set after the descriptor was made readable, so that draining costs a system call only if there is something. Whoever is
    /// woken before it is set, and finds nothing, has to drain in any case: it might be woken for ever where the signaller does not
    /// get a processor.
    signalled: AtomicBool,
}

impl EventFd {
    /// Makes one.
    ///
    /// # Errors
    /// The system's, when descriptors have run out.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(EventFd { fd, signalled: AtomicBool::new(false) })
    }

    /// Makes it readable.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight bytes of a local. It can only fail by a full counter, and then it is readable.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
        self.signalled.store(true, Ordering::Release);
    }

    /// Makes it unreadable.
    pub fn drain(&self) {
        // Before reading: a signal that comes after the read is drained the next time.
        if self.signalled.load(Ordering::Relaxed) && self.signalled.swap(false, Ordering::AcqRel) {
            self.read();
        }
    }

    /// Makes it unreadable, also if whoever makes it readable is just about to say so; whether it was readable.
    pub(crate) fn drain_in_any_case(&self) -> bool {
        self.signalled.store(false, Ordering::Release);
        self.read()
    }

    fn read(&self) -> bool {
        let mut count = 0u64;
        // SAFETY: eight bytes of a local. It can only fail by not being readable.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) == 8 }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Stands in for the descriptors of a device that has none: readable some time after it was armed, so that whoever
/// sleeps on the queue looks at the device again, whichever way it sleeps (contract R12).
#[derive(Debug)]
pub(crate) struct Ticker(OwnedFd);

impl Ticker {
    pub fn new() -> io::Result<Ticker> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe {
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Ticker(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it unreadable for that time, which is under a second and not zero.
    pub fn arm(&self, time: Duration) {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let soon = libc::timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
        let once = libc::itimerspec { it_interval: never, it_value: soon };
        // SAFETY: a valid descriptor and a local; it cannot fail with these values.
        unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &once, std::ptr::null_mut()) };
    }
}

impl AsRawFd for Ticker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// An epoll descriptor over a queue's sources.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

/// How a sleep ended.
pub(crate) enum Polled {
    Sources,
    Nothing,
    Interrupted,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn add(&self, fd: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: valid descriptors (checked by the call) and a local event.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes a source out; one that closed its descriptor is out already.
    pub fn remove(&self, fd: RawFd) {
        // SAFETY: valid descriptors (checked by the call); the event may be null for a removal.
        unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut());
        }
    }

    pub fn wait(&self, timeout: Duration) -> io::Result<Polled> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 1];
        // Rounded up, so that a wait never ends a millisecond early and then spins.
        let millis = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        // SAFETY: room for one event; which it is does not matter.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 1, millis) };
        match count {
            0 => Ok(Polled::Nothing),
            1.. => Ok(Polled::Sources),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(Polled::Interrupted),
                error => Err(error),
            },
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits on several queues at once, fairly: every queue that has something is reported, so a flood on one does
/// not starve another (contract R11).
///
/// `wakes[i]` becomes what queue `i` has: [`Wake::Ready`] and the like, or [`Wake::Timeout`] for nothing. Returns how
/// many queues have something. A queue that was closed or lost is reported by the error of its own next `recv`, and
/// here as [`Wake::Ready`].
///
/// # Errors
/// [`Error::Config`] if the two slices differ in length; the system's error from `poll(2)`.
pub fn wait_any(
    queues: &mut [&mut RxQueue],
    wakes: &mut [Wake],
    timeout: Duration,
) -> Result<usize> {
    if queues.len() != wakes.len() {
        let reason = format!("{} queues, but places for {} answers", queues.len(), wakes.len());
        return Err(Error::Config { context: "wait_any".into(), reason });
    }
    let deadline = Instant::now().checked_add(timeout);
    // Few queues need no memory; for many it is asked for once, before the first sleep.
    let mut few = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 16];
    let mut many = Vec::new();
    let mut filled = false;
    loop {
        let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        // First a look that costs little while there is traffic; then, before sleeping, one that arms.
        let polled: &[libc::pollfd] = if many.is_empty() { &few } else { &many };
        for arm in [false, true] {
            let mut ready = 0;
            for (index, (queue, wake)) in queues.iter_mut().zip(wakes.iter_mut()).enumerate() {
                let look = match (over, arm) {
                    (true, _) => Look::Poll,
                    (false, false) => Look::Frames,
                    (false, true) => {
                        let woken = polled.get(index).is_some_and(|fd| fd.revents != 0);
                        Look::Sleep { woken }
                    }
                };
                *wake = match queue.prepare(look) {
                    Ok(found) => found.unwrap_or(Wake::Timeout),
                    Err(_) => Wake::Ready,
                };
                ready += usize::from(*wake != Wake::Timeout);
            }
            if ready > 0 {
                return Ok(ready);
            }
            if over {
                return Ok(0);
            }
        }
        if queues.len() > few.len() {
            many.resize(queues.len(), few[0]);
        }
        let fds = if many.is_empty() { &mut few[..queues.len()] } else { &mut many[..] };
        if !std::mem::replace(&mut filled, true) {
            fds.iter_mut().zip(&*queues).for_each(|(poll, queue)| poll.fd = queue.descriptor());
        }
        let left = deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
        let millis = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        // SAFETY: the array is as long as is said; the descriptors belong to the queues, which are borrowed.
        let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
        if count < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                wakes.fill(Wake::Signal);
                return Ok(wakes.len());
            }
            return Err(Error::os("wait_any", "polling", error));
        }
    }
}
