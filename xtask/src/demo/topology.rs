//! The three namespaces and two cables of the demonstration.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::{LinkStats, NetNs};
use crate::{proc, term};

/// What the demonstration shows of itself.
pub const DRAWING: &str = "
     namespace A                namespace MIDDLE               namespace B
  +--------------+   veth   +----------------------+   veth   +--------------+
  | a0           |<========>| m0                m1 |<========>| b0           |
  | 10.77.0.1/24 |          |   anyport fwd m0 m1  |          | 10.77.0.2/24 |
  +--------------+          +----------------------+          +--------------+
   kernel's stack             no address, no bridge,           kernel's stack
                              no route: only anyport";

/// The address of B, which A's programs talk to.
pub const ADDRESS_B: &str = "10.77.0.2";
const ADDRESS_A: &str = "10.77.0.1";
// Locally administered unicast addresses, told apart at a glance in a capture.
const MAC_A: &str = "02:00:00:00:00:0a";
const MAC_B: &str = "02:00:00:00:00:0b";

const LIMIT: Duration = Duration::from_secs(20);

/// The namespaces; everything vanishes with this value.
pub struct Topology {
    /// One end.
    pub a: NetNs,
    /// Where the forwarder runs.
    pub middle: NetNs,
    /// The other end.
    pub b: NetNs,
}

impl Topology {
    /// Builds it: links up, addresses set, segmentation offloads off, checksum offload as the kernel has it (on).
    pub fn build() -> Result<Self> {
        let net = Self {
            a: NetNs::create("A")?,
            middle: NetNs::create("MIDDLE")?,
            b: NetNs::create("B")?,
        };
        net.middle.join("m0", &net.a, "a0")?;
        net.middle.join("m1", &net.b, "b0")?;
        for (ns, link, mac, address) in net.ends_with_addresses() {
            ns.ip(&["link", "set", link, "address", mac])?;
            ns.ip(&["address", "add", &format!("{address}/24"), "dev", link])?;
            // Frames on the wire must fit the MTU (contract R4): the kernel cuts its segments itself.
            ethtool(ns, link, &["tso", "off", "gso", "off", "gro", "off"])?;
        }
        for link in ["m0", "m1"] {
            ethtool(&net.middle, link, &["gro", "off"])?;
        }
        for (ns, link) in [(&net.a, "a0"), (&net.middle, "m0"), (&net.middle, "m1"), (&net.b, "b0")]
        {
            ns.ip(&["link", "set", link, "up"])?;
        }
        for (ns, link) in [(&net.a, "a0"), (&net.b, "b0")] {
            let what = format!("carrier on {link}");
            proc::poll_for(&what, LIMIT, || {
                let state = ns.ip(&["-o", "link", "show", "dev", link])?;
                Ok(state.contains("LOWER_UP").then_some(()))
            })?;
        }
        Ok(net)
    }

    fn ends_with_addresses(&self) -> [(&NetNs, &str, &str, &str); 2] {
        [(&self.a, "a0", MAC_A, ADDRESS_A), (&self.b, "b0", MAC_B, ADDRESS_B)]
    }

    /// Switches the checksum offload of both ends.
    pub fn checksum_offload(&self, on: bool) -> Result<()> {
        let word = if on { "on" } else { "off" };
        ethtool(&self.a, "a0", &["tx", word])?;
        ethtool(&self.b, "b0", &["tx", word])
    }

    /// Says how the ends' offloads stand.
    pub fn show_offloads(&self) -> Result<()> {
        for (ns, link) in [(&self.a, "a0"), (&self.b, "b0")] {
            let text = proc::output(ns.command("ethtool").args(["-k", link]), LIMIT)?;
            let state = |feature: &str| {
                feature_state(&text, feature)
                    .with_context(|| format!("no {feature} in `ethtool -k {link}`"))
            };
            let line = format!(
                "{link}: checksum offload {}, TSO {}, GSO {}, GRO {}",
                state("tx-checksumming")?,
                state("tcp-segmentation-offload")?,
                state("generic-segmentation-offload")?,
                state("generic-receive-offload")?,
            );
            println!("{}", term::dim(&line));
        }
        Ok(())
    }

    /// Makes the neighbour entries permanent, so that no ARP mixes with counted traffic.
    pub fn pin_neighbours(&self) -> Result<()> {
        let pin = |ns: &NetNs, link: &str, address: &str, mac: &str| {
            let to = ["neigh", "replace", address, "lladdr", mac, "dev", link, "nud", "permanent"];
            ns.ip(&to).map(drop)
        };
        pin(&self.a, "a0", ADDRESS_B, MAC_B)?;
        pin(&self.b, "b0", ADDRESS_A, MAC_A)
    }

    /// The kernel's counters of both ends.
    pub fn end_stats(&self) -> Result<[LinkStats; 2]> {
        Ok([self.a.link_stats("a0")?, self.b.link_stats("b0")?])
    }

    /// Waits until the counters of both ends stand still, and gives them.
    pub fn quiet_stats(&self) -> Result<[LinkStats; 2]> {
        const STILL: u32 = 10;
        let mut last = self.end_stats()?;
        let mut same = 0;
        proc::poll_for("the end of all traffic", LIMIT, || {
            let now = self.end_stats()?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
            Ok((same >= STILL).then_some(now))
        })
    }
}

fn ethtool(ns: &NetNs, link: &str, switches: &[&str]) -> Result<()> {
    let mut command = ns.command("ethtool");
    command.args(["-K", link]).args(switches);
    proc::output(&mut command, LIMIT).map(drop)
}

/// The state of a feature in the output of `ethtool -k`.
fn feature_state<'a>(text: &'a str, feature: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|l| l.trim().strip_prefix(feature));
    lines.find_map(|l| l.strip_prefix(':')).and_then(|l| l.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_from_ethtool() {
        let text = "Features for a0:\nrx-checksumming: on\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                    tcp-segmentation-offload: off\ngeneric-receive-offload: off [requested on]\n";
        assert_eq!(feature_state(text, "tx-checksumming"), Some("on"));
        assert_eq!(feature_state(text, "tcp-segmentation-offload"), Some("off"));
        assert_eq!(feature_state(text, "generic-receive-offload"), Some("off"));
        assert_eq!(feature_state(text, "generic-segmentation-offload"), None);
    }
}
