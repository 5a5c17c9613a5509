//! What libpcap does not offer on its packet socket, and the sockets beside it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyport::{Burst, Packet};

/// Packets that one system call sends.
pub(crate) const BATCH: usize = 64;

/// Segments of those packets, all together.
const PIECES: usize = 256;

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option<T>(fd: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is as long as is said.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The port's own frames, and those of the host, do not come back to this socket (`packet(7)`, Linux 4.20).
pub(crate) fn ignore_outgoing(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::PACKET_IGNORE_OUTGOING, &1 as &libc::c_int)
}

/// What a membership asks the interface for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Membership {
    Promiscuous,
    AllMulticast,
}

/// Joins or leaves; the kernel leaves by itself when the socket goes.
pub(crate) fn membership(fd: RawFd, index: u32, kind: Membership, join: bool) -> io::Result<()> {
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

/// Becomes readable when any interface of the namespace changes.
pub(crate) struct LinkWatch(OwnedFd);

impl LinkWatch {
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

    /// Throws the messages away: what changed is asked for, so an overrun loses nothing.
    pub fn drain(&self) {
        let mut buffer = [0u8; 4096];
        // Bounded, so that a storm of changes does not keep the queue here.
        for _ in 0..1000 {
            // SAFETY: the buffer is as long as is said.
            let got = unsafe {
                libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            if got < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOBUFS) {
                break;
            }
        }
    }
}

impl AsRawFd for LinkWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Messages for `sendmmsg`, made once.
pub(crate) struct Batch {
    messages: Box<[libc::mmsghdr; BATCH]>,
    pieces: Box<[libc::iovec; PIECES]>,
}

// SAFETY: the pointers inside are written anew by every call of `send`, and used only within it.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new() -> Batch {
        // SAFETY: all-zero headers and vectors are valid, and empty.
        unsafe {
            Batch { messages: Box::new(std::mem::zeroed()), pieces: Box::new(std::mem::zeroed()) }
        }
    }

    /// Sends up to `count` packets from the front of the burst in one system call, without waiting; how many the kernel
    /// took. The packets stay in the burst.
    ///
    /// # Errors
    /// The first packet's: none was taken then.
    pub fn send(&mut self, fd: RawFd, burst: &Burst, count: usize) -> io::Result<usize> {
        let (mut messages, mut used) = (0, 0);
        for packet in &burst[..count.min(BATCH)] {
            let start = used;
            for segment in packet.segments() {
                let Some(piece) = self.pieces.get_mut(used) else { break };
                // The kernel only reads through it.
                *piece = libc::iovec {
                    iov_base: segment.as_ptr().cast_mut().cast(),
                    iov_len: segment.len(),
                };
                used += 1;
            }
            if used - start < Packet::segment_count(packet) {
                break;
            }
            let header = &mut self.messages[messages].msg_hdr;
            header.msg_iov = &mut self.pieces[start];
            header.msg_iovlen = used - start;
            messages += 1;
        }
        // SAFETY: that many headers were filled in; they point into `pieces` and the burst's packets, which live on.
        let sent = unsafe {
            libc::sendmmsg(
                fd,
                self.messages.as_mut_ptr(),
                messages as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

/// Keeps received frames from the host's stack: a two-instruction program at the interface's ingress (tcx, Linux 6.6). Packet
/// sockets have their copy by then. It goes with the descriptor, so with the process.
pub(crate) fn silence(index: u32) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    const LINK_CREATE: libc::c_long = 28;
    const SCHED_CLS: u32 = 3;
    const TCX_INGRESS: u32 = 46;
    /// `mov r0, TCX_DROP` and `exit`.
    const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
        rest: [u32; 11],
        attach_type: u32,
        pad: u32,
    }
    #[repr(C)]
    struct Create {
        program: u32,
        index: u32,
        attach_type: u32,
        flags: u32,
        relative: [u64; 2],
    }
    fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
        // SAFETY: the attributes are as long as is said, and point to memory that lives on.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
        };
        owned(fd as libc::c_int)
    }
    let program = bpf(
        PROG_LOAD,
        &Load {
            kind: SCHED_CLS,
            instructions: PROGRAM.len() as u32,
            program: PROGRAM.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            rest: [0; 11],
            attach_type: TCX_INGRESS,
            pad: 0,
        },
    )?;
    let program = program.as_raw_fd() as u32;
    bpf(
        LINK_CREATE,
        &Create { program, index, attach_type: TCX_INGRESS, flags: 0, relative: [0; 2] },
    )
}
