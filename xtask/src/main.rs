//! `cargo xtask`: the project's tasks, as a program.
//!
//! It builds on a fresh machine without any system library, because installing those is one of its tasks.
//! Modules: [`steps`] is `test`,
//! [`packages`] the system packages, [`netns`] network namespaces, [`proc`] child processes that never outlive
//! this program, [`workspace`] cargo.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

#[allow(dead_code, reason = "the demonstration uses it")]
mod netns;
#[allow(dead_code, reason = "the demonstration uses it")]
mod packages;
#[allow(dead_code, reason = "the demonstration uses it")]
mod proc;
mod steps;
#[allow(dead_code, reason = "the demonstration uses it")]
mod tally;
#[allow(dead_code, reason = "the demonstration uses it")]
mod term;
#[allow(dead_code, reason = "the demonstration uses it")]
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use proc::Interrupted;
use workspace::Workspace;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test [STEP...]   all tests; installs what they need (--list shows the steps)
  ci [STEP...]     the same without colours and progress bars

Options: --plain (no colours), --help";

/// Whether this process has every privilege (effective user 0).
fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Help,
    ListSteps,
    Test(Vec<String>),
}

fn parse(mut args: Vec<String>) -> Result<Task> {
    if take(&mut args, "--help") || take(&mut args, "-h") || args.is_empty() {
        return Ok(Task::Help);
    }
    if take(&mut args, "--plain") {
        term::set_plain();
    }
    if args.is_empty() {
        bail!("a command is missing\n\n{USAGE}");
    }
    let command = args.remove(0);
    let task = match command.as_str() {
        "test" | "ci" => {
            if command == "ci" {
                term::set_plain();
            }
            if take(&mut args, "--list") {
                Task::ListSteps
            } else {
                // What remains of the arguments are names of steps.
                let steps = args.iter().filter(|a| !a.starts_with('-')).cloned().collect();
                args.retain(|a| a.starts_with('-'));
                Task::Test(steps)
            }
        }
        other => bail!("there is no command `{other}`\n\n{USAGE}"),
    };
    match args.first() {
        Some(extra) => bail!("`{extra}` is nothing that `{command}` takes\n\n{USAGE}"),
        None => Ok(task),
    }
}

/// Does it; true if all was well.
fn perform(task: Task) -> Result<bool> {
    proc::catch_signals()?;
    proc::become_subreaper()?;
    let result = match task {
        Task::Help => {
            println!("{USAGE}");
            Ok(true)
        }
        Task::ListSteps => {
            steps::list();
            Ok(true)
        }
        Task::Test(steps) => steps::run(&Workspace::find()?, &steps),
    };
    proc::end_orphans();
    result
}

/// Takes a flag out of the arguments; says whether it was there.
fn take(args: &mut Vec<String>, flag: &str) -> bool {
    let before = args.len();
    args.retain(|a| a != flag);
    args.len() != before
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1).collect()).and_then(perform) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}: {error:#}", term::red("error"));
            // The shell's convention for an end by a signal.
            let code = error.downcast_ref::<Interrupted>().map_or(1, |i| 128 + i.0 as u8);
            ExitCode::from(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_out() {
        let mut args = vec!["--plain".to_owned(), "test".to_owned()];
        assert!(take(&mut args, "--plain"));
        assert!(!take(&mut args, "--plain"));
        assert_eq!(args, ["test"]);
    }

    fn parsed(line: &str) -> Result<Task> {
        parse(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn arguments_become_tasks() {
        assert_eq!(parsed("").unwrap(), Task::Help);
        assert_eq!(parsed("test --help").unwrap(), Task::Help);
        assert_eq!(parsed("test --list").unwrap(), Task::ListSteps);
        let steps = Task::Test(vec!["fmt".to_owned(), "test".to_owned()]);
        assert_eq!(parsed("ci fmt test").unwrap(), steps);
    }

    #[test]
    fn unknown_commands_and_options_are_named() {
        let error = parsed("tset").unwrap_err().to_string();
        assert!(error.contains("`tset`") && error.contains("test [STEP...]"), "{error}");
        let error = parsed("test --fast").unwrap_err().to_string();
        assert!(error.contains("`--fast`"), "{error}");
    }
}
