//! SIGINT, SIGTERM and SIGHUP: caught once, noticed by every wait.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result};

static CAUGHT: AtomicI32 = AtomicI32::new(0);
static WAKE_READ: AtomicI32 = AtomicI32::new(-1);
static WAKE_WRITE: AtomicI32 = AtomicI32::new(-1);

/// A SIGINT or SIGTERM arrived; the value is the signal's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted(pub i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0 == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
        write!(f, "interrupted by {name}")
    }
}

impl std::error::Error for Interrupted {}

extern "C" fn on_signal(signal: libc::c_int) {
    let _ = CAUGHT.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    let fd = WAKE_WRITE.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe; the buffer is one live byte. A full pipe (EAGAIN) already wakes.
    unsafe { libc::write(fd, [1u8].as_ptr().cast(), 1) };
}

/// Catches SIGINT, SIGTERM and SIGHUP for the rest of the process.
pub fn catch_signals() -> Result<()> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` is room for the two descriptors that pipe2 writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error()).context("pipe2");
    }
    // Both ends stay open for the life of the process: the handler may run at any time.
    WAKE_READ.store(ends[0], Ordering::Relaxed);
    WAKE_WRITE.store(ends[1], Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a zeroed sigaction is valid (no flags, empty mask); the handler is async-signal-safe.
        let rc = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if rc != 0 {
            return Err(io::Error::last_os_error()).context("sigaction");
        }
    }
    Ok(())
}

/// Fails with [`Interrupted`] once a signal has arrived.
pub fn check_interrupted() -> Result<()> {
    match CAUGHT.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Interrupted(signal).into()),
    }
}

/// What becomes readable when a signal has arrived; -1 before [`catch_signals`].
pub(super) fn wake_descriptor() -> RawFd {
    WAKE_READ.load(Ordering::Relaxed)
}
