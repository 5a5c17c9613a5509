//! A socket on the first queue of an interface, and the program that feeds it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::{Assembler, Op, Reg, Width};
use anyport_netdev::bpf::{Kind, Link, Program, Sockets, XdpMode};
use anyport_netdev::sys::{get_option, owned, set_number, set_option};

use super::memory::{Memory, SIZE};
use super::ring::{Consumer, Producer};

/// Entries of the receive, the transmit and the completion ring: what anyport's ports have unless told otherwise.
pub const RING: u32 = 1024;

/// Entries of the fill ring.
pub const FILL_RING: u32 = 2048;

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17).
const MAX_TX_BUDGET: libc::c_int = 9;

/// How long the kernel may take to let a queue go.
const RELEASE: Duration = Duration::from_secs(2);

/// What of the kernel's knobs is turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Where the program runs.
    pub mode: XdpMode,
    /// Frames that one system call may send, where the kernel lets it be said; `None` leaves it at 32.
    pub budget: Option<u32>,
    /// Polls the device from the receiver's system calls, so many frames each; `None` leaves it to interrupts.
    pub busy_poll: Option<u32>,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { mode: XdpMode::Native, budget: Some(RING), busy_poll: None }
    }
}

/// An open socket with its four rings.
#[derive(Debug)]
pub struct Port {
    /// Empty frames for the kernel.
    pub fill: Producer<u64>,
    /// Frames that the kernel has received.
    pub rx: Consumer<libc::xdp_desc>,
    /// Frames for the kernel to send.
    pub tx: Producer<libc::xdp_desc>,
    /// Frames that the kernel has sent.
    pub completion: Consumer<u64>,
    socket: OwnedFd,
    interface: Interface,
    mode: XdpMode,
    /// What feeds it, as long as it does.
    program: Option<(Sockets, Link)>,
}

impl Port {
    /// Opens a socket on memory; it receives nothing before [`receive`](Port::receive).
    ///
    /// # Errors
    /// There is no such interface; no CAP_NET_RAW; the queue is taken; the system's.
    pub fn open(interface: &str, memory: &Memory, tuning: &Tuning) -> Result<Port> {
        let opened = Interface::open(interface).with_context(|| format!("opening {interface}"))?;
        Port::open_on(opened, memory, tuning)
            .with_context(|| format!("opening an AF_XDP socket on {interface}"))
    }

    fn open_on(interface: Interface, memory: &Memory, tuning: &Tuning) -> io::Result<Port> {
        // SAFETY: no pointers.
        let socket =
            owned(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        let fd = socket.as_raw_fd();
        #[repr(C)]
        struct Register {
            address: u64,
            length: u64,
            frame_size: u32,
            headroom: u32,
            flags: u32,
            // Newer kernels read it; it must not be padding.
            tx_metadata_length: u32,
        }
        let (address, length) = memory.region();
        let register = Register {
            address,
            length,
            frame_size: SIZE as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_length: 0,
        };
        // SAFETY: the kernel has the memory's pages for itself, also after they are unmapped here; while they are, only what the
        // rings have given back is read or written.
        unsafe { set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &register)? };
        for (ring, size) in [
            (libc::XDP_UMEM_FILL_RING, FILL_RING),
            (libc::XDP_UMEM_COMPLETION_RING, RING),
            (libc::XDP_RX_RING, RING),
            (libc::XDP_TX_RING, RING),
        ] {
            set_number(fd, libc::SOL_XDP, ring, size as libc::c_int)?;
        }
        // SAFETY: plain numbers, for which zero is a value.
        let mut of: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut of)?;
        let fill = Producer::map(fd, libc::XDP_UMEM_PGOFF_FILL_RING, &of.fr, FILL_RING)?;
        let completion = Consumer::map(fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING, &of.cr, RING)?;
        let rx = Consumer::map(fd, libc::XDP_PGOFF_RX_RING as u64, &of.rx, RING)?;
        let tx = Producer::map(fd, libc::XDP_PGOFF_TX_RING as u64, &of.tx, RING)?;
        if let Some(frames) = tuning.budget {
            // An older kernel sends 32.
            let _ = set_number(fd, libc::SOL_XDP, MAX_TX_BUDGET, frames as libc::c_int);
        }
        // Copies on their way are charged to the socket: room for a full ring.
        let bytes: libc::c_int = RING as libc::c_int * 4096;
        let _ = set_number(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes);
        if let Some(frames) = tuning.busy_poll {
            let (prefer, micros): (libc::c_int, libc::c_int) = (1, 20);
            set_number(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, prefer)?;
            set_number(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, micros)?;
            set_number(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, frames as libc::c_int)?;
        }
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_USE_NEED_WAKEUP | libc::XDP_COPY,
            sxdp_ifindex: interface.index(),
            sxdp_queue_id: 0,
            sxdp_shared_umem_fd: 0,
        };
        bind(fd, &address)?;
        let (mode, program) = (tuning.mode, None);
        Ok(Port { fill, rx, tx, completion, socket, interface, mode, program })
    }

    /// Gives the kernel these frames to receive into, and lets all that arrives come here.
    ///
    /// # Errors
    /// No CAP_BPF and CAP_NET_ADMIN; another program is attached; the driver has no native mode.
    pub fn receive(&mut self, frames: std::ops::Range<usize>) -> Result<()> {
        frames.for_each(|frame| self.fill.push((frame * SIZE) as u64));
        self.fill.publish();
        let sockets = Sockets::new(1).context("making the map of sockets")?;
        sockets.set(0, self.socket.as_raw_fd()).context("putting the socket into the map")?;
        let code = redirect(&sockets).context("assembling the program")?;
        let program = Program::load(Kind::Xdp, "bare", &code).context("loading the program")?;
        let link = program
            .attach_xdp(self.interface.index(), self.mode)
            .context("attaching the program")?;
        self.program = Some((sockets, link));
        Ok(())
    }

    /// Lets the kernel send what is in the transmit ring.
    #[inline]
    pub fn kick(&self) {
        // SAFETY: nothing is passed. What was not sent is tried again by the next call.
        unsafe {
            libc::sendto(
                self.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
    }

    /// Lets the kernel look for frames that arrive.
    #[inline]
    pub fn kick_rx(&self) {
        let none = std::ptr::null_mut();
        // SAFETY: nothing is passed.
        unsafe {
            libc::recvfrom(self.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), none.cast())
        };
    }
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Binds. The kernel lets a queue go a moment after its socket was closed, so a busy one is tried again for a while.
fn bind(fd: RawFd, address: &libc::sockaddr_xdp) -> io::Result<()> {
    let length = size_of_val(address) as libc::socklen_t;
    let deadline = Instant::now() + RELEASE;
    loop {
        // SAFETY: the address is as long as is said.
        if unsafe { libc::bind(fd, std::ptr::from_ref(address).cast(), length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sleeps until one of these has frames, at most 100 ms.
pub fn wait<const N: usize>(ports: [&Port; N]) {
    let mut fds =
        ports.map(|port| libc::pollfd { fd: port.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: as many as is said.
    unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, 100) };
}

/// All frames of the queue to the socket; of other queues to the kernel.
fn redirect(sockets: &Sockets) -> Option<Vec<u64>> {
    /// `bpf_redirect_map(map, key, flags)`.
    const REDIRECT_MAP: i32 = 51;
    const RX_QUEUE: i16 = 16;
    const XDP_PASS: i32 = 2;
    let mut code = Assembler::new();
    code.load(Width::Word, Reg::R2, Reg::R1, RX_QUEUE)
        .load_map(Reg::R1, sockets)
        .op(Op::Mov, Reg::R3, XDP_PASS)
        .call(REDIRECT_MAP)
        .exit_with_r0();
    code.finish()
}
