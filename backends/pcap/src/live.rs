//! A live interface as a port.
//!
//! libpcap captures (a memory-mapped ring, in immediate mode), the kernel filters before a frame takes ring space, and
//! frames are sent through the same socket.
//!
//! Traps:
//! - libpcap puts a VLAN tag that the kernel keeps beside the frame back in; a filter by destination address is not
//!   affected by where the tag is.
//! - Frames that arrive between the socket's creation and its filter are in the ring: `start` drains them (contract L7).
//! - The snap length is a little over the maximum frame, so that the ring's slots are small; a longer frame comes cut, is
//!   recognised by its lengths, dropped and counted (contract R4).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use anyport::capability::{LinkLoss, RingSizes};
use anyport::driver::{
    DriverQueues, OpenRequest, Outstanding, PortDriver, RxDriver, Setup, TxDriver,
};
use anyport::packet::{Clock, Timestamp, TimestampSource};
use anyport::{Burst, Capability, Counters, Error, Link, MacAddr, PoolCache, PortCounters, Result};
use anyport_netdev::error::{denied, explain};
use anyport_netdev::{Interface, LinkWatch, Membership, membership, open, tcx};
use pcap::{Active, Capture, Precision};

use crate::batch::{BATCH, Batch};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An opened interface.
pub(crate) struct LivePort {
    title: String,
    interface: Interface,
    /// Held so that the host does not process received frames.
    silencer: Option<OwnedFd>,
    found_mac: MacAddr,
    found_mtu: usize,
    mac: MacAddr,
    mtu: usize,
    promiscuous: bool,
    /// While started.
    shared: Option<Arc<Mutex<Capture<Active>>>>,
    /// What earlier captures of this port had dropped.
    dropped_before: u64,
    too_long: Arc<AtomicU64>,
    no_buffer: Arc<AtomicU64>,
}

impl LivePort {
    /// Opens the interface, stopped; nothing of it is changed.
    pub fn open(request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let title = format!("pcap:{}", request.device);
        let interface = open::find("pcap", request.device)?;
        let explain = |doing: &'static str| {
            let title = title.clone();
            move |error| explain(&title, doing, error)
        };
        if !interface.is_ethernet().map_err(explain("reading the kind of device"))? {
            let reason = "it is not an Ethernet interface, and a port's frames begin with an Ethernet header";
            return Err(Error::Backend { device: title, reason: reason.into() });
        }
        let found_mac = interface.mac().map_err(explain("reading the address"))?;
        let found_mtu = interface.mtu().map_err(explain("reading the MTU"))?;
        let silencer = match request.config.shared {
            true => None,
            false => match tcx::silence(interface.index()) {
                Ok(link) => Some(link),
                Err(error) => {
                    static ONCE: Once = Once::new();
                    ONCE.call_once(|| {
                        tracing::warn!(
                            "{title}: the host sees received frames, too: no tcx program ({error}); it needs Linux \
                             6.6 and CAP_BPF; say shared=true to accept that"
                        );
                    });
                    None
                }
            },
        };
        Ok(Box::new(LivePort {
            title,
            interface,
            silencer,
            found_mac,
            found_mtu,
            mac: found_mac,
            mtu: found_mtu,
            promiscuous: false,
            shared: None,
            dropped_before: 0,
            too_long: Arc::default(),
            no_buffer: Arc::default(),
        }))
    }

    fn explain(&self, doing: &str, error: io::Error) -> Error {
        explain(&self.title, doing, error)
    }

    /// libpcap's error, as far as it says.
    fn pcap(&self, doing: &str, error: pcap::Error) -> Error {
        if let Err(gone) = self.interface.flags() {
            return self.explain(doing, gone);
        }
        let text = error.to_string();
        if text.contains("permission") || text.contains("Operation not permitted") {
            return denied(&self.title, doing);
        }
        Error::Backend { device: self.title.clone(), reason: format!("{doing}: {text}") }
    }

    /// What the kernel lets through: own unicast and group addresses, or everything.
    fn set_filter(&self, capture: &mut Capture<Active>) -> Result<()> {
        let program = match self.promiscuous {
            true => String::new(),
            false => format!("ether dst {} or ether multicast", self.mac),
        };
        capture.filter(&program, true).map_err(|error| self.pcap("setting the filter", error))
    }

    fn open_capture(&self, setup: &Setup<'_>) -> Result<Capture<Active>> {
        let opening = |error| self.pcap("opening a capture", error);
        let name =
            self.interface.name().map_err(|error| self.explain("opening a capture", error))?;
        // One tag, and a few bytes more so that a longer frame is seen to be longer.
        let snap = setup.max_frame + 8;
        // A slot holds the frame behind its header of about 100 bytes.
        let bytes = setup.rx_ring as usize * (snap + 112).next_multiple_of(16);
        let capture = Capture::from_device(name.as_str())
            .map_err(opening)?
            .immediate_mode(true)
            .promisc(false)
            .snaplen(snap as i32)
            .buffer_size(i32::try_from(bytes).unwrap_or(i32::MAX))
            .precision(Precision::Nano)
            .open()
            .map_err(opening)?;
        let mut capture = capture.setnonblock().map_err(opening)?;
        let fd = capture.as_raw_fd();
        let system = |error| self.explain("setting up the packet socket", error);
        membership::ignore_outgoing(fd).map_err(system)?;
        membership::membership(fd, self.interface.index(), Membership::AllMulticast, true)
            .map_err(system)?;
        if self.promiscuous {
            membership::membership(fd, self.interface.index(), Membership::Promiscuous, true)
                .map_err(system)?;
        }
        self.set_filter(&mut capture)?;
        // What came before all that was set: at most a ring full.
        for _ in 0..setup.rx_ring {
            if !matches!(capture.dispatch(Some(1), |_| {}), Ok(1..)) {
                break;
            }
        }
        Ok(capture)
    }
}

impl PortDriver for LivePort {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.max_frame = 65535;
        capability.min_max_frame = 68 + 14;
        capability.default_max_frame = self.found_mtu + 14;
        // Each slot is memory of this process as long as the port is started.
        capability.rx_ring = RingSizes::new(16, 65536, 512);
        capability.tx_ring = RingSizes::new(1, 1, 1);
        capability.max_pools = 8;
        capability.max_segments = 16;
        capability.exact_drops = true;
        capability.exclusive = self.silencer.is_some();
        capability.promiscuous = true;
        capability.filters = true;
        capability.software_link = true;
        capability.set_mac = true;
        capability.set_max_frame = true;
        capability.link_state = true;
        capability.link_loss = LinkLoss::Dropped;
        capability.can_vanish = true;
        capability.offloads.rx_timestamp = true;
        capability
    }

    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let capture = self.open_capture(setup)?;
        let fd = capture.as_raw_fd();
        let watch = LinkWatch::new().map_err(|error| self.explain("watching the link", error))?;
        let interface = || {
            let clone = self.interface.try_clone();
            clone.map_err(|error| self.explain("opening the interface", error))
        };
        let capture = Arc::new(Mutex::new(capture));
        let rx = LiveRx {
            title: self.title.clone(),
            interface: interface()?,
            fd,
            capture: capture.clone(),
            watch,
            timestamps: setup.offloads.rx_timestamp,
            max: setup.max_frame + 4,
            too_long: self.too_long.clone(),
            no_buffer: self.no_buffer.clone(),
        };
        let tx = LiveTx {
            title: self.title.clone(),
            interface: interface()?,
            fd,
            _capture: capture.clone(),
            batch: Batch::new(),
        };
        self.shared = Some(capture);
        Ok(DriverQueues { rx: vec![Box::new(rx)], tx: vec![Box::new(tx)] })
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(capture) = self.shared.take() {
            self.dropped_before +=
                lock(&capture).stats().map_or(0, |stats| u64::from(stats.dropped));
        }
        Ok(())
    }

    fn link(&mut self) -> Result<Link> {
        let flags =
            self.interface.flags().map_err(|error| self.explain("reading the link", error))?;
        Ok(Link::new(flags.up && flags.running))
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        self.interface.set_mac(mac).map_err(|error| self.explain("setting the address", error))?;
        self.mac = mac;
        match &self.shared {
            Some(capture) => self.set_filter(&mut lock(capture)),
            None => Ok(()),
        }
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        if on == self.promiscuous {
            return Ok(());
        }
        self.promiscuous = on;
        let Some(capture) = &self.shared else { return Ok(()) };
        let mut capture = lock(capture);
        // The wider of the two first, so that what is to pass passes on return, and the rest does not.
        let join = |join| {
            membership::membership(
                capture.as_raw_fd(),
                self.interface.index(),
                Membership::Promiscuous,
                join,
            )
            .map_err(|error| self.explain("switching promiscuous mode", error))
        };
        join(on)?;
        self.set_filter(&mut capture)
    }

    fn set_max_frame(&mut self, bytes: usize) -> Result<()> {
        let mtu = bytes - 14;
        if mtu != self.mtu {
            self.interface.set_mtu(mtu).map_err(|error| self.explain("setting the MTU", error))?;
            self.mtu = mtu;
        }
        Ok(())
    }

    fn counters(&mut self) -> PortCounters {
        let now = self.shared.as_ref().and_then(|capture| lock(capture).stats().ok());
        let mut queue = Counters::default();
        queue.rx_ring_full =
            Some(self.dropped_before + now.map_or(0, |stats| u64::from(stats.dropped)));
        queue.rx_too_long = Some(self.too_long.load(Ordering::Relaxed));
        queue.rx_no_buffer = Some(self.no_buffer.load(Ordering::Relaxed));
        let mut all = PortCounters::default();
        all.rx_queues.push(queue);
        all
    }
}

impl Drop for LivePort {
    fn drop(&mut self) {
        // As it was found (contract L8); an interface that is gone needs nothing.
        if self.mac != self.found_mac {
            let _ = self.interface.set_mac(self.found_mac);
        }
        if self.mtu != self.found_mtu {
            let _ = self.interface.set_mtu(self.found_mtu);
        }
    }
}

struct LiveRx {
    title: String,
    interface: Interface,
    fd: RawFd,
    capture: Arc<Mutex<Capture<Active>>>,
    watch: LinkWatch,
    timestamps: bool,
    /// The longest frame that can be delivered.
    max: usize,
    too_long: Arc<AtomicU64>,
    no_buffer: Arc<AtomicU64>,
}

impl RxDriver for LiveRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        let (mut too_long, mut no_buffer) = (0, 0);
        let room = burst.room();
        let (timestamps, max) = (self.timestamps, self.max);
        let result = lock(&self.capture).dispatch(Some(room), |frame| {
            if frame.header.caplen < frame.header.len || frame.data.len() > max {
                too_long += 1;
                return;
            }
            let packet = match pool.take() {
                Some(mut packet) if frame.data.len() <= pool.pool().room() => {
                    let _ = packet.fill(frame.data);
                    Some(packet)
                }
                Some(_) => pool.pool().packet(frame.data),
                None => None,
            };
            let Some(mut packet) = packet else {
                no_buffer += 1;
                return;
            };
            if timestamps {
                let stamp = frame.header.ts;
                packet.set_timestamp(Timestamp {
                    // With nanosecond precision the second field holds nanoseconds.
                    ns: stamp.tv_sec as u64 * 1_000_000_000 + stamp.tv_usec as u64,
                    source: TimestampSource::Kernel,
                    clock: Clock::RealTime,
                });
            }
            let _ = burst.push(packet);
        });
        if too_long > 0 {
            self.too_long.fetch_add(too_long, Ordering::Relaxed);
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::warn!(
                    "{}: dropped a frame longer than {max} bytes; if the sender leaves segments uncut: `ethtool -K \
                     DEV tso off gso off` there",
                    self.title
                );
            });
        }
        self.no_buffer.fetch_add(no_buffer, Ordering::Relaxed);
        match result {
            Ok(_) | Err(pcap::Error::TimeoutExpired) => Ok(()),
            Err(error) => match self.interface.flags() {
                Err(gone) => Err(explain(&self.title, "receiving", gone)),
                // Down is no error: the link says so.
                Ok(flags) if !flags.up => Ok(()),
                Ok(_) => {
                    let reason = format!("receiving: {error}");
                    Err(Error::Backend { device: self.title.clone(), reason })
                }
            },
        }
    }

    fn arm(&mut self) -> Result<()> {
        // The socket is readable whenever there is a frame.
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.fd)
    }

    fn event_descriptor(&self) -> Option<RawFd> {
        Some(self.watch.as_raw_fd())
    }

    fn link_up(&mut self) -> Result<bool> {
        self.watch.drain();
        link_up(&self.title, &self.interface)
    }
}

fn link_up(title: &str, interface: &Interface) -> Result<bool> {
    let flags = interface.flags().map_err(|error| explain(title, "reading the link", error))?;
    Ok(flags.up && flags.running)
}

struct LiveTx {
    title: String,
    interface: Interface,
    fd: RawFd,
    /// Keeps the socket.
    _capture: Arc<Mutex<Capture<Active>>>,
    batch: Batch,
}

impl TxDriver for LiveTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let sent = match self.batch.send(self.fd, burst, left) {
                Ok(sent) => sent,
                Err(error) => match error.raw_os_error() {
                    // Full, or the queueing discipline dropped it: not taken.
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => {
                        return Ok(());
                    }
                    _ if left < count => return Ok(()),
                    Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                        // Gone, or only down: the interface knows.
                        return link_up(&self.title, &self.interface).map(|_| ());
                    }
                    _ => return Err(explain(&self.title, "sending", error)),
                },
            };
            for _ in 0..sent {
                let Some(packet) = burst.pop_front() else { break };
                match pools.iter_mut().find(|cache| cache.pool().id() == packet.pool_id()) {
                    Some(cache) => cache.give(packet),
                    None => drop(packet),
                }
            }
            let asked = left.min(BATCH);
            left -= sent;
            if sent < asked {
                // A full queue: the next call tries again.
                break;
            }
        }
        Ok(())
    }

    fn reclaim(&mut self, _: &mut [PoolCache]) -> Result<Outstanding> {
        Ok(Outstanding::default())
    }

    fn link_up(&mut self) -> Result<bool> {
        link_up(&self.title, &self.interface)
    }
}
