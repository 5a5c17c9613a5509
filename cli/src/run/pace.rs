//! Pacing by an absolute schedule: frame `k` is due at `start + k / rate`, whatever became of the frames before it.
//!
//! So the rate is exact over any time, a hiccup is caught up, and the time at which a frame was due is known (which is
//! what goes into its stamp: no coordinated omission). Waiting sleeps most of the way and polls the clock for the rest,
//! because a sleeping thread wakes tens of microseconds late.

use std::time::Duration;

use super::Run;
use crate::values::Rate;
use crate::wire::clock;

/// The last stretch before a frame is due, which is not slept.
const SPIN_NS: u64 = 60_000;

/// The longest sleep, so that the end of a run is noticed.
const SLEEP_NS: u64 = 20_000_000;

const NS_PER_KILOSECOND: u128 = 1_000_000_000_000;

/// A schedule of frames.
#[derive(Debug, Clone, Copy)]
pub struct Pacer {
    start: u64,
    rate: Rate,
}

impl Pacer {
    /// A schedule that starts at a time of the monotonic clock.
    pub fn new(rate: Rate, start: u64) -> Pacer {
        Pacer { start, rate }
    }

    /// When frame `k` is due; `None` if there is no schedule.
    pub fn due(&self, k: u64) -> Option<u64> {
        match self.rate {
            Rate::Max => None,
            Rate::PerKilosecond(rate) => {
                let after = u128::from(k) * NS_PER_KILOSECOND / u128::from(rate);
                Some(self.start.saturating_add(u64::try_from(after).unwrap_or(u64::MAX)))
            }
        }
    }

    /// The number of the first frame that is not due at `now`; `u64::MAX` if there is no schedule.
    pub fn first_not_due(&self, now: u64) -> u64 {
        match self.rate {
            Rate::Max => u64::MAX,
            Rate::PerKilosecond(_) if now < self.start => 0,
            Rate::PerKilosecond(rate) => {
                // Frame k is due as soon as k * 10^12 / rate, rounded down, has passed.
                let due = (u128::from(now - self.start) + 1) * u128::from(rate);
                u64::try_from(due.div_ceil(NS_PER_KILOSECOND)).unwrap_or(u64::MAX)
            }
        }
    }
}

/// Waits until a time of the monotonic clock, or the end of the run; the time then.
pub fn wait_until(run: &Run, time: u64) -> u64 {
    loop {
        let now = clock::now();
        let Some(left) = time.checked_sub(now).filter(|left| *left > 0) else { return now };
        if run.stopping() {
            return now;
        }
        if left > SPIN_NS {
            std::thread::sleep(Duration::from_nanos((left - SPIN_NS).min(SLEEP_NS)));
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Lets sleeps of this thread end when they should: by default the kernel may add 50 microseconds.
pub fn precise_sleeps() {
    // SAFETY: this option takes plain numbers and concerns the calling thread alone. A failure only costs precision.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::rate;

    #[test]
    fn due_and_first_not_due_agree() {
        for text in ["1", "0.5", "3", "7", "10000", "999999.999", "14.88M", "3G"] {
            let pacer = Pacer::new(rate(text).unwrap(), 1_000_000_007);
            for k in [0, 1, 2, 3, 10, 1000, 123_456_789] {
                let due = pacer.due(k).unwrap();
                assert!(pacer.first_not_due(due) > k, "{text}: frame {k} at its time");
                if pacer.due(k + 1).unwrap() > due {
                    assert_eq!(
                        pacer.first_not_due(due),
                        k + 1,
                        "{text}: the next one after frame {k}"
                    );
                }
                if k > 0 {
                    assert!(pacer.first_not_due(due - 1) <= k, "{text}: frame {k} before its time");
                }
            }
            assert_eq!(pacer.first_not_due(0), 0);
        }
    }

    #[test]
    fn a_second_at_a_rate_has_that_many_frames() {
        let pacer = Pacer::new(rate("10000").unwrap(), 50);
        assert_eq!(pacer.first_not_due(50 + 999_999_999), 10_000);
        assert_eq!(pacer.due(10_000), Some(50 + 1_000_000_000));
        let pacer = Pacer::new(Rate::Max, 50);
        assert_eq!((pacer.due(5), pacer.first_not_due(0)), (None, u64::MAX));
    }

    #[test]
    fn waiting_ends_with_the_run() {
        let run = Run::new(None);
        run.end(crate::run::EndedBy::Signal);
        assert!(wait_until(&run, u64::MAX) < u64::MAX);
        assert!(wait_until(&Run::new(None), clock::now() + 200_000) > 0);
    }
}
