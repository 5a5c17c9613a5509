//! What the kernel has counted at an interface: the same for whatever program is there.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Frames that the interface has received.
    Received(&'static str),
    /// Frames that a veth interface has received and its XDP program has put into a socket's ring: a frame that finds the ring
    /// full, or no empty frame, is none of them.
    Redirected(&'static str),
}

impl Counter {
    /// Its value now. A counter of an interface that is not ready yet is 0.
    ///
    /// # Errors
    /// There is no such interface, or no `ethtool`.
    pub fn read(self) -> Result<u64> {
        match self {
            Counter::Received(interface) => received(interface),
            Counter::Redirected(interface) => redirected(interface),
        }
    }
}

fn received(interface: &str) -> Result<u64> {
    let all =
        std::fs::read_to_string("/proc/self/net/dev").context("reading /proc/self/net/dev")?;
    let line =
        all.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("/proc/self/net/dev has no counters of {interface}"))
}

fn redirected(interface: &str) -> Result<u64> {
    let output = Command::new("ethtool")
        .args(["-S", interface])
        .output()
        .context("running ethtool (package ethtool)")?;
    ensure!(output.status.success(), "`ethtool -S {interface}` failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let values =
        text.lines().filter_map(|line| line.split_once("_xdp_redirect: ")?.1.parse::<u64>().ok());
    Ok(values.sum())
}
