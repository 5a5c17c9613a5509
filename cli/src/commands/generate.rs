//! `anyport gen`: numbered, timed frames at a rate.
//!
//! Frame `k` of the run is due at `start + k / rate`; worker `w` of `W` makes the frames with `k % W == w`, in flows of
//! its own, so that a flow stays on one queue. A fresh pool is zero and nothing is received into it, so a frame's first 60
//! bytes are all that is ever written. A full queue is tried again: the schedule may slip, frames are never left out.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use anyport::{Burst, MacAddr, Packet, TxQueue};
use serde::Serialize;

use crate::args::RunArgs;
use crate::ports::{Opened, Wants, make_pool};
use crate::report::{Concerns, Details, Report};
use crate::run::live::{Live, Sample};
use crate::run::{
    EndedBy, Pacer, Retry, Run, Signals, Worker, precise_sleeps, supervise, wait_until,
};
use crate::text::{number, packet_rate, time};
use crate::values::{self, Rate, Size};
use crate::wire::frame::{DEFAULT_DESTINATION, Template};
use crate::wire::stamp::{FIRST_FLOW_PORT, MAX_FLOWS, Stamp, fit_time};
use crate::wire::{clock, streams};

/// How long the device may take to send what it has accepted, at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Send numbered, timed frames
///
/// Frames are IPv4 and UDP (198.18.0.1 to 198.19.0.1, port 9), one flow for each source port from 1024 on, from the
/// port's own MAC address. Each carries a magic word, the number of the run, its number in its flow, and the time at
/// which it was meant to leave, for `anyport sink` to read. A full queue is tried again: no frame is left out.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport gen pcap:eth0 --rate 10000 --count 50000   exactly 50,000 frames, 10,000 a second
  anyport gen pcap:eth0 --size imix --flows 1000     as fast as the port takes them
  anyport gen pcap:eth0,queues=4 --cores 0-3         a worker for each of four queues

Totals (--json): packets and bytes that the port accepted, seconds, pps, and under `drops` what it
then did not send (tx_dropped). `max_late_ns` is how far the schedule slipped at most.")]
pub struct Args {
    /// The port to send on
    port: String,
    /// Bytes of a frame, without FCS: 60 to the port's maximum; or `imix`: 60, 590 and 1514 as 7:4:1
    #[arg(long, default_value = "60", value_parser = values::size)]
    size: Size,
    /// Frames a second (`10000`, `10k`, `1.5M`), or `max`; frames that the port could not take in time follow at once
    #[arg(long, default_value = "max", value_parser = values::rate)]
    rate: Rate,
    /// Flows, taking turns; at least one for each queue [default: one for each queue]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_FLOWS))]
    flows: Option<u64>,
    /// Destination MAC address [default: 02:00:00:00:00:02, which nobody has]
    #[arg(long, value_name = "MAC")]
    dst: Option<MacAddr>,
    /// The most frames that are handed to the port at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    burst: u16,
    /// Common options.
    #[command(flatten)]
    run: RunArgs,
}

/// What `gen` says besides what all commands say.
#[derive(Debug, Serialize)]
struct Sent {
    /// The run's number, which `sink` shows.
    run: String,
    flows: u64,
    /// Frames a second that were asked for; absent for `max`.
    rate: Option<f64>,
    /// How far behind its schedule a frame was handed to the port, at most.
    max_late_ns: u64,
    /// Frames that the device had accepted and not yet sent when the time was up.
    unfinished: u64,
}

impl Details for Sent {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("run {}, flows: {}", self.run, number(self.flows))];
        if let Some(rate) = self.rate {
            let late = time(self.max_late_ns as f64);
            lines.push(format!(
                "asked for {}; at most {late} behind the schedule",
                packet_rate(rate)
            ));
        }
        if self.unfinished > 0 {
            lines.push(format!("still with the device: {}", number(self.unfinished)));
        }
        lines
    }
}

/// Generates.
pub fn run(args: &Args) -> Result<()> {
    let signals = Signals::catch()?;
    let registry = args.run.ports.registry()?;
    let cores = args.run.cores.as_ref();
    let mut opened = Opened::open(&registry, &args.port, Wants::default(), cores)?;
    opened.must_transmit()?;
    let pattern = args.size.pattern();
    let max = opened.max_frame();
    if let Some(size) = pattern.iter().find(|size| **size > max) {
        bail!("{}: frames of {size} bytes are over its maximum of {max}; see --size", opened.name);
    }
    let source = opened.port.control().mac()?;
    let destination = args.dst.unwrap_or(DEFAULT_DESTINATION);
    let templates: Vec<_> =
        pattern.iter().map(|size| Template::new(destination, source, *size)).collect();
    let queues = opened.port.config().tx_queue_count();
    let flows = args.flows.unwrap_or(u64::from(queues));
    if flows < u64::from(queues) {
        bail!(
            "{flows} flows for {queues} queues: a flow stays on one queue, so give --flows {queues} or more"
        );
    }
    let pool = make_pool(&args.run.ports, &registry, &[&opened])?;
    let queues = opened.start(&pool)?.tx;
    let run_number = (std::hash::RandomState::new().build_hasher().finish() & 0x00ff_ffff) as u32;
    let pacer = Pacer::new(args.rate, clock::now() + 1_000_000);
    let count = queues.len() as u64;
    let workers = queues.into_iter().zip(0..).map(|(tx, number)| {
        let share = Share { number, of: count };
        let generator = Generator {
            tx,
            burst: Burst::with_capacity(args.burst.into()),
            templates: templates.clone(),
            template: 0,
            pacer,
            share,
            quota: args.run.count.map_or(u64::MAX, |count| share.of_the_first(count)),
            flows: share.of_the_first(flows),
            flow: 0,
            made: 0,
            stamp: Stamp { run: run_number, clock: clock::identity(), sequence: 0, time: 0 },
            totals: Totals::default(),
        };
        Box::new(move |run: &Run| generator.work(run)) as Worker<Totals>
    });
    let run = Arc::new(Run::new(None));
    let stats = opened.stats.clone();
    let live = Live::new(format!("gen {}", opened.name), || {
        let now = stats.read().port;
        let value = |counter: Option<u64>| counter.unwrap_or(0);
        Sample {
            packets: value(now.tx_packets),
            bytes: value(now.tx_bytes),
            drops: value(now.tx_dropped),
        }
    });
    let live = live.with_link(&opened.name, opened.port.control());
    let ended = supervise(&run, &signals, args.run.limits(), cores, workers.collect(), live);
    let mut totals = Totals::default();
    ended.totals.iter().for_each(|part| totals.add(part));
    let name = opened.name.clone();
    let (port, closed) = opened.close();
    let details = Sent {
        run: streams::run_name(run_number),
        flows,
        rate: args.rate.per_second(),
        max_late_ns: totals.max_late_ns,
        unfinished: totals.unfinished,
    };
    let sent = (totals.packets, totals.bytes);
    let report =
        Report::new("gen", sent, run.traffic_time(), details, Concerns::Sending, vec![port]);
    let why = match run.ended_by() {
        // Workers end by themselves only when their share is done.
        EndedBy::EndOfInput => EndedBy::Count,
        why => why,
    };
    let error = ended.error.or(closed.err()).or_else(|| run.sent_nothing(&name, totals.packets));
    report.finish(args.run.json, why, ended.elapsed, error)
}

/// Which part of the frames (and of the flows) a worker has: every `of`-th, from `number` on.
#[derive(Debug, Clone, Copy)]
struct Share {
    number: u64,
    of: u64,
}

impl Share {
    /// How many of the numbers `0..n` are in the share.
    fn of_the_first(self, n: u64) -> u64 {
        n.saturating_sub(self.number).div_ceil(self.of)
    }

    /// The `at`-th number of the share.
    fn number_at(self, at: u64) -> u64 {
        at.saturating_mul(self.of).saturating_add(self.number)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    packets: u64,
    bytes: u64,
    max_late_ns: u64,
    unfinished: u64,
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.max_late_ns = self.max_late_ns.max(other.max_late_ns);
        self.unfinished += other.unfinished;
    }
}

/// One worker.
struct Generator {
    tx: TxQueue,
    burst: Burst,
    /// By size, in the order in which they are used, again and again.
    templates: Vec<Template>,
    template: usize,
    pacer: Pacer,
    share: Share,
    /// How many frames it is to make.
    quota: u64,
    /// How many flows it has.
    flows: u64,
    /// The flow of the next frame, of its own ones.
    flow: u64,
    /// How many frames it has made.
    made: u64,
    /// The next frame's stamp, but for the time.
    stamp: Stamp,
    totals: Totals,
}

impl Generator {
    fn work(mut self, run: &Run) -> (Totals, Result<()>) {
        precise_sleeps();
        let result = self.generate(run);
        let flushed = self.tx.flush(FLUSH).context("waiting for the port to send the rest");
        self.totals.unfinished = *flushed.as_ref().unwrap_or(&0) as u64;
        (self.totals, result.and(flushed.map(drop)))
    }

    fn generate(&mut self, run: &Run) -> Result<()> {
        let mut retry = Retry::default();
        let (mut now, mut bytes) = (clock::now(), 0);
        // The time of the run is from the start of the schedule, if there is one.
        run.saw(self.pacer.due(0).unwrap_or(now));
        while !run.stopping() {
            if self.burst.is_empty() {
                if self.made == self.quota {
                    break;
                }
                now = clock::now();
                let due = self.due(now);
                if due == 0 {
                    let next = self.pacer.due(self.share.number_at(self.made));
                    wait_until(run, next.unwrap_or(now));
                    continue;
                }
                if self.tx.take(&mut self.burst, due)? == 0 {
                    // All frames are with the device.
                    retry.pause();
                    continue;
                }
                bytes = self.make_burst(now)?;
            }
            match self.tx.send(&mut self.burst)? {
                0 => retry.pause(),
                sent => {
                    let left = self.burst.iter().map(Packet::len).sum();
                    self.totals.packets += sent as u64;
                    self.totals.bytes += (bytes - left) as u64;
                    bytes = left;
                    // After a wait for room the time is another one.
                    run.saw(if retry.done() { clock::now() } else { now });
                }
            }
        }
        Ok(())
    }

    /// How many frames to make now: those that are due, as far as burst and quota go.
    fn due(&self, now: u64) -> usize {
        let due = self.share.of_the_first(self.pacer.first_not_due(now)).min(self.quota);
        due.saturating_sub(self.made).min(self.burst.capacity() as u64) as usize
    }

    /// Makes the frames of a burst; their bytes.
    fn make_burst(&mut self, now: u64) -> Result<usize> {
        let mut burst = std::mem::take(&mut self.burst);
        let mut bytes = 0;
        if let Some(due) = self.pacer.due(self.share.number_at(self.made)) {
            self.totals.max_late_ns = self.totals.max_late_ns.max(now.saturating_sub(due));
        }
        let made = burst.iter_mut().try_for_each(|packet| {
            bytes += self.make(packet, now)?;
            Ok(())
        });
        self.burst = burst;
        made.map(|()| bytes)
    }

    #[inline]
    fn make(&mut self, packet: &mut Packet, now: u64) -> Result<usize> {
        let template = &self.templates[self.template];
        packet
            .set_len(template.size())
            .context("the pool's frames are too small; see --frame-size")?;
        let time = self.pacer.due(self.share.number_at(self.made)).unwrap_or(now);
        self.stamp.time = fit_time(time);
        let flow = self.share.number_at(self.flow);
        template.write(packet.data_mut(), FIRST_FLOW_PORT + flow as u16, self.stamp);
        let size = template.size();
        self.made += 1;
        self.template =
            if self.template + 1 == self.templates.len() { 0 } else { self.template + 1 };
        self.flow += 1;
        if self.flow == self.flows {
            self.flow = 0;
            self.stamp.sequence = self.stamp.sequence.wrapping_add(1);
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stamp::find;
    use anyport::Pool;

    #[test]
    fn shares_are_disjoint_and_complete() {
        for of in 1..5 {
            for n in [0, 1, 2, 3, 4, 5, 17] {
                let mut all: Vec<u64> = (0..of)
                    .map(|number| Share { number, of })
                    .flat_map(|share| (0..share.of_the_first(n)).map(move |at| share.number_at(at)))
                    .collect();
                all.sort_unstable();
                assert_eq!(all, (0..n).collect::<Vec<_>>(), "{n} over {of}");
            }
        }
        assert_eq!(Share { number: 0, of: 1 }.of_the_first(u64::MAX), u64::MAX);
    }

    #[test]
    fn frames_are_numbered_by_flow_and_timed_by_schedule() {
        let pool = Pool::builder().frames(256).build().unwrap();
        let open = |spec: &str| {
            let mut port = anyport_backends::registry().open_with(spec, &pool).unwrap();
            let pair = port.start().unwrap().into_pair();
            (port, pair)
        };
        let (_left, (_, tx)) = open("loop:generator.0");
        let (_right, (mut rx, _)) = open("loop:generator.1,promiscuous=true");
        let template = |size| Template::new(DEFAULT_DESTINATION, MacAddr([2, 0, 0, 0, 0, 1]), size);
        let start = clock::now();
        let pacer = Pacer::new(values::rate("1M").unwrap(), start);
        // The second of two workers: frames 1, 3, 5, ..., flows 1 and 3.
        let share = Share { number: 1, of: 2 };
        let generator = Generator {
            tx,
            burst: Burst::with_capacity(7),
            templates: vec![template(60), template(590)],
            template: 0,
            pacer,
            share,
            quota: share.of_the_first(100),
            flows: share.of_the_first(4),
            flow: 0,
            made: 0,
            stamp: Stamp { run: 5, clock: 6, sequence: 0, time: 0 },
            totals: Totals::default(),
        };
        let (totals, result) = generator.work(&Run::new(None));
        result.unwrap();
        assert_eq!((totals.packets, totals.bytes, totals.unfinished), (50, 25 * 650, 0));
        let mut burst = Burst::new();
        assert_eq!(rx.recv(&mut burst).unwrap(), 50);
        for (at, packet) in burst.iter().enumerate() {
            assert_eq!(packet.len(), [60, 590][at % 2]);
            let (port, stamp) = find(packet.data(), packet.len()).unwrap();
            assert_eq!((port, stamp.sequence), ([1025, 1027][at % 2], at as u32 / 2));
            assert_eq!(stamp.time, fit_time(start + (2 * at as u64 + 1) * 1000));
            assert!(packet.data()[60..].iter().all(|byte| *byte == 0));
        }
    }
}
