//! The receiving side of a file port.

use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyport::driver::{RxDriver, Setup};
use anyport::packet::{Clock, Timestamp, TimestampSource};
use anyport::time::monotonic_ns;
use anyport::{Burst, Error, Packet, PoolCache, Result};
use anyport_capfile::{Reader, Record};

use super::timer::Timer;
use super::{FileKeys, Timing, explain, lock};

/// So many frames that are dropped does one `recv` pass over before it returns.
const PATIENCE: usize = 1024;

/// How long until a frame of several segments tries again to find enough of them.
const RETRY_NS: u64 = 1_000_000;

/// An opened `in`.
pub(crate) struct Source {
    title: String,
    reader: Reader,
    timing: Timing,
    /// Passes left, this one included; `None` for endlessly many.
    passes: Option<u64>,
    /// The reader's current record has been read and not been delivered.
    held: bool,
    end: End,
    times: Times,
    schedule: Option<Schedule>,
    next: Next,
    pass: Pass,
    counts: Arc<Counts>,
    said: Said,
}

/// What was dropped, since open; apart from the rest, so that who reads it does not wait for a disk.
#[derive(Default)]
pub(crate) struct Counts {
    pub too_long: AtomicU64,
    pub no_buffer: AtomicU64,
}

enum End {
    NotYet,
    Ended,
    /// What the file's error says.
    Broken(String),
}

/// What the next frame waits for.
#[derive(Clone, Copy)]
enum Next {
    /// To be asked for.
    Nothing,
    /// A time of the monotonic clock.
    Time(u64),
    /// A frame in the pool; the common layer watches that.
    Frame,
    /// Several frames in the pool, which nobody watches.
    Frames,
}

/// What one pass brought.
#[derive(Default)]
struct Pass {
    records: bool,
    whole_frames: bool,
}

/// What was logged.
#[derive(Default)]
struct Said {
    cut: bool,
    long: bool,
    large: bool,
}

/// How times go on from pass to pass.
#[derive(Default)]
struct Times {
    /// What is added to the times of this pass.
    shift: u64,
    /// Of this pass: how many times there were, the earliest and the latest.
    count: u64,
    first: u64,
    last: u64,
}

impl Times {
    fn note(&mut self, time: Option<u64>) {
        if let Some(ns) = time {
            self.first = if self.count == 0 { ns } else { self.first.min(ns) };
            self.last = if self.count == 0 { ns } else { self.last.max(ns) };
            self.count += 1;
        }
    }

    /// Lets the next pass begin a mean gap after this one's end.
    fn end_pass(&mut self) {
        let span = self.last - self.first;
        let gap = (span / (self.count.max(2) - 1)).max(1);
        self.shift = self.shift.saturating_add(span).saturating_add(gap);
        self.count = 0;
    }

    /// A record's time on the port, if it has one.
    fn of(&self, record: &Record<'_>) -> Option<u64> {
        record.timestamp_ns.map(|time| time.saturating_add(self.shift))
    }
}

/// Which time of the file is which time of the monotonic clock.
struct Schedule {
    recorded: u64,
    monotonic: u64,
}

impl Source {
    pub fn open(title: &str, path: &Path, keys: &FileKeys) -> Result<Source> {
        let found = std::fs::metadata(path).map_err(|source| {
            Error::os(path.display().to_string(), "opening the capture file", source)
        })?;
        if !found.is_file() {
            let reason = "`in` is no regular file, and a port does not wait for a pipe; write what comes out of it to \
                          a file first";
            return Err(Error::Backend { device: title.into(), reason: reason.into() });
        }
        let reader = Reader::open(path).map_err(|error| explain(title, error))?;
        Ok(Source {
            title: title.to_owned(),
            reader,
            timing: keys.timing.unwrap_or(Timing::Asap),
            passes: match keys.loops {
                Some(0) => None,
                other => Some(other.unwrap_or(1)),
            },
            held: false,
            end: End::NotYet,
            times: Times::default(),
            schedule: None,
            next: Next::Nothing,
            pass: Pass::default(),
            counts: Arc::default(),
            said: Said::default(),
        })
    }

    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Reads until the reader holds a record that was not delivered yet.
    fn fetch(&mut self) -> Result<()> {
        while !self.held {
            match &self.end {
                End::NotYet => {}
                End::Ended => return Err(Error::Ended),
                End::Broken(reason) => {
                    let (device, reason) = (self.title.clone(), reason.clone());
                    return Err(Error::Backend { device, reason });
                }
            }
            let read = match self.reader.next_record() {
                Ok(Some(record)) => {
                    self.times.note(record.timestamp_ns);
                    self.pass.records = true;
                    self.held = true;
                    Ok(())
                }
                Ok(None) => self.end_pass(),
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                self.end = End::Broken(error.to_string());
            }
        }
        Ok(())
    }

    /// Goes back to the beginning, or says that this was the end.
    fn end_pass(&mut self) -> Result<(), anyport_capfile::Error> {
        let pass = std::mem::take(&mut self.pass);
        let more = match &mut self.passes {
            Some(left) => {
                *left -= 1;
                *left > 0 && pass.records
            }
            None => pass.whole_frames,
        };
        if more {
            self.times.end_pass();
            self.reader.rewind()
        } else {
            self.end = End::Ended;
            Ok(())
        }
    }

    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache, plan: &Plan) -> Result<()> {
        let mut patience = PATIENCE;
        let mut now = None;
        self.next = Next::Nothing;
        while !burst.is_full() && patience > 0 {
            self.fetch()?;
            let Some(record) = self.reader.current() else { break };
            let stamp = self.times.of(&record);
            if let (Timing::Original, Some(stamp)) = (self.timing, stamp) {
                let now = *now.get_or_insert_with(monotonic_ns);
                let start = Schedule { recorded: stamp, monotonic: now };
                let schedule = self.schedule.get_or_insert(start);
                let due =
                    schedule.monotonic.saturating_add(stamp.saturating_sub(schedule.recorded));
                if due > now {
                    self.next = Next::Time(due);
                    return Ok(());
                }
            }
            if record.data.len() < record.original_len || record.data.len() > plan.longest {
                self.said.dropped(&self.title, &record, plan);
                self.counts.too_long.fetch_add(1, Ordering::Relaxed);
                patience -= 1;
                self.held = false;
                continue;
            }
            self.pass.whole_frames = true;
            let mut packet = match packet(record.data, pool) {
                Ok(packet) => packet,
                Err(Short::Never) => {
                    self.said.dropped_large(&self.title, &record);
                    self.counts.no_buffer.fetch_add(1, Ordering::Relaxed);
                    patience -= 1;
                    self.held = false;
                    continue;
                }
                Err(Short::Now(next)) => {
                    self.next = next;
                    return Ok(());
                }
            };
            if let Some(ns) = stamp.filter(|_| plan.timestamps) {
                let (source, clock) = (TimestampSource::Recorded, Clock::RealTime);
                packet.set_timestamp(Timestamp { ns, source, clock });
            }
            let _ = burst.push(packet);
            self.held = false;
        }
        Ok(())
    }
}

/// Why a frame finds no room in the pool.
enum Short {
    /// There is none free, and this tells when to try again.
    Now(Next),
    /// The whole pool is smaller.
    Never,
}

/// A packet of a frame.
fn packet(data: &[u8], cache: &mut PoolCache) -> std::result::Result<Packet, Short> {
    let room = cache.pool().room();
    if data.len() <= room {
        let mut packet = cache.take().ok_or(Short::Now(Next::Frame))?;
        let _ = packet.fill(data);
        return Ok(packet);
    }
    if data.len().div_ceil(room) > cache.pool().capacity() {
        return Err(Short::Never);
    }
    // What lies in the cache may be what is missing.
    cache.flush();
    cache.pool().packet(data).ok_or(Short::Now(Next::Frames))
}

impl Said {
    fn dropped(&mut self, title: &str, record: &Record<'_>, plan: &Plan) {
        let (length, original) = (record.data.len(), record.original_len);
        if length < original {
            if !std::mem::replace(&mut self.cut, true) {
                tracing::warn!(
                    "{title}: dropped a frame of which the file has {length} of {original} bytes, as it does all such \
                     (counted as rx_too_long); capture with a larger snap length"
                );
            }
        } else if !std::mem::replace(&mut self.long, true) {
            tracing::warn!(
                "{title}: dropped a frame of {length} bytes, as it does all over {} (counted as rx_too_long); say \
                 max_frame={length}, with a pool whose frames hold that",
                plan.longest - TAG
            );
        }
    }

    fn dropped_large(&mut self, title: &str, record: &Record<'_>) {
        if !std::mem::replace(&mut self.large, true) {
            tracing::warn!(
                "{title}: dropped a frame of {} bytes, for which the whole pool is too small (counted as rx_no_buffer)",
                record.data.len()
            );
        }
    }
}

/// What a VLAN tag may add to the maximum frame (contract M2).
const TAG: usize = 4;

/// What a start decides.
struct Plan {
    longest: usize,
    timestamps: bool,
}

/// The receive queue over a [`Source`].
pub(crate) struct SaveRx {
    source: Arc<Mutex<Source>>,
    plan: Plan,
    timer: Timer,
}

impl SaveRx {
    pub fn new(source: Arc<Mutex<Source>>, setup: &Setup<'_>) -> Result<SaveRx> {
        // The time between a stop and a start is none that was captured.
        lock(&source).schedule = None;
        let timer = Timer::new()
            .map_err(|error| Error::os(&lock(&source).title, "making a queue's timer", error))?;
        let plan = Plan { longest: setup.max_frame + TAG, timestamps: setup.offloads.rx_timestamp };
        Ok(SaveRx { source, plan, timer })
    }
}

impl RxDriver for SaveRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        lock(&self.source).recv(burst, pool, &self.plan)
    }

    fn arm(&mut self) -> Result<()> {
        self.timer.set(match lock(&self.source).next {
            Next::Nothing => Some(0),
            Next::Time(due) => Some(due),
            // The queue is woken when frames come back; a readable timer would only make it spin until then.
            Next::Frame => None,
            Next::Frames => Some(monotonic_ns() + RETRY_NS),
        });
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.timer.as_raw_fd())
    }
}
