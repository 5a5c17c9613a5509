//! The port: opening, settings, starting and stopping.
//!
//! ```text
//!   start   rings and frames ─► bind ─► sockets into the map ─► program attached: frames arrive
//!   stop    program detached ─► sockets closed ─► what they had lent goes back to the pool
//! ```
//!
//! Traps:
//! - The kernel lets a queue, and the memory, go a moment after the socket was closed. Binding is tried again for a while; in
//!   zero-copy mode frames are held until the queue can be taken up again, which proves that the device has let go of them
//!   (contract L6).
//! - All queues of a port are sockets on one registration of the pool's memory, the first one's; so that one closes last.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyport::capability::{LinkLoss, RingSizes};
use anyport::driver::{DriverQueues, OpenRequest, PortDriver, RxDriver, Setup, TxDriver};
use anyport::{Capability, Error, Link, MacAddr, Pool, PortCounters, Result};
use anyport_netdev::bpf::{Link as Attachment, Sockets, XdpMode};
use anyport_netdev::error::explain;
use anyport_netdev::privilege::{Privilege, denied};
use anyport_netdev::{LinkWatch, Membership, Settings, ToKernel, open, packet_socket, takeover};

use crate::device::{Counts, Device};
use crate::keys::{Attach, Keys, Mode};
use crate::program::Filter;
use crate::rx::XdpRx;
use crate::socket::{Binding, Socket, Statistics};
use crate::tx::{Limits, XdpTx};

/// Bytes in front of a frame that the kernel keeps for programs (`XDP_PACKET_HEADROOM`).
pub(crate) const KERNEL_HEADROOM: usize = 256;

/// How long a queue may stay taken after the socket that had it was closed.
const SETTLE: Duration = Duration::from_secs(1);

/// Frames beyond the receive ring's that the kernel is given, to fill while the ring is full.
const SPARE: u32 = 64;

const PRIVILEGES: [Privilege; 3] = [Privilege::NetAdmin, Privilege::NetRaw, Privilege::Bpf];

/// An opened interface.
pub(crate) struct XdpPort {
    title: String,
    keys: Keys,
    settings: Settings,
    software_link: bool,
    queues: (u32, u32),
    filter: Filter,
    counts: Vec<Arc<Counts>>,
    started: Option<Started>,
}

/// What there is between start and stop.
struct Started {
    device: Arc<Device>,
    /// By queue; the first has the memory.
    sockets: Vec<Arc<Socket>>,
    zero_copy: bool,
    map: Sockets,
    program: Attachment,
    /// Memberships live as long as it.
    members: OwnedFd,
    pool: Pool,
}

impl XdpPort {
    /// Opens the interface, stopped; nothing of it is changed.
    pub fn open(keys: Keys, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let (title, config) = (format!("af_xdp:{}", request.device), request.config);
        if config.shared {
            return Err(Error::Unsupported {
                device: title,
                field: "shared".into(),
                asked: "true".into(),
                limit: "a frame goes to an AF_XDP socket or to the host's stack, never to both; `pcap:` can be shared, and \
                        to_kernel names what is to stay with the stack"
                    .into(),
            });
        }
        let to_kernel = ToKernel::parse(&title, &config.to_kernel)?;
        let interface = open::find("af_xdp", request.device)?;
        Socket::new().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                denied(&title, "open an AF_XDP socket", &PRIVILEGES)
            }
            Some(libc::EAFNOSUPPORT) => Error::Backend {
                device: title.clone(),
                reason: "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); `pcap:` works without"
                    .into(),
            },
            _ => explain(&title, "opening an AF_XDP socket", error),
        })?;
        takeover::check(&interface, &title, config.takeover)?;
        let settings = Settings::open(interface, &title)?;
        open::check_ethernet(&title, settings.info())?;
        let asking = |error| explain(&title, "asking for driver and queues", error);
        let driver = settings.interface().driver().map_err(asking)?;
        let queues = settings.interface().queues().map_err(asking)?;
        let filter = Filter { mac: settings.mac(), promiscuous: false, to_kernel };
        Ok(Box::new(XdpPort {
            software_link: settings.info().is_software(&driver),
            title,
            keys,
            settings,
            queues,
            filter,
            counts: vec![Arc::default()],
            started: None,
        }))
    }

    fn explain(&self, doing: &str, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => denied(&self.title, doing, &PRIVILEGES),
            _ => explain(&self.title, doing, error),
        }
    }

    fn unsupported(
        &self,
        field: &str,
        asked: impl Into<String>,
        limit: impl Into<String>,
    ) -> Error {
        Error::Unsupported {
            device: self.title.clone(),
            field: field.into(),
            asked: asked.into(),
            limit: limit.into(),
        }
    }

    /// Binds a queue; tries again while the kernel still has it from a socket that was closed.
    fn bind(&self, socket: &Socket, queue: u32, share: Option<&Socket>) -> Result<()> {
        let zero_copy = match self.keys.mode {
            Mode::Auto => None,
            Mode::ZeroCopy => Some(true),
            Mode::Copy => Some(false),
        };
        let interface = self.settings.interface().index();
        let binding = Binding { interface, queue, zero_copy, segments: false };
        let deadline = Instant::now() + SETTLE;
        loop {
            let error = match socket.bind(&binding, share) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EBUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Some(libc::EBUSY) => {
                    return Err(Error::Backend {
                        device: self.title.clone(),
                        reason: format!(
                            "its queue {queue} is taken by another AF_XDP socket; `ss --xdp -p` shows whose"
                        ),
                    });
                }
                Some(libc::EOPNOTSUPP) if zero_copy == Some(true) => {
                    let limit = "its driver has no zero-copy, or not as it is set up; mode=copy works everywhere";
                    return Err(self.unsupported("mode", "zero_copy", limit));
                }
                _ => return Err(self.explain(&format!("binding queue {queue}"), error)),
            }
        }
    }

    /// Attaches the program, where the keys say.
    fn attach(&self, map: &Sockets) -> Result<Attachment> {
        let program = self.filter.load(map);
        let program = program.map_err(|error| self.explain("loading the program", error))?;
        let modes: &[XdpMode] = match self.keys.attach {
            Attach::Auto => &[XdpMode::Native, XdpMode::Generic],
            Attach::Native => &[XdpMode::Native],
            Attach::Generic => &[XdpMode::Generic],
        };
        let index = self.settings.interface().index();
        let mut last = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        for mode in modes {
            match program.attach_xdp(index, *mode) {
                Ok(link) => return Ok(link),
                Err(error) => last = error,
            }
            match last.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::E2BIG) => {}
                _ => break,
            }
        }
        Err(match last.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                let name = self.settings.interface().name().unwrap_or_default();
                Error::Backend {
                    device: self.title.clone(),
                    reason: format!(
                        "another XDP program is attached to it (`ip link show {name}` has its number, `bpftool prog show id \
                         NUMBER` its name); it is left alone, and this port needs its place"
                    ),
                }
            }
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE) if self.keys.attach == Attach::Native => self
                .unsupported(
                    "attach",
                    "native",
                    format!("its driver refuses ({last}): it has no XDP, or not at this MTU; attach=generic works everywhere"),
                ),
            _ => self.explain("attaching the program", last),
        })
    }

    fn members(&self, fd: &OwnedFd, kind: Membership, join: bool) -> Result<()> {
        packet_socket::membership(fd.as_raw_fd(), self.settings.interface().index(), kind, join)
            .map_err(|error| self.explain("switching what the interface receives", error))
    }

    /// Changes the filter, of the program that is attached, too, if there is one.
    fn change_filter(&mut self, change: impl FnOnce(&mut Filter)) -> Result<()> {
        let mut filter = self.filter.clone();
        change(&mut filter);
        if let Some(started) = &self.started {
            let switch = filter.promiscuous != self.filter.promiscuous;
            // More is received before more passes, less after less does.
            if switch && filter.promiscuous {
                self.members(&started.members, Membership::Promiscuous, true)?;
            }
            let replaced =
                filter.load(&started.map).and_then(|program| started.program.replace(&program));
            if let Err(error) = replaced {
                if switch && filter.promiscuous {
                    let _ = self.members(&started.members, Membership::Promiscuous, false);
                }
                return Err(self.explain("changing the program", error));
            }
            if switch && !filter.promiscuous {
                self.members(&started.members, Membership::Promiscuous, false)?;
            }
        }
        self.filter = filter;
        Ok(())
    }

    /// The kernel's statistics of a queue's socket, if it is open.
    fn statistics(&self, queue: usize) -> Statistics {
        let socket = self.started.as_ref().and_then(|started| started.sockets.get(queue));
        socket.and_then(|socket| socket.statistics().ok()).unwrap_or_default()
    }

    /// How many frames the kernel is to have for a queue: enough for the ring and some more, but of a small pool a quarter at
    /// most, so that two ports leave half of it to the application.
    fn fill_target(pool: &Pool, ring: u32, queues: usize) -> usize {
        let share = pool.capacity() / (4 * queues.max(1));
        ((ring + SPARE) as usize).min(share).max(1)
    }

    /// Makes sockets and queues; a failure leaves nothing.
    fn make(&mut self, setup: &Setup<'_>) -> Result<(Started, DriverQueues)> {
        let pool = &setup.pools[0];
        self.check_pool(pool, setup.max_frame)?;
        let interface = self.settings.interface().try_clone();
        let interface = interface.map_err(|error| self.explain("opening the interface", error))?;
        let device = Arc::new(Device::new(&self.title, interface, self.settings.info().prompt));
        let (rx_count, tx_count) = (setup.rx_queues as usize, setup.tx_queues as usize);
        let count = rx_count.max(tx_count);
        while self.counts.len() < count {
            self.counts.push(Arc::default());
        }
        let map = Sockets::new(self.queues.0.max(count as u32));
        let map = map.map_err(|error| self.explain("making the map of sockets", error))?;
        let (rx_ring, tx_ring) =
            (setup.rx_ring.next_power_of_two(), setup.tx_ring.next_power_of_two());
        let mut sockets: Vec<Arc<Socket>> = Vec::new();
        let mut rx: Vec<Box<dyn RxDriver>> = Vec::new();
        let mut tx: Vec<Box<dyn TxDriver>> = Vec::new();
        let mut zero_copy = false;
        for queue in 0..count {
            let failed = |error| self.explain("making the rings", error);
            let socket = Arc::new(Socket::new().map_err(failed)?);
            if queue == 0 {
                socket
                    .register(pool.region(), chunk(pool))
                    .map_err(|error| self.not_registered(pool, error))?;
            }
            let target = XdpPort::fill_target(pool, rx_ring, rx_count);
            let fill = socket.fill_ring((rx_ring + SPARE).next_power_of_two()).map_err(failed)?;
            let completion = socket.completion_ring(tx_ring).map_err(failed)?;
            let rx_rings = match queue < rx_count {
                true => Some((socket.receive_ring(rx_ring).map_err(failed)?, fill)),
                false => None,
            };
            let tx_rings = match queue < tx_count {
                true => Some((socket.transmit_ring(tx_ring).map_err(failed)?, completion)),
                false => None,
            };
            if let Some(rings) = rx_rings {
                let watch =
                    LinkWatch::new().map_err(|error| self.explain("watching the link", error))?;
                let mut driver =
                    XdpRx::new(device.clone(), socket.clone(), rings, pool, target, watch);
                driver.refill(&mut setup.queue_cache(pool))?;
                rx.push(Box::new(driver));
            }
            self.bind(&socket, queue as u32, sockets.first().map(|first| &**first))?;
            if queue == 0 {
                zero_copy = socket.is_zero_copy().map_err(failed)?;
            }
            if let Some(rings) = tx_rings {
                // Copies that are on their way are charged to the socket.
                let bytes = (tx_ring as usize * 2 * (setup.max_frame + 512)).min(1 << 28);
                let _ = socket.set_send_buffer(bytes as libc::c_int);
                let budget = socket.raise_tx_budget(tx_ring) as usize;
                let counts = self.counts[queue].clone();
                let limits = Limits { most: tx_ring as usize, budget, chunk: chunk(pool) };
                tx.push(Box::new(XdpTx::new(
                    device.clone(),
                    socket.clone(),
                    rings,
                    pool,
                    limits,
                    zero_copy,
                    counts,
                )));
            }
            if queue < rx_count {
                map.set(queue as u32, socket.as_raw_fd())
                    .map_err(|error| self.explain("putting a socket into the map", error))?;
            }
            sockets.push(socket);
        }
        let members = packet_socket::idle()
            .map_err(|error| self.explain("opening a packet socket", error))?;
        self.members(&members, Membership::AllMulticast, true)?;
        if self.filter.promiscuous {
            self.members(&members, Membership::Promiscuous, true)?;
        }
        let program = self.attach(&map)?;
        let started =
            Started { device, sockets, zero_copy, map, program, members, pool: pool.clone() };
        Ok((started, DriverQueues { rx, tx }))
    }

    /// Refuses a pool that the kernel does not take, or whose frames are too small.
    fn check_pool(&self, pool: &Pool, max_frame: usize) -> Result<()> {
        let size = chunk(pool);
        if size < 2048 {
            let limit = "the kernel takes frames of at least 2048 bytes";
            return Err(self.unsupported("frame_size", size.to_string(), limit));
        }
        let room = size - KERNEL_HEADROOM;
        if max_frame + 4 > room {
            let limit =
                format!("a pool frame of {size} bytes has room for {} with a tag", room - 4);
            return Err(self.unsupported("max_frame", max_frame.to_string(), limit));
        }
        Ok(())
    }

    /// Why the kernel did not take the pool's memory.
    fn not_registered(&self, pool: &Pool, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENOBUFS | libc::ENOMEM) => {
                let mib = pool.region().len() >> 20;
                let asked = format!("{mib} MiB");
                let limit = "the limit of locked memory is lower; `ulimit -l unlimited` (or `LimitMEMLOCK=infinity` in a \
                             systemd unit, or CAP_IPC_LOCK) lifts it";
                self.unsupported("pool", asked, limit)
            }
            _ => self.explain("registering the pool's memory", error),
        }
    }
}

/// Bytes of a pool frame that the kernel uses: it takes no more than a page, so of larger frames it is the first one.
fn chunk(pool: &Pool) -> usize {
    // SAFETY: no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize;
    pool.frame_size().min(page)
}

/// Waits until a queue can be taken up again: then the kernel has let go of the memory that was bound to it.
fn let_go(interface: u32, queue: u32, deadline: Instant) -> bool {
    let attempt = || -> io::Result<()> {
        let pool = Pool::builder().frames(2).build().map_err(io::Error::other)?;
        let socket = Socket::new()?;
        socket.register(pool.region(), chunk(&pool))?;
        let (_fill, _completion) = (socket.fill_ring(1)?, socket.completion_ring(1)?);
        let _receive = socket.receive_ring(1)?;
        socket.bind(&Binding { interface, queue, zero_copy: Some(false), segments: false }, None)
    };
    loop {
        match attempt().map_err(|error| error.raw_os_error()) {
            Err(Some(libc::EBUSY)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2))
            }
            Err(Some(libc::EBUSY)) => return false,
            // Taken up, or there is no device any more that could have it.
            _ => return true,
        }
    }
}

impl PortDriver for XdpPort {
    fn capability(&self) -> Capability {
        // Without segments a frame lies in one page, behind the head room and before what the kernel keeps behind it.
        let most = 4096 - KERNEL_HEADROOM - 320 - 4 - 14;
        let (min_mtu, max_mtu) = self.settings.mtu_range(most);
        let queues = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let mut capability = Capability::new();
        capability.max_rx_queues = queues(self.queues.0);
        capability.max_tx_queues = queues(self.queues.1);
        capability.max_frame = max_mtu + 14;
        capability.min_max_frame = min_mtu + 14;
        capability.default_max_frame = self.settings.found_mtu() + 14;
        capability.rx_ring = RingSizes::new(16, 32768, 1024);
        capability.tx_ring = RingSizes::new(16, 32768, 1024);
        capability.max_pools = 1;
        capability.zero_copy = true;
        capability.exact_drops = self.settings.info().kind.is_some();
        capability.exclusive = true;
        capability.promiscuous = true;
        capability.filters = true;
        capability.software_link = self.software_link;
        capability.set_mac = true;
        capability.set_max_frame = true;
        capability.link_state = true;
        capability.link_loss = LinkLoss::Dropped;
        capability.can_vanish = true;
        capability.deferred_tx = true;
        capability
    }

    fn mac(&self) -> MacAddr {
        self.settings.mac()
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let (started, queues) = self.make(setup)?;
        self.started = Some(started);
        Ok(queues)
    }

    fn stop(&mut self) -> Result<()> {
        let Some(started) = self.started.take() else { return Ok(()) };
        started.program.detach();
        for (queue, socket) in started.sockets.iter().enumerate() {
            let last = socket.statistics().unwrap_or_default();
            self.counts[queue].settle(&last);
        }
        let queues = started.sockets.len() as u32;
        let interface = self.settings.interface().index();
        // The others first: the memory is the first one's.
        started.sockets.into_iter().rev().for_each(drop);
        let deadline = Instant::now() + SETTLE;
        let free =
            !started.zero_copy || (0..queues).all(|queue| let_go(interface, queue, deadline));
        for mut lent in started.device.take_left() {
            if free {
                lent.release();
            } else if let Some(counts) = self.counts.first() {
                counts.lost.fetch_add(lent.outstanding().0 as u64, Ordering::Relaxed);
            }
        }
        drop(started.pool);
        Ok(())
    }

    fn link(&mut self) -> Result<Link> {
        let reading = |error| explain(&self.title, "reading the link", error);
        let interface = self.settings.interface();
        let flags = interface.flags().map_err(reading)?;
        let up = flags.up && flags.running && interface.carrier().map_err(reading)? != Some(false);
        let speed = interface.speed().map_err(reading)?;
        Ok(Link::new(up).with_speed(speed.mbps, speed.full_duplex))
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        self.settings.set_mac(mac)?;
        self.change_filter(|filter| filter.mac = mac)
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        self.change_filter(|filter| filter.promiscuous = on)
    }

    fn set_max_frame(&mut self, bytes: usize) -> Result<()> {
        self.settings.set_mtu(bytes - 14)
    }

    fn counters(&mut self) -> PortCounters {
        let mut all = PortCounters::default();
        for (queue, counts) in self.counts.iter().enumerate() {
            all.rx_queues.push(counts.rx(&self.statistics(queue)));
            all.tx_queues.push(counts.tx());
        }
        all
    }
}

impl Drop for XdpPort {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
