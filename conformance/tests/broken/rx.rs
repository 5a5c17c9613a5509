//! A receive queue with the fault.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyport::driver::RxDriver;
use anyport::packet::{ChecksumStatus, Timestamp};
use anyport::wait::EventFd;
use anyport::{Burst, Error, Pool, PoolCache, Result};

use super::Fault;
use super::backend::{Shared, lock};

pub struct BrokenRx {
    pub inner: Box<dyn RxDriver>,
    pub shared: Arc<Shared>,
    pub queue: usize,
    pub queues: usize,
    /// Nothing comes any more.
    pub dead: bool,
    /// Nothing was asked for yet.
    pub fresh: bool,
    pub seen: usize,
    pub looks: u32,
    /// Is never readable.
    pub never: EventFd,
    pub pool: Pool,
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
