//! The ring between the queues and a capture's reader.
//!
//! A received packet is copied into the rings while the caller has it. A packet that is sent is gone once it is accepted,
//! so a run of them is copied aside first ([`Staged`]) and then, as far as it was accepted, into the rings. What no
//! ring has room for is not copied at all. The rings' locks are held for one copy only, by either side.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::Direction;
use crate::packet::{Clock, Packet};
use crate::time::realtime_ns;

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

/// Appends a packet's record: stamped by the packet where its clock is real time, else by `now_ns`.
fn put(bytes: &mut Vec<u8>, direction: Direction, now_ns: u64, packet: &Packet) {
    let stamp = packet
        .timestamp()
        .filter(|stamp| stamp.clock == Clock::RealTime && direction == Direction::Received);
    bytes.push(u8::from(direction == Direction::Sent));
    bytes.extend_from_slice(&stamp.map_or(now_ns, |stamp| stamp.ns).to_le_bytes());
    bytes.extend_from_slice(&(packet.len() as u32).to_le_bytes());
    packet.segments().for_each(|segment| bytes.extend_from_slice(segment));
}

/// Copies of packets that may be accepted, in the form that they have in a ring. Its memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    bytes: Vec<u8>,
    /// Where each packet's record ends; what no ring had room for has an empty one.
    ends: Vec<usize>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Records one behind the other: direction, timestamp, length, frame.
    bytes: Vec<u8>,
    closed: bool,
}

impl Ring {
    /// Bytes that it still takes.
    fn room(&self, limit: usize) -> usize {
        if self.closed { 0 } else { limit.saturating_sub(self.bytes.len()) }
    }
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

    /// Copies received packets in, as far as there is room.
    fn write(&self, packets: &[Packet], now_ns: u64) {
        let mut ring = self.lock();
        let mut dropped = 0;
        for packet in packets {
            match HEADER + packet.len() <= ring.room(self.limit) {
                true => put(&mut ring.bytes, Direction::Received, now_ns, packet),
                false => dropped += 1,
            }
        }
        drop(ring);
        self.written(dropped);
    }

    /// Copies the first staged records in, as far as there is room.
    fn write_staged(&self, staged: &Staged, count: usize) {
        let mut ring = self.lock();
        let (mut start, mut dropped) = (0, 0);
        for &end in staged.ends.iter().take(count) {
            let record = &staged.bytes[std::mem::replace(&mut start, end)..end];
            match !record.is_empty() && record.len() <= ring.room(self.limit) {
                true => ring.bytes.extend_from_slice(record),
                false => dropped += 1,
            }
        }
        drop(ring);
        self.written(dropped);
    }

    fn written(&self, dropped: u64) {
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
    taps: RwLock<Taps>,
    /// Whether there is one now: what the queues look at. Changed with the list, under its lock.
    any: AtomicBool,
    /// What captures that have ended had dropped.
    past: AtomicU64,
    /// Whether there ever was one: a counter that nobody keeps is absent.
    ever: AtomicBool,
}

#[derive(Debug, Default)]
struct Taps {
    list: Vec<Arc<TapWriter>>,
    /// The port was closed: whoever comes now finds the end at once.
    closed: bool,
}

impl Captures {
    fn read(&self) -> RwLockReadGuard<'_, Taps> {
        self.taps.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the list.
    fn change(&self, change: impl FnOnce(&mut Taps)) {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut taps);
        self.any.store(!taps.list.is_empty(), Ordering::Release);
    }

    pub fn add(&self, tap: Arc<TapWriter>) {
        self.change(|taps| {
            if taps.closed {
                tap.close();
            } else if !taps.list.iter().any(|known| Arc::ptr_eq(known, &tap)) {
                self.ever.store(true, Ordering::Release);
                taps.list.push(tap);
            }
        });
    }

    /// Keeps the captures that `keep` says, and the counts of the others.
    fn retain(&self, keep: impl Fn(&Arc<TapWriter>) -> bool) {
        self.change(|taps| {
            let ended = taps.list.extract_if(.., |tap| !keep(tap));
            let dropped = ended.map(|tap| tap.dropped.load(Ordering::Relaxed)).sum();
            self.past.fetch_add(dropped, Ordering::Relaxed);
        });
    }

    /// Ends a capture.
    pub fn remove(&self, tap: &Arc<TapWriter>) {
        self.retain(|known| !Arc::ptr_eq(known, tap));
    }

    /// Ends all captures, also those to come: their readers read what is there, and then the end.
    pub fn close(&self) {
        self.change(|taps| {
            taps.closed = true;
            taps.list.iter().for_each(|tap| tap.close());
        });
    }

    /// Whether somebody may be reading.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Gives received packets to every capture.
    #[cold]
    pub fn received(&self, packets: &[Packet]) {
        let now = realtime_ns();
        self.for_each(|tap| tap.write(packets, now));
    }

    /// Copies packets that are about to be sent, as far as a capture has room for them now.
    #[cold]
    pub fn stage(&self, staged: &mut Staged, packets: &[Packet]) {
        let now = realtime_ns();
        staged.bytes.clear();
        staged.ends.clear();
        let rooms = |taps: &Taps| taps.list.iter().map(|tap| tap.lock().room(tap.limit)).max();
        let mut room = rooms(&self.read()).unwrap_or(0);
        for packet in packets {
            let length = HEADER + packet.len();
            if length <= room {
                room -= length;
                put(&mut staged.bytes, Direction::Sent, now, packet);
            }
            staged.ends.push(staged.bytes.len());
        }
    }

    /// Gives the first `accepted` of the staged packets to every capture.
    #[cold]
    pub fn commit(&self, staged: &Staged, accepted: usize) {
        if accepted > 0 {
            self.for_each(|tap| tap.write_staged(staged, accepted));
        }
    }

    /// Calls `write` for every capture, and ends those whose reader has gone.
    fn for_each(&self, write: impl Fn(&TapWriter)) {
        let taps = self.read();
        let mut abandoned = false;
        for tap in &taps.list {
            abandoned |= tap.abandoned.load(Ordering::Acquire);
            write(tap);
        }
        drop(taps);
        if abandoned {
            self.retain(|tap| !tap.abandoned.load(Ordering::Acquire));
        }
    }

    /// Records that captures could not take; `None` if the port never had one.
    pub fn dropped(&self) -> Option<u64> {
        self.ever.load(Ordering::Acquire).then(|| {
            let taps = self.read();
            let now: u64 = taps.list.iter().map(|tap| tap.dropped.load(Ordering::Relaxed)).sum();
            now + self.past.load(Ordering::Relaxed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    fn packets(bytes: &[u8]) -> Vec<Packet> {
        let pool = Pool::builder().frames(8).frame_size(512).build().unwrap();
        bytes.iter().map(|&byte| pool.packet(&[byte; 60]).unwrap()).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let captures = Captures::default();
        assert_eq!(captures.dropped(), None);
        let mut tap = Tap::new(2 * (HEADER + 60));
        captures.add(tap.writer());
        captures.received(&packets(&[1, 2, 3]));
        assert_eq!(captures.dropped(), Some(1));
        for byte in [1, 2] {
            let captured = tap.next(Duration::ZERO).unwrap();
            assert_eq!(
                (captured.frame, captured.direction),
                (&[byte; 60][..], Direction::Received)
            );
        }
        assert_eq!(tap.next(Duration::ZERO), None);
        captures.received(&packets(&[4]));
        assert_eq!(tap.next(Duration::ZERO).unwrap().frame, [4; 60]);
        tap.writer().close();
        assert!(tap.is_finished() && captures.any());
        drop(tap);
        captures.received(&packets(&[5]));
        assert!(!captures.any());
        assert_eq!(captures.dropped(), Some(2), "the abandoned one's last record, too");
    }

    #[test]
    fn what_is_sent_is_copied_if_there_is_room_and_kept_if_it_was_accepted() {
        let captures = Captures::default();
        let mut tap = Tap::new(3 * (HEADER + 60));
        captures.add(tap.writer());
        let mut staged = Staged::default();
        captures.stage(&mut staged, &packets(&[1, 2, 3, 4]));
        assert_eq!((staged.bytes.len(), staged.ends.len()), (3 * (HEADER + 60), 4));
        captures.commit(&staged, 2);
        captures.stage(&mut staged, &packets(&[5, 6]));
        assert_eq!(staged.bytes.len(), HEADER + 60, "there is room for one");
        captures.commit(&staged, 2);
        captures.stage(&mut staged, &packets(&[7]));
        assert_eq!(staged.bytes.len(), 0);
        captures.commit(&staged, 1);
        assert_eq!(captures.dropped(), Some(2));
        for byte in [1, 2, 5] {
            let captured = tap.next(Duration::ZERO).unwrap();
            assert_eq!((captured.frame, captured.direction), (&[byte; 60][..], Direction::Sent));
        }
        assert_eq!(tap.next(Duration::ZERO), None);
    }
}
