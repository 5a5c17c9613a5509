//! What the two queues of a live port share: libpcap's capture on a packet socket.
//!
//! The capture is opened as a port would be: at one instant. Until everything is set up the socket lets nothing through and
//! what had come before is thrown away; from that instant on a frame is delivered or counted (contract L7, R8).
//!
//! Locks are taken in the order capture, filter.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyport::driver::Setup;
use anyport::{Counters, Error, MacAddr, Result};
use anyport_netdev::bpf::{Kind, Program};
use anyport_netdev::error::{explain, gone};
use anyport_netdev::privilege::{Privilege, denied};
use anyport_netdev::{Ask, Interface, Membership, ToKernel, packet_socket};
use pcap::{Active, Capture, Precision};

use super::ring::Ring;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a port has dropped since it was opened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub too_long: AtomicU64,
    pub no_buffer: AtomicU64,
    pub tx_dropped: AtomicU64,
    pub tx_dropped_bytes: AtomicU64,
    /// Frames that found the ring full. The kernel's own count has 32 bits, and is what came since it was last read.
    ring_full: Mutex<u64>,
}

impl Counts {
    pub fn rx(&self) -> Counters {
        let mut counters = Counters::default();
        counters.rx_ring_full = Some(*lock(&self.ring_full));
        counters.rx_too_long = Some(self.too_long.load(Ordering::Relaxed));
        counters.rx_no_buffer = Some(self.no_buffer.load(Ordering::Relaxed));
        counters
    }

    pub fn tx(&self) -> Counters {
        let mut counters = Counters::default();
        counters.tx_dropped = Some(self.tx_dropped.load(Ordering::Relaxed));
        counters.tx_dropped_bytes = Some(self.tx_dropped_bytes.load(Ordering::Relaxed));
        counters
    }
}

/// What the kernel lets through to the port (contract R6, R13).
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub mac: MacAddr,
    pub promiscuous: bool,
    /// What goes to the host's stack instead.
    pub to_kernel: ToKernel,
}

/// A port's socket, from start to stop.
pub(super) struct Socket {
    pub title: String,
    interface: Interface,
    /// Flags know of the loss of a carrier at once.
    prompt: bool,
    /// The longest frame that is delivered, with its tag.
    pub max: usize,
    frames: u32,
    ring: Ring,
    capture: Mutex<Option<Capture<Active>>>,
    filter: Mutex<Filter>,
    /// The interface passes on all VLAN identifiers only if it is to pass on everything.
    needs_promiscuous: bool,
    /// The capture's descriptor, -1 as long as there is none; it stays the same from then on.
    fd: AtomicI32,
    pub counts: Arc<Counts>,
}

impl Socket {
    pub fn new(
        title: &str,
        interface: Interface,
        prompt: bool,
        filter: Filter,
        needs_promiscuous: bool,
        setup: &Setup<'_>,
        counts: Arc<Counts>,
    ) -> Result<Socket> {
        let max = setup.max_frame + 4;
        Ok(Socket {
            title: title.into(),
            interface,
            prompt,
            max,
            frames: setup.rx_ring,
            ring: Ring::new(title, setup.rx_ring, max)?,
            capture: Mutex::new(None),
            filter: Mutex::new(filter),
            needs_promiscuous,
            fd: AtomicI32::new(-1),
            counts,
        })
    }

    fn explain(&self, doing: &str, error: std::io::Error) -> Error {
        explain(&self.title, doing, error)
    }

    /// The socket, once the interface has been up.
    pub fn fd(&self) -> Option<RawFd> {
        Some(self.fd.load(Ordering::Acquire)).filter(|fd| *fd >= 0)
    }

    /// The capture, for the receive queue.
    pub fn capture(&self) -> MutexGuard<'_, Option<Capture<Active>>> {
        lock(&self.capture)
    }

    /// Whether frames can pass. Opens the capture if it is only now that the interface is up.
    pub fn link_up(&self, ask: Ask) -> Result<bool> {
        let reading = |error| self.explain("reading the link", error);
        if let Some(fd) = self.fd()
            && packet_socket::bound_to(fd).map_err(reading)? != Some(self.interface.index())
        {
            return Err(gone(&self.title));
        }
        let flags = self.interface.flags().map_err(reading)?;
        if !(flags.up && self.open_if_up()?) {
            return Ok(false);
        }
        self.interface.can_pass(flags, self.prompt, ask).map_err(reading)
    }

    /// Opens the capture unless it is open; false if the interface is down.
    pub fn open_if_up(&self) -> Result<bool> {
        if self.fd().is_some() {
            return Ok(true);
        }
        let mut capture = lock(&self.capture);
        if capture.is_none() {
            let Some(opened) = self.open()? else { return Ok(false) };
            let filter = lock(&self.filter);
            self.go_live(opened.as_raw_fd(), &filter)?;
            self.fd.store(opened.as_raw_fd(), Ordering::Release);
            *capture = Some(opened);
        }
        Ok(true)
    }

    /// Opens a capture that lets nothing through yet; `None` if the interface is down.
    fn open(&self) -> Result<Option<Capture<Active>>> {
        let name = self.interface.name();
        let name = name.map_err(|error| self.explain("opening a capture", error))?;
        let opened = Capture::from_device(name.as_str()).and_then(|capture| {
            capture
                .immediate_mode(true)
                .promisc(false)
                .snaplen(self.max as i32)
                .buffer_size(self.ring.bytes)
                .precision(Precision::Nano)
                .open()?
                .setnonblock()
        });
        let mut capture = match opened {
            Ok(capture) => capture,
            Err(error) => return self.not_opened(&error).map(|()| None),
        };
        let fd = capture.as_raw_fd();
        let system = |error| self.explain("setting up the packet socket", error);
        packet_socket::reject_all(fd).map_err(system)?;
        let here = self.interface.shares_namespace_with(fd).map_err(system)?;
        if !here || packet_socket::bound_to(fd).map_err(system)? != Some(self.interface.index()) {
            let reason = "another interface has its name, in the network namespace that this thread is in: start the port \
                          from a thread in the namespace that it was opened in";
            return Err(Error::Backend { device: self.title.clone(), reason: reason.into() });
        }
        self.ring.check(&self.title, fd, self.frames)?;
        packet_socket::ignore_outgoing(fd).map_err(system)?;
        self.membership(fd, Membership::AllMulticast, true)?;
        // What came before the socket was closed to everything: at most a ring full.
        for _ in 0..=self.ring.slots {
            if !matches!(capture.dispatch(Some(self.ring.slots), |_| {}), Ok(1..)) {
                break;
            }
        }
        packet_socket::take_drops(fd).map_err(system)?;
        Ok(Some(capture))
    }

    /// Why libpcap did not open the interface: no error if it is only down.
    fn not_opened(&self, error: &pcap::Error) -> Result<()> {
        let doing = "opening a capture";
        let flags = self.interface.flags().map_err(|error| self.explain(doing, error))?;
        if !flags.up {
            return Ok(());
        }
        if packet_socket::try_open().is_err() {
            return Err(denied(&self.title, "open a packet socket", &[Privilege::NetRaw]));
        }
        let here = Interface::open(&self.interface.name().unwrap_or_default());
        if here.is_err() {
            let reason = "it is not in the network namespace that this thread is in: start the port from a thread in the \
                          namespace that it was opened in";
            return Err(Error::Backend { device: self.title.clone(), reason: reason.into() });
        }
        Err(Error::Backend { device: self.title.clone(), reason: format!("{doing}: {error}") })
    }

    fn membership(&self, fd: RawFd, kind: Membership, join: bool) -> Result<()> {
        packet_socket::membership(fd, self.interface.index(), kind, join)
            .map_err(|error| self.explain("switching what the interface receives", error))
    }

    /// From here on frames arrive.
    fn go_live(&self, fd: RawFd, filter: &Filter) -> Result<()> {
        if filter.promiscuous || self.needs_promiscuous {
            self.membership(fd, Membership::Promiscuous, true)?;
        }
        self.apply(fd, filter)
    }

    /// Gives the socket the filter; the old one governs until the new one does.
    fn apply(&self, fd: RawFd, filter: &Filter) -> Result<()> {
        let Filter { mac, promiscuous, to_kernel } = filter;
        let snap = self.max as u32;
        let result = match to_kernel.is_empty() {
            true => packet_socket::accept_by_address(fd, *mac, *promiscuous, snap),
            false => to_kernel
                .socket_program(*mac, *promiscuous, snap)
                .and_then(|code| Program::load(Kind::SocketFilter, "anyport", &code))
                .and_then(|program| packet_socket::accept_by_program(fd, &program)),
        };
        result.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => denied(&self.title, "set the filter", &[Privilege::Bpf]),
            _ => self.explain("setting the filter", error),
        })
    }

    /// Changes the filter for all frames sent after the return (contract R6).
    pub fn set_filter(&self, filter: Filter) -> Result<()> {
        let mut now = lock(&self.filter);
        if let Some(fd) = self.fd() {
            let changes = filter.promiscuous != now.promiscuous && !self.needs_promiscuous;
            packet_socket::with_filter(
                changes.then_some(filter.promiscuous),
                |on| self.membership(fd, Membership::Promiscuous, on),
                || self.apply(fd, &filter),
            )?;
        }
        *now = filter;
        Ok(())
    }

    /// Adds what the kernel counted since this was last done. It has to be done before 2^32 frames are dropped.
    pub fn count_drops(&self) {
        if let Some(fd) = self.fd() {
            let mut total = lock(&self.counts.ring_full);
            *total += u64::from(packet_socket::take_drops(fd).unwrap_or(0));
        }
    }

    /// The error of a call that the kernel says `ENXIO` or the like to; none if the interface is only down.
    pub fn check_there(&self) -> Result<()> {
        self.link_up(Ask::Never).map(|_| ())
    }

    /// The interface's own maximum, if it is not what it was set to any more.
    pub fn frame_limit(&self) -> usize {
        self.interface.mtu().map_or(self.max - 4, |mtu| mtu + 14)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The socket goes with its last descriptor, and a child that another thread is just starting has one for a moment.
        if let Some(fd) = self.fd() {
            let _ = packet_socket::reject_all(fd);
            let _ = self.membership(fd, Membership::AllMulticast, false);
            if lock(&self.filter).promiscuous || self.needs_promiscuous {
                let _ = self.membership(fd, Membership::Promiscuous, false);
            }
        }
    }
}
