//! What the suite's own process holds and does: descriptors, threads, memory. For cases that look for leaks, and for
//! those that must know that a thread sleeps before they go on.
//!
//! Trap: all of it is process-wide. A suite that runs beside another one in the same process sees the other's comings
//! and goings, so whoever compares looks more than once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use crate::case::{Failure, Verdict};
use crate::ctx::{PATIENCE, eventually};

/// Open descriptors.
///
/// # Errors
/// The system's.
pub fn descriptors() -> Verdict<usize> {
    entries("/proc/self/fd")
}

/// Running threads.
///
/// # Errors
/// The system's.
pub fn threads() -> Verdict<usize> {
    entries("/proc/self/task")
}

fn entries(folder: impl AsRef<Path>) -> Verdict<usize> {
    Ok(std::fs::read_dir(folder)?.count())
}

/// How often the calling thread has gone to sleep of its own accord, in system calls or on locks.
///
/// # Errors
/// The system's.
pub fn sleeps() -> Verdict<u64> {
    // SAFETY: an all-zero record is valid, and the call fills in the one that it is given.
    let (result, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_THREAD, &mut usage), usage)
    };
    match result {
        0 => Ok(usage.ru_nvcsw.try_into().unwrap_or(0)),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Memory in use: allocated and not freed, and mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the allocator's that are in use; 0 where the allocator does not tell.
    pub heap: usize,
    /// Pages of address space.
    pub mapped: usize,
}

impl Memory {
    /// What is in use now.
    ///
    /// # Errors
    /// The system's.
    pub fn now() -> Verdict<Memory> {
        let statm = std::fs::read_to_string("/proc/self/statm")?;
        let mapped = statm.split(' ').next().and_then(|pages| pages.parse().ok());
        let mapped = mapped.ok_or("/proc/self/statm is not as it used to be")?;
        Ok(Memory { heap: heap(), mapped })
    }
}

#[cfg(target_env = "gnu")]
fn heap() -> usize {
    // SAFETY: no preconditions; it sums up over all arenas under their locks.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

#[cfg(not(target_env = "gnu"))]
fn heap() -> usize {
    0
}

/// A thread of a case, whose end is waited for with a bound.
pub struct Worker<T> {
    thread: libc::pid_t,
    result: Receiver<T>,
    ended: Arc<AtomicBool>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts it, in the same network namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> Verdict<Worker<T>> {
        let (say_id, hear_id) = channel();
        let (say, result) = channel();
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        std::thread::Builder::new().name("worker".into()).spawn(move || {
            // SAFETY: no preconditions.
            let _ = say_id.send(unsafe { libc::gettid() });
            // Nobody listens if the case has failed meanwhile.
            let _ = say.send(work());
            over.store(true, Ordering::Release);
        })?;
        let thread = hear_id.recv().map_err(|_| "a worker thread died at once")?;
        Ok(Worker { thread, result, ended })
    }

    /// Waits until it sleeps in a system call.
    ///
    /// # Errors
    /// If it does not.
    pub fn asleep(&self) -> Verdict {
        let path = format!("/proc/self/task/{}/stat", self.thread);
        eventually("a thread falling asleep", || {
            let stat = std::fs::read_to_string(&path)?;
            // The state follows the name, which is in parentheses and may hold anything.
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
            Ok((state == Some('S')).then_some(()))
        })
    }

    /// Sends it a signal, for which the case has a handler ([`NoOpHandler`]).
    ///
    /// # Errors
    /// The system's.
    pub fn signal(&self, signal: libc::c_int) -> Verdict {
        // SAFETY: no pointers; a thread that has ended meanwhile is an error.
        let result =
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, signal) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits for its result.
    ///
    /// # Errors
    /// If it does not end in time, or panicked.
    pub fn join(self) -> Verdict<T> {
        self.result.recv_timeout(PATIENCE).map_err(|error| {
            Failure(format!("a thread of the case gave no result within {PATIENCE:?}: {error}"))
        })
    }
}

/// A handler that does nothing, so that a signal only interrupts; what was there before comes back when it is dropped.
pub struct NoOpHandler {
    signal: libc::c_int,
    before: libc::sigaction,
}

impl NoOpHandler {
    /// Installs it.
    ///
    /// # Errors
    /// The system's.
    pub fn install(signal: libc::c_int) -> Verdict<NoOpHandler> {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: an all-zero action is valid; the handler does nothing, which is safe at any moment.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            let mut before: libc::sigaction = std::mem::zeroed();
            match libc::sigaction(signal, &action, &mut before) {
                0 => Ok(NoOpHandler { signal, before }),
                _ => Err(std::io::Error::last_os_error().into()),
            }
        }
    }
}

impl Drop for NoOpHandler {
    fn drop(&mut self) {
        // SAFETY: the action was the system's own answer.
        unsafe { libc::sigaction(self.signal, &self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_counted() {
        let before = descriptors().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        // Other tests of the process come and go.
        let more = eventually("one more", || Ok((descriptors()? > before).then_some(())));
        assert_eq!(more, Ok(()));
        drop(file);
    }

    #[test]
    fn a_sleep_is_counted() {
        let before = sleeps().unwrap();
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(sleeps().unwrap() >= before + 5);
    }

    #[test]
    fn memory_that_is_kept_is_seen() {
        let before = Memory::now().unwrap();
        let kept = vec![1u8; 64 << 20];
        let after = Memory::now().unwrap();
        assert!(after.mapped >= before.mapped + (60 << 20) / 4096);
        if cfg!(target_env = "gnu") {
            assert!(after.heap >= before.heap + (60 << 20));
        }
        drop(kept);
    }

    #[test]
    fn a_worker_is_waited_for() {
        let (say, hear) = channel::<()>();
        let worker = Worker::start(move || hear.recv().is_err()).unwrap();
        worker.asleep().unwrap();
        drop(say);
        assert_eq!(worker.join(), Ok(true));
    }
}
