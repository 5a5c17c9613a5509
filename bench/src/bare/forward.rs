//! Forwards between two interfaces, both ways, without a copy of its own: both sockets have the same memory.
//!
//! Each direction has frames of its own, which go round: fill ring, receive ring, the other interface's transmit and
//! completion ring, fill ring.

use anyhow::Result;

use super::memory::SIZE;
use super::receive::Idle;
use super::socket::{FILL_RING, wait};
use super::{Memory, Port, Tuning};

/// A forwarder.
#[derive(Debug)]
pub struct Forwarder {
    ports: [Port; 2],
    // Dropped after the sockets.
    _memory: Memory,
    batch: u32,
    idle: Idle,
}

impl Forwarder {
    /// A forwarder that takes at most `batch` frames at once.
    ///
    /// # Errors
    /// As [`Port::open`] and [`Port::receive`].
    pub fn new(
        interfaces: [&str; 2],
        batch: u32,
        idle: Idle,
        tuning: &Tuning,
    ) -> Result<Forwarder> {
        let each = FILL_RING as usize;
        let memory = Memory::new(2 * each)?;
        let mut ports = [
            Port::open(interfaces[0], &memory, tuning)?,
            Port::open(interfaces[1], &memory, tuning)?,
        ];
        for (number, port) in ports.iter_mut().enumerate() {
            port.receive(number * each..(number + 1) * each)?;
        }
        Ok(Forwarder { ports, _memory: memory, batch, idle })
    }

    /// Forwards up to a batch each way; how many frames it was.
    #[inline]
    pub fn step(&mut self) -> u32 {
        let [one, other] = &mut self.ports;
        let count = pass(one, other, self.batch) + pass(other, one, self.batch);
        if count == 0 {
            match self.idle {
                Idle::Spin => std::hint::spin_loop(),
                Idle::Sleep => wait([&*one, &*other]),
                Idle::BusyPoll => [&*one, &*other].into_iter().for_each(Port::kick_rx),
            }
        }
        count
    }
}

/// One direction.
#[inline]
fn pass(from: &mut Port, to: &mut Port, batch: u32) -> u32 {
    let done = to.completion.ready();
    if done > 0 {
        for _ in 0..done {
            from.fill.push(to.completion.pop() & !(SIZE as u64 - 1));
        }
        to.completion.release();
        from.fill.publish();
    }
    let count = from.rx.ready().min(batch);
    if count == 0 {
        return 0;
    }
    if !to.tx.fits(count) {
        // Sent by an earlier call only in part.
        to.kick();
        return 0;
    }
    for _ in 0..count {
        let frame = from.rx.pop();
        to.tx.push(libc::xdp_desc { options: 0, ..frame });
    }
    from.rx.release();
    to.tx.publish();
    to.kick();
    count
}
