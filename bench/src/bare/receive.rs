//! Receives and counts.

use anyhow::Result;

use super::memory::SIZE;
use super::socket::{FILL_RING, wait};
use super::{Memory, Port, Tuning};

/// What to do when no frame is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Look again.
    Spin,
    /// Sleep in `poll`.
    Sleep,
    /// Look after a system call that lets the kernel poll the device.
    BusyPoll,
}

/// A receiver.
#[derive(Debug)]
pub struct Receiver {
    port: Port,
    // Dropped after the socket.
    _memory: Memory,
    batch: u32,
    idle: Idle,
}

impl Receiver {
    /// A receiver that takes at most `batch` frames at once.
    ///
    /// # Errors
    /// As [`Port::open`] and [`Port::receive`].
    pub fn new(interface: &str, batch: u32, idle: Idle, tuning: &Tuning) -> Result<Receiver> {
        let frames = FILL_RING as usize;
        let memory = Memory::new(frames)?;
        let mut port = Port::open(interface, &memory, tuning)?;
        port.receive(0..frames)?;
        Ok(Receiver { port, _memory: memory, batch, idle })
    }

    /// Takes what is there, up to a batch; how many frames it was.
    #[inline]
    pub fn step(&mut self) -> u32 {
        let port = &mut self.port;
        let count = port.rx.ready().min(self.batch);
        if count == 0 {
            match self.idle {
                Idle::Spin => std::hint::spin_loop(),
                Idle::Sleep => wait([&*port]),
                Idle::BusyPoll => port.kick_rx(),
            }
            return 0;
        }
        // The ring has a place for each frame.
        for _ in 0..count {
            port.fill.push(port.rx.pop().addr & !(SIZE as u64 - 1));
        }
        port.rx.release();
        port.fill.publish();
        count
    }
}
