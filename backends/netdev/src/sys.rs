//! System calls that several modules make.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that a system call returned.
///
/// # Errors
/// The system's, if it is no descriptor.
pub fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option of a socket that is a number. It has no room for an address, so it can do no harm to memory.
///
/// # Errors
/// The system's.
pub fn set_number(
    fd: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: four bytes hold no address.
    unsafe { set_option(fd, level, option, &value) }
}

/// Sets an option of a socket to a plain value, as long as the kernel's structure is.
///
/// # Errors
/// The system's.
///
/// # Safety
/// Where the value holds addresses that the kernel reads or writes, then or later, that memory is there for it, as long as the
/// option is set.
pub unsafe fn set_option<T>(
    fd: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is as long as is said.
    let result =
        unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A type of which any bytes are a value: numbers, and structures of them.
///
/// # Safety
/// They are, whatever somebody else writes to it.
pub unsafe trait Plain: Copy {}

// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: so many of them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: nothing but numbers.
unsafe impl Plain for libc::xdp_mmap_offsets {}

/// Reads an option of a socket into a plain value; how many bytes the kernel wrote.
///
/// # Errors
/// The system's.
pub fn get_option<T: Plain>(
    fd: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut T,
) -> io::Result<usize> {
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value has as much room as is said, and whatever is written is one of its type.
    let result =
        unsafe { libc::getsockopt(fd, level, option, std::ptr::from_mut(value).cast(), &mut size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(size as usize) }
}
