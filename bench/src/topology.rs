//! A network namespace of this program's own, and the veth pairs in it.

use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};

/// A command that runs another one in a new network namespace, which goes with it.
pub fn in_namespace(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(program);
    command
}

/// Runs this program again in a network namespace, with these arguments.
///
/// # Errors
/// There is no `unshare`, or it cannot be run.
pub fn again_in_namespace(arguments: &[&str]) -> Result<ExitStatus> {
    in_namespace(std::env::current_exe()?)
        .args(arguments)
        .status()
        .context("running unshare (package util-linux)")
}

/// Makes veth pairs, all up, with no traffic of the kernel's own.
///
/// # Errors
/// `ip` fails: it is not there, or this is not root.
pub fn make_pairs(pairs: &[(&str, &str)]) -> Result<()> {
    ip("link set lo up")?;
    for (one, other) in pairs {
        ip(&format!("link add {one} type veth peer name {other}"))?;
        for interface in [one, other] {
            // No router solicitations among what is counted.
            ip(&format!("link set {interface} addrgenmode none"))?;
            ip(&format!("link set {interface} up"))?;
        }
    }
    Ok(())
}

/// Runs `ip`.
///
/// # Errors
/// It is not there, or it fails.
pub fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .context("running ip (package iproute2)")?;
    ensure!(status.success(), "`ip {arguments}` failed");
    Ok(())
}
