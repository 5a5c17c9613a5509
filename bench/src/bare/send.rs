//! Sends the same frames for ever.
//!
//! The frames are written once. In copy mode the kernel has copied a frame when its system call returns, so a frame may be
//! in the transmit ring several times.

use anyhow::Result;

use super::memory::SIZE;
use super::{FRAME, Memory, Port, Tuning, frame};

/// A sender.
#[derive(Debug)]
pub struct Sender {
    port: Port,
    // Dropped after the socket.
    _memory: Memory,
    batch: u32,
    frames: u32,
    /// The next frame in rotation.
    next: u32,
}

impl Sender {
    /// A sender that hands over `batch` frames at once, of `frames` different ones (a power of two).
    ///
    /// # Errors
    /// As [`Port::open`].
    pub fn new(interface: &str, batch: u32, frames: u32, tuning: &Tuning) -> Result<Sender> {
        assert!(frames.is_power_of_two());
        let memory = Memory::new(frames as usize)?;
        (0..frames as usize).for_each(|number| memory.write(number, &frame()));
        let port = Port::open(interface, &memory, tuning)?;
        Ok(Sender { port, _memory: memory, batch, frames, next: 0 })
    }

    /// Sends a batch, if there is room; how many frames were given to the kernel.
    #[inline]
    pub fn step(&mut self) -> u32 {
        let (port, batch) = (&mut self.port, self.batch);
        let fits = port.tx.fits(batch);
        if fits {
            for _ in 0..batch {
                let addr = u64::from(self.next) * SIZE as u64;
                port.tx.push(libc::xdp_desc { addr, len: FRAME as u32, options: 0 });
                self.next = (self.next + 1) & (self.frames - 1);
            }
            port.tx.publish();
        }
        port.kick();
        let done = port.completion.ready();
        if done > 0 {
            port.completion.skip(done);
            port.completion.release();
        }
        if fits { batch } else { 0 }
    }
}
