//! The rings of an AF_XDP socket: single producer, single consumer, in memory that is shared with the kernel.
//!
//! ```text
//!   index:     consumer ──► entries that are there ──► producer      both count up for ever, modulo 2^32
//!   slot:      index & (size - 1)                                    size is a power of two
//!
//!   fill, transmit          this process produces    Producer
//!   receive, completion     this process consumes    Consumer
//! ```
//!
//! Invariants, on which all unsafe code here rests:
//!
//! - `producer`, `consumer`, `flags` and `size` entries from `entries` on are valid as long as `memory` lives, and aligned
//!   ([`Memory::new`] checks the ranges);
//! - of the two indices, only one side writes each; a side reads the other's with acquire, and publishes its own with release,
//!   so entries are seen before the index that says that they are there (`net/xdp/xsk_queue.h`);
//! - a slot is written only between the consumer's index + size and the producer's, and read only between the two: whatever
//!   the other side's index says, it is checked to be at most `size` away ([`Broken`] otherwise, contract F8), so no access
//!   leaves the ring.
//!
//! Trap: a look at the other side's index costs a cache miss, so it is remembered, and looked at again only when what is known
//! is not enough.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// `XDP_RING_NEED_WAKEUP`: the kernel sleeps, and wants a system call.
pub(crate) const NEED_WAKEUP: u32 = 1;

/// The other side's index is impossible: the ring's memory was written to by somebody else, or the kernel is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// Where in the memory a ring has its parts, in bytes (`struct xdp_ring_offset`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Offsets {
    pub producer: u64,
    pub consumer: u64,
    pub entries: u64,
    pub flags: u64,
}

/// Memory that a ring lies in; whoever made it decides what dropping it does.
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
    _owner: Box<dyn Send + Sync>,
}

// SAFETY: the memory belongs to the value's owner, and is used through the rings only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of `len` bytes.
    ///
    /// # Safety
    /// It is valid, readable and writable as long as `owner` lives, and nothing but rings and the kernel touches it.
    pub unsafe fn new(base: NonNull<u8>, len: usize, owner: Box<dyn Send + Sync>) -> Memory {
        Memory { base, len, _owner: owner }
    }

    /// A pointer to `count` values at `offset`, if they lie within and are aligned.
    fn at<T>(&self, offset: u64, count: usize) -> Option<NonNull<T>> {
        let offset = usize::try_from(offset).ok()?;
        let end = count.checked_mul(size_of::<T>())?.checked_add(offset)?;
        // SAFETY: within the memory, as was just checked.
        let start = (end <= self.len).then(|| unsafe { self.base.add(offset) })?;
        start.addr().get().is_multiple_of(align_of::<T>()).then(|| start.cast())
    }
}

/// What both sides are made of.
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _memory: Arc<Memory>,
    _entry: PhantomData<T>,
}

// SAFETY: the pointers are used by the one side that the value is, from one thread at a time; entries are plain values.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// `None` if the parts do not lie in the memory, or the size is no power of two.
    fn new(memory: Arc<Memory>, offsets: &Offsets, size: u32) -> Option<Ring<T>> {
        if !size.is_power_of_two() {
            return None;
        }
        Some(Ring {
            producer: memory.at(offsets.producer, 1)?,
            consumer: memory.at(offsets.consumer, 1)?,
            flags: memory.at(offsets.flags, 1)?,
            entries: memory.at(offsets.entries, size as usize)?,
            size,
            _memory: memory,
            _entry: PhantomData,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid as long as the memory lives; atomics may be shared.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed)
    }

    /// The slot of an index: always inside.
    #[inline]
    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: less than `size` entries from the first.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

/// The side that adds entries: of the fill and the transmit ring.
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// The index of the next entry; what is before it and not published is not the kernel's yet.
    next: u32,
    /// The consumer's index when it was last looked at.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    /// The producing side of a ring; `None` if the ring does not lie in the memory, or begins with impossible indices.
    pub fn new(memory: Arc<Memory>, offsets: &Offsets, size: u32) -> Option<Producer<T>> {
        let ring = Ring::new(memory, offsets, size)?;
        let next = ring.producer().load(Ordering::Relaxed);
        let consumed = ring.consumer().load(Ordering::Acquire);
        (next.wrapping_sub(consumed) <= ring.size).then_some(Producer { ring, next, consumed })
    }

    /// How many entries can be pushed now; looks at the kernel's index only if fewer than `want` are known to be free.
    ///
    /// # Errors
    /// [`Broken`].
    #[inline]
    pub fn free(&mut self, want: u32) -> Result<u32, Broken> {
        let known = self.ring.size - self.next.wrapping_sub(self.consumed);
        if known >= want {
            return Ok(known);
        }
        let consumed = self.ring.consumer().load(Ordering::Acquire);
        let used = self.next.wrapping_sub(consumed);
        if used > self.ring.size {
            return Err(Broken);
        }
        self.consumed = consumed;
        Ok(self.ring.size - used)
    }

    /// Adds an entry; false (and nothing is done) if there is no room that [`free`](Producer::free) has seen.
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.consumed) >= self.ring.size {
            return false;
        }
        // SAFETY: the slot is inside, and the kernel's no more: its index has passed it.
        unsafe { self.ring.slot(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// As [`push`](Producer::push), many times over: what it takes stays in registers meanwhile.
    #[inline]
    pub fn run(&mut self) -> Pushing<'_, T> {
        let (next, end) = (self.next, self.consumed.wrapping_add(self.ring.size));
        let (entries, mask) = (self.ring.entries, self.ring.size - 1);
        Pushing { entries, mask, next, end, back: &mut self.next }
    }

    /// Makes all entries that were pushed the kernel's.
    #[inline]
    pub fn publish(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Entries that are the kernel's and that it has not consumed; looks at its index.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn pending(&mut self) -> Result<u32, Broken> {
        self.free(u32::MAX).map(|free| self.ring.size - free)
    }

    /// The entries that the kernel has consumed, the last one first, as far as its index was looked at and their slots were not
    /// written anew.
    pub fn consumed(&self) -> impl Iterator<Item = T> + '_ {
        let used = self.next.wrapping_sub(self.consumed);
        (1..=self.ring.size - used).map(|back| {
            // SAFETY: the slot is inside, and no newer entry was written to it; entries are plain values, whatever they are.
            unsafe { self.ring.slot(self.consumed.wrapping_sub(back)).read() }
        })
    }

    /// Whether the kernel has to be woken to see new entries.
    ///
    /// It sets the flag and looks for entries once more before it sleeps; so that one of both sees the other, what was
    /// [published](Producer::publish) comes before the look here.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.ring.flags() & NEED_WAKEUP != 0
    }
}

/// A producer's entries being pushed; they count when it is dropped.
///
/// Invariant: indices from `next` to `end` are slots that are the producer's.
pub(crate) struct Pushing<'a, T> {
    entries: NonNull<T>,
    mask: u32,
    next: u32,
    end: u32,
    back: &'a mut u32,
}

impl<T: Copy> Pushing<'_, T> {
    /// Adds an entry; false (and nothing is done) if there is no room that [`free`](Producer::free) has seen.
    #[inline(always)]
    pub fn push(&mut self, entry: T) -> bool {
        if self.next == self.end {
            return false;
        }
        // SAFETY: less than `size` entries from the first, and the kernel's no more: its index has passed it.
        unsafe { self.entries.add((self.next & self.mask) as usize).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }
}

impl<T> Drop for Pushing<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.back = self.next;
    }
}

/// The side that takes entries: of the receive and the completion ring.
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// The index of the next entry; what is before it and not released is not the kernel's yet.
    next: u32,
    /// The producer's index when it was last looked at.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    /// The consuming side of a ring; `None` if the ring does not lie in the memory.
    pub fn new(memory: Arc<Memory>, offsets: &Offsets, size: u32) -> Option<Consumer<T>> {
        let ring = Ring::new(memory, offsets, size)?;
        let next = ring.consumer().load(Ordering::Relaxed);
        Some(Consumer { ring, next, produced: next })
    }

    /// How many entries are there; looks at the kernel's index only if fewer than `want` are known.
    ///
    /// # Errors
    /// [`Broken`].
    #[inline]
    pub fn ready(&mut self, want: u32) -> Result<u32, Broken> {
        let known = self.produced.wrapping_sub(self.next);
        if known >= want {
            return Ok(known);
        }
        let produced = self.ring.producer().load(Ordering::Acquire);
        let ready = produced.wrapping_sub(self.next);
        if ready > self.ring.size {
            return Err(Broken);
        }
        self.produced = produced;
        Ok(ready)
    }

    /// The next entry of those that [`ready`](Consumer::ready) has seen.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            return None;
        }
        // SAFETY: the slot is inside, and the kernel has written it before its index passed it.
        let entry = unsafe { self.ring.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// As [`pop`](Consumer::pop), many times over: what it takes stays in registers meanwhile.
    #[inline]
    pub fn run(&mut self) -> Popping<'_, T> {
        let (entries, mask) = (self.ring.entries, self.ring.size - 1);
        let (next, end) = (self.next, self.produced);
        Popping { entries, mask, next, end, back: &mut self.next }
    }

    /// Gives the slots of all entries that were taken back to the kernel.
    #[inline]
    pub fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

/// A consumer's entries being taken; they count when it is dropped.
///
/// Invariant: indices from `next` to `end` are slots that the kernel has written.
pub(crate) struct Popping<'a, T> {
    entries: NonNull<T>,
    mask: u32,
    next: u32,
    end: u32,
    back: &'a mut u32,
}

impl<T: Copy> Popping<'_, T> {
    /// The next entry of those that [`ready`](Consumer::ready) has seen.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.end {
            return None;
        }
        // SAFETY: less than `size` entries from the first, and the kernel has written it before its index passed it.
        let entry = unsafe { self.entries.add((self.next & self.mask) as usize).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }
}

impl<T> Drop for Popping<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.back = self.next;
    }
}

#[cfg(test)]
pub(crate) mod plain;
#[cfg(test)]
mod tests;
