//! A backend whose device lies: descriptors that point anywhere, registers that read all ones, completions that never come
//! (contract F8). No rig has such a device; what this one shows is what the common layer does about it, and what a backend
//! gets for the lies that it passes on.

use std::os::fd::RawFd;

use anyport::config::Table;
use anyport::driver::{
    Backend, DeviceInfo, DriverQueues, OpenRequest, Outstanding, PortDriver, RxDriver, Setup,
    TxDriver,
};
use anyport::{
    Burst, Capability, Counters, Error, Link, MacAddr, Packet, Pool, PoolCache, PortCounters,
    Result,
};

use crate::frames;

/// What the device lies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The length of what it has received: each of [`LENGTHS`] once.
    Lengths,
    /// How many pieces a frame has: one of 100 bytes in each of [`SEGMENTS`].
    Segments,
    /// Its counters: all ones.
    Counters,
    /// Its address: all ones.
    Address,
    /// Its link: up, with a speed of all ones.
    Link,
    /// What it has still to send: all ones.
    Outstanding,
    /// Room to send: it never has any.
    Room,
    /// Anything: every call of its queues fails.
    Calls,
    /// How many queues it has.
    Queues,
    /// Its descriptor: there is none of that number.
    Descriptor,
}

/// The lengths of frames that the device claims to have received.
pub const LENGTHS: [usize; 14] =
    [0, 1, 13, 14, 59, 60, 1514, 1515, 1518, 1519, 1791, 1792, 5000, 65_535];

/// The pieces in which it claims to have received a frame.
pub const SEGMENTS: [usize; 6] = [1, 2, 3, 4, 30, 100];

/// The backend `hostile`: one device.
#[derive(Debug, Clone, Copy)]
pub struct Hostile(pub Lie);

/// The device's address when it does not lie about it.
pub const OWN: MacAddr = MacAddr([2, 0xba, 0, 0, 0, 1]);

impl Backend for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        Vec::new()
    }

    fn lock_key(&self, device: &str, _: &Table) -> Result<Option<String>> {
        Ok(Some(format!("hostile/{}/{device}", std::process::id())))
    }

    fn open(&self, _: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        Ok(Box::new(*self))
    }
}

/// The frame that is received for a claim of that length.
pub fn frame(length: usize) -> Vec<u8> {
    let mut frame = frames::numbered(OWN, length as u32, length.max(18));
    frame.truncate(length);
    frame
}

fn in_pieces(pool: &Pool, count: usize) -> Option<Packet> {
    let frame = frame(100);
    let mut pieces = frame.chunks(frame.len().div_ceil(count));
    let mut packet = pool.packet(pieces.next()?)?;
    pieces.try_for_each(|piece| packet.append(pool.packet(piece)?).ok())?;
    Some(packet)
}

impl Hostile {
    fn claims(self) -> &'static [usize] {
        match self.0 {
            Lie::Lengths => &LENGTHS,
            Lie::Segments => &SEGMENTS,
            _ => &[],
        }
    }

    fn fails<T>(self, otherwise: T) -> Result<T> {
        match self.0 {
            Lie::Calls => {
                let reason = "its registers make no sense".into();
                Err(Error::Backend { device: "hostile".into(), reason })
            }
            _ => Ok(otherwise),
        }
    }
}

impl PortDriver for Hostile {
    fn capability(&self) -> Capability {
        let mut capability = Capability::new();
        capability.max_segments = 2;
        capability.deferred_tx = true;
        (capability.max_rx_queues, capability.max_tx_queues) = (2, 2);
        capability
    }

    fn mac(&self) -> MacAddr {
        if self.0 == Lie::Address { MacAddr::BROADCAST } else { OWN }
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let count = |asked: u16| if self.0 == Lie::Queues { asked - 1 } else { asked };
        let rx = |_| Box::new(HostileRx(*self, Vec::from(self.claims()))) as Box<dyn RxDriver>;
        let tx = |_| Box::new(HostileTx(*self, Vec::new())) as Box<dyn TxDriver>;
        Ok(DriverQueues {
            rx: (0..count(setup.rx_queues)).map(rx).collect(),
            tx: (0..count(setup.tx_queues)).map(tx).collect(),
        })
    }

    fn link(&mut self) -> Result<Link> {
        let speed = (self.0 == Lie::Link).then_some(u32::MAX);
        Ok(Link::new(true).with_speed(speed, None))
    }

    fn counters(&mut self) -> PortCounters {
        let mut all = PortCounters::default();
        if self.0 == Lie::Counters {
            let mut ones = Counters::default();
            let fields = [
                &mut ones.rx_no_buffer,
                &mut ones.rx_ring_full,
                &mut ones.rx_errors,
                &mut ones.rx_filtered,
                &mut ones.rx_too_long,
                &mut ones.rx_too_short,
                &mut ones.tx_dropped,
                &mut ones.tx_dropped_bytes,
                &mut ones.lost,
            ];
            fields.into_iter().for_each(|field| *field = Some(u64::MAX));
            (all.port, all.rx_queues, all.tx_queues) = (ones, vec![ones; 2], vec![ones; 2]);
        }
        all
    }
}

struct HostileRx(Hostile, Vec<usize>);

impl RxDriver for HostileRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        self.0.fails(())?;
        while !burst.is_full()
            && let Some(claim) = self.1.pop()
        {
            let packet = match self.0.0 {
                Lie::Segments => in_pieces(pool.pool(), claim),
                // As many segments as it takes.
                _ => pool.pool().packet(&frame(claim)),
            };
            if let Some(packet) = packet {
                let _ = burst.push(packet);
            }
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        (self.0.0 == Lie::Descriptor).then_some(RawFd::MAX)
    }
}

struct HostileTx(Hostile, Vec<Packet>);

impl TxDriver for HostileTx {
    fn send(&mut self, burst: &mut Burst, count: usize, _: &mut [PoolCache]) -> Result<()> {
        self.0.fails(())?;
        if self.0.0 != Lie::Room {
            self.1.extend(std::iter::from_fn(|| burst.pop_front()).take(count));
        }
        Ok(())
    }

    fn reclaim(&mut self, _: &mut [PoolCache]) -> Result<Outstanding> {
        self.0.fails(())?;
        match self.0.0 {
            Lie::Outstanding => Ok(Outstanding { packets: usize::MAX, bytes: u64::MAX }),
            _ => {
                self.1.clear();
                Ok(Outstanding::default())
            }
        }
    }
}
