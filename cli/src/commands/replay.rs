//! `anyport replay`: sends the frames of a capture file, in the time in which they came, or at a rate.
//!
//! What cannot be sent as it was on the wire is left out and counted: a record that was cut short when it was captured, a
//! frame that is too short or too long for the port. A file that ends in the middle of a record, or is damaged there, is
//! sent up to that place, and then it is an error.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use anyport::{Burst, Error, Pool, TxQueue};
use anyport_capfile::{Reader, Record};
use serde::Serialize;

use crate::args::RunArgs;
use crate::ports::{Opened, Wants, make_pool};
use crate::report::{Concerns, Details, Drops, Report};
use crate::run::live::{Live, Sample};
use crate::run::{
    EndedBy, Pacer, Retry, Run, Signals, Worker, precise_sleeps, supervise, wait_until,
};
use crate::text::{number, time};
use crate::values::{self, Rate};
use crate::wire::clock;

/// How long the device may take to send what it has accepted, at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// The least frame.
const MIN_FRAME: usize = 14;

/// Send the frames of a capture file
///
/// pcap and pcapng files are read, with micro- or nanoseconds, and nothing is changed in the frames (those under 60 bytes go
/// out padded). They leave with the time between them that they came with, unless --rate says otherwise. A full queue is
/// tried again: no frame is left out, but for those that cannot be sent, which are counted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport replay a.pcapng pcap:eth0                  in original timing
  anyport replay a.pcap pcap:eth0 --rate max --loops 100

Totals (--json): packets and bytes that the port accepted; under `drops` what was left out of the
file: replay_snapped (cut short when captured), replay_too_short (under 14 bytes), replay_too_long
(over the port's maximum frame), replay_unsendable. If the file is cut off or damaged, what comes
before is sent, and the status is 1.")]
pub struct Args {
    /// The capture file
    file: PathBuf,
    /// The port to send on
    port: String,
    /// Frames a second (`10000`, `10k`, `1.5M`), or `max` [default: original timing]
    #[arg(long, value_parser = values::rate)]
    rate: Option<Rate>,
    /// How often the file is sent; 0 is until something else ends it
    #[arg(long, value_name = "N", default_value_t = 1)]
    loops: u64,
    /// Common options; one worker sends, in the file's order.
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Serialize)]
struct Replayed {
    file: String,
    /// How often the file was sent whole.
    loops: u64,
    /// How far behind its time a frame was handed to the port, at most.
    max_late_ns: u64,
    /// Frames that the device had accepted and not yet sent when the time was up.
    unfinished: u64,
}

impl Details for Replayed {
    fn lines(&self) -> Vec<String> {
        let late = time(self.max_late_ns as f64);
        let mut lines =
            vec![format!("{} sent whole: {}; at most {late} late", self.file, times(self.loops))];
        if self.unfinished > 0 {
            lines.push(format!("still with the device: {}", number(self.unfinished)));
        }
        lines
    }
}

fn times(count: u64) -> String {
    match count {
        0 => "not once".to_owned(),
        1 => "once".to_owned(),
        count => format!("{} times", number(count)),
    }
}

/// Replays.
pub fn run(args: &Args) -> Result<()> {
    // The file first: it needs no privilege to be found wrong.
    let reader = match args.file.as_os_str() == "-" {
        true => Reader::new(std::io::stdin(), "standard input")?,
        false => Reader::open(&args.file)?,
    };
    let signals = Signals::catch()?;
    let registry = args.run.ports.registry()?;
    let wants = Wants { chains: true, ..Wants::default() };
    let mut opened = Opened::open(&registry, &args.port, wants, None)?;
    opened.must_transmit()?;
    let max = opened.max_frame();
    let pool = make_pool(&args.run.ports, &registry, &[&opened])?;
    let (_, tx) = opened.start(&pool)?.into_pair();
    let player = Player {
        reader,
        rate: args.rate,
        loops: args.loops,
        sender: Sender {
            tx,
            burst: Burst::new(),
            max,
            pool,
            quota: args.run.count.unwrap_or(u64::MAX),
            made: 0,
            retry: Retry::default(),
            totals: Totals::default(),
        },
    };
    let run = Arc::new(Run::new(None));
    let stats = opened.stats.clone();
    let live = Live::new(format!("replay {} {}", args.file.display(), opened.name), || {
        let now = stats.read().port;
        let value = |counter: Option<u64>| counter.unwrap_or(0);
        Sample {
            packets: value(now.tx_packets),
            bytes: value(now.tx_bytes),
            drops: value(now.tx_dropped),
        }
    });
    let live = live.with_link(&opened.name, opened.port.control());
    let worker = Box::new(move |run: &Run| player.work(run)) as Worker<Totals>;
    let limits = args.run.limits();
    let ended = supervise(&run, &signals, limits, args.run.cores.as_ref(), vec![worker], live);
    let name = opened.name.clone();
    let (port, closed) = opened.close();
    let totals = ended.totals.first().copied().unwrap_or_default();
    let details = Replayed {
        file: args.file.display().to_string(),
        loops: totals.loops,
        max_late_ns: totals.max_late_ns,
        unfinished: totals.unfinished,
    };
    // The port knows about padding.
    let bytes = port.counters.tx_bytes.unwrap_or(0) + port.counters.tx_dropped_bytes.unwrap_or(0);
    let sent = (totals.packets, bytes);
    let time = run.traffic_time();
    let mut report = Report::new("replay", sent, time, details, Concerns::Sending, vec![port]);
    report.drop_also(totals.left_out());
    let handled = totals.packets + totals.left_out().values().sum::<u64>();
    let error = ended.error.or(closed.err()).or_else(|| run.sent_nothing(&name, handled));
    report.finish(args.run.json, run.ended_by(), ended.elapsed, error)
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    packets: u64,
    loops: u64,
    max_late_ns: u64,
    unfinished: u64,
    snapped: u64,
    too_short: u64,
    too_long: u64,
    unsendable: u64,
}

impl Totals {
    fn left_out(&self) -> Drops {
        Drops::from([
            ("replay_snapped", self.snapped),
            ("replay_too_short", self.too_short),
            ("replay_too_long", self.too_long),
            ("replay_unsendable", self.unsendable),
        ])
    }
}

/// The worker: reads, and says when each frame is due.
struct Player {
    reader: Reader,
    rate: Option<Rate>,
    loops: u64,
    sender: Sender,
}

impl Player {
    fn work(mut self, run: &Run) -> (Totals, Result<()>) {
        precise_sleeps();
        let result = self.play(run);
        let flushed = self.sender.tx.flush(FLUSH).context("waiting for the port to send the rest");
        self.sender.totals.unfinished = *flushed.as_ref().unwrap_or(&0) as u64;
        (self.sender.totals, result.and(flushed.map(drop)))
    }

    fn play(&mut self, run: &Run) -> Result<()> {
        let pacer = self.rate.map(|rate| Pacer::new(rate, clock::now()));
        while !run.stopping() && (self.loops == 0 || self.sender.totals.loops < self.loops) {
            if self.sender.totals.loops > 0 {
                self.reader.rewind()?;
            }
            let made = self.sender.made;
            self.play_once(pacer, run)?;
            if self.sender.made == made && self.loops != 1 {
                bail!("nothing in the file can be sent, so it is of no use to send it again");
            }
        }
        Ok(())
    }

    /// The file from its beginning to its end.
    fn play_once(&mut self, pacer: Option<Pacer>, run: &Run) -> Result<()> {
        let start = clock::now();
        let mut first = None;
        let mut last_due = 0;
        while !run.stopping() {
            if self.sender.is_done() {
                // Unless the port refuses some of those that are still under way.
                self.sender.send_all(run)?;
                if self.sender.is_done() {
                    run.end(EndedBy::Count);
                    return Ok(());
                }
            }
            let record = match self.reader.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.sender.send_all(run)?;
                    self.sender.totals.loops += u64::from(!run.stopping());
                    break;
                }
                Err(error) => {
                    // What came before it is sent all the same.
                    self.sender.send_all(run)?;
                    return Err(error.into());
                }
            };
            if self.sender.cannot_send(&record) {
                continue;
            }
            let due = match pacer {
                Some(pacer) => pacer.due(self.sender.made),
                // What has no time goes with the one before it.
                None => record.timestamp_ns.map(|time| {
                    let first = *first.get_or_insert(time);
                    start.saturating_add(time.saturating_sub(first))
                }),
            };
            // Times that go back do not make frames overtake one another.
            last_due = due.unwrap_or(0).max(last_due);
            self.sender.put(&record, last_due, run)?;
        }
        Ok(())
    }
}

/// A pause in the file from which on it is said how long it will be.
const LONG_PAUSE_NS: u64 = 60_000_000_000;

/// Puts frames into packets, and those on their way.
struct Sender {
    tx: TxQueue,
    burst: Burst,
    max: usize,
    /// For frames that do not fit one packet of the queue's.
    pool: Pool,
    /// How many frames are to be sent.
    quota: u64,
    /// How many were put into packets, less those that the port refused.
    made: u64,
    retry: Retry,
    totals: Totals,
}

impl Sender {
    fn is_done(&self) -> bool {
        self.made >= self.quota
    }

    /// Counts a record that cannot be sent as its frame was; whether it is one.
    fn cannot_send(&mut self, record: &Record<'_>) -> bool {
        let length = record.data.len();
        // The port itself knows whether a tag makes a frame of up to 4 bytes more fit.
        let cause = if record.original_len > length {
            &mut self.totals.snapped
        } else if length < MIN_FRAME {
            &mut self.totals.too_short
        } else if length > self.max + 4 {
            &mut self.totals.too_long
        } else {
            return false;
        };
        *cause += 1;
        true
    }

    /// Takes a frame on that is due at a time of the monotonic clock (0: at once).
    fn put(&mut self, record: &Record<'_>, due: u64, run: &Run) -> Result<()> {
        if due > 0 {
            let mut now = clock::now();
            if now < due {
                self.send_all(run)?;
                if due - now > LONG_PAUSE_NS {
                    let pause = time((due - now) as f64);
                    tracing::warn!(
                        "the next frame is due in {pause}; --rate does not wait for the file's times"
                    );
                }
                now = wait_until(run, due);
            }
            self.totals.max_late_ns = self.totals.max_late_ns.max(now.saturating_sub(due));
        }
        while self.burst.is_full() || !self.take(record.data)? {
            if run.stopping() {
                return Ok(());
            }
            if self.burst.is_empty() {
                // All frames are with the device.
                self.retry.pause();
            }
            self.send_all(run)?;
        }
        self.made += 1;
        Ok(())
    }

    /// Puts a frame into a packet, or into a chain of them; false if there is none now.
    fn take(&mut self, data: &[u8]) -> Result<bool> {
        if data.len() > self.pool.room() {
            let packet = self.pool.packet(data);
            return Ok(packet.is_some_and(|packet| self.burst.push(packet).is_ok()));
        }
        let taken = self.tx.take(&mut self.burst, 1)? == 1;
        if let Some(packet) = self.burst.last_mut().filter(|_| taken) {
            packet.fill(data)?;
        }
        Ok(taken)
    }

    /// Sends all packets, or as many as the run has time for.
    fn send_all(&mut self, run: &Run) -> Result<()> {
        let now = clock::now();
        while !self.burst.is_empty() && !run.stopping() {
            match self.tx.send(&mut self.burst) {
                Ok(0) => self.retry.pause(),
                Ok(sent) => {
                    self.totals.packets += sent as u64;
                    // After a wait for room the time is another one.
                    run.saw(if self.retry.done() { clock::now() } else { now });
                }
                Err(error) => {
                    *match error {
                        Error::FrameTooLong { .. } => &mut self.totals.too_long,
                        Error::FrameTooShort { .. } => &mut self.totals.too_short,
                        Error::Unsendable { .. } => &mut self.totals.unsendable,
                        other => return Err(other.into()),
                    } += 1;
                    self.made -= 1;
                    drop(self.burst.pop_front());
                }
            }
        }
        Ok(())
    }
}
