//! `cargo xtask bench`: the benches of `bench/`, with what they need installed first.

use anyhow::Result;

use crate::packages::{self, Need};
use crate::proc;
use crate::term;
use crate::workspace::{BUILD_LIMIT, Workspace};

/// Which benches run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The comparison with other programs in the same run (needs DPDK's testpmd) instead of the benches.
    /// With its own arguments.
    pub compare: Option<Vec<String>>,
    /// The instruction counts, which need valgrind, instead of the benches.
    pub instructions: bool,
}

/// Runs them; true if all succeeded.
pub fn run(ws: &Workspace, options: Options) -> Result<bool> {
    let mut needs = vec![Need::Libpcap];
    let mut runs: Vec<Vec<&str>> = Vec::new();
    if let Some(arguments) = &options.compare {
        needs.extend([Need::Dpdk, Need::Ip, Need::Ethtool]);
        // What is compared stands beside what compares.
        runs.push(vec!["build", "--release", "-p", "anyport-cli", "-p", "anyport-bench"]);
        let mut run =
            vec!["run", "--release", "-p", "anyport-bench", "--bin", "anyport-bench-compare", "--"];
        run.extend(arguments.iter().map(String::as_str));
        runs.push(run);
    }
    if options.instructions {
        needs.push(Need::Valgrind);
        runs.push(vec![
            "run",
            "--release",
            "-p",
            "anyport-bench",
            "--bin",
            "anyport-bench-instructions",
        ]);
    }
    if runs.is_empty() {
        runs.push(vec!["bench", "-p", "anyport-bench"]);
    }
    packages::require(&needs)?;
    let mut all = true;
    for args in runs {
        let mut command = ws.cargo(&args);
        term::header(&proc::describe(&command));
        all &= proc::run(&mut command, BUILD_LIMIT)?;
    }
    Ok(all)
}
