//! `cargo xtask`: the project's tasks, as a program.
//!
//! It builds on a fresh machine without any system library, because installing those is one of its tasks.
//! Modules: [`steps`] is `test`, [`demo`] the demonstration, [`matrix`] the README's matrix, [`mod@bench`] the benches,
//! [`packages`] the system packages, [`netns`] network namespaces, [`proc`] child processes that never outlive
//! this program, [`workspace`] cargo.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod demo;
mod matrix;
mod netns;
mod packages;
mod proc;
mod steps;
mod tally;
mod term;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use proc::Interrupted;
use tally::Tally;
use workspace::Workspace;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  demo             ping, TCP and floods through `anyport fwd` between two namespaces
                   (--check: shorter; --rig root|user|loop: not the best that works here)
  bench            the benches; --instructions by valgrind; --compare against other programs, with
                   what follows for the comparison (--list, --only NAME, --rounds N, --favour)
  test [STEP...]   all tests; installs what they need (--list shows the steps)
  matrix           writes the README's matrix from the reports of the last conformance steps

Options: --plain (no colours and progress bars), --help";

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
    Matrix,
    Test(Vec<String>),
    Bench(bench::Options),
    Demo(demo::Options),
    DemoStage { anyport: PathBuf, dir: PathBuf, check: bool },
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
        "test" => {
            if take(&mut args, "--list") {
                Task::ListSteps
            } else {
                // What remains of the arguments are names of steps.
                let steps = args.iter().filter(|a| !a.starts_with('-')).cloned().collect();
                args.retain(|a| a.starts_with('-'));
                Task::Test(steps)
            }
        }
        "demo" => {
            let check = take(&mut args, "--check");
            let rig = take_value(&mut args, "--rig")?.map(|n| demo::Rig::parse(&n)).transpose()?;
            Task::Demo(demo::Options { check, rig })
        }
        "matrix" => Task::Matrix,
        "bench" => Task::Bench(bench::Options {
            compare: take_rest(&mut args, "--compare"),
            instructions: take(&mut args, "--instructions"),
        }),
        demo::STAGE if args.len() >= 2 => {
            let check = take(&mut args, "--check");
            let mut paths = args.drain(..2).map(PathBuf::from);
            let (anyport, dir) =
                (paths.next().unwrap_or_default(), paths.next().unwrap_or_default());
            Task::DemoStage { anyport, dir, check }
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
        Task::Matrix => matrix::write(&Workspace::find()?),
        Task::Bench(options) => bench::run(&Workspace::find()?, options),
        Task::Demo(options) => demo::run(&Workspace::find()?, options).map(told),
        Task::DemoStage { anyport, dir, check } => demo::stage(anyport, dir, check).map(told),
    };
    proc::end_orphans();
    result
}

/// Prints a count; true if nothing failed.
fn told(tally: Tally) -> bool {
    println!("{tally}");
    tally.failed == 0
}

/// Takes an option and all that follows it.
fn take_rest(args: &mut Vec<String>, option: &str) -> Option<Vec<String>> {
    let at = args.iter().position(|arg| arg == option)?;
    let rest = args.split_off(at + 1);
    args.pop();
    Some(rest)
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

/// Takes an option with its value out of the arguments.
fn take_value(args: &mut Vec<String>, option: &str) -> Result<Option<String>> {
    let Some(at) = args.iter().position(|a| a == option) else { return Ok(None) };
    if at + 1 >= args.len() {
        bail!("`{option}` needs a value\n\n{USAGE}");
    }
    let value = args.remove(at + 1);
    args.remove(at);
    Ok(Some(value))
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
        let compare = Some(["--only", "xdp"].map(String::from).to_vec());
        let options = bench::Options { compare, instructions: true };
        assert_eq!(
            parsed("bench --instructions --compare --only xdp").unwrap(),
            Task::Bench(options)
        );
        assert_eq!(parsed("test --list").unwrap(), Task::ListSteps);
        let options = demo::Options { check: true, rig: Some(demo::Rig::User) };
        assert_eq!(parsed("demo --rig user --check").unwrap(), Task::Demo(options));
        assert_eq!(parsed("demo").unwrap(), Task::Demo(demo::Options::default()));
        assert!(parsed("demo --rig").is_err() && parsed("demo --rig moon").is_err());
        let steps = Task::Test(vec!["fmt".to_owned(), "test".to_owned()]);
        assert_eq!(parsed("--plain test fmt test").unwrap(), steps);
    }

    #[test]
    fn unknown_commands_and_options_are_named() {
        let error = parsed("tset").unwrap_err().to_string();
        assert!(error.contains("`tset`") && error.contains("test [STEP...]"), "{error}");
        let error = parsed("test --fast").unwrap_err().to_string();
        assert!(error.contains("`--fast`"), "{error}");
    }
}
