//! A ring over plain memory, for tests that play the kernel.

use super::*;

/// A ring over plain memory, and where its indices are.
pub(crate) struct Plain<T> {
    pub memory: Arc<Memory>,
    pub offsets: Offsets,
    _entry: PhantomData<T>,
}

impl<T: Copy> Plain<T> {
    /// Both indices begin at `start`.
    pub fn new(size: u32, start: u32) -> Plain<T> {
        let offsets = Offsets { producer: 0, consumer: 64, flags: 128, entries: 192 };
        let len = 192 + (size as usize * size_of::<T>()).next_multiple_of(8);
        let words = Box::leak(vec![0u64; len / 8].into_boxed_slice());
        let base = NonNull::from(&mut *words).cast::<u8>();
        struct Owner(NonNull<[u64]>);
        // SAFETY: only freed through it.
        unsafe impl Send for Owner {}
        // SAFETY: as above.
        unsafe impl Sync for Owner {}
        impl Drop for Owner {
            fn drop(&mut self) {
                // SAFETY: leaked above, once.
                drop(unsafe { Box::from_raw(self.0.as_ptr()) });
            }
        }
        let owner = Box::new(Owner(NonNull::from(words)));
        // SAFETY: as long as the owner lives; nobody else has the pointer.
        let memory = Arc::new(unsafe { Memory::new(base, len, owner) });
        let plain = Plain { memory, offsets, _entry: PhantomData };
        plain.word(0).store(start, Ordering::Relaxed);
        plain.word(64).store(start, Ordering::Relaxed);
        plain
    }

    /// One of its words: 0 is the producer's index, 64 the consumer's, 128 the flags.
    pub fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: within the memory, aligned, and lives as long as `self`.
        unsafe { self.memory.at::<AtomicU32>(offset, 1).unwrap().as_ref() }
    }

    pub fn producer(&self, size: u32) -> Producer<T> {
        Producer::new(self.memory.clone(), &self.offsets, size).unwrap()
    }

    pub fn consumer(&self, size: u32) -> Consumer<T> {
        Consumer::new(self.memory.clone(), &self.offsets, size).unwrap()
    }
}
