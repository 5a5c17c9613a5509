//! Which frames of a pool are with the kernel, by which queue.
//!
//! A frame that was lent comes back once: in a receive descriptor, in a completion, or when the socket is gone. What comes back
//! and was never lent, or twice, is a broken kernel's (contract F8) and touches nothing.

use anyport::driver::Outstanding;
use anyport::packet::Packet;
use anyport::pool::{Pool, PoolCache};

/// The frames that one queue has lent to the kernel. Those that are still out when it is dropped stay out: the kernel may write to
/// them.
///
/// Invariant: `records[frame]` is not zero exactly if the frame was lent by [`lend`](Lent::lend) and has not come back; nobody
/// else owns such a frame.
pub(crate) struct Lent {
    pool: Pool,
    /// What is known of each frame: [`LENT`], [`FIRST`], and the length in bytes with which it was lent.
    records: Box<[u32]>,
    frames: usize,
    packets: usize,
    bytes: u64,
    shift: u32,
}

const LENT: u32 = 1 << 31;
/// It has a packet's first bytes, or all of them.
const FIRST: u32 = 1 << 30;

impl Lent {
    pub fn new(pool: &Pool) -> Lent {
        let shift = pool.frame_size().trailing_zeros();
        let records = vec![0; pool.capacity()].into_boxed_slice();
        Lent { pool: pool.clone(), records, frames: 0, packets: 0, bytes: 0, shift }
    }

    /// How many frames are with the kernel.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How many packets are with the kernel, and the bytes that they were lent with.
    pub fn outstanding(&self) -> Outstanding {
        Outstanding { packets: self.packets, bytes: self.bytes }
    }

    /// Lends a packet's frame; the address of its first byte in the pool's memory. `first` says that it is a packet, or its
    /// first segment.
    ///
    /// # Errors
    /// The packet, if it is a chain or of another pool.
    #[inline]
    pub fn lend(&mut self, packet: Packet, first: bool) -> Result<u64, Packet> {
        let region = self.pool.region();
        let (Some(address), length) = (region.offset_of(&packet), packet.len()) else {
            return Err(packet);
        };
        let frame = region.lend(packet)?;
        self.records[frame as usize] = LENT | if first { FIRST } else { 0 } | length as u32;
        self.frames += 1;
        self.packets += usize::from(first);
        self.bytes += length as u64;
        Ok(address as u64)
    }

    /// Takes a frame back with `length` bytes of data at an address; `None` if it is not lent, or the bytes are not within it.
    #[inline]
    pub fn take(&mut self, address: u64, length: usize) -> Option<Packet> {
        let frame = usize::try_from(address >> self.shift).ok()?;
        let offset = address as usize & ((1 << self.shift) - 1);
        if offset + length > 1 << self.shift {
            return None;
        }
        let record = std::mem::take(self.records.get_mut(frame)?);
        if record & LENT == 0 {
            return None;
        }
        self.frames -= 1;
        self.packets -= usize::from(record & FIRST != 0);
        self.bytes -= u64::from(record & !(LENT | FIRST));
        // SAFETY: it was lent, as the table says, and is taken back this once; the caller has it from the kernel, which is
        // done with it.
        unsafe { self.pool.region().take_back(frame as u32, offset, length) }
    }

    /// Gives a frame whose transmission is complete back to its pool; false if it is not lent.
    #[inline]
    pub fn complete(&mut self, address: u64, cache: &mut PoolCache) -> bool {
        let start = address & !((1 << self.shift) - 1);
        match self.take(start, 0) {
            Some(packet) => {
                cache.give(packet);
                true
            }
            None => false,
        }
    }

    /// Takes back everything; for when the kernel has let go of the memory.
    pub fn release(&mut self) {
        for frame in 0..self.records.len() {
            if self.records[frame] != 0 {
                drop(self.take((frame as u64) << self.shift, 0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::builder().frames(8).build().unwrap()
    }

    #[test]
    fn a_frame_comes_back_once_with_what_the_kernel_wrote() {
        let pool = pool();
        let mut lent = Lent::new(&pool);
        let packet = pool.packet(&[7; 100]).unwrap();
        let address = lent.lend(packet, true).unwrap();
        assert_eq!(lent.outstanding(), Outstanding { packets: 1, bytes: 100 });
        assert_eq!((lent.frames(), pool.free()), (1, 7));
        let back = lent.take(address, 60).unwrap();
        assert_eq!(back.data(), [7; 60]);
        assert!(lent.take(address, 60).is_none());
        assert_eq!((lent.frames(), lent.outstanding()), (0, Outstanding::default()));
        drop(back);
        assert_eq!(pool.free(), 8);
    }

    #[test]
    fn what_was_not_lent_does_not_come_back() {
        let pool = pool();
        let mut lent = Lent::new(&pool);
        let address = lent.lend(pool.take().unwrap(), true).unwrap();
        for (address, length) in [
            (address ^ 2048, 0),
            (8 * 2048, 0),
            (u64::MAX, 0),
            (address, 2048),
            (address, usize::MAX / 2),
        ] {
            assert!(lent.take(address, length).is_none(), "{address} {length}");
        }
        assert_eq!(lent.frames(), 1);
        let other = Pool::builder().frames(1).build().unwrap();
        assert!(lent.lend(other.take().unwrap(), true).is_err());
        let chain = pool.packet(&[1; 3000]).unwrap();
        assert!(lent.lend(chain, true).is_err());
        lent.release();
        assert_eq!((lent.frames(), pool.free()), (0, 8));
    }
}
