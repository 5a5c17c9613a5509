//! `anyport fwd`: both directions between two ports, nothing changed.
//!
//! Both ports share one pool, so frames pass without a copy where the backends can. Each receive queue has a
//! [lane](crate::lane) to a transmit queue of the other port. One worker serves both directions of a pair of queues; with
//! `--cores` the lanes are dealt to as many workers as there are cores, up to one for each lane.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use anyport::Queues;
use serde::Serialize;

use crate::args::RunArgs;
use crate::lane::{Lane, Totals, work};
use crate::ports::{Opened, PortReport, Wants, make_pool};
use crate::report::{Concerns, Details, Drops, Report, drops_text};
use crate::run::live::{Live, Sample};
use crate::run::{Run, Signals, Worker, supervise};
use crate::text::number;
use crate::values::Cores;

/// Forward between two ports, both directions, nothing changed
///
/// Frames pass as they are, VLAN tags included; both ports are opened promiscuous unless their specs say otherwise. What
/// the other port does not take is tried again for 10 ms, then dropped and counted; a frame over the other port's
/// maximum is dropped and counted by its cause. If a port is lost, the command ends with its totals and status 1.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport fwd pcap:eth0 pcap:eth1
  anyport fwd pcap:eth0 pcap:eth1 --cores 2,3       a core for each direction
  anyport fwd pcap:in=a.pcap pcap:eth0              one direction: the file only receives
  anyport fwd lan wan --config ports.toml

Totals (--json): packets and bytes accepted by the output ports, both directions together; each
direction under `directions`; the counters of both ports under `ports`; under `drops` all that was
lost: by the ports, and by the forwarder (fwd_output_full, fwd_too_long, fwd_unsendable). Frames that
are still in a receive ring when the run ends are discarded, and in none of the totals.")]
pub struct Args {
    /// One port
    #[arg(value_name = "PORT")]
    one: String,
    /// The other port
    #[arg(value_name = "PORT")]
    other: String,
    /// Common options; `--count` counts frames received, in both directions together.
    #[command(flatten)]
    run: RunArgs,
}

/// One direction.
#[derive(Debug, Serialize)]
struct Direction {
    from: String,
    to: String,
    /// Frames received.
    received: u64,
    /// Frames that the output accepted.
    packets: u64,
    /// Bytes of those.
    bytes: u64,
    /// Frames that the forwarder dropped.
    fwd_dropped: u64,
    /// The same by cause.
    drops: Drops,
}

#[derive(Debug, Serialize)]
struct Forwarded {
    directions: Vec<Direction>,
}

impl Details for Forwarded {
    fn lines(&self) -> Vec<String> {
        let line = |d: &Direction| {
            let (packets, dropped) = (number(d.packets), drops_text(&d.drops));
            format!("{} -> {}: {packets} frames, dropped by the forwarder: {dropped}", d.from, d.to)
        };
        self.directions.iter().map(line).collect()
    }
}

/// Forwards.
pub fn run(args: &Args) -> Result<()> {
    let signals = Signals::catch()?;
    let registry = args.run.ports.registry()?;
    let (one, other) = (registry.resolve(&args.one)?, registry.resolve(&args.other)?);
    ensure!(
        one.title() != other.title() || one.device.is_empty(),
        "{} cannot be both ports",
        one.title()
    );
    // A core for each lane: half as many queues on each port.
    let cores = args.run.cores.as_ref();
    cores.map(Cores::check).transpose()?;
    let per_port = cores.map(|Cores(list)| Cores(list[..list.len().div_ceil(2)].to_vec()));
    let wants = Wants { promiscuous: true, ..Wants::default() };
    let mut ports = [
        Opened::open(&registry, &args.one, wants, per_port.as_ref())?,
        Opened::open(&registry, &args.other, wants, per_port.as_ref())?,
    ];
    let pool = make_pool(&args.run.ports, &registry, &[&ports[0], &ports[1]])?;
    let [shorter, longer] = match ports[0].max_frame() <= ports[1].max_frame() {
        true => [&ports[0], &ports[1]],
        false => [&ports[1], &ports[0]],
    };
    if shorter.max_frame() < longer.max_frame() && shorter.port.capability().transmits {
        tracing::warn!(
            "{} takes frames of up to {} bytes and {} of up to {}: longer ones cannot pass, and are counted as fwd_too_long",
            shorter.name,
            shorter.max_frame(),
            longer.name,
            longer.max_frame()
        );
    }
    let lanes = {
        let [one, other] = &mut ports;
        let queues = (one.start(&pool)?, other.start(&pool)?);
        make_lanes(one, queues.0, other, queues.1)?
    };
    let count = cores.map_or(lanes.len().div_ceil(2), |Cores(list)| list.len()).min(lanes.len());
    let workers = deal(lanes, count)
        .into_iter()
        .map(|lanes| Box::new(move |run: &Run| work(lanes, run)) as Worker<Vec<Totals>>);
    let run = Arc::new(Run::new(args.run.count));
    let (title, live_run) = (format!("fwd {} {}", ports[0].name, ports[1].name), run.clone());
    let stats = [ports[0].stats.clone(), ports[1].stats.clone()];
    let live = Live::new(title, move || {
        let mut sample = Sample { drops: live_run.lost_so_far(), ..Sample::default() };
        for counters in stats.iter().map(|stats| stats.read().port) {
            sample.packets += counters.tx_packets.unwrap_or(0);
            sample.bytes += counters.tx_bytes.unwrap_or(0);
            sample.drops += counters.rx_dropped() + counters.tx_dropped.unwrap_or(0);
        }
        sample
    });
    let ended = supervise(&run, &signals, args.run.limits(), cores, workers.collect(), live);
    let [(one, first), (other, second)] = ports.map(Opened::close);
    let mut totals = [Totals::default(); 2];
    ended.totals.iter().flatten().for_each(|lane| totals[lane.lane % 2].add(lane));
    let directions = vec![direction(&one, &other, &totals[0]), direction(&other, &one, &totals[1])];
    let sum = |field: fn(&Direction) -> u64| directions.iter().map(field).sum();
    let moved = (sum(|d| d.packets), sum(|d| d.bytes));
    let details = Forwarded { directions };
    let mut report =
        Report::new("fwd", moved, run.traffic_time(), details, Concerns::Both, vec![one, other]);
    totals.iter().for_each(|totals| report.drop_also(totals.drops()));
    let error = ended.error.or(first.err()).or(second.err());
    report.finish(args.run.json, run.ended_by(), ended.elapsed, error)
}

fn direction(from: &PortReport, to: &PortReport, totals: &Totals) -> Direction {
    // Only this direction sends on that port; bytes are the port's to count.
    let counters = &to.counters;
    let bytes = counters.tx_bytes.unwrap_or(0) + counters.tx_dropped_bytes.unwrap_or(0);
    let drops = totals.drops();
    Direction {
        from: from.port.clone(),
        to: to.port.clone(),
        received: totals.received,
        packets: totals.sent,
        bytes,
        fwd_dropped: drops.values().sum(),
        drops,
    }
}

/// A lane for each receive queue whose frames the other port can send; even numbers go from one to the other, odd ones
/// back.
fn make_lanes(one: &Opened, of_one: Queues, other: &Opened, of_other: Queues) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    let directions =
        [(0, one, of_one.rx, other, of_other.tx), (1, other, of_other.rx, one, of_one.tx)];
    for (number, from, rx, to, tx) in directions {
        if !from.port.capability().receives || !to.port.capability().transmits {
            continue;
        }
        ensure!(
            rx.len() <= tx.len(),
            "{} has {} receive queues and {} only {} transmit queues; give both the same number with queues=N",
            from.name,
            rx.len(),
            to.name,
            tx.len()
        );
        lanes.extend(
            rx.into_iter()
                .zip(tx)
                .enumerate()
                .map(|(at, (rx, tx))| Lane::new(at * 2 + number, &from.name, rx, tx, None)),
        );
    }
    if lanes.is_empty() {
        let (one, other) = (&one.name, &other.name);
        bail!(
            "nothing can pass between {one} and {other}: one must receive and the other transmit"
        );
    }
    // The two directions of a pair of queues side by side.
    lanes.sort_by_key(Lane::number);
    Ok(lanes)
}

/// Deals things to `count` workers, neighbours together.
fn deal<T>(things: Vec<T>, count: usize) -> Vec<Vec<T>> {
    let all = things.len();
    let mut dealt: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    for (at, thing) in things.into_iter().enumerate() {
        dealt[at * count / all].push(thing);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_worker() {
        assert_eq!(deal(vec![0, 1, 2, 3], 2), [[0, 1], [2, 3]]);
        assert_eq!(deal(vec![0, 1], 2), [[0], [1]]);
        assert_eq!(deal(vec![0, 1, 2, 3], 3), [vec![0, 1], vec![2], vec![3]]);
        assert_eq!(deal(vec![0], 1), [[0]]);
    }
}
