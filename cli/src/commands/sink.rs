//! `anyport sink`: receives, and says what became of generated frames.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use anyport::{Burst, RxQueue};
use serde::Serialize;

use crate::args::RunArgs;
use crate::ports::{Opened, Wants, make_pool};
use crate::report::{Concerns, Details, Report};
use crate::run::live::{Live, Sample};
use crate::run::{Limits, Run, Signals, Worker, receive_all, supervise};
use crate::text::{number, time};
use crate::values;
use crate::wire::latency::{Latencies, Percentiles};
use crate::wire::streams::{RunSummary, Seen, Streams};
use crate::wire::{clock, stamp};

/// Runs that are listed one by one.
const LISTED_RUNS: usize = 64;

/// Receive, check numbers, measure latency
///
/// Frames of `anyport gen` are counted, each flow of each run apart; all others count as `foreign`. The port is opened
/// promiscuous unless its spec says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport sink pcap:eth1                       until Ctrl-C
  anyport sink pcap:eth1 --count 50000 --json  until so many generated frames came
  anyport sink pcap:eth1 --idle 1s             until none came for a second, after the first

What is counted (--json), for each flow, in the order of arrival:
  packets       generated frames, all of the following included
  lost          numbers between the lowest and the highest that came which did not come
  before_first  numbers below the lowest that came: sent before the sink listened, or lost
  duplicates    frames whose number came before
  reordered     frames that came after a higher number (RFC 4737), duplicates apart
  late          frames 4,096 numbers or more behind the highest: not known whether they came before
  foreign       frames that are not from `anyport gen`
What was lost behind the highest number shows only in comparison with what `anyport gen` says.

Latency is from the time at which a frame was meant to leave to the time at which the sink had it
in hand, in nanoseconds. It needs one clock: where frames come from another host, or from a file,
there is none.")]
pub struct Args {
    /// The port to receive on
    port: String,
    /// End when no generated frame came for so long, after the first
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    idle: Option<Duration>,
    /// Common options; `--count` counts generated frames.
    #[command(flatten)]
    run: RunArgs,
}

/// What `sink` says besides what all commands say.
#[derive(Debug, Serialize)]
struct Received {
    lost: u64,
    duplicates: u64,
    reordered: u64,
    late: u64,
    before_first: u64,
    foreign: u64,
    streams: u64,
    /// Frames of streams beyond the most that are followed: counted, not checked.
    unchecked: u64,
    /// How many runs were seen; the first of them follow.
    run_count: usize,
    runs: Vec<RunSummary>,
    /// In nanoseconds; null where there is no common clock.
    latency: Option<Percentiles>,
    /// Why some or all frames have no latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_note: Option<String>,
}

impl Details for Received {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "lost {}, duplicates {}, reordered {}, late {}; before the first: {}; foreign frames: {}",
            number(self.lost),
            number(self.duplicates),
            number(self.reordered),
            number(self.late),
            number(self.before_first),
            number(self.foreign),
        )];
        if self.unchecked > 0 {
            lines.push(format!("not checked (too many flows): {}", number(self.unchecked)));
        }
        if self.run_count > 1 {
            lines.extend(self.runs.iter().map(|run| {
                format!(
                    "run {}: {} frames in {} flows, lost {}, duplicates {}, reordered {}",
                    run.run,
                    number(run.tally.packets),
                    number(run.flows),
                    number(run.tally.lost),
                    number(run.tally.duplicates),
                    number(run.tally.reordered),
                )
            }));
        }
        if let Some(l) = &self.latency {
            let [min, p50, p90, p99, p999, max] =
                [l.min, l.p50, l.p90, l.p99, l.p999, l.max].map(|ns| time(ns as f64));
            lines.push(format!(
                "latency: min {min}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}"
            ));
        }
        lines.extend(self.latency_note.iter().map(|note| format!("latency: {note}")));
        lines
    }
}

/// Receives.
pub fn run(args: &Args) -> Result<()> {
    let signals = Signals::catch()?;
    let registry = args.run.ports.registry()?;
    let cores = args.run.cores.as_ref();
    let wants = Wants { promiscuous: true, ..Wants::default() };
    let mut opened = Opened::open(&registry, &args.port, wants, cores)?;
    opened.must_receive()?;
    // What can end and has no link.
    let capability = opened.port.capability();
    let from_file = capability.can_end && !capability.link_state;
    let pool = make_pool(&args.run.ports, &registry, &[&opened])?;
    let queues = opened.start(&pool)?.rx;
    let run = Arc::new(Run::new(args.run.count));
    let mut workers = Vec::new();
    for rx in queues {
        let worker = Receiver { name: opened.name.clone(), rx, totals: Totals::new()? };
        workers.push(Box::new(move |run: &Run| worker.work(run)) as Worker<Totals>);
    }
    let stats = opened.stats.clone();
    let live = Live::new(format!("sink {}", opened.name), || {
        let now = stats.read().port;
        let value = |counter: Option<u64>| counter.unwrap_or(0);
        Sample {
            packets: value(now.rx_packets),
            bytes: value(now.rx_bytes),
            drops: now.rx_dropped(),
        }
    });
    let limits = Limits { idle: args.idle, ..args.run.limits() };
    let ended = supervise(&run, &signals, limits, cores, workers, live);
    let (port, closed) = opened.close();
    let (moved, details) = summarize(ended.totals, from_file)?;
    let report =
        Report::new("sink", moved, run.traffic_time(), details, Concerns::Receiving, vec![port]);
    report.finish(args.run.json, run.ended_by(), ended.elapsed, ended.error.or(closed.err()))
}

/// Frames and bytes, and the rest.
fn summarize(workers: Vec<Totals>, from_file: bool) -> Result<((u64, u64), Received)> {
    let mut all = Totals::new()?;
    let mut streams = Vec::new();
    for worker in workers {
        all.packets += worker.packets;
        all.bytes += worker.bytes;
        all.foreign += worker.foreign;
        all.latencies.add(&worker.latencies);
        streams.push(worker.streams);
    }
    let summary = Streams::summary(&streams);
    let latency = all.latencies.summary();
    let none_of = |frames, why: &str| Some(format!("none of {} frames: {why}", number(frames)));
    let note = if from_file {
        Some("none: the frames come from a file".to_owned())
    } else if latency.other_clock > 0 {
        none_of(latency.other_clock, "they were timed on another host, or before a restart")
    } else if latency.impossible > 0 {
        none_of(latency.impossible, "their times are damaged")
    } else {
        None
    };
    let details = Received {
        lost: summary.tally.lost,
        duplicates: summary.tally.duplicates,
        reordered: summary.tally.reordered,
        late: summary.tally.late,
        before_first: summary.tally.before_first,
        foreign: all.foreign,
        streams: summary.streams,
        unchecked: summary.untracked,
        run_count: summary.run_count(),
        runs: summary.runs(LISTED_RUNS),
        latency: latency.values.filter(|_| !from_file),
        latency_note: note,
    };
    Ok(((all.packets, all.bytes), details))
}

/// What one worker has seen.
struct Totals {
    streams: Streams,
    latencies: Latencies,
    packets: u64,
    bytes: u64,
    foreign: u64,
}

impl Totals {
    fn new() -> Result<Totals> {
        let (streams, latencies) = (Streams::default(), Latencies::new()?);
        Ok(Totals { streams, latencies, packets: 0, bytes: 0, foreign: 0 })
    }
}

/// One worker.
struct Receiver {
    name: String,
    rx: RxQueue,
    totals: Totals,
}

impl Receiver {
    fn work(mut self, run: &Run) -> (Totals, Result<()>) {
        run.wakes(&self.rx);
        let Receiver { name, rx, totals } = &mut self;
        // Only frames of `gen` use up the count.
        let take = |burst: &mut Burst| Ok(totals.take(burst, run));
        let result = receive_all(name, rx, run, take, || Ok(()));
        (self.totals, result)
    }
}

impl Totals {
    /// Looks at the frames of a burst, and drops them; how many are generated ones.
    #[inline]
    fn take(&mut self, burst: &mut Burst, run: &Run) -> u64 {
        if burst.is_empty() {
            return 0;
        }
        let now = clock::now();
        let before = self.packets;
        for packet in &*burst {
            let Some((flow, stamp)) = stamp::find(packet.data(), packet.len()) else {
                self.foreign += 1;
                continue;
            };
            self.packets += 1;
            self.bytes += packet.len() as u64;
            if self.streams.take(flow, &stamp) == Seen::First {
                self.latencies.take(&stamp, now);
            }
        }
        burst.clear();
        let used = self.packets - before;
        if used > 0 {
            run.saw(now);
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::EndedBy;
    use crate::wire::frame::{DEFAULT_DESTINATION, Template};
    use crate::wire::stamp::Stamp;
    use anyport::{MacAddr, Pool};

    fn receive(name: &str, count: u64, frames: &[Vec<u8>]) -> Totals {
        let pool = Pool::builder().frames(256).build().unwrap();
        let open = |end: &str| {
            let spec = format!("loop:{name}.{end},promiscuous=true");
            let mut port = anyport_backends::registry().open_with(&spec, &pool).unwrap();
            let pair = port.start().unwrap().into_pair();
            (port, pair)
        };
        let (_left, (_, mut tx)) = open("0");
        let (_right, (rx, _)) = open("1");
        for frame in frames {
            assert!(tx.send_one(pool.packet(frame).unwrap()).unwrap().is_none());
        }
        let run = Run::new(Some(count));
        let (totals, result) =
            Receiver { name: name.into(), rx, totals: Totals::new().unwrap() }.work(&run);
        result.unwrap();
        assert_eq!(run.ended_by(), EndedBy::Count);
        totals
    }

    fn generated(sequence: u32, clock: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        let time = stamp::fit_time(crate::wire::clock::now());
        let stamp = Stamp { run: 9, clock, sequence, time };
        let template = Template::new(DEFAULT_DESTINATION, MacAddr([2, 0, 0, 0, 0, 1]), 60);
        template.write(&mut frame, 1024, stamp);
        frame
    }

    #[test]
    fn foreign_frames_are_apart_and_use_up_no_count() {
        let own = clock::identity();
        let frames =
            [generated(0, own), vec![7; 60], vec![8; 100], generated(2, own), generated(3, own)];
        let totals = receive("sink-foreign", 3, &frames);
        assert_eq!((totals.packets, totals.bytes, totals.foreign), (3, 180, 2));
        let (moved, details) = summarize(vec![totals], false).unwrap();
        assert_eq!((moved, details.lost, details.run_count), ((3, 180), 1, 1));
        assert_eq!(details.latency.unwrap().samples, 3);
        assert_eq!(details.latency_note, None);
    }

    #[test]
    fn no_latency_rather_than_nonsense() {
        let other = clock::identity().wrapping_add(1);
        let totals = receive("sink-clock", 2, &[generated(0, other), generated(1, other)]);
        let (_, details) = summarize(vec![totals], false).unwrap();
        assert_eq!(details.latency, None);
        assert!(details.latency_note.unwrap().contains("another host"));
        let totals = receive("sink-file", 1, &[generated(0, clock::identity())]);
        let (_, details) = summarize(vec![totals], true).unwrap();
        assert_eq!(details.latency, None);
        assert!(details.latency_note.unwrap().contains("file"));
    }
}
