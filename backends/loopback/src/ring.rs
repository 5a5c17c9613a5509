//! A bounded ring of packets: what a receive queue holds until `recv` fetches it.
//!
//! Invariant: the `len` slots from `head` on (round the end) are initialised, all others are not. Whole bursts are
//! moved by copying handles; a ring that is dropped drops its packets.

use std::mem::MaybeUninit;

use anyport::{Burst, Packet};

pub(crate) struct Ring {
    slots: Box<[MaybeUninit<Packet>]>,
    head: usize,
    len: usize,
}

impl Ring {
    /// A ring for `capacity` packets.
    pub fn new(capacity: usize) -> Ring {
        Ring { slots: Box::new_uninit_slice(capacity.max(1)), head: 0, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn room(&self) -> usize {
        self.slots.len() - self.len
    }

    /// Where the next packet goes, and how many slots there are up to the end of the array or the ring's room.
    fn free_span(&self) -> (usize, usize) {
        let tail = (self.head + self.len) % self.slots.len();
        (tail, self.room().min(self.slots.len() - tail))
    }

    /// Takes up to `count` packets from the front of a burst, as many as there is room; how many.
    #[inline]
    pub fn push_from(&mut self, burst: &mut Burst, count: usize) -> usize {
        let mut pushed = 0;
        // Twice at most: up to the end of the array, and on from its beginning.
        for _ in 0..2 {
            let (tail, span) = self.free_span();
            let want = span.min(count - pushed);
            if want == 0 {
                break;
            }
            let moved = burst.move_front(want, &mut self.slots[tail..tail + want]);
            self.len += moved;
            pushed += moved;
        }
        pushed
    }

    /// Adds one packet.
    ///
    /// # Errors
    /// The packet itself if the ring is full.
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        let (tail, span) = self.free_span();
        if span == 0 {
            return Err(packet);
        }
        self.slots[tail].write(packet);
        self.len += 1;
        Ok(())
    }

    /// Moves packets to the end of a burst, as many as it has room for.
    #[inline]
    pub fn pop_into(&mut self, burst: &mut Burst) {
        for _ in 0..2 {
            let span = self.len.min(self.slots.len() - self.head);
            if span == 0 || burst.is_full() {
                break;
            }
            // SAFETY: the first `len` slots from `head` on are initialised; the lines below take what was moved out.
            let moved = unsafe { burst.extend_from(&self.slots[self.head..self.head + span]) };
            self.head = (self.head + moved) % self.slots.len();
            self.len -= moved;
        }
    }

    /// Takes the first packet.
    pub fn pop(&mut self) -> Option<Packet> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: the first of `len` initialised slots; it leaves the range with the lines below.
        let packet = unsafe { self.slots[self.head].assume_init_read() };
        self.head = (self.head + 1) % self.slots.len();
        self.len -= 1;
        Some(packet)
    }

    pub fn clear(&mut self) {
        while self.pop().is_some() {}
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use anyport::Pool;

    use super::*;

    #[test]
    fn it_is_a_bounded_queue_and_loses_nothing() {
        let pool = Pool::builder().frames(256).frame_size(512).build().unwrap();
        let mut ring = Ring::new(7);
        let mut model: VecDeque<u32> = VecDeque::new();
        let mut number = 0u32;
        let mut burst = Burst::with_capacity(16);
        for step in 0..2000usize {
            match step * 7919 % 5 {
                0 | 1 => {
                    let want = step % 9;
                    for _ in 0..want {
                        burst.push(pool.packet(&number.to_le_bytes()).unwrap()).unwrap();
                        number += 1;
                    }
                    let room = 7 - model.len();
                    assert_eq!(ring.push_from(&mut burst, want), want.min(room));
                    let first = number - want as u32;
                    model.extend(first..first + want.min(room) as u32);
                    burst.clear();
                }
                2 => {
                    let packet = pool.packet(&number.to_le_bytes()).unwrap();
                    assert_eq!(ring.push(packet).is_ok(), model.len() < 7);
                    if model.len() < 7 {
                        model.push_back(number);
                    }
                    number += 1;
                }
                3 => {
                    let mut small = Burst::with_capacity(step % 4 + 1);
                    ring.pop_into(&mut small);
                    assert_eq!(small.len(), model.len().min(step % 4 + 1));
                    for packet in &small {
                        assert_eq!(packet.data(), model.pop_front().unwrap().to_le_bytes());
                    }
                }
                _ => {
                    let packet = ring.pop();
                    assert_eq!(packet.is_some(), !model.is_empty());
                    if let Some(packet) = packet {
                        assert_eq!(packet.data(), model.pop_front().unwrap().to_le_bytes());
                    }
                }
            }
            assert_eq!((ring.len(), pool.free()), (model.len(), 256 - model.len()));
        }
        drop(ring);
        assert_eq!(pool.free(), 256);
    }
}
