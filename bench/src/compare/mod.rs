//! Anyport beside other programs that do the same: on the same interfaces, on the same cores, in turns, in one run.
//!
//! ```text
//!   gen, gen to sink:   [g0]═══[s0]
//!   fwd:   load ─ [d0]═══[d1] ─ copies ─ [h0]═══[f0]  forwarder  [f1]═══[s1]
//! ```
//!
//! Everything happens in a network namespace that goes with the process. Frames are 60 bytes without FCS on both sides of
//! each comparison. The load of the forwarders has to be more than either can forward: it is a bare loop with each frame
//! [multiplied](crate::flood), or, where an XDP program is at the forwarder's interface, frames that [the kernel
//! makes](crate::live). How much of it was forwarded is printed, too. What is printed are medians and the median of
//! the ratios of neighbouring runs: absolute figures depend on the machine and its neighbours.
//!
//! | module | what it does |
//! |---|---|
//! | [`pairs`] | what is compared with what, and the ratio that is aimed at |
//! | [`programs`] | how each program is started, and ends |
//! | [`counters`] | what the kernel has counted at an interface |
//! | [`rate`] | starts programs and measures at what rate frames arrive |
//! | [`rounds`] | A B B A, medians, the verdict |
//! | [`lossless`] | the share of its rate that a forwarder forwards without a loss |
//! | [`waiting`] | what a forwarder with little to do costs |

pub mod counters;
pub mod lossless;
pub mod pairs;
pub mod programs;
pub mod rate;
pub mod rounds;
pub mod waiting;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::flood::Multiplier;
use crate::topology::{defer, make_pairs};

/// How often a frame of the forwarders' load is multiplied.
pub const COPIES: usize = 8;

/// What is compared, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often each side of a pair is measured.
    pub rounds: usize,
    /// Only comparisons with names that begin with one of these; all if there is none.
    pub only: Vec<String>,
    /// For how long the interfaces that receive collect frames first ([`defer`]).
    pub defer: Option<Duration>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only))
    }
}

/// The names of all comparisons.
pub fn names() -> Vec<&'static str> {
    let pairs = pairs::PAIRS.iter().map(|pair| pair.name);
    pairs.chain([lossless::NAME, waiting::NAME]).collect()
}

/// Runs the comparisons in the network namespace that the process is in, and prints what comes of them. With
/// `ANYPORT_BENCH_JSON` set to a path, writes it there, too.
///
/// # Errors
/// A name that is none; no root; a program does not start, or moves nothing.
pub fn run(options: &Options) -> Result<()> {
    for only in &options.only {
        let names = names();
        let known = names.iter().any(|name| name.starts_with(only.as_str()));
        ensure!(known, "no comparison `{only}`; there are: {}", names.join(", "));
    }
    make_pairs(&[("g0", "s0"), ("d0", "d1"), ("h0", "f0"), ("f1", "s1")])?;
    if let Some(time) = options.defer {
        defer(&["s0", "f0", "f1"], time)?;
    }
    let _multiplier = Multiplier::attach("d1", "h0", COPIES)?;
    let mut results: Vec<Value> = Vec::new();
    for pair in pairs::PAIRS.iter().filter(|pair| options.wants(pair.name)) {
        results.push(pair.compare(options.rounds)?);
    }
    if options.wants(lossless::NAME) {
        results.push(lossless::measure(options.rounds)?);
    }
    if options.wants(waiting::NAME) {
        results.push(waiting::measure(options.rounds)?);
    }
    if let Some(path) = std::env::var_os("ANYPORT_BENCH_JSON") {
        std::fs::write(&path, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("writing {}", PathBuf::from(path).display()))?;
    }
    Ok(())
}
