//! The cable: what both ends share, and the handle by which a test or an application pulls it.
//!
//! ```text
//!   end 0  TxDriver ──► [transmit ring, while paused] ──► filter, faults ──► [receive ring] ──► RxDriver  end 1
//! ```
//! A sender puts frames straight into the other end's receive rings, under the ring's lock; one lock per burst. Locks
//! are taken in the order transmit ring, engine, receive ring. Sending and receiving allocate no memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyport::driver::Outstanding;
use anyport::mac::MacFilter;
use anyport::wait::EventFd;
use anyport::{Burst, MacAddr, Packet, Pool, PoolCache};

use crate::faults::{FaultState, Faults};
use crate::offload::Transmit;
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
    /// Whether this end's device does anything to the frames that leave it.
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
    /// Senders take frames from it for their copies. It is the queue's only one (contract P1): the common layer's stays empty.
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

/// A transmit queue.
#[derive(Default)]
pub(crate) struct TxSide {
    pub backlog: Mutex<Backlog>,
    /// Taken after the backlog's lock.
    pub engine: Mutex<Option<Transmit>>,
    /// Frames that were accepted and could not be sent, and their bytes; they outlive stop and start (contract L5).
    pub dropped: AtomicU64,
    pub dropped_bytes: AtomicU64,
}

/// What was accepted while the cable is paused.
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
                state.faults.set(faults);
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
                self.release(index / QUEUES, index % QUEUES, backlog);
            }
        }
        let waiting = backlogs.iter().any(|b| b.ring.as_ref().is_some_and(|ring| ring.len() > 0));
        self.held.store(paused || waiting, Ordering::SeqCst);
        switch.store(on, Ordering::SeqCst);
    }

    /// Sends what waits in a transmit ring of end `from`.
    fn release(&self, from: usize, queue: usize, backlog: &mut Backlog) {
        let Some(ring) = &mut backlog.ring else { return };
        let mut burst = Burst::with_capacity(64);
        while ring.len() > 0 {
            ring.pop_into(&mut burst);
            while !burst.is_empty() {
                let count = burst.len();
                self.deliver(from, queue, &mut burst, count);
                // What is left cannot be sent, and was accepted: its first is lost.
                if let Some(packet) = burst.pop_front() {
                    self.ends[from].tx[queue].count_dropped(&packet);
                }
            }
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
                return self.ends[from].tx[queue].hold(&mut backlog, burst, count);
            }
        }
        self.deliver(from, queue, burst, count);
    }

    /// What waits in a transmit ring.
    pub fn outstanding(&self, from: usize, queue: usize) -> Outstanding {
        let backlog = lock(&self.ends[from].tx[queue].backlog);
        let packets = backlog.ring.as_ref().map_or(0, Ring::len);
        Outstanding { packets, bytes: backlog.bytes }
    }

    /// Brings the first `count` packets to the other end. What stays in the burst of them waits for a frame: the sending
    /// engine found none.
    #[inline]
    fn deliver(&self, from: usize, queue: usize, burst: &mut Burst, count: usize) {
        let (sender, receiver) = (&self.ends[from], &self.ends[1 - from]);
        let count = match sender.engine.load(Ordering::Acquire) {
            true => sender.tx[queue].run_engine(burst, count),
            false => count,
        };
        match receiver.rx_queues.load(Ordering::Acquire) {
            0 => discard(burst, count),
            1 => receiver.deliver_to(0, burst, count),
            queues => receiver.spread(queues, burst, count),
        }
    }
}

impl TxSide {
    /// Keeps the first `count` packets, as many as there is room for.
    fn hold(&self, backlog: &mut Backlog, burst: &mut Burst, count: usize) {
        let Some(ring) = &mut backlog.ring else { return };
        let count = count.min(ring.room());
        backlog.bytes += burst[..count].iter().map(|packet| self.wire_length(packet)).sum::<u64>();
        ring.push_from(burst, count);
    }

    /// What the sender's device does to the first `count` packets; how many of them can leave.
    #[cold]
    fn run_engine(&self, burst: &mut Burst, count: usize) -> usize {
        match &mut *lock(&self.engine) {
            Some(engine) => {
                let stuck = burst[..count].iter_mut().position(|packet| !engine.apply(packet));
                stuck.unwrap_or(count)
            }
            None => count,
        }
    }

    fn wire_length(&self, packet: &Packet) -> u64 {
        match &*lock(&self.engine) {
            Some(engine) => engine.wire_length(packet),
            None => packet.len() as u64,
        }
    }

    #[cold]
    fn count_dropped(&self, packet: &Packet) {
        self.dropped_bytes.fetch_add(self.wire_length(packet), Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
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
            engine: AtomicBool::new(false),
        }
    }

    /// Brings the first `count` packets to the queues of their flows, those of one queue that follow each other at once.
    fn spread(&self, queues: u16, burst: &mut Burst, count: usize) {
        let Some(steer) = lock(&self.steer).clone() else { return discard(burst, count) };
        let queue_of = |packet: &Packet| steer.queue_of(packet.data(), queues);
        let mut left = count;
        let mut next = burst.first().map_or(0, queue_of);
        while left > 0 {
            let (queue, mut run) = (next, 1);
            while run < left {
                next = queue_of(&burst[run]);
                if next != queue {
                    break;
                }
                run += 1;
            }
            self.deliver_to(queue as usize, burst, run);
            left -= run;
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
        if state.armed {
            if state.ring.len() > 0 || state.faults.held() > 0 {
                state.armed = false;
                state.frames.signal();
            } else {
                // The owner sleeps on, and what was lost on the way may have filled the cache (contract P1).
                state.cache.flush();
            }
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
