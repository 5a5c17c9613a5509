//! The memory of a pool: a memfd, mapped once, populated at once.
//!
//! Huge pages come from the kernel's pool of 2 MiB pages (`vm.nr_hugepages`). Traps: a mapping of huge pages
//! succeeds where the pages are not there and kills the process with SIGBUS at first touch; populating with
//! `MADV_POPULATE_WRITE` (Linux 5.14) makes the shortage an error instead, from which normal pages are the
//! fallback (contract F7). `MADV_DONTFORK`: a child must not share pages that a device writes to. The file's size is
//! sealed: whoever shrank it would kill the process with SIGBUS, too.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whether a pool uses 2 MiB pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HugePages {
    /// Where they can be had; falling back to normal pages is said once, in the log.
    #[default]
    Auto,
    /// Or the pool is not made.
    Required,
    /// Never.
    Off,
}

const HUGE_PAGE: usize = 2 << 20;

/// A mapped memfd. Invariant: `base..base + len` is mapped readable and writable from `new` to `drop`.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
    memfd: OwnedFd,
    pub page_size: usize,
    pub huge: bool,
}

// SAFETY: the mapping belongs to the value; who may touch which part of it is decided by who owns which frame.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub fn new(bytes: usize, huge: HugePages, numa_node: Option<u32>) -> Result<Region> {
        if huge != HugePages::Off {
            match Region::map(bytes, HUGE_PAGE, true, numa_node) {
                Ok(region) => return Ok(region),
                Err(error) => {
                    let pages = bytes.div_ceil(HUGE_PAGE);
                    let remedy =
                        format!("sysctl -w vm.nr_hugepages={pages} reserves enough for this pool");
                    if huge == HugePages::Required {
                        let reason = format!("no {pages} huge pages of 2 MiB ({error}); {remedy}");
                        return Err(Error::Pool { reason });
                    }
                    said_once(&format!(
                        "no {pages} huge pages of 2 MiB for a pool ({error}): using normal pages; {remedy}"
                    ));
                }
            }
        }
        let (page, memory) =
            (system(libc::_SC_PAGESIZE, 4096), system(libc::_SC_PHYS_PAGES, 1 << 40));
        // Populating more than there is would not fail: the kernel would kill some process for it.
        let memory = memory.saturating_mul(page);
        if bytes > memory {
            let reason = format!(
                "{bytes} bytes of memory, and the machine has {memory}: fewer or smaller frames fit"
            );
            return Err(Error::Pool { reason });
        }
        Region::map(bytes, page, false, numa_node)
            .map_err(|error| Error::Pool { reason: format!("{bytes} bytes of memory: {error}") })
    }

    fn map(bytes: usize, page: usize, huge: bool, numa_node: Option<u32>) -> io::Result<Region> {
        let len = bytes.next_multiple_of(page);
        let pages = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
        let flags = pages | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"anyport-pool".as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let memfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let size =
            libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        // SAFETY: a valid descriptor and a non-negative size.
        if unsafe { libc::ftruncate(memfd.as_raw_fd(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: a valid descriptor. A kernel that refuses leaves the size to whoever is given the descriptor.
        unsafe { libc::fcntl(memfd.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                memfd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // From here on, an early return unmaps.
        let region = Region { base, len, memfd, page_size: page, huge };
        if let Some(node) = numa_node {
            region.bind_to(node)?;
        }
        region.advise(libc::MADV_DONTFORK)?;
        if let Err(error) = region.advise(libc::MADV_POPULATE_WRITE) {
            // Before Linux 5.14 normal pages are populated as they are touched; huge pages would be a risk.
            if huge || error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
        Ok(region)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is mapped.
        match unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn bind_to(&self, node: u32) -> io::Result<()> {
        const MPOL_BIND: libc::c_ulong = 2;
        let mask: [libc::c_ulong; 16] =
            std::array::from_fn(
                |word| {
                    if node as usize / 64 == word { 1 << (node % 64) } else { 0 }
                },
            );
        // SAFETY: the range is mapped, and the mask has the 1024 bits that `maxnode` says (less one, as
        // set_mempolicy(2) has it).
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.len,
                MPOL_BIND,
                mask.as_ptr(),
                mask.len() * 64,
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => {
                let error = io::Error::last_os_error();
                Err(io::Error::new(error.kind(), format!("memory on NUMA node {node}: {error}")))
            }
        }
    }

    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nobody uses it any more: the pool's reference count is zero.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What the system says of itself, or something else if it does not say.
fn system(what: libc::c_int, otherwise: usize) -> usize {
    // SAFETY: sysconf has no preconditions.
    usize::try_from(unsafe { libc::sysconf(what) }).unwrap_or(otherwise)
}

/// Falling back is worth a line, not one per pool.
fn said_once(message: &str) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| tracing::info!("{message}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_machine_has_is_refused_and_not_touched() {
        for huge in [HugePages::Off, HugePages::Auto] {
            let error = Region::new(1 << 52, huge, None).err().unwrap().to_string();
            assert!(error.contains("4503599627370496 bytes"), "{error}");
        }
        assert!(Region::new(1 << 16, HugePages::Off, None).is_ok());
    }
}
