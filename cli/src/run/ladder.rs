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
    /// Rounds without frames in a row.
    empty: u32,
    /// Rounds with frames in a row.
    busy: u32,
    /// So many times in a row polling on has found nothing.
    in_vain: u32,
}

/// After so many times that polling on has found nothing, frames come one by one: it is not tried again.
const IN_VAIN: u32 = 8;

/// Until frames come in so many rounds in a row.
const BUSY: u32 = 4;

impl Ladder {
    /// Frames came: start again from the bottom.
    #[inline]
    pub fn busy(&mut self) {
        self.busy = if self.empty == 0 { self.busy.saturating_add(1) } else { 1 };
        if self.busy >= BUSY || (1..self.patience()).contains(&self.empty) {
            self.in_vain = 0;
        }
        self.empty = 0;
    }

    /// How many rounds without frames it takes until it is time to sleep.
    fn patience(&self) -> u32 {
        if self.in_vain < IN_VAIN { SPINS } else { 1 }
    }

    /// No frames came in this round: whether to poll on; otherwise it is time to [`sleep`](Ladder::sleep).
    #[inline]
    pub fn poll_on(&mut self) -> bool {
        let patience = self.patience();
        self.empty = self.empty.saturating_add(1);
        std::hint::spin_loop();
        if self.empty == patience {
            self.in_vain = self.in_vain.saturating_add(1);
        }
        self.empty < patience
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many rounds it polls on before it is time to sleep.
    fn rounds(ladder: &mut Ladder) -> u32 {
        (1..=SPINS).find(|_| !ladder.poll_on()).unwrap_or(u32::MAX)
    }

    #[test]
    fn where_frames_come_one_by_one_it_sleeps_at_once() {
        let mut ladder = Ladder::default();
        for _ in 0..IN_VAIN {
            assert_eq!(rounds(&mut ladder), SPINS);
            ladder.busy();
        }
        for _ in 0..10 {
            assert_eq!(rounds(&mut ladder), 1);
            ladder.busy();
        }
        // A stretch of traffic.
        (1..BUSY).for_each(|_| ladder.busy());
        assert_eq!(rounds(&mut ladder), SPINS);
    }

    #[test]
    fn what_polling_on_finds_is_worth_it() {
        let mut ladder = Ladder::default();
        for _ in 0..3 * IN_VAIN {
            assert!(ladder.poll_on() && ladder.poll_on());
            ladder.busy();
            assert_eq!(rounds(&mut ladder), SPINS);
            ladder.busy();
            assert!(ladder.poll_on());
            ladder.busy();
        }
    }
}
