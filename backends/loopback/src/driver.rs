//! The driver interface over a [`Cable`].

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use anyport::capability::{LinkLoss, RingSizes};
use anyport::config::{Schema, Table, from_table, schema_of};
use anyport::driver::{
    Backend, DeviceInfo, DriverQueues, OpenRequest, Outstanding, PortDriver, RxDriver, Setup,
    TxDriver,
};
use anyport::packet::{Clock, Timestamp, TimestampSource};
use anyport::queue::TxTimestamp;
use anyport::wait::EventFd;
use anyport::{
    Burst, Capability, Counters, Error, Link, MacAddr, Packet, PoolCache, PortCounters, Result,
};

use crate::cable::{Backlog, Cable, QUEUES, RxState, lock};
use crate::faults::{FaultState, Faults};
use crate::offload::{self, Receive, Transmit};
use crate::ring::Ring;
use crate::steer::Steer;

/// The largest maximum frame, in bytes without FCS.
const MAX_FRAME: usize = 9600;

/// The backend `loop`.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct Loopback;

/// `NAME.0` or `NAME.1`.
fn parse(device: &str) -> Result<(&str, usize)> {
    let end = device.rsplit_once('.').and_then(|(name, end)| match end {
        "0" if !name.is_empty() => Some((name, 0)),
        "1" if !name.is_empty() => Some((name, 1)),
        _ => None,
    });
    end.ok_or_else(|| Error::UnknownDevice {
        backend: "loop".into(),
        device: device.into(),
        hint: "the two ends of a cable are NAME.0 and NAME.1, with any NAME".into(),
    })
}

/// The backend's own keys.
#[derive(Default, schemars::JsonSchema)]
#[schemars(default)]
#[allow(dead_code, reason = "only its schema is used: it names the keys of both halves")]
struct Options {
    #[schemars(flatten)]
    faults: Faults,
    #[schemars(flatten)]
    engines: Engines,
}

/// What the device itself does.
#[derive(Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(default)]
struct Engines {
    /// The cable's ends do checksums, VLAN tags and hashes themselves, so that `required` can be had.
    device_offloads: bool,
}

/// The backend's keys, in two halves: an error in either names its key.
fn keys(request: &OpenRequest<'_>) -> Result<(Engines, Faults)> {
    let title = format!("loop:{}", request.device);
    let mut faults = request.options.clone();
    let engines = faults.remove("device_offloads").map(|value| ("device_offloads".into(), value));
    let engines = from_table(&title, &engines.into_iter().collect())?;
    Ok((engines, from_table(&title, &faults)?))
}

impl Backend for Loopback {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn options(&self) -> Schema {
        schema_of::<Options>()
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        let live = Cable::all().into_iter().flat_map(|name| {
            [0, 1].map(|end| {
                DeviceInfo::new(format!("loop:{name}.{end}"), "end of an in-process cable")
            })
        });
        let any =
            DeviceInfo::new("loop:NAME.0", "end of an in-process cable; the other is loop:NAME.1");
        live.chain([any]).collect()
    }

    fn lock_key(&self, device: &str, _: &Table) -> Result<Option<String>> {
        let (name, end) = parse(device)?;
        // A cable is known in its process only.
        Ok(Some(format!("loop/{}/{name}.{end}", std::process::id())))
    }

    fn check(&self, request: &OpenRequest<'_>) -> Result<()> {
        parse(request.device)?;
        keys(request).map(drop)
    }

    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let (name, end) = parse(request.device)?;
        let title = format!("loop:{}", request.device);
        let (Engines { device_offloads }, faults) = keys(request)?;
        let cable = Cable::named(name);
        if cable.shared.is_gone(end) {
            return Err(gone(&title));
        }
        if cable.shared.ends[end].open.swap(true, Ordering::AcqRel) {
            return Err(Error::Busy { device: title, pid: std::process::id() });
        }
        let mac = cable.shared.ends[end].filter.own();
        Ok(Box::new(LoopPort { cable, end, title, faults, device_offloads, found_mac: mac, mac }))
    }
}

fn gone(title: &str) -> Error {
    Error::DeviceGone { device: title.into(), reason: "this end of the cable was removed".into() }
}

struct LoopPort {
    cable: Cable,
    end: usize,
    title: String,
    faults: Faults,
    device_offloads: bool,
    found_mac: MacAddr,
    mac: MacAddr,
}

impl LoopPort {
    fn check(&self) -> Result<()> {
        if self.cable.shared.is_gone(self.end) { Err(gone(&self.title)) } else { Ok(()) }
    }
}

impl PortDriver for LoopPort {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        (capability.max_rx_queues, capability.max_tx_queues) = (QUEUES as u16, QUEUES as u16);
        capability.max_frame = MAX_FRAME;
        capability.min_max_frame = 60;
        capability.rx_ring = RingSizes::new(1, 65536, 1024);
        capability.tx_ring = RingSizes::new(1, 65536, 1024);
        capability.max_pools = 8;
        capability.max_segments = 64;
        capability.zero_copy = true;
        capability.exact_drops = true;
        capability.rss = true;
        capability.exclusive = true;
        capability.promiscuous = true;
        capability.filters = true;
        capability.set_mac = true;
        capability.set_max_frame = true;
        capability.link_state = true;
        capability.link_loss = LinkLoss::Kept;
        capability.can_vanish = true;
        capability.can_end = true;
        offload::declare(self.device_offloads, &mut capability.offloads);
        capability
    }

    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        self.check()?;
        let end = &self.cable.shared.ends[self.end];
        *lock(&end.steer) = Some(Arc::new(Steer::new(&setup.rss_key)));
        let mut rx: Vec<Box<dyn RxDriver>> = Vec::new();
        let system = |source| Error::os(&self.title, "making a queue's descriptors", source);
        let mut states = Vec::new();
        for queue in 0..setup.rx_queues as usize {
            let (frames, events) =
                (EventFd::new().map_err(system)?, EventFd::new().map_err(system)?);
            let (frames, events) = (Arc::new(frames), Arc::new(events));
            let pool = &setup.pools[0];
            states.push(RxState {
                ring: Ring::new(setup.rx_ring as usize),
                faults: FaultState::new(self.faults),
                pools: setup.pools.iter().map(anyport::Pool::id).collect(),
                cache: setup.queue_cache(pool),
                armed: false,
                starved: false,
                ended: false,
                frames: frames.clone(),
                events: events.clone(),
                max_segments: setup.max_segments as usize,
                counts: *lock(&end.rx[queue].counts),
            });
            rx.push(Box::new(LoopRx {
                cable: self.cable.clone(),
                end: self.end,
                queue,
                title: self.title.clone(),
                frames,
                events,
                timestamps: setup.offloads.rx_timestamp,
                engine: Receive::new(setup.offloads, &setup.rss_key),
            }));
        }
        let mut tx: Vec<Box<dyn TxDriver>> = Vec::new();
        for queue in 0..setup.tx_queues as usize {
            let ring = Some(Ring::new(setup.tx_ring as usize));
            *lock(&end.tx[queue].backlog) = Backlog { ring, bytes: 0 };
            // With the tag that is to be inserted.
            let engine = Transmit::new(setup.offloads, setup.max_frame + 4);
            end.engine.store(engine.is_some(), Ordering::Release);
            *lock(&end.tx[queue].engine) = engine;
            tx.push(Box::new(LoopTx {
                cable: self.cable.clone(),
                end: self.end,
                queue,
                title: self.title.clone(),
                timestamps: setup.offloads.tx_timestamp.then(Stamps::new),
            }));
        }
        for (queue, state) in states.into_iter().enumerate() {
            *lock(&end.rx[queue].state) = Some(state);
        }
        // From here on the other end's frames arrive.
        end.rx_queues.store(setup.rx_queues, Ordering::Release);
        Ok(DriverQueues { rx, tx })
    }

    fn stop(&mut self) -> Result<()> {
        let end = &self.cable.shared.ends[self.end];
        end.rx_queues.store(0, Ordering::Release);
        for side in &end.rx {
            // Whatever arrived is discarded with the state (contract L7).
            let state = lock(&side.state).take();
            if let Some(state) = state {
                *lock(&side.counts) = state.counts;
            }
        }
        for side in &end.tx {
            *lock(&side.backlog) = Backlog::default();
        }
        Ok(())
    }

    fn link(&mut self) -> Result<Link> {
        self.check()?;
        Ok(Link::new(self.cable.shared.link_up()))
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        self.cable.shared.ends[self.end].filter.set_own(mac);
        self.mac = mac;
        Ok(())
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        self.cable.shared.ends[self.end].filter.set_promiscuous(on);
        Ok(())
    }

    fn set_max_frame(&mut self, _: usize) -> Result<()> {
        // The common layer enforces it; a cable carries whatever there is.
        Ok(())
    }

    fn counters(&mut self) -> PortCounters {
        let end = &self.cable.shared.ends[self.end];
        let mut all = PortCounters::default();
        for side in &end.rx {
            let state = lock(&side.state);
            let counts = state.as_ref().map_or_else(|| *lock(&side.counts), |state| state.counts);
            let mut queue = Counters::default();
            queue.rx_ring_full = Some(counts.ring_full);
            queue.rx_no_buffer = Some(counts.no_buffer);
            queue.rx_filtered = Some(counts.filtered);
            queue.rx_errors = Some(counts.errors);
            all.rx_queues.push(queue);
        }
        for side in &end.tx {
            let mut queue = Counters::default();
            queue.tx_dropped = Some(side.dropped.load(Ordering::Relaxed));
            queue.tx_dropped_bytes = Some(side.dropped_bytes.load(Ordering::Relaxed));
            all.tx_queues.push(queue);
        }
        all
    }
}

impl Drop for LoopPort {
    fn drop(&mut self) {
        let _ = self.stop();
        let filter = &self.cable.shared.ends[self.end].filter;
        filter.set_own(self.found_mac);
        filter.set_promiscuous(false);
        for side in &self.cable.shared.ends[self.end].rx {
            *lock(&side.counts) = crate::cable::RxCounts::default();
        }
        for side in &self.cable.shared.ends[self.end].tx {
            side.dropped.store(0, Ordering::Relaxed);
            side.dropped_bytes.store(0, Ordering::Relaxed);
        }
        self.cable.shared.ends[self.end].open.store(false, Ordering::Release);
    }
}

struct LoopRx {
    cable: Cable,
    end: usize,
    queue: usize,
    title: String,
    frames: Arc<EventFd>,
    events: Arc<EventFd>,
    timestamps: bool,
    engine: Option<Receive>,
}

impl LoopRx {
    fn state(&self) -> &Mutex<Option<RxState>> {
        &self.cable.shared.ends[self.end].rx[self.queue].state
    }
}

impl RxDriver for LoopRx {
    #[inline]
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        let before = burst.len();
        let ended;
        {
            let mut guard = lock(self.state());
            let Some(state) = &mut *guard else { return Err(Error::Closed) };
            state.ring.pop_into(burst);
            if burst.len() == before
                && !burst.is_full()
                && let Some(packet) = state.faults.release()
            {
                let _ = burst.push(packet);
            }
            // A look into the pool tells the common layer that this queue wants frames (contract R12).
            if state.starved
                && let Some(packet) = pool.take()
            {
                pool.give(packet);
                // Arriving frames are taken from another cache.
                pool.flush();
                state.starved = false;
            }
            // A full burst leaves frames behind: the end comes after the last of them.
            ended = state.ended && state.ring.len() == 0 && state.faults.held() == 0;
        }
        if burst.len() == before && self.cable.shared.is_gone(self.end) {
            return Err(gone(&self.title));
        }
        if burst.len() == before && ended {
            return Err(Error::Ended);
        }
        if let Some(engine) = &self.engine {
            burst[before..].iter_mut().for_each(|packet| engine.apply(packet));
        }
        if self.timestamps {
            let at = stamp();
            burst[before..].iter_mut().for_each(|packet| packet.set_timestamp(at));
        }
        Ok(())
    }

    fn arm(&mut self) -> Result<()> {
        self.frames.drain();
        match &mut *lock(self.state()) {
            Some(state) => {
                state.armed = true;
                state.cache.flush();
            }
            None => return Err(Error::Closed),
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.frames.as_raw_fd())
    }

    fn event_descriptor(&self) -> Option<RawFd> {
        Some(self.events.as_raw_fd())
    }

    fn link_up(&mut self) -> Result<bool> {
        self.events.drain();
        match self.cable.shared.is_gone(self.end) {
            true => Err(gone(&self.title)),
            false => Ok(self.cable.shared.link_up()),
        }
    }
}

fn stamp() -> Timestamp {
    let (source, clock) = (TimestampSource::Software, Clock::Monotonic);
    Timestamp { ns: anyport::time::monotonic_ns(), source, clock }
}

/// Transmit timestamps that nobody has fetched yet. Beyond [`STAMPS`] the oldest are forgotten, so that a program which asks
/// and never fetches costs no memory.
struct Stamps(VecDeque<TxTimestamp>);

/// The most timestamps that wait to be fetched.
const STAMPS: usize = 4096;

fn asks(packet: &&Packet) -> bool {
    packet.requests().timestamp
}

impl Stamps {
    fn new() -> Stamps {
        Stamps(VecDeque::with_capacity(STAMPS))
    }

    /// Takes down the marks of packets that are about to leave; how many of them ask.
    fn note(&mut self, packets: &[Packet]) -> usize {
        let mut asked = 0;
        for packet in packets.iter().filter(asks) {
            if self.0.len() == STAMPS {
                self.0.pop_front();
            }
            self.0.push_back(TxTimestamp { mark: packet.mark().unwrap_or(0), at: stamp() });
            asked += 1;
        }
        asked
    }

    /// Says when they left, and which of them did not.
    fn confirm(&mut self, asked: usize, left: &[Packet]) {
        let unsent = left.iter().filter(asks).count();
        self.0.truncate(self.0.len().saturating_sub(unsent));
        let at = stamp();
        self.0.iter_mut().rev().take(asked - unsent).for_each(|sent| sent.at = at);
    }
}

struct LoopTx {
    cable: Cable,
    end: usize,
    queue: usize,
    title: String,
    timestamps: Option<Stamps>,
}

impl TxDriver for LoopTx {
    #[inline]
    fn send(&mut self, burst: &mut Burst, count: usize, _: &mut [PoolCache]) -> Result<()> {
        if self.cable.shared.is_gone(self.end) {
            return Err(gone(&self.title));
        }
        let Some(timestamps) = &mut self.timestamps else {
            self.cable.shared.send(self.end, self.queue, burst, count);
            return Ok(());
        };
        let asked = timestamps.note(&burst[..count]);
        let before = burst.len();
        self.cable.shared.send(self.end, self.queue, burst, count);
        let left = count - (before - burst.len());
        timestamps.confirm(asked, &burst[..left]);
        Ok(())
    }

    fn reclaim(&mut self, _: &mut [PoolCache]) -> Result<Outstanding> {
        Ok(self.cable.shared.outstanding(self.end, self.queue))
    }

    fn link_up(&mut self) -> Result<bool> {
        match self.cable.shared.is_gone(self.end) {
            true => Err(gone(&self.title)),
            false => Ok(self.cable.shared.link_up()),
        }
    }

    fn take_timestamp(&mut self) -> Option<TxTimestamp> {
        self.timestamps.as_mut()?.0.pop_front()
    }
}
