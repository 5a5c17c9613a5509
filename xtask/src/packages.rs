//! The system packages that the tasks need: found, or installed with apt-get.
//!
//! A package counts as present when what it is needed for works (a program on the path, a library that the
//! linker finds), so that machines other than Debian and Ubuntu, and hand-made installations, are fine too.
//! Installing happens as root, or through `sudo -n` where that asks no password; elsewhere the command to run
//! is told. Nothing is updated or installed when nothing is missing.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::proc;

/// Downloading may take long on a slow mirror, but not for ever.
const APT_LIMIT: Duration = Duration::from_secs(900);

/// Something that a task needs from the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// libpcap with its link library.
    Libpcap,
    /// `ip` for links and addresses.
    Ip,
    /// `ping`.
    Ping,
    /// `iperf3`.
    Iperf3,
    /// `ethtool` for offload switches.
    Ethtool,
    /// `tshark` as the second opinion about captures.
    Tshark,
    /// `dpdk-testpmd` for the comparative bench.
    Dpdk,
    /// `valgrind` for instruction counts.
    Valgrind,
}

impl Need {
    /// The Debian and Ubuntu package.
    pub fn package(self) -> &'static str {
        match self {
            Need::Libpcap => "libpcap-dev",
            Need::Ip => "iproute2",
            Need::Ping => "iputils-ping",
            Need::Iperf3 => "iperf3",
            Need::Ethtool => "ethtool",
            Need::Tshark => "tshark",
            Need::Dpdk => "dpdk-dev",
            Need::Valgrind => "valgrind",
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Need::Libpcap => None,
            Need::Ip => Some("ip"),
            Need::Ping => Some("ping"),
            Need::Iperf3 => Some("iperf3"),
            Need::Ethtool => Some("ethtool"),
            Need::Tshark => Some("tshark"),
            Need::Dpdk => Some("dpdk-testpmd"),
            Need::Valgrind => Some("valgrind"),
        }
    }

    /// Whether it is there.
    pub fn present(self) -> Result<bool> {
        match self.program() {
            Some(program) => Ok(proc::have(program)),
            None => linker_finds("pcap"),
        }
    }
}

/// Whether the C compiler, which is also Rust's linker here, finds `libNAME.so` or `libNAME.a`.
fn linker_finds(name: &str) -> Result<bool> {
    for ext in ["so", "a"] {
        let file = format!("lib{name}.{ext}");
        let mut cc = proc::command("cc");
        cc.arg(format!("-print-file-name={file}"));
        // The compiler answers with a full path if it finds the file, else with the bare name.
        let answer = proc::output(&mut cc, Duration::from_secs(30))?;
        if answer.trim() != file && std::path::Path::new(answer.trim()).exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The needs that are not met, without doubles, in a fixed order.
pub fn missing(needs: &[Need]) -> Result<Vec<Need>> {
    let mut needs = needs.to_vec();
    needs.sort_unstable();
    needs.dedup();
    let mut absent = Vec::new();
    for need in needs {
        if !need.present()? {
            absent.push(need);
        }
    }
    Ok(absent)
}

/// The command that installs them, for a person to type.
pub fn install_command(needs: &[Need]) -> String {
    let packages: Vec<&str> = needs.iter().map(|n| n.package()).collect();
    format!("sudo apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// How packages can be installed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    Root,
    Sudo,
}

fn privilege() -> Option<Privilege> {
    if crate::is_root() {
        return Some(Privilege::Root);
    }
    let mut sudo = proc::command("sudo");
    sudo.args(["-n", "true"]);
    let allowed = proc::have("sudo")
        && proc::capture(&mut sudo, Duration::from_secs(30)).is_ok_and(|o| o.status.success());
    allowed.then_some(Privilege::Sudo)
}

fn apt_get(privilege: Privilege, args: &[&str]) -> Command {
    let mut command = proc::command(if privilege == Privilege::Root { "env" } else { "sudo" });
    if privilege == Privilege::Sudo {
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l", "apt-get"]);
    // Another apt or dpkg may be at work: wait for its lock instead of failing.
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command.args(["-o", "Dpkg::Use-Pty=0"]);
    command.args(args);
    command
}

/// What became of the needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Provided {
    /// All are there, and were before.
    Present,
    /// All are there now; these were installed.
    Installed(Vec<Need>),
    /// These are missing and cannot be installed by this user.
    Missing(Vec<Need>),
}

/// Makes sure of the needs. An error if apt-get was allowed to install them and failed.
pub fn provide(needs: &[Need]) -> Result<Provided> {
    let absent = missing(needs)?;
    if absent.is_empty() {
        return Ok(Provided::Present);
    }
    let Some(privilege) = privilege().filter(|_| proc::have("apt-get")) else {
        return Ok(Provided::Missing(absent));
    };
    let packages: Vec<&str> = absent.iter().map(|n| n.package()).collect();
    println!("installing {}", packages.join(" "));
    if !proc::run(&mut apt_get(privilege, &["update"]), APT_LIMIT)? {
        // Older package lists may still do, and the install below says what is wrong if not.
        println!("apt-get update failed; trying with the package lists that are there");
    }
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(&packages);
    if !proc::run(&mut apt_get(privilege, &args), APT_LIMIT)? {
        bail!("apt-get could not install the packages; try: {}", install_command(&absent));
    }
    let still = missing(&absent)?;
    if !still.is_empty() {
        let packages: Vec<&str> = still.iter().map(|n| n.package()).collect();
        bail!("installed, but still not usable: {}", packages.join(" "));
    }
    Ok(Provided::Installed(absent))
}

/// Makes sure of the needs or says which command would.
pub fn require(needs: &[Need]) -> Result<()> {
    match provide(needs)? {
        Provided::Present | Provided::Installed(_) => Ok(()),
        Provided::Missing(absent) => {
            let names: Vec<&str> = absent.iter().map(|n| n.package()).collect();
            bail!("missing: {}; install with: {}", names.join(" "), install_command(&absent))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Need; 8] = [
        Need::Libpcap,
        Need::Ip,
        Need::Ping,
        Need::Iperf3,
        Need::Ethtool,
        Need::Tshark,
        Need::Dpdk,
        Need::Valgrind,
    ];

    #[test]
    fn the_command_to_type_names_every_package() {
        let typed = install_command(&ALL);
        for need in ALL {
            assert!(typed.split(' ').any(|w| w == need.package()), "{need:?} in {typed}");
        }
    }

    #[test]
    fn the_linker_is_asked_for_libraries() {
        // Rust programs link the C library, so it is there where this test runs.
        assert!(linker_finds("c").unwrap());
        assert!(!linker_finds("no-such-library").unwrap());
    }

    #[test]
    fn apt_never_asks_and_never_waits_for_ever() {
        let shown = proc::describe(&apt_get(Privilege::Root, &["update"]));
        assert!(shown.contains("DEBIAN_FRONTEND=noninteractive"), "{shown}");
        assert!(shown.contains("DPkg::Lock::Timeout"), "{shown}");
        let shown = proc::describe(&apt_get(Privilege::Sudo, &["update"]));
        assert!(shown.starts_with("sudo -n env DEBIAN_FRONTEND=noninteractive"), "{shown}");
    }

    #[test]
    fn needs_that_are_met_are_not_missing_and_doubles_count_once() {
        let absent = missing(&ALL.repeat(2)).unwrap();
        for need in ALL {
            let times = absent.iter().filter(|n| **n == need).count();
            assert_eq!(times, usize::from(!need.present().unwrap()), "{need:?}");
        }
    }
}
