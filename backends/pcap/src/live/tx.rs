//! Packets to the socket, many with one system call.
//!
//! The kernel copies a frame within the call, so a packet that was taken is spent. It goes by the interface's queueing
//! discipline, which says at once if it drops it (contract S1): then it was not taken, and the caller still has it.
//!
//! Trap: a queueing discipline that drops a frame later, or another one in its place (fair queueing, RED), tells nobody, and
//! the interface's own counter of drops counts other senders' frames, too. Those are counted as sent.

use std::sync::Arc;

use anyport::driver::{Outstanding, TxDriver};
use anyport::{Burst, Error, PoolCache, Result};
use anyport_netdev::error::explain;

use super::socket::Socket;
use crate::batch::{BATCH, Batch};

pub(super) struct LiveTx {
    socket: Arc<Socket>,
    batch: Batch,
}

impl LiveTx {
    pub fn new(socket: Arc<Socket>) -> LiveTx {
        LiveTx { socket, batch: Batch::new() }
    }

    /// Why not even the burst's first frame was taken; no error if there is just no room now.
    #[cold]
    fn refused(&self, length: usize, error: std::io::Error) -> Result<()> {
        match error.raw_os_error() {
            // Full, or the queueing discipline dropped it.
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

impl TxDriver for LiveTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        let Some(fd) = self.socket.fd() else { return Ok(()) };
        let mut left = count;
        while left > 0 {
            let sent = match self.batch.send(fd, burst, left) {
                Ok(sent) => sent,
                // What was taken before counts; the next call meets the error again.
                Err(_) if left < count => return Ok(()),
                Err(error) => return self.refused(burst[0].len(), error),
            };
            for _ in 0..sent {
                let Some(packet) = burst.pop_front() else { break };
                match pools.iter_mut().find(|cache| cache.pool().id() == packet.pool_id()) {
                    Some(cache) => cache.give(packet),
                    None => drop(packet),
                }
            }
            let asked = left.min(BATCH);
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
        self.socket.link_up(true)
    }
}
