//! Two sides in turns: A B B A, so that a drift of the machine falls on both alike.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use anyhow::Result;
use serde_json::{Value, json};

use super::programs::has_testpmd;
use super::rate::{Rate, Setup};

/// A program and what it is compared with.
#[derive(Debug)]
pub struct Pair {
    /// By which it is asked for.
    pub name: &'static str,
    /// What is done.
    pub what: &'static str,
    /// The other program.
    pub peer: &'static str,
    /// The other program is DPDK's.
    pub needs_dpdk: bool,
    /// The ratio that is to be reached.
    pub goal: f64,
    /// The ratio that is hoped for.
    pub target: Option<f64>,
    /// Anyport.
    pub ours: fn() -> Result<Setup>,
    /// The other.
    pub theirs: fn() -> Result<Setup>,
}

impl Pair {
    /// Measures both, so many times each, and prints what comes of it.
    ///
    /// # Errors
    /// A program does not start, or moves nothing.
    pub fn compare(&self, rounds: usize) -> Result<Value> {
        if self.needs_dpdk
            && let Err(error) = has_testpmd()
        {
            println!("{}: left out: dpdk-testpmd: {error} (package dpdk-dev)", self.name);
            return Ok(json!({ "name": self.name, "left_out": "dpdk-testpmd is not installed" }));
        }
        let (ours, theirs) = (|| (self.ours)()?.measure(), || (self.theirs)()?.measure());
        let mut pairs = Vec::new();
        for round in 0..rounds {
            pairs.push(if round % 2 == 0 {
                let first = ours()?;
                (first, theirs()?)
            } else {
                let first = theirs()?;
                (ours()?, first)
            });
        }
        Ok(self.report(&pairs))
    }

    fn report(&self, pairs: &[(Rate, Rate)]) -> Value {
        let of = |pick: fn(&(Rate, Rate)) -> f64| median(pairs.iter().map(pick).collect());
        let ratios: Vec<f64> =
            pairs.iter().map(|(ours, theirs)| ours.arrived / theirs.arrived).collect();
        let ratio = median(ratios.clone());
        let (ours, theirs) = (of(|pair| pair.0.arrived), of(|pair| pair.1.arrived));
        let disturbed = of(|pair| pair.0.disturbed.max(pair.1.disturbed));
        let (name, what, peer, goal, rounds) =
            (self.name, self.what, self.peer, self.goal, pairs.len());
        let verdict = match (ratio >= goal, self.target) {
            (true, Some(target)) if ratio >= target => "met, and the target".to_owned(),
            (true, Some(target)) => format!("met (target {target})"),
            (true, None) => "met".to_owned(),
            (false, _) => "missed".to_owned(),
        };
        println!(
            "{name}: {what}: anyport {:.3} M/s, {peer} {:.3} M/s, ratio {ratio:.2} (median of {rounds}, {:.2} to {:.2}); goal {goal}: {verdict}",
            ours / 1e6,
            theirs / 1e6,
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        );
        let share = |pick: fn(&(Rate, Rate)) -> &Rate| {
            let of_offered = |rate: &Rate| rate.offered.map(|offered| rate.arrived / offered);
            let shares: Option<Vec<f64>> =
                pairs.iter().map(|pair| of_offered(pick(pair))).collect();
            shares.map(median)
        };
        let shares = [share(|pair| &pair.0), share(|pair| &pair.1)];
        if let [Some(ours), Some(theirs)] = shares {
            // Who forwards everything has not shown what it can do.
            println!("  of what was offered: anyport {ours:.2}, {peer} {theirs:.2}");
        }
        if disturbed > 0.05 {
            println!(
                "  the machine was busy: programs waited {:.0} % of the time for their cores",
                disturbed * 100.0
            );
        }
        json!({
            "name": name, "what": what, "peer": peer, "rounds": rounds, "goal": goal, "target": self.target,
            "anyport_pps": ours, "peer_pps": theirs, "ratio": ratio, "ratios": ratios,
            "anyport_all": pairs.iter().map(|pair| pair.0.arrived).collect::<Vec<_>>(),
            "peer_all": pairs.iter().map(|pair| pair.1.arrived).collect::<Vec<_>>(),
            "anyport_share_of_offered": shares[0], "peer_share_of_offered": shares[1],
            "waited_for_cores": disturbed,
        })
    }
}

/// The middle one, of an even number the upper of the two; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 3.0);
        assert_eq!(median(vec![]), 0.0);
    }
}
