//! Pinned threads, for those who want one core per queue. The library itself starts no thread.

use std::io;
use std::thread::JoinHandle;

/// A thread that runs on one core only.
#[derive(Debug)]
pub struct Worker<T>(JoinHandle<Option<T>>);

impl<T> Worker<T> {
    /// Waits for the thread's end; a panic in it goes on here.
    pub fn join(self) -> T {
        match self.0.join() {
            Ok(Some(result)) => result,
            // `spawn_pinned` hands out only threads that run their body.
            Ok(None) => unreachable!("a pinned thread runs its body"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Starts a named thread that runs on one core only.
///
/// # Errors
/// The system's, if the thread cannot be started or the core is not there for this process; the body does not
/// run then.
pub fn spawn_pinned<T: Send + 'static>(
    name: &str,
    core: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Worker<T>> {
    let (said, hear) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let pinned = pin_current(core);
        let go = pinned.is_ok();
        let _ = said.send(pinned);
        go.then(body)
    })?;
    hear.recv().map_err(|_| io::Error::other("the thread died before it ran"))??;
    Ok(Worker(thread))
}

/// Lets the calling thread run on one core only.
///
/// # Errors
/// `EINVAL` if the core is not there for this process.
pub fn pin_current(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an all-zero cpu_set_t is the empty set; the core is within its size; pid 0 is the calling thread.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_on_the_core_or_not_at_all() {
        let worker = spawn_pinned("test", 0, || {
            // SAFETY: no preconditions.
            unsafe { libc::sched_getcpu() }
        });
        assert_eq!(worker.unwrap().join(), 0);
        let error = spawn_pinned("test", 1023, || unreachable!("must not run")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
