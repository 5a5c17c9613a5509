//! A receive queue: the fill ring gives the kernel empty frames, the receive ring has them back with what arrived.
//!
//! Traps:
//! - The frames that the kernel has are the pool's: with none left to give it, what arrives is dropped and counted, and
//!   reception goes on with the first frame that comes back (contract R7).
//! - A frame that the kernel drops stays with it, to be filled by the next; it does not come back.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use anyport::driver::RxDriver;
use anyport::pool::Lent;
use anyport::{Burst, Packet, Pool, PoolCache, Result};
use anyport_netdev::{Ask, LinkWatch};

use crate::device::{Device, Ways};
use crate::ring::{Consumer, Producer};
use crate::socket::{Descriptor, Socket};

/// Empty frames are given to the kernel by so many at a time (or a quarter of what it is to have, if that is less): each time costs
/// a store that the kernel's core has to fetch.
const REFILL: usize = 16;

/// How old an answer about the link may be where no change was reported since.
const LINK_AGE_MS: u64 = 50;

pub(crate) struct XdpRx {
    device: Arc<Device>,
    socket: Arc<Socket>,
    rx: Consumer<Descriptor>,
    fill: Producer<u64>,
    /// `None` only while it is dropped.
    lent: Option<Lent>,
    /// How many frames the kernel is to have.
    target: usize,
    /// How many have to be missing for them to be given.
    batch: usize,
    ways: Ways,
    /// The first segments of a frame whose last one is not there yet.
    partial: Option<Packet>,
    watch: LinkWatch,
    link_up: bool,
    link_ms: u64,
}

impl XdpRx {
    /// A queue whose kernel is to have `target` of the pool's frames; it has none yet.
    pub fn new(
        device: Arc<Device>,
        socket: Arc<Socket>,
        (rx, fill): (Consumer<Descriptor>, Producer<u64>),
        pool: &Pool,
        target: usize,
        ways: Ways,
        watch: LinkWatch,
    ) -> XdpRx {
        let lent = Some(Lent::new(pool));
        let (partial, link_up, link_ms) = (None, false, 0);
        XdpRx {
            device,
            socket,
            rx,
            fill,
            lent,
            target,
            batch: REFILL.min(target / 4).max(1),
            ways,
            partial,
            watch,
            link_up,
            link_ms,
        }
    }

    /// Gives the kernel empty frames, as many as it is to have and the pool has.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn refill(&mut self, pool: &mut PoolCache) -> Result<()> {
        let Some(lent) = &mut self.lent else { return Ok(()) };
        let missing = self.target.saturating_sub(lent.frames());
        let free = self.fill.free(missing as u32).map_err(self.device.broken_ring("fill"))?;
        let mut run = self.fill.run();
        let each = |address| {
            run.push(address);
        };
        let given = lent.lend_empty(pool, missing.min(free as usize), each);
        drop(run);
        if given > 0 {
            self.fill.publish();
            if self.fill.needs_wakeup() {
                // Down or gone: the link says so.
                let _ = self.socket.kick_rx();
            }
        }
        Ok(())
    }

    /// Takes up to `count` descriptors from the receive ring, each of which is a frame or a segment.
    #[cold]
    fn take_segments(&mut self, burst: &mut Burst, count: usize) -> Result<usize, u64> {
        let Some(lent) = &mut self.lent else { return Ok(0) };
        let mut taken = 0;
        while taken < count {
            let Some(descriptor) = self.rx.pop() else { break };
            // SAFETY: the kernel says that it is done with it.
            let segment = unsafe { lent.take(descriptor.addr, descriptor.len as usize) };
            let segment = segment.ok_or(descriptor.addr)?;
            taken += 1;
            let whole = match self.partial.take() {
                None => segment,
                Some(mut first) => {
                    // Of one pool; a chain has room for more segments than a frame has bytes.
                    let _ = first.append(segment);
                    first
                }
            };
            match descriptor.options & libc::XDP_PKT_CONTD != 0 {
                true => self.partial = Some(whole),
                false => drop(burst.push(whole)),
            }
        }
        Ok(taken)
    }
}

impl RxDriver for XdpRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        let room = burst.room();
        let mut ready = self.rx.ready(room as u32).map_err(self.device.broken_ring("receive"))?;
        // A driver that has found no frame to fill may have gone to sleep after the last look.
        if ready == 0 && (self.ways.busy_poll || self.fill.needs_wakeup()) {
            // Down or gone: the link says so.
            let _ = self.socket.kick_rx();
            ready = self.rx.ready(room as u32).map_err(self.device.broken_ring("receive"))?;
        }
        let count = room.min(ready as usize);
        let taken = if self.ways.segments {
            self.take_segments(burst, count)
        } else if let Some(lent) = &mut self.lent {
            let mut run = self.rx.run();
            let next = || run.pop().map(|descriptor| (descriptor.addr, descriptor.len as usize));
            // SAFETY: the kernel says that it is done with these.
            unsafe { lent.take_into(burst, count, next) }
        } else {
            Ok(0)
        };
        if count > 0 {
            self.rx.release();
        }
        let result =
            taken.map_err(|_| self.device.broken("receive ring has a frame that it was not given"));
        let taken = *result.as_ref().unwrap_or(&0);
        let missing =
            self.lent.as_ref().map_or(0, |lent| self.target.saturating_sub(lent.frames()));
        if missing >= self.batch || (missing > 0 && taken == 0) {
            self.refill(pool)?;
        }
        result.map(drop)
    }

    fn arm(&mut self) -> Result<()> {
        // The socket is readable whenever the receive ring has something.
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn event_descriptor(&self) -> Option<RawFd> {
        Some(self.watch.as_raw_fd())
    }

    fn link_up(&mut self) -> Result<bool> {
        let now = anyport::time::coarse_ms();
        if self.watch.drain() || now >= self.link_ms + LINK_AGE_MS {
            self.link_up = self.device.link_up(&self.socket, Ask::Never)?;
            self.link_ms = now;
        }
        Ok(self.link_up)
    }
}

impl Drop for XdpRx {
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

    /// A queue whose kernel is this test: its fill ring's and its receive ring's other sides.
    struct Played {
        rx: XdpRx,
        given: Consumer<u64>,
        arrived: crate::ring::Producer<Descriptor>,
        pool: Pool,
    }

    fn played(segments: bool) -> Played {
        let pool = Pool::builder().frames(16).build().unwrap();
        let (fill, receive) = (Plain::<u64>::new(8, 0), Plain::<Descriptor>::new(8, 0));
        let device = Arc::new(Device::new("af_xdp:x", Interface::open("lo").unwrap(), true));
        let (one, _) = UnixStream::pair().unwrap();
        let socket = Arc::new(Socket::from(OwnedFd::from(one)));
        let rings = (receive.consumer(8), fill.producer(8));
        let ways = Ways { segments, ..Ways::default() };
        let watch = LinkWatch::new().unwrap();
        let rx = XdpRx::new(device, socket, rings, &pool, 4, ways, watch);
        Played { rx, given: fill.consumer(8), arrived: receive.producer(8), pool }
    }

    #[test]
    fn what_a_broken_kernel_says_arrived_is_an_error_and_touches_nothing() {
        for segments in [false, true] {
            let Played { mut rx, mut given, mut arrived, pool } = played(segments);
            let mut cache = pool.cache(0);
            rx.refill(&mut cache).unwrap();
            assert_eq!((given.ready(8).unwrap(), pool.free()), (4, 12));
            let addresses: Vec<u64> = std::iter::from_fn(|| given.pop()).collect();
            let other =
                (0..16).map(|frame| frame * 2048).find(|at| !addresses.contains(at)).unwrap();
            let mut burst = Burst::new();
            for (addr, len) in [
                (other + 256, 60),
                (16 * 2048, 60),
                (u64::MAX, 60),
                (1 << 40, 1),
                (addresses[0] + 256, 2048),
                (addresses[0] + 2047, 2),
                (addresses[0], u32::MAX),
            ] {
                assert!(arrived.free(1).unwrap() > 0);
                arrived.push(Descriptor { addr, len, options: 0 });
                arrived.publish();
                let error = rx.recv(&mut burst, &mut cache).unwrap_err();
                assert!(matches!(error, Error::Backend { .. }), "{error}");
                assert!(error.to_string().contains("receive ring"), "{error}");
                assert_eq!((burst.len(), pool.free()), (0, 12), "{addr} {len}");
            }
            let mut plays = |addr, len| {
                assert!(arrived.free(1).unwrap() > 0);
                arrived.push(Descriptor { addr, len, options: 0 });
                arrived.publish();
                rx.recv(&mut burst, &mut cache).map(|()| burst.len())
            };
            // What was given comes once.
            assert_eq!(plays(addresses[0] + 256, 60).unwrap(), 1);
            assert!(plays(addresses[0] + 256, 60).is_err());
            assert_eq!(plays(addresses[3] + 256, 1792).unwrap(), 2);
            assert_eq!(burst.iter().map(Packet::len).collect::<Vec<_>>(), [60, 1792]);
        }
    }
}
