//! `anyport dump`: records what a port receives, as a capture file or as text.
//!
//! The file is written by the worker that receives. A slow disk shows as `rx_ring_full` of the port; a failing one ends the
//! run, and what was written up to then stays readable.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use anyport::packet::Clock;
use anyport::{Burst, Packet, RxQueue};
use anyport_capfile::{Direction, Error, Format, Record, Writer};
use pcap::{BpfProgram, Capture, Linktype};
use serde::Serialize;

use crate::args::{RunArgs, usage_error};
use crate::ports::{Opened, Wants, make_pool};
use crate::report::{Concerns, Details, Report};
use crate::run::live::{Live, Sample};
use crate::run::{EndedBy, Run, Signals, Worker, receive_all, supervise};
use crate::text::{is_broken_pipe, number, print};
use crate::wire::clock;
use crate::wire::describe::{describe, time_of_day};

/// Record what a port receives
///
/// With -w a capture file is written that tshark and others read: pcapng, or pcap if the name ends in `.pcap`; `-w -` writes
/// pcapng to standard output. Without it, one line of text is printed for each frame, its time in UTC. The port is opened
/// promiscuous, shared with the host, and with timestamps as good as it has them, unless its spec says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport dump pcap:eth0 -w a.pcapng                 until Ctrl-C
  anyport dump pcap:eth0 -w a.pcapng udp port 9      only what the filter lets pass (tcpdump's syntax)
  anyport dump pcap:eth0 -w - | tshark -r -
  anyport dump pcap:eth0 --count 10 'not arp'

Totals (--json): packets and bytes recorded; `filtered` counts frames that the filter kept out. If
writing fails, for a full disk say, the status is 1, the file is whole up to the last frame of
`packets`, and `drops` has what did not get into it (dump_unwritten). A frame that the format
cannot hold, as pcap does no time after 2106, is counted there, too, and the dump goes on.")]
pub struct Args {
    /// The port
    port: String,
    /// Write a capture file; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Record at most so many bytes of each frame
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: Option<u32>,
    /// Only frames that pass this filter, in tcpdump's syntax
    filter: Vec<String>,
    /// Common options; `--count` counts frames recorded.
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Serialize)]
struct Dumped {
    filtered: u64,
}

impl Details for Dumped {
    fn lines(&self) -> Vec<String> {
        match self.filtered {
            0 => Vec::new(),
            frames => vec![format!("kept out by the filter: {}", number(frames))],
        }
    }
}

/// Dumps.
pub fn run(args: &Args) -> Result<()> {
    let to_stdout = args.write.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if to_stdout && args.run.json {
        usage_error("--json and `-w -` both want standard output");
    }
    if to_stdout && std::io::stdout().is_terminal() {
        usage_error("standard output is a terminal; a capture there would only confuse it");
    }
    let expression = args.filter.join(" ");
    compile(&expression)?;
    let signals = Signals::catch()?;
    let registry = args.run.ports.registry()?;
    let cores = args.run.cores.as_ref();
    let wants = Wants { promiscuous: true, shared: true, timestamps: true, chains: false };
    let mut opened = Opened::open(&registry, &args.port, wants, cores)?;
    opened.must_receive()?;
    let pool = make_pool(&args.run.ports, &registry, &[&opened])?;
    // Before the port is started: a file that cannot be made needs no frames.
    let output = match &args.write {
        Some(_) if to_stdout => {
            let stdout =
                std::io::stdout().as_fd().try_clone_to_owned().context("standard output")?;
            let stdout = std::fs::File::from(stdout);
            Output::File(Writer::new(stdout, "standard output", Format::Pcapng, &opened.name)?)
        }
        Some(file) => {
            let format = Format::of_name(file).unwrap_or(Format::Pcapng);
            Output::File(Writer::create(file, format, &opened.name)?)
        }
        None if args.run.json => Output::Nothing,
        None => Output::Lines(String::new()),
    };
    let recorder = Arc::new(Mutex::new(Recorder::new(output, args.snaplen)));
    let mut workers = Vec::new();
    for rx in opened.start(&pool)?.rx {
        let (filter, recorder) = (compile(&expression)?, recorder.clone());
        let worker = Dumper { name: opened.name.clone(), rx, filter, filtered: 0, recorder };
        workers.push(Box::new(move |run: &Run| worker.work(run)) as Worker<u64>);
    }
    let run = Arc::new(Run::new(args.run.count));
    let stats = opened.stats.clone();
    let live = Live::new(format!("dump {}", opened.name), || {
        let now = stats.read().port;
        let value = |counter: Option<u64>| counter.unwrap_or(0);
        Sample {
            packets: value(now.rx_packets),
            bytes: value(now.rx_bytes),
            drops: now.rx_dropped(),
        }
    });
    let ended = supervise(&run, &signals, args.run.limits(), cores, workers, live);
    let (port, closed) = opened.close();
    let mut recorder = lock(&recorder);
    let flushed = recorder.flush().or_else(|error| quiet_end(&run, error));
    let details = Dumped { filtered: ended.totals.iter().sum() };
    let moved = (recorder.packets, recorder.bytes);
    let time = run.traffic_time();
    let mut report = Report::new("dump", moved, time, details, Concerns::Receiving, vec![port]);
    report.drop_also([("dump_unwritten", recorder.unwritten)]);
    let error = ended.error.or(flushed.err()).or(closed.err());
    if to_stdout || matches!(recorder.output, Output::Lines(_)) {
        return report.finish_aside(ended.elapsed, error);
    }
    report.finish(args.run.json, run.ended_by(), ended.elapsed, error)
}

/// A filter in tcpdump's syntax, compiled for Ethernet; none if it is empty.
fn compile(expression: &str) -> Result<Option<BpfProgram>> {
    if expression.is_empty() {
        return Ok(None);
    }
    let program = Capture::dead(Linktype::ETHERNET).and_then(|dead| dead.compile(expression, true));
    Ok(Some(program.with_context(|| format!("the filter `{expression}`"))?))
}

/// Whoever reads the output has gone: that ends the run, and is no failure.
fn quiet_end(run: &Run, error: anyhow::Error) -> Result<()> {
    if is_broken_pipe(&error) {
        run.end(EndedBy::OutputClosed);
        return Ok(());
    }
    Err(error)
}

enum Output {
    File(Writer),
    /// Lines that are not printed yet.
    Lines(String),
    /// Only the totals are wanted.
    Nothing,
}

/// Where all workers put their frames.
struct Recorder {
    output: Output,
    snaplen: usize,
    /// The bytes of a frame in several segments.
    scratch: Vec<u8>,
    /// Recorded: with the system.
    packets: u64,
    bytes: u64,
    /// The lengths of the frames that are not with the system yet, in order.
    pending: Vec<usize>,
    /// Lost because writing failed.
    unwritten: u64,
    /// It was said that a frame cannot be in such a file.
    said: bool,
}

fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn new(output: Output, snaplen: Option<u32>) -> Recorder {
        let snaplen = snaplen.map_or(usize::MAX, |bytes| bytes as usize);
        let scratch = Vec::new();
        let pending = Vec::new();
        Recorder {
            output,
            snaplen,
            scratch,
            packets: 0,
            bytes: 0,
            pending,
            unwritten: 0,
            said: false,
        }
    }

    /// Records a frame that came at `time` (nanoseconds since the Unix epoch).
    fn record(&mut self, packet: &Packet, time: u64) -> Result<()> {
        let length = packet.len();
        let whole = if packet.is_chain() {
            self.scratch.clear();
            packet.segments().for_each(|segment| self.scratch.extend_from_slice(segment));
            &self.scratch[..]
        } else {
            packet.data()
        };
        self.pending.push(length);
        let all = self.pending.len();
        let (done, result) = match &mut self.output {
            Output::Nothing => (all, Ok(())),
            Output::Lines(lines) => {
                *lines += &format!("{} {}\n", time_of_day(time), describe(whole, length));
                if lines.len() < 16 << 10 { (0, Ok(())) } else { print_lines(lines, all) }
            }
            Output::File(writer) => {
                let data = &whole[..whole.len().min(self.snaplen)];
                let direction = Some(Direction::Received);
                let record =
                    Record { timestamp_ns: Some(time), original_len: length, data, direction };
                let mut unwritable = None;
                let counted = count(writer, |writer| match writer.write(&record) {
                    Err(error @ Error::Unwritable { .. }) => {
                        unwritable = Some(error);
                        Ok(())
                    }
                    result => result,
                });
                if let Some(error) = unwritable {
                    // Only this one: the file goes on.
                    self.pending.pop();
                    self.unwritten += 1;
                    if !std::mem::replace(&mut self.said, true) {
                        tracing::warn!(
                            "{error}; such frames are left out, counted as dump_unwritten"
                        );
                    }
                }
                counted
            }
        };
        self.settle(done, result)
    }

    /// Hands everything to the system.
    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let all = self.pending.len();
        let (done, result) = match &mut self.output {
            Output::Nothing => (all, Ok(())),
            Output::Lines(lines) => print_lines(lines, all),
            Output::File(writer) => count(writer, Writer::flush),
        };
        self.settle(done, result)
    }

    /// Notes what became of the pending frames: the first `done` of them are with the system now; after a failure the
    /// others are lost.
    fn settle(&mut self, done: usize, result: Result<()>) -> Result<()> {
        self.packets += done as u64;
        self.bytes += self.pending.drain(..done).sum::<usize>() as u64;
        if result.is_err() {
            self.unwritten += self.pending.drain(..).count() as u64;
        }
        result
    }
}

/// How many records went to the system in that call of the writer, and how it went.
fn count(
    writer: &mut Writer,
    call: impl FnOnce(&mut Writer) -> std::result::Result<(), Error>,
) -> (usize, Result<()>) {
    let before = writer.records();
    let result = call(writer);
    ((writer.records() - before) as usize, result.map_err(Into::into))
}

/// The same for lines, of `all` frames.
fn print_lines(lines: &mut String, all: usize) -> (usize, Result<()>) {
    let result = print(lines);
    lines.clear();
    (if result.is_ok() { all } else { 0 }, result)
}

/// One worker.
struct Dumper {
    name: String,
    rx: RxQueue,
    filter: Option<BpfProgram>,
    filtered: u64,
    recorder: Arc<Mutex<Recorder>>,
}

impl Dumper {
    fn work(mut self, run: &Run) -> (u64, Result<()>) {
        run.wakes(&self.rx);
        let result = self.dump(run).or_else(|error| quiet_end(run, error));
        (self.filtered, result)
    }

    fn dump(&mut self, run: &Run) -> Result<()> {
        let Dumper { name, rx, filter, filtered, recorder } = self;
        // Only frames that are recorded use up the count.
        let take = |burst: &mut Burst| {
            if let Some(program) = filter {
                let before = burst.len();
                // The first segment of a chain is more than headers take.
                burst.retain(|packet| program.filter(packet.data()));
                *filtered += (before - burst.len()) as u64;
            }
            let kept = burst.len() as u64;
            record(recorder, burst, run)?;
            Ok(kept)
        };
        // Whoever reads along sees everything as soon as it is quiet.
        receive_all(name, rx, run, take, || lock(recorder).flush())
    }
}

/// Records all frames of the burst; after a failure the rest of them is counted as not written.
fn record(recorder: &Mutex<Recorder>, burst: &mut Burst, run: &Run) -> Result<()> {
    if burst.is_empty() {
        return Ok(());
    }
    run.saw(clock::now());
    let mut recorder = lock(recorder);
    let now = anyport::time::realtime_ns();
    for (at, packet) in burst.iter().enumerate() {
        let stamp = packet.timestamp().filter(|stamp| stamp.clock == Clock::RealTime);
        let recorded = recorder.record(packet, stamp.map_or(now, |stamp| stamp.ns));
        if recorded.is_err() {
            recorder.unwritten += (burst.len() - at - 1) as u64;
            return recorded;
        }
    }
    burst.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_tcpdumps() {
        assert!(compile("").unwrap().is_none());
        let error = format!("{:#}", compile("udp prot 9").err().unwrap());
        assert!(error.contains("`udp prot 9`") && error.contains("syntax error"), "{error}");
        let program =
            compile("ether proto 0x88b5 and ether dst 02:00:00:00:00:02").unwrap().unwrap();
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
        frame.resize(60, 0);
        assert!(program.filter(&frame));
        frame[5] = 3;
        assert!(!program.filter(&frame));
        assert!(
            !program.filter(&frame[..13]),
            "a frame that is too short for the filter does not pass"
        );
    }

    #[test]
    fn what_could_not_be_written_is_counted() {
        let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { return };
        // The header goes to the system at once, so even that fails.
        assert!(Writer::new(full, "full", Format::Pcapng, "x").is_err());
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = Writer::new(writer, "a pipe", Format::Pcapng, "x").unwrap();
        drop(reader);
        let mut recorder = Recorder::new(Output::File(writer), None);
        let pool = anyport::Pool::builder().frames(4).build().unwrap();
        let packet = pool.packet(&[7; 60]).unwrap();
        recorder.record(&packet, 1).unwrap();
        recorder.record(&packet, 2).unwrap();
        let error = recorder.flush().unwrap_err();
        assert!(is_broken_pipe(&error), "{error:#}");
        assert_eq!((recorder.packets, recorder.bytes, recorder.unwritten), (0, 0, 2));
        let run = Run::new(None);
        quiet_end(&run, error).unwrap();
        assert_eq!(run.ended_by(), EndedBy::OutputClosed);
    }
}
