//! The rate up to which a forwarder forwards everything: no loss below the rate reported.
//!
//! First the forwarder is offered more than it can forward; what it then forwards is its rate. Then it is offered parts of
//! that, evenly paced, and every frame that comes in has to come out.
//!
//! Trap: a forwarder that is off its core for a millisecond has lost what a ring of 1024 holds. So its rings hold 8192 here,
//! and a loss in a window for which a program waited for its core for longer than they last is the machine's: such a window
//! is measured again, a few times.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::COPIES;
use super::counters::Counter;
use super::pairs::flood;
use super::programs::Program;
use super::rate::{Setup, WINDOW, ready};

/// By which it is asked for.
pub const NAME: &str = "xdp-lossless";

/// Parts of the rate that are offered.
const PARTS: [f64; 5] = [0.6, 0.7, 0.8, 0.9, 0.95];

/// How long frames may be on their way.
const ON_THE_WAY: Duration = Duration::from_millis(200);

/// Entries of the forwarder's receive rings.
const RING: u32 = 8192;

/// Attempts at a window that is not disturbed.
const ATTEMPTS: usize = 5;

/// Measures `anyport fwd`, each part so many times, and prints what comes of it.
///
/// # Errors
/// A program does not start, or moves nothing.
pub fn measure(rounds: usize) -> Result<Value> {
    let most = overloaded()?;
    println!(
        "{NAME}: fwd over AF_XDP forwards {:.3} M/s of more; of what is offered it has lost:",
        most / 1e6
    );
    let mut results = Vec::new();
    for part in PARTS {
        let mut losses = (0..rounds).map(|_| loss(most * part)).collect::<Result<Vec<_>>>()?;
        losses.sort_unstable_by_key(|loss| loss.lost);
        let clean = losses.iter().filter(|loss| loss.lost == 0).count();
        let disturbed = losses.iter().filter(|loss| loss.disturbed).count();
        let (Loss { offered, lost, .. }, seconds) =
            (&losses[losses.len() / 2], WINDOW.as_secs_f64());
        println!(
            "  at {:.0} % of that, {:.3} M/s: {lost} of {offered} frames (median); none in {clean} of {rounds} windows; {disturbed} others \
             were disturbed by the machine",
            part * 100.0,
            *offered as f64 / seconds / 1e6,
        );
        results.push(json!({
            "part": part, "windows": rounds, "clean_windows": clean, "disturbed_windows": disturbed,
            "offered": offered, "lost": lost,
        }));
    }
    Ok(json!({ "name": NAME, "rate": most, "rx_ring": RING, "parts": results }))
}

fn forwarder() -> Result<Program> {
    Program::anyport(1, &format!("fwd af_xdp:f0,rx_ring={RING} af_xdp:f1,rx_ring={RING}"))
}

/// What the forwarder forwards of too much.
fn overloaded() -> Result<f64> {
    let programs = vec![forwarder()?, flood()?];
    let (arrived, offered) = (Counter::Received("s1"), Some(Counter::Received("f0")));
    Ok(Setup { programs, measured: 0, arrived, offered }.measure()?.arrived)
}

/// What was lost of a paced load.
struct Loss {
    offered: u64,
    lost: u64,
    /// The forwarder waited for its core, in all attempts.
    disturbed: bool,
}

fn loss(rate: f64) -> Result<Loss> {
    let (came, went) = (Counter::Received("f0"), Counter::Received("s1"));
    let mut running = forwarder()?.start()?;
    // It has to be there before what is counted begins.
    {
        let mut first = vec![Program::bare(0, "send d0 --rate 10000 --batch 1")?.start()?];
        ready(&mut first, went)?;
    }
    let lasts = Duration::from_secs_f64(f64::from(RING) / rate);
    let mut best: Option<Loss> = None;
    for _ in 0..ATTEMPTS {
        std::thread::sleep(ON_THE_WAY);
        let before = (came.read()?, went.read()?, running.threads());
        let (each, seconds) = (rate / COPIES as f64, WINDOW.as_secs_f64());
        let load = format!("send d0 --rate {each:.0} --batch 4 --seconds {seconds}");
        Program::bare(0, &load)?.start()?.finish(WINDOW + Duration::from_secs(10))?;
        std::thread::sleep(ON_THE_WAY);
        running.check()?;
        let (offered, forwarded) = (came.read()? - before.0, went.read()? - before.1);
        ensure!(offered > 0, "the load does not arrive");
        let lost = offered.checked_sub(forwarded);
        let lost = lost.context("more frames came out of the forwarder than went in")?;
        let disturbed = lost > 0 && running.threads().busiest_since(&before.2).waited > lasts;
        if best.as_ref().is_none_or(|best| lost < best.lost) {
            best = Some(Loss { offered, lost, disturbed });
        }
        if lost == 0 || !disturbed {
            break;
        }
    }
    // There is at least one attempt.
    best.ok_or_else(|| anyhow::anyhow!("nothing was measured"))
}
