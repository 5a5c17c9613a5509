//! Packet sockets: what they let through, what they ask of the interface, what they count.
//!
//! Memberships and filters die with the socket, so with the process (contract R6, L8); interface flags would stay.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyport::MacAddr;

use crate::bpf::Program;
use crate::sys::{get_option, owned, set_number, set_option};

/// Whether this thread may open a packet socket, as far as CAP_NET_RAW goes.
///
/// What is opened is a raw IP socket, which asks for the same capability in the same namespace: to hold it somewhere is not
/// enough (in a user namespace it may not be valid for the network namespace), and a packet socket takes some milliseconds,
/// since the kernel waits for all processors before it lets one go. Where it is refused, the packet socket has the last word.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW; the system's.
pub fn may_open() -> io::Result<()> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let raw = owned(unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_RAW) });
    raw.map(drop).or_else(|_| try_open())
}

/// Tries to open a packet socket, since a security module may refuse what capabilities allow.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW; the system's.
pub fn try_open() -> io::Result<()> {
    idle().map(drop)
}

/// A packet socket that receives nothing: for the memberships that live as long as it.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW; the system's.
pub fn idle() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // No protocol: it is bound to nothing. SAFETY: no pointers.
    owned(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })
}

/// The port's own frames, and those of the host, do not come back to this socket (`packet(7)`, Linux 4.20).
///
/// # Errors
/// The system's.
pub fn ignore_outgoing(fd: RawFd) -> io::Result<()> {
    set_number(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
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
    // SAFETY: no addresses of memory.
    unsafe { set_option(fd, libc::SOL_PACKET, option, &request) }
}

/// Changes what passes a filter, by `apply`, and with it whether everything is received, if `switch` says so: more is received before
/// more passes, and less after less does, so that nothing is missed between the two (contract R6). What fails changes nothing.
///
/// # Errors
/// Those of `receive_all`, which joins or leaves, and of `apply`.
pub fn with_filter<E>(
    switch: Option<bool>,
    receive_all: impl Fn(bool) -> Result<(), E>,
    apply: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    if switch == Some(true) {
        receive_all(true)?;
    }
    if let Err(error) = apply() {
        if switch == Some(true) {
            let _ = receive_all(false);
        }
        return Err(error);
    }
    if switch == Some(false) {
        receive_all(false)?;
    }
    Ok(())
}

/// Lets nothing through.
///
/// # Errors
/// The system's.
pub fn reject_all(fd: RawFd) -> io::Result<()> {
    attach(fd, &mut [ret(0)])
}

/// Lets the first `snap` bytes through of frames that are a port's by their address (contract R6): own unicast and group
/// addresses, or everything.
///
/// # Errors
/// The system's.
pub fn accept_by_address(fd: RawFd, own: MacAddr, promiscuous: bool, snap: u32) -> io::Result<()> {
    let [a, b, c, d, e, f] = own.0;
    let load = |size, at| op(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, at);
    let test = |kind, value, yes, no| op(libc::BPF_JMP | kind | libc::BPF_K, yes, no, value);
    let mut filter = [
        load(libc::BPF_B, 0),
        test(libc::BPF_JSET, 1, 4, 0),
        load(libc::BPF_W, 0),
        test(libc::BPF_JEQ, u32::from_be_bytes([a, b, c, d]), 0, 3),
        load(libc::BPF_H, 4),
        test(libc::BPF_JEQ, u32::from(u16::from_be_bytes([e, f])), 0, 1),
        ret(snap),
        ret(0),
    ];
    let start = if promiscuous { 6 } else { 0 };
    attach(fd, &mut filter[start..])
}

/// Lets through what the program says.
///
/// # Errors
/// The system's.
pub fn accept_by_program(fd: RawFd, program: &Program) -> io::Result<()> {
    set_number(fd, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd())
}

fn op(code: u32, yes: u8, no: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: yes, jf: no, k: value }
}

fn ret(bytes: u32) -> libc::sock_filter {
    op(libc::BPF_RET | libc::BPF_K, 0, 0, bytes)
}

/// Replaces the socket's filter at once; the kernel copies it.
fn attach(fd: RawFd, filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads the filter within the call, and it is as long as is said.
    unsafe { set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }
}

/// How many frames the socket's ring had no room for since this was last asked.
///
/// The kernel counts 32 bits and begins anew with every question, so there must be one asker, who adds up.
///
/// # Errors
/// The system's.
pub fn take_drops(fd: RawFd) -> io::Result<u32> {
    // What arrived, and what of it was dropped.
    let mut statistics = [0u32; 2];
    get_option(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut statistics)?;
    Ok(statistics[1])
}

/// The index of the interface that the socket is bound to, `None` if that is gone: deleted, or moved to another namespace
/// (also if it has come back since, for the socket does not come back to it).
///
/// # Errors
/// The system's.
pub fn bound_to(fd: RawFd) -> io::Result<Option<u32>> {
    // SAFETY: an all-zero sockaddr_ll is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address has as much room as is said.
    let result =
        unsafe { libc::getsockname(fd, std::ptr::from_mut(&mut address).cast(), &mut size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(address.sll_ifindex).ok().filter(|index| *index > 0))
}
