//! A transmit queue: the transmit ring has frames for the kernel, the completion ring has them back.
//!
//! In copy mode the kernel sends within the system call that wakes it, a bounded number of frames per call, and stops where the
//! interface takes no more; in zero-copy mode the driver takes frames from the ring by itself once it was woken.
//!
//! Traps:
//! - A descriptor that was published is the kernel's, also if it was not sent yet: it cannot be taken back. So in copy mode a
//!   burst at most is published at a time, and nothing after a call that left something: what waits for a further call is bounded
//!   by that (contract T2). Every later call of the port's queues tries again, and so does a queue that is waited on.
//! - The socket is one that nobody polls: in copy mode the kernel sends within `poll` and `epoll_wait` as well, and says to
//!   nobody then what it lost (`xsk_poll`).
//! - `EBUSY` means that exactly one frame, the last one that was consumed, was completed and not sent (`xsk_generic_xmit`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyport::driver::{Outstanding, TxDriver};
use anyport::pool::Lent;
use anyport::{Burst, Packet, Pool, PoolCache, Result};
use anyport_netdev::Ask;

use crate::device::{Counts, Device, Ways};
use crate::port::KERNEL_HEADROOM;
use crate::ring::{Consumer, Producer};
use crate::socket::{Descriptor, Socket};

/// Calls in a row that sent nothing before the interface counts as full.
const TRIES: u32 = 2;

/// Packets that are published at a time in copy mode.
const STEP: usize = 64;

/// The most descriptors of one packet that the kernel makes one of its own packets of, in copy mode (`MAX_SKB_FRAGS`).
const PARTS: usize = 17;

/// What a queue keeps within.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most frames that are with the kernel: what the completion ring holds.
    pub most: usize,
    /// Frames that one system call sends in copy mode.
    pub budget: usize,
    /// Bytes of a frame that the kernel uses, a power of two: a descriptor must not reach beyond.
    pub chunk: usize,
    /// That is all of a frame.
    pub whole: bool,
}

pub(crate) struct XdpTx {
    device: Arc<Device>,
    socket: Arc<Socket>,
    tx: Producer<Descriptor>,
    completion: Consumer<u64>,
    /// `None` only while it is dropped.
    lent: Option<Lent>,
    limits: Limits,
    ways: Ways,
    /// The last call left frames in the ring.
    full: bool,
    link_up: bool,
    counts: Arc<Counts>,
}

impl XdpTx {
    pub fn new(
        device: Arc<Device>,
        socket: Arc<Socket>,
        (tx, completion): (Producer<Descriptor>, Consumer<u64>),
        pool: &Pool,
        limits: Limits,
        ways: Ways,
        counts: Arc<Counts>,
    ) -> XdpTx {
        let lent = Some(Lent::new(pool));
        let (full, link_up) = (false, false);
        XdpTx { device, socket, tx, completion, lent, limits, ways, full, link_up, counts }
    }

    /// Gives completed frames back.
    #[inline]
    fn complete(&mut self, pools: &mut [PoolCache]) -> Result<()> {
        let (Some(lent), Some(cache)) = (&mut self.lent, pools.first_mut()) else { return Ok(()) };
        let ready = self.completion.ready(1).map_err(self.device.broken_ring("completion"))?;
        if ready == 0 {
            return Ok(());
        }
        let mut run = self.completion.run();
        // SAFETY: the kernel says that it is done with these.
        let known = unsafe { lent.complete(cache, || run.pop()) };
        drop(run);
        self.completion.release();
        match known {
            true => Ok(()),
            false => Err(self.device.broken("completion ring has a frame that it was not given")),
        }
    }

    /// Puts up to `count` packets from the front of the burst into the ring; how many.
    #[inline]
    fn push(&mut self, burst: &mut Burst, count: usize) -> Result<usize> {
        let Some(lent) = &mut self.lent else { return Ok(0) };
        let free =
            self.tx.free(count as u32).map_err(self.device.broken_ring("transmit"))? as usize;
        let mut places = free.min(self.limits.most.saturating_sub(lent.frames()));
        let tx = &mut self.tx;
        let mut pushed = 0;
        while pushed < count && places > 0 {
            let run = if self.limits.whole {
                let mut run = tx.run();
                let each = |addr, len| {
                    run.push(Descriptor { addr, len, options: 0 });
                };
                lent.lend_front(burst, places.min(count - pushed), each)
            } else {
                0
            };
            pushed += run;
            places -= run;
            if run > 0 {
                continue;
            }
            // A chain, or a packet that may not lie where the kernel takes it from.
            let Some(packet) = burst.first_mut() else { break };
            if !self.ways.segments && packet.headroom() + packet.len() > self.limits.chunk {
                move_forward(packet);
            }
            // Frames are aligned to more than a chunk, so addresses are as good as offsets.
            let chunk = self.limits.chunk;
            let needed: usize = packet
                .segments()
                .map(|segment| parts(segment.as_ptr().addr(), segment.len(), chunk))
                .sum();
            if needed > places || needed > PARTS {
                if needed <= self.limits.most.min(PARTS) {
                    break;
                }
                // It never will.
                let Some(packet) = burst.pop_front() else { break };
                self.counts.tx_dropped.fetch_add(1, Ordering::Relaxed);
                self.counts.tx_dropped_bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
                pushed += 1;
                continue;
            }
            let Some(packet) = burst.pop_front() else { break };
            places -= push_segments(tx, lent, packet, chunk);
            pushed += 1;
        }
        Ok(pushed)
    }

    /// Wakes the kernel; whether it has taken everything.
    fn wake(&mut self) -> Result<bool> {
        if self.ways.zero_copy {
            if self.ways.busy_poll || self.tx.needs_wakeup() {
                // What stands in the way is the link's to say.
                let _ = self.socket.kick_tx();
            }
            return Ok(true);
        }
        let mut before = u32::MAX;
        let mut in_vain = 0;
        loop {
            let result = self.socket.kick_tx();
            let left = self.tx.pending().map_err(self.device.broken_ring("transmit"))?;
            let why = result.err().and_then(|error| error.raw_os_error());
            if why == Some(libc::EBUSY) {
                self.dropped();
            }
            if left == 0 {
                return Ok(true);
            }
            // A frame that was dropped is one less, which older kernels do not say in the ring.
            let progress = left < before || why == Some(libc::EBUSY);
            in_vain = if progress { 0 } else { in_vain + 1 };
            before = left;
            let waits = matches!(why, None | Some(libc::EAGAIN | libc::EBUSY | libc::EINTR));
            if !waits || in_vain >= TRIES {
                return Ok(false);
            }
        }
    }

    /// The kernel has completed a frame without sending it.
    #[cold]
    fn dropped(&mut self) {
        let mut consumed = self.tx.consumed();
        let mut bytes = consumed.next().map_or(0, |last| u64::from(last.len));
        // The segments before it.
        let continued = |segment: &Descriptor| segment.options & libc::XDP_PKT_CONTD != 0;
        bytes += consumed.take_while(continued).map(|segment| u64::from(segment.len)).sum::<u64>();
        self.counts.tx_dropped.fetch_add(1, Ordering::Relaxed);
        self.counts.tx_dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How many descriptors a segment takes: none crosses the bounds of what the kernel calls a frame.
fn parts(address: usize, length: usize, chunk: usize) -> usize {
    ((address & (chunk - 1)) + length).div_ceil(chunk)
}

/// Puts a packet's segments into the ring, which has room for them; how many descriptors that took.
#[cold]
fn push_segments(
    tx: &mut Producer<Descriptor>,
    lent: &mut Lent,
    mut packet: Packet,
    chunk: usize,
) -> usize {
    let mut count = 0;
    loop {
        let rest = packet.split_off_rest().filter(|rest| !rest.is_empty());
        let mut left = packet.len();
        // The kernel takes no empty segments.
        if left > 0 {
            let parts = parts(packet.headroom(), left, chunk);
            let Ok(mut addr) = lent.lend_in_parts(packet, count == 0, parts) else { return count };
            while left > 0 {
                let len = left.min(chunk - (addr as usize & (chunk - 1)));
                left -= len;
                let more = left > 0 || rest.is_some();
                let options = if more { libc::XDP_PKT_CONTD } else { 0 };
                tx.push(Descriptor { addr, len: len as u32, options });
                addr += len as u64;
                count += 1;
            }
        }
        match rest {
            Some(next) => packet = next,
            None => return count,
        }
    }
}

/// Moves the data of a packet in a large frame to where the kernel looks: right behind the head room that it keeps itself.
#[cold]
fn move_forward(packet: &mut Packet) {
    let data = packet.data().to_vec();
    let _ = packet.shrink_tail(data.len());
    let _ = packet.grow_head(packet.headroom().saturating_sub(KERNEL_HEADROOM));
    let _ = packet.fill(&data);
}

impl TxDriver for XdpTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        self.complete(pools)?;
        if self.full {
            self.full = !self.wake()?;
            self.complete(pools)?;
        }
        let mut left = count;
        while left > 0 {
            let batch = match (self.ways.zero_copy, self.full) {
                (true, _) => left,
                (false, false) => left.min(self.limits.budget).min(STEP),
                (false, true) => 0,
            };
            let pushed = self.push(burst, batch)?;
            if pushed == 0 {
                break;
            }
            self.tx.publish();
            self.full = !self.wake()?;
            left -= pushed;
            if !self.ways.zero_copy {
                self.complete(pools)?;
            }
        }
        Ok(())
    }

    fn reclaim(&mut self, pools: &mut [PoolCache]) -> Result<Outstanding> {
        let waiting = self.lent.as_ref().is_some_and(|lent| lent.frames() > 0);
        if self.full || (self.ways.zero_copy && waiting) {
            self.full = !self.wake()?;
        }
        self.complete(pools)?;
        Ok(self.lent.as_ref().map_or_else(Outstanding::default, Lent::outstanding))
    }

    fn link_up(&mut self) -> Result<bool> {
        // After a loss also where the flags are prompt: they say that the link is back just before the queue takes frames
        // again, and the device's answer comes after that.
        let ask = if self.link_up { Ask::IfLate } else { Ask::Always };
        self.link_up = self.device.link_up(&self.socket, ask)?;
        Ok(self.link_up)
    }
}

impl Drop for XdpTx {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.device.keep(lent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use anyport::Error;
    use anyport_netdev::Interface;

    use super::*;
    use crate::ring::plain::Plain;

    /// A queue whose kernel is this test: its transmit ring's and its completion ring's other sides.
    struct Played {
        tx: XdpTx,
        sent: Consumer<Descriptor>,
        completed: Producer<u64>,
        transmit: Plain<Descriptor>,
        pool: Pool,
        counts: Arc<Counts>,
    }

    fn played() -> Played {
        let pool = Pool::builder().frames(16).build().unwrap();
        let (transmit, completion) = (Plain::<Descriptor>::new(8, 0), Plain::<u64>::new(8, 0));
        let device = Arc::new(Device::new("af_xdp:x", Interface::open("lo").unwrap(), true));
        let (one, _) = UnixStream::pair().unwrap();
        let socket = Arc::new(Socket::from(OwnedFd::from(one)));
        let rings = (transmit.producer(8), completion.consumer(8));
        let limits = Limits { most: 8, budget: 32, chunk: 2048, whole: true };
        // A device that takes frames by itself: so may this test.
        let ways = Ways { zero_copy: true, segments: true, busy_poll: false };
        let counts = Arc::<Counts>::default();
        let tx = XdpTx::new(device, socket, rings, &pool, limits, ways, counts.clone());
        let (sent, completed) = (transmit.consumer(8), completion.producer(8));
        Played { tx, sent, completed, transmit, pool, counts }
    }

    fn burst(pool: &Pool, lengths: &[usize]) -> Burst {
        let mut burst = Burst::new();
        for length in lengths {
            burst.push(pool.packet(&vec![3; *length]).unwrap()).unwrap();
        }
        burst
    }

    #[test]
    fn packets_and_chains_are_descriptors_and_come_home_when_they_are_completed() {
        let Played { mut tx, mut sent, mut completed, pool, .. } = played();
        let mut pools = [pool.cache(0)];
        let mut burst = burst(&pool, &[60, 3000, 1514]);
        tx.send(&mut burst, 3, &mut pools).unwrap();
        assert!(burst.is_empty());
        assert_eq!(sent.ready(8).unwrap(), 4);
        let all: Vec<Descriptor> = std::iter::from_fn(|| sent.pop()).collect();
        let shape: Vec<_> = all.iter().map(|one| (one.len, one.options)).collect();
        assert_eq!(shape, [(60, 0), (1792, libc::XDP_PKT_CONTD), (1208, 0), (1514, 0)]);
        sent.release();
        let left = tx.reclaim(&mut pools).unwrap();
        assert_eq!((left.packets, left.bytes, pool.free()), (3, 60 + 3000 + 1514, 12));
        for one in &all {
            assert!(completed.free(1).unwrap() > 0 && completed.push(one.addr));
        }
        completed.publish();
        assert_eq!(tx.reclaim(&mut pools).unwrap().packets, 0);
        assert_eq!(pool.free(), 16);
    }

    #[test]
    fn a_full_ring_takes_no_chain_in_part() {
        let Played { mut tx, mut sent, pool, .. } = played();
        let mut pools = [pool.cache(0)];
        let mut burst = burst(&pool, &[60, 60, 60, 60, 60, 60, 60, 3000, 60]);
        tx.send(&mut burst, 9, &mut pools).unwrap();
        // Seven places are taken, and the chain needs two.
        assert_eq!((sent.ready(8).unwrap(), burst.len(), burst[0].len()), (7, 2, 3000));
    }

    #[test]
    fn what_a_broken_kernel_says_was_sent_is_an_error_and_touches_nothing() {
        let Played { mut tx, mut completed, transmit, pool, counts, .. } = played();
        let mut pools = [pool.cache(0)];
        tx.send(&mut burst(&pool, &[60, 60]), 2, &mut pools).unwrap();
        for address in [5 * 2048, 16 * 2048, u64::MAX] {
            assert!(completed.free(1).unwrap() > 0 && completed.push(address));
            completed.publish();
            let error = tx.reclaim(&mut pools).unwrap_err();
            assert!(error.to_string().contains("completion ring"), "{error}");
            assert_eq!(pool.free(), 14);
        }
        // It has consumed what was never there.
        transmit.word(64).store(100, Ordering::Relaxed);
        let mut more = burst(&pool, &[60; 8]);
        let error = tx.send(&mut more, 8, &mut pools).unwrap_err();
        assert!(matches!(error, Error::Backend { .. }), "{error}");
        assert_eq!((more.len(), counts.tx_dropped.load(Ordering::Relaxed)), (8, 0));
    }
}
