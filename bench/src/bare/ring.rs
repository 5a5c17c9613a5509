//! A socket's rings, as fast as they can be: the kernel is believed, what is pushed fits because the caller has asked.
//!
//! Invariant: the pointers of a `Ring` point into a mapping of a socket's ring that lives as long as the ring; an index
//! is masked before it is used, so no access leaves the ring, whatever the kernel or the caller says. A slot that is
//! written or read at a wrong time has a wrong frame's address, which the kernel checks.

use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A mapped ring.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    mapping: (NonNull<u8>, usize),
    _entry: PhantomData<T>,
}

// SAFETY: one side of a ring, used by one thread at a time.
unsafe impl<T> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn map(fd: RawFd, page: u64, of: &libc::xdp_ring_offset, size: u32) -> io::Result<Ring<T>> {
        assert!(size.is_power_of_two());
        let length = of.desc as usize + size as usize * size_of::<T>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, page as libc::off_t)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base: NonNull<u8> = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the kernel says where in what it has mapped the parts are.
        unsafe {
            Ok(Ring {
                producer: base.add(of.producer as usize).cast(),
                consumer: base.add(of.consumer as usize).cast(),
                flags: base.add(of.flags as usize).cast(),
                entries: base.add(of.desc as usize).cast(),
                mask: size - 1,
                mapping: (base, length),
                _entry: PhantomData,
            })
        }
    }

    #[inline]
    fn word(&self, word: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: in the mapping, which lives as long as the ring.
        unsafe { word.as_ref() }
    }

    #[inline]
    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked, so within the ring.
        unsafe { self.entries.add((index & self.mask) as usize) }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let (base, length) = self.mapping;
        // SAFETY: mapped by `map`, and used by nobody else.
        unsafe { libc::munmap(base.as_ptr().cast(), length) };
    }
}

/// A fill or transmit ring.
#[derive(Debug)]
pub struct Producer<T> {
    ring: Ring<T>,
    next: u32,
    /// The index at which the ring is full, as far as is known.
    end: u32,
}

impl<T: Copy> Producer<T> {
    /// Maps a ring that the socket has.
    ///
    /// # Errors
    /// The system's.
    pub fn map(fd: RawFd, page: u64, of: &libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        Ok(Producer { ring: Ring::map(fd, page, of, size)?, next: 0, end: size })
    }

    /// Whether `count` entries fit.
    #[inline]
    pub fn fits(&mut self, count: u32) -> bool {
        if self.end.wrapping_sub(self.next) >= count {
            return true;
        }
        let consumed = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.end = consumed.wrapping_add(self.ring.mask + 1);
        self.end.wrapping_sub(self.next) >= count
    }

    /// Adds an entry that fits.
    #[inline]
    pub fn push(&mut self, entry: T) {
        // SAFETY: within the ring.
        unsafe { self.ring.slot(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Gives the kernel what was added.
    #[inline]
    pub fn publish(&mut self) {
        self.ring.word(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Entries that the kernel has not taken.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.ring.word(self.ring.consumer).load(Ordering::Acquire))
    }

    /// Whether the kernel wants to be woken.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.word(self.ring.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A receive or completion ring.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
}

impl<T: Copy> Consumer<T> {
    /// Maps a ring that the socket has.
    ///
    /// # Errors
    /// The system's.
    pub fn map(fd: RawFd, page: u64, of: &libc::xdp_ring_offset, size: u32) -> io::Result<Self> {
        Ok(Consumer { ring: Ring::map(fd, page, of, size)?, next: 0 })
    }

    /// How many entries are there.
    #[inline]
    pub fn ready(&self) -> u32 {
        self.ring.word(self.ring.producer).load(Ordering::Acquire).wrapping_sub(self.next)
    }

    /// Takes an entry that is there.
    #[inline]
    pub fn pop(&mut self) -> T {
        // SAFETY: within the ring; entries are plain numbers, whatever they are.
        let entry = unsafe { self.ring.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        entry
    }

    /// Takes entries without looking at them.
    #[inline]
    pub fn skip(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
    }

    /// Gives the kernel the slots of what was taken.
    #[inline]
    pub fn release(&mut self) {
        self.ring.word(self.ring.consumer).store(self.next, Ordering::Release);
    }
}
