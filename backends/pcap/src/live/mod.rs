//! A live interface as a port.
//!
//! ```text
//!  mod.rs     the port: opening, settings, counters          anyport-netdev: all that is not libpcap's
//!  socket.rs  what both queues share: libpcap's capture, its ring, its filter
//!  rx.rs      libpcap's ring to packets
//!  tx.rs      packets to the same socket, many with one system call
//! ```
//!
//! The kernel filters before a frame takes ring space, and what the port receives does not reach the host's stack: from start
//! to stop, a program at the interface's ingress ends its way there (contract R13).
//!
//! Traps:
//! - Whatever can be known at open is looked at there: privilege, kind of interface, what the host needs it for. libpcap would
//!   say so only at start.
//! - An interface that is down can be opened and started: the link is down then. libpcap refuses such an interface, so the
//!   capture is opened when it comes up.
//! - A kernel that receives for others puts segments together (GRO), so that frames are delivered that nobody sent. An exclusive
//!   port switches that off until it is stopped; a shared one must not, and says what to do when it drops such a frame.
//! - A network card may drop VLAN identifiers that nobody configured: see `anyport_netdev::vlans`.

mod ring;
mod rx;
mod socket;
mod tx;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyport::capability::{LinkLoss, RingSizes};
use anyport::driver::{DriverQueues, OpenRequest, PortDriver, Setup};
use anyport::{Capability, Error, Link, MacAddr, PortCounters, Result};
use anyport_netdev::error::explain;
use anyport_netdev::privilege::{Privilege, denied};
use anyport_netdev::segments::{self, MERGING};
use anyport_netdev::{
    Ask, Interface, LinkWatch, Queueing, Settings, Silencer, ToKernel, links, open, packet_socket,
    takeover, vlans,
};

use rx::LiveRx;
use socket::{Counts, Filter, Socket};
use tx::LiveTx;

/// The longest frame that is offered, in bytes: with its tag it still fits one packet.
const MOST: usize = 65535 - 4;

/// An opened interface.
pub(crate) struct LivePort {
    title: String,
    settings: Settings,
    /// Attached while started, so that the host does not process received frames.
    silencer: Option<Silencer>,
    /// It was said what is switched off.
    said: bool,
    software_link: bool,
    filter: Filter,
    /// While started.
    socket: Option<Arc<Socket>>,
    counts: Arc<Counts>,
}

impl LivePort {
    /// Opens the interface, stopped; nothing of it is changed.
    pub fn open(request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let (title, config) = (format!("pcap:{}", request.device), request.config);
        let to_kernel = ToKernel::parse(&title, &config.to_kernel)?;
        let interface = open::find("pcap", request.device)?;
        let failed = |doing: &'static str| {
            let title = title.clone();
            move |error| explain(&title, doing, error)
        };
        let info = links::link(interface.index()).map_err(failed("reading the interface"))?;
        open::check_ethernet(&title, &info)?;
        packet_socket::may_open().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                denied(&title, "open a packet socket", &[Privilege::NetRaw])
            }
            _ => explain(&title, "opening a packet socket", error),
        })?;
        if !config.shared {
            takeover::check(&interface, &title, config.takeover, true)?;
        }
        let settings = Settings::open(interface, &title)?;
        let driver = settings.interface().driver().map_err(failed("asking for the driver"))?;
        let silencer = match config.shared {
            true => None,
            false => silence(&title, &to_kernel)?,
        };
        // What is shared goes to both.
        let to_kernel = if config.shared { ToKernel::default() } else { to_kernel };
        let filter = Filter { mac: settings.mac(), promiscuous: false, to_kernel };
        Ok(Box::new(LivePort {
            title,
            silencer,
            said: false,
            software_link: settings.info().is_software(&driver),
            filter,
            socket: None,
            counts: Arc::default(),
            settings,
        }))
    }

    fn explain(&self, doing: &str, error: std::io::Error) -> Error {
        explain(&self.title, doing, error)
    }

    /// Takes the interface into use.
    fn begin(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let watch = LinkWatch::new().map_err(|error| self.explain("watching the link", error))?;
        open::check_namespace(self.settings.interface(), &self.title, watch.as_raw_fd())?;
        let index = self.settings.interface().index();
        let queueing = Queueing::new(index);
        let queueing = queueing.map_err(|error| self.explain("opening a route socket", error))?;
        // Where the stack receives, too, how it does so is not ours to change.
        let exclusive = self.silencer.is_some();
        if let Some(silencer) = &mut self.silencer {
            // Before the first frame is delivered: none is for both.
            let attached = silencer.attach(index);
            attached.map_err(|error| {
                self.explain("keeping received frames from the host's stack", error)
            })?;
        }
        let mut switched = match exclusive {
            true => self.settings.switch_off(MERGING)?,
            false => Vec::new(),
        };
        let (filters, all) = vlans::receive_all(&mut self.settings, &self.title, exclusive)?;
        switched.extend(filters);
        self.say(&switched);
        let clone = |interface: &Interface| {
            interface.try_clone().map_err(|error| self.explain("opening the interface", error))
        };
        let socket = Arc::new(Socket::new(
            &self.title,
            clone(self.settings.interface())?,
            self.settings.info().prompt,
            self.filter.clone(),
            all,
            setup,
            self.counts.clone(),
        )?);
        socket.open_if_up()?;
        let advice = segments::advice(self.settings.info(), !exclusive);
        let timestamps = setup.offloads.rx_timestamp;
        let rx = LiveRx::new(socket.clone(), watch, timestamps, advice);
        let tx = LiveTx::new(socket.clone(), queueing);
        self.socket = Some(socket);
        Ok(DriverQueues { rx: vec![Box::new(rx)], tx: vec![Box::new(tx)] })
    }

    /// Says, once, what was switched off.
    fn say(&mut self, switched: &[&str]) {
        if !switched.is_empty() && !std::mem::replace(&mut self.said, true) {
            tracing::info!(
                "{}: switched off until the port is stopped, so that it receives the frames that were sent, all of them: {}",
                self.title,
                switched.join(", ")
            );
        }
    }

    /// Gives the interface back to the host.
    fn end(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.count_drops();
        }
        if let Some(silencer) = &mut self.silencer {
            silencer.detach();
        }
        self.settings.switch_back();
    }

    /// Changes the filter, of the socket, too, if there is one.
    fn change_filter(&mut self, change: impl FnOnce(&mut Filter)) -> Result<()> {
        let mut filter = self.filter.clone();
        change(&mut filter);
        if let Some(socket) = &self.socket {
            socket.set_filter(filter.clone())?;
        }
        self.filter = filter;
        Ok(())
    }
}

/// What keeps received frames from the host's stack; where that cannot be, the port is not exclusive, which is said, unless it
/// was asked that something stay with the stack: then the rest must not.
fn silence(title: &str, to_kernel: &ToKernel) -> Result<Option<Silencer>> {
    let error = match Silencer::prepare(to_kernel) {
        Ok(silencer) => return Ok(Some(silencer)),
        Err(error) => error,
    };
    let privileges = [Privilege::NetAdmin, Privilege::Bpf];
    let denied = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            Some(denied(title, "keep received frames from the host's stack", &privileges))
        }
        _ => None,
    };
    if to_kernel.is_empty() {
        let why = denied.map_or_else(
            || format!("it needs Linux 6.6, and this kernel says: {error}"),
            |denied| denied.to_string(),
        );
        tracing::warn!(
            "{title}: received frames are processed by the host's stack as well, which may answer them ({why}); \
             shared=true accepts that"
        );
        return Ok(None);
    }
    Err(denied.unwrap_or_else(|| Error::Unsupported {
        device: title.into(),
        field: "to_kernel".into(),
        asked: "the rest kept from the host's stack".into(),
        limit: format!("that needs Linux 6.6, and this kernel says: {error}; shared=true leaves everything to both"),
    }))
}

impl PortDriver for LivePort {
    fn capability(&self) -> Capability {
        let (min_mtu, max_mtu) = self.settings.mtu_range(MOST - 14);
        let mut capability = Capability::new();
        capability.max_frame = max_mtu + 14;
        capability.min_max_frame = min_mtu + 14;
        capability.default_max_frame = self.settings.found_mtu() + 14;
        // Each slot is memory of this process as long as the port is started.
        capability.rx_ring = RingSizes::new(16, 65536, 512);
        capability.tx_ring = RingSizes::new(1, 1, 1);
        capability.max_pools = 8;
        capability.max_segments = 16;
        // What a network card loses before the kernel has it is not seen here; in front of a virtual interface there is
        // nothing that could lose.
        capability.exact_drops = self.settings.info().kind.is_some();
        capability.exclusive = self.silencer.is_some();
        capability.promiscuous = true;
        capability.filters = true;
        capability.software_link = self.software_link;
        capability.set_mac = true;
        capability.set_max_frame = true;
        capability.link_state = true;
        capability.link_loss = LinkLoss::Dropped;
        capability.can_vanish = true;
        capability.offloads.rx_timestamp = true;
        capability
    }

    fn mac(&self) -> MacAddr {
        self.settings.mac()
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let result = self.begin(setup);
        if result.is_err() {
            self.end();
        }
        result
    }

    fn stop(&mut self) -> Result<()> {
        self.end();
        Ok(())
    }

    fn link(&mut self) -> Result<Link> {
        let link = self.settings.interface().link();
        let mut link = link.map_err(|error| self.explain("reading the link", error))?;
        if let Some(socket) = &self.socket {
            link.up &= socket.link_up(Ask::IfLate)?;
        }
        Ok(link)
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        let before = self.settings.mac();
        self.settings.set_mac(mac)?;
        let changed = self.change_filter(|filter| filter.mac = mac);
        if changed.is_err() {
            // The filter goes on with the old one, so the interface has to.
            self.settings.set_mac(before)?;
        }
        changed
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        self.change_filter(|filter| filter.promiscuous = on)
    }

    fn set_max_frame(&mut self, bytes: usize) -> Result<()> {
        self.settings.set_mtu(bytes - 14)
    }

    fn counters(&mut self) -> PortCounters {
        if let Some(socket) = &self.socket {
            socket.count_drops();
        }
        let mut all = PortCounters::default();
        all.rx_queues.push(self.counts.rx());
        all.tx_queues.push(self.counts.tx());
        all
    }
}
