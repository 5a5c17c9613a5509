//! Packet sockets: what they ask of the interface.
//!
//! Memberships die with the socket, so with the process (contract R6, L8); interface flags would stay.

use std::io;
use std::os::fd::RawFd;

fn set_option<T>(fd: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is as long as is said.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The port's own frames, and those of the host, do not come back to this socket (`packet(7)`, Linux 4.20).
///
/// # Errors
/// The system's.
pub fn ignore_outgoing(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::PACKET_IGNORE_OUTGOING, &1 as &libc::c_int)
}

/// What a membership asks the interface for.
#[derive(Debug, Clone, Copy)]
pub enum Membership {
    /// Every frame.
    Promiscuous,
    /// Every frame to a group address.
    AllMulticast,
}

/// Joins or leaves; the kernel leaves by itself when the socket goes.
///
/// # Errors
/// The system's.
pub fn membership(fd: RawFd, index: u32, kind: Membership, join: bool) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index as libc::c_int,
        mr_type: match kind {
            Membership::Promiscuous => libc::PACKET_MR_PROMISC,
            Membership::AllMulticast => libc::PACKET_MR_ALLMULTI,
        } as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let option = if join { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
    set_option(fd, option, &request)
}
