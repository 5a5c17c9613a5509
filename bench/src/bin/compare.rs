//! `anyport gen` beside a bare libpcap inject loop, and `anyport fwd` beside DPDK's testpmd with net_pcap: on the same
//! interfaces, in turns, in one run.
//!
//! ```text
//!   gen:   [g0]═══[s0]                           counted by the kernel at s0
//!   fwd:   [h0]═══[f0]  forwarder  [f1]═══[s1]   counted by the kernel at s1 (and, what was offered, at f0)
//! ```
//!
//! Everything happens in a network namespace that goes with the process. Frames are 60 bytes without FCS on both
//! sides of each comparison. The load of the forwarders is the same bare loop with each frame [multiplied](anyport_bench::flood),
//! for it has to be more than either can forward; how much of it was forwarded is printed, too. What is printed are medians and the
//! median of the ratios of neighbouring runs: absolute figures depend on the machine and its neighbours.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use anyport_bench::flood::Multiplier;

/// How long each measurement counts.
const WINDOW: Duration = Duration::from_secs(2);

/// How often a frame of the forwarders' load is multiplied.
const COPIES: usize = 8;

/// How long a forwarder may take to forward its first frame.
const READY: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["inject", interface, millis] => inject(interface, Duration::from_millis(millis.parse()?)),
        ["inside", rounds] => inside(rounds.parse()?),
        [] => in_namespace("5"),
        ["--rounds", rounds] => in_namespace(rounds),
        _ => bail!("usage: anyport-bench-compare [--rounds N]"),
    }
}

/// Runs this program again in a network namespace of its own.
fn in_namespace(rounds: &str) -> Result<()> {
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe()?)
        .args(["inside", rounds])
        .status()
        .context("running unshare (package util-linux)")?;
    ensure!(status.success(), "the comparison failed (it needs root: sudo)");
    Ok(())
}

fn inside(rounds: usize) -> Result<()> {
    ip("link set lo up")?;
    for (one, other) in [("g0", "s0"), ("d0", "d1"), ("h0", "f0"), ("f1", "s1")] {
        ip(&format!("link add {one} type veth peer name {other}"))?;
        for interface in [one, other] {
            // No router solicitations among what is counted.
            ip(&format!("link set {interface} addrgenmode none"))?;
            ip(&format!("link set {interface} up"))?;
        }
    }
    let _multiplier = Multiplier::attach("d1", "h0", COPIES)?;
    let gen_pair = Pair {
        name: "gen to a veth pair, 60 bytes",
        peer: "bare pcap_inject",
        goal: 0.95,
        ours: gen_anyport,
        theirs: gen_bare,
    };
    let fwd_pair = Pair {
        name: "fwd across two veth pairs, 60 bytes",
        peer: "testpmd net_pcap",
        goal: 1.2,
        ours: fwd_anyport,
        theirs: fwd_testpmd,
    };
    let results = [
        gen_pair.compare(rounds)?,
        match Command::new("dpdk-testpmd")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
        {
            Ok(_) => fwd_pair.compare(rounds)?,
            Err(error) => {
                println!("fwd: left out: dpdk-testpmd: {error} (package dpdk-dev)");
                serde_json::json!({ "name": "fwd", "left_out": "dpdk-testpmd is not installed" })
            }
        },
    ];
    if let Some(path) = std::env::var_os("ANYPORT_BENCH_JSON") {
        std::fs::write(&path, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("writing {}", PathBuf::from(path).display()))?;
    }
    Ok(())
}

/// A program and what it is compared with.
struct Pair {
    name: &'static str,
    peer: &'static str,
    /// The ratio that is aimed at.
    goal: f64,
    ours: fn() -> Result<Rate>,
    theirs: fn() -> Result<Rate>,
}

/// Frames per second.
struct Rate {
    arrived: f64,
    /// What came in at the forwarder's interface in the same time.
    offered: Option<f64>,
}

impl Pair {
    /// Measures both in turns: A B B A, so that a drift of the machine falls on both alike.
    fn compare(&self, rounds: usize) -> Result<serde_json::Value> {
        let mut pairs = Vec::new();
        for round in 0..rounds {
            let pair = if round % 2 == 0 {
                let first = (self.ours)()?;
                (first, (self.theirs)()?)
            } else {
                let first = (self.theirs)()?;
                ((self.ours)()?, first)
            };
            pairs.push(pair);
        }
        let of = |pick: fn(&(Rate, Rate)) -> f64| median(pairs.iter().map(pick).collect());
        let ratio = of(|(ours, theirs)| ours.arrived / theirs.arrived);
        let (ours, theirs) = (of(|pair| pair.0.arrived), of(|pair| pair.1.arrived));
        let (name, peer, goal) = (self.name, self.peer, self.goal);
        let verdict = if ratio >= goal { "met" } else { "missed" };
        println!(
            "{name}: anyport {:.3} M/s, {peer} {:.3} M/s, ratio {ratio:.2} (median of {rounds}); goal {goal}: {verdict}",
            ours / 1e6,
            theirs / 1e6
        );
        let share = |pick: fn(&(Rate, Rate)) -> &Rate| {
            let of_offered = |rate: &Rate| rate.offered.map(|offered| rate.arrived / offered);
            let shares: Option<Vec<f64>> =
                pairs.iter().map(|pair| of_offered(pick(pair))).collect();
            shares.map(median)
        };
        let shares = [share(|pair| &pair.0), share(|pair| &pair.1)];
        if let [Some(ours), Some(theirs)] = shares {
            // Who forwards everything has not shown what it can do.
            println!("  of what was offered: anyport {ours:.2}, {peer} {theirs:.2}");
        }
        Ok(serde_json::json!({
            "name": name, "peer": peer, "rounds": rounds, "goal": goal,
            "anyport_pps": ours, "peer_pps": theirs, "ratio": ratio,
            "anyport_share_of_offered": shares[0], "peer_share_of_offered": shares[1],
            "ratios": pairs.iter().map(|(ours, theirs)| ours.arrived / theirs.arrived).collect::<Vec<_>>(),
        }))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn gen_anyport() -> Result<Rate> {
    let mut command = on_core(1, &anyport()?);
    command.args(["gen", "pcap:g0", "--size", "60", "--rate", "max", "--duration", "4s", "--json"]);
    sender(command)
}

fn gen_bare() -> Result<Rate> {
    let mut command = on_core(1, &std::env::current_exe()?);
    command.args(["inject", "g0", "4000"]);
    sender(command)
}

/// The rate at which a sender's frames arrive at the other end.
fn sender(mut command: Command) -> Result<Rate> {
    let _sender = Running::start(&mut command)?;
    rate_at("s0", None)
}

fn fwd_anyport() -> Result<Rate> {
    let mut command = on_core(1, &anyport()?);
    // net_pcap's buffer of 2 MiB holds 13,000 frames of this size: about as many places here, so that a moment off the
    // core costs both the same.
    let [one, other] = ["f0", "f1"].map(|port| format!("pcap:{port},rx_ring=8192"));
    command.args(["fwd", &one, &other, "--duration", "60s", "--json"]);
    forwarder(command)
}

fn fwd_testpmd() -> Result<Rate> {
    let mut command = Command::new("dpdk-testpmd");
    command.args(["--no-huge", "-m", "512", "--no-pci", "-l", "0,1"]);
    command.arg(format!("--file-prefix=compare{}", std::process::id()));
    command.args(["--vdev", "net_pcap0,iface=f0", "--vdev", "net_pcap1,iface=f1", "--"]);
    command.args([
        "--forward-mode=io",
        "--auto-start",
        "--total-num-mbufs=16384",
        "--stats-period=60",
    ]);
    forwarder(command)
}

/// The rate at which the other end sees frames while the first interface is flooded.
fn forwarder(mut command: Command) -> Result<Rate> {
    let _forwarder = Running::start(&mut command)?;
    let mut load = on_core(0, &std::env::current_exe()?);
    load.args(["inject", "d0", "30000"]);
    let _load = Running::start(&mut load)?;
    rate_at("s1", Some("f0"))
}

/// Waits until frames arrive, lets it settle, counts over the window.
fn rate_at(interface: &str, offered_at: Option<&str>) -> Result<Rate> {
    let before = received(interface)?;
    let deadline = Instant::now() + READY;
    while received(interface)? < before + 1000 {
        ensure!(Instant::now() < deadline, "no frames arrive at {interface}");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    let offered = || offered_at.map(received).transpose();
    let (start, first, first_offered) = (Instant::now(), received(interface)?, offered()?);
    std::thread::sleep(WINDOW);
    let (seconds, last, last_offered) =
        (start.elapsed().as_secs_f64(), received(interface)?, offered()?);
    let per_second = |from: u64, to: u64| (to - from) as f64 / seconds;
    Ok(Rate {
        arrived: per_second(first, last),
        offered: first_offered.zip(last_offered).map(|(first, last)| per_second(first, last)),
    })
}

/// What the kernel counted as received on an interface.
fn received(interface: &str) -> Result<u64> {
    let output = Command::new("ip").args(["-s", "-j", "link", "show", interface]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    links[0]["stats64"]["rx"]["packets"].as_u64().context("`ip -s -j link` shows no counters")
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status()?;
    ensure!(status.success(), "`ip {arguments}` failed");
    Ok(())
}

fn on_core(core: usize, program: &PathBuf) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// The `anyport` program beside this one.
fn anyport() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("anyport");
    ensure!(
        path.exists(),
        "{} is not there: `cargo build --release -p anyport-cli`",
        path.display()
    );
    Ok(path)
}

/// A program that ends with this value.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Running> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running(command.spawn().with_context(|| format!("starting {command:?}"))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bare loop: `pcap_inject` of one 60-byte frame, nothing else.
fn inject(interface: &str, duration: Duration) -> Result<()> {
    let mut capture = pcap::Capture::from_device(interface)?.immediate_mode(true).open()?;
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    let end = Instant::now() + duration;
    while Instant::now() < end {
        for _ in 0..256 {
            // A full queue is part of the load, not an error.
            let _ = capture.sendpacket(frame);
        }
    }
    Ok(())
}
