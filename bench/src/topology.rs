//! A network namespace of this program's own, and the veth pairs in it.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A network, and a view of the file system, in which `/sys` may show that network.
const NAMESPACES: [&str; 3] = ["--net", "--mount", "--"];

/// How favoured programs are (`nice`).
const NICE: &str = "-19";

/// A command that runs another one in a new network namespace, which goes with it.
pub fn in_namespace(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.args(NAMESPACES).arg(program);
    command
}

/// Runs this program again in a network namespace, with these arguments. It can be favoured over all else on the machine:
/// [`favour`] does the rest.
///
/// # Errors
/// There is no `unshare`, or it cannot be run.
pub fn again_in_namespace(arguments: &[&str], favoured: bool) -> Result<ExitStatus> {
    let mut command = match favoured {
        true => {
            let mut command = Command::new("setsid");
            command.args(["--wait", "nice", "-n", NICE, "unshare"]).args(NAMESPACES);
            command.arg(std::env::current_exe()?);
            command
        }
        false => in_namespace(std::env::current_exe()?),
    };
    command.args(arguments).status().context("running unshare (package util-linux)")
}

/// Favours the processes of this session over those of others, where the kernel groups processes by session and niceness
/// counts within a group only.
pub fn favour() {
    // Without groups there is no such file, and niceness is enough.
    let _ = std::fs::write("/proc/self/autogroup", NICE);
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

/// Lets interfaces collect received frames for so long before their driver looks at them, as is advised for busy polling.
/// Without it each frame that an AF_XDP socket sends to a veth interface makes the kernel look on the sender's core.
///
/// # Errors
/// `/sys` cannot be mounted: this is not root, or not in a mount namespace of its own.
pub fn defer(interfaces: &[&str], time: Duration) -> Result<()> {
    let status = Command::new("mount").args(["-t", "sysfs", "sysfs", "/sys"]).status()?;
    ensure!(status.success(), "mounting /sys failed");
    for interface in interfaces {
        for (file, value) in [("napi_defer_hard_irqs", 2), ("gro_flush_timeout", time.as_nanos())] {
            let path = format!("/sys/class/net/{interface}/{file}");
            std::fs::write(&path, value.to_string()).with_context(|| format!("writing {path}"))?;
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
