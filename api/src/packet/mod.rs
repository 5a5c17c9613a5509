//! Packets: owned handles to frames.
//!
//! A [`Packet`] is 32 bytes, held by value and moved: into a burst, through a queue, to another thread. It is not a
//! structure in frame memory, so that forwarding a frame need not touch the frame's cache lines. Who holds the
//! packet owns the frame; `Drop` gives it back to its pool. Double free, use after send and two owners do not
//! compile (contract P2).
//!
//! What few packets have (a chain, transmit requests, a mark) lies in a side table indexed by frame, touched
//! only if a flag says so.
//!
//! Trap: a frame longer than its pool's frames is a chain of segments. [`Packet::data`] is the first segment,
//! which is the whole frame unless the port was configured with `max_segments` over 1.

mod chain;
mod metadata;

use std::num::NonZeroU32;

pub use chain::Segments;
pub use metadata::{
    ChecksumStatus, Checksums, Clock, L4Checksum, Timestamp, TimestampSource, TxRequests,
};
pub(crate) use metadata::{FrameMeta, flags};

use crate::error::{Error, Result};
use crate::pool::{Pool, shared};

/// An owned frame.
///
/// ```
/// let pool = anyport::Pool::builder().frames(16).build().unwrap();
/// let mut packet = pool.packet(b"hello").unwrap();
/// packet.grow_head(1).unwrap()[0] = b'>';
/// packet.shrink_tail(2).unwrap();
/// assert_eq!(packet.data(), b">hel");
/// assert_eq!(pool.free(), 15);
/// drop(packet);
/// assert_eq!(pool.free(), 16);
/// ```
///
/// Owned means that these do not compile:
///
/// ```compile_fail
/// let pool = anyport::Pool::builder().frames(16).build().unwrap();
/// let packet = pool.packet(b"hello").unwrap();
/// drop(packet);
/// drop(packet); // double free
/// ```
///
/// ```compile_fail
/// let pool = anyport::Pool::builder().frames(16).build().unwrap();
/// let packet = pool.packet(b"hello").unwrap();
/// let twice = packet.clone(); // two owners
/// ```
#[repr(C, align(8))]
pub struct Packet {
    /// Nanoseconds; valid with `flags::TIMESTAMP`.
    pub(crate) timestamp: u64,
    /// Frame index + 1: never zero, so that `Option<Packet>` is as small as `Packet`.
    frame: NonZeroU32,
    /// Valid with `flags::HASH`.
    pub(crate) hash: u32,
    pool: u16,
    /// Bytes of the first segment before the data.
    offset: u16,
    /// Bytes of the first segment.
    len: u16,
    pub(crate) flags: u16,
    /// Valid with `flags::VLAN`.
    pub(crate) tci: u16,
    pub(crate) queue: u16,
    /// How many of the last bytes are padding that the transmit path added.
    padding: u8,
}

const _: () = assert!(size_of::<Packet>() == 32 && size_of::<Option<Packet>>() == 32);

impl Packet {
    #[inline]
    pub(crate) fn fresh(pool: u16, frame: u32, offset: u16) -> Packet {
        Packet {
            timestamp: 0,
            frame: NonZeroU32::MIN.saturating_add(frame),
            hash: 0,
            pool,
            offset,
            len: 0,
            flags: 0,
            tci: 0,
            queue: 0,
            padding: 0,
        }
    }

    #[inline]
    pub(crate) fn frame_index(&self) -> u32 {
        self.frame.get() - 1
    }

    /// The process-wide number of the packet's pool ([`Pool::id`]).
    #[inline]
    pub fn pool_id(&self) -> u16 {
        self.pool
    }

    /// A handle to the packet's pool.
    pub fn pool(&self) -> Pool {
        Pool::of_packet(self)
    }

    #[inline]
    pub(crate) fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// Bytes of the whole frame, without FCS: of all segments.
    #[inline]
    pub fn len(&self) -> usize {
        if self.has(flags::CHAIN) { self.meta().total as usize } else { self.len as usize }
    }

    /// Bytes of the first segment.
    #[inline]
    pub(crate) fn first_len(&self) -> u32 {
        self.len.into()
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the first segment: the whole frame unless it is a chain.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: offset + len lie within the frame (kept by every method that changes them), the frame belongs to
        // this packet, and pool memory is always initialised.
        unsafe { std::slice::from_raw_parts(self.start(), self.len as usize) }
    }

    /// The bytes of the first segment, to be changed.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; the packet is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len as usize) }
    }

    #[inline]
    fn start(&self) -> *mut u8 {
        self.frame_start().wrapping_add(self.offset as usize)
    }

    #[inline]
    fn frame_start(&self) -> *mut u8 {
        shared::entry(self.pool).frame(self.frame_index())
    }

    #[inline]
    fn frame_size(&self) -> usize {
        shared::entry(self.pool).frame_size()
    }

    /// Bytes before the data that [`grow_head`](Packet::grow_head) can take.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset as usize
    }

    /// Bytes behind the data that [`grow_tail`](Packet::grow_tail) can take; of the last segment for a chain.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let (offset, len) = self.last_range();
        self.frame_size() - offset - len
    }

    /// Adds bytes at the front and returns them (contract P4). They hold what was in the frame before.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if the head room is smaller; nothing is changed.
    pub fn grow_head(&mut self, bytes: usize) -> Result<&mut [u8]> {
        if bytes > self.headroom() {
            return Err(Error::NoRoom {
                what: "head room",
                asked: bytes,
                available: self.headroom(),
            });
        }
        self.offset -= bytes as u16;
        self.len += bytes as u16;
        self.add_total(bytes as isize);
        Ok(&mut self.data_mut()[..bytes])
    }

    /// Takes bytes off the front (contract P4).
    ///
    /// # Errors
    /// [`Error::NoRoom`] if the first segment is shorter; nothing is changed.
    pub fn shrink_head(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.len as usize {
            let available = self.len as usize;
            return Err(Error::NoRoom { what: "the first segment", asked: bytes, available });
        }
        self.offset += bytes as u16;
        self.len -= bytes as u16;
        self.add_total(-(bytes as isize));
        Ok(())
    }

    /// Adds bytes at the end and returns them (contract P4). They hold what was in the frame before.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if the tail room is smaller; nothing is changed.
    pub fn grow_tail(&mut self, bytes: usize) -> Result<&mut [u8]> {
        if bytes > self.tailroom() {
            return Err(Error::NoRoom {
                what: "tail room",
                asked: bytes,
                available: self.tailroom(),
            });
        }
        let last = self.last_mut();
        let old = last.len();
        self.set_last_len(old + bytes);
        Ok(&mut self.last_mut()[old..])
    }

    /// Takes bytes off the end (contract P4).
    ///
    /// # Errors
    /// [`Error::NoRoom`] if the last segment is shorter; nothing is changed.
    pub fn shrink_tail(&mut self, bytes: usize) -> Result<()> {
        let available = self.last_range().1;
        if bytes > available {
            return Err(Error::NoRoom { what: "the last segment", asked: bytes, available });
        }
        self.set_last_len(available - bytes);
        Ok(())
    }

    /// Replaces the data of a single-segment packet by these bytes.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if they do not fit behind the head room; nothing is changed.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<()> {
        self.set_len(bytes.len())?;
        self.data_mut().copy_from_slice(bytes);
        Ok(())
    }

    /// Sets the length of a single-segment packet, for a device or the caller to fill. New bytes hold what was
    /// in the frame before.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if the frame is smaller, or for a chain; nothing is changed.
    #[inline]
    pub fn set_len(&mut self, bytes: usize) -> Result<()> {
        let available = self.frame_size() - self.offset as usize;
        if bytes > available || self.has(flags::CHAIN) {
            return Err(Error::NoRoom { what: "packet bytes", asked: bytes, available });
        }
        self.len = bytes as u16;
        self.padding = 0;
        Ok(())
    }

    /// As [`fill`](Packet::fill), for bytes known to fit.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.frame_size() - self.offset as usize);
        let _ = self.fill(bytes);
    }

    #[inline]
    pub(crate) fn set_range(&mut self, offset: u16, len: u16) {
        debug_assert!(offset as usize + len as usize <= self.frame_size());
        (self.offset, self.len) = (offset, len);
    }

    /// Brings a shorter packet to `target` bytes with zeros (contract T5); false without tail room.
    pub(crate) fn pad_to(&mut self, target: usize) -> bool {
        if self.has(flags::CHAIN) {
            return self.pad_chain(target);
        }
        let len = self.len as usize;
        let Some(missing) = target.checked_sub(len) else { return true };
        if missing > self.frame_size() - self.offset as usize - len {
            return false;
        }
        self.len = target as u16;
        self.data_mut()[len..].fill(0);
        self.padding = missing as u8;
        true
    }

    #[cold]
    fn pad_chain(&mut self, target: usize) -> bool {
        let Some(missing) = target.checked_sub(self.len()) else { return true };
        match self.grow_tail(missing) {
            Ok(tail) => {
                tail.fill(0);
                self.padding = missing as u8;
                true
            }
            Err(_) => false,
        }
    }

    /// Takes the padding off again, of a packet that was not accepted after all.
    pub(crate) fn unpad(&mut self) {
        if self.padding != 0 {
            let _ = self.shrink_tail(self.padding as usize);
            self.padding = 0;
        }
    }

    /// Copies the packet with its metadata into a frame (or a chain) of another pool (contract P5); `None` if
    /// that pool has not enough frames. Transmit requests and the mark are copied, too.
    pub fn copy_to(&self, pool: &Pool) -> Option<Packet> {
        let mut copy = match self.has(flags::CHAIN) {
            false => pool.packet(self.data())?,
            true => chain::copy(self, pool)?,
        };
        copy.inherit(self);
        Some(copy)
    }

    /// Takes over all that another packet carries besides its bytes (contract P5).
    pub(crate) fn inherit(&mut self, from: &Packet) {
        self.timestamp = from.timestamp;
        self.hash = from.hash;
        self.tci = from.tci;
        self.queue = from.queue;
        self.flags |= from.flags & !flags::CHAIN;
        if from.has(flags::MARK | flags::REQUESTS) {
            let (mark, requests) = (from.meta().mark, from.meta().requests);
            let meta = self.meta_mut();
            (meta.mark, meta.requests) = (mark, requests);
        }
    }

    /// The side table's record of the head frame.
    pub(crate) fn meta(&self) -> &FrameMeta {
        // SAFETY: the packet keeps its pool, and the record belongs to the packet.
        unsafe { &*shared::entry(self.pool).shared().meta(self.frame_index()) }
    }

    pub(crate) fn meta_mut(&mut self) -> &mut FrameMeta {
        // SAFETY: as in `meta`; the packet is borrowed exclusively.
        unsafe { &mut *shared::entry(self.pool).shared().meta(self.frame_index()) }
    }
}

impl Drop for Packet {
    #[inline]
    fn drop(&mut self) {
        if self.has(flags::CHAIN) {
            chain::release(self);
        } else {
            shared::release_frames(self.pool, &[self.frame_index()]);
        }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Packet");
        out.field("pool", &self.pool).field("frame", &self.frame_index()).field("len", &self.len());
        if self.is_chain() {
            out.field("segments", &self.segment_count());
        }
        let head = &self.data()[..self.data().len().min(16)];
        out.field("data", &format_args!("{head:02x?}")).finish()
    }
}

impl AsRef<[u8]> for Packet {
    /// The first segment, as [`Packet::data`].
    fn as_ref(&self) -> &[u8] {
        self.data()
    }
}

#[cfg(test)]
mod tests;
