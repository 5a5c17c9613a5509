//! The transmit side: what happens to a burst between the application and the driver.
//!
//! Packets that the device can take as they are go down in one stretch ("run"). One that needs work (a copy
//! from a foreign pool, offloads in software, fewer segments) goes alone, and is put back as it was if the device
//! does not take it, padding, an inserted tag and filled checksums undone: what `send` leaves in the burst is the caller's,
//! unchanged (contract T1).

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::rx::{Leave, fits};
use super::{Cell64, Mode, TxCounts};
use crate::burst::Burst;
use crate::capture::Staged;
use crate::driver::TxDriver;
use crate::error::{Error, Refused, Result};
use crate::offload::{checksum, packets, vlan};
use crate::packet::{Packet, Timestamp, flags};
use crate::pool::PoolCache;
use crate::port::{DeviceLock, PortShared};
use crate::time::coarse_ms;

/// How often the carrier is looked at (contract T8).
const LINK_CHECK_MS: u64 = 50;

/// The least frame that goes on the wire, without FCS (contract T5).
const MIN_FRAME: usize = 60;

/// The transmit side of one queue pair; owned by one thread at a time.
///
/// A sent packet is gone (contract P2); this does not compile:
///
/// ```compile_fail
/// fn twice(tx: &mut anyport::TxQueue, packet: anyport::Packet) {
///     let mut burst = anyport::Burst::new();
///     burst.push(packet).unwrap();
///     tx.send(&mut burst).unwrap();
///     packet.data();
/// }
/// ```
pub struct TxQueue {
    cell: Arc<TxCell>,
    /// The port's other transmit queues, if the device may have frames of theirs: what it has completed of them goes back
    /// to its pool by calls on this one, too (contract T6). They are kept here, and not in the cell: cells that held each
    /// other would never be freed.
    others: Vec<Arc<TxCell>>,
    /// For `send_one`.
    one: Burst,
}

/// When a packet that asked for it left (contract O4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxTimestamp {
    /// The packet's mark, 0 if it had none.
    pub mark: u32,
    /// When.
    pub at: Timestamp,
}

/// What a queue handle and its port share.
pub(crate) struct TxCell {
    pub gate: Gate,
    /// Touched by the gate's holder only.
    core: UnsafeCell<Option<TxCore>>,
    /// Whether the device may still have frames; so that others need not enter to find out that it has none.
    outstanding: AtomicBool,
    pub port: Arc<PortShared>,
}

// SAFETY: `core` is touched by the gate's holder only, and everything in it is `Send`.
unsafe impl Send for TxCell {}
// SAFETY: as above.
unsafe impl Sync for TxCell {}

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
    driver: Box<dyn TxDriver>,
    /// One cache per attached pool.
    caches: Vec<PoolCache>,
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

impl TxCell {
    pub fn new(port: Arc<PortShared>, core: TxCore) -> Arc<TxCell> {
        Arc::new(TxCell {
            gate: Gate::default(),
            core: UnsafeCell::new(Some(core)),
            outstanding: AtomicBool::new(false),
            port,
        })
    }

    /// Runs a call inside the gate.
    #[inline]
    fn with<T>(&self, call: impl FnOnce(&mut TxCore) -> Result<T>) -> Result<T> {
        self.gate.enter().inspect_err(|_| self.let_go())?;
        let guard = Leave(&self.gate);
        // SAFETY: this thread holds the gate until `guard` is dropped.
        let core = unsafe { &mut *self.core.get() };
        let result = core.as_mut().ok_or(Error::Closed).and_then(call);
        drop(guard);
        result
    }

    /// After a close that gave up on a call of this queue's owner: the owner drops what it was left with, and the device
    /// is free (contract L10).
    #[cold]
    fn let_go(&self) {
        if self.port.is_closed() && self.gate.close_first() {
            // SAFETY: the gate was closed just now, by this thread and nobody before.
            drop(unsafe { self.take_core() });
        }
    }

    /// Runs a call if nobody is inside: for sweeps by other queues of the port.
    fn try_with(&self, call: impl FnOnce(&mut TxCore)) {
        if self.gate.try_enter() {
            let guard = Leave(&self.gate);
            // SAFETY: this thread holds the gate until `guard` is dropped.
            if let Some(core) = unsafe { &mut *self.core.get() } {
                call(core);
            }
            drop(guard);
        }
    }

    /// Gives completed frames back, if the owner is not inside (it does so itself then).
    pub fn sweep(&self) {
        if self.outstanding.load(Ordering::Relaxed) {
            self.try_with(|core| {
                let left = core.driver.reclaim(&mut core.caches).unwrap_or_default();
                self.outstanding.store(left.packets > 0, Ordering::Relaxed);
            });
        }
    }

    /// Gives the caches' frames back, so that none is stranded while the port's owner sleeps (contract P1).
    pub fn flush_caches(&self) {
        self.try_with(|core| core.caches.iter_mut().for_each(PoolCache::flush));
    }

    /// Takes the core out of a cell whose gate was closed by the caller.
    ///
    /// # Safety
    /// `gate.close` returned true on this thread's behalf, and nobody else does the same.
    pub unsafe fn take_core(&self) -> Option<TxCore> {
        // SAFETY: the gate is closed for good, so nobody enters any more.
        unsafe { (*self.core.get()).take() }
    }
}

impl TxQueue {
    /// A handle to queue `index` of a port.
    pub(crate) fn new(cells: &[Arc<TxCell>], index: usize) -> TxQueue {
        let cell = cells[index].clone();
        let mut others = Vec::new();
        if cell.port.defers_tx() {
            others.extend_from_slice(&cells[..index]);
            others.extend_from_slice(&cells[index + 1..]);
        }
        TxQueue { cell, others, one: Burst::with_capacity(1) }
    }

    /// Brings frames home that the device has completed of other queues.
    #[inline]
    fn sweep_others(&self) {
        self.others.iter().for_each(|cell| cell.sweep());
    }

    /// Sends packets from the front of the burst; how many. The others stay the caller's, in order, unchanged
    /// (contract T1). Never blocks: a full queue, or a link that is down, takes fewer, down to 0 (T3, T8).
    ///
    /// # Errors
    /// Nothing was taken. [`Error::FrameTooShort`] and [`Error::FrameTooLong`] (T4), [`Error::OffloadOff`] and
    /// [`Error::Unsendable`] speak of the burst's first packet: take it out and go on. [`Error::Closed`] after stop or
    /// close, [`Error::DeviceGone`] after the device went away.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> Result<usize> {
        self.sweep_others();
        let cell = &*self.cell;
        cell.with(|core| core.send(burst, cell))
    }

    /// Sends one packet: `None` if it was taken, the packet itself if there is no room now.
    ///
    /// # Errors
    /// As [`send`](TxQueue::send), with the packet, which is the caller's as it was (contract T1).
    #[expect(
        clippy::result_large_err,
        reason = "it is the caller's packet, and no memory may be needed to return it"
    )]
    pub fn send_one(&mut self, packet: Packet) -> Result<Option<Packet>, Refused> {
        self.sweep_others();
        let (cell, one) = (&*self.cell, &mut self.one);
        if let Err(packet) = one.push(packet) {
            // Only a panic in a call before leaves something in it.
            one.clear();
            let _ = one.push(packet);
        }
        let result = cell.with(|core| core.send(one, cell));
        match (result, one.pop_front()) {
            (Err(error), Some(packet)) => Err(Refused { error, packet }),
            (_, left) => Ok(left),
        }
    }

    /// Waits until the device has sent everything that this queue accepted, and gives its cached frames back to their
    /// pools; how many of its frames are left when the time is over (contract T6). Zero polls. For the port's other queues it
    /// does not wait, but brings back what the device has completed of them.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::DeviceGone`].
    pub fn flush(&mut self, timeout: Duration) -> Result<usize> {
        let deadline = Instant::now().checked_add(timeout);
        let mut pause = Duration::from_micros(1);
        self.sweep_others();
        loop {
            let left = self.cell.with(|core| {
                let left = core.driver.reclaim(&mut core.caches)?;
                core.caches.iter_mut().for_each(PoolCache::flush);
                self.cell.outstanding.store(left.packets > 0, Ordering::Relaxed);
                Ok(left.packets)
            })?;
            if left == 0 || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(left);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    /// Adds up to `count` empty packets from the port's first pool to the burst; how many. They come from the queue's
    /// cache, where completed transmissions put them.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn take(&mut self, burst: &mut Burst, count: usize) -> Result<usize> {
        self.cell.with(|core| {
            let want = count.min(burst.room());
            let mut taken = 0;
            while taken < want {
                let mut packet = core.caches[0].take();
                if packet.is_none() && core.driver.reclaim(&mut core.caches).is_ok() {
                    // The device had finished some, which are in the cache now or, without one, in the pool.
                    packet = core.caches[0].take();
                }
                let Some(packet) = packet else { break };
                let _ = burst.push(packet);
                taken += 1;
            }
            Ok(taken)
        })
    }

    /// The next transmit timestamp of a packet that asked for one (contract O4).
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn take_timestamp(&mut self) -> Result<Option<TxTimestamp>> {
        self.cell.with(|core| Ok(core.driver.take_timestamp()))
    }
}

impl std::fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxQueue").field("port", &self.cell.port.title()).finish()
    }
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
    fn send(&mut self, burst: &mut Burst, cell: &TxCell) -> Result<usize> {
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
        let (max, pad) = (self.plan.max_frame, self.plan.pad);
        let first = self.caches[0].pool().id();
        let (mut count, mut bytes) = (0, 0);
        for packet in &mut **burst {
            if packet.has(flags::CHAIN | flags::REQUESTS) {
                if !self.plain(packet) {
                    break;
                }
            } else if packet.pool_id() != first && !self.attached(packet) {
                break;
            }
            let len = packet.len();
            if len < MIN_FRAME {
                if len < 14 || (pad && !packet.pad_to(MIN_FRAME)) {
                    break;
                }
            } else if len > max && !fits(packet, max) {
                break;
            }
            count += 1;
            // What a device pads is counted as padded, too.
            bytes += len.max(MIN_FRAME) as u64;
        }
        (count, bytes)
    }

    /// Whether a chain, or a packet with requests, needs nothing done here.
    #[cold]
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
