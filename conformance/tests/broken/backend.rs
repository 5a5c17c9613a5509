//! The backend `loop` with one fault: everything is passed on to the real one, but for what the fault spoils.
//!
//! Faults sit where a backend's author makes them: in the driver, below the common layer. What the common layer does
//! for every backend cannot be spoilt from here.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyport::config::{Schema, Table};
use anyport::driver::{
    Backend, DeviceInfo, DriverQueues, OpenRequest, Outstanding, PortDriver, RxDriver, Setup,
    TxDriver,
};
use anyport::mac::MacFilter;
use anyport::packet::{ChecksumStatus, Timestamp, TxRequests};
use anyport::queue::TxTimestamp;
use anyport::wait::EventFd;
use anyport::{
    Burst, Capability, Counters, Error, Link, MacAddr, Packet, Pool, PoolCache, PortCounters,
    Result,
};
use anyport_loopback::Loopback;

use super::Fault;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The backend.
pub struct Broken {
    fault: Fault,
    /// What the faults that forget to tidy up leave behind at a device.
    left_behind: Arc<Mutex<HashMap<String, LeftBehind>>>,
}

#[derive(Default, Clone)]
struct LeftBehind {
    mac: Option<MacAddr>,
    promiscuous: bool,
    counters: Vec<Counters>,
}

impl Broken {
    pub fn new(fault: Fault) -> Broken {
        Broken { fault, left_behind: Arc::default() }
    }

    fn open_inner(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        match (Loopback::default().open(request), self.fault) {
            (Err(Error::UnknownDevice { .. }), Fault::TakesAnyDevice) => {
                let request = OpenRequest::new("any.0", request.options, request.config);
                Loopback::default().open(&request)
            }
            (Err(Error::InvalidValue { .. }), Fault::TakesAnyValue) => {
                let options = Table::new();
                let request = OpenRequest::new(request.device, &options, request.config);
                Loopback::default().open(&request)
            }
            (Err(Error::Busy { .. }), Fault::OpensTwice) => {
                let device = format!("again-{}", request.device);
                let request = OpenRequest::new(&device, request.options, request.config);
                Loopback::default().open(&request)
            }
            (opened, _) => opened,
        }
    }
}

impl Backend for Broken {
    fn name(&self) -> &'static str {
        "loop"
    }
    fn options(&self) -> Schema {
        Loopback::default().options()
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        Loopback::default().devices()
    }
    fn lock_key(&self, device: &str, options: &Table) -> Result<Option<String>> {
        match self.fault {
            Fault::OpensTwice | Fault::TakesAnyDevice => Ok(None),
            _ => Loopback::default().lock_key(device, options),
        }
    }
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let mut inner = self.open_inner(request)?;
        match self.fault {
            Fault::LeaksDescriptor => std::mem::forget(std::fs::File::open("/dev/null")),
            Fault::LeaksThread => _ = std::thread::spawn(std::thread::park),
            Fault::LeaksMemory => std::mem::forget(vec![1_u8; 64 << 10]),
            _ => {}
        }
        let found = match self.fault {
            Fault::KeepsSettings | Fault::KeepsCounters => {
                lock(&self.left_behind).get(request.device).cloned().unwrap_or_default()
            }
            _ => LeftBehind::default(),
        };
        if let Some(mac) = found.mac {
            inner.set_mac(mac)?;
        }
        if found.promiscuous {
            inner.set_promiscuous(true)?;
        }
        let shared = Arc::new(Shared::new(self.fault, inner.mac()));
        Ok(Box::new(BrokenPort {
            shared,
            device: request.device.to_owned(),
            left_behind: self.left_behind.clone(),
            now: found,
            found_mac: inner.mac(),
            told_mac: None,
            last: PortCounters::default(),
            starts: 0,
            inner: Some(inner),
        }))
    }
}

/// What the port and its queues share.
struct Shared {
    fault: Fault,
    /// For faults that filter by themselves.
    filter: MacFilter,
    /// A switch of the filter that comes late, and after how many calls.
    late: Mutex<Option<(bool, u32)>>,
    /// Frames that come out of each receive queue without having come in there.
    extra: [Mutex<VecDeque<Packet>>; 16],
    /// Bytes of a frame that comes out first after the next start.
    ghost: Mutex<Option<Vec<u8>>>,
    /// When queue 0 had something last.
    busy: Mutex<Option<Instant>>,
    /// The link was down once.
    was_down: AtomicBool,
    max_frame: AtomicUsize,
}

impl Shared {
    fn new(fault: Fault, mac: MacAddr) -> Shared {
        Shared {
            fault,
            filter: MacFilter::new(mac),
            late: Mutex::default(),
            extra: Default::default(),
            ghost: Mutex::default(),
            busy: Mutex::default(),
            was_down: AtomicBool::new(false),
            max_frame: AtomicUsize::new(1514),
        }
    }
}

struct BrokenPort {
    shared: Arc<Shared>,
    device: String,
    left_behind: Arc<Mutex<HashMap<String, LeftBehind>>>,
    now: LeftBehind,
    found_mac: MacAddr,
    /// An address that was not really set.
    told_mac: Option<MacAddr>,
    last: PortCounters,
    starts: u32,
    /// `None` only while it is dropped.
    inner: Option<Box<dyn PortDriver>>,
}

impl BrokenPort {
    fn inner(&mut self) -> &mut dyn PortDriver {
        &mut **self.inner.as_mut().expect("it goes only with the port")
    }
}

impl PortDriver for BrokenPort {
    fn capability(&self) -> Capability {
        let mut capability = self.inner.as_ref().expect("as above").capability();
        match self.shared.fault {
            Fault::PadsNot => capability.pads = true,
            Fault::DeclaresMoreQueues => capability.max_rx_queues = 64,
            _ => {}
        }
        capability
    }

    fn mac(&self) -> MacAddr {
        self.told_mac.unwrap_or(self.inner.as_ref().expect("as above").mac())
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let fault = self.shared.fault;
        self.starts += 1;
        self.shared.max_frame.store(setup.max_frame, Relaxed);
        self.shared.filter.set_own(self.mac());
        match fault {
            Fault::IgnoresFilter | Fault::FiltersInRecv | Fault::SwitchesLate => {
                self.inner().set_promiscuous(true)?;
            }
            Fault::ForgetsSwitchAtStart => self.inner().set_promiscuous(false)?,
            Fault::ForgetsAddressAtStart => {
                let found = self.found_mac;
                self.inner().set_mac(found)?;
            }
            Fault::DeclaresMoreQueues if setup.rx_queues > 16 => {
                let reason = "the device has 16 queues".into();
                return Err(Error::Backend { device: self.device.clone(), reason });
            }
            Fault::InventsAtStart => {
                *lock(&self.shared.ghost) = Some([&self.mac().0[..], &[0; 54]].concat());
            }
            _ => {}
        }
        let queues = self.inner().start(setup)?;
        let dead = fault == Fault::DiesAtRestart && self.starts > 1;
        let count = queues.rx.len();
        let rx = queues.rx.into_iter().enumerate().map(|(queue, inner)| {
            let rx = BrokenRx {
                inner,
                shared: self.shared.clone(),
                queue,
                queues: count,
                dead,
                fresh: true,
                seen: 0,
                looks: 0,
                never: EventFd::new().expect("a descriptor"),
                pool: setup.pools[0].clone(),
            };
            Box::new(rx) as Box<dyn RxDriver>
        });
        let rx = rx.collect();
        let tx = queues.tx.into_iter().map(|inner| {
            let shared = self.shared.clone();
            let late = Burst::with_capacity(1);
            Box::new(BrokenTx { inner, shared, seen: 0, full: false, late }) as Box<dyn TxDriver>
        });
        let tx = tx.collect();
        Ok(DriverQueues { rx, tx })
    }

    fn stop(&mut self) -> Result<()> {
        self.shared.extra.iter().for_each(|extra| lock(extra).clear());
        self.inner().stop()
    }

    fn link(&mut self) -> Result<Link> {
        match (self.inner().link(), self.shared.fault) {
            (Ok(_), Fault::LinkIsAlwaysUp) => Ok(Link::new(true)),
            (Err(Error::DeviceGone { .. }), Fault::HidesLoss) => Ok(Link::new(true)),
            (link, _) => link,
        }
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        self.now.mac = Some(mac);
        self.shared.filter.set_own(mac);
        if self.shared.fault == Fault::SetsNoAddress {
            self.told_mac = Some(mac);
            return Ok(());
        }
        self.inner().set_mac(mac)
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        self.now.promiscuous = on;
        match self.shared.fault {
            Fault::IgnoresFilter | Fault::IgnoresSwitch => Ok(()),
            Fault::FiltersInRecv => {
                self.shared.filter.set_promiscuous(on);
                Ok(())
            }
            Fault::SwitchesLate => {
                *lock(&self.shared.late) = Some((on, 5));
                Ok(())
            }
            _ => self.inner().set_promiscuous(on),
        }
    }

    fn set_max_frame(&mut self, bytes: usize) -> Result<()> {
        self.inner().set_max_frame(bytes)
    }

    fn counters(&mut self) -> PortCounters {
        let mut all = self.inner().counters();
        let real = all.clone();
        for (number, queue) in all.rx_queues.iter_mut().enumerate() {
            let last = self.last.rx_queues.get(number).copied().unwrap_or_default();
            let before = self.now.counters.get(number).copied().unwrap_or_default();
            match self.shared.fault {
                Fault::ForgetsDryPool => queue.rx_no_buffer = Some(0),
                Fault::ForgetsFullRing => queue.rx_ring_full = Some(0),
                Fault::CountsDryPoolTwice => {
                    queue.rx_errors = Some(
                        queue.rx_errors.unwrap_or_default()
                            + queue.rx_no_buffer.unwrap_or_default(),
                    );
                }
                Fault::CountsFullRingTwice => {
                    queue.rx_errors = Some(
                        queue.rx_errors.unwrap_or_default()
                            + queue.rx_ring_full.unwrap_or_default(),
                    );
                }
                Fault::CountsFilteredAsErrors => queue.rx_errors = queue.rx_filtered,
                Fault::HidesZeroes => queue.rx_ring_full = queue.rx_ring_full.filter(|n| *n != 0),
                Fault::ClearsCountersOnRead => {
                    queue.rx_ring_full =
                        queue.rx_ring_full.map(|n| n - last.rx_ring_full.unwrap_or(0));
                    queue.rx_filtered =
                        queue.rx_filtered.map(|n| n - last.rx_filtered.unwrap_or(0));
                }
                Fault::KeepsCounters => queue.add(&before),
                _ => {}
            }
        }
        self.last = real;
        all
    }
}

impl Drop for BrokenPort {
    fn drop(&mut self) {
        match self.shared.fault {
            Fault::KeepsSettings | Fault::KeepsCounters => {
                let mut left = self.now.clone();
                let counters = self.counters().rx_queues;
                if self.shared.fault == Fault::KeepsCounters {
                    left = LeftBehind { counters, ..LeftBehind::default() };
                }
                lock(&self.left_behind).insert(self.device.clone(), left);
            }
            Fault::StaysOpen => std::mem::forget(self.inner.take()),
            _ => {}
        }
    }
}

struct BrokenRx {
    inner: Box<dyn RxDriver>,
    shared: Arc<Shared>,
    queue: usize,
    queues: usize,
    /// Nothing comes any more.
    dead: bool,
    /// Nothing was asked for yet.
    fresh: bool,
    seen: usize,
    looks: u32,
    /// Is never readable.
    never: EventFd,
    pool: Pool,
}

impl BrokenRx {
    /// Whether the next frame is one of every `n`.
    fn every(&mut self, n: usize) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(n)
    }

    /// What the fault does to frames `from..` of the burst.
    fn spoil(&mut self, burst: &mut Burst, from: usize) {
        let (fault, max) = (self.shared.fault, self.shared.max_frame.load(Relaxed));
        let shared = self.shared.clone();
        match fault {
            Fault::Drops => burst.retain_from(from, |_| !self.every(7)),
            Fault::Duplicates => {
                let twin = burst[from..].last().and_then(|packet| packet.copy_to(&packet.pool()));
                if let Some(twin) = twin.filter(|_| self.every(3)) {
                    drop(burst.push(twin));
                }
            }
            Fault::Reorders if burst.len() > from + 1 => burst.swap(from, from + 1),
            Fault::Truncates => burst[from..].iter_mut().for_each(|packet| {
                // What is in pieces loses all but the first.
                let first = packet.pool().packet(packet.data());
                if let Some(first) =
                    first.filter(|_| packet.len() > max && packet.segment_count() > 1)
                {
                    *packet = first;
                }
                let over = packet.len().saturating_sub(max);
                drop(packet.shrink_tail(over));
            }),
            Fault::HidesLong => burst.retain_from(from, |packet| packet.len() <= max),
            Fault::RefusesFull => burst.retain_from(from, |packet| packet.len() != max),
            Fault::TakesTagsOff => burst[from..].iter_mut().for_each(|packet| {
                if packet.data().get(12..14) == Some(&[0x81, 0]) {
                    packet.data_mut().copy_within(0..12, 4);
                    drop(packet.shrink_head(4));
                }
            }),
            Fault::AddsFcs => burst[from..].iter_mut().for_each(|packet| {
                drop(packet.grow_tail(4));
            }),
            Fault::TakesPaddingOff => burst[from..].iter_mut().for_each(|packet| {
                if packet.data().get(12..14) == Some(&[8, 0]) {
                    let length = u16::from_be_bytes([packet.data()[16], packet.data()[17]]);
                    drop(packet.set_len(14 + usize::from(length)));
                }
                while packet.len() > 14 && packet.len() <= 60 && packet.data().ends_with(&[0]) {
                    drop(packet.shrink_tail(1));
                }
            }),
            Fault::CorruptsLongFrames => burst[from..].iter_mut().for_each(|packet| {
                if packet.data().len() > 1000 {
                    packet.data_mut()[900] ^= 1;
                }
            }),
            Fault::LosesGroups => burst.retain_from(from, |packet| {
                packet.data().first().is_none_or(|first| first & 1 == 0 || *first == 0xff)
            }),
            Fault::LosesHighVlans => burst.retain_from(from, |packet| {
                packet.data().get(12..15).is_none_or(|tag| tag[..2] != [0x81, 0] || tag[2] & 8 == 0)
            }),
            Fault::FiltersInRecv | Fault::SwitchesLate => {
                let filter = shared.filter.snapshot();
                burst.retain_from(from, |packet| filter.passes(packet.data()));
            }
            Fault::LeavesMarks => burst[from..].iter_mut().for_each(|packet| packet.set_mark(7)),
            Fault::LeavesTags => burst[from..].iter_mut().for_each(|packet| packet.set_vlan(7)),
            Fault::LeavesStamps => burst[from..].iter_mut().for_each(|packet| {
                packet.set_timestamp(Timestamp {
                    ns: 1,
                    source: anyport::packet::TimestampSource::Software,
                    clock: anyport::packet::Clock::Monotonic,
                });
            }),
            Fault::SpreadsFlows | Fault::UsesOneQueue => {
                let to = match fault {
                    Fault::SpreadsFlows => (self.queue + 1) % self.queues.max(1),
                    _ => 0,
                };
                while to != self.queue && burst.len() > from {
                    if fault == Fault::SpreadsFlows && self.every(2) {
                        break;
                    }
                    lock(&shared.extra[to]).extend(burst.pop_back());
                }
            }
            Fault::RemembersFrames => {
                if let Some(packet) = burst[from..].last() {
                    *lock(&shared.ghost) = Some(packet.data().to_vec());
                }
            }
            Fault::LeaksReceived if self.every(5) => {
                std::mem::forget(self.pool.take());
            }
            Fault::ChecksumsAlwaysGood => burst[from..].iter_mut().for_each(|packet| {
                packet.set_checksum_status(ChecksumStatus::Good, ChecksumStatus::Good);
            }),
            Fault::StripsToAnotherTag => burst[from..].iter_mut().for_each(|packet| {
                if let Some(tci) = packet.vlan() {
                    packet.set_vlan(tci ^ 1);
                }
            }),
            Fault::StampsTheFuture => burst[from..].iter_mut().for_each(|packet| {
                if let Some(stamp) = packet.timestamp() {
                    packet.set_timestamp(Timestamp { ns: stamp.ns + 5_000_000_000, ..stamp });
                }
            }),
            Fault::HashesWrong => burst[from..].iter_mut().for_each(|packet| {
                if let Some(hash) = packet.rss_hash() {
                    packet.set_rss_hash(hash.rotate_left(1));
                }
            }),
            _ => {}
        }
    }
}

impl RxDriver for BrokenRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        let (from, fault) = (burst.len(), self.shared.fault);
        match fault {
            Fault::StarvesQueues if self.queue > 0 => {
                let busy = *lock(&self.shared.busy);
                if busy.is_some_and(|last| last.elapsed() < Duration::from_millis(100)) {
                    return Ok(());
                }
            }
            Fault::DiesInDrought if self.pool.free() < 4 => self.dead = true,
            Fault::SwitchesLate => {
                let mut late = lock(&self.shared.late);
                if let Some((on, calls)) = *late {
                    *late = (calls > 0).then(|| (on, calls - 1));
                    if calls == 0 {
                        self.shared.filter.set_promiscuous(on);
                    }
                }
            }
            _ => {}
        }
        if std::mem::take(&mut self.fresh)
            && let Some(bytes) = lock(&self.shared.ghost).take()
            && let Some(mut packet) = pool.take()
        {
            packet.fill(&bytes)?;
            drop(burst.push(packet));
        }
        {
            let mut extra = lock(&self.shared.extra[self.queue]);
            while let Some(packet) = extra.pop_front() {
                if let Err(packet) = burst.push(packet) {
                    extra.push_front(packet);
                    break;
                }
            }
        }
        let from_inner = burst.len();
        let result = self.inner.recv(burst, pool);
        if self.dead {
            burst.truncate(from);
        }
        if burst.len() > from_inner {
            self.spoil(burst, from_inner);
        } else if fault == Fault::SleepsInRecv {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.queue == 0 && burst.len() > from {
            *lock(&self.shared.busy) = Some(Instant::now());
        }
        match (result, fault) {
            (Err(Error::Ended), Fault::HidesEnd)
            | (Err(Error::DeviceGone { .. }), Fault::HidesLoss) => Ok(()),
            (result, _) => result,
        }
    }

    fn arm(&mut self) -> Result<()> {
        match self.shared.fault {
            Fault::ForgetsToArm => Ok(()),
            _ => self.inner.arm(),
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        match self.shared.fault {
            Fault::NeverWakes => Some(self.never.as_raw_fd()),
            _ => self.inner.descriptor(),
        }
    }

    fn event_descriptor(&self) -> Option<RawFd> {
        match self.shared.fault {
            Fault::TellsNoEvents => Some(self.never.as_raw_fd()),
            _ => self.inner.event_descriptor(),
        }
    }

    fn link_up(&mut self) -> Result<bool> {
        match (self.inner.link_up(), self.shared.fault) {
            (Ok(_), Fault::FlapsLink) => {
                self.looks += 1;
                Ok(self.looks.is_multiple_of(2))
            }
            (Err(Error::DeviceGone { .. }), Fault::HidesLoss) => Ok(true),
            (result, _) => result,
        }
    }
}

impl Drop for BrokenRx {
    fn drop(&mut self) {
        if self.shared.fault == Fault::LeaksAtStop {
            std::mem::forget(self.pool.take());
        }
    }
}

struct BrokenTx {
    inner: Box<dyn TxDriver>,
    shared: Arc<Shared>,
    seen: usize,
    /// It was full once.
    full: bool,
    late: Burst,
}

impl BrokenTx {
    fn every(&mut self, n: usize) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(n)
    }

    /// Puts a copy in a packet's place; the packet.
    fn replace(packet: &mut Packet) -> Option<Packet> {
        let copy = packet.copy_to(&packet.pool())?;
        Some(std::mem::replace(packet, copy))
    }
}

impl TxDriver for BrokenTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        let (before, fault) = (burst.len(), self.shared.fault);
        let mut count = count;
        match fault {
            Fault::LosesSent if self.every(5) => {
                drop(burst.pop_front());
                count -= 1;
            }
            Fault::SendsFromBehind => burst[..count].reverse(),
            Fault::ForgetsRequests => burst[..count].iter_mut().for_each(|packet| {
                packet.set_requests(TxRequests::default());
            }),
            Fault::Echoes => {
                let copies = burst[..count].iter().filter_map(|p| p.copy_to(&p.pool()));
                lock(&self.shared.extra[0]).extend(copies);
            }
            Fault::StaysFull if self.full => return Ok(()),
            Fault::LeaksSent => {
                for packet in &mut burst[..count] {
                    if self.every(9) {
                        std::mem::forget(Self::replace(packet));
                    }
                }
            }
            Fault::CopiesAttached => burst[..count].iter_mut().for_each(|packet| {
                drop(Self::replace(packet));
            }),
            Fault::SendsWithoutLink if !self.inner.link_up()? => {
                burst.drain().take(count).for_each(drop);
                return Ok(());
            }
            Fault::SendsLater => {
                let waiting = self.late.len();
                self.inner.send(&mut self.late, waiting, pools)?;
                if self.late.is_empty() && count == burst.len() {
                    drop(self.late.push(burst.pop_back().expect("the caller gives some")));
                    count -= 1;
                }
            }
            _ => {}
        }
        let result = self.inner.send(burst, count, pools);
        let taken = before - burst.len();
        self.full |= taken == 0;
        match fault {
            Fault::ChangesWhatIsLeft => {
                if let Some(packet) = burst.first_mut().filter(|_| taken < count) {
                    let last = &mut packet.data_mut()[13];
                    *last = last.wrapping_add(1);
                }
            }
            Fault::BlocksWhenFull if taken == 0 => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
        match (result, fault) {
            (Err(Error::DeviceGone { .. }), Fault::HidesLoss) => {
                burst.truncate(before - count);
                Ok(())
            }
            (result, _) => result,
        }
    }

    fn reclaim(&mut self, pools: &mut [PoolCache]) -> Result<Outstanding> {
        match (self.inner.reclaim(pools), self.shared.fault) {
            (Ok(_), Fault::HidesOutstanding) => Ok(Outstanding::default()),
            (result, _) => result,
        }
    }

    fn link_up(&mut self) -> Result<bool> {
        let up = match (self.inner.link_up(), self.shared.fault) {
            (Ok(_), Fault::SendsWithoutLink) => return Ok(true),
            (Err(Error::DeviceGone { .. }), Fault::HidesLoss) => return Ok(true),
            (up, _) => up?,
        };
        if !up {
            self.shared.was_down.store(true, Relaxed);
        }
        let stays_down = self.shared.fault == Fault::StaysDown;
        Ok(up && !(stays_down && self.shared.was_down.load(Relaxed)))
    }

    fn take_timestamp(&mut self) -> Option<TxTimestamp> {
        self.inner.take_timestamp()
    }
}
