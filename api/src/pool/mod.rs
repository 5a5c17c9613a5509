//! Pools: the memory that frames live in.
//!
//! One contiguous region of equal frames, which at the same time is memory that a kernel (AF_XDP) or a device
//! (DMA) can be given, so that a frame moves between ports without a copy. A [`Packet`] owns a frame; dropping it
//! gives the frame back, from any thread. In front of the shared lock-free list each queue has a [`PoolCache`].
//!
//! Ownership: pool handles and frames that are out share one reference count (in `shared`). A pool
//! whose last handle is dropped is orphaned: its memory goes with its last frame (contract L10).
//!
//! Trap: frames at equal offsets of a power of two compete for the same cache sets; see
//! `docs/decisions/002-frame-placement.md` for what was measured.

mod cache;
mod freelist;
mod lent;
mod region;
pub(crate) mod shared;

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cache::PoolCache;
pub use lent::Lent;
pub use region::HugePages;
use region::Region;
use shared::PoolShared;

use crate::error::{Error, Result};
use crate::packet::Packet;

/// The head room of a fresh packet in bytes, unless configured: what XDP wants.
pub const DEFAULT_HEADROOM: u16 = 256;

/// How a pool is to be made; also the `[pool]` section of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolConfig {
    /// Frames, 1 to 16 Mi.
    pub frames: u32,
    /// Bytes of a frame, head room included: a power of two from 512 to 32,768.
    pub frame_size: u32,
    /// Bytes before the frame's first byte in a fresh packet.
    pub headroom: u16,
    /// Whether 2 MiB pages are used.
    pub huge_pages: HugePages,
    /// The NUMA node that the memory is to be on. If absent, the kernel chooses: the node of the processor that makes the
    /// pool, unless the process has a memory policy.
    pub numa_node: Option<u32>,
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig {
            frames: 4096,
            frame_size: 2048,
            headroom: DEFAULT_HEADROOM,
            huge_pages: HugePages::Auto,
            numa_node: None,
        }
    }
}

impl PoolConfig {
    /// Refuses sizes out of range.
    ///
    /// # Errors
    /// [`Error::Pool`] with what is possible.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Pool { reason });
        if !(1..=1 << 24).contains(&self.frames) {
            return refuse(format!("frames = {}: 1 to {} are possible", self.frames, 1 << 24));
        }
        if !self.frame_size.is_power_of_two() || !(512..=32768).contains(&self.frame_size) {
            let size = self.frame_size;
            return refuse(format!(
                "frame_size = {size}: a power of two from 512 to 32768 is needed"
            ));
        }
        if u32::from(self.headroom) + 64 > self.frame_size {
            let (headroom, size) = (self.headroom, self.frame_size);
            return refuse(format!(
                "headroom = {headroom} leaves under 64 of {size} bytes for the frame"
            ));
        }
        Ok(())
    }

    /// Makes the pool.
    ///
    /// # Errors
    /// [`Error::Pool`] for sizes out of range, for no memory, for huge pages that are `required` and not
    /// there (with the command that reserves them).
    pub fn build(&self) -> Result<Pool> {
        self.check()?;
        let bytes = self.frames as usize * self.frame_size as usize;
        let region = Region::new(bytes, self.huge_pages, self.numa_node)?;
        PoolShared::publish(self, region).map(|shared| Pool { shared })
    }
}

/// Sets up a [`Pool`].
///
/// ```
/// let pool = anyport::Pool::builder().frames(1024).frame_size(4096).build().unwrap();
/// assert_eq!((pool.capacity(), pool.free()), (1024, 1024));
/// ```
#[derive(Debug, Clone, Default)]
pub struct PoolBuilder(PoolConfig);

impl PoolBuilder {
    /// Frames, 1 to 16 Mi; 4096 unless set.
    #[must_use]
    pub fn frames(mut self, frames: u32) -> PoolBuilder {
        self.0.frames = frames;
        self
    }

    /// Bytes of a frame, head room included: a power of two from 512 to 32,768; 2048 unless set.
    #[must_use]
    pub fn frame_size(mut self, bytes: u32) -> PoolBuilder {
        self.0.frame_size = bytes;
        self
    }

    /// Bytes before the frame's first byte in a fresh packet; 256 unless set.
    #[must_use]
    pub fn headroom(mut self, bytes: u16) -> PoolBuilder {
        self.0.headroom = bytes;
        self
    }

    /// Whether 2 MiB pages are used; where they can be had unless set.
    #[must_use]
    pub fn huge_pages(mut self, huge_pages: HugePages) -> PoolBuilder {
        self.0.huge_pages = huge_pages;
        self
    }

    /// The NUMA node that the memory is to be on.
    #[must_use]
    pub fn numa_node(mut self, node: u32) -> PoolBuilder {
        self.0.numa_node = Some(node);
        self
    }

    /// Makes the pool.
    ///
    /// # Errors
    /// As [`PoolConfig::build`].
    pub fn build(self) -> Result<Pool> {
        self.0.build()
    }
}

/// A handle to a pool; cloning it makes another handle to the same pool.
pub struct Pool {
    /// Valid as long as this handle counts as a reference.
    shared: NonNull<PoolShared>,
}

// SAFETY: PoolShared is made of atomics, mutexes and memory that only frame owners touch; the handle keeps it alive.
unsafe impl Send for Pool {}
// SAFETY: as above; all methods of a shared handle are safe to call from several threads.
unsafe impl Sync for Pool {}

impl Pool {
    /// Starts setting up a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    pub(crate) fn shared(&self) -> &PoolShared {
        // SAFETY: this handle counts as a reference, so the pool is alive.
        unsafe { self.shared.as_ref() }
    }

    /// Frames in all.
    pub fn capacity(&self) -> usize {
        self.shared().capacity as usize
    }

    /// Frames that can be taken, those in queues' caches included (contract P1). Exact at quiet moments.
    pub fn free(&self) -> usize {
        self.shared().free()
    }

    /// Bytes of a frame, head room included.
    pub fn frame_size(&self) -> usize {
        1 << self.shared().shift
    }

    /// Bytes before the first byte of a fresh packet.
    pub fn headroom(&self) -> usize {
        self.shared().headroom as usize
    }

    /// Bytes that a fresh packet can hold.
    pub fn room(&self) -> usize {
        self.frame_size() - self.headroom()
    }

    /// The process-wide number of the pool, for logs.
    pub fn id(&self) -> u16 {
        self.shared().id
    }

    /// Whether the memory is on huge pages.
    pub fn on_huge_pages(&self) -> bool {
        self.shared().region.huge
    }

    /// The memory, to be given to a kernel or a device.
    pub fn region(&self) -> PoolRegion<'_> {
        PoolRegion { shared: self.shared() }
    }

    /// An empty packet; `None` if the pool has none (never blocks, contract P1).
    ///
    /// Each call is a shared atomic operation: on a fast path use [`PoolCache`] or the queue's own.
    pub fn take(&self) -> Option<Packet> {
        let mut frame = [0; 1];
        match self.shared().take(&mut frame) {
            1 => Some(self.shared().packet(frame[0])),
            _ => None,
        }
    }

    /// A packet with these bytes; a chain where they do not fit one frame.
    ///
    /// `None` if the pool has not enough frames.
    pub fn packet(&self, bytes: &[u8]) -> Option<Packet> {
        let room = self.room();
        let mut packet = self.take()?;
        let (head, mut rest) = bytes.split_at(bytes.len().min(room));
        packet.put(head);
        while !rest.is_empty() {
            let mut segment = self.take()?;
            let (part, left) = rest.split_at(rest.len().min(room));
            segment.put(part);
            packet.append_same_pool(segment);
            rest = left;
        }
        Some(packet)
    }

    /// A cache in front of the pool, for one thread; it holds at most `size` frames (up to 64; with 0
    /// every frame crosses the shared list).
    pub fn cache(&self, size: usize) -> PoolCache {
        PoolCache::new(self.clone(), size)
    }

    /// Calls `wake` (once) when frames come back to the shared list, unless the pool has some already. For queues
    /// that cannot receive for lack of frames (contract R12).
    pub(crate) fn wake_when_filled(&self, fd: std::sync::Arc<crate::wait::EventFd>) {
        self.shared().wake_when_filled(fd);
    }
}

impl Clone for Pool {
    fn clone(&self) -> Pool {
        self.shared().add_handle();
        Pool { shared: self.shared }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: this handle is the reference that is given up; `shared` is not used afterwards.
        unsafe { PoolShared::drop_handle(self.shared) }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("id", &self.id())
            .field("capacity", &self.capacity())
            .field("frame_size", &self.frame_size())
            .field("free", &self.free())
            .finish()
    }
}

impl PartialEq for Pool {
    fn eq(&self, other: &Pool) -> bool {
        self.shared == other.shared
    }
}

impl Eq for Pool {}

/// A pool's memory as a kernel or a device sees it: for backends that register or map it.
#[derive(Clone, Copy)]
pub struct PoolRegion<'a> {
    shared: &'a PoolShared,
}

impl<'a> PoolRegion<'a> {
    /// The first byte of frame 0; page-aligned. What is behind it belongs to the owners of the frames.
    pub fn base(&self) -> *mut u8 {
        self.shared.base
    }

    /// Bytes, a multiple of the page size that is in use.
    pub fn len(&self) -> usize {
        self.shared.region.len()
    }

    /// A region is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The memfd behind the memory, to be handed to another process or mapped again. Its size is sealed: nobody can cut
    /// the memory off under its users.
    ///
    /// # Safety
    /// Reading, writing and mapping a file are safe calls, and the file's bytes are frames that somebody owns. Through this
    /// descriptor, its duplicates and mappings of it, for as long as the pool has users, only such frames are written to
    /// as were [lent](PoolRegion::lend) (or the caller owns), and only such are read as nobody writes to meanwhile.
    pub unsafe fn memfd(&self) -> BorrowedFd<'a> {
        self.shared.region.memfd()
    }

    /// Bytes of the pages in use: 2 MiB or the system's page size.
    pub fn page_size(&self) -> usize {
        self.shared.region.page_size
    }

    /// Where a packet's first byte is, in bytes from the base: what goes into a descriptor.
    pub fn offset_of(&self, packet: &Packet) -> Option<usize> {
        (packet.pool_id() == self.shared.id)
            .then(|| ((packet.frame_index() as usize) << self.shared.shift) + packet.headroom())
    }

    /// Gives up ownership of a packet's frame to the device: the frame's index comes back, the packet is
    /// forgotten without giving the frame back. Only for single-segment packets of this pool.
    ///
    /// # Errors
    /// The packet itself if it is a chain or of another pool.
    pub fn lend(&self, packet: Packet) -> Result<u32, Packet> {
        if packet.pool_id() != self.shared.id || packet.segment_count() != 1 {
            return Err(packet);
        }
        let index = packet.frame_index();
        std::mem::forget(packet);
        Ok(index)
    }

    /// Takes ownership back: the frame as a packet with `offset` bytes before and `length` bytes of data,
    /// metadata fresh. `None`, and nothing is taken, if the index or the range is outside the pool (a hostile device,
    /// contract F8).
    ///
    /// # Safety
    /// The frame was lent before, the device no longer touches it, and it is taken back once.
    pub unsafe fn take_back(&self, index: u32, offset: usize, length: usize) -> Option<Packet> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= 1 << self.shared.shift);
        if index >= self.shared.capacity || !inside {
            return None;
        }
        let mut packet = self.shared.packet(index);
        packet.set_range(offset as u16, length as u16);
        Some(packet)
    }
}

#[cfg(test)]
mod tests;
