//! Packets to the socket, many with one system call.
//!
//! The kernel copies a frame within the call, so a packet that was taken is spent. If a queue on the way, the interface's
//! queueing discipline or a veth's backlog, has no room and drops it, the call says so at once: then the packet was not taken,
//! the caller still has it, and nothing is lost.
//!
//! Traps:
//! - The kernel says the same of a frame that it will never pass: longer than the MTU at a veth's other end, or refused by a
//!   program or a policy on the way. Such a frame would stand in the way of all behind it for ever. So when the kernel has
//!   refused one for a while, try after try, it is asked whether frames stand in the interface's queue and whether that turns
//!   any away. A queue that does is full, however long it takes (a shaper may pass a frame a minute): the frame waits. Else
//!   it is taken, and counted as dropped by the kernel (contract S1), as it would be lost on a wire; the next one waits as
//!   long. Only when a shorter frame has passed since is it known that the length was the reason: then those as long or
//!   longer wait no more.
//! - A queueing discipline that drops a frame later, or another one in its place (fair queueing, RED), tells nobody, and the
//!   interface's own counter of drops counts other senders' frames, too. Those are counted as sent.
//! - So does the kernel once it has noticed that the carrier is gone: until it is back, it takes every frame and drops it
//!   (`noop_qdisc`, whose answer is that of a congestion, which is no error). Only not sending helps, so the carrier has to be
//!   known: where the flags tell it late, the device is asked (contract T8). Before the kernel has noticed, a veth refuses;
//!   what piled up behind that must not be sent into nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyport::driver::{Outstanding, TxDriver};
use anyport::time::coarse_ms;
use anyport::{Burst, Error, Packet, PoolCache, Result};
use anyport_netdev::error::explain;
use anyport_netdev::{Ask, Queueing};

use super::socket::Socket;
use crate::batch::{BATCH, Batch};

/// How long the kernel may refuse the burst's first frame before it is asked why.
const REFUSED_MS: u64 = 100;

/// So many tries in that time, none of them long after the one before: an application that hardly tries is no proof.
const REFUSALS: u32 = 16;
const APART_MS: u64 = 50;

/// A stretch of refusals with nothing taken in between.
#[derive(Clone, Copy)]
struct Refused {
    since: u64,
    last: u64,
    times: u32,
}

pub(super) struct LiveTx {
    socket: Arc<Socket>,
    batch: Batch,
    refused: Option<Refused>,
    /// The length of the frame that was given up last, until it is known whether shorter ones pass.
    suspect: Option<usize>,
    queueing: Queueing,
    /// What the queue had turned away when it was last asked.
    turned_away: Option<u32>,
    /// The kernel passes no frames of this length or more.
    hopeless: Option<usize>,
    /// What was last found.
    link_up: bool,
}

impl LiveTx {
    pub fn new(socket: Arc<Socket>, queueing: Queueing) -> LiveTx {
        LiveTx {
            socket,
            batch: Batch::new(),
            refused: None,
            suspect: None,
            queueing,
            turned_away: None,
            hopeless: None,
            link_up: false,
        }
    }

    /// Whether a frame that the kernel dropped is to be given up.
    #[cold]
    fn is_hopeless(&mut self, length: usize) -> bool {
        if self.hopeless.is_some_and(|least| length >= least) {
            return true;
        }
        let now = coarse_ms();
        let fresh = Refused { since: now, last: now, times: 0 };
        let before = self.refused.filter(|refused| now <= refused.last + APART_MS);
        let Refused { since, times, .. } = before.unwrap_or(fresh);
        self.refused = Some(Refused { since, last: now, times: times + 1 });
        if now < since + REFUSED_MS || times < REFUSALS {
            return false;
        }
        // If it is only full, it has as much time again.
        self.refused = None;
        let hopeless = !self.is_queue_full();
        if hopeless {
            self.suspect = Some(length);
        }
        hopeless
    }

    /// Whether it is the interface's queue that has been refusing: frames stand there, and it has turned frames away since it
    /// was last asked. (If it has not, others' frames stand there, and ours do not get that far.)
    fn is_queue_full(&mut self) -> bool {
        match self.queueing.look() {
            Ok(now) => {
                let before = self.turned_away.replace(now.dropped);
                now.waiting && before != Some(now.dropped)
            }
            // The kernel has no time or memory for an answer now.
            Err(error) => matches!(
                error.raw_os_error(),
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR)
            ),
        }
    }

    /// Notes that the kernel took a frame.
    fn passed(&mut self, length: usize) {
        self.refused = None;
        if self.hopeless.is_some_and(|least| length >= least) {
            self.hopeless = None;
        }
        if let Some(suspect) = self.suspect.take().filter(|suspect| length < *suspect) {
            self.hopeless = Some(suspect);
        }
    }

    /// Why not even the burst's first frame was taken; no error if there is just no room now.
    #[cold]
    fn refused(&self, length: usize, error: std::io::Error) -> Result<()> {
        match error.raw_os_error() {
            // Full, or dropped on the way.
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Ok(()),
            // Gone, or only down.
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => self.socket.check_there(),
            // Somebody made the interface's MTU smaller.
            Some(libc::EMSGSIZE) => {
                Err(Error::FrameTooLong { length, max: self.socket.frame_limit() })
            }
            _ => Err(explain(&self.socket.title, "sending", error)),
        }
    }
}

/// A spent packet goes to its pool's cache.
fn give_back(packet: Packet, pools: &mut [PoolCache]) {
    match pools.iter_mut().find(|cache| cache.pool().id() == packet.pool_id()) {
        Some(cache) => cache.give(packet),
        None => drop(packet),
    }
}

impl TxDriver for LiveTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        let Some(fd) = self.socket.fd() else { return Ok(()) };
        let mut left = count;
        while left > 0 {
            let asked = left.min(BATCH);
            let sent = match self.batch.send(fd, burst, asked) {
                Ok(sent) => {
                    for _ in 0..sent {
                        let Some(packet) = burst.pop_front() else { break };
                        self.passed(packet.len());
                        give_back(packet, pools);
                    }
                    sent
                }
                Err(error) => {
                    let length = burst[0].len();
                    if error.raw_os_error() == Some(libc::ENOBUFS) && self.is_hopeless(length) {
                        self.socket.counts.tx_dropped.fetch_add(1, Ordering::Relaxed);
                        self.socket
                            .counts
                            .tx_dropped_bytes
                            .fetch_add(length as u64, Ordering::Relaxed);
                        if let Some(packet) = burst.pop_front() {
                            give_back(packet, pools);
                        }
                        left -= 1;
                        continue;
                    }
                    // What was taken before counts; the next call meets the error again.
                    return if left < count { Ok(()) } else { self.refused(length, error) };
                }
            };
            left -= sent;
            if sent < asked {
                // A full queue: the next call tries again.
                break;
            }
        }
        Ok(())
    }

    fn reclaim(&mut self, _: &mut [PoolCache]) -> Result<Outstanding> {
        Ok(Outstanding::default())
    }

    fn link_up(&mut self) -> Result<bool> {
        // After a loss also where the flags are prompt: they say that the link is back just before the queue takes frames
        // again, and the device's answer comes after that.
        let ask = if self.link_up { Ask::IfLate } else { Ask::Always };
        let up = self.socket.link_up(ask)?;
        if std::mem::replace(&mut self.link_up, up) != up {
            // What was refused until now was refused for that.
            self.refused = None;
        }
        Ok(up)
    }
}
