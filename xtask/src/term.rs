//! What the tasks print: headers, marks, numbers.
//!
//! Everything goes to standard output in one order with the output of the programs that are run; colours only
//! on a terminal and only if neither `NO_COLOR` nor `--plain` says otherwise.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static PLAIN: AtomicBool = AtomicBool::new(false);

/// Switches colours off for the rest of the process.
pub fn set_plain() {
    PLAIN.store(true, Ordering::Relaxed);
}

/// Whether colours may be used.
pub fn colours() -> bool {
    !PLAIN.load(Ordering::Relaxed)
        && std::env::var_os("NO_COLOR").is_none()
        && std::io::stdout().is_terminal()
}

fn paint(code: &str, text: &str) -> String {
    if colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Text in bold.
pub fn bold(text: &str) -> String {
    paint("1", text)
}

/// Text that stands back.
pub fn dim(text: &str) -> String {
    paint("2", text)
}

/// Text for what is right.
pub fn green(text: &str) -> String {
    paint("32", text)
}

/// Text for what is wrong.
pub fn red(text: &str) -> String {
    paint("31", text)
}

/// Text for what was left out.
pub fn yellow(text: &str) -> String {
    paint("33", text)
}

/// Prints a header line, and pushes it out before a child process prints its own lines.
pub fn header(text: &str) {
    println!("\n{}", bold(&format!("== {text}")));
    flush();
}

/// Pushes out what was printed. A closed standard output is no reason to fail: the result is the exit status.
pub fn flush() {
    drop(std::io::stdout().flush());
}

/// A duration for people: `0.4 s`, `12.3 s`, `2 min 03 s`.
pub fn seconds(duration: Duration) -> String {
    let secs = duration.as_secs_f64();
    if secs < 60.0 {
        format!("{secs:.1} s")
    } else {
        let whole = secs.round() as u64;
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// A whole number with thousands separated by commas.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A bit rate for people: `941 Mbit/s`, `2.13 Gbit/s`.
pub fn bit_rate(bits_per_second: f64) -> String {
    if bits_per_second >= 1e9 {
        format!("{:.2} Gbit/s", bits_per_second / 1e9)
    } else {
        format!("{:.0} Mbit/s", bits_per_second / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(seconds(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(seconds(Duration::from_millis(123_000)), "2 min 03 s");
        assert_eq!(bit_rate(941e6), "941 Mbit/s");
        assert_eq!(bit_rate(2.126e9), "2.13 Gbit/s");
    }
}
