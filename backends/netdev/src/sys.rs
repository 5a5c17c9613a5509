//! System calls that several modules make.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Takes over a descriptor that a system call returned.
pub(crate) fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
