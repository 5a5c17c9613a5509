//! The gate of a queue: one word that keeps a queue's calls and `stop` apart (contract L6).
//!
//! A queue's owner and the thread that stops the port share the queue's driver. The gate is a try-lock: a call
//! takes it for its duration, `stop` takes it for good. It costs one uncontended compare-and-swap per burst.
//!
//! The owner may find a helper inside: another thread that gives back a queue's completed or cached frames. What a
//! helper does is short, and there is at most one per other thread of the port, so `recv` and `send` do not block
//! (contract R1, T3) beyond that. Trap: a helper of a lower real-time priority on the owner's processor gets on only if
//! the owner sleeps; yielding gives way to its equals alone.
//!
//! Invariant: whoever moved the state from `IDLE` to `BUSY` or `CLOSED` has the cell's core for itself, until it stores
//! `IDLE` again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

const IDLE: u32 = 0;
const BUSY: u32 = 1;
const CLOSED: u32 = 2;

/// How often the owner looks at a gate that a helper holds: so many times at once, so many times yielding in between;
/// from then on it sleeps so long each time.
const SPINS: u32 = 64;
const YIELDS: u32 = 64;
const NAP: Duration = Duration::from_micros(30);

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
            if self.closing.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            give_way(tries);
            tries = tries.saturating_add(1);
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

    /// Takes the gate for good if nobody is inside and nobody did so before.
    pub fn close_first(&self) -> bool {
        self.state.compare_exchange(IDLE, CLOSED, Ordering::Acquire, Ordering::Relaxed).is_ok()
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

/// Lets the helper that is inside get on.
#[cold]
fn give_way(tries: u32) {
    if tries < SPINS {
        std::hint::spin_loop();
    } else if tries < SPINS + YIELDS {
        std::thread::yield_now();
    } else {
        std::thread::sleep(NAP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_finds_a_helper_inside_lets_it_have_the_processor() {
        let gate = Gate::default();
        let (say, hear) = std::sync::mpsc::channel();
        assert!(gate.try_enter());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: no preconditions.
                say.send(unsafe { libc::gettid() }).unwrap();
                gate.enter().unwrap();
                gate.leave();
            });
            let stat = format!("/proc/self/task/{}/stat", hear.recv().unwrap());
            // A thread that yields is running all the time, as far as the system can tell.
            let sleeps = || {
                let line = std::fs::read_to_string(&stat).unwrap();
                line.rsplit_once(')').unwrap().1.trim_start().starts_with('S')
            };
            let deadline = Instant::now() + Duration::from_secs(20);
            let slept = std::iter::repeat_with(sleeps)
                .take_while(|_| Instant::now() < deadline)
                .any(|sleeps| sleeps);
            gate.leave();
            assert!(slept, "it never sleeps");
        });
    }

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
