//! Instructions per packet, counted by callgrind: the same on a busy machine as on an idle one.
//!
//! Without arguments it runs itself under `valgrind --tool=callgrind`, each scenario twice with different numbers
//! of turns, and divides the difference: set-up cancels out. Prints a table, or JSON with `--json`. The scenarios over
//! AF_XDP need root; without it they are left out.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use anyport_bench::{Cable, topology, xdp};

/// Turns of the shorter and the longer run.
const TURNS: [u64; 2] = [2_000, 12_000];

/// Name, burst size, and what one turn does.
const SCENARIOS: [(&str, usize); 5] =
    [("loop", 1), ("loop", 8), ("loop", 32), ("loop", 64), ("pool", 32)];

/// What is counted over AF_XDP, and whether a bare sender sends in the same turn.
const OVER_XDP: [(&str, bool); 3] = [("send", false), ("receive", true), ("forward", true)];

/// The burst over AF_XDP.
const XDP_BURST: usize = 32;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", scenario, burst, turns] => run(scenario, burst.parse()?, turns.parse()?),
        [] => measure(false),
        ["--json"] => measure(true),
        _ => bail!("usage: anyport-bench-instructions [--json]"),
    }
}

fn run(scenario: &str, burst: usize, turns: u64) -> Result<()> {
    match scenario {
        "loop" => {
            let mut cable = Cable::new("instructions", burst);
            (0..turns).for_each(|_| cable.turn());
        }
        "pool" => {
            let pool = anyport::Pool::builder().frames(4096).build()?;
            let mut cache = pool.cache(64);
            let mut held = anyport::Burst::with_capacity(burst);
            for _ in 0..turns {
                while let Some(packet) = (!held.is_full()).then(|| cache.take()).flatten() {
                    let _ = held.push(packet);
                }
                while let Some(packet) = held.pop_front() {
                    cache.give(packet);
                }
            }
        }
        other => match other.split_once('-') {
            Some((by, name)) => {
                let mut turn = xdp::turn(name, by, burst)?;
                (0..turns).try_for_each(|_| turn())?;
            }
            None => bail!("no scenario `{other}`"),
        },
    }
    Ok(())
}

fn measure(json: bool) -> Result<()> {
    let mut results = Vec::new();
    for (scenario, burst) in SCENARIOS {
        let per_packet = per_packet(scenario, burst)?;
        if !json {
            println!("{scenario:<6} burst {burst:>3}: {per_packet:>7.1} instructions per packet");
        }
        results.push(serde_json::json!({
            "scenario": scenario, "burst": burst, "instructions_per_packet": per_packet,
        }));
    }
    if may_make_interfaces() {
        over_xdp(json, &mut results)?;
    } else if !json {
        println!("AF_XDP: left out: it needs root, or CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF");
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    }
    Ok(())
}

/// Whether this process may have a network namespace of its own.
fn may_make_interfaces() -> bool {
    let status = topology::in_namespace("true").stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Through anyport and over bare rings, and the difference.
fn over_xdp(json: bool, results: &mut Vec<serde_json::Value>) -> Result<()> {
    let sending = per_packet("bare-send", XDP_BURST)?;
    for (name, fed) in OVER_XDP {
        let less = if fed { sending } else { 0.0 };
        let [anyport, bare] = ["anyport", "bare"].map(|by| -> Result<f64> {
            Ok(per_packet(&format!("{by}-{name}"), XDP_BURST)? - less)
        });
        let (anyport, bare) = (anyport?, bare?);
        let added = anyport - bare;
        if !json {
            println!(
                "af_xdp {name:<8} burst {XDP_BURST:>3}: {anyport:>7.1} instructions per packet, bare rings {bare:.1}: {added:.1} added"
            );
        }
        results.push(serde_json::json!({
            "scenario": format!("af_xdp {name}"), "burst": XDP_BURST,
            "instructions_per_packet": anyport, "bare": bare, "added": added,
        }));
    }
    Ok(())
}

fn per_packet(scenario: &str, burst: usize) -> Result<f64> {
    let [short, long] = TURNS.map(|turns| instructions(scenario, burst, turns));
    Ok((long? - short?) as f64 / ((TURNS[1] - TURNS[0]) * burst as u64) as f64)
}

/// The instructions of a whole run, as callgrind counts them.
fn instructions(scenario: &str, burst: usize, turns: u64) -> Result<u64> {
    let mut command = match scenario.contains('-') {
        true => topology::in_namespace("valgrind"),
        false => Command::new("valgrind"),
    };
    let output = command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["run", scenario, &burst.to_string(), &turns.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("running valgrind; install it with `apt-get install valgrind`")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed: {text}");
    }
    let collected = text.lines().find_map(|line| line.split("Collected : ").nth(1));
    Ok(collected.context("valgrind did not say what it collected")?.trim().parse()?)
}
