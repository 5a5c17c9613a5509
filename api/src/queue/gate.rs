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
//! Invariants, on which the unsafe code of [`Gated`] rests (and there is no other for queues):
//! - whoever moved the state from `IDLE` to `BUSY` has what the gate guards for itself, until it stores `IDLE` again;
//! - whoever moved it from `CLOSED`, or from `IDLE`, to `TAKEN` has it for good: nothing leaves `TAKEN`.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

const IDLE: u32 = 0;
const BUSY: u32 = 1;
const CLOSED: u32 = 2;
const TAKEN: u32 = 3;

/// How often the owner looks at a gate that a helper holds: so many times at once, so many times yielding in between;
/// from then on it sleeps so long each time.
const SPINS: u32 = 64;
const YIELDS: u32 = 64;
const NAP: Duration = Duration::from_micros(30);

/// Something behind a gate.
pub(crate) struct Gated<T> {
    gate: Gate,
    /// Touched as the module's invariants say.
    core: UnsafeCell<Option<T>>,
}

// SAFETY: `core` is touched by one thread at a time; the gate's acquire and release hand it from one to the next.
unsafe impl<T: Send> Sync for Gated<T> {}

impl<T> Gated<T> {
    pub fn new(core: T) -> Gated<T> {
        Gated { gate: Gate::default(), core: UnsafeCell::new(Some(core)) }
    }

    /// Enters for one call, which ends when what comes back is dropped.
    ///
    /// # Errors
    /// [`Error::Closed`] if the gate is closed, or about to be.
    #[inline]
    pub fn enter(&self) -> Result<Inside<'_, T>> {
        self.gate.enter()?;
        self.inside().ok_or(Error::Closed)
    }

    /// Enters if nobody is inside.
    pub fn try_enter(&self) -> Option<Inside<'_, T>> {
        self.gate.try_enter().then(|| self.inside()).flatten()
    }

    /// What a thread has that has moved the state to `BUSY`.
    #[inline]
    fn inside(&self) -> Option<Inside<'_, T>> {
        let leave = Leave(&self.gate);
        // SAFETY: the caller moved the state to `BUSY`, and it stays so until `leave` is dropped, with the reference.
        let core = unsafe { &mut *self.core.get() }.as_mut()?;
        Some(Inside { core, _leave: leave })
    }

    /// Lets no new call in.
    pub fn start_closing(&self) {
        self.gate.start_closing();
    }

    /// Closes the gate for good, waiting for the call in progress; false after `deadline`, true also if it was closed
    /// before.
    pub fn close(&self, deadline: Instant) -> bool {
        self.gate.close(deadline)
    }

    /// Takes out what a closed gate guarded; nothing if it is not closed, or somebody did so before.
    pub fn take(&self) -> Option<T> {
        self.take_from(CLOSED)
    }

    /// The same of a gate that was not closed, if nobody is inside.
    pub fn take_idle(&self) -> Option<T> {
        self.take_from(IDLE)
    }

    fn take_from(&self, state: u32) -> Option<T> {
        if !self.gate.moves(state, TAKEN) {
            return None;
        }
        // SAFETY: the state was moved to `TAKEN` just now, so this is the one thread that touches it from now on.
        unsafe { (*self.core.get()).take() }
    }
}

/// A call inside a gate: what it guards. Dropping it leaves the gate.
pub(crate) struct Inside<'a, T> {
    core: &'a mut T,
    _leave: Leave<'a>,
}

impl<T> Deref for Inside<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.core
    }
}

impl<T> DerefMut for Inside<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.core
    }
}

/// Leaves the gate on every way out, a panic included.
struct Leave<'a>(&'a Gate);

impl Drop for Leave<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[derive(Debug, Default)]
struct Gate {
    state: AtomicU32,
    /// Asked for before `stop` tries the gate: a queue in a tight loop lets it in.
    closing: AtomicBool,
}

impl Gate {
    /// Enters for one call. The caller leaves again.
    #[inline]
    fn enter(&self) -> Result<()> {
        let mut tries = 0u32;
        while let Err(state) =
            self.state.compare_exchange(IDLE, BUSY, Ordering::Acquire, Ordering::Relaxed)
        {
            if state != BUSY || self.closing.load(Ordering::Relaxed) {
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
    fn try_enter(&self) -> bool {
        !self.closing.load(Ordering::Relaxed) && self.moves(IDLE, BUSY)
    }

    #[inline]
    fn leave(&self) {
        self.state.store(IDLE, Ordering::Release);
    }

    /// Moves the state, if it is `from`.
    #[inline]
    fn moves(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn start_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn close(&self, deadline: Instant) -> bool {
        let mut pause = Duration::from_micros(1);
        loop {
            match self.state.compare_exchange(IDLE, CLOSED, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) | Err(CLOSED | TAKEN) => return true,
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
    fn what_is_behind_a_gate_is_taken_once_and_never_under_a_call() {
        let gated = Gated::new(vec![1]);
        assert_eq!(gated.take(), None, "it is not closed");
        let mut inside = gated.enter().unwrap();
        inside.push(2);
        assert!(gated.try_enter().is_none() && gated.take_idle().is_none());
        assert!(!gated.close(Instant::now()) && gated.take().is_none());
        drop(inside);
        assert!(gated.close(Instant::now()) && gated.take_idle().is_none());
        // Closed is closed, also if nobody said before that it would be.
        assert!(matches!(gated.enter(), Err(Error::Closed)));
        assert_eq!((gated.take(), gated.take()), (Some(vec![1, 2]), None));
        assert!(gated.close(Instant::now()), "closing what is empty is closing");
        let gated = Gated::new(7);
        assert_eq!((gated.take_idle(), gated.take_idle(), gated.take()), (Some(7), None, None));
        assert!(gated.try_enter().is_none() && matches!(gated.enter(), Err(Error::Closed)));
    }

    #[test]
    fn a_panic_in_a_call_leaves_the_gate() {
        let gated = Gated::new(0);
        let call = std::panic::AssertUnwindSafe(|| {
            let _inside = gated.enter().unwrap();
            panic!("a bug");
        });
        assert!(std::panic::catch_unwind(call).is_err());
        assert_eq!(*gated.enter().unwrap(), 0);
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
