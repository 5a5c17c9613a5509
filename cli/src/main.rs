//! The `anyport` tool: the common layer and the built-in backends as a program.
//!
//! ```text
//!   args      the command line                commands/  one module per command
//!   ports     specs to opened ports, a pool   run/       signals, limits, workers, pacing, the live line
//!   wire/     stamped frames and what a       lane       from a receive queue to a transmit queue
//!             receiver makes of them          report     the end: JSON or text
//! ```
//!
//! A new command is a module in `commands` with its arguments and a `run` function, and a line in
//! [`commands::Command`].

mod args;
mod commands;
mod lane;
mod log;
mod ports;
mod report;
mod run;
mod text;
mod values;
mod wire;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Help and usage errors are written by clap, which ends the process with 0 or 2.
    let cli = args::Cli::parse();
    log::start();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read standard output has seen enough.
        Err(error) if text::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            text::say(&format!("anyport: {}", text::explain(&error)));
            ExitCode::FAILURE
        }
    }
}
