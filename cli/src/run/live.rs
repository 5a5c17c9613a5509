//! What a run does now: a live line once a second, on a terminal only; and, for those who only send and so never wait for
//! anything that would tell them, a word when the link changes.
//!
//! It goes to standard error and is overwritten again and again; whatever else is written there clears it first (see
//! [`clear_line`]).

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyport::Control;

use crate::text::{bit_rate, number, packet_rate};

const EVERY: Duration = Duration::from_secs(1);

/// How often a sender's link is looked at.
const LINK_EVERY: Duration = Duration::from_millis(100);

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
    link: Option<WatchedLink>,
}

/// The link of a port that only sends.
struct WatchedLink {
    name: String,
    control: Control,
    up: bool,
    at: Instant,
}

impl WatchedLink {
    fn look(&mut self) {
        self.at = Instant::now();
        let Ok(link) = self.control.link() else { return };
        if std::mem::replace(&mut self.up, link.up) != link.up {
            let what = match link.up {
                true => "came up",
                false => "went down; frames that were accepted just before may be lost uncounted",
            };
            tracing::warn!("{}: the link {what}", self.name);
        }
    }
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
        let last = Sample::default();
        Live { title: String::new(), sample: None, started: now, at: now, last, link: None }
    }

    /// Tells of changes of a port's link, too.
    #[must_use]
    pub fn with_link(mut self, name: &str, control: Control) -> Live<'a> {
        let up = control.link().is_ok_and(|link| link.up);
        self.link = Some(WatchedLink { name: name.to_owned(), control, up, at: Instant::now() });
        self
    }

    /// How long until the line wants to be shown again.
    pub fn next(&self) -> Duration {
        let left = |at: Instant, every: Duration| {
            every.saturating_sub(at.elapsed()).max(Duration::from_millis(1))
        };
        let line = self.sample.as_ref().map_or(Duration::MAX, |_| left(self.at, EVERY));
        let link = self.link.as_ref().map_or(Duration::MAX, |link| left(link.at, LINK_EVERY));
        line.min(link)
    }

    /// Shows the line, and looks at the link, if it is time.
    pub fn tick(&mut self) {
        if let Some(link) = self.link.as_mut().filter(|link| link.at.elapsed() >= LINK_EVERY) {
            link.look();
        }
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
