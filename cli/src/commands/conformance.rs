//! `anyport conformance`: the contract's suite on two connected ports, or on a rig that it builds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use anyport_conformance::helper::{self, HelperCommand};
use anyport_conformance::rig::{self, Given, Rig};
use anyport_conformance::{Failure, Filter, report};

use crate::ports::PortArgs;
use crate::run::signals::{die_of, on_signal};
use crate::text::{print, print_json, say};

/// Prove on two connected ports, or on a rig, that a backend keeps the contract
///
/// Every case cites the clauses that it checks and is judged at the far end, with exact counts. A case is skipped only for
/// a capability that a port does not declare, or for something that the rig cannot do.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport conformance --rig loop                     the in-process cable; no privilege
  sudo anyport conformance --rig pcap-veth           libpcap on a veth pair, in a network namespace
  sudo anyport conformance pcap:eth1 pcap:eth2       two ports that a cable connects
  anyport conformance --rig loop --clause R6         one clause
  anyport conformance --list                         the cases, what they do, and why

Rigs:
  loop                  both ends of an in-process cable
  loop-offloads         the same cable, whose ends do offloads themselves
  pcap-veth             the kernel path through libpcap on both ends of a veth pair
  af_xdp-veth           AF_XDP sockets on both ends of a veth pair, the program in the driver
  af_xdp-veth-generic   the same, the program behind the driver
  af_xdp-veth-queues    the program in the driver, and four queues each way
  af_xdp-pcap           AF_XDP sockets on one end of a veth pair, libpcap on the other
  pcap-af_xdp           the same the other way round: cases send more one way than the other
  loop-af_xdp           an in-process cable, forwarded to AF_XDP sockets at the end of a veth pair
  af_xdp-loop           the same the other way round

Before the cases, frames are sent both ways between the ports of a pair: they must be connected to each other, and nobody \
else may send there, because counts are exact.

SIGINT and SIGTERM end it after the running case, with the totals of what ran; its exit status is then that of a process \
that the signal ended (130 and 143 in a shell).")]
pub struct Args {
    /// Two connected ports.
    #[arg(value_name = "PORT", num_args = 2, conflicts_with_all = ["rig", "list", "matrix"])]
    pair: Vec<String>,
    /// Build this rig instead.
    #[arg(long, value_name = "NAME")]
    rig: Option<String>,
    /// Only cases with this in their name; may stand several times.
    #[arg(long = "case", value_name = "PART")]
    names: Vec<String>,
    /// Only cases of this clause, or of this section (`R`); may stand several times.
    #[arg(long = "clause", value_name = "ID")]
    clauses: Vec<String>,
    /// Run everything so many times; stops after the first run with a failure.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Show the cases instead of running them.
    #[arg(long)]
    list: bool,
    /// Print the report (or the list) as JSON, and nothing else.
    #[arg(long)]
    json: bool,
    /// Write a JUnit report to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json_report: Option<PathBuf>,
    /// Write the report as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Print the matrix of these JSON reports as Markdown, instead of running anything.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["rig", "list"])]
    matrix: Vec<PathBuf>,
    #[command(flatten)]
    ports: PortArgs,
}

/// The second process of the suite: `anyport conformance` starts it for cases that need one.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "anyport conformance-helper is for the suite's own use.")]
pub struct HelperArgs {
    arguments: Vec<String>,
}

/// Does what the suite asks; the exit status says how it went, as a line on standard output does.
pub fn help(args: &HelperArgs) -> Result<()> {
    let code = helper::main(&anyport_backends::registry(), &args.arguments);
    if code == std::process::ExitCode::SUCCESS { Ok(()) } else { bail!("the helper failed") }
}

/// Runs the suite.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        return match args.json {
            true => print(&format!("{}\n", report::list_json().map_err(plain)?)),
            false => print(&report::table()),
        };
    }
    if !args.matrix.is_empty() {
        let reports: Result<Vec<_>> = args.matrix.iter().map(|path| read(path)).collect();
        return print(&report::matrix(&reports?));
    }
    let (stop, signal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
    let (to_stop, number) = (stop.clone(), signal.clone());
    on_signal(move |signal| {
        number.store(signal, Ordering::Relaxed);
        to_stop.store(true, Ordering::Release);
        say("anyport: ends after the running case; a second signal ends it at once");
    })?;
    for round in 1..=args.repeat {
        let report = args.round(&stop)?;
        args.write(&report)?;
        match args.json {
            true => print_json(&report)?,
            false => print(&format!("{}\n", report::summary(&report)))?,
        }
        if stop.load(Ordering::Acquire) {
            // Whoever started it must not take half a run for a whole one.
            die_of(signal.load(Ordering::Relaxed));
        }
        let (_, failed, _) = report.totals();
        if failed > 0 {
            bail!("{failed} cases failed on {} (round {round} of {})", report.rig, args.repeat);
        }
    }
    Ok(())
}

impl Args {
    fn rig(&self) -> Result<Box<dyn Rig>> {
        match (&self.rig, &self.pair[..]) {
            (Some(name), []) => rig::named(name).map_err(plain),
            (None, [one, other]) => {
                let rig = Given::new(self.ports.registry()?, one, other).map_err(plain)?;
                Ok(Box::new(rig))
            }
            _ => bail!(
                "two connected ports, or --rig NAME ({})",
                rig::NAMES.map(|(name, _)| name).join(", ")
            ),
        }
    }

    fn round(&self, stop: &Arc<AtomicBool>) -> Result<anyport_conformance::Report> {
        let filter = Filter { names: self.names.clone(), clauses: self.clauses.clone() };
        let helper = HelperCommand {
            program: std::env::current_exe().context("finding this program's own file")?,
            arguments: vec!["conformance-helper".to_owned(), "--".to_owned()],
        };
        let quiet = self.json;
        let rig = self.rig()?;
        anyport_conformance::run_until(rig, &filter, Some(helper), stop, &mut |result| {
            if !quiet {
                // A reader that has gone is noticed when the summary is printed.
                let _ = print(&format!("{}\n", report::line(result)));
            }
        })
        .map_err(plain)
    }

    fn write(&self, report: &anyport_conformance::Report) -> Result<()> {
        type Render = fn(&anyport_conformance::Report) -> Result<String, Failure>;
        let files: [(&Option<PathBuf>, Render); 3] = [
            (&self.junit, report::junit),
            (&self.json_report, report::json),
            (&self.markdown, |report| Ok(report::markdown(report))),
        ];
        for (path, render) in files {
            if let Some(path) = path {
                std::fs::write(path, render(report).map_err(plain)?)
                    .with_context(|| format!("writing {}", path.display()))?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<anyport_conformance::Report> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    report::from_json(&text)
        .map_err(plain)
        .with_context(|| format!("{} is no report", path.display()))
}

fn plain(Failure(text): Failure) -> anyhow::Error {
    anyhow!(text)
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_help_names_every_rig() {
        let command = Args::augment_args(clap::Command::new("conformance"));
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        for (name, about) in rig::NAMES {
            assert!(help.contains(&format!("  {name} ")) && help.contains(about), "{name}: {help}");
        }
    }
}
