//! A transmit queue with the fault.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyport::driver::{Outstanding, TxDriver};
use anyport::packet::TxRequests;
use anyport::queue::TxTimestamp;
use anyport::{Burst, Error, Packet, PoolCache, Result};

use super::Fault;
use super::backend::{Shared, lock};

pub struct BrokenTx {
    pub inner: Box<dyn TxDriver>,
    pub shared: Arc<Shared>,
    pub seen: usize,
    /// It was full once.
    pub full: bool,
    pub late: Burst,
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
