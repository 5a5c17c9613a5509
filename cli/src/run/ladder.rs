//! The waiting ladder: poll while frames come, sleep when they do not.
//!
//! A frame that comes soon is met by polling (microseconds); after [`SPINS`] empty rounds the worker sleeps on the
//! queues' descriptors, which costs a few system calls and a wake-up. Sleeps are bounded, though the end of a run wakes
//! them: a device without a descriptor, or a waker that comes too early, must not hold up the end.

use std::time::Duration;

use anyport::{Result, RxQueue, Wake, wait_any};

/// Empty rounds before the first sleep.
const SPINS: u32 = 32;

/// The longest sleep.
const SLEEP: Duration = Duration::from_millis(100);

/// How a worker spends rounds without frames.
#[derive(Debug, Default)]
pub struct Ladder {
    empty: u32,
}

impl Ladder {
    /// Frames came: start again from the bottom.
    #[inline]
    pub fn busy(&mut self) {
        self.empty = 0;
    }

    /// No frames came in this round: whether to poll on; otherwise it is time to [`sleep`](Ladder::sleep).
    #[inline]
    pub fn poll_on(&mut self) -> bool {
        self.empty = self.empty.saturating_add(1);
        std::hint::spin_loop();
        self.empty < SPINS
    }

    /// Sleeps until something is there in one of the queues.
    ///
    /// # Errors
    /// The system's. What happened to a queue is said by its next `recv`.
    pub fn sleep(&self, queues: &mut [&mut RxQueue]) -> Result<()> {
        match queues {
            [] => std::thread::sleep(Duration::from_millis(1)),
            [queue] => {
                // An error comes again from recv, where it belongs to somebody.
                note(queue.wait(SLEEP).unwrap_or(Wake::Ready));
            }
            queues => {
                let mut wakes = vec![Wake::Timeout; queues.len()];
                wait_any(queues, &mut wakes, SLEEP)?;
                wakes.into_iter().for_each(note);
            }
        }
        Ok(())
    }
}

fn note(wake: Wake) {
    match wake {
        Wake::LinkDown => tracing::warn!("a link went down"),
        Wake::LinkUp => tracing::warn!("a link came up"),
        _ => {}
    }
}
