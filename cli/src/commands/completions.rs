//! `anyport completions`: completion scripts for shells.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::text::print;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport completions bash > /etc/bash_completion.d/anyport
  anyport completions zsh > \"${fpath[1]}/_anyport\"
  anyport completions fish > ~/.config/fish/completions/anyport.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints it.
pub fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "anyport", &mut script);
    print(&String::from_utf8_lossy(&script))
}
