//! Starts programs, waits until frames arrive, and counts them over a window.
//!
//! Others may be at work on the machine. So a rate is per second of the time in which the program that sets it has had its
//! core, which on a quiet machine is all of it. And a window in which a program had to wait for its core for more than a
//! moment is measured again, a few times; the least disturbed one counts.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::counters::Counter;
use super::programs::{Program, Running, Turns};

/// How long each measurement counts.
pub const WINDOW: Duration = Duration::from_secs(1);

/// How long programs may take to move their first frames.
const READY: Duration = Duration::from_secs(20);

/// How long they run before they are measured.
const SETTLE: Duration = Duration::from_millis(300);

/// The part of a window for which a program may have waited for its core.
const QUIET: f64 = 0.03;

/// Windows that are measured in the hope of a quiet one.
const WINDOWS: usize = 5;

/// Programs to be started one after the other, and what is counted of them.
#[derive(Debug)]
pub struct Setup {
    /// Receivers first.
    pub programs: Vec<Program>,
    /// Which of them sets the rate.
    pub measured: usize,
    /// What arrives.
    pub arrived: Counter,
    /// What came in at a forwarder in the same time.
    pub offered: Option<Counter>,
}

/// Frames per second.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// What arrived.
    pub arrived: f64,
    /// What was offered to a forwarder.
    pub offered: Option<f64>,
    /// The part of the window for which one of the programs waited for its core.
    pub disturbed: f64,
}

impl Setup {
    /// Starts, measures, ends.
    ///
    /// # Errors
    /// A program does not start, or ends; no frames arrive.
    pub fn measure(self) -> Result<Rate> {
        let mut programs =
            self.programs.into_iter().map(Program::start).collect::<Result<Vec<_>>>()?;
        ready(&mut programs, self.arrived)?;
        std::thread::sleep(SETTLE);
        let mut best: Option<Rate> = None;
        for _ in 0..WINDOWS {
            let rate = window(&programs, self.measured, self.arrived, self.offered)?;
            if best.is_none_or(|best| rate.disturbed < best.disturbed) {
                best = Some(rate);
            }
            if rate.disturbed <= QUIET {
                break;
            }
        }
        programs.iter_mut().try_for_each(Running::check)?;
        // There is at least one window.
        best.ok_or_else(|| anyhow::anyhow!("nothing was measured"))
    }
}

/// Waits until frames arrive.
///
/// # Errors
/// A program ends; none arrive.
pub fn ready(programs: &mut [Running], arrived: Counter) -> Result<()> {
    let deadline = Instant::now() + READY;
    let before = arrived.read()?;
    while arrived.read()? < before + 1000 {
        programs.iter_mut().try_for_each(Running::check)?;
        ensure!(Instant::now() < deadline, "no frames arrive ({arrived:?})");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn window(
    programs: &[Running],
    measured: usize,
    arrived: Counter,
    offered: Option<Counter>,
) -> Result<Rate> {
    let look = || -> Result<(Instant, u64, Option<u64>)> {
        Ok((Instant::now(), arrived.read()?, offered.map(Counter::read).transpose()?))
    };
    let threads = || programs.iter().map(Running::threads).collect::<Vec<_>>();
    let (threads_before, (start, first, first_offered)) = (threads(), look()?);
    std::thread::sleep(WINDOW);
    let ((end, last, last_offered), threads_after) = (look()?, threads());
    let turns: Vec<Turns> = threads_after
        .iter()
        .zip(&threads_before)
        .map(|(after, before)| after.busiest_since(before))
        .collect();
    let seconds = (end - start).as_secs_f64();
    let share = turns.get(measured).map_or(1.0, Turns::share);
    let per_second = |from: u64, to: u64| (to - from) as f64 / seconds;
    let most = turns.iter().map(|turns| turns.waited).max().unwrap_or_default();
    Ok(Rate {
        arrived: per_second(first, last) / share,
        offered: first_offered.zip(last_offered).map(|(first, last)| per_second(first, last)),
        disturbed: most.as_secs_f64() / seconds,
    })
}
