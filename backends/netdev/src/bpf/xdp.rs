//! Programs at an interface's ingress before everything (XDP), and the map by which they hand frames to AF_XDP sockets.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Kind, LINK_CREATE, Link, Load, MAP_CREATE, MAP_DELETE, MAP_UPDATE, Program, call};
use crate::sys::owned;

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel has made a packet of its own of the frame.
    Native,
    /// Behind the driver, for every interface there is.
    Generic,
}

/// A map from receive queue to AF_XDP socket (`BPF_MAP_TYPE_XSKMAP`).
#[derive(Debug)]
pub struct Sockets(pub(super) OwnedFd);

#[repr(C)]
#[derive(Default)]
pub(super) struct Entry {
    pub map: u32,
    pub pad: u32,
    pub key: u64,
    pub value: u64,
    pub flags: u64,
}

/// `BPF_MAP_TYPE_XSKMAP`.
pub(super) const XSKMAP: u32 = 17;

impl Sockets {
    /// A map for `queues` queues, with no socket in it.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF (and, before Linux 5.11, over the limit of locked memory).
    pub fn new(queues: u32) -> io::Result<Sockets> {
        #[repr(C)]
        #[derive(Default)]
        struct Create {
            kind: u32,
            key_size: u32,
            value_size: u32,
            entries: u32,
            flags: u32,
            inner: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let mut create = Create {
            kind: XSKMAP,
            key_size: 4,
            value_size: 4,
            entries: queues,
            ..Create::default()
        };
        create.name[..7].copy_from_slice(b"anyport");
        owned(call(MAP_CREATE, &mut create)?).map(Sockets)
    }

    /// Frames of that queue go to that socket from now on. The map keeps no socket open.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if it is no AF_XDP socket (before Linux 5.10 also if it has no rings yet); `E2BIG` if there is no such queue.
    pub fn set(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        let socket = socket as u32;
        let mut entry = Entry {
            map: self.0.as_raw_fd() as u32,
            key: (&raw const queue) as u64,
            value: (&raw const socket) as u64,
            ..Entry::default()
        };
        call(MAP_UPDATE, &mut entry).map(drop)
    }

    /// Frames of that queue go to the kernel again.
    ///
    /// # Errors
    /// The system's; none if there was no socket.
    pub fn clear(&self, queue: u32) -> io::Result<()> {
        let mut entry = Entry {
            map: self.0.as_raw_fd() as u32,
            key: (&raw const queue) as u64,
            ..Entry::default()
        };
        match call(MAP_DELETE, &mut entry) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }
}

impl AsRawFd for Sockets {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What an XDP program is loaded for besides its code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XdpOptions {
    /// Frames may lie in several buffers; the program sees the first one at once, and the rest by helpers. (Linux 5.18.)
    pub segments: bool,
    /// The interface that it may be attached to, and to no other: then, in the driver, it can ask for what the driver knows of a
    /// frame besides its bytes. (Linux 6.3.)
    pub bound_to: Option<u32>,
}

impl Program {
    /// Loads a program of [`Kind::Xdp`] as [`load`](Program::load) does, with options.
    ///
    /// # Errors
    /// As [`load`](Program::load); `EINVAL` also where the kernel does not know an option.
    pub fn load_xdp(name: &str, code: &[u64], options: XdpOptions) -> io::Result<Program> {
        const HAS_FRAGS: u32 = 1 << 5;
        const DEVICE_BOUND: u32 = 1 << 6;
        let mut load = Load { kind: Kind::Xdp as u32, ..Load::default() };
        if options.segments {
            load.flags |= HAS_FRAGS;
        }
        if let Some(interface) = options.bound_to {
            load.flags |= DEVICE_BOUND;
            load.interface = interface;
        }
        Program::load_with(load, name, code)
    }

    /// Attaches a program of [`Kind::Xdp`] to an interface (Linux 5.9).
    ///
    /// # Errors
    /// `EBUSY` or `EEXIST` if a program is attached already; `EOPNOTSUPP` (or `EINVAL`) if the driver has no native XDP, or
    /// not with the interface as it is set up; `ENODEV`; `EPERM` without CAP_NET_ADMIN and CAP_BPF.
    pub fn attach_xdp(&self, interface: u32, mode: XdpMode) -> io::Result<Link> {
        const XDP: u32 = 37;
        #[repr(C)]
        struct Create {
            program: u32,
            interface: u32,
            attach_type: u32,
            flags: u32,
        }
        let flags = match mode {
            XdpMode::Generic => 1 << 1,
            XdpMode::Native => 1 << 2,
        };
        let mut create =
            Create { program: self.as_raw_fd() as u32, interface, attach_type: XDP, flags };
        owned(call(LINK_CREATE, &mut create)?).map(Link)
    }
}
