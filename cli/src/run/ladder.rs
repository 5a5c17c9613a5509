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

    /// Sleeps until something is there in one of the queues, which stand with the names of their ports.
    ///
    /// # Errors
    /// The system's. What happened to a queue is said by its next `recv`.
    pub fn sleep(&self, queues: &mut [(&str, &mut RxQueue)]) -> Result<()> {
        match queues {
            [] => std::thread::sleep(Duration::from_millis(1)),
            [(name, queue)] => {
                // An error comes again from recv, where it belongs to somebody.
                note(name, queue.wait(SLEEP).unwrap_or(Wake::Ready));
            }
            several => {
                let mut wakes = vec![Wake::Timeout; several.len()];
                let mut queues: Vec<_> =
                    several.iter_mut().map(|(_, queue)| &mut **queue).collect();
                wait_any(&mut queues, &mut wakes, SLEEP)?;
                several.iter().zip(wakes).for_each(|((name, _), wake)| note(name, wake));
            }
        }
        Ok(())
    }
}

fn note(name: &str, wake: Wake) {
    match wake {
        Wake::LinkDown => tracing::warn!("{name}: the link went down"),
        Wake::LinkUp => tracing::warn!("{name}: the link came up"),
        _ => {}
    }
}
