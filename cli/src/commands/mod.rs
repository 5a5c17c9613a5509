//! The commands, a module each: its arguments (which are also its help and its man page), and `run`.

mod check;
mod completions;
mod conformance;
mod dump;
mod forward;
mod generate;
mod list;
mod man;
mod reflect;
mod replay;
mod schema;
mod sink;

use anyhow::Result;

/// What the tool can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(list::Args),
    Gen(generate::Args),
    Sink(sink::Args),
    Fwd(forward::Args),
    Reflect(reflect::Args),
    Dump(dump::Args),
    Replay(replay::Args),
    Conformance(conformance::Args),
    #[command(hide = true)]
    ConformanceHelper(conformance::HelperArgs),
    Check(check::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(self) -> Result<()> {
        match self {
            Command::List(args) => list::run(&args),
            Command::Gen(args) => generate::run(&args),
            Command::Sink(args) => sink::run(&args),
            Command::Fwd(args) => forward::run(&args),
            Command::Reflect(args) => reflect::run(&args),
            Command::Dump(args) => dump::run(&args),
            Command::Replay(args) => replay::run(&args),
            Command::Conformance(args) => conformance::run(&args),
            Command::ConformanceHelper(args) => conformance::help(&args),
            Command::Check(args) => check::run(&args),
            Command::Schema(args) => schema::run(&args),
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
        }
    }
}
