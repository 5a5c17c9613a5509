//! The suite as a program of one's own: what `anyport conformance` does, over whatever backends are registered here.
//!
//! ```text
//! cargo run -p anyport-conformance --example suite -- --rig loop [PART OF A NAME | CLAUSE]...
//! cargo run -p anyport-conformance --example suite -- loop:x.0 loop:x.1 [...]
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::process::ExitCode;

use anyport_conformance::helper::{self, HelperCommand};
use anyport_conformance::rig::{self, Rig};
use anyport_conformance::{Failure, Filter, Verdict, report};

fn main() -> ExitCode {
    // A backend of your own is registered here.
    let registry = anyport_backends::registry();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--helper", rest)) = arguments.split_first().map(|(a, rest)| (a.as_str(), rest)) {
        return helper::main(&registry, rest);
    }
    match suite(registry, &arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn suite(registry: anyport::Registry, arguments: &[String]) -> Verdict<bool> {
    let (rig, rest): (Box<dyn Rig>, _) = match arguments {
        [option, name, rest @ ..] if option == "--rig" => (rig::named(name)?, rest),
        [one, other, rest @ ..] => (Box::new(rig::Given::new(registry, one, other)?), rest),
        _ => {
            return Err("usage: suite (--rig NAME | PORT PORT) [PART OF A NAME | CLAUSE]...".into());
        }
    };
    let (clauses, names) = rest.iter().cloned().partition(|word| word.len() <= 3);
    let helper =
        HelperCommand { program: std::env::current_exe()?, arguments: vec!["--helper".to_owned()] };
    let report =
        anyport_conformance::run(rig, &Filter { names, clauses }, Some(helper), &mut |r| {
            println!("{}", report::line(r));
        })?;
    println!("{}", report::summary(&report));
    Ok(report.totals().1 == 0)
}
