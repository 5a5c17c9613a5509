//! Values of options: durations, rates, counts, frame sizes, lists of cores. Each says what it accepts when it refuses.

use std::time::Duration;

use crate::wire::frame::{IMIX, MIN_FRAME};

/// `5s`, `1.5m`, `200ms`, `1h`, or plain seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let error = || "a duration is a number with ms, s, m or h: `5s`, `200ms`, `1.5m`".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(error()),
    };
    let number = decimal(digits).ok_or_else(error)?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| error())
}

/// A number that is written with digits and at most one point, nothing else that `f64` would read.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| plain)
}

/// A number with an optional k, M or G (thousands, millions, thousands of millions).
fn scaled(text: &str) -> Option<f64> {
    let (digits, factor) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1e3),
        (at, 'M') => (&text[..at], 1e6),
        (at, 'G') => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    Some(decimal(digits)? * factor)
}

/// A number of frames, at least one: `1000`, `10k`, `1.5M`.
pub fn count(text: &str) -> Result<u64, String> {
    let whole = text.parse().ok();
    let short = || scaled(text).filter(|n| n.fract() == 0.0 && *n < 1e15).map(|n| n as u64);
    whole.or_else(short).filter(|&n: &u64| n > 0).ok_or_else(|| {
        "a count is a whole number from 1 on, k, M and G allowed: `1000`, `10k`".into()
    })
}

/// How fast frames leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the port takes them.
    Max,
    /// So many in a thousand seconds.
    PerKilosecond(u64),
}

impl Rate {
    /// Frames a second, if there is a limit.
    pub fn per_second(self) -> Option<f64> {
        match self {
            Rate::Max => None,
            Rate::PerKilosecond(frames) => Some(frames as f64 / 1000.0),
        }
    }
}

/// `max`, or frames a second: `10000`, `10k`, `0.5`.
pub fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    let frames = scaled(text).map(|rate| (rate * 1000.0).round());
    match frames.filter(|frames| (1.0..1e15).contains(frames)) {
        Some(frames) => Ok(Rate::PerKilosecond(frames as u64)),
        None => Err("a rate is `max` or frames a second: `10000`, `10k`, `1.5M`, `0.5`".into()),
    }
}

/// How long generated frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// All alike, in bytes without FCS.
    Fixed(usize),
    /// A mixture: 7 of 60, 4 of 590 and 1 of 1,514 bytes in 12.
    Imix,
}

impl Size {
    /// The sizes in the order in which frames take them, again and again.
    pub fn pattern(self) -> Vec<usize> {
        match self {
            Size::Fixed(size) => vec![size],
            Size::Imix => IMIX.to_vec(),
        }
    }
}

/// `imix`, or bytes without FCS.
pub fn size(text: &str) -> Result<Size, String> {
    if text == "imix" {
        return Ok(Size::Imix);
    }
    match text.parse() {
        Ok(size) if (MIN_FRAME..=65535).contains(&size) => Ok(Size::Fixed(size)),
        _ => {
            Err(format!("a size is `imix` or bytes without FCS, {MIN_FRAME} to the port's maximum"))
        }
    }
}

/// Cores to run on, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

impl Cores {
    /// Refuses cores on which this process may not run.
    ///
    /// # Errors
    /// The first such core, and those that there are.
    pub fn check(&self) -> anyhow::Result<()> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let most = rustix::thread::CpuSet::MAX_CPU;
        match self.0.iter().find(|core| **core >= most || !allowed.is_set(**core)) {
            Some(core) => {
                let there: Vec<String> = (0..most)
                    .filter(|core| allowed.is_set(*core))
                    .map(|core| core.to_string())
                    .collect();
                anyhow::bail!(
                    "--cores: this process cannot run on core {core}; it can on {}",
                    there.join(", ")
                )
            }
            None => Ok(()),
        }
    }
}

/// `0`, `0,2`, `0-3,6`.
pub fn cores(text: &str) -> Result<Cores, String> {
    let error =
        || "a list of cores is numbers and ranges: `0`, `0,2`, `0-3,6`, each core once".to_owned();
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().ok().filter(|core| *core < 4096);
        let (first, last) = (number(first).ok_or_else(error)?, number(last).ok_or_else(error)?);
        if first > last {
            return Err(error());
        }
        for core in first..=last {
            if all.contains(&core) {
                return Err(error());
            }
            all.push(core);
        }
    }
    Ok(Cores(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("5s", 5000), ("200ms", 200), ("1.5m", 90_000), ("2", 2000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "s",
            "5 s",
            "-1s",
            "1d",
            "1e3s",
            "infs",
            "nan",
            "5sm",
            "1.2.3s",
            "99999999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_counts_are_exact() {
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("10k"), Ok(Rate::PerKilosecond(10_000_000)));
        assert_eq!(rate("0.5"), Ok(Rate::PerKilosecond(500)));
        assert_eq!(rate("1488095").unwrap().per_second(), Some(1_488_095.0));
        for bad in ["", "0", "-1", "fast", "0.0001", "1e9", "k", "é"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert_eq!((count("1"), count("10k"), count("1.5M")), (Ok(1), Ok(10_000), Ok(1_500_000)));
        assert_eq!(count("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "0", "0.5", "1.0005k", "-3", "1e3", "18446744073709551616"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_start_at_the_least_frame() {
        assert_eq!(size("60"), Ok(Size::Fixed(60)));
        assert_eq!(size("imix").unwrap().pattern().len(), 12);
        for bad in ["59", "0", "", "65536", "imax", "-60"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_are_listed_once() {
        assert_eq!(cores("0-3,6"), Ok(Cores(vec![0, 1, 2, 3, 6])));
        for bad in ["", "1,1", "3-1", "a", "0-", "0,,1", "0-1-2", "5000"] {
            assert!(cores(bad).is_err(), "{bad}");
        }
    }
}
