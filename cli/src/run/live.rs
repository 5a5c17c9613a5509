//! The live line: what a run does now, once a second, on a terminal only.
//!
//! It goes to standard error and is overwritten again and again; whatever else is written there clears it first (see
//! [`clear_line`]).

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::text::{bit_rate, number, packet_rate};

const EVERY: Duration = Duration::from_secs(1);

/// Whether a live line stands on the terminal.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// What a run has moved so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that were lost.
    pub drops: u64,
}

/// Shows samples.
pub struct Live<'a> {
    title: String,
    sample: Option<Box<dyn FnMut() -> Sample + 'a>>,
    started: Instant,
    at: Instant,
    last: Sample,
}

impl<'a> Live<'a> {
    /// A line with that title, if standard error is a terminal.
    pub fn new(title: impl Into<String>, sample: impl FnMut() -> Sample + 'a) -> Live<'a> {
        let mut live = Live::off();
        if std::io::stderr().is_terminal() {
            live.title = title.into();
            live.sample = Some(Box::new(sample));
        }
        live
    }

    /// No line.
    pub fn off() -> Live<'a> {
        let now = Instant::now();
        Live { title: String::new(), sample: None, started: now, at: now, last: Sample::default() }
    }

    /// How long until the line wants to be shown again.
    pub fn next(&self) -> Duration {
        match self.sample {
            Some(_) => EVERY.saturating_sub(self.at.elapsed()).max(Duration::from_millis(1)),
            None => Duration::MAX,
        }
    }

    /// Shows the line if it is time.
    pub fn tick(&mut self) {
        let past = self.at.elapsed();
        let Some(sample) = self.sample.as_mut().filter(|_| past >= EVERY) else { return };
        let now = sample();
        let line = line(&self.title, self.started.elapsed(), past, self.last, now);
        (self.at, self.last) = (Instant::now(), now);
        SHOWN.store(true, Ordering::Relaxed);
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }

    /// Takes the line away.
    pub fn clear(&self) {
        clear_line();
    }
}

/// Takes a live line away, if there is one: before anything else is written to standard error.
pub fn clear_line() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

fn line(title: &str, time: Duration, past: Duration, last: Sample, now: Sample) -> String {
    let per_second = |new: u64, old: u64| new.saturating_sub(old) as f64 / past.as_secs_f64();
    format!(
        "{title}  {:.0} s  {} frames  {}  {}  {} dropped",
        time.as_secs_f64(),
        number(now.packets),
        packet_rate(per_second(now.packets, last.packets)),
        bit_rate(8.0 * per_second(now.bytes, last.bytes)),
        number(now.drops),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_interval() {
        let last = Sample { packets: 1000, bytes: 60_000, drops: 0 };
        let now = Sample { packets: 21_000, bytes: 1_260_000, drops: 1234 };
        let shown = line("gen pcap:a0", Duration::from_secs(12), Duration::from_secs(2), last, now);
        assert_eq!(shown, "gen pcap:a0  12 s  21,000 frames  10.0 kpps  4.8 Mbit/s  1,234 dropped");
    }
}
