//! How long frames were under way: a histogram from 1 ns to 1,000 s with three significant digits.
//!
//! Latency is from the time at which a frame was *meant* to leave to the time at which the receiver had it in hand (one
//! reading of the clock per burst). A generator that could not keep its schedule, or a queue that was full, shows up in
//! it instead of being omitted.

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock;
use super::stamp::Stamp;

const HIGHEST: u64 = 1_000_000_000_000;

/// Latencies that one thread has seen.
pub struct Latencies {
    histogram: Histogram<u64>,
    own_clock: u16,
    other_clock: u64,
    impossible: u64,
}

impl Latencies {
    /// None yet.
    ///
    /// # Errors
    /// Not with the bounds that are built in.
    pub fn new() -> Result<Latencies> {
        let histogram = Histogram::new_with_bounds(1, HIGHEST, 3)
            .map_err(|error| anyhow!("histogram: {error}"))?;
        Ok(Latencies { histogram, own_clock: clock::identity(), other_clock: 0, impossible: 0 })
    }

    /// Notes a frame that came at `now`.
    #[inline]
    pub fn take(&mut self, stamp: &Stamp, now: u64) {
        if stamp.clock != self.own_clock || self.own_clock == 0 {
            self.other_clock += 1;
        } else if let Some(age) = stamp.age(now) {
            self.histogram.saturating_record(age);
        } else {
            self.impossible += 1;
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Latencies) {
        // Cannot fail: both have the same bounds.
        let _ = self.histogram.add(&other.histogram);
        self.other_clock += other.other_clock;
        self.impossible += other.impossible;
    }

    /// What there is to say.
    pub fn summary(&self) -> Summary {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        let values = (!self.histogram.is_empty()).then(|| Percentiles {
            samples: self.histogram.len(),
            min: self.histogram.min(),
            mean: self.histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.histogram.max(),
        });
        Summary { values, other_clock: self.other_clock, impossible: self.impossible }
    }
}

/// Latency in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Percentiles {
    /// Frames it was taken from.
    pub samples: u64,
    /// The least.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// Half were at most so long under way.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The greatest.
    pub max: u64,
}

/// Latency, and the frames that have none.
#[derive(Debug)]
pub struct Summary {
    /// Absent if no frame had a time of this host's clock.
    pub values: Option<Percentiles>,
    /// Frames with the time of another host's, boot's or time namespace's clock.
    pub other_clock: u64,
    /// Frames that came before they were sent, which is a damaged stamp.
    pub impossible: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(clock: u16, time: u64) -> Stamp {
        Stamp { run: 0, clock, sequence: 0, time }
    }

    #[test]
    fn percentiles_are_of_own_stamps_only() {
        let own = clock::identity();
        let mut latencies = [Latencies::new().unwrap(), Latencies::new().unwrap()];
        for age in 1..=1000 {
            latencies[age as usize % 2].take(&stamp(own, 5_000_000), 5_000_000 + age);
        }
        latencies[0].take(&stamp(own.wrapping_add(1), 5_000_000), 5_000_100);
        latencies[1].take(&stamp(own, 5_000_000), 4_999_999);
        let [mut all, other] = latencies;
        all.add(&other);
        let summary = all.summary();
        assert_eq!((summary.other_clock, summary.impossible), (1, 1));
        let values = summary.values.unwrap();
        assert_eq!((values.samples, values.min, values.p50, values.p90), (1000, 1, 500, 900));
        assert_eq!((values.p99, values.p999, values.max), (990, 999, 1000));
        assert!((values.mean - 500.5).abs() < 0.1);
    }

    #[test]
    fn nothing_of_ones_own_is_no_latency() {
        let mut latencies = Latencies::new().unwrap();
        latencies.take(&stamp(clock::identity().wrapping_add(1), 0), 77);
        assert_eq!(latencies.summary().values, None);
    }
}
