//! Text for people: numbers, rates, and the one place that writes to standard output and standard error.
//!
//! Standard output may be a pipe whose reader has gone (`anyport list | head`): writing reports that as an error, which
//! the program ends quietly on, instead of a panic.

use std::io::{self, Write};

use anyhow::{Context, Result};

/// Digits in groups of three.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn scaled(value: f64, unit: &str) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G{unit}", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M{unit}", v / 1e6),
        v if v >= 1e3 => format!("{:.1} k{unit}", v / 1e3),
        v => format!("{v:.1} {unit}"),
    }
}

/// Frames per second.
pub fn packet_rate(per_second: f64) -> String {
    scaled(per_second, "pps")
}

/// Bits per second.
pub fn bit_rate(per_second: f64) -> String {
    let text = scaled(per_second, "bit/s");
    // One decimal is enough for megabits.
    match per_second {
        v if (1e6..1e9).contains(&v) => format!("{:.1} Mbit/s", v / 1e6),
        _ => text,
    }
}

/// Nanoseconds as people read them.
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns >= 1e9 => format!("{:.3} s", ns / 1e9),
        ns if ns >= 1e6 => format!("{:.3} ms", ns / 1e6),
        ns if ns >= 1e3 => format!("{:.2} us", ns / 1e3),
        ns => format!("{ns:.0} ns"),
    }
}

/// Writes text to standard output.
///
/// # Errors
/// The system's; see [`is_broken_pipe`].
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}

/// Writes a value to standard output as one JSON object.
///
/// # Errors
/// The system's.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("making JSON")?;
    text.push('\n');
    print(&text)
}

/// Writes a line to standard error; where that cannot be written to, there is nobody to tell.
pub fn say(line: &str) {
    crate::run::live::clear_line();
    let _ = writeln!(io::stderr(), "{line}");
}

/// An error with its causes, for people. Many errors name their cause in their own text; it is not said twice then.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether an error is that the reader of a pipe has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 999.0, 10_000.0, 1.5e6].map(packet_rate),
            ["0.0 pps", "999.0 pps", "10.0 kpps", "1.50 Mpps"]
        );
        assert_eq!([5e6, 2.5e9].map(bit_rate), ["5.0 Mbit/s", "2.50 Gbit/s"]);
        assert_eq!(
            [12.0, 1500.0, 2.5e6, 3e9].map(time),
            ["12 ns", "1.50 us", "2.500 ms", "3.000 s"]
        );
    }

    #[test]
    fn a_cause_is_said_once() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = anyport::Error::os("a.pcapng", "writing", full);
        let error = anyhow::Error::from(error).context("dump pcap:eth0");
        assert_eq!(
            explain(&error),
            "dump pcap:eth0: a.pcapng: writing: No space left on device (os error 28)"
        );
        let error = anyhow::anyhow!("why").context("what");
        assert_eq!(explain(&error), "what: why");
    }

    #[test]
    fn a_broken_pipe_is_found_under_its_context() {
        let error =
            anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("other")));
    }
}
