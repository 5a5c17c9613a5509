//! What happens to a burst between the application and the driver.
//!
//! Packets that the device can take as they are go down in one stretch ("run"). One that needs work (a copy
//! from a foreign pool, offloads in software, fewer segments) goes alone, and is put back as it was if the device
//! does not take it, padding, an inserted tag and filled checksums undone: what `send` leaves in the burst is the caller's,
//! unchanged (contract T1).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::TxCell;
use crate::burst::Burst;
use crate::capture::Staged;
use crate::driver::TxDriver;
use crate::error::{Error, Result};
use crate::offload::{checksum, packets, vlan};
use crate::packet::{Packet, flags};
use crate::pool::PoolCache;
use crate::port::{DeviceLock, PortShared};
use crate::queue::rx::fits;
use crate::queue::{Cell64, Mode, TxCounts};
use crate::time::coarse_ms;

/// How often the carrier is looked at (contract T8).
const LINK_CHECK_MS: u64 = 50;

/// The least frame that goes on the wire, without FCS (contract T5).
const MIN_FRAME: usize = 60;

/// What is done to the packets of a queue, resolved at start.
pub(crate) struct TxPlan {
    pub max_frame: usize,
    pub max_segments: u16,
    /// Short frames are padded here; otherwise by the device.
    pub pad: bool,
    pub link_state: bool,
    /// Whether the port transmits at all.
    pub transmits: bool,
    pub tx_checksum: Mode,
    pub vlan_insert: Mode,
    pub tx_timestamp: Mode,
}

/// What the gate guards.
pub(crate) struct TxCore {
    pub(super) driver: Box<dyn TxDriver>,
    /// One cache per attached pool.
    pub(super) caches: Vec<PoolCache>,
    plan: TxPlan,
    counts: Arc<TxCounts>,
    /// For the one packet that goes down alone.
    single: Burst,
    /// What captures will see of packets that are being sent.
    staged: Staged,
    link_up: bool,
    next_check_ms: u64,
    gone: bool,
    /// The last to be dropped.
    _lock: Option<Arc<DeviceLock>>,
}

/// What became of a packet that went alone.
enum Alone {
    Taken,
    NoRoom,
}

impl TxCore {
    pub fn new(
        driver: Box<dyn TxDriver>,
        caches: Vec<PoolCache>,
        plan: TxPlan,
        counts: Arc<TxCounts>,
        link_up: bool,
    ) -> TxCore {
        let single = Burst::with_capacity(1);
        let staged = Staged::default();
        TxCore {
            driver,
            caches,
            plan,
            counts,
            single,
            staged,
            link_up,
            next_check_ms: 0,
            gone: false,
            _lock: None,
        }
    }

    /// Keeps the device locked as long as this has its driver (contract L2).
    pub fn under(self, lock: Option<Arc<DeviceLock>>) -> TxCore {
        TxCore { _lock: lock, ..self }
    }

    #[inline]
    pub(super) fn send(&mut self, burst: &mut Burst, cell: &TxCell) -> Result<usize> {
        let port = &*cell.port;
        if self.gone || !self.plan.transmits {
            return self.refuse(burst, port);
        }
        if self.plan.link_state && !self.check_link(port)? {
            return Ok(0);
        }
        let (before, mut bytes) = (burst.len(), 0);
        let result = loop {
            if burst.is_empty() {
                break Ok(());
            }
            let (run, run_bytes) = self.run(burst);
            if run > 0 {
                match self.send_run(burst, run, run_bytes, port) {
                    Ok((taken, sent)) => {
                        bytes += sent;
                        if taken < run {
                            break Ok(());
                        }
                    }
                    Err(error) => break Err(error),
                }
            } else {
                match self.send_alone(burst, port, &mut bytes) {
                    Ok(Alone::Taken) => {}
                    Ok(Alone::NoRoom) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
        };
        let sent = before - burst.len();
        if sent > 0 {
            self.counts.packets.add(sent as u64);
            self.counts.bytes.add(bytes);
            if port.defers_tx() {
                cell.outstanding.store(true, Ordering::Relaxed);
            }
            return Ok(sent);
        }
        result.map(|()| 0).map_err(|error| {
            self.gone = error.is_gone();
            port.remember(error)
        })
    }

    #[cold]
    fn refuse(&self, burst: &Burst, port: &PortShared) -> Result<usize> {
        if self.gone {
            return Err(port.gone());
        }
        match burst.is_empty() {
            true => Ok(0),
            false => Err(Error::Unsendable { reason: format!("{} only receives", port.title()) }),
        }
    }

    /// Looks at the carrier, now and then.
    #[inline]
    fn check_link(&mut self, port: &PortShared) -> Result<bool> {
        let now = coarse_ms();
        if now >= self.next_check_ms {
            self.next_check_ms = now + LINK_CHECK_MS;
            self.link_up = self.driver.link_up().map_err(|error| {
                self.gone = error.is_gone();
                port.remember(error)
            })?;
            if !self.link_up {
                // Frames that the device gives up with the link go home even if nothing is sent (T6).
                self.driver.reclaim(&mut self.caches)?;
            }
        }
        Ok(self.link_up)
    }

    /// How many packets from the front can go down as they are (after padding), and their bytes.
    #[inline]
    fn run(&self, burst: &mut Burst) -> (usize, u64) {
        let (max, first) = (self.plan.max_frame, self.caches[0].pool().id());
        let (mut count, mut bytes) = (0, 0);
        for packet in &mut **burst {
            let mut len = packet.first_len() as usize;
            let plain = packet.pool_id() == first
                && !packet.has(flags::CHAIN | flags::REQUESTS)
                && (MIN_FRAME..=max).contains(&len);
            if !plain {
                match self.odd(packet) {
                    Some(padded) => len = padded,
                    None => break,
                }
            }
            count += 1;
            bytes += len as u64;
        }
        (count, bytes)
    }

    /// The bytes of a packet on the wire, if it can go down as it is after all.
    #[cold]
    fn odd(&self, packet: &mut Packet) -> Option<usize> {
        let max = self.plan.max_frame;
        let as_it_is = match packet.has(flags::CHAIN | flags::REQUESTS) {
            true => self.plain(packet),
            false => self.attached(packet),
        };
        if !as_it_is {
            return None;
        }
        let len = packet.len();
        let fits = if len < MIN_FRAME {
            len >= 14 && (!self.plan.pad || packet.pad_to(MIN_FRAME))
        } else {
            len <= max || fits(packet, max)
        };
        // What a device pads is counted as padded, too.
        fits.then_some(len.max(MIN_FRAME))
    }

    /// Whether a chain, or a packet with requests, needs nothing done here.
    fn plain(&self, packet: &Packet) -> bool {
        let requests = packet.requests();
        packet.segment_count() <= self.plan.max_segments as usize
            && packet.data().len() >= 14
            && self.attached(packet)
            && (!packets::wants_checksums(&requests) || self.plan.tx_checksum == Mode::Device)
            // Inserting is checked against the maximum alone (M2).
            && requests.vlan.is_none()
            && (!requests.timestamp || self.plan.tx_timestamp == Mode::Device)
    }

    fn attached(&self, packet: &Packet) -> bool {
        self.caches.iter().any(|cache| cache.pool().id() == packet.pool_id())
    }

    /// Hands a run down; how many and how many bytes were taken.
    #[inline]
    fn send_run(
        &mut self,
        burst: &mut Burst,
        run: usize,
        bytes: u64,
        port: &PortShared,
    ) -> Result<(usize, u64)> {
        let tapped = port.is_tapped();
        if tapped {
            port.captures().stage(&mut self.staged, &burst[..run]);
        }
        let before = burst.len();
        let result = self.driver.send(burst, run, &mut self.caches);
        let taken = before - burst.len();
        if tapped {
            port.captures().commit(&self.staged, taken);
        }
        if taken == run {
            return Ok((taken, bytes));
        }
        let mut left = 0;
        for packet in &mut burst[..run - taken] {
            left += packet.len().max(MIN_FRAME) as u64;
            packet.unpad();
        }
        match result {
            Err(error) if taken == 0 => Err(error),
            _ => Ok((taken, bytes - left)),
        }
    }

    /// Brings the first packet into the form that the device takes, and sends it alone.
    #[cold]
    fn send_alone(
        &mut self,
        burst: &mut Burst,
        port: &PortShared,
        bytes: &mut u64,
    ) -> Result<Alone> {
        let plan = &self.plan;
        let packet = &mut burst[0];
        let len = packet.len();
        if len < 14 {
            return Err(Error::FrameTooShort { length: len });
        }
        let requests = packet.requests();
        self.check_requests(&requests)?;
        let tagged = len + if requests.vlan.is_some() { 4 } else { 0 };
        let too_long = match requests.vlan {
            // The inserted tag is the outermost one: it may add 4 bytes to a frame that fits without it.
            Some(_) => len > plan.max_frame,
            None => !fits(packet, plan.max_frame),
        };
        if too_long {
            return Err(Error::FrameTooLong { length: tagged, max: plan.max_frame });
        }
        let insert = requests.vlan.filter(|_| plan.vlan_insert == Mode::Software);
        let fill = plan.tx_checksum == Mode::Software && packets::wants_checksums(&requests);
        let foreign = !self.attached(packet);
        let as_it_is = !foreign
            && packet.segment_count() <= plan.max_segments as usize
            && packet.data().len() >= 14
            && (insert.is_none() || packet.headroom() >= 4)
            && packet.len() + packet.tailroom() >= MIN_FRAME
            && (!fill || !packet.is_chain());
        // What is worked on: the packet itself, or a copy of which the packet learns only if it is taken.
        let mut work = if as_it_is {
            None
        } else {
            // A pool without head room leaves none for a tag.
            let head = if insert.is_some() { vlan::TAG_LEN } else { 0 };
            match self.copy(&burst[0], head)? {
                Some(copy) => Some(copy),
                None => return Ok(Alone::NoRoom),
            }
        };
        let packet = work.as_mut().unwrap_or(&mut burst[0]);
        let filled = match fill {
            true => packets::fill_checksums(packet, &requests)?,
            false => checksum::Filled::default(),
        };
        if let Some(tci) = insert {
            packets::insert_vlan(packet, tci).map_err(|_| Error::Unsendable {
                reason: "no head room for a tag; make the port's pool with a larger frame_size"
                    .into(),
            })?;
        }
        // A tag that the device inserts is on the wire, too: the frame is padded and counted as it will be there.
        let tag = if requests.vlan.is_some() && insert.is_none() { vlan::TAG_LEN } else { 0 };
        if self.plan.pad && !packet.pad_to(MIN_FRAME - tag) {
            return Err(Error::Unsendable {
                reason: "no tail room for padding to 60 bytes".into(),
            });
        }
        let length = (packet.len() + tag).max(MIN_FRAME) as u64;
        let tapped = port.is_tapped();
        if tapped {
            port.captures().stage(&mut self.staged, std::slice::from_ref(packet));
        }
        let copied = work.is_some();
        let taken = match work {
            Some(copy) => {
                let _ = self.single.push(copy);
                let result = self.driver.send(&mut self.single, 1, &mut self.caches);
                let taken = self.single.is_empty();
                self.single.clear();
                result?;
                if taken {
                    drop(burst.pop_front());
                }
                taken
            }
            None => {
                let before = burst.len();
                let result = self.driver.send(burst, 1, &mut self.caches);
                let taken = burst.len() < before;
                if !taken {
                    burst[0].unpad();
                    if insert.is_some() {
                        packets::remove_vlan(&mut burst[0]);
                    }
                    filled.apply(burst[0].data_mut());
                }
                result?;
                taken
            }
        };
        if !taken {
            return Ok(Alone::NoRoom);
        }
        if foreign && copied {
            self.counts.copied.add(1);
        }
        if tapped {
            port.captures().commit(&self.staged, 1);
        }
        *bytes += length;
        Ok(Alone::Taken)
    }

    /// A copy in the first attached pool, with at least so much head room, linear where it must be; `None` if the pool is
    /// dry now.
    fn copy(&mut self, packet: &Packet, head: usize) -> Result<Option<Packet>> {
        let cache = &mut self.caches[0];
        let room = cache.pool().room();
        let head = head.saturating_sub(cache.pool().headroom());
        if packet.len() + head <= room {
            let Some(mut copy) = cache.take() else { return Ok(None) };
            copy.set_len(packet.len() + head)?;
            copy.shrink_head(head)?;
            let mut at = 0;
            for segment in packet.segments() {
                copy.data_mut()[at..at + segment.len()].copy_from_slice(segment);
                at += segment.len();
            }
            copy.inherit(packet);
            return Ok(Some(copy));
        }
        let segments = packet.len().div_ceil(room);
        if segments > self.plan.max_segments as usize {
            let (len, max) = (packet.len(), self.plan.max_segments);
            let reason = format!(
                "{len} bytes take {segments} segments of {room} bytes, and it is configured for {max}; make \
                 the port's pool with a larger frame_size, or configure max_segments"
            );
            return Err(Error::Unsendable { reason });
        }
        Ok(packet.copy_to(cache.pool()))
    }

    fn check_requests(&self, requests: &crate::packet::TxRequests) -> Result<()> {
        let plan = &self.plan;
        let off = [
            (packets::wants_checksums(requests), plan.tx_checksum, "a checksum", "tx_checksum"),
            (requests.vlan.is_some(), plan.vlan_insert, "a VLAN tag", "vlan_insert"),
            (requests.timestamp, plan.tx_timestamp, "a transmit timestamp", "tx_timestamp"),
        ];
        match off.into_iter().find(|(asked, mode, ..)| *asked && *mode == Mode::Off) {
            Some((_, _, request, field)) => Err(Error::OffloadOff { request, field }),
            None => Ok(()),
        }
    }

    /// Lets the device send what it has, until `deadline`, counts the rest as dropped, and gives cached frames back.
    pub fn drain(mut self, deadline: Instant) {
        let mut pause = Duration::from_micros(1);
        let left = loop {
            // Also of a device that is gone, as far as it still says.
            let left = self.driver.reclaim(&mut self.caches).unwrap_or_default();
            if self.gone || left.packets == 0 || Instant::now() >= deadline {
                break left;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        };
        // No more than was accepted, whatever a broken device says is left (contract F8).
        let open = |accepted: &Cell64, gone: &Cell64| accepted.get().saturating_sub(gone.get());
        let packets = open(&self.counts.packets, &self.counts.discarded);
        let bytes = open(&self.counts.bytes, &self.counts.discarded_bytes);
        self.counts.discarded.add(packets.min(left.packets as u64));
        self.counts.discarded_bytes.add(bytes.min(left.bytes));
    }
}
