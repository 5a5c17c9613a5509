//! A queue's cache of frames in front of its pool: no atomic read-modify-write per frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Pool;
use crate::burst::Burst;
use crate::packet::Packet;

/// The most frames that a cache holds (contract P1).
pub(crate) const MAX: usize = 64;

/// Frames taken from a pool in advance, and given back to it in bulk; for one thread at a time.
///
/// It counts as free ([`Pool::free`]) what it holds, and gives all of it back when dropped or flushed.
///
/// ```
/// let pool = anyport::Pool::builder().frames(128).build().unwrap();
/// let mut cache = pool.cache(32);
/// let packet = cache.take().unwrap();
/// assert_eq!(pool.free(), 127);
/// cache.give(packet);
/// assert_eq!(pool.free(), 128);
/// ```
pub struct PoolCache {
    pool: Pool,
    frames: [u32; MAX],
    len: usize,
    size: usize,
    /// The pool's number and head room again: taking and giving look at nothing outside the cache.
    id: u16,
    headroom: u16,
    /// `len` again, for [`Pool::free`] on other threads.
    published: Arc<AtomicU32>,
    starved: bool,
}

impl PoolCache {
    pub(crate) fn new(pool: Pool, size: usize) -> PoolCache {
        let published = pool.shared().register_cache();
        let (id, headroom) = (pool.id(), pool.shared().headroom);
        let size = size.min(MAX);
        PoolCache { pool, frames: [0; MAX], len: 0, size, id, headroom, published, starved: false }
    }

    /// The size that the contract gives the cache of one of `queues` queues (contract P1).
    pub(crate) fn for_queue(pool: &Pool, queues: usize) -> PoolCache {
        pool.cache((pool.capacity() / (8 * queues.max(1))).min(MAX))
    }

    /// The pool that the frames come from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether the cache itself holds no frame.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An empty packet with the pool's head room; `None` if the pool has none.
    #[inline]
    pub fn take(&mut self) -> Option<Packet> {
        if self.len == 0 && !self.refill() {
            return None;
        }
        self.len -= 1;
        self.published.store(self.len as u32, Ordering::Relaxed);
        // The mask spares a bounds check; `len` is below MAX here.
        let frame = self.frames[self.len & (MAX - 1)];
        Some(Packet::fresh(self.id, frame, self.headroom))
    }

    /// Gives a packet back; one of another pool goes to that pool.
    #[inline]
    pub fn give(&mut self, packet: Packet) {
        if packet.pool_id() != self.id || packet.is_chain() || self.size == 0 {
            return elsewhere(packet);
        }
        let frame = packet.frame_index();
        std::mem::forget(packet);
        if self.len == self.size {
            self.spill(self.size.div_ceil(2));
        }
        self.frames[self.len & (MAX - 1)] = frame;
        self.len += 1;
        self.published.store(self.len as u32, Ordering::Relaxed);
    }

    /// Takes up to `count` frames as they are, and tells `each` their indices; how many.
    #[inline]
    pub(super) fn take_frames(&mut self, count: usize, mut each: impl FnMut(u32)) -> usize {
        let mut left = count;
        while left > 0 && (self.len > 0 || self.refill()) {
            let run = left.min(self.len);
            let rest = self.len - run;
            // They leave the cache before anybody is told of them.
            self.len = rest;
            self.frames[rest..rest + run].iter().rev().for_each(|frame| each(*frame));
            left -= run;
        }
        self.published.store(self.len as u32, Ordering::Relaxed);
        count - left
    }

    /// Gives back frames that nobody owns any more, as many as `next` has.
    #[inline]
    pub(super) fn give_frames(&mut self, mut next: impl FnMut() -> Option<u32>) {
        let mut len = self.len;
        while let Some(frame) = next() {
            if len == self.size {
                self.len = len;
                self.make_room(frame);
                len = self.len;
                if self.size == 0 {
                    continue;
                }
            }
            self.frames[len & (MAX - 1)] = frame;
            len += 1;
        }
        self.len = len;
        self.published.store(len as u32, Ordering::Relaxed);
    }

    /// Makes room for a frame, which goes to the pool itself if there is never any.
    #[cold]
    fn make_room(&mut self, frame: u32) {
        match self.size {
            0 => self.pool.shared().give(&[frame]),
            size => self.spill(size.div_ceil(2)),
        }
    }

    /// Adds up to `count` empty packets to a burst, as many as it has room for; how many.
    #[inline]
    pub(crate) fn take_into(&mut self, burst: &mut Burst, count: usize) -> usize {
        let (id, headroom) = (self.id, self.headroom);
        let mut taken = 0;
        while taken < count && (self.len > 0 || self.refill()) {
            let places = burst.spare(count - taken);
            let run = places.len().min(self.len);
            if run == 0 {
                break;
            }
            let rest = self.len - run;
            let frames = self.frames[rest..self.len].iter().rev();
            for (place, frame) in places.iter_mut().zip(frames) {
                place.write(Packet::fresh(id, *frame, headroom));
            }
            self.len = rest;
            taken += run;
            // SAFETY: so many places were written, from the first on.
            unsafe { burst.grow(run) };
        }
        self.published.store(self.len as u32, Ordering::Relaxed);
        taken
    }

    /// Gives everything back to the pool, so that no frame is stranded (contract P1).
    pub fn flush(&mut self) {
        self.spill(self.len);
    }

    /// Whether the last attempt to take found the pool empty; resets it.
    pub(crate) fn was_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    #[cold]
    fn refill(&mut self) -> bool {
        let want = self.size.div_ceil(2).max(1);
        // Popped frames come topmost first; taking goes from the end, so turn them round.
        self.len = self.pool.shared().take(&mut self.frames[..want]);
        self.frames[..self.len].reverse();
        self.published.store(self.len as u32, Ordering::Relaxed);
        self.starved = self.len == 0;
        self.len != 0
    }

    /// Gives the `count` oldest frames back; the youngest are the warm ones.
    #[cold]
    fn spill(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        // Published first: a reader may miss the frames for a moment, but never counts them twice.
        self.published.store((self.len - count) as u32, Ordering::Relaxed);
        self.pool.shared().give(&self.frames[..count]);
        self.frames.copy_within(count..self.len, 0);
        self.len -= count;
    }
}

/// Gives back what the cache does not keep.
#[cold]
fn elsewhere(packet: Packet) {
    drop(packet);
}

impl Drop for PoolCache {
    fn drop(&mut self) {
        self.flush();
    }
}

impl std::fmt::Debug for PoolCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolCache").field("pool", &self.pool.id()).field("len", &self.len).finish()
    }
}
