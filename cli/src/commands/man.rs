//! `anyport man`: man pages, made from the same definitions as the help.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::Cli;
use crate::text::print;

/// Print the man page, or write all man pages to a folder
///
/// Without DIR the page of `anyport` itself goes to standard output; with it, `anyport.1` and one page for each command
/// are written there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport man | man -l -
  anyport man /usr/local/share/man/man1")]
pub struct Args {
    /// The folder; it is made if it is not there
    dir: Option<PathBuf>,
}

/// Prints or writes them.
pub fn run(args: &Args) -> Result<()> {
    let tool = Cli::command().disable_help_subcommand(true);
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(tool).render(&mut page).context("making the man page")?;
        return print(&String::from_utf8_lossy(&page));
    };
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    clap_mangen::generate_to(tool, dir).with_context(|| format!("writing to {}", dir.display()))
}
