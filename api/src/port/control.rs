//! Handles apart from the queues: control and statistics, `Send + Sync`, for any thread (contract Q2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PortShared, lock};
use crate::counters::{Counters, PortCounters};
use crate::error::{Error, Result};
use crate::mac::MacAddr;

/// The state of a link (contract M3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Megabits per second, where the device knows.
    pub speed_mbps: Option<u32>,
    /// Whether both directions can be used at once, where the device knows.
    pub full_duplex: Option<bool>,
}

impl Link {
    /// A link that is up or down, of unknown speed.
    pub fn new(up: bool) -> Link {
        Link { up, ..Link::default() }
    }

    /// With speed and duplex.
    #[must_use]
    pub fn with_speed(mut self, speed_mbps: Option<u32>, full_duplex: Option<bool>) -> Link {
        (self.speed_mbps, self.full_duplex) = (speed_mbps, full_duplex);
        self
    }
}

/// Link, address and modes of a port.
#[derive(Clone)]
pub struct Control {
    shared: Arc<PortShared>,
}

impl Control {
    pub(super) fn new(shared: Arc<PortShared>) -> Control {
        Control { shared }
    }

    /// The link now (contract M3).
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::DeviceGone`], or the system's.
    pub fn link(&self) -> Result<Link> {
        self.shared.with_driver(|driver| driver.link())
    }

    /// Waits for the link to come up.
    ///
    /// # Errors
    /// [`Error::Timeout`], or as [`link`](Control::link).
    pub fn wait_link_up(&self, timeout: Duration) -> Result<Link> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let link = self.link()?;
            if link.up {
                return Ok(link);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let (device, what) = (self.shared.title.clone(), "link-up");
                return Err(Error::Timeout { device, what, timeout });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The port's own address now.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn mac(&self) -> Result<MacAddr> {
        self.shared.with_driver(|driver| Ok(driver.mac()))
    }

    /// Sets the port's own address until close (contract M1).
    ///
    /// # Errors
    /// [`Error::InvalidMac`], [`Error::Unsupported`], or the device's.
    pub fn set_mac(&self, mac: MacAddr) -> Result<()> {
        mac.check_own()?;
        if !self.shared.capability.set_mac {
            return Err(self.unsupported("mac", &mac.to_string(), "its address cannot be changed"));
        }
        let _changing = lock(&self.shared.changing);
        self.shared.with_driver(|driver| driver.set_mac(mac))?;
        self.shared.filter.set_own(mac);
        lock(&self.shared.config).mac = Some(mac);
        Ok(())
    }

    /// Whether promiscuous mode is on.
    pub fn promiscuous(&self) -> bool {
        self.shared.filter.promiscuous()
    }

    /// Switches promiscuous mode, for all frames sent after the return (contract R6).
    ///
    /// # Errors
    /// [`Error::Unsupported`], or the device's.
    pub fn set_promiscuous(&self, on: bool) -> Result<()> {
        let capability = &self.shared.capability;
        if !capability.promiscuous {
            return Err(self.unsupported("promiscuous", &on.to_string(), "it cannot be switched"));
        }
        let _changing = lock(&self.shared.changing);
        // Where the common layer filters there is still to be an open device.
        self.shared.with_driver(|driver| match capability.filters {
            true => driver.set_promiscuous(on),
            false => Ok(()),
        })?;
        self.shared.filter.set_promiscuous(on);
        lock(&self.shared.config).promiscuous = on;
        Ok(())
    }

    /// The maximum frame in force, in bytes without FCS (contract M2).
    pub fn max_frame(&self) -> usize {
        let configured = lock(&self.shared.config).max_frame;
        configured.unwrap_or(self.shared.capability.default_max_frame)
    }

    fn unsupported(&self, field: &str, asked: &str, limit: &str) -> Error {
        Error::Unsupported {
            device: self.shared.title.clone(),
            field: field.into(),
            asked: asked.into(),
            limit: limit.into(),
        }
    }

    /// Taps the port while it runs: a copy of everything received and sent, in a ring of at most `bytes` bytes.
    ///
    /// It costs the port's queues a copy of each frame that the ring takes (of a sent one two, because it is gone once it
    /// is accepted). A reader that is too slow loses records, which are counted as `capture_dropped`, and never holds the
    /// port up: without room not even the copy is made. A tap of a closed port has ended.
    pub fn tap(&self, bytes: usize) -> crate::capture::Tap {
        let tap = crate::capture::Tap::new(bytes);
        self.shared.captures.add(tap.writer());
        tap
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("port", &self.shared.title).finish()
    }
}

/// The counters of a port (contract S). Reading changes nothing.
#[derive(Clone)]
pub struct Stats {
    shared: Arc<PortShared>,
}

impl Stats {
    pub(super) fn new(shared: Arc<PortShared>) -> Stats {
        Stats { shared }
    }

    /// All counters now. After close they stay what they were.
    pub fn read(&self) -> PortCounters {
        let shared = &*self.shared;
        // The driver first: what the device reports as not sent must never exceed what is read as accepted.
        let device = match lock(&shared.driver).as_mut() {
            Some(driver) => driver.counters(),
            None => lock(&shared.final_counters).clone(),
        };
        let cells = lock(&shared.cells);
        let (rx_counts, tx_counts) = (cells.rx_counts.clone(), cells.tx_counts.clone());
        drop(cells);
        let filters_here = !shared.capability.filters;
        let mut all = PortCounters::default();
        for (index, counts) in rx_counts.iter().enumerate() {
            let mut queue = Counters {
                rx_packets: Some(counts.packets.get()),
                rx_bytes: Some(counts.bytes.get()),
                rx_too_long: Some(counts.too_long.get()),
                rx_too_short: Some(counts.too_short.get()),
                rx_filtered: filters_here.then(|| counts.filtered.get()),
                ..Counters::default()
            };
            if let Some(own) = device.rx_queues.get(index) {
                queue.add(own);
            }
            all.rx_queues.push(queue);
        }
        for (index, counts) in tx_counts.iter().enumerate() {
            let mut queue = Counters {
                tx_copied: Some(counts.copied.get()),
                tx_dropped: Some(counts.discarded.get()),
                tx_dropped_bytes: Some(counts.discarded_bytes.get()),
                ..Counters::default()
            };
            if let Some(own) = device.tx_queues.get(index) {
                queue.add(own);
            }
            // What was accepted, less what is known not to have been sent (S1).
            let sent =
                |accepted: u64, dropped: Option<u64>| accepted.saturating_sub(dropped.unwrap_or(0));
            queue.tx_packets = Some(sent(counts.packets.get(), queue.tx_dropped));
            queue.tx_bytes = Some(sent(counts.bytes.get(), queue.tx_dropped_bytes));
            all.tx_queues.push(queue);
        }
        let mut port = device.port;
        // Before the first start there is no queue yet: what will be counted is 0, not absent (S2).
        port.add(&Counters {
            rx_packets: Some(0),
            rx_bytes: Some(0),
            rx_too_long: Some(0),
            rx_too_short: Some(0),
            rx_filtered: filters_here.then_some(0),
            tx_packets: Some(0),
            tx_bytes: Some(0),
            tx_dropped: Some(0),
            tx_dropped_bytes: Some(0),
            tx_copied: Some(0),
            ..Counters::default()
        });
        let never_started = device.rx_queues.iter().skip(all.rx_queues.len());
        never_started
            .chain(device.tx_queues.iter().skip(all.tx_queues.len()))
            .for_each(|queue| port.add(queue));
        if let Some(dropped) = shared.captures.dropped() {
            port.capture_dropped = Some(dropped);
        }
        all.rx_queues.iter().chain(&all.tx_queues).for_each(|queue| port.add(queue));
        all.port = port;
        all
    }
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stats").field("port", &self.shared.title).finish()
    }
}
