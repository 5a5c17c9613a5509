//! `cargo xtask demo`: real traffic between two network namespaces that only `anyport fwd` joins.
//!
//! ```text
//!        namespace A                  namespace MIDDLE                 namespace B
//!     +--------------+   veth   +-------------------------+   veth   +--------------+
//!     | a0           |<========>| m0                   m1 |<========>| b0           |
//!     | 10.77.0.1/24 |          |   anyport fwd m0 m1     |          | 10.77.0.2/24 |
//!     +--------------+          +-------------------------+          +--------------+
//! ```
//!
//! Every line that begins with `ok` or `FAIL` is a claim that was checked in this run, with exact counts taken at
//! the far end; the exit status is 0 only if all held. With `--check` the same runs for shorter times.
//!
//! Where it runs ([`Rig`]): as root in fresh namespaces; else in the same namespaces below a user namespace; else,
//! where that is forbidden, on the in-process cable `loop`, and the output says so.

mod capture;
mod claims;
mod forwarder;
mod topology;
mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Need};
use crate::proc::{self, Stream};
use crate::tally::Tally;
use crate::workspace::Workspace;
use crate::{netns, term};
use claims::Claims;
use forwarder::Forwarder;
use topology::Topology;

/// What the demonstration calls.
pub const NEEDS: &[Need] =
    &[Need::Libpcap, Need::Ip, Need::Ping, Need::Iperf3, Need::Ethtool, Need::Tshark];

/// The whole demonstration takes well under a minute; this only ends one that hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// What is under the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's packet sockets, through libpcap.
    Pcap,
    /// AF_XDP sockets.
    AfXdp,
}

impl Backend {
    /// The spec of an interface, with a ring that holds a TCP window, or 400 ms at 10,000 frames a second: a busy machine may
    /// keep a program from its processor for a while, and that is not what is shown.
    pub fn port(self, link: &str) -> String {
        match self {
            Backend::Pcap => format!("pcap:{link},rx_ring=4096"),
            Backend::AfXdp => format!("af_xdp:{link},rx_ring=4096"),
        }
    }

    /// The pool that the rings of two such ports are filled from.
    fn pool(self) -> &'static [&'static str] {
        match self {
            Backend::Pcap => &[],
            // The kernel has a quarter of it at most for each.
            Backend::AfXdp => &["--pool-frames", "32768"],
        }
    }
}

/// A TCP stream of a second or more carries more than this in bytes wherever it is not broken: a few windows.
const TCP_LEAST: u64 = 1 << 20;

/// Where the demonstration runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rig {
    /// Network namespaces made by root.
    Root,
    /// Network namespaces inside a user namespace.
    User,
    /// No namespaces: the in-process cable.
    Loop,
}

impl Rig {
    /// The rig of that name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "root" => Ok(Rig::Root),
            "user" => Ok(Rig::User),
            "loop" => Ok(Rig::Loop),
            _ => bail!("there is no rig `{name}`; the rigs are: root user loop"),
        }
    }

    fn best() -> Result<Self> {
        if crate::is_root() {
            Ok(Rig::Root)
        } else if netns::user_namespaces_work()? {
            Ok(Rig::User)
        } else {
            Ok(Rig::Loop)
        }
    }
}

/// How the demonstration is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Short times.
    pub check: bool,
    /// A rig other than the best that works here.
    pub rig: Option<Rig>,
}

/// What stays the same during one demonstration.
struct Stage {
    /// The `anyport` program.
    anyport: PathBuf,
    /// Where the capture goes.
    dir: PathBuf,
    /// Short times.
    check: bool,
}

/// Builds what is needed and runs the demonstration on the best rig. How many claims held.
pub fn run(ws: &Workspace, options: Options) -> Result<Tally> {
    packages::require(NEEDS)?;
    println!("building anyport (release)");
    let anyport = ws.build_binary("anyport-cli", "anyport", true)?;
    let dir = ws.output_dir("demo")?;
    let rig = match options.rig {
        Some(rig) => rig,
        None => Rig::best()?,
    };
    match rig {
        Rig::Root => on_namespaces(Stage { anyport, dir, check: options.check }),
        Rig::User => in_user_namespace(&anyport, &dir, options.check),
        Rig::Loop => on_loop(&anyport),
    }
}

/// Runs this program again as root of a user namespace. The hidden command is [`stage`].
fn in_user_namespace(anyport: &Path, dir: &Path, check: bool) -> Result<Tally> {
    println!("not root: the namespaces are made inside a user namespace");
    let this = std::env::current_exe().context("cannot find this program's own file")?;
    let mut again = netns::user_namespace(this);
    again.arg(STAGE).arg(anyport).arg(dir);
    if check {
        again.arg("--check");
    }
    if !term::colours() {
        again.arg("--plain");
    }
    let out = proc::run_with(&mut again, LIMIT, Stream::Tee, Stream::Inherit)?;
    let tally = out.stdout.lines().rev().find_map(Tally::parse).unwrap_or_default();
    if !out.status.success() && tally.failed == 0 {
        bail!("the demonstration in a user namespace failed ({})", out.status);
    }
    Ok(tally)
}

/// The hidden command by which [`run`] starts itself inside a user namespace.
pub const STAGE: &str = "__demo-stage";

/// The part inside the user namespace: program, folder.
pub fn stage(anyport: PathBuf, dir: PathBuf, check: bool) -> Result<Tally> {
    proc::die_with_parent()?;
    on_namespaces(Stage { anyport, dir, check })
}

/// The demonstration where no namespace may be made.
fn on_loop(anyport: &Path) -> Result<Tally> {
    println!(
        "Neither root nor user namespaces are allowed here, so no network interface can be made.\n\
         What follows runs on `loop`, anyport's in-process cable: the same port contract, no kernel, no real \
         ping or TCP."
    );
    term::header("the contract's suite on the in-process cable");
    let mut suite = proc::command(anyport);
    suite.args(["conformance", "--rig", "loop"]);
    println!("{}", term::dim(&format!("$ {}", proc::describe(&suite))));
    let mut claims = Claims::default();
    claims.check("every clause that `loop` can show holds", proc::run(&mut suite, LIMIT)?);
    Ok(claims.finish())
}

/// The demonstration proper.
fn on_namespaces(stage: Stage) -> Result<Tally> {
    let mut claims = Claims::default();
    let result = acts(&stage, &mut claims);
    // The topology is gone here, whatever happened: it lived in `acts`.
    result?;
    println!("\neverything is taken down; the capture stays in {}", stage.capture_file().display());
    Ok(claims.finish())
}

impl Stage {
    fn capture_file(&self) -> PathBuf {
        self.dir.join("demo.pcapng")
    }

    /// The longer number, or the shorter when only checking.
    fn long_or_short(&self, long: u32, short: u32) -> u32 {
        if self.check { short } else { long }
    }
}

fn acts(stage: &Stage, claims: &mut Claims) -> Result<()> {
    term::header("two namespaces, joined only by anyport");
    let net = Topology::build()?;
    println!("{}", topology::DRAWING);
    net.show_offloads()?;
    captured_traffic(stage, &net, claims)?;
    // From here on only traffic that is counted crosses: no address resolution at odd moments.
    net.pin_neighbours()?;
    term::header("how fast, and without loss at 10,000 packets a second");
    measured_traffic(stage, &net, Backend::Pcap, claims)?;
    term::header("anyport gen -> anyport fwd -> anyport sink: numbered frames, 10,000 a second");
    stamped_traffic(stage, &net, Backend::Pcap, claims)?;
    term::header("the same programs over AF_XDP: only the specs are other ones");
    if !crate::is_root() {
        println!("left out: only root of the machine itself may load programs into the kernel");
        return Ok(());
    }
    measured_traffic(stage, &net, Backend::AfXdp, claims)?;
    stamped_traffic(stage, &net, Backend::AfXdp, claims)
}

/// Act 1: a capture of everything that crosses, for tshark.
fn captured_traffic(stage: &Stage, net: &Topology, claims: &mut Claims) -> Result<()> {
    term::header("ARP, ping and TCP cross, and are captured");
    let file = stage.capture_file();
    let name = file.to_str().context("the target folder's path is not UTF-8")?;
    match std::fs::remove_file(&file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {name}"));
        }
        _ => {}
    }
    let capture = format!(",capture={name}");
    let forwarder = Forwarder::start(stage, net, Backend::Pcap, &capture)?;
    let ping = traffic::ping(net, 20, traffic::Pace::Seconds(0.02))?;
    println!("ping      {ping}");
    claims.equal("every ping was answered", "sent", ping.sent, "answered", ping.received);
    let tcp = traffic::transfer(net, 2_000_000)?;
    println!("TCP       {tcp}");
    claims.equal("TCP delivered every byte", "written", tcp.sent, "right", tcp.right);
    let ends = forwarder.finish(net)?;
    ends.compare(claims);
    capture::read(&file, &ends.ports[0], claims)
}

/// Act 2: round trips, a flood without loss, throughput.
fn measured_traffic(
    stage: &Stage,
    net: &Topology,
    backend: Backend,
    claims: &mut Claims,
) -> Result<()> {
    let forwarder = Forwarder::start(stage, net, backend, "")?;
    let pings = stage.long_or_short(200, 50);
    let ping = traffic::ping(net, pings, traffic::Pace::Seconds(0.01))?;
    println!("ping      {ping}");
    claims.equal("every ping was answered", "sent", ping.sent, "answered", ping.received);

    let flood = traffic::udp(net, 10_000, stage.long_or_short(50_000, 20_000))?;
    println!("UDP       {flood}");
    claims.equal(
        "no IP packet of it was lost on the way",
        "left A",
        flood.left_a,
        "reached B",
        flood.reached_b,
    );
    let unexplained = flood.lost.saturating_sub(flood.unread);
    claims.equal("iperf3 misses none that it had room for", "lost", unexplained, "expected", 0);

    let flood = traffic::ping(net, stage.long_or_short(50_000, 10_000), traffic::Pace::Flood)?;
    println!("ping -f   {flood}");
    claims.equal("no echo was lost, both ways", "sent", flood.sent, "answered", flood.received);

    let seconds = stage.long_or_short(5, 2);
    let tcp = traffic::tcp(net, seconds)?;
    println!("TCP       {tcp}, checksums left to the forwarder");
    claims.check(
        "a TCP stream crossed with checksum offload on at both ends",
        tcp.received >= TCP_LEAST,
    );
    net.checksum_offload(false)?;
    let tcp = traffic::tcp(net, seconds)?;
    println!("TCP       {tcp}, checksums finished by the kernel");
    claims.check("a TCP stream crossed with checksum offload off", tcp.received >= TCP_LEAST);
    net.checksum_offload(true)?;
    forwarder.finish(net)?.compare(claims);
    Ok(())
}

/// Act 3: anyport's own generator and sink on the ends, the forwarder between.
fn stamped_traffic(
    stage: &Stage,
    net: &Topology,
    backend: Backend,
    claims: &mut Claims,
) -> Result<()> {
    let forwarder = Forwarder::start(stage, net, backend, "")?;
    let frames = stage.long_or_short(50_000, 20_000);
    let stamped = traffic::stamped(stage, net, backend, 10_000, frames)?;
    println!("gen/sink  {stamped}");
    claims.equal("every frame arrived", "sent", stamped.sent, "received", stamped.received);
    let wrong = stamped.lost + stamped.duplicated + stamped.reordered;
    claims.equal("none lost, doubled or out of order", "wrong", wrong, "expected", 0);
    forwarder.finish(net)?.compare(claims);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rigs_have_names() {
        assert_eq!(Rig::parse("user").unwrap(), Rig::User);
        let error = Rig::parse("vm").unwrap_err().to_string();
        assert!(error.contains("`vm`") && error.contains("root user loop"), "{error}");
    }
}
