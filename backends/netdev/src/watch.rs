//! Changes of links, as a descriptor to sleep on.
//!
//! Trap: it tells of every interface of the namespace, so it says only that it is time to look.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::owned;

/// Becomes readable when any interface of the namespace changes.
#[derive(Debug)]
pub struct LinkWatch(OwnedFd);

impl LinkWatch {
    /// Watches the interfaces of the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's, when descriptors have run out.
    pub fn new() -> io::Result<LinkWatch> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let socket = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
        // SAFETY: an all-zero sockaddr_nl is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let size = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address is as long as is said.
        let result =
            unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(LinkWatch(socket)) }
    }

    /// Throws the messages away; whether there were any. What changed is asked for, so an overrun loses nothing.
    pub fn drain(&self) -> bool {
        let mut buffer = [0u8; 4096];
        let mut any = false;
        // Bounded, so that a storm of changes does not keep the queue here.
        for _ in 0..1000 {
            // SAFETY: the buffer is as long as is said.
            let got = unsafe {
                libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            if got < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOBUFS) {
                break;
            }
            any = true;
        }
        any
    }
}

impl AsRawFd for LinkWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
