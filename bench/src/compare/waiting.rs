//! What a forwarder with little to do costs: the time for which it has its core, at 10,000 frames a second.
//!
//! `anyport fwd` waits for frames; beside it the bare forwarder looks for them all the time, and so has its core for itself.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::counters::Counter;
use super::pairs::{anyport_forwarder, bare_forwarder};
use super::programs::Program;
use super::rate::{WINDOW, ready};
use super::rounds::median;

/// By which it is asked for.
pub const NAME: &str = "xdp-wait";

/// Frames a second.
const RATE: u32 = 10_000;

/// The part of the busy forwarder's core time that is allowed.
const GOAL: f64 = 0.10;

/// Measures both, so many times each, and prints what comes of it.
///
/// # Errors
/// A program does not start, or moves nothing.
pub fn measure(rounds: usize) -> Result<Value> {
    let mut shares = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        shares[0].push(core_share(anyport_forwarder()?)?);
        shares[1].push(core_share(bare_forwarder()?)?);
    }
    let [anyport, busy] = shares.map(median);
    let ratio = anyport / busy;
    let verdict = if ratio <= GOAL { "met" } else { "missed" };
    println!(
        "{NAME}: fwd over AF_XDP at {RATE} frames a second: anyport has a core for {:.1} % of the time, busy polling {:.1} %, ratio {ratio:.3} (median of {rounds}); goal {GOAL} at most: {verdict}",
        anyport * 100.0,
        busy * 100.0
    );
    Ok(json!({
        "name": NAME, "rate": RATE, "rounds": rounds, "goal_at_most": GOAL,
        "anyport_core_share": anyport, "busy_core_share": busy, "ratio": ratio,
    }))
}

/// The part of a window for which a forwarder has had a core.
fn core_share(program: Program) -> Result<f64> {
    let arrived = Counter::Received("s1");
    // One frame at a time.
    let load = Program::anyport(0, &format!("gen pcap:h0 --size 60 --rate {RATE} --burst 1"))?;
    let mut running = vec![program.start()?, load.start()?];
    ready(&mut running, arrived)?;
    let (start, before, frames) = (Instant::now(), running[0].core_time()?, arrived.read()?);
    std::thread::sleep(WINDOW * 2);
    let (seconds, spent) = (start.elapsed().as_secs_f64(), running[0].core_time()? - before);
    let rate = (arrived.read()? - frames) as f64 / seconds;
    ensure!(
        (rate / f64::from(RATE) - 1.0).abs() < 0.05,
        "{rate:.0} frames a second were forwarded instead of {RATE}"
    );
    Ok(spent.as_secs_f64() / seconds)
}
