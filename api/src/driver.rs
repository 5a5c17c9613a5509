//! The driver interface: all that a backend implements. It fits on one screen; the rest is comment.
//!
//! The common layer above it keeps the contract for every backend alike: states, locks, argument checks,
//! maximum frame, padding, filtering where the device does not, copies from foreign pools, offloads in
//! software, counters, waiting, capture. So a driver may rely on this:
//!
//! - a queue's driver is never called by two threads at once, nor after [`PortDriver::stop`];
//! - `start` is called only on a stopped driver, with a configuration within its [`Capability`];
//! - frames given to [`TxDriver::send`] are 14 to maximum bytes long, padded to 60 unless the device pads,
//!   from a pool that is attached, in at most `max_segments` segments;
//! - what [`RxDriver::recv`] returns is checked, filtered and counted by the caller.
//!
//! # Traps
//! - `recv` and `send` never block, sleep or allocate.
//! - [`RxDriver::arm`] needs no re-check for frames: the caller receives once more after arming, so that
//!   a frame that came in between is not slept over (contract R10).
//! - A frame's [`Packet`](crate::Packet) may be dropped or given to a cache only when the device can no longer touch it
//!   (contract L6).

use std::os::fd::RawFd;

use crate::burst::Burst;
use crate::capability::{Capability, DeviceOffloads};
use crate::config::{PortConfig, Schema, Table};
use crate::counters::PortCounters;
use crate::error::{Error, Result};
use crate::mac::MacAddr;
use crate::pool::{Pool, PoolCache};
pub use crate::port::DeviceLock;
use crate::port::Link;
use crate::queue::TxTimestamp;

/// The version of this interface; [`Backend::interface_version`] returns the one that it was built against.
pub const INTERFACE_VERSION: u32 = 1;

/// A kind of device: what stands before the first colon of a spec.
pub trait Backend: Send + Sync {
    /// The name in specs: `loop`, `pcap`, `af_xdp`, ...
    fn name(&self) -> &'static str;
    /// The version of the driver interface that the backend was built against.
    fn interface_version(&self) -> u32 {
        INTERFACE_VERSION
    }
    /// The JSON schema of the backend's own keys, an object with `properties`; see [`crate::config::schema_of`]. No keys
    /// unless there are some.
    fn options(&self) -> Schema {
        Schema::default()
    }
    /// Those of [`options`](Backend::options) that make sense for that device (what stands behind the colon, perhaps nothing):
    /// the ones that an error about an unknown key lists. All of them, unless some are for other devices.
    fn options_for(&self, device: &str) -> Schema {
        let _ = device;
        self.options()
    }
    /// What can be opened on this machine, and why not (for `anyport list`).
    fn devices(&self) -> Vec<DeviceInfo>;
    /// Whether the request is of the right form: the device's name, the values of the backend's keys, and of those common keys
    /// whose words only backends know. Nothing is opened, and the device need not exist: this is what can be said of a
    /// configuration on another machine. It is called before [`open`](Backend::open).
    fn check(&self, _request: &OpenRequest<'_>) -> Result<()> {
        Ok(())
    }
    /// What an exclusive lock on the device is keyed by (contract L2), `None` for what may be opened often.
    fn lock_key(&self, device: &str, options: &Table) -> Result<Option<String>>;
    /// Opens the device, stopped, with nothing of it changed. The lock is held already.
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>>;
}

/// One opened device. Dropping it leaves the device as it was found (contract L8).
pub trait PortDriver: Send {
    /// Limits and abilities; they do not change while the port is open.
    fn capability(&self) -> Capability;
    /// The device's address now.
    fn mac(&self) -> MacAddr;
    /// Makes the queues, `config.rx_queues` and `config.tx_queues` of them, ready to receive and send.
    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues>;
    /// Called after all queues were drained and dropped; takes the device out of traffic, if that is not done by then.
    fn stop(&mut self) -> Result<()> {
        Ok(())
    }
    /// Link state now. A device that has none (no `link_state`) is always up.
    fn link(&mut self) -> Result<Link> {
        Ok(Link::new(true))
    }
    /// Sets the address (called only with capability `set_mac`).
    fn set_mac(&mut self, _mac: MacAddr) -> Result<()> {
        Err(unimplemented("set_mac"))
    }
    /// Switches promiscuous mode, for all frames sent after the return (called only with `promiscuous` and `filters`:
    /// where the common layer filters, it also switches).
    fn set_promiscuous(&mut self, _on: bool) -> Result<()> {
        Err(unimplemented("promiscuous"))
    }
    /// Sets the maximum frame in bytes (called only with `set_max_frame`, only while stopped).
    fn set_max_frame(&mut self, _bytes: usize) -> Result<()> {
        Err(unimplemented("set_max_frame"))
    }
    /// What only the device counts, since open, monotonic, also across stop and start: per queue where it
    /// knows, in `port` what belongs to no queue. What the common layer counts stays `None`.
    fn counters(&mut self) -> PortCounters;
}

/// What a capability says that was declared without its method.
fn unimplemented(capability: &str) -> Error {
    let reason = format!("it declares the capability `{capability}` and does not implement it");
    Error::Backend { device: "the backend".into(), reason }
}

/// One receive queue.
pub trait RxDriver: Send {
    /// Appends at most `burst.room()` frames, taken from `pool` or handed over from a sender of the same
    /// pool; metadata fresh (contract R9). With no frame in the pool, what arrives is dropped and counted.
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()>;
    /// From the return on, [`descriptor`](RxDriver::descriptor) becomes readable when a frame is there. Nothing to do
    /// where it is readable as long as one is.
    fn arm(&mut self) -> Result<()> {
        Ok(())
    }
    /// Readable when a frame is there (once armed). It is asked for each time the queue is armed, and once there is one it
    /// stays the same open file as long as the queue lives.
    ///
    /// `None` means that there is none now: if the driver has an [`event_descriptor`](RxDriver::event_descriptor) and
    /// its [`link_up`](RxDriver::link_up) says no, that no frame can come until an event was told; else that the queue
    /// has to be polled, which is done every millisecond while its owner sleeps.
    fn descriptor(&self) -> Option<RawFd>;
    /// Readable when link or device change; it is drained by [`link_up`](RxDriver::link_up). The same from the queue's start
    /// to its end.
    ///
    /// `None`: a device that `can_vanish` or has `link_state` is asked by [`link_up`](RxDriver::link_up) every 500 ms
    /// while the queue's owner sleeps.
    fn event_descriptor(&self) -> Option<RawFd> {
        None
    }
    /// Whether the link is up. `DeviceGone` if the device is. Called whenever a queue with an event descriptor is armed,
    /// else only with `can_vanish` or `link_state`; by a queue that is only polled, every 50 ms.
    fn link_up(&mut self) -> Result<bool> {
        Ok(true)
    }
}

/// One transmit queue.
pub trait TxDriver: Send {
    /// Takes up to `count` packets from the front of `burst`, only as many as the device takes over now
    /// (contract T2), and returns spent frames to `pools`. An error only if nothing was taken.
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()>;
    /// Returns frames whose transmission has completed; what is still with the device (contract T6). Nothing to do for a
    /// device that is done with a frame when `send` returns.
    fn reclaim(&mut self, _pools: &mut [PoolCache]) -> Result<Outstanding> {
        Ok(Outstanding::default())
    }
    /// Whether the link is up; called at most once per 50 ms (contract T8).
    fn link_up(&mut self) -> Result<bool> {
        Ok(true)
    }
    /// The next transmit timestamp that a packet asked for, if the device takes any (contract O4).
    fn take_timestamp(&mut self) -> Option<TxTimestamp> {
        None
    }
}

/// Frames that were accepted and are still with the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outstanding {
    /// How many.
    pub packets: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What [`PortDriver::start`] hands out, in queue order.
pub struct DriverQueues {
    /// Receive queues.
    pub rx: Vec<Box<dyn RxDriver>>,
    /// Transmit queues.
    pub tx: Vec<Box<dyn TxDriver>>,
}

/// What a backend needs to open a device.
#[non_exhaustive]
pub struct OpenRequest<'a> {
    /// The device, as it stands in the spec.
    pub device: &'a str,
    /// The backend's own keys; unknown ones were refused already. See [`crate::config::from_table`].
    pub options: &'a Table,
    /// The common keys: `shared`, `takeover`, `to_kernel` and the like matter at open.
    pub config: &'a PortConfig,
}

impl<'a> OpenRequest<'a> {
    /// For backends' own tests.
    pub fn new(device: &'a str, options: &'a Table, config: &'a PortConfig) -> OpenRequest<'a> {
        OpenRequest { device, options, config }
    }
}

/// What a driver needs to start: the configuration, checked, with every default filled in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Setup<'a> {
    /// The attached pools, at least one; frames are received into the first.
    pub pools: &'a [Pool],
    /// Receive queues to make.
    pub rx_queues: u16,
    /// Transmit queues to make.
    pub tx_queues: u16,
    /// Frames in each receive ring.
    pub rx_ring: u32,
    /// Frames in each transmit ring.
    pub tx_ring: u32,
    /// The maximum frame in bytes.
    pub max_frame: usize,
    /// The most segments of a received packet.
    pub max_segments: u16,
    /// The Toeplitz key.
    pub rss_key: [u8; 40],
    /// The offloads that the device is to do; each within its [`Capability::offloads`].
    pub offloads: DeviceOffloads,
}

impl<'a> Setup<'a> {
    /// A cache of the size that the contract gives to one queue of the port (contract P1), for a driver that takes frames
    /// where the cache that it is called with cannot be had, such as in the thread of a sender. It holds instead of that
    /// one, which the driver then leaves empty: what a queue holds in all its caches counts together. Like that one it is to
    /// be empty while the queue's owner sleeps.
    pub fn queue_cache(&self, pool: &Pool) -> PoolCache {
        let queues = usize::from(self.rx_queues) + usize::from(self.tx_queues);
        PoolCache::for_queue(pool, queues)
    }

    /// One queue each way with default rings, for backends' own tests.
    pub fn new(capability: &Capability, pools: &'a [Pool]) -> Setup<'a> {
        Setup {
            pools,
            rx_queues: 1,
            tx_queues: 1,
            rx_ring: capability.rx_ring.default,
            tx_ring: capability.tx_ring.default,
            max_frame: capability.default_max_frame,
            max_segments: 1,
            rss_key: crate::offload::toeplitz::DEFAULT_KEY,
            offloads: DeviceOffloads::default(),
        }
    }
}

/// One device that a backend could open, for `anyport list`.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The spec that opens it.
    pub spec: String,
    /// What it is, in a few words.
    pub description: String,
    /// Why it cannot be opened now, with the command that mends it; `None` if it can.
    pub obstacle: Option<String>,
}

impl DeviceInfo {
    /// A device that can be opened.
    pub fn new(spec: impl Into<String>, description: impl Into<String>) -> DeviceInfo {
        DeviceInfo { spec: spec.into(), description: description.into(), obstacle: None }
    }

    /// The same, but something stands in the way.
    #[must_use]
    pub fn with_obstacle(mut self, obstacle: Option<String>) -> DeviceInfo {
        self.obstacle = obstacle;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that a driver can be.
    struct Bare;

    impl PortDriver for Bare {
        fn capability(&self) -> Capability {
            Capability::new()
        }
        fn mac(&self) -> MacAddr {
            MacAddr([2, 0, 0, 0, 0, 1])
        }
        fn start(&mut self, _: &Setup<'_>) -> Result<DriverQueues> {
            Ok(DriverQueues { rx: Vec::new(), tx: Vec::new() })
        }
        fn counters(&mut self) -> PortCounters {
            PortCounters::default()
        }
    }

    #[test]
    fn what_is_declared_and_not_implemented_is_an_error() {
        let mut bare = Bare;
        assert!(bare.link().unwrap().up && bare.stop().is_ok());
        for (result, capability) in [
            (bare.set_mac(MacAddr([2; 6])), "`set_mac`"),
            (bare.set_promiscuous(true), "`promiscuous`"),
            (bare.set_max_frame(60), "`set_max_frame`"),
        ] {
            assert!(result.unwrap_err().to_string().contains(capability));
        }
    }
}
