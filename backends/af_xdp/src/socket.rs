//! One AF_XDP socket: a queue's four rings, and the memory that it shares with the others of its port.
//!
//! The system calls and nothing else: no policy, no packets. Sources: `Documentation/networking/af_xdp.rst`,
//! `include/uapi/linux/if_xdp.h`, `net/xdp/xsk.c`.
//!
//! Traps:
//! - The order is fixed: memory, fill and completion ring, receive and transmit ring, entries in the fill ring, bind.
//! - A socket that shares another's memory on a different queue inherits all that the other one's bind said, and must say
//!   nothing of its own.
//! - The kernel lets a queue go a moment after its socket was closed: `EBUSY` from `bind` may mean no more than that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use anyport::pool::PoolRegion;
use anyport_netdev::sys::{get_option, owned, set_number, set_option};

use crate::ring::{Consumer, Memory, Offsets, Producer};

/// A frame in the receive or transmit ring.
pub(crate) type Descriptor = libc::xdp_desc;

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): frames that one system call may send in copy mode; 32 without it.
const MAX_TX_BUDGET: libc::c_int = 9;

/// Frames that one system call sends in copy mode where the kernel cannot be asked for more.
pub(crate) const TX_BUDGET: u32 = 32;

/// What the kernel has counted since the socket was made (`struct xdp_statistics`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Frames dropped for other reasons than those below; in copy mode also for [`fill_empty`](Statistics::fill_empty).
    pub dropped: u64,
    /// Descriptors in the fill ring that the kernel did not take.
    pub invalid_fill: u64,
    /// Descriptors in the transmit ring that the kernel did not take.
    pub invalid_tx: u64,
    /// Frames dropped because the receive ring was full.
    pub ring_full: u64,
    /// Frames dropped because the fill ring was empty.
    pub fill_empty: u64,
    /// Looks at an empty transmit ring: no loss.
    pub tx_empty: u64,
}

/// How a bind asks for the device (`sxdp_flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding {
    pub interface: u32,
    pub queue: u32,
    /// Insist on zero-copy or on copy mode; `None` leaves it to the driver.
    pub zero_copy: Option<bool>,
    /// Frames may lie in several descriptors.
    pub segments: bool,
}

/// An open socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// A socket without anything.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW; `EAFNOSUPPORT` if the kernel has no AF_XDP.
    pub fn new() -> io::Result<Socket> {
        // SAFETY: no pointers.
        owned(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })
            .map(Socket)
    }

    /// Makes a pool's memory the socket's.
    ///
    /// # Errors
    /// `ENOBUFS` over the limit of locked memory; `EINVAL` if the kernel does not take frames of that size.
    ///
    /// # Safety
    /// The pool lives as long as any socket that shares its memory, and the rings of such sockets are given frames alone that are lent
    /// to them.
    pub unsafe fn register(&self, region: PoolRegion<'_>, frame_size: usize) -> io::Result<()> {
        // No head room of the driver's own but the kernel's.
        #[repr(C)]
        struct Register {
            address: u64,
            length: u64,
            frame_size: u32,
            headroom: u32,
            flags: u32,
            // Kernels from 6.8 on look at it, some of them whatever the flags say; it must not be padding.
            tx_metadata_length: u32,
        }
        let register = Register {
            address: region.base() as u64,
            length: region.len() as u64,
            frame_size: frame_size as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_length: 0,
        };
        // SAFETY: the caller vouches for the memory.
        unsafe { set_option(self.as_raw_fd(), libc::SOL_XDP, libc::XDP_UMEM_REG, &register) }
    }

    /// Makes the fill ring.
    ///
    /// # Errors
    /// The system's.
    pub fn fill_ring(&self, size: u32) -> io::Result<Producer<u64>> {
        let page = libc::XDP_UMEM_PGOFF_FILL_RING;
        let (memory, offsets) =
            self.ring::<u64>(libc::XDP_UMEM_FILL_RING, page, size, |all| all.fr)?;
        Producer::new(memory, &offsets, size).ok_or_else(odd)
    }

    /// Makes the completion ring.
    ///
    /// # Errors
    /// The system's.
    pub fn completion_ring(&self, size: u32) -> io::Result<Consumer<u64>> {
        let page = libc::XDP_UMEM_PGOFF_COMPLETION_RING;
        let (memory, offsets) =
            self.ring::<u64>(libc::XDP_UMEM_COMPLETION_RING, page, size, |all| all.cr)?;
        Consumer::new(memory, &offsets, size).ok_or_else(odd)
    }

    /// Makes the receive ring.
    ///
    /// # Errors
    /// The system's.
    pub fn receive_ring(&self, size: u32) -> io::Result<Consumer<Descriptor>> {
        let page = libc::XDP_PGOFF_RX_RING as u64;
        let (memory, offsets) =
            self.ring::<Descriptor>(libc::XDP_RX_RING, page, size, |all| all.rx)?;
        Consumer::new(memory, &offsets, size).ok_or_else(odd)
    }

    /// Makes the transmit ring.
    ///
    /// # Errors
    /// The system's.
    pub fn transmit_ring(&self, size: u32) -> io::Result<Producer<Descriptor>> {
        let page = libc::XDP_PGOFF_TX_RING as u64;
        let (memory, offsets) =
            self.ring::<Descriptor>(libc::XDP_TX_RING, page, size, |all| all.tx)?;
        Producer::new(memory, &offsets, size).ok_or_else(odd)
    }

    /// Makes a ring of `size` entries (a power of two), and maps it.
    fn ring<T>(
        &self,
        option: libc::c_int,
        page: u64,
        size: u32,
        of: impl FnOnce(&libc::xdp_mmap_offsets) -> libc::xdp_ring_offset,
    ) -> io::Result<(Arc<Memory>, Offsets)> {
        self.set(option, size)?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut all: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        let length = get_option(self.as_raw_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut all)?;
        if length != size_of::<libc::xdp_mmap_offsets>() {
            // Before Linux 5.4 there are no flags.
            return Err(io::ErrorKind::Unsupported.into());
        }
        let of = of(&all);
        let offsets = Offsets {
            producer: of.producer,
            consumer: of.consumer,
            entries: of.desc,
            flags: of.flags,
        };
        let length = of.desc as usize + size as usize * size_of::<T>();
        let mapping = Mapping::new(self.as_raw_fd(), page, length)?;
        let base = mapping.base;
        // SAFETY: mapped as long as the mapping lives, and the kernel's and the ring's alone.
        Ok((Arc::new(unsafe { Memory::new(base, length, Box::new(mapping)) }), offsets))
    }

    /// Takes up a queue of an interface. With `share`, on the memory of that socket, which is bound already.
    ///
    /// # Errors
    /// `EBUSY` if the queue is taken (or was a moment ago); `EOPNOTSUPP` without zero-copy in the driver; `ENETDOWN`;
    /// `EINVAL` if there is no such queue; `ERANGE` if the interface's MTU is too large for one frame.
    pub fn bind(&self, binding: &Binding, share: Option<&Socket>) -> io::Result<()> {
        let mut flags = 0;
        if share.is_some() {
            flags = libc::XDP_SHARED_UMEM;
        } else {
            flags |= libc::XDP_USE_NEED_WAKEUP;
            flags |= match binding.zero_copy {
                Some(true) => libc::XDP_ZEROCOPY,
                Some(false) => libc::XDP_COPY,
                None => 0,
            };
            if binding.segments {
                flags |= libc::XDP_USE_SG;
            }
        }
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: binding.interface,
            sxdp_queue_id: binding.queue,
            sxdp_shared_umem_fd: share.map_or(0, |socket| socket.as_raw_fd() as u32),
        };
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is as long as is said.
        let result = unsafe { libc::bind(self.as_raw_fd(), (&raw const address).cast(), length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether the bound socket is in zero-copy mode.
    ///
    /// # Errors
    /// The system's.
    pub fn is_zero_copy(&self) -> io::Result<bool> {
        let mut options = 0u32;
        get_option(self.as_raw_fd(), libc::SOL_XDP, libc::XDP_OPTIONS, &mut options)?;
        Ok(options & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// Lets one system call send so many frames in copy mode; how many it is.
    pub fn raise_tx_budget(&self, frames: u32) -> u32 {
        match self.set(MAX_TX_BUDGET, frames) {
            Ok(()) => frames,
            Err(_) => TX_BUDGET,
        }
    }

    /// Bytes of frames on their way that the kernel holds in copy mode: enough for a full ring, or without CAP_NET_ADMIN what
    /// `net.core.wmem_max` allows, unless that is less than it is already.
    pub fn set_send_buffer(&self, bytes: libc::c_int) {
        let set = |option, bytes: libc::c_int| {
            set_number(self.as_raw_fd(), libc::SOL_SOCKET, option, bytes)
        };
        if set(libc::SO_SNDBUFFORCE, bytes).is_ok() {
            return;
        }
        let now = || {
            let mut now: libc::c_int = 0;
            let _ = get_option(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &mut now);
            now
        };
        // The kernel doubles what it is told.
        if now() / 2 < bytes {
            let before = now();
            let _ = set(libc::SO_SNDBUF, bytes);
            if now() < before {
                let _ = set(libc::SO_SNDBUF, before / 2);
            }
        }
    }

    /// Has the driver's work done within this process's system calls (Linux 5.11), up to `budget` frames each time, and its
    /// interrupts left off in between, as far as the interface's `napi_defer_hard_irqs` and `gro_flush_timeout` allow. A call that
    /// waits would poll for `micros`; those that this type makes do not wait, so any number but 0 is the same to them.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN; `ENOPROTOOPT` before Linux 5.11.
    pub fn busy_poll(&self, micros: u32, budget: u32) -> io::Result<()> {
        // Newer than what `libc` has.
        const SO_PREFER_BUSY_POLL: libc::c_int = 69;
        const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
        let set = |option, value: u32| {
            set_number(self.as_raw_fd(), libc::SOL_SOCKET, option, value as libc::c_int)
        };
        set(SO_PREFER_BUSY_POLL, 1)?;
        set(libc::SO_BUSY_POLL, micros)?;
        set(SO_BUSY_POLL_BUDGET, budget)
    }

    /// The error that the kernel has noted for the socket, which is forgotten by that: `ENETDOWN` once its interface was
    /// unregistered, also if it is there again, for the socket is bound to nothing from then on.
    pub fn take_error(&self) -> Option<i32> {
        let mut error: libc::c_int = 0;
        let read = get_option(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, &mut error);
        read.ok().filter(|_| error != 0).map(|_| error)
    }

    /// What the kernel has counted.
    ///
    /// # Errors
    /// The system's.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let mut all = [0u64; 6];
        // Older kernels know the first three only.
        get_option(self.as_raw_fd(), libc::SOL_XDP, libc::XDP_STATISTICS, &mut all)?;
        let [dropped, invalid_fill, invalid_tx, ring_full, fill_empty, tx_empty] = all;
        Ok(Statistics { dropped, invalid_fill, invalid_tx, ring_full, fill_empty, tx_empty })
    }

    /// Wakes the transmit side: in copy mode the kernel sends within the call.
    ///
    /// # Errors
    /// `EAGAIN` if it has not sent everything; `EBUSY` if it lost a frame; `ENETDOWN`; `ENXIO` if the interface is gone.
    pub fn kick_tx(&self) -> io::Result<()> {
        let none = std::ptr::null();
        // SAFETY: nothing is passed.
        let sent =
            unsafe { libc::sendto(self.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Wakes the receive side: the driver looks at the fill ring again.
    ///
    /// # Errors
    /// `ENETDOWN`; `ENXIO` if the interface is gone.
    pub fn kick_rx(&self) -> io::Result<()> {
        let none = std::ptr::null_mut();
        // SAFETY: nothing is passed.
        let received = unsafe {
            libc::recvfrom(self.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), none.cast())
        };
        match received {
            0.. => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EAGAIN) => Ok(()),
                error => Err(error),
            },
        }
    }

    fn set(&self, option: libc::c_int, value: u32) -> io::Result<()> {
        set_number(self.as_raw_fd(), libc::SOL_XDP, option, value as libc::c_int)
    }
}

/// One that somebody else has made.
impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Socket {
        Socket(fd)
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.0
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel described a ring that does not lie in what it mapped.
fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel describes a ring that is none")
}

/// A ring's memory in this process. Invariant: `base..base + length` is mapped until it is dropped.
struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is the value's; what is in it is used through rings.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: RawFd, page: u64, length: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, page as libc::off_t)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no ring uses it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
