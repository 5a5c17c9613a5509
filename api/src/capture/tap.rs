//! The ring between the queues and a capture's reader.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::Direction;
use crate::packet::{Clock, Packet};
use crate::time::realtime_ns;

/// One frame as it goes into a ring.
pub(crate) struct Record {
    direction: Direction,
    timestamp_ns: u64,
    bytes: Vec<u8>,
}

impl Record {
    /// A copy of a packet's bytes, stamped by the packet where its clock is real time, else now.
    pub fn of(direction: Direction, packet: &Packet) -> Record {
        let stamp = packet
            .timestamp()
            .filter(|stamp| stamp.clock == Clock::RealTime && direction == Direction::Received);
        Record {
            direction,
            timestamp_ns: stamp.map_or_else(realtime_ns, |stamp| stamp.ns),
            bytes: packet.segments().flatten().copied().collect(),
        }
    }
}

/// One frame as a reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// When, in nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// Its bytes, without FCS.
    pub frame: &'a [u8],
}

/// Bytes that a record takes in the ring besides its frame.
const HEADER: usize = 13;

#[derive(Debug, Default)]
struct Ring {
    /// Records one behind the other: direction, timestamp, length, frame.
    bytes: Vec<u8>,
    closed: bool,
}

/// The side that the queues write to.
#[derive(Debug)]
pub(crate) struct TapWriter {
    ring: Mutex<Ring>,
    filled: Condvar,
    limit: usize,
    dropped: AtomicU64,
    /// The reader has gone.
    abandoned: AtomicBool,
}

impl TapWriter {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, records: &[Record]) {
        let mut ring = self.lock();
        let mut dropped = 0;
        for record in records {
            if ring.closed || ring.bytes.len() + HEADER + record.bytes.len() > self.limit {
                dropped += 1;
                continue;
            }
            ring.bytes.push(u8::from(record.direction == Direction::Sent));
            ring.bytes.extend_from_slice(&record.timestamp_ns.to_le_bytes());
            ring.bytes.extend_from_slice(&(record.bytes.len() as u32).to_le_bytes());
            ring.bytes.extend_from_slice(&record.bytes);
        }
        drop(ring);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.filled.notify_one();
    }

    /// Counts what the reader could not keep.
    pub fn count_dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    /// Lets the reader read what is there, and then end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }
}

/// The reading side of a capture (see [`Control::tap`](crate::port::Control::tap)). Dropping it ends the capture.
#[derive(Debug)]
pub struct Tap {
    shared: Arc<TapWriter>,
    /// Read out of the ring in one piece, given to the reader frame by frame.
    batch: Vec<u8>,
    at: usize,
}

impl Tap {
    pub(crate) fn new(limit: usize) -> Tap {
        let shared = TapWriter {
            ring: Mutex::default(),
            filled: Condvar::new(),
            limit,
            dropped: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
        };
        Tap { shared: Arc::new(shared), batch: Vec::new(), at: 0 }
    }

    pub(crate) fn writer(&self) -> Arc<TapWriter> {
        self.shared.clone()
    }

    /// The next frame, waiting for one up to `timeout`; `None` when there was none.
    pub fn next(&mut self, timeout: Duration) -> Option<Captured<'_>> {
        if self.at == self.batch.len() && !self.refill(timeout) {
            return None;
        }
        let record = &self.batch[self.at..];
        let (direction, rest) = record.split_first()?;
        let (timestamp, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let frame = rest.get(..u32::from_le_bytes(*length) as usize)?;
        self.at += HEADER + frame.len();
        let direction = if *direction == 0 { Direction::Received } else { Direction::Sent };
        Some(Captured { direction, timestamp_ns: u64::from_le_bytes(*timestamp), frame })
    }

    /// Whether the port will not write any more and everything was read.
    pub fn is_finished(&self) -> bool {
        self.at == self.batch.len() && {
            let ring = self.shared.lock();
            ring.closed && ring.bytes.is_empty()
        }
    }

    fn refill(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut ring = self.shared.lock();
        while ring.bytes.is_empty() {
            let left = deadline.map_or(timeout, |d| d.saturating_duration_since(Instant::now()));
            if ring.closed || left.is_zero() {
                return false;
            }
            let waited = self.shared.filled.wait_timeout(ring, left);
            ring = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.batch.clear();
        self.at = 0;
        std::mem::swap(&mut self.batch, &mut ring.bytes);
        true
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Release);
    }
}

/// All captures of a port.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    taps: RwLock<Vec<Arc<TapWriter>>>,
    /// What captures that have ended had dropped.
    past: AtomicU64,
    /// Whether there ever was one: a counter that nobody keeps is absent.
    any: AtomicBool,
}

impl Captures {
    pub fn add(&self, tap: Arc<TapWriter>) {
        self.any.store(true, Ordering::Release);
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        if !taps.iter().any(|known| Arc::ptr_eq(known, &tap)) {
            taps.push(tap);
        }
    }

    /// Ends those whose reader has gone.
    fn sweep(&self) {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        taps.retain(|tap| {
            let keep = !tap.abandoned.load(Ordering::Acquire);
            if !keep {
                self.past.fetch_add(tap.dropped.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            keep
        });
    }

    /// Ends a capture.
    pub fn remove(&self, tap: &Arc<TapWriter>) {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = taps.iter().position(|known| Arc::ptr_eq(known, tap)) {
            let tap = taps.swap_remove(at);
            self.past.fetch_add(tap.dropped.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Ends all captures: their readers read what is there, and then the end.
    pub fn close(&self) {
        let taps = self.taps.read().unwrap_or_else(PoisonError::into_inner);
        taps.iter().for_each(|tap| tap.close());
    }

    /// Whether nobody reads any more.
    pub fn is_empty(&self) -> bool {
        self.sweep();
        self.taps.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Gives records to every capture; whether there is any left.
    pub fn write(&self, records: impl IntoIterator<Item = Record>) -> bool {
        let records: Vec<Record> = records.into_iter().collect();
        let taps = self.taps.read().unwrap_or_else(PoisonError::into_inner);
        let mut abandoned = false;
        for tap in &*taps {
            abandoned |= tap.abandoned.load(Ordering::Acquire);
            tap.write(&records);
        }
        drop(taps);
        !(abandoned && self.is_empty())
    }

    /// Records that captures could not take; `None` if the port never had one.
    pub fn dropped(&self) -> Option<u64> {
        self.any.load(Ordering::Acquire).then(|| {
            let taps = self.taps.read().unwrap_or_else(PoisonError::into_inner);
            let now: u64 = taps.iter().map(|tap| tap.dropped.load(Ordering::Relaxed)).sum();
            now + self.past.load(Ordering::Relaxed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(byte: u8, length: usize) -> Record {
        Record { direction: Direction::Sent, timestamp_ns: 7, bytes: vec![byte; length] }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let captures = Captures::default();
        assert_eq!(captures.dropped(), None);
        let mut tap = Tap::new(2 * (HEADER + 60));
        captures.add(tap.writer());
        captures.write([record(1, 60), record(2, 60), record(3, 60)]);
        assert_eq!(captures.dropped(), Some(1));
        for byte in [1, 2] {
            let captured = tap.next(Duration::ZERO).unwrap();
            assert_eq!((captured.frame, captured.timestamp_ns), (&[byte; 60][..], 7));
        }
        assert_eq!(tap.next(Duration::ZERO), None);
        captures.write([record(4, 60)]);
        assert_eq!(tap.next(Duration::ZERO).unwrap().frame, [4; 60]);
        tap.writer().close();
        assert!(tap.is_finished());
        drop(tap);
        assert!(!captures.write([record(5, 60)]));
        assert_eq!(captures.dropped(), Some(2), "the abandoned one's last record, too");
    }
}
