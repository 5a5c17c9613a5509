//! The size of libpcap's ring.
//!
//! libpcap takes a size in bytes and divides it into slots in its own way: a slot for each frame, several slots to a block of
//! 2^n pages, as many whole blocks as fit. So that the configured number of frames fits, its arithmetic is done here,
//! backwards; and since it silently takes a smaller ring where memory is short, what it got is looked at afterwards.

use std::os::fd::RawFd;

use anyport::{Error, Result};

/// Bytes in front of a frame in its slot: the kernel's header and address, room for the longest link header, and for a tag
/// that libpcap puts back; of these, the link header is the frame's own (`create_ring` in libpcap's `pcap-linux.c`).
const IN_FRONT: usize = 68;
const ALIGN: usize = 16;

/// A ring of at least so many slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ring {
    /// The size to ask libpcap for.
    pub bytes: i32,
    /// The memory that this comes to.
    pub memory: usize,
    /// The slots.
    pub slots: usize,
}

impl Ring {
    /// The ring for `frames` frames of at most `snap` bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if that is more than libpcap can be asked for.
    pub fn new(device: &str, frames: u32, snap: usize) -> Result<Ring> {
        // SAFETY: no pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize;
        let slot = (IN_FRONT + snap).next_multiple_of(ALIGN);
        let block = slot.div_ceil(page).next_power_of_two() * page;
        let per_block = block / slot;
        let blocks = (frames as usize).div_ceil(per_block);
        let slots = blocks * per_block;
        let Ok(bytes) = i32::try_from(slots * slot) else {
            let most = i32::MAX as usize / slot / per_block * per_block;
            return Err(Error::Unsupported {
                device: device.into(),
                field: "rx_ring".into(),
                asked: frames.to_string(),
                limit: format!("at this maximum frame, {most} frames are the most"),
            });
        };
        Ok(Ring { bytes, memory: blocks * block, slots })
    }

    /// Refuses a ring that came out smaller.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with how many frames there was memory for.
    pub fn check(&self, device: &str, fd: RawFd, asked: u32) -> Result<()> {
        match mapped(fd) {
            Some(got) if got < self.memory => {
                let frames = self.slots * got / self.memory;
                Err(Error::Unsupported {
                    device: device.into(),
                    field: "rx_ring".into(),
                    asked: asked.to_string(),
                    limit: format!("the kernel found memory for {frames} frames of that length"),
                })
            }
            _ => Ok(()),
        }
    }
}

/// How much of that socket's ring is in this process's memory; `None` if that cannot be seen.
fn mapped(fd: RawFd) -> Option<usize> {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata(format!("/proc/self/fd/{fd}")).ok()?.ino();
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let sizes = maps.lines().filter_map(|line| size_of_mapping(line, inode));
    sizes.reduce(|a, b| a + b)
}

/// The size of one mapping, if it is of that socket.
fn size_of_mapping(line: &str, inode: u64) -> Option<usize> {
    // Addresses, permissions, offset, device, inode, name.
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let found: u64 = words.nth(3)?.parse().ok()?;
    if found != inode || !words.next()?.starts_with("socket:") {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    address(end)?.checked_sub(address(start)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_hold_the_frames() {
        // Two slots of 1600 bytes to a page.
        let ring = |frames, snap| Ring::new("pcap:x", frames, snap).unwrap();
        assert_eq!(ring(512, 1518), Ring { bytes: 512 * 1600, memory: 256 * 4096, slots: 512 });
        assert_eq!(ring(513, 1518), Ring { bytes: 514 * 1600, memory: 257 * 4096, slots: 514 });
        // One slot to a block of four pages; many to a page.
        assert_eq!(ring(100, 9018), Ring { bytes: 100 * 9088, memory: 100 * 16384, slots: 100 });
        assert_eq!(ring(16, 86), Ring { bytes: 25 * 160, memory: 4096, slots: 25 });
        let error = Ring::new("pcap:x", 65536, 65535).unwrap_err().to_string();
        assert!(error.contains("`rx_ring` = 65536") && error.contains("32728 frames"), "{error}");
        assert_eq!(ring(32728, 65535).slots, 32728);
    }

    #[test]
    fn a_mapping_is_known_by_its_socket() {
        let line = "7f0000000000-7f0000100000 rw-s 00000000 00:08 4711                       socket:[4711]";
        assert_eq!(size_of_mapping(line, 4711), Some(1 << 20));
        assert_eq!(size_of_mapping(line, 4712), None);
        let file =
            "7f0000000000-7f0000100000 r--p 00000000 00:08 4711                       /lib/x";
        assert_eq!((size_of_mapping(file, 4711), size_of_mapping("", 1)), (None, None));
    }
}
