//! The cable: what both ends share, and the handle by which a test or an application pulls it.
//!
//! ```text
//!   end 0  TxDriver ──► [transmit ring, while paused] ──► filter, faults ──► [receive ring] ──► RxDriver  end 1
//! ```
//! A sender puts frames straight into the other end's receive rings, under the ring's lock; one lock per burst. Locks
//! are taken in the order transmit ring, receive ring.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyport::capability::DeviceOffloads;
use anyport::driver::Outstanding;
use anyport::mac::MacFilter;
use anyport::wait::EventFd;
use anyport::{Burst, MacAddr, Packet, Pool, PoolCache};

use crate::faults::{FaultState, Faults};
use crate::offload;
use crate::ring::Ring;
use crate::steer::Steer;

/// The most queues of an end, each way.
pub(crate) const QUEUES: usize = 16;

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cable by its name: pulls it, pauses it, injects faults.
///
/// It exists as long as one of its ends is open or a handle is kept; the name then stands for a new cable.
#[derive(Clone)]
pub struct Cable {
    pub(crate) shared: Arc<CableShared>,
}

pub(crate) struct CableShared {
    pub name: String,
    pub ends: [End; 2],
    plugged: AtomicBool,
    paused: AtomicBool,
    /// Frames go into the transmit rings: the cable is paused, or was when it was pulled out.
    held: AtomicBool,
}

/// One end.
pub(crate) struct End {
    /// A port has it open. The common layer's lock is a network namespace's, a cable is the process's.
    pub open: AtomicBool,
    pub filter: MacFilter,
    /// The device was taken away (contract T9).
    gone: AtomicBool,
    /// Receive queues of the started port; 0 while it is stopped, and then it hears nothing.
    pub rx_queues: AtomicU16,
    pub rx: [RxSide; QUEUES],
    pub tx: [TxSide; QUEUES],
    pub steer: Mutex<Option<Arc<Steer>>>,
    /// What this end's device does to the frames that leave it; `engine` says whether that is anything.
    pub tx_offloads: Mutex<DeviceOffloads>,
    pub engine: AtomicBool,
}

/// A receive queue as both sides see it.
#[derive(Default)]
pub(crate) struct RxSide {
    pub state: Mutex<Option<RxState>>,
    /// Counters outlive stop and start (contract L5).
    pub counts: Mutex<RxCounts>,
}

#[derive(Default, Clone, Copy)]
pub(crate) struct RxCounts {
    pub ring_full: u64,
    pub no_buffer: u64,
    pub filtered: u64,
    pub errors: u64,
}

/// A started receive queue.
pub(crate) struct RxState {
    pub ring: Ring,
    pub faults: FaultState,
    /// Attached pools: packets of theirs are passed on, others copied into the first.
    pub pools: Vec<u16>,
    pub cache: PoolCache,
    pub armed: bool,
    /// A frame was lost because the pool had none.
    pub starved: bool,
    /// Nothing is taken any more (see [`Cable::end_input`]).
    pub ended: bool,
    pub frames: Arc<EventFd>,
    pub events: Arc<EventFd>,
    pub max_segments: usize,
    pub counts: RxCounts,
}

/// A transmit queue: what was accepted while the cable is paused.
#[derive(Default)]
pub(crate) struct TxSide {
    pub backlog: Mutex<Backlog>,
}

#[derive(Default)]
pub(crate) struct Backlog {
    pub ring: Option<Ring>,
    pub bytes: u64,
}

static CABLES: Mutex<Option<HashMap<String, Weak<CableShared>>>> = Mutex::new(None);

impl Cable {
    /// The cable of that name; a new one if there is none.
    pub fn named(name: &str) -> Cable {
        let mut cables = lock(&CABLES);
        let cables = cables.get_or_insert_default();
        cables.retain(|_, cable| cable.strong_count() > 0);
        if let Some(shared) = cables.get(name).and_then(Weak::upgrade) {
            return Cable { shared };
        }
        let shared = Arc::new(CableShared::new(name));
        cables.insert(name.to_owned(), Arc::downgrade(&shared));
        Cable { shared }
    }

    /// The names of all cables that there are.
    pub fn all() -> Vec<String> {
        let cables = lock(&CABLES);
        let live = cables.iter().flatten().filter(|(_, cable)| cable.strong_count() > 0);
        let mut names: Vec<String> = live.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Plugs the cable in, or pulls it out: the link of both ends goes up or down (contract T8). What waits in a transmit
    /// ring then is sent when it is plugged in again.
    pub fn set_link(&self, up: bool) {
        self.shared.settle(&self.shared.plugged, up);
        self.shared.signal_events();
    }

    /// Holds frames back in the senders' transmit rings, as pause frames would; un-pausing sends them (contract T3).
    pub fn pause(&self, paused: bool) {
        self.shared.settle(&self.shared.paused, paused);
    }

    /// Takes the device of an end (0 or 1) away, or brings it back: an open port finds it gone (contract T9).
    ///
    /// # Panics
    /// If `end` is not 0 or 1.
    pub fn remove(&self, end: usize, gone: bool) {
        self.shared.ends[end].gone.store(gone, Ordering::SeqCst);
        self.shared.signal_events();
    }

    /// Lets the input of an end (0 or 1) end, as that of a capture file does: its port delivers what has arrived and then
    /// says `Ended` (contract R14), until it is started again. What is sent to it later is lost.
    ///
    /// # Panics
    /// If `end` is not 0 or 1.
    pub fn end_input(&self, end: usize) {
        for side in &self.shared.ends[end].rx {
            if let Some(state) = &mut *lock(&side.state) {
                state.ended = true;
                state.armed = false;
                state.frames.signal();
            }
        }
    }

    /// Sets the faults that frames suffer on their way to an end, from the next frame on, until its port is started
    /// again (which sets those of its spec).
    ///
    /// # Panics
    /// If `end` is not 0 or 1.
    pub fn set_faults(&self, end: usize, faults: Faults) {
        for side in &self.shared.ends[end].rx {
            if let Some(state) = &mut *lock(&side.state) {
                state.faults = FaultState::new(faults);
            }
        }
    }
}

impl std::fmt::Debug for Cable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cable").field("name", &self.shared.name).finish()
    }
}

impl CableShared {
    fn new(name: &str) -> CableShared {
        CableShared {
            name: name.to_owned(),
            ends: [End::new(name, 0), End::new(name, 1)],
            plugged: AtomicBool::new(true),
            paused: AtomicBool::new(false),
            held: AtomicBool::new(false),
        }
    }

    pub fn link_up(&self) -> bool {
        self.plugged.load(Ordering::SeqCst)
    }

    pub fn is_gone(&self, end: usize) -> bool {
        self.ends[end].gone.load(Ordering::Acquire)
    }

    /// Changes one of the two switches, and sends what waits in transmit rings if nothing holds it back any more.
    fn settle(&self, switch: &AtomicBool, on: bool) {
        // All at once, so that no sender overtakes its own backlog: whoever holds back looks once more under its lock.
        let mut backlogs: Vec<_> = self
            .ends
            .iter()
            .flat_map(|end| end.tx.iter().map(|side| lock(&side.backlog)))
            .collect();
        let is_on = |other: &AtomicBool| match std::ptr::eq(other, switch) {
            true => on,
            false => other.load(Ordering::SeqCst),
        };
        let (plugged, paused) = (is_on(&self.plugged), is_on(&self.paused));
        if plugged && !paused {
            for (index, backlog) in backlogs.iter_mut().enumerate() {
                self.release(1 - index / QUEUES, backlog);
            }
        }
        let waiting = backlogs.iter().any(|b| b.ring.as_ref().is_some_and(|ring| ring.len() > 0));
        self.held.store(paused || waiting, Ordering::SeqCst);
        switch.store(on, Ordering::SeqCst);
    }

    /// Sends what waits in a transmit ring to end `to`.
    fn release(&self, to: usize, backlog: &mut Backlog) {
        let Some(ring) = &mut backlog.ring else { return };
        let mut burst = Burst::with_capacity(64);
        while ring.len() > 0 {
            ring.pop_into(&mut burst);
            let count = burst.len();
            self.deliver(to, &mut burst, count);
        }
        backlog.bytes = 0;
    }

    fn signal_events(&self) {
        for side in self.ends.iter().flat_map(|end| &end.rx) {
            if let Some(state) = &*lock(&side.state) {
                state.events.signal();
            }
        }
    }

    /// What a transmit queue of `from` does with the first `count` packets: onto the cable, or into the backlog. What
    /// is left in the burst found no room.
    #[inline]
    pub fn send(&self, from: usize, queue: usize, burst: &mut Burst, count: usize) {
        if !self.link_up() {
            return;
        }
        if self.held.load(Ordering::Acquire) {
            let mut backlog = lock(&self.ends[from].tx[queue].backlog);
            // Looked at once more under the lock: un-pausing holds it while it empties the backlog.
            if self.held.load(Ordering::Acquire) {
                let lengths: Vec<usize> = burst[..count].iter().map(Packet::len).collect();
                let taken = backlog.ring.as_mut().map_or(0, |ring| ring.push_from(burst, count));
                backlog.bytes += lengths[..taken].iter().map(|&length| length as u64).sum::<u64>();
                return;
            }
        }
        self.deliver(1 - from, burst, count);
    }

    /// What waits in a transmit ring.
    pub fn outstanding(&self, from: usize, queue: usize) -> Outstanding {
        let backlog = lock(&self.ends[from].tx[queue].backlog);
        let packets = backlog.ring.as_ref().map_or(0, Ring::len);
        Outstanding { packets, bytes: backlog.bytes }
    }

    /// Brings the first `count` packets to end `to`; all of them leave the burst.
    #[inline]
    fn deliver(&self, to: usize, burst: &mut Burst, count: usize) {
        let end = &self.ends[to];
        let count = match self.ends[1 - to].engine.load(Ordering::Acquire) {
            true => self.run_engine(to, burst, count),
            false => count,
        };
        let queues = end.rx_queues.load(Ordering::Acquire);
        if queues == 1 {
            return end.deliver_to(0, burst, count);
        }
        // Queue by queue would need sorting; packet by packet keeps each flow's order.
        let steer = lock(&end.steer).clone();
        let mut single = Burst::with_capacity(1);
        for _ in 0..count {
            let Some(packet) = burst.pop_front() else { break };
            let (Some(steer), 1..) = (&steer, queues) else { continue };
            let queue = steer.queue_of(packet.data(), queues);
            let _ = single.push(packet);
            end.deliver_to(queue as usize, &mut single, 1);
        }
    }
}

impl CableShared {
    /// What the sender's device does to the first `count` packets on their way; how many are left of them.
    #[cold]
    fn run_engine(&self, to: usize, burst: &mut Burst, count: usize) -> usize {
        let offloads = *lock(&self.ends[1 - to].tx_offloads);
        let before = burst.len();
        let mut seen = 0;
        burst.retain(|packet| {
            seen += 1;
            seen > count || offload::transmit(packet, &offloads)
        });
        let lost = before - burst.len();
        if let Some(state) = lock(&self.ends[to].rx[0].state).as_mut().filter(|_| lost > 0) {
            state.counts.errors += lost as u64;
        }
        count - lost
    }
}

impl End {
    fn new(cable: &str, index: usize) -> End {
        End {
            open: AtomicBool::new(false),
            filter: MacFilter::new(default_mac(cable, index)),
            gone: AtomicBool::new(false),
            rx_queues: AtomicU16::new(0),
            rx: Default::default(),
            tx: Default::default(),
            steer: Mutex::new(None),
            tx_offloads: Mutex::default(),
            engine: AtomicBool::new(false),
        }
    }

    #[inline]
    fn deliver_to(&self, queue: usize, burst: &mut Burst, count: usize) {
        let mut guard = lock(&self.rx[queue].state);
        // A stopped end hears nothing.
        let Some(state) = &mut *guard else { return discard(burst, count) };
        if state.ended || self.gone.load(Ordering::Relaxed) {
            return discard(burst, count);
        }
        let filter = self.filter.snapshot();
        let plain = !state.faults.active()
            && burst[..count].iter_mut().all(|packet| {
                let pass = state.passes_on(packet) && filter.passes(packet.data());
                packet.reset_metadata();
                pass
            });
        if plain {
            let pushed = state.ring.push_from(burst, count);
            state.counts.ring_full += (count - pushed) as u64;
            discard(burst, count - pushed);
        } else {
            for _ in 0..count {
                let Some(packet) = burst.pop_front() else { break };
                if filter.passes(packet.data()) {
                    state.accept(packet);
                } else {
                    state.counts.filtered += 1;
                }
            }
        }
        if state.armed && (state.ring.len() > 0 || state.faults.held() > 0) {
            state.armed = false;
            state.frames.signal();
        }
    }
}

fn discard(burst: &mut Burst, count: usize) {
    for _ in 0..count {
        drop(burst.pop_front());
    }
}

impl RxState {
    /// Whether a packet can be handed to the receiver as it is.
    #[inline]
    fn passes_on(&self, packet: &Packet) -> bool {
        self.pools.contains(&packet.pool_id())
            && (!packet.is_chain() || packet.segment_count() <= self.max_segments)
    }

    /// Takes a frame that is for this end, one way or the other.
    fn accept(&mut self, mut packet: Packet) {
        if !self.passes_on(&packet) {
            let pool: &Pool = self.cache.pool();
            let copy = match packet.is_chain() {
                true => packet.copy_to(pool),
                false => match packet.len() <= pool.room() {
                    true => self.cache.take().and_then(|mut copy| {
                        copy.fill(packet.data()).ok()?;
                        Some(copy)
                    }),
                    false => packet.copy_to(pool),
                },
            };
            match copy {
                Some(copy) => packet = copy,
                None => {
                    self.starved = true;
                    return self.counts.no_buffer += 1;
                }
            }
        }
        packet.reset_metadata();
        let (ring, counts) = (&mut self.ring, &mut self.counts);
        let pool = self.cache.pool().clone();
        let dropped = self.faults.apply(packet, &pool, |packet| {
            if ring.push(packet).is_err() {
                counts.ring_full += 1;
            }
        });
        self.counts.errors += dropped;
    }
}

/// An end's own address: locally administered, the same for the same name.
fn default_mac(cable: &str, index: usize) -> MacAddr {
    // FNV-1a, so that it does not change between builds.
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = cable.bytes().fold(0xcbf2_9ce4_8422_2325, fold).to_le_bytes();
    MacAddr([0x02, hash[0], hash[1], hash[2], hash[3], index as u8])
}
