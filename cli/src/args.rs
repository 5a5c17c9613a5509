//! The command line: what all commands share. Each command has its own arguments in its module; help, completion and man
//! pages are all made from these definitions.

use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::commands::Command;
use crate::ports::PortArgs;
use crate::run::Limits;
use crate::values::{self, Cores};

/// Send, receive, forward and record packets on any port
///
/// A PORT is named by a spec, `backend:device[,key=value]...`, or by a name from a configuration file. `anyport list` shows
/// what there is. Commands that move packets end with their totals on SIGINT and SIGTERM; a second signal ends them at once.
#[derive(Debug, clap::Parser)]
#[command(name = "anyport", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Ports:
  af_xdp:eth0                  a kernel interface through AF_XDP sockets
  af_xdp:eth0,queues=4         the same with four queue pairs
  pcap:eth0                    a kernel interface through libpcap
  pcap:eth0,rx_ring=4096       the same with a larger receive ring
  pcap:in=a.pcap,out=b.pcapng  capture files as a port
  loop:NAME.0, loop:NAME.1     the ends of an in-process cable

Exit status:
  0  all went well, also if a signal ended it
  1  something failed; standard error says what
  2  options or arguments are not as the help says (what a spec names is looked at later: 1)

Environment:
  RUST_LOG  what is logged to standard error (default: warn)")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command that moves packets takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// End after so long: `5s`, `200ms`, `1.5m`; without a unit, seconds
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub duration: Option<Duration>,
    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub count: Option<u64>,
    /// Pin the workers to these cores: `0`, `0,2`, `0-3`; several ask the port for as many queues
    #[arg(long, value_name = "LIST", value_parser = values::cores)]
    pub cores: Option<Cores>,
    /// Print one JSON object with the totals to standard output, and nothing else
    #[arg(long)]
    pub json: bool,
    /// Ports and pool.
    #[command(flatten)]
    pub ports: PortArgs,
}

impl RunArgs {
    /// What ends the run besides its workers.
    pub fn limits(&self) -> Limits {
        Limits { duration: self.duration, idle: None }
    }
}

/// Ends the process as wrong arguments do that the definitions alone can tell.
pub fn usage_error(message: &str) -> ! {
    Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            let examples =
                command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("anyport {name}")), "{name}: {examples}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_what_is_accepted() {
        for (line, expected) in [
            ("gen loop:a.0 --size 59", "60 to the port's maximum"),
            ("gen loop:a.0 --rate fast", "`max` or frames a second"),
            ("gen loop:a.0 --dst 1:2:3", "MAC address"),
            ("gen loop:a.0 --count 0", "a whole number from 1 on"),
            ("sink loop:a.0 --duration soon", "a duration is a number"),
            ("fwd loop:a.0", "required"),
            ("fwd loop:a.0 loop:a.1 --cores 1-0", "a list of cores"),
            ("frobnicate", "unrecognized subcommand"),
        ] {
            let args = std::iter::once("anyport").chain(line.split(' '));
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
