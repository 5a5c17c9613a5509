//! What all handles, caches and frames of a pool share, and the process-wide table that finds it.
//!
//! A [`Packet`](crate::packet::Packet) names its pool by a 16-bit number, so that it stays small; the table turns
//! the number into the region's address. Invariants:
//! - `refs` counts pool handles and frames that are not on the free list. Memory is released by whoever takes
//!   it to zero, and only then: a frame that is out keeps the pool (contract L10);
//! - a table entry is set before the first frame is handed out, and cleared after the last one is back, so a
//!   live packet always finds its entry;
//! - `meta[i]` is touched only by the owner of the packet whose head is frame `i`, or, for a frame further down a
//!   chain, by the owner of the chain.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use super::freelist::FreeList;
use super::region::Region;
use super::{Pool, PoolConfig};
use crate::error::{Error, Result};
use crate::packet::{FrameMeta, Packet};
use crate::wait::EventFd;

/// The most pools that a process has at once.
const POOLS: usize = 1024;

/// One line of the table: all that reading a frame's bytes needs.
pub(crate) struct Entry {
    base: AtomicPtr<u8>,
    shared: AtomicPtr<PoolShared>,
    shift: AtomicU32,
    used: AtomicBool,
}

static TABLE: [Entry; POOLS] = [const {
    Entry {
        base: AtomicPtr::new(std::ptr::null_mut()),
        shared: AtomicPtr::new(std::ptr::null_mut()),
        shift: AtomicU32::new(0),
        used: AtomicBool::new(false),
    }
}; POOLS];

pub(crate) fn entry(pool: u16) -> &'static Entry {
    // The mask spares a bounds check; identifiers are below POOLS.
    &TABLE[pool as usize & (POOLS - 1)]
}

impl Entry {
    /// The first byte of a frame; valid as long as a packet of the pool is held.
    #[inline]
    pub fn frame(&self, index: u32) -> *mut u8 {
        let offset = (index as usize) << self.shift.load(Ordering::Relaxed);
        // In range for the index of any packet; wrapping, so that no invariant hangs on the arithmetic.
        self.base.load(Ordering::Relaxed).wrapping_add(offset)
    }

    #[inline]
    pub fn frame_size(&self) -> usize {
        1 << self.shift.load(Ordering::Relaxed)
    }

    /// # Safety
    /// A packet or handle of the pool is held for as long as the reference is used.
    #[inline]
    pub unsafe fn shared<'a>(&self) -> &'a PoolShared {
        // SAFETY: set as long as a frame or handle is out, which the caller vouches for.
        unsafe { &*self.shared.load(Ordering::Relaxed) }
    }
}

/// Handles count in the upper half of `refs`, frames that are out in the lower.
const HANDLE: u64 = 1 << 32;

pub(crate) struct PoolShared {
    pub id: u16,
    pub base: *mut u8,
    pub shift: u32,
    pub capacity: u32,
    pub headroom: u16,
    pub region: Region,
    refs: AtomicU64,
    list: FreeList,
    meta: Box<[UnsafeCell<FrameMeta>]>,
    /// The lengths of all caches.
    caches: Mutex<Vec<Arc<AtomicU32>>>,
    /// Whether anybody waits for frames: looked at by every bulk give.
    waiting: AtomicBool,
    waiters: Mutex<Vec<Arc<EventFd>>>,
}

// SAFETY: `base` and `meta` are touched by frame owners only (see the module's invariants).
unsafe impl Send for PoolShared {}
// SAFETY: as above.
unsafe impl Sync for PoolShared {}

impl PoolShared {
    /// Puts a new pool into the table; the result counts as one handle.
    pub fn publish(config: &PoolConfig, region: Region) -> Result<NonNull<PoolShared>> {
        let claim = |entry: &Entry| {
            entry.used.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let id = TABLE.iter().position(claim).ok_or_else(|| Error::Pool {
            reason: format!("{POOLS} pools exist already; drop some (with their packets) first"),
        })?;
        let shared = Box::new(PoolShared {
            id: id as u16,
            base: region.base(),
            shift: config.frame_size.trailing_zeros(),
            capacity: config.frames,
            headroom: config.headroom,
            region,
            refs: AtomicU64::new(HANDLE),
            list: FreeList::full(config.frames),
            meta: (0..config.frames).map(|_| UnsafeCell::new(FrameMeta::default())).collect(),
            caches: Mutex::new(Vec::new()),
            waiting: AtomicBool::new(false),
            waiters: Mutex::new(Vec::new()),
        });
        let entry = &TABLE[id];
        entry.base.store(shared.base, Ordering::Relaxed);
        entry.shift.store(shared.shift, Ordering::Relaxed);
        let shared = NonNull::from(Box::leak(shared));
        entry.shared.store(shared.as_ptr(), Ordering::Release);
        Ok(shared)
    }

    /// Takes frames off the shared list; how many.
    pub fn take(&self, out: &mut [u32]) -> usize {
        let count = self.list.pop(out);
        // Relaxed: the caller holds a handle, so the count cannot reach zero meanwhile.
        self.refs.fetch_add(count as u64, Ordering::Relaxed);
        count
    }

    /// Gives frames back to the shared list. The caller owns them and holds a handle, or calls
    /// [`release`](PoolShared::release) instead.
    pub fn give(&self, frames: &[u32]) {
        self.list.push(frames);
        self.refs.fetch_sub(frames.len() as u64, Ordering::Release);
        self.wake_waiters();
    }

    /// Gives frames back, and the whole pool if they were what kept it.
    ///
    /// # Safety
    /// The caller owns the frames; `shared` is not used afterwards unless something else keeps the pool.
    pub unsafe fn release(shared: NonNull<PoolShared>, frames: &[u32]) {
        // SAFETY: the frames are out, so they keep the pool until the subtraction.
        let this = unsafe { shared.as_ref() };
        this.list.push(frames);
        // The waiters come before the subtraction: after it the pool may be gone.
        this.wake_waiters();
        // SAFETY: the frames are the references given up.
        unsafe { PoolShared::subtract(shared, frames.len() as u64) }
    }

    pub fn add_handle(&self) {
        self.refs.fetch_add(HANDLE, Ordering::Relaxed);
    }

    /// # Safety
    /// The caller gives up a handle.
    pub unsafe fn drop_handle(shared: NonNull<PoolShared>) {
        // SAFETY: the caller's handle is the reference.
        unsafe { PoolShared::subtract(shared, HANDLE) }
    }

    /// # Safety
    /// The caller gives up that many references.
    unsafe fn subtract(shared: NonNull<PoolShared>, references: u64) {
        // SAFETY: the references are the caller's, so the pool is alive until here.
        let before = unsafe { shared.as_ref() }.refs.fetch_sub(references, Ordering::Release);
        if before == references {
            fence(Ordering::Acquire);
            // SAFETY: no handle and no frame is out: nobody else can reach it. It came from a Box.
            let pool = unsafe { Box::from_raw(shared.as_ptr()) };
            let entry = entry(pool.id);
            entry.shared.store(std::ptr::null_mut(), Ordering::Relaxed);
            entry.base.store(std::ptr::null_mut(), Ordering::Relaxed);
            drop(pool);
            entry.used.store(false, Ordering::Release);
        }
    }

    /// A fresh packet over a frame that the caller has taken.
    #[inline]
    pub fn packet(&self, frame: u32) -> Packet {
        Packet::fresh(self.id, frame, self.headroom)
    }

    /// The side table's record of a frame.
    #[inline]
    pub fn meta(&self, frame: u32) -> *mut FrameMeta {
        self.meta[frame as usize].get()
    }

    /// Frames on the shared list and in caches.
    pub fn free(&self) -> usize {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|cache| Arc::strong_count(cache) > 1 || cache.load(Ordering::Relaxed) > 0);
        let cached: usize = caches.iter().map(|cache| cache.load(Ordering::Relaxed) as usize).sum();
        let out = (self.refs.load(Ordering::Acquire) & (HANDLE - 1)) as usize;
        (self.capacity as usize + cached).saturating_sub(out)
    }

    pub fn register_cache(&self) -> Arc<AtomicU32> {
        let published = Arc::new(AtomicU32::new(0));
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|cache| Arc::strong_count(cache) > 1);
        caches.push(published.clone());
        published
    }

    pub fn wake_when_filled(&self, fd: Arc<EventFd>) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // A queue that waits again and again while the pool stays dry is in the list once.
        if !waiters.iter().any(|known| Arc::ptr_eq(known, &fd)) {
            waiters.push(fd);
        }
        drop(waiters);
        self.waiting.store(true, Ordering::SeqCst);
        // Frames may have come back between the caller's look and the store: look once more. Either a giver
        // sees the store, or this sees its push: both sides are sequentially consistent.
        if !self.list.is_empty() {
            self.wake_waiters();
        }
    }

    #[inline]
    fn wake_waiters(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(&self) {
        self.waiting.store(false, Ordering::SeqCst);
        let waiters =
            std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
        for waiter in waiters {
            waiter.signal();
        }
    }
}

/// Gives the frames of many packets back with one operation per pool and stretch.
pub(crate) fn release_frames(pool: u16, frames: &[u32]) {
    let shared = entry(pool).shared.load(Ordering::Relaxed);
    if let Some(shared) = NonNull::new(shared) {
        // SAFETY: the frames come from packets that the caller owned, so they keep the pool until here.
        unsafe { PoolShared::release(shared, frames) }
    }
}

impl Pool {
    /// A handle to the pool of a packet that the caller holds.
    pub(crate) fn of_packet(packet: &Packet) -> Pool {
        // SAFETY: the packet keeps the pool alive.
        let shared = unsafe { entry(packet.pool_id()).shared() };
        shared.add_handle();
        Pool { shared: NonNull::from(shared) }
    }
}
