//! From the driver to the application: what happens to a burst on its way.
//!
//! In order: maximum frame and runts (R4, M2), address filter where the device has none (R6), unfinished
//! checksums (R3), offloads in software (O), counting (S1), capture. On a port with none of these configured
//! it is one pass over the lengths.

use std::sync::Arc;
use std::time::Duration;

use super::RxCell;
use super::clock::ClockWatch;
use super::sources::{LOOK, POLL, Sources};
use crate::burst::Burst;
use crate::capability::Capability;
use crate::driver::RxDriver;
use crate::error::{Error, Result};
use crate::mac::MacFilterSnapshot;
use crate::offload::packets;
use crate::offload::toeplitz::Toeplitz;
use crate::packet::{Clock, Packet, Timestamp, TimestampSource};
use crate::pool::PoolCache;
use crate::port::{DeviceLock, PortShared};
use crate::queue::{Mode, RxCounts, TxCell};
use crate::time::coarse_ms;
use crate::wait::{Epoll, Wake};

/// How often a queue that finds no frame looks at its device: whether it is still there (contract T9: within 1 s), and
/// whether its link is.
const LOOK_MS: u64 = 50;

/// What is done to every frame of a queue, resolved at start.
pub(crate) struct RxPlan {
    pub queue: u16,
    pub max_frame: usize,
    pub max_segments: u16,
    /// Filtering by address falls to the common layer.
    pub filter: bool,
    pub finish_checksums: bool,
    pub rx_checksum: Mode,
    pub vlan_strip: Mode,
    pub rx_timestamp: Mode,
    pub rss_hash: Mode,
    /// The hash's tables, if it is done in software.
    pub toeplitz: Option<Arc<Toeplitz>>,
    /// The port's transmit queues.
    pub tx: Vec<Arc<TxCell>>,
    /// Completed transmissions are looked for on every `recv`, too (contract T6).
    pub reclaim_tx: bool,
}

impl RxPlan {
    /// Whether frames need no more than a look at their length and, perhaps, at their checksums.
    fn simple(&self) -> bool {
        !self.filter && self.rx_timestamp == Mode::Off && !self.software_offloads()
    }

    fn software_offloads(&self) -> bool {
        [self.rx_checksum, self.vlan_strip, self.rx_timestamp, self.rss_hash]
            .contains(&Mode::Software)
    }
}

/// What the gate guards.
pub(crate) struct RxCore {
    pub(super) driver: Box<dyn RxDriver>,
    pub(super) cache: PoolCache,
    /// Received while waiting, delivered by the next `recv`.
    stash: Burst,
    pub(super) plan: RxPlan,
    simple: bool,
    counts: Arc<RxCounts>,
    /// The link as it was found last, and as the application was told last.
    link_up: bool,
    told_up: bool,
    pub(super) ended: bool,
    gone: bool,
    /// What the driver said together with its last frames; for the call after those are delivered.
    pending: Option<Error>,
    next_look_ms: u64,
    clock: ClockWatch,
    pub(super) sources: Sources,
    /// Calls of `recv` since the queue was last armed, and whether one of them delivered something: only then is what
    /// was armed spent (contract R12).
    polls: u32,
    delivered: bool,
    /// The last to be dropped.
    _lock: Option<Arc<DeviceLock>>,
}

/// So many calls of `recv` without a wait make a queue one that is polled.
const POLLED: u32 = 256;

impl RxCore {
    pub fn new(
        driver: Box<dyn RxDriver>,
        cache: PoolCache,
        plan: RxPlan,
        counts: Arc<RxCounts>,
        link_up: bool,
    ) -> RxCore {
        let simple = plan.simple();
        RxCore {
            driver,
            cache,
            stash: Burst::new(),
            plan,
            simple,
            counts,
            link_up,
            told_up: link_up,
            ended: false,
            gone: false,
            pending: None,
            next_look_ms: 0,
            clock: ClockWatch::default(),
            sources: Sources::default(),
            polls: 0,
            delivered: false,
            _lock: None,
        }
    }

    /// Keeps the device locked as long as this has its driver (contract L2).
    pub fn under(self, lock: Option<Arc<DeviceLock>>) -> RxCore {
        RxCore { _lock: lock, ..self }
    }

    /// Lets the epoll descriptor watch the driver's.
    pub(super) fn watch(&mut self, epoll: &Epoll) -> std::io::Result<()> {
        (self.polls, self.delivered) = (0, false);
        self.sources.watch(epoll, self.driver.descriptor())
    }

    /// Ends that after a while without a wait.
    pub(super) fn unwatch_when_polled(&mut self, epoll: &Epoll) {
        self.polls = self.polls.saturating_add(1);
        if self.polls >= POLLED && self.delivered {
            self.sources.unwatch(epoll);
        }
    }

    /// After how long an armed queue has to be looked at although no descriptor says so. Decided each time: a driver may
    /// get its descriptor late.
    /// `outstanding` says that the device has frames to send that nobody else would look after.
    pub(super) fn look_after(
        &self,
        capability: &Capability,
        outstanding: bool,
    ) -> Option<Duration> {
        if outstanding {
            return Some(POLL);
        }
        let told = self.driver.event_descriptor().is_some();
        // No frame comes without a link, and the event descriptor tells when there is one.
        if !self.sources.watched() && (self.link_up || !told) {
            return Some(POLL);
        }
        (!told && (capability.can_vanish || capability.link_state)).then_some(LOOK)
    }

    pub(super) fn recv(&mut self, burst: &mut Burst, cell: &RxCell) -> Result<usize> {
        let port = &*cell.port;
        let before = burst.len();
        if self.plan.reclaim_tx {
            self.plan.tx.iter().for_each(|cell| cell.sweep());
        }
        let bytes = if self.stash.is_empty() {
            self.receive(burst, cell)?
        } else {
            let count = burst.take_from(&mut self.stash);
            burst[before..before + count].iter().map(|packet| packet.len() as u64).sum()
        };
        let count = burst.len() - before;
        if count > 0 {
            self.delivered = true;
            self.counts.packets.add(count as u64);
            self.counts.bytes.add(bytes);
            if port.is_tapped() {
                port.captures().received(&burst[before..]);
            }
        } else if self.ended {
            return Err(Error::Ended);
        }
        Ok(count)
    }

    /// Receives into the stash, so that a wait ends only for frames that `recv` will deliver.
    pub(super) fn fill_stash(&mut self, cell: &RxCell) -> Result<bool> {
        if self.stash.is_empty() && !self.ended {
            let mut stash = std::mem::replace(&mut self.stash, Burst::nowhere());
            let result = self.receive(&mut stash, cell);
            self.stash = stash;
            result?;
        }
        Ok(!self.stash.is_empty())
    }

    /// One call of the driver, and the contract over what it brought; the bytes of what is left.
    #[inline]
    fn receive(&mut self, burst: &mut Burst, cell: &RxCell) -> Result<u64> {
        let port = &*cell.port;
        if self.gone || self.ended || self.pending.is_some() {
            return self.last_words(port);
        }
        burst.compact();
        let before = burst.len();
        match self.driver.recv(burst, &mut self.cache) {
            Ok(()) if burst.len() == before => self.idle(cell)?,
            Ok(()) => {}
            Err(Error::Ended) => self.ended = true,
            Err(error) if burst.len() > before => self.pending = Some(error),
            Err(error) => {
                self.gone = error.is_gone();
                return Err(port.remember(error));
            }
        }
        Ok(self.check(burst, before, port))
    }

    /// What is left to say on a queue from which no frame comes any more, or an error that came with frames.
    #[cold]
    fn last_words(&mut self, port: &PortShared) -> Result<u64> {
        match self.pending.take() {
            Some(error) => {
                self.gone = error.is_gone();
                Err(port.remember(error))
            }
            None if self.gone => Err(port.gone()),
            None => Ok(0),
        }
    }

    /// Now and then a queue that finds no frame looks at its device.
    fn idle(&mut self, cell: &RxCell) -> Result<()> {
        let capability = cell.port.capability();
        if !(capability.can_vanish || capability.link_state) || coarse_ms() < self.next_look_ms {
            return Ok(());
        }
        self.look(&cell.port)?;
        if capability.link_state && self.link_up != self.told_up {
            // The look has drained the event that was to end a sleep; whoever armed the queue is woken by this instead, and told
            // by `wait`.
            cell.signal.signal();
        }
        Ok(())
    }

    /// Looks at the device: an error if it is gone.
    fn look(&mut self, port: &PortShared) -> Result<()> {
        self.next_look_ms = coarse_ms() + LOOK_MS;
        self.link_up = self.driver.link_up().map_err(|error| {
            self.gone = error.is_gone();
            port.remember(error)
        })?;
        Ok(())
    }

    /// Whether the link has changed since this queue last said so; by a look now, or by one that is 50 ms old at most.
    pub(super) fn link_change(&mut self, port: &PortShared, now: bool) -> Result<Option<Wake>> {
        let capability = port.capability();
        let told = self.driver.event_descriptor().is_some();
        if !(capability.link_state || capability.can_vanish || told) {
            return Ok(None);
        }
        // A look also drains the event descriptor, which would end every sleep at once otherwise.
        if now || coarse_ms() >= self.next_look_ms {
            self.look(port)?;
        }
        let changed = capability.link_state && self.link_up != self.told_up;
        self.told_up = self.link_up;
        Ok(changed.then_some(if self.link_up { Wake::LinkUp } else { Wake::LinkDown }))
    }

    /// The contract over frames `start..` of the burst; the bytes of those that stay.
    #[inline]
    fn check(&mut self, burst: &mut Burst, start: usize, port: &PortShared) -> u64 {
        let (max, queue) = (self.plan.max_frame, self.plan.queue);
        if self.simple {
            let (mut bytes, mut odd) = (0, false);
            for packet in &mut burst[start..] {
                let len = packet.first_len();
                odd |= len as usize > max || len < 14 || packet.is_chain();
                bytes += u64::from(len);
                packet.set_queue(queue);
            }
            if !odd {
                if self.plan.finish_checksums {
                    burst[start..].iter_mut().for_each(finish_if_ip);
                }
                return bytes;
            }
        }
        let filter = match self.plan.filter {
            true => port.filter().snapshot(),
            false => MacFilterSnapshot::ALL,
        };
        let mut dropped = Dropped::default();
        let mut bytes = 0;
        burst.retain_from(start, |packet| {
            let keep = self.check_one(packet, filter, &mut dropped);
            if keep {
                packet.set_queue(queue);
                bytes += packet.len() as u64;
            }
            keep
        });
        if self.plan.rx_timestamp != Mode::Off {
            self.check_clock(&burst[start..], port);
        }
        self.counts.too_long.add(dropped.too_long);
        self.counts.too_short.add(dropped.too_short);
        self.counts.filtered.add(dropped.filtered);
        bytes
    }

    /// Reports when the clock of the timestamps was set back (contract O4).
    fn check_clock(&mut self, packets: &[Packet], port: &PortShared) {
        packets.iter().filter_map(Packet::timestamp).for_each(|stamp| self.clock.note(stamp));
        if self.clock.has_news()
            && let Some(news) = self.clock.report(coarse_ms())
        {
            tracing::warn!("{}: {news}", port.title());
        }
    }

    fn check_one(
        &self,
        packet: &mut Packet,
        filter: MacFilterSnapshot,
        dropped: &mut Dropped,
    ) -> bool {
        let (plan, len) = (&self.plan, packet.len());
        let fits = fits(packet, plan.max_frame)
            && (packet.segment_count() <= plan.max_segments as usize || packet.linearize().is_ok());
        if !fits {
            dropped.too_long += 1;
        } else if len < 14 {
            dropped.too_short += 1;
        } else if !filter.passes(packet.data()) {
            dropped.filtered += 1;
        } else {
            if plan.finish_checksums {
                packets::finish(packet);
            }
            if plan.software_offloads() {
                self.offload(packet);
            }
            return true;
        }
        false
    }

    /// Offloads in software (contract O).
    fn offload(&self, packet: &mut Packet) {
        let plan = &self.plan;
        if plan.rx_checksum == Mode::Software {
            packets::set_checksum_status(packet);
        }
        if plan.rss_hash == Mode::Software
            && let Some(table) = &plan.toeplitz
        {
            packets::set_hash(packet, table);
        }
        if plan.vlan_strip == Mode::Software {
            packets::strip_vlan(packet);
        }
        if plan.rx_timestamp == Mode::Software {
            let ns = crate::time::realtime_ns();
            let (source, clock) = (TimestampSource::Software, Clock::RealTime);
            packet.set_timestamp(Timestamp { ns, source, clock });
        }
    }
}

/// Finishes a checksum that a sending kernel left unfinished (contract R3), of a packet in one piece, with all its headers. Most
/// of what it is for is done here: to see that there is nothing to do.
#[inline]
fn finish_if_ip(packet: &mut Packet) {
    if packets::may_be_unfinished(packet.data()) {
        packets::finish(packet);
    }
}

#[derive(Default)]
struct Dropped {
    too_long: u64,
    too_short: u64,
    filtered: u64,
}

/// Whether a frame is within the maximum: one outermost 802.1Q tag may add 4 bytes (contract M2).
#[inline]
pub(crate) fn fits(packet: &Packet, max: usize) -> bool {
    let len = packet.len();
    len <= max || (len <= max + 4 && packet.data().get(12..14) == Some(&[0x81, 0x00]))
}
