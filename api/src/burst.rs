//! Bursts: the array of packets that one call moves.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use crate::packet::Packet;
use crate::pool::shared;

/// The packets that a burst has room for unless asked otherwise.
pub const DEFAULT_CAPACITY: usize = 64;

/// A fixed number of places for packets: `recv` adds behind, `send` takes from the front.
///
/// As a slice it is the packets in it, in order. It never grows; dropping it gives all frames back at once.
///
/// ```
/// let pool = anyport::Pool::builder().frames(16).build().unwrap();
/// let mut burst = anyport::Burst::with_capacity(2);
/// burst.push(pool.packet(b"one").unwrap()).unwrap();
/// burst.push(pool.packet(b"two").unwrap()).unwrap();
/// assert!(burst.push(pool.packet(b"three").unwrap()).is_err());
/// assert_eq!(burst.pop_front().unwrap().data(), b"one");
/// assert_eq!((burst.len(), burst.room(), burst[0].data()), (1, 1, &b"two"[..]));
/// ```
pub struct Burst {
    /// Invariant: `slots[head..head + len]` are initialised, all others are not.
    slots: Box<[MaybeUninit<Packet>]>,
    head: usize,
    len: usize,
}

impl Burst {
    /// Room for 64 packets.
    pub fn new() -> Burst {
        Burst::with_capacity(DEFAULT_CAPACITY)
    }

    /// Room for that many packets (at least one).
    pub fn with_capacity(capacity: usize) -> Burst {
        Burst { slots: Box::new_uninit_slice(capacity.max(1)), head: 0, len: 0 }
    }

    /// No room at all, and no memory: a stand-in for a burst that is elsewhere for a moment.
    pub(crate) fn nowhere() -> Burst {
        Burst { slots: Box::new_uninit_slice(0), head: 0, len: 0 }
    }

    /// The most packets that it holds.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many more packets it takes.
    #[inline]
    pub fn room(&self) -> usize {
        self.slots.len() - self.len
    }

    /// Whether no more packet fits.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Adds a packet behind.
    ///
    /// # Errors
    /// The packet itself if the burst is full.
    #[inline]
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.head + self.len == self.slots.len() {
            if self.head == 0 {
                return Err(packet);
            }
            self.compact();
        }
        self.slots[self.head + self.len].write(packet);
        self.len += 1;
        Ok(())
    }

    /// Takes the first packet.
    #[inline]
    pub fn pop_front(&mut self) -> Option<Packet> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: the first of `len` initialised slots; it leaves the range with the two lines below.
        let packet = unsafe { self.slots[self.head].assume_init_read() };
        self.len -= 1;
        self.head = if self.len == 0 { 0 } else { self.head + 1 };
        Some(packet)
    }

    /// Takes the last packet.
    pub fn pop_back(&mut self) -> Option<Packet> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the last of the initialised slots; it has just left the range.
        let packet = unsafe { self.slots[self.head + self.len].assume_init_read() };
        if self.len == 0 {
            self.head = 0;
        }
        Some(packet)
    }

    /// Takes packets from the front of `other` until this burst is full or `other` empty; how many.
    pub fn take_from(&mut self, other: &mut Burst) -> usize {
        let count = self.room().min(other.len);
        if self.head + self.len + count > self.slots.len() {
            self.compact();
        }
        // SAFETY: the source slots are initialised and leave `other`'s range below; the target slots are outside this
        // burst's range and join it. The two bursts are different values, so the ranges do not overlap.
        unsafe {
            let from = other.slots.as_ptr().add(other.head);
            let to = self.slots.as_mut_ptr().add(self.head + self.len);
            std::ptr::copy_nonoverlapping(from, to, count);
        }
        self.len += count;
        other.len -= count;
        other.head = if other.len == 0 { 0 } else { other.head + count };
        count
    }

    /// Moves `count` packets from the front into uninitialised slots: for backends whose ring is an array of
    /// packets. Moves the lesser of `count`, `target.len()` and what there is; how many.
    #[inline]
    pub fn move_front(&mut self, count: usize, target: &mut [MaybeUninit<Packet>]) -> usize {
        let count = count.min(self.len).min(target.len());
        // SAFETY: the source slots are initialised and leave the range below; `target` is another allocation.
        unsafe {
            let from = self.slots.as_ptr().add(self.head);
            std::ptr::copy_nonoverlapping(from, target.as_mut_ptr(), count);
        }
        self.len -= count;
        self.head = if self.len == 0 { 0 } else { self.head + count };
        count
    }

    /// Appends packets from initialised slots, the counterpart of [`move_front`](Burst::move_front). Moves the lesser
    /// of `source.len()` and the room; how many.
    ///
    /// # Safety
    /// The first so many slots of `source` are initialised, and the caller treats them as uninitialised afterwards.
    #[inline]
    pub unsafe fn extend_from(&mut self, source: &[MaybeUninit<Packet>]) -> usize {
        let count = self.room().min(source.len());
        if self.head + self.len + count > self.slots.len() {
            self.compact();
        }
        // SAFETY: the target slots are outside the range and within the allocation; the caller vouches for the source.
        unsafe {
            let to = self.slots.as_mut_ptr().add(self.head + self.len);
            std::ptr::copy_nonoverlapping(source.as_ptr(), to, count);
        }
        self.len += count;
        count
    }

    /// Adds packets behind, up to `count` and as many as there is room for, as long as `next` has any; how many.
    #[inline]
    pub fn extend_with(&mut self, count: usize, mut next: impl FnMut() -> Option<Packet>) -> usize {
        let mut added = 0;
        for place in self.spare(count) {
            let Some(packet) = next() else { break };
            place.write(packet);
            added += 1;
        }
        // SAFETY: so many places were written, from the first on. (A panic before leaks packets, no more.)
        unsafe { self.grow(added) };
        added
    }

    /// Up to `count` places behind the packets.
    #[inline]
    pub(crate) fn spare(&mut self, count: usize) -> &mut [MaybeUninit<Packet>] {
        let count = count.min(self.room());
        if self.head + self.len + count > self.slots.len() {
            self.compact();
        }
        let start = self.head + self.len;
        &mut self.slots[start..start + count]
    }

    /// Counts packets in that were written to the first places of [`spare`](Burst::spare).
    ///
    /// # Safety
    /// So many were.
    #[inline]
    pub(crate) unsafe fn grow(&mut self, count: usize) {
        debug_assert!(self.head + self.len + count <= self.slots.len());
        self.len += count;
    }

    /// Shows `each` the packets from the front, up to `count`, as long as it says so; those leave the burst without being dropped.
    /// How many. (If it panics all of them are leaked.)
    ///
    /// # Safety
    /// `each` makes somebody else the owner of the frames of packets for which it says so.
    #[inline]
    pub(crate) unsafe fn forget_front_while(
        &mut self,
        count: usize,
        mut each: impl FnMut(&Packet) -> bool,
    ) -> usize {
        let (head, len) = (self.head, self.len);
        let count = count.min(len);
        (self.head, self.len) = (head + count, len - count);
        let mut gone = 0;
        for slot in &self.slots[head..head + count] {
            // SAFETY: it was in the range, and nobody has moved it.
            if !each(unsafe { slot.assume_init_ref() }) {
                break;
            }
            gone += 1;
        }
        // The others are still there.
        self.len = len - gone;
        self.head = if self.len == 0 { 0 } else { head + gone };
        gone
    }

    /// Drops all packets, with one operation per pool and stretch.
    pub fn clear(&mut self) {
        self.discard_from(0);
    }

    /// Keeps the first `len` packets.
    pub fn truncate(&mut self, len: usize) {
        self.discard_from(len);
    }

    /// Keeps the packets for which `keep` says so, in order; looks only at those from `start` on.
    pub fn retain_from(&mut self, start: usize, mut keep: impl FnMut(&mut Packet) -> bool) {
        let start = start.min(self.len);
        let mut kept = start;
        for at in start..self.len {
            if keep(&mut self[at]) {
                if kept != at {
                    self.swap(kept, at);
                }
                kept += 1;
            }
        }
        self.discard_from(kept);
    }

    /// Keeps the packets for which `keep` says so, in order.
    pub fn retain(&mut self, keep: impl FnMut(&mut Packet) -> bool) {
        self.retain_from(0, keep);
    }

    /// Takes all packets out, front first.
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> {
        std::iter::from_fn(|| self.pop_front())
    }

    /// Moves the packets to the beginning of the array, so that all the room is behind them.
    #[inline]
    pub(crate) fn compact(&mut self) {
        if self.head != 0 {
            // SAFETY: both ranges are within the allocation; `copy` allows overlap. The packets are moved, not doubled.
            unsafe {
                let slots = self.slots.as_mut_ptr();
                std::ptr::copy(slots.add(self.head), slots, self.len);
            }
            self.head = 0;
        }
    }

    /// Drops the packets from `start` on.
    #[inline]
    fn discard_from(&mut self, start: usize) {
        while self.len > start {
            let from = start.max(self.len.saturating_sub(STRETCH));
            self.discard_stretch(from);
        }
    }

    /// Drops the packets from `from` on, at most [`STRETCH`]; those of one pool and in one piece with one operation.
    fn discard_stretch(&mut self, from: usize) {
        let mut frames = [0; STRETCH];
        let stretch = &self[from..];
        let Some(pool) = stretch.last().map(Packet::pool_id) else { return };
        let mut alike = true;
        for (frame, packet) in frames.iter_mut().zip(stretch.iter().rev()) {
            *frame = packet.frame_index();
            alike &= packet.pool_id() == pool && !packet.is_chain();
        }
        let count = stretch.len();
        if !alike {
            for _ in 0..count {
                drop(self.pop_back());
            }
            return;
        }
        self.len = from;
        if from == 0 {
            self.head = 0;
        }
        // They have left the burst, so these are all that own them.
        shared::release_frames(pool, &frames[..count]);
    }
}

/// How many packets are given back with one operation.
const STRETCH: usize = 64;

impl Default for Burst {
    fn default() -> Burst {
        Burst::new()
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Deref for Burst {
    type Target = [Packet];

    #[inline]
    fn deref(&self) -> &[Packet] {
        // SAFETY: these slots are initialised.
        unsafe {
            std::slice::from_raw_parts(
                self.slots.as_ptr().add(self.head).cast::<Packet>(),
                self.len,
            )
        }
    }
}

impl DerefMut for Burst {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Packet] {
        // SAFETY: these slots are initialised, and the burst is borrowed exclusively.
        unsafe {
            let first = self.slots.as_mut_ptr().add(self.head);
            std::slice::from_raw_parts_mut(first.cast::<Packet>(), self.len)
        }
    }
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Packet;
    type IntoIter = std::slice::Iter<'a, Packet>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Packet;
    type IntoIter = std::slice::IterMut<'a, Packet>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    fn texts(burst: &Burst) -> Vec<&[u8]> {
        burst.iter().map(Packet::data).collect()
    }

    #[test]
    fn room_behind_is_found_again() {
        let pool = Pool::builder().frames(8).build().unwrap();
        let mut burst = Burst::with_capacity(3);
        for text in [b"a", b"b", b"c"] {
            burst.push(pool.packet(text).unwrap()).unwrap();
        }
        burst.pop_front();
        burst.push(pool.packet(b"d").unwrap()).unwrap();
        assert_eq!(texts(&burst), [b"b", b"c", b"d"]);
        let mut other = Burst::with_capacity(2);
        assert_eq!(other.take_from(&mut burst), 2);
        assert_eq!((texts(&other), texts(&burst)), (vec![&b"b"[..], b"c"], vec![&b"d"[..]]));
        assert_eq!(burst.take_from(&mut other), 2);
        assert_eq!(texts(&burst), [b"d", b"b", b"c"]);
        burst.retain(|packet| packet.data() != b"b");
        assert_eq!((texts(&burst), pool.free()), (vec![&b"d"[..], b"c"], 6));
        burst.truncate(1);
        assert_eq!((texts(&burst), pool.free()), (vec![&b"d"[..]], 7));
        drop(burst);
        assert_eq!(pool.free(), 8);
    }

    #[test]
    fn packets_of_several_pools_go_home() {
        let pools = [(); 2].map(|()| Pool::builder().frames(102).build().unwrap());
        let mut burst = Burst::with_capacity(200);
        for at in 0..200 {
            burst.push(pools[at / 3 % 2].packet(b"x").unwrap()).unwrap();
        }
        drop(burst);
        assert_eq!(pools.map(|pool| pool.free()), [102, 102]);
    }
}
