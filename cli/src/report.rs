//! What a command says when it ends: one JSON object on standard output, or a few lines for people.
//!
//! The same for every command that moves packets: frames, bytes, time, rate, drops by cause, why it ended, and the
//! counters of each port; a command adds its own fields.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use anyport::Counters;
use serde::Serialize;

use crate::ports::PortReport;
use crate::run::EndedBy;
use crate::text::{bit_rate, explain, number, packet_rate, print, print_json, say};

/// Which causes of loss a command answers for: what it receives, what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// A generator does not empty its port's receive ring, so what is lost there says nothing.
    Sending,
    /// A receiver sends nothing.
    Receiving,
    /// Both.
    Both,
}

/// The shortest time between the first and the last burst that a rate is told for: less is the time of a system call or two.
const TELLING: Duration = Duration::from_millis(1);

/// Frames that were lost, by cause; a cause that nobody can count is absent.
pub type Drops = BTreeMap<&'static str, u64>;

/// The causes in a port's counters.
pub fn drops_of(counters: &Counters, concerns: Concerns) -> Drops {
    let receiving = [
        ("rx_too_long", counters.rx_too_long),
        ("rx_too_short", counters.rx_too_short),
        ("rx_no_buffer", counters.rx_no_buffer),
        ("rx_ring_full", counters.rx_ring_full),
        ("rx_errors", counters.rx_errors),
    ];
    let sending = [("tx_dropped", counters.tx_dropped)];
    let always = [("lost", counters.lost), ("capture_dropped", counters.capture_dropped)];
    let none: &[_] = &[];
    let chosen = match concerns {
        Concerns::Receiving => [&receiving[..], none],
        Concerns::Sending => [none, &sending[..]],
        Concerns::Both => [&receiving[..], &sending[..]],
    };
    let known = chosen.concat().into_iter().chain(always);
    known.filter_map(|(cause, frames)| Some((cause, frames?))).collect()
}

/// The end of a command that moves packets.
#[derive(Debug, Serialize)]
pub struct Report<D> {
    /// The command's name.
    pub command: &'static str,
    /// Frames; which ones, the command says.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// From the first to the last of them, in seconds.
    pub seconds: f64,
    /// Frames per second over that time; 0 if it is too short to tell.
    pub pps: f64,
    /// The command's own fields.
    #[serde(flatten)]
    pub details: D,
    /// Frames that were lost, by cause.
    pub drops: Drops,
    /// The whole run in seconds.
    pub elapsed: f64,
    /// Why it ended.
    pub ended_by: EndedBy,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The counters of each port.
    pub ports: Vec<PortReport>,
}

/// What a command says of itself besides what all say.
pub trait Details: Serialize {
    /// Lines for people, without the common ones.
    fn lines(&self) -> Vec<String>;
}

impl<D: Details> Report<D> {
    /// A report with what all commands have in common: drops from the ports' counters, no error.
    pub fn new(
        command: &'static str,
        (packets, bytes): (u64, u64),
        time: Duration,
        details: D,
        concerns: Concerns,
        ports: Vec<PortReport>,
    ) -> Report<D> {
        let seconds = time.as_secs_f64();
        let pps = if time >= TELLING { packets as f64 / seconds } else { 0.0 };
        let mut drops = Drops::new();
        for (cause, frames) in ports.iter().flat_map(|port| drops_of(&port.counters, concerns)) {
            *drops.entry(cause).or_default() += frames;
        }
        Report {
            command,
            packets,
            bytes,
            seconds,
            pps,
            details,
            drops,
            elapsed: 0.0,
            ended_by: EndedBy::EndOfInput,
            error: None,
            ports,
        }
    }

    /// Adds frames that the command itself lost.
    pub fn drop_also(&mut self, causes: impl IntoIterator<Item = (&'static str, u64)>) {
        for (cause, frames) in causes {
            *self.drops.entry(cause).or_default() += frames;
        }
    }

    /// Writes the report to standard output, as JSON or for people; the error of the run comes back, to be told.
    ///
    /// # Errors
    /// The run's, else that of writing.
    pub fn finish(
        mut self,
        json: bool,
        ended_by: EndedBy,
        elapsed: Duration,
        error: Option<anyhow::Error>,
    ) -> Result<()> {
        self.elapsed = elapsed.as_secs_f64();
        self.ended_by = if error.is_some() { EndedBy::Error } else { ended_by };
        self.error = error.as_ref().map(explain);
        let written = if json { print_json(&self) } else { print(&self.text()) };
        error.map_or(written, Err)
    }

    /// As [`finish`](Report::finish), but for people on standard error: standard output is in use.
    ///
    /// # Errors
    /// The run's.
    pub fn finish_aside(mut self, elapsed: Duration, error: Option<anyhow::Error>) -> Result<()> {
        self.elapsed = elapsed.as_secs_f64();
        say(self.text().trim_end());
        error.map_or(Ok(()), Err)
    }

    fn text(&self) -> String {
        let names: Vec<&str> = self.ports.iter().map(|port| port.port.as_str()).collect();
        let rates = match self.pps > 0.0 {
            true => {
                let bits = self.bytes as f64 * 8.0 / self.seconds;
                format!(": {}, {}", packet_rate(self.pps), bit_rate(bits))
            }
            false => String::new(),
        };
        let mut lines = vec![format!(
            "{} {}: {} frames, {} bytes in {:.3} s{rates}",
            self.command,
            names.join(" "),
            number(self.packets),
            number(self.bytes),
            self.seconds,
        )];
        lines.extend(self.details.lines().into_iter().map(|line| format!("  {line}")));
        lines.push(format!("  dropped: {}", drops_text(&self.drops)));
        lines.extend(
            self.ports.iter().filter_map(PortReport::advice).map(|line| format!("  {line}")),
        );
        lines.join("\n") + "\n"
    }
}

/// `none`, or the causes that have frames.
pub fn drops_text(drops: &Drops) -> String {
    let some = drops.iter().filter(|(_, frames)| **frames > 0);
    let text: Vec<String> =
        some.map(|(cause, frames)| format!("{cause} {}", number(*frames))).collect();
    if text.is_empty() { "none".into() } else { text.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Extra {
        flows: u64,
    }

    impl Details for Extra {
        fn lines(&self) -> Vec<String> {
            vec![format!("flows: {}", self.flows)]
        }
    }

    fn report() -> Report<Extra> {
        let second = Duration::from_secs(1);
        Report::new("gen", (1000, 60_000), second, Extra { flows: 3 }, Concerns::Both, Vec::new())
    }

    #[test]
    fn fields_are_in_one_object() {
        let mut report = report();
        report.drop_also([("too_long", 2), ("too_long", 1), ("snapped", 0)]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["packets"], &json["flows"]), (&1000.into(), &3.into()));
        assert_eq!((&json["pps"], &json["drops"]["too_long"]), (&1000.0.into(), &3.into()));
        assert_eq!(json["ended_by"], "end_of_input");
        let text = report.text();
        assert!(
            text.contains("1,000 frames, 60,000 bytes in 1.000 s: 1.0 kpps, 480.0 kbit/s"),
            "{text}"
        );
        assert!(text.contains("\n  flows: 3\n  dropped: too_long 3\n"), "{text}");
    }

    #[test]
    fn a_moment_has_no_rate() {
        let moment = Duration::from_micros(10);
        let extra = Extra { flows: 1 };
        let report = Report::new("gen", (10, 600), moment, extra, Concerns::Both, Vec::new());
        assert!(report.pps == 0.0 && report.seconds > 0.0);
        let text = report.text();
        assert!(text.starts_with("gen : 10 frames, 600 bytes in 0.000 s\n"), "{text}");
    }

    #[test]
    fn causes_are_those_that_concern() {
        let mut counters = Counters::default();
        (counters.rx_ring_full, counters.tx_dropped, counters.lost) = (Some(1), Some(2), Some(3));
        let names = |concerns| drops_of(&counters, concerns).into_keys().collect::<Vec<_>>();
        assert_eq!(names(Concerns::Sending), ["lost", "tx_dropped"]);
        assert_eq!(names(Concerns::Receiving), ["lost", "rx_ring_full"]);
        assert_eq!(names(Concerns::Both), ["lost", "rx_ring_full", "tx_dropped"]);
    }
}
