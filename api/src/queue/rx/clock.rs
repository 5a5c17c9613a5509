//! Watches a queue's receive timestamps: they do not go back unless their clock was set back, which is reported each
//! time (contract O4).

use crate::packet::{Timestamp, TimestampSource};

/// The least time between two reports of a queue. What goes back in between stands in the next one, so that a broken
/// clock cannot fill a disk.
const REPORT_MS: u64 = 1000;

/// What the timestamps of one queue have done.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    /// The last timestamp in nanoseconds.
    last_ns: u64,
    /// How often they went back since the last report, and the furthest.
    times: u64,
    furthest_ns: u64,
    next_report_ms: u64,
    /// That a file's times are not in order is said once: one that was put together from several may go to and fro with
    /// every frame, and nobody set a clock.
    said_of_file: bool,
}

impl ClockWatch {
    /// Takes note of the next timestamp.
    #[inline]
    pub fn note(&mut self, stamp: Timestamp) {
        if stamp.ns < self.last_ns {
            self.went_back(stamp);
        }
        self.last_ns = stamp.ns;
    }

    #[cold]
    fn went_back(&mut self, stamp: Timestamp) {
        if stamp.source == TimestampSource::Recorded
            && std::mem::replace(&mut self.said_of_file, true)
        {
            return;
        }
        self.times += 1;
        self.furthest_ns = self.furthest_ns.max(self.last_ns - stamp.ns);
    }

    /// Whether something is to be reported, now or when the time has come.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.times > 0
    }

    /// What is to be reported now, if anything is.
    #[cold]
    pub fn report(&mut self, now_ms: u64) -> Option<String> {
        if self.times == 0 || now_ms < self.next_report_ms {
            return None;
        }
        self.next_report_ms = now_ms + REPORT_MS;
        let (times, furthest) =
            (std::mem::take(&mut self.times), std::mem::take(&mut self.furthest_ns));
        let why = match self.said_of_file {
            true => "the file is not in the order of its times",
            false => "their clock was set",
        };
        Some(match times {
            1 => format!("receive timestamps went back by {furthest} ns: {why}"),
            _ => {
                format!("receive timestamps went back {times} times, by up to {furthest} ns: {why}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Clock;

    fn note(watch: &mut ClockWatch, source: TimestampSource, times: &[u64]) {
        for &ns in times {
            watch.note(Timestamp { ns, source, clock: Clock::RealTime });
        }
    }

    #[test]
    fn every_setting_back_is_in_a_report_and_reports_are_a_second_apart() {
        let (mut watch, kernel) = (ClockWatch::default(), TimestampSource::Kernel);
        note(&mut watch, kernel, &[100, 100, 200]);
        assert_eq!((watch.has_news(), watch.report(5)), (false, None));
        note(&mut watch, kernel, &[150]);
        let said = "receive timestamps went back by 50 ns: their clock was set";
        assert_eq!(watch.report(5).unwrap(), said);
        assert_eq!((watch.has_news(), watch.report(5000)), (false, None));
        // Again, a day later: it was set back again.
        note(&mut watch, kernel, &[900, 899]);
        let said = "receive timestamps went back by 1 ns: their clock was set";
        assert_eq!(watch.report(86_400_000).unwrap(), said);
        // And twice more within the second.
        note(&mut watch, kernel, &[880, 890, 860]);
        assert_eq!((watch.has_news(), watch.report(86_400_999)), (true, None));
        let said = "receive timestamps went back 2 times, by up to 30 ns: their clock was set";
        assert_eq!(watch.report(86_401_000).unwrap(), said);
        assert!(!watch.has_news());
    }

    #[test]
    fn a_file_out_of_order_is_said_to_be_so_once() {
        let (mut watch, recorded) = (ClockWatch::default(), TimestampSource::Recorded);
        note(&mut watch, recorded, &[9, 8, 7, 9, 1]);
        let said =
            "receive timestamps went back by 1 ns: the file is not in the order of its times";
        assert_eq!(watch.report(0).unwrap(), said);
        note(&mut watch, recorded, &[9, 1]);
        assert_eq!((watch.has_news(), watch.report(100_000)), (false, None));
    }
}
