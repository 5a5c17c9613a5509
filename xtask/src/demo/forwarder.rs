//! The forwarder under demonstration: started, watched, ended, and its counters held against the kernel's.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::claims::Claims;
use super::topology::Topology;
use super::{Backend, Stage};
use crate::netns::{LinkStats, NetNs};
use crate::proc::{self, Child, Stream};
use crate::term;

const LIMIT: Duration = Duration::from_secs(20);

/// A running `anyport fwd` between `m0` and `m1`.
pub struct Forwarder {
    child: Child,
    backend: Backend,
    /// The kernel's counters of both ends when it was ready.
    before: [LinkStats; 2],
}

impl Forwarder {
    /// Starts it and waits until both ports receive.
    /// `keys` (`,key=value`) are the first port's.
    pub fn start(stage: &Stage, net: &Topology, backend: Backend, keys: &str) -> Result<Self> {
        let mut command = net.middle.command(&stage.anyport);
        let one = format!("{}{keys}", backend.port("m0"));
        command.args(["fwd", &one, &backend.port("m1"), "--json"]).args(backend.pool());
        println!("{}", term::dim(&format!("$ {}", proc::describe(&command))));
        let mut child = Child::spawn(&mut command, Stream::Keep, Stream::Keep)?;
        wait_open(&net.middle, backend, &["m0", "m1"], &mut child)?;
        Ok(Self { child, backend, before: net.end_stats()? })
    }

    /// Waits for silence, ends the forwarder as Ctrl-C does, and collects what both sides counted.
    pub fn finish(mut self, net: &Topology) -> Result<Ends> {
        let after = net.quiet_stats()?;
        self.child.signal(libc::SIGINT);
        let status = self.child.wait(LIMIT)?;
        if !status.success() {
            bail!("anyport fwd ended with {status}: {}", self.child.stderr());
        }
        let text = self.child.stdout();
        let json: Value = serde_json::from_str(&text)
            .with_context(|| format!("anyport fwd --json printed: {text}"))?;
        let ports = [PortCounters::parse(&json, 0)?, PortCounters::parse(&json, 1)?];
        let kernel = [after[0].since(self.before[0]), after[1].since(self.before[1])];
        Ok(Ends { backend: self.backend, kernel, ports })
    }
}

/// Waits until a program in a namespace receives from the interfaces.
pub fn wait_open(ns: &NetNs, backend: Backend, links: &[&str], child: &mut Child) -> Result<()> {
    match backend {
        Backend::Pcap => wait_packet_sockets(ns, links, child),
        Backend::AfXdp => proc::poll_for("XDP programs", LIMIT, || {
            still_running(child)?;
            for link in links {
                if !ns.ip(&["-o", "-d", "link", "show", "dev", link])?.contains("prog/xdp") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        }),
    }
}

fn still_running(child: &mut Child) -> Result<()> {
    if child.pump_for(Duration::ZERO)? {
        bail!("anyport ended at once: {}{}", child.stdout(), child.stderr());
    }
    Ok(())
}

/// Waits until a program in a namespace has opened packet sockets on the interfaces.
fn wait_packet_sockets(ns: &NetNs, links: &[&str], child: &mut Child) -> Result<()> {
    let mut indices = Vec::new();
    for link in links {
        let text = ns.ip(&["-o", "link", "show", "dev", link])?;
        let index = text.split(':').next().and_then(|i| i.trim().parse::<u32>().ok());
        indices.push(index.with_context(|| format!("no interface index in: {text}"))?);
    }
    proc::poll_for("open packet sockets", LIMIT, || {
        still_running(child)?;
        let table = ns.inside(|| {
            std::fs::read_to_string("/proc/thread-self/net/packet").context("net/packet")
        })?;
        Ok(indices.iter().all(|i| has_packet_socket(&table, *i)).then_some(()))
    })
}

/// Whether a table in the format of `/proc/net/packet` has a running socket on the interface.
fn has_packet_socket(table: &str, index: u32) -> bool {
    // sk RefCnt Type Proto Iface R Rmem User Inode
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(4).and_then(|i| i.parse().ok()) == Some(index) && fields.get(5) == Some(&"1")
    })
}

/// A number in anyport's JSON.
pub fn counter(json: &Value, key: &str) -> Result<u64> {
    json[key].as_u64().with_context(|| format!("no number `{key}` in: {json}"))
}

/// What anyport counted on one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames received and forwarded.
    pub rx_packets: u64,
    rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    tx_bytes: u64,
    /// Received frames that were dropped, all named causes together.
    rx_dropped: u64,
}

impl PortCounters {
    fn parse(json: &Value, port: usize) -> Result<Self> {
        let counters = json
            .pointer(&format!("/ports/{port}/counters"))
            .with_context(|| format!("no counters of port {port} in: {json}"))?;
        let drops = ["rx_too_long", "rx_too_short", "rx_no_buffer", "rx_ring_full", "rx_errors"];
        Ok(Self {
            rx_packets: counter(counters, "rx_packets")?,
            rx_bytes: counter(counters, "rx_bytes")?,
            tx_packets: counter(counters, "tx_packets")?,
            tx_bytes: counter(counters, "tx_bytes")?,
            rx_dropped: drops.iter().filter_map(|d| counters[*d].as_u64()).sum(),
        })
    }
}

/// Both sides' counters of one run.
pub struct Ends {
    backend: Backend,
    kernel: [LinkStats; 2],
    /// anyport's, of `m0` and `m1`.
    pub ports: [PortCounters; 2],
}

impl Ends {
    /// Holds anyport's counters against those of the kernel at the far end of each cable.
    pub fn compare(&self, claims: &mut Claims) {
        let names = [("a0", "m0"), ("b0", "m1")];
        println!("counters: the kernel's at the ends, anyport's in the middle");
        for ((kernel, port), (end, middle)) in self.kernel.iter().zip(&self.ports).zip(names) {
            // A veth counts frames without their headers' 14 bytes where a program takes them in the driver.
            let bytes_of = |bytes| (self.backend == Backend::Pcap).then_some(bytes);
            let sent = Count { frames: kernel.tx_packets, bytes: bytes_of(kernel.tx_bytes) };
            let got = Count { frames: port.rx_packets, bytes: bytes_of(port.rx_bytes) };
            let mut claim = format!("{end} sent {sent}; {middle} received {got}");
            let mut holds = sent == got;
            if port.rx_dropped > 0 {
                // A TCP stream at full speed may fill a ring; each such frame must have its cause, and only
                // frames are counted then.
                claim += &format!(" and dropped {} by cause", term::count(port.rx_dropped));
                holds = sent.frames == got.frames + port.rx_dropped;
            }
            claims.check(&claim, holds);
            let sent = Count { frames: port.tx_packets, bytes: bytes_of(port.tx_bytes) };
            let got = Count { frames: kernel.rx_packets, bytes: bytes_of(kernel.rx_bytes) };
            claims.check(&format!("{middle} sent {sent}; {end} received {got}"), sent == got);
        }
    }
}

/// Frames and their bytes.
#[derive(PartialEq, Eq)]
struct Count {
    frames: u64,
    /// If they can be compared.
    bytes: Option<u64>,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} frames", term::count(self.frames))?;
        match self.bytes {
            Some(bytes) => write!(f, " ({} bytes)", term::count(bytes)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn port(rx: u64, tx: u64, full: u64) -> Value {
        json!({"counters": {"rx_packets": rx, "rx_bytes": rx * 60, "tx_packets": tx,
                            "tx_bytes": tx * 60, "rx_ring_full": full}})
    }

    fn ends(kernel: [[u64; 2]; 2], ports: Value) -> Ends {
        let link = |[rx, tx]: [u64; 2]| LinkStats {
            rx_packets: rx,
            rx_bytes: rx * 60,
            tx_packets: tx,
            tx_bytes: tx * 60,
            dropped: 0,
        };
        let json = json!({ "ports": ports });
        Ends {
            backend: Backend::Pcap,
            kernel: kernel.map(link),
            ports: [0, 1].map(|i| PortCounters::parse(&json, i).unwrap()),
        }
    }

    #[test]
    fn equal_counters_hold_and_a_missing_frame_shows() {
        let mut claims = Claims::default();
        ends([[5, 7], [7, 5]], json!([port(7, 5, 0), port(5, 7, 0)])).compare(&mut claims);
        assert_eq!(claims.finish().failed, 0);
        let mut claims = Claims::default();
        ends([[5, 7], [6, 5]], json!([port(7, 5, 0), port(5, 7, 0)])).compare(&mut claims);
        assert_eq!(claims.finish().failed, 1, "m1 -> b0");
    }

    #[test]
    fn dropped_frames_need_a_cause() {
        let mut claims = Claims::default();
        ends([[5, 9], [7, 5]], json!([port(7, 5, 2), port(5, 7, 0)])).compare(&mut claims);
        assert_eq!(claims.finish().failed, 0);
        let mut claims = Claims::default();
        ends([[5, 9], [7, 5]], json!([port(7, 5, 1), port(5, 7, 0)])).compare(&mut claims);
        assert_eq!(claims.finish().failed, 1);
    }

    #[test]
    fn packet_sockets_are_found_by_interface() {
        let table = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                     ffff8880         3      3    0003   2     1 0      0      1234\n\
                     ffff8881         3      3    0003   3     0 0      0      1235\n";
        assert!(has_packet_socket(table, 2));
        assert!(!has_packet_socket(table, 3), "bound, not running");
        assert!(!has_packet_socket(table, 4));
    }

    #[test]
    fn missing_counters_are_named() {
        let error = PortCounters::parse(&json!({"ports": []}), 0).unwrap_err().to_string();
        assert!(error.contains("port 0"), "{error}");
        let error = counter(&json!({"a": 1}), "b").unwrap_err().to_string();
        assert!(error.contains("`b`"), "{error}");
    }
}
