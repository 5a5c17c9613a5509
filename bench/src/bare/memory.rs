//! The memory that frames lie in. Several sockets may register the same memory, each for itself.
//!
//! Invariant: `base..base + frames * SIZE` is mapped as long as the value lives. The kernel writes to it while sockets are
//! open, so it is read and written by copies only.

use std::io;
use std::ptr::NonNull;

/// Bytes of a frame.
pub const SIZE: usize = 2048;

/// Frames.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    frames: usize,
}

// SAFETY: plain memory; all access is through `&self` by copies, as the invariant says.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// So many frames, of zeros.
    ///
    /// # Errors
    /// The system's.
    pub fn new(frames: usize) -> io::Result<Memory> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), frames * SIZE, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { base, frames })
    }

    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Where the memory is, and its length in bytes.
    pub fn region(&self) -> (u64, u64) {
        (self.base.as_ptr() as u64, (self.frames * SIZE) as u64)
    }

    /// Writes to the beginning of a frame.
    ///
    /// # Panics
    /// If there is no such frame, or it is too small.
    pub fn write(&self, frame: usize, bytes: &[u8]) {
        assert!(frame < self.frames && bytes.len() <= SIZE);
        // SAFETY: within the mapping, as was just checked.
        unsafe {
            let to = self.base.add(frame * SIZE).as_ptr();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.frames * SIZE) };
    }
}
