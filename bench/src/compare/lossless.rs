//! The rate up to which a forwarder forwards everything: no loss below the rate reported.
//!
//! First the forwarder is offered more than it can forward; what it then forwards is its rate. Then it is offered parts of
//! that, evenly paced, and every frame that comes in has to come out.
//!
//! Trap: a forwarder that is off its core for a millisecond has lost a ring full of frames. A loss in a window for which a
//! program waited for its core is the machine's, so such a window is measured again.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::COPIES;
use super::counters::Counter;
use super::pairs::{anyport_forwarder, bare_forwarder, flood};
use super::programs::{Program, Running};
use super::rate::{Setup, WINDOW, ready};

/// By which it is asked for.
pub const NAME: &str = "xdp-lossless";

/// Parts of the rate that are offered.
const PARTS: [f64; 5] = [0.6, 0.7, 0.8, 0.9, 0.95];

/// How long frames may be on their way.
const ON_THE_WAY: Duration = Duration::from_millis(200);

/// Measures `anyport fwd` and the bare forwarder, each part so many times, and prints what comes of it.
///
/// # Errors
/// A program does not start, or moves nothing.
pub fn measure(rounds: usize) -> Result<Value> {
    let mut results = Vec::new();
    let programs: [(&str, fn() -> Result<Program>); 2] =
        [("anyport", anyport_forwarder), ("bare rings", bare_forwarder)];
    for (name, program) in programs {
        let most = overloaded(program()?)?;
        println!(
            "{NAME}: {name}: {:.3} M/s of more than it can forward; offered parts of that, it has lost:",
            most / 1e6
        );
        for part in PARTS {
            let mut losses =
                (0..rounds).map(|_| loss(program()?, most * part)).collect::<Result<Vec<_>>>()?;
            losses.sort_unstable_by_key(|loss| loss.lost);
            let clean = losses.iter().filter(|loss| loss.lost == 0).count();
            let middle = &losses[losses.len() / 2];
            println!(
                "  {:.0} % ({:.3} M/s): {} of {} frames (median); none in {clean} of {rounds} windows",
                part * 100.0,
                middle.offered as f64 / middle.seconds / 1e6,
                middle.lost,
                middle.offered
            );
            results.push(json!({
                "program": name, "rate": most, "part": part, "windows": rounds, "clean_windows": clean,
                "offered": middle.offered, "lost": middle.lost,
            }));
        }
    }
    Ok(json!({ "name": NAME, "results": results }))
}

/// What a forwarder forwards of too much.
fn overloaded(program: Program) -> Result<f64> {
    let programs = vec![program, flood()?];
    let setup = Setup {
        programs,
        measured: 0,
        arrived: Counter::Received("s1"),
        offered: Some(Counter::Received("f0")),
    };
    Ok(setup.measure()?.arrived)
}

/// What was lost of a paced load.
struct Loss {
    offered: u64,
    lost: u64,
    seconds: f64,
}

fn loss(program: Program, rate: f64) -> Result<Loss> {
    let (came, went) = (Counter::Received("f0"), Counter::Received("s1"));
    let mut running = vec![program.start()?];
    // The forwarder has to be there before what is counted begins.
    {
        let mut first = vec![Program::bare(0, "send d0 --rate 10000 --batch 1")?.start()?];
        ready(&mut first, went)?;
    }
    std::thread::sleep(ON_THE_WAY);
    let (before_came, before_went) = (came.read()?, went.read()?);
    let seconds = WINDOW.as_secs_f64();
    let batch = 4;
    let each = rate / COPIES as f64;
    let load = format!("send d0 --rate {each:.0} --batch {batch} --seconds {seconds}");
    let mut load = Program::bare(0, &load)?.start()?;
    load.finish(WINDOW + Duration::from_secs(10))?;
    std::thread::sleep(ON_THE_WAY);
    running.iter_mut().try_for_each(Running::check)?;
    let (offered, forwarded) = (came.read()? - before_came, went.read()? - before_went);
    ensure!(offered > 0, "the load does not arrive");
    Ok(Loss { offered, lost: offered.saturating_sub(forwarded), seconds })
}
