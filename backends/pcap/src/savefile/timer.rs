//! A descriptor that becomes readable at a moment.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A timer on the monotonic clock (`timerfd_create(2)`); off until it is set.
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub fn new() -> io::Result<Timer> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Timer(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Unreadable until that time, in nanoseconds of the monotonic clock, and readable from then on; never if `None`.
    pub fn set(&self, at_ns: Option<u64>) {
        // All zero is off; a time that has passed fires at once.
        let ns = at_ns.map_or(0, |ns| ns.max(1));
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let then = libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        };
        let timer = libc::itimerspec { it_interval: never, it_value: then };
        // SAFETY: an own descriptor and a local; it cannot fail with a valid time.
        unsafe {
            libc::timerfd_settime(
                self.0.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &timer,
                std::ptr::null_mut(),
            );
        }
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport::time::monotonic_ns;

    /// Whether it becomes readable within a time in milliseconds.
    fn readable(timer: &Timer, timeout: i32) -> bool {
        let mut poll = libc::pollfd { fd: timer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one local entry.
        unsafe { libc::poll(&mut poll, 1, timeout) == 1 }
    }

    #[test]
    fn it_is_readable_from_its_moment_until_it_is_set_again() {
        let timer = Timer::new().unwrap();
        assert!(!readable(&timer, 0));
        for past in [0, 1, monotonic_ns()] {
            timer.set(Some(past));
            assert!(readable(&timer, 1000), "{past}");
            assert!(readable(&timer, 0));
            timer.set(None);
            assert!(!readable(&timer, 0));
        }
        let then = monotonic_ns() + 20_000_000;
        timer.set(Some(then));
        assert!(readable(&timer, 10_000));
        assert!(monotonic_ns() >= then);
        timer.set(Some(u64::MAX));
        assert!(!readable(&timer, 0));
    }
}
