//! Anyport beside other programs ([`anyport_bench::compare`]), in a network namespace of its own.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::time::Duration;

use anyhow::{Result, ensure};
use anyport_bench::{compare, flood, topology};
use clap::Parser;

/// Anyport beside bare programs and DPDK's testpmd, in one run
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each side is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Only comparisons whose names begin so; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Say which comparisons there are
    #[arg(long)]
    list: bool,
    /// Let the programs have their cores before everything else on the machine, which stands still meanwhile
    #[arg(long)]
    favour: bool,
    /// Let the interfaces that receive collect frames for so many microseconds first, for all programs
    #[arg(long, value_name = "MICROSECONDS")]
    defer: Option<u64>,
    /// In the network namespace already.
    #[arg(long, hide = true)]
    inside: bool,
    /// The bare libpcap loop.
    #[arg(long, hide = true)]
    inject: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        compare::names().iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if let Some(interface) = arguments.inject {
        return flood::inject(&interface);
    }
    if arguments.inside {
        if arguments.favour {
            topology::favour();
        }
        let defer = arguments.defer.map(Duration::from_micros);
        let (rounds, only) = (arguments.rounds as usize, arguments.only);
        return compare::run(&compare::Options { rounds, only, defer });
    }
    let given: Vec<String> = std::env::args().skip(1).collect();
    let again = std::iter::once("--inside").chain(given.iter().map(String::as_str));
    let status = topology::again_in_namespace(&again.collect::<Vec<_>>(), arguments.favour)?;
    ensure!(status.success(), "the comparison failed (it needs root: sudo)");
    Ok(())
}
