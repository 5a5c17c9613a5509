//! The gate of a queue: one word that keeps a queue's calls and `stop` apart (contract L6).
//!
//! A queue's owner and the thread that stops the port share the queue's driver. The gate is a try-lock: a call
//! takes it for its duration, `stop` takes it for good. It costs one uncontended compare-and-swap per burst.
//!
//! Invariant: whoever moved the state from `IDLE` to `BUSY` or `CLOSED` has the cell's core for itself, until it stores
//! `IDLE` again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

const IDLE: u32 = 0;
const BUSY: u32 = 1;
const CLOSED: u32 = 2;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU32,
    /// Asked for before `stop` tries the gate: a queue in a tight loop lets it in.
    closing: AtomicBool,
}

impl Gate {
    /// Enters for one call. The caller leaves again.
    #[inline]
    pub fn enter(&self) -> Result<()> {
        let mut tries = 0u32;
        while self.state.compare_exchange(IDLE, BUSY, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            // Busy is only ever a helper of another thread (a sweep over caches), which is short.
            if self.closing.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            tries += 1;
            if tries > 64 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if self.closing.load(Ordering::Relaxed) {
            self.leave();
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// Enters if nobody is inside.
    pub fn try_enter(&self) -> bool {
        !self.closing.load(Ordering::Relaxed)
            && self.state.compare_exchange(IDLE, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    pub fn leave(&self) {
        self.state.store(IDLE, Ordering::Release);
    }

    /// Lets no new call in.
    pub fn start_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Takes the gate for good, waiting for the call in progress; false after `deadline`, true also if it was
    /// closed before.
    pub fn close(&self, deadline: Instant) -> bool {
        let mut pause = Duration::from_micros(1);
        loop {
            match self.state.compare_exchange(IDLE, CLOSED, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) | Err(CLOSED) => return true,
                Err(_) if Instant::now() >= deadline => return false,
                Err(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_waits_for_the_call_and_lets_none_in_after() {
        let gate = Gate::default();
        gate.enter().unwrap();
        gate.start_closing();
        assert!(!gate.close(Instant::now()), "a call is inside");
        gate.leave();
        assert!(matches!(gate.enter(), Err(Error::Closed)) && !gate.try_enter());
        assert!(gate.close(Instant::now()));
        assert!(gate.close(Instant::now()), "closing twice is closing");
        assert!(matches!(gate.enter(), Err(Error::Closed)));
    }

    #[test]
    fn a_tight_loop_does_not_keep_stop_out() {
        let gate = Gate::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while gate.enter().is_ok() {
                    gate.leave()
                }
            });
            gate.start_closing();
            assert!(gate.close(Instant::now() + Duration::from_secs(10)));
        });
    }
}
