//! Chains: frames longer than one pool frame, as several segments of the same pool.
//!
//! The head's record in the side table has the totals, each segment's record where its bytes are and what
//! follows. Invariant: a chain's frames belong to the packet of its head, and to nobody else; the links form
//! a list that ends at `tail`.

use super::{FrameMeta, Packet, flags};
use crate::error::{Error, Result};
use crate::pool::{Pool, shared};

/// The segments of a packet, front to back.
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    packet: &'a Packet,
    /// Frame + 1 of the next one; 0 at the end.
    next: u32,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let frame = self.next.checked_sub(1)?;
        let packet = self.packet;
        if frame == packet.frame_index() {
            self.next = if packet.is_chain() { packet.meta().next } else { 0 };
            return Some(packet.data());
        }
        let meta = packet.record(frame);
        self.next = meta.next;
        let start = shared::entry(packet.pool).frame(frame).wrapping_add(meta.offset as usize);
        // SAFETY: the segment belongs to the packet, and its range lies within its frame.
        Some(unsafe { std::slice::from_raw_parts(start, meta.len as usize) })
    }
}

impl Packet {
    /// Whether the frame lies in several segments.
    #[inline]
    pub fn is_chain(&self) -> bool {
        self.has(flags::CHAIN)
    }

    /// How many segments there are; 1 unless it is a chain.
    pub fn segment_count(&self) -> usize {
        if self.is_chain() { self.meta().segments as usize } else { 1 }
    }

    /// The segments, front to back.
    pub fn segments(&self) -> Segments<'_> {
        Segments { packet: self, next: self.frame.get() }
    }

    /// Puts another packet's bytes behind this one's, without copying: the frame becomes a chain. The other packet's
    /// metadata is lost.
    ///
    /// # Errors
    /// The other packet itself if it is of another pool, or if the chain would pass 65,535 segments or 2^32 bytes.
    pub fn append(&mut self, other: Packet) -> Result<(), Packet> {
        let segments = self.segment_count() + other.segment_count();
        let total = self.len() + other.len();
        if other.pool != self.pool || segments > u16::MAX as usize || u32::try_from(total).is_err()
        {
            return Err(other);
        }
        self.append_same_pool(other);
        Ok(())
    }

    pub(crate) fn append_same_pool(&mut self, other: Packet) {
        let total = (self.len() + other.len()) as u32;
        let segments = (self.segment_count() + other.segment_count()) as u16;
        let tail = if other.is_chain() { other.meta().tail } else { other.frame_index() };
        // The other's head becomes an ordinary segment: its range moves from the packet to its record.
        let first = self.record_mut(other.frame_index());
        if !other.is_chain() {
            first.next = 0;
        }
        (first.offset, first.len) = (other.offset, other.len);
        let last = if self.is_chain() { self.meta().tail } else { self.frame_index() };
        self.record_mut(last).next = other.frame.get();
        let meta = self.meta_mut();
        (meta.total, meta.segments, meta.tail) = (total, segments, tail);
        self.flags |= flags::CHAIN;
        std::mem::forget(other);
    }

    /// Brings all bytes into the first segment.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if the frame is too small for them; nothing is changed.
    pub fn linearize(&mut self) -> Result<()> {
        if !self.is_chain() {
            return Ok(());
        }
        let (total, room) = (self.len(), self.frame_size() - self.offset as usize);
        if total > room {
            return Err(Error::NoRoom { what: "packet bytes", asked: total, available: room });
        }
        let mut at = self.len as usize;
        let mut rest = self.split_off_rest();
        self.len = total as u16;
        for segment in rest.iter().flat_map(Packet::segments) {
            self.data_mut()[at..at + segment.len()].copy_from_slice(segment);
            at += segment.len();
        }
        rest.take();
        Ok(())
    }

    /// Makes a chain's second and further segments a packet of their own, without copying; `None` if there is one segment only.
    /// What is split off has no metadata.
    ///
    /// For drivers, which give a device one segment after the other.
    pub fn split_off_rest(&mut self) -> Option<Packet> {
        if !self.is_chain() {
            return None;
        }
        let head = *self.meta();
        self.flags &= !flags::CHAIN;
        let second = head.next - 1;
        let record = *self.record(second);
        let mut rest = Packet::fresh(self.pool, second, record.offset);
        rest.len = record.len;
        if head.segments > 2 {
            let meta = rest.meta_mut();
            meta.total = head.total - u32::from(self.len);
            meta.segments = head.segments - 1;
            meta.tail = head.tail;
            rest.flags |= flags::CHAIN;
        }
        Some(rest)
    }

    /// Offset and length of the last segment.
    pub(super) fn last_range(&self) -> (usize, usize) {
        if !self.is_chain() {
            return (self.offset as usize, self.len as usize);
        }
        let meta = self.record(self.meta().tail);
        (meta.offset as usize, meta.len as usize)
    }

    pub(super) fn last_mut(&mut self) -> &mut [u8] {
        if !self.is_chain() {
            return self.data_mut();
        }
        let tail = self.meta().tail;
        let (offset, len) = self.last_range();
        let start = shared::entry(self.pool).frame(tail).wrapping_add(offset);
        // SAFETY: the segment belongs to the packet, and its range lies within its frame.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    pub(super) fn set_last_len(&mut self, len: usize) {
        if !self.is_chain() {
            self.len = len as u16;
            return;
        }
        let tail = self.meta().tail;
        let record = self.record_mut(tail);
        let change = len as isize - record.len as isize;
        record.len = len as u16;
        self.add_total(change);
    }

    pub(super) fn add_total(&mut self, change: isize) {
        if self.is_chain() {
            let meta = self.meta_mut();
            meta.total = (meta.total as isize + change) as u32;
        }
    }

    fn record(&self, frame: u32) -> &FrameMeta {
        // SAFETY: the frame is one of this packet's (its callers follow the chain), and the packet keeps the pool.
        unsafe { &*shared::entry(self.pool).shared().meta(frame) }
    }

    fn record_mut(&mut self, frame: u32) -> &mut FrameMeta {
        // SAFETY: as in `record`; the packet is borrowed exclusively.
        unsafe { &mut *shared::entry(self.pool).shared().meta(frame) }
    }
}

/// Copies a chain's bytes into another pool, each frame filled.
pub(super) fn copy(packet: &Packet, pool: &Pool) -> Option<Packet> {
    let room = pool.room();
    let mut copy = pool.take()?;
    let mut current: Option<Packet> = None;
    for mut bytes in packet.segments() {
        while !bytes.is_empty() {
            let target = current.as_mut().unwrap_or(&mut copy);
            if target.data().len() == room {
                let fresh = pool.take()?;
                if let Some(full) = current.replace(fresh) {
                    copy.append_same_pool(full);
                }
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(room - target.data().len()));
            target.grow_tail(part.len()).ok()?.copy_from_slice(part);
            bytes = rest;
        }
    }
    if let Some(last) = current {
        copy.append_same_pool(last);
    }
    Some(copy)
}

/// Gives a chain's frames back: what dropping its packet does.
#[cold]
pub(super) fn release(packet: &mut Packet) {
    let mut frames = [0; 32];
    let mut count = 0;
    let mut next = packet.frame.get();
    // Each stretch is given back only after the links of all its frames were read.
    while let Some(frame) = next.checked_sub(1) {
        next = packet.record(frame).next;
        frames[count] = frame;
        count += 1;
        if next == 0 || count == frames.len() {
            shared::release_frames(packet.pool, &frames[..count]);
            count = 0;
        }
    }
}
