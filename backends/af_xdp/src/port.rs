//! The port: opening, settings, counters. What is there while it is started is in [`started`](crate::started).
//!
//! Traps:
//! - Whatever can be known at open is looked at there: privilege, kind of interface, what the host needs it for, whether VLAN tags
//!   would be lost. Nothing of the interface is changed before start.
//! - An interface that is down can be opened and started: the link is down then.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use anyport::capability::{LinkLoss, RingSizes};
use anyport::driver::{DriverQueues, OpenRequest, PortDriver, Setup};
use anyport::{Capability, Error, Link, MacAddr, PortCounters, Result};
use anyport_netdev::bpf::btf::Function;
use anyport_netdev::error::explain;
use anyport_netdev::privilege::{Privilege, denied};
use anyport_netdev::{
    Membership, Settings, ToKernel, links, open, packet_socket, segments, takeover,
};

use crate::device::{Counts, Ways};
use crate::handed::Handed;
use crate::keys::{Attach, Keys};
use crate::preflight::{self, PRIVILEGES};
use crate::program::Filter;
use crate::socket::Statistics;
use crate::started::{self, Started};
use crate::tags::Tags;

/// Bytes in front of a frame that the kernel keeps for programs (`XDP_PACKET_HEADROOM`).
pub(crate) const KERNEL_HEADROOM: usize = 256;

/// The least bytes of a pool frame that the kernel takes.
pub(crate) const LEAST_CHUNK: usize = 2048;

/// The most segments of a frame: the kernel's own packets have a few more places than that.
const SEGMENTS: u16 = 16;

/// An opened interface.
pub(crate) struct XdpPort {
    pub title: String,
    pub keys: Keys,
    pub settings: Settings,
    pub tags: Tags,
    /// How a program in the driver asks for a tag beside a frame, where it has to.
    pub ask_for_tags: Option<Function>,
    /// What another process has made for this port.
    pub handed: Option<Handed>,
    software_link: bool,
    /// Receive and transmit queues that the device has.
    pub queues: (u32, u32),
    /// Whether the kernel has frames that lie in several descriptors.
    pub segments: bool,
    /// The most descriptors of a frame that the driver has, in the mode that the port will be in.
    most_segments: u16,
    pub filter: Filter,
    /// How the kernel did its part when the port was started last.
    pub ways: Ways,
    /// By queue.
    pub counts: Vec<Arc<Counts>>,
    /// It was said what is switched off, and where the program runs.
    pub said: bool,
    /// Descriptors that the kernel did not take, as far as it was said.
    invalid: u64,
    /// Advice about frames that are too long, until it was given.
    advice: Option<String>,
    pub started: Option<Started>,
}

impl XdpPort {
    /// Opens the interface, stopped; nothing of it is changed.
    pub fn open(keys: Keys, request: &OpenRequest<'_>) -> Result<XdpPort> {
        let (title, config) = (format!("af_xdp:{}", request.device), request.config);
        let to_kernel = ToKernel::parse(&title, &config.to_kernel)?;
        let interface = open::find("af_xdp", request.device)?;
        let asking = |error| explain(&title, "reading the interface", error);
        let info = links::link(interface.index()).map_err(asking)?;
        open::check_ethernet(&title, &info)?;
        let is_handed = keys.map.is_some() || keys.sockets.is_some();
        if !is_handed {
            preflight::check_permitted(&title)?;
            preflight::check_free(&title, interface.index())?;
            preflight::check_several_queues(&title, config)?;
        }
        let most_segments = preflight::check_driver(&title, &interface, &keys)?;
        preflight::check_queues(&title, &interface, &info, config)?;
        takeover::check(&interface, &title, config.takeover, false)?;
        let settings = Settings::open(interface, &title)?;
        let asking = |error| explain(&title, "asking for driver and queues", error);
        let driver = settings.interface().driver().map_err(asking)?;
        let mut queues = settings.interface().queues().map_err(asking)?;
        let tags = Tags::of(settings.info(), keys.tags_in_frames);
        let ask_for_tags = tags.function();
        if !is_handed {
            let asked = keys.attach != Attach::Generic && ask_for_tags.is_some();
            tags.check(&title, settings.info(), asked)?;
        }
        // The last thing that can fail: what was handed over is this port's from here on.
        let handed = Handed::take(&title, &keys, config, settings.interface())?;
        let segments = match &handed {
            Some(handed) => {
                queues = (queues.0.min(handed.queues), queues.1.min(handed.queues));
                Ok(handed.segments)
            }
            None => preflight::kernel_has_segments(),
        };
        let segments =
            segments.map_err(|error| explain(&title, "opening an AF_XDP socket", error))?;
        let most_segments = most_segments.unwrap_or(SEGMENTS).min(SEGMENTS);
        let filter = Filter { mac: settings.mac(), promiscuous: false, to_kernel };
        Ok(XdpPort {
            software_link: settings.info().is_software(&driver),
            advice: Some(segments::advice(settings.info(), false)),
            title,
            keys,
            settings,
            tags,
            ask_for_tags,
            handed,
            queues,
            segments,
            most_segments,
            filter,
            ways: Ways::default(),
            counts: vec![Arc::default()],
            said: false,
            invalid: 0,
            started: None,
        })
    }

    /// Whether the program sees whatever is on the wire: the ends of a pair do not sort by address, and elsewhere somebody may
    /// have switched that on.
    fn gets_all(&self) -> bool {
        let info = self.settings.info();
        info.promiscuous || matches!(info.kind.as_deref(), Some("veth" | "tun"))
    }

    /// What a system error means.
    pub fn explain(&self, doing: &str, error: std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => denied(&self.title, doing, &PRIVILEGES),
            _ => explain(&self.title, doing, error),
        }
    }

    pub fn unsupported(
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

    /// Joins or leaves, where there is a socket for that.
    pub fn members(&self, fd: &Option<OwnedFd>, kind: Membership, join: bool) -> Result<()> {
        let Some(fd) = fd else { return Ok(()) };
        packet_socket::membership(fd.as_raw_fd(), self.settings.interface().index(), kind, join)
            .map_err(|error| self.explain("switching what the interface receives", error))
    }

    /// Changes the filter, of the program that is attached, too, if there is one.
    fn change_filter(&mut self, change: impl FnOnce(&mut Filter)) -> Result<()> {
        let mut filter = self.filter.clone();
        change(&mut filter);
        if let Some(Started {
            attachment: Some(attachment), members, map: Some(map), place, ..
        }) = &self.started
        {
            let changes = filter.promiscuous != self.filter.promiscuous;
            packet_socket::with_filter(
                changes.then_some(filter.promiscuous),
                |on| self.members(members, Membership::Promiscuous, on),
                || {
                    let program = filter.load(map, place);
                    let replaced = program.and_then(|program| attachment.replace(&program));
                    replaced.map_err(|error| self.explain("changing the program", error))
                },
            )?;
        }
        self.filter = filter;
        Ok(())
    }

    /// The kernel's statistics of a queue's sockets, if they are open, and how they work.
    fn statistics(&self, queue: usize) -> (Statistics, Ways) {
        let now = self.started.as_ref().and_then(|started| {
            let sender = started.senders.get(queue).and_then(Option::as_deref);
            Some(started::statistics(started.sockets.get(queue)?, sender))
        });
        (now.unwrap_or_default(), self.ways)
    }
}

impl PortDriver for XdpPort {
    fn capability(&self) -> Capability {
        // In one piece a frame lies in a page, behind the head room and before what the kernel keeps behind it; of several, each
        // is at least what the smallest pool frame has room for.
        let segments = if self.segments { self.most_segments } else { 1 };
        let most = match segments > 1 {
            true => usize::from(segments) * (LEAST_CHUNK - KERNEL_HEADROOM) - 4 - 14,
            false => 4096 - KERNEL_HEADROOM - 320 - 4 - 14,
        };
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
        capability.max_segments = segments;
        capability.zero_copy = true;
        capability.exact_drops = self.settings.info().kind.is_some();
        capability.exclusive = true;
        // A frame goes to a socket or on to the stack.
        capability.shared = false;
        // Somebody else's program lets through what it will, and what comes to it is not for this port to change.
        capability.filters = self.handed.is_none();
        capability.promiscuous = self.handed.is_none() || self.gets_all();
        capability.software_link = self.software_link;
        capability.set_mac = self.handed.is_none() || Privilege::NetAdmin.held();
        capability.set_max_frame = capability.set_mac;
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
        let result = self.begin(setup);
        if result.is_err() {
            // The queues that were made have gone: what they had lent is taken back.
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
        link.map_err(|error| self.explain("reading the link", error))
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        let before = self.settings.mac();
        self.settings.set_mac(mac)?;
        let changed = self.change_filter(|filter| filter.mac = mac);
        if changed.is_err() {
            // The program goes on with the old one, so the interface has to.
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
        let mut all = PortCounters::default();
        let mut invalid = 0;
        for (queue, counts) in self.counts.iter().enumerate() {
            let (now, ways) = self.statistics(queue);
            all.rx_queues.push(counts.rx(&now, ways));
            all.tx_queues.push(counts.tx());
            invalid += counts.invalid(&now, ways);
        }
        if all.rx_queues.iter().any(|queue| queue.rx_too_long != Some(0))
            && let Some(advice) = self.advice.take()
        {
            tracing::warn!(
                "{}: dropped a frame that was too long. If it was segments that nobody cut: {advice}",
                self.title
            );
        }
        if invalid > std::mem::replace(&mut self.invalid, invalid) {
            tracing::warn!(
                "{}: the kernel did not take {invalid} descriptors: somebody else has written to the rings, or to this process",
                self.title
            );
        }
        all
    }
}

impl Drop for XdpPort {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport::config::{PortConfig, Table};
    use anyport::{Pool, driver::PortDriver};
    use anyport_netdev::Interface;
    use anyport_netdev::testing::{in_namespace, keep_only, may_load_programs, run};

    fn port(keys: Keys) -> XdpPort {
        let (options, config) = (Table::new(), PortConfig::default());
        XdpPort::open(keys, &OpenRequest::new("a0", &options, &config)).unwrap()
    }

    fn attached_as() -> String {
        let shown = run("ip", "link show a0");
        shown.split_whitespace().find(|word| word.starts_with("xdp")).unwrap_or("").to_owned()
    }

    /// One of the kernel's functions that is not for programs: the kernel does not take a program that calls it.
    #[test]
    fn where_no_program_can_ask_for_tags_it_runs_behind_the_driver_or_says_so() {
        in_namespace(|| {
            let wrong = Function::find("ksys_read").ok().flatten();
            // Without, the kernel does not describe itself, and no program asks for tags.
            if !may_load_programs() || wrong.is_none() {
                return;
            }
            for switch in ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"] {
                let _ = Interface::open("a1").unwrap().set_feature(switch, false);
            }
            let pools = [Pool::builder().frames(512).build().unwrap()];
            let start = |keys| {
                let mut port = port(keys);
                port.ask_for_tags = wrong;
                let capability = port.capability();
                let started = port.start(&Setup::new(&capability, &pools)).map(drop);
                started.map(|()| attached_as())
            };
            assert_eq!(start(Keys::default()).unwrap(), "xdpgeneric");
            let error = start(Keys { attach: Attach::Native, ..Keys::default() }).unwrap_err();
            assert!(error.to_string().contains("keeps VLAN tags beside frames"), "{error}");
            assert_eq!(pools[0].free(), pools[0].capacity());
        });
    }

    #[test]
    fn an_address_that_the_program_cannot_have_is_not_the_interfaces_either() {
        in_namespace(|| {
            if !may_load_programs() {
                return;
            }
            let pools = [Pool::builder().frames(512).build().unwrap()];
            let mut port = port(Keys::default());
            let capability = port.capability();
            let queues = port.start(&Setup::new(&capability, &pools)).unwrap();
            let (before, other) = (port.mac(), MacAddr([2, 0, 0, 0, 0, 0x77]));
            keep_only(&[Privilege::NetAdmin]);
            let error = port.set_mac(other).unwrap_err();
            assert!(matches!(error, Error::Permission { .. }), "{error:?}");
            assert_eq!((port.mac(), port.filter.mac), (before, before));
            assert_eq!(Interface::open("a0").unwrap().mac().unwrap(), before);
            drop(queues);
        });
    }

    /// A queue that does not come back has a socket open on the memory that the others' frames are in.
    #[test]
    fn while_a_queue_has_a_socket_open_no_frame_is_used_again() {
        in_namespace(|| {
            if !may_load_programs() {
                return;
            }
            for gone in [false, true] {
                let pools = [Pool::builder().frames(512).build().unwrap()];
                let mut port = port(Keys::default());
                let capability = port.capability();
                let mut queues = port.start(&Setup::new(&capability, &pools)).unwrap();
                let lent = pools[0].capacity() - pools[0].free();
                assert_ne!(lent, 0);
                queues.rx.clear();
                if gone {
                    queues.tx.clear();
                }
                port.stop().unwrap();
                let still = if gone { 0 } else { lent };
                assert_eq!(pools[0].capacity() - pools[0].free(), still);
                assert_eq!(port.counters().tx_queues[0].lost, Some(still as u64));
            }
        });
    }
}
