//! Capture files as ports: `pcap:in=a.pcap` is received from, `pcap:out=b.pcapng` is sent to, and both can be one port.
//!
//! A file keeps the contract as a device does, and where a file is unlike a device this is what it does:
//!
//! - **Arrival.** A frame arrives when it is read, and it is read when a frame of the pool is free for it: a dry pool makes a
//!   file wait, and nothing of it is lost (contract R7, R8). With `timing=asap` (the default) frames arrive as fast as they
//!   are taken; with `timing=original` each arrives as long after the first as it was captured after the first. One whose
//!   time has passed because nobody asked arrives at once.
//! - **Start and stop.** `in` goes on where it was at the stop; what was received and not delivered then is gone
//!   (contract L6, L7), and an end stays the end. `timing=original` begins anew with the first frame after a start. `out`
//!   goes on at its end.
//! - **Times.** A received packet's time is the file's (`TimestampSource::Recorded`); it has none if the file has none.
//!   What is sent is stamped with the packet's own receive time where it has one of the real-time clock (`rx_timestamp`
//!   at the port it came from), so that forwarding from file to file keeps the times; else with now.
//! - **Loops.** `loops=N` reads the file N times, 0 for ever. Times go on from pass to pass: the gap between two passes is
//!   the mean gap within one. A pass without a single whole frame ends an endless input.
//! - **Length.** A capture may hold frames longer than a network's: the maximum is 1,514 bytes unless `max_frame` says
//!   otherwise (a frame of the pool must hold it, or `max_segments` of them), and longer ones are dropped and counted. A
//!   port that only writes takes 65,535. Frames that the capture cut short are dropped and counted as `rx_too_long`, too
//!   (contract R4). What is dropped is logged, once each.
//! - **Address.** A file has none of its own, so nothing is filtered: promiscuous mode is, as it were, always on (capability
//!   `filters` without `promiscuous`). The address that the port says is a made-up one, for those who need a source.
//! - **The end.** `Ended` comes after the last frame of the last pass (contract R14). A file that is cut off or corrupt
//!   gives the frames before the damage, and then its error, again and again; it never just ends.
//! - **Writing.** What `send` accepted is with the system when it returns, in whole records (contract T2): a crash of the
//!   process loses nothing of it. A full disk is an error that names the file, and takes nothing; the file keeps what was
//!   accepted before, and sending goes on when there is room. Opening changes no file that is there: the first start
//!   empties `out`, and a port that is closed before leaves none behind that it made.
//!
//! Files are not locked (contract L2): two ports may read one, and nobody keeps two from writing one. `in` must be a
//! regular file, and neither may be a pipe: a port never waits for its device.

mod input;
mod output;
mod timer;

use std::fs::Metadata;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyport::capability::RingSizes;
use anyport::driver::{DriverQueues, PortDriver, RxDriver, Setup, TxDriver};
use anyport::wait::EventFd;
use anyport::{Burst, Capability, Counters, Error, MacAddr, PoolCache, PortCounters, Result};
use anyport_capfile::Format;
use schemars::JsonSchema;
use serde::Deserialize;

use input::{Counts, SaveRx, Source};
use output::{Output, SaveTx};

/// The keys of capture files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileKeys {
    /// Receive the frames of this capture file (pcap or pcapng).
    #[serde(rename = "in", deserialize_with = "anyport::config::path")]
    input: Option<PathBuf>,
    /// Send to this capture file, which is emptied first.
    #[serde(rename = "out", deserialize_with = "anyport::config::path")]
    output: Option<PathBuf>,
    /// When the frames of `in` arrive; `asap` if absent.
    timing: Option<Timing>,
    /// How many times `in` is read; 0: endlessly; once if absent.
    loops: Option<u64>,
    /// The format of `out`; what its name ends in (`.pcap`, `.pcapng`) if absent.
    format: Option<FormatKey>,
}

/// When the frames of a file arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Timing {
    /// As soon as they are asked for.
    Asap,
    /// As far apart as they were captured.
    Original,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FormatKey {
    Pcap,
    Pcapng,
}

impl FileKeys {
    pub fn names_a_file(&self) -> bool {
        self.input.is_some() || self.output.is_some()
    }

    /// How the port is called in messages.
    pub fn title(&self) -> String {
        let named = [("in", &self.input), ("out", &self.output)]
            .map(|(key, path)| path.as_ref().map(|path| format!("{key}={}", path.display())));
        format!("pcap:{}", named.into_iter().flatten().collect::<Vec<_>>().join(","))
    }

    /// Refuses keys about a file that is not given, and a file of which nobody knows how it is to be written.
    pub fn check(&self, title: &str) -> Result<()> {
        if let Some(path) = &self.output {
            self.format(title, path)?;
        }
        let keys = [
            ("timing", self.timing.is_some(), "in", self.input.is_some()),
            ("loops", self.loops.is_some(), "in", self.input.is_some()),
            ("format", self.format.is_some(), "out", self.output.is_some()),
        ];
        match keys.into_iter().find(|(_, given, _, file)| *given && !file) {
            Some((key, _, file, _)) => Err(Error::Config {
                context: title.into(),
                reason: format!("`{key}` says something about `{file}`, which is not given"),
            }),
            None => Ok(()),
        }
    }

    /// What `out` is to be written as.
    fn format(&self, title: &str, path: &Path) -> Result<Format> {
        let asked = self.format.map(|format| match format {
            FormatKey::Pcap => Format::Pcap,
            FormatKey::Pcapng => Format::Pcapng,
        });
        asked.or_else(|| Format::of_name(path)).ok_or_else(|| Error::InvalidValue {
            context: title.into(),
            key: "out".into(),
            value: path.display().to_string(),
            expected: "its name ends in neither .pcap nor .pcapng, so say format=pcap or \
                       format=pcapng"
                .into(),
        })
    }
}

/// The address of every file port: locally administered, and never filtered by.
const ADDRESS: MacAddr = MacAddr([0x02, b'f', b'i', b'l', b'e', 0]);

/// The maximum frame of a port that receives, unless configured: what a pool of the default size holds.
const DEFAULT_MAX_FRAME: usize = 1514;

/// The largest maximum frame.
const LARGEST_MAX_FRAME: usize = 65535;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A capture file's error, of a port.
fn explain(title: &str, error: anyport_capfile::Error) -> Error {
    match error {
        anyport_capfile::Error::Io { file, doing, source } => Error::os(file, doing, source),
        other => Error::Backend { device: title.into(), reason: other.to_string() },
    }
}

/// Whether two names lead to one file.
fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// An opened pair of files, or one of them.
pub(crate) struct SavePort {
    input: Option<(Arc<Mutex<Source>>, Arc<Counts>)>,
    output: Option<Arc<Mutex<Output>>>,
}

impl SavePort {
    /// Opens the files; nothing of them is changed. `capture` is where the port's own capture goes.
    pub fn open(keys: FileKeys, capture: Option<&Path>) -> Result<SavePort> {
        let title = keys.title();
        keys.check(&title)?;
        let input = match &keys.input {
            Some(path) => Some(Source::open(&title, path, &keys)?),
            None => None,
        };
        let named = [("in", &keys.input), ("out", &keys.output)];
        let files: Vec<(&str, Metadata)> = named
            .into_iter()
            .filter_map(|(key, path)| Some((key, std::fs::metadata(path.as_ref()?).ok()?)))
            .collect();
        let twice = |key: &str, other: &str| Error::Config {
            context: title.clone(),
            reason: format!("`{key}` and `{other}` are the same file, which would be emptied"),
        };
        if let [(key, one), (other, two)] = &files[..]
            && same(one, two)
        {
            return Err(twice(key, other));
        }
        let capture = capture.and_then(|path| std::fs::metadata(path).ok());
        if let Some(capture) = capture.filter(Metadata::is_file)
            && let Some((key, _)) = files.iter().find(|(_, file)| same(file, &capture))
        {
            return Err(twice(key, "capture"));
        }
        let output = match &keys.output {
            Some(path) => Some(Output::open(&title, path, keys.format(&title, path)?)?),
            None => None,
        };
        Ok(SavePort {
            input: input.map(|input| {
                let counts = input.counts();
                (Arc::new(Mutex::new(input)), counts)
            }),
            output: output.map(|output| Arc::new(Mutex::new(output))),
        })
    }
}

impl PortDriver for SavePort {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.receives = self.input.is_some();
        capability.transmits = self.output.is_some();
        capability.max_frame = LARGEST_MAX_FRAME;
        capability.min_max_frame = 60;
        // What only writes is not bounded by a pool.
        capability.default_max_frame =
            if capability.receives { DEFAULT_MAX_FRAME } else { LARGEST_MAX_FRAME };
        capability.set_max_frame = true;
        capability.rx_ring = RingSizes::new(1, 1, 1);
        capability.tx_ring = RingSizes::new(1, 1, 1);
        capability.max_pools = 8;
        capability.max_segments = 64;
        capability.exact_drops = true;
        capability.exclusive = true;
        capability.filters = true;
        capability.can_end = capability.receives;
        capability.offloads.rx_timestamp = capability.receives;
        capability
    }

    fn mac(&self) -> MacAddr {
        ADDRESS
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let tx: Box<dyn TxDriver> = match &self.output {
            Some(output) => {
                lock(output).start()?;
                Box::new(SaveTx::new(output.clone()))
            }
            None => Box::new(Nothing(None)),
        };
        let rx: Box<dyn RxDriver> = match &self.input {
            Some((input, _)) => Box::new(SaveRx::new(input.clone(), setup)?),
            None => {
                let never = EventFd::new()
                    .map_err(|source| Error::os("pcap", "making a queue's descriptor", source))?;
                Box::new(Nothing(Some(never)))
            }
        };
        Ok(DriverQueues { rx: vec![rx], tx: vec![tx] })
    }

    fn set_max_frame(&mut self, _: usize) -> Result<()> {
        // Files hold any; the common layer and the next start know.
        Ok(())
    }

    fn counters(&mut self) -> PortCounters {
        let mut all = PortCounters::default();
        if let Some((_, counts)) = &self.input {
            let mut queue = Counters::default();
            queue.rx_too_long = Some(counts.too_long.load(Ordering::Relaxed));
            queue.rx_no_buffer = Some(counts.no_buffer.load(Ordering::Relaxed));
            all.rx_queues.push(queue);
        }
        all
    }
}

/// The queue of a direction that the port has not: no frame ever comes, and `send` is refused above.
struct Nothing(Option<EventFd>);

impl RxDriver for Nothing {
    fn recv(&mut self, _: &mut Burst, _: &mut PoolCache) -> Result<()> {
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.0.as_ref().map(AsRawFd::as_raw_fd)
    }
}

impl TxDriver for Nothing {
    fn send(&mut self, _: &mut Burst, _: usize, _: &mut [PoolCache]) -> Result<()> {
        Ok(())
    }
}
