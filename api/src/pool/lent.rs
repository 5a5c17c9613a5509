//! Which frames of a pool are with a device, for drivers: one table per queue.
//!
//! A frame that was lent comes back once: with what the device received into it, when it was sent, or when the device has let go
//! of everything. What comes back and was never lent, or twice, or with bytes outside its frame, is a broken device's
//! (contract F8) and touches nothing.
//!
//! Frames move in runs here, without a packet in between where none is needed: this is where a backend spends its time.

use super::{Pool, PoolCache};
use crate::burst::Burst;
use crate::driver::Outstanding;
use crate::packet::Packet;

/// The frames that one queue has lent to its device. Those that are still out when it is dropped stay out for ever: the device may
/// write to them.
///
/// Invariant: `records[frame]` has `LENT` exactly if the frame was lent and has not come back; nobody else owns such a frame.
///
/// Addresses are bytes from the beginning of the pool's memory ([`PoolRegion::base`](super::PoolRegion::base)).
///
/// ```
/// use anyport::Pool;
/// use anyport::pool::Lent;
///
/// let pool = Pool::builder().frames(8).build().unwrap();
/// let mut lent = Lent::new(&pool);
/// let address = lent.lend(pool.packet(b"to be sent").unwrap(), true).unwrap();
/// assert_eq!((lent.frames(), pool.free()), (1, 7));
/// // SAFETY: there is no device that could still use it.
/// let packet = unsafe { lent.take(address, 5) }.unwrap();
/// assert_eq!(packet.data(), b"to be");
/// // SAFETY: as above.
/// assert!(unsafe { lent.take(address, 5) }.is_none(), "it comes back once");
/// ```
pub struct Lent {
    /// It keeps the memory.
    _pool: Pool,
    /// What is known of each frame: `LENT`, `FIRST`, and the bytes with which it was lent.
    records: Box<[u32]>,
    frames: usize,
    packets: usize,
    bytes: u64,
    /// The pool's number and the size of its frames again.
    id: u16,
    shift: u32,
}

const LENT: u32 = 1 << 31;
/// It has a packet's first bytes, or all of them.
const FIRST: u32 = 1 << 30;
/// How many completions are to come before its last one, in units of this.
const PART: u32 = 1 << 20;
const PARTS: u32 = FIRST - PART;
const BYTES: u32 = PART - 1;

impl Lent {
    /// A table for frames of that pool; none is lent yet.
    pub fn new(pool: &Pool) -> Lent {
        let records = vec![0; pool.capacity()].into_boxed_slice();
        let (id, shift) = (pool.id(), pool.shared().shift);
        Lent { _pool: pool.clone(), records, frames: 0, packets: 0, bytes: 0, id, shift }
    }

    /// How many frames are with the device.
    #[inline]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How many packets are with the device, and the bytes that they were lent with.
    pub fn outstanding(&self) -> Outstanding {
        Outstanding { packets: self.packets, bytes: self.bytes }
    }

    /// Lends a packet's frame; the address of its first byte. `first` says that it is a packet, or its first segment.
    ///
    /// # Errors
    /// The packet, if it is a chain or of another pool.
    pub fn lend(&mut self, packet: Packet, first: bool) -> Result<u64, Packet> {
        if packet.pool_id() != self.id || packet.is_chain() {
            return Err(packet);
        }
        let (frame, length) = (packet.frame_index(), packet.len());
        let address = (u64::from(frame) << self.shift) + packet.headroom() as u64;
        let Some(record) = self.records.get_mut(frame as usize) else { return Err(packet) };
        *record = LENT | if first { FIRST } else { 0 } | length as u32;
        self.frames += 1;
        self.packets += usize::from(first);
        self.bytes += length as u64;
        std::mem::forget(packet);
        Ok(address)
    }

    /// Lends a packet's frame in several parts, each of which will be completed: for devices that do not take it in one. `parts` is
    /// their number, 1 to 512.
    ///
    /// # Errors
    /// The packet, if it is a chain or of another pool, or the number is out of range.
    pub fn lend_in_parts(
        &mut self,
        packet: Packet,
        first: bool,
        parts: usize,
    ) -> Result<u64, Packet> {
        let Some(more) = parts.checked_sub(1).filter(|more| *more < 512) else {
            return Err(packet);
        };
        let frame = packet.frame_index();
        let address = self.lend(packet, first)?;
        self.records[frame as usize] |= more as u32 * PART;
        Ok(address)
    }

    /// Lends packets from the front of a burst, up to `count`, as long as they are of this pool and in one piece; how many. `each`
    /// is told the address of the first byte, and the length; if it panics, those frames are lost.
    #[inline]
    pub fn lend_front(
        &mut self,
        burst: &mut Burst,
        count: usize,
        mut each: impl FnMut(u64, u32),
    ) -> usize {
        let (id, shift) = (self.id, self.shift);
        let records = &mut *self.records;
        let mut bytes = 0;
        let lend = |packet: &Packet| {
            let frame = packet.frame_index();
            let Some(record) = records.get_mut(frame as usize) else { return false };
            if packet.pool_id() != id || packet.is_chain() {
                return false;
            }
            let length = packet.first_len();
            let address = (u64::from(frame) << shift) + packet.headroom() as u64;
            *record = LENT | FIRST | length;
            bytes += u64::from(length);
            each(address, length);
            true
        };
        // SAFETY: the table owns the frames of those that leave the burst.
        let lent = unsafe { burst.forget_front_while(count, lend) };
        self.frames += lent;
        self.packets += lent;
        self.bytes += bytes;
        lent
    }

    /// Lends empty frames from a cache of the pool, up to `count`; how many. `each` is told the address of a frame's beginning.
    #[inline]
    pub fn lend_empty(
        &mut self,
        cache: &mut PoolCache,
        count: usize,
        mut each: impl FnMut(u64),
    ) -> usize {
        if cache.pool().id() != self.id {
            return 0;
        }
        let shift = self.shift;
        let records = &mut self.records;
        let lent = cache.take_frames(count, |frame| {
            // A frame of the pool has its place.
            if let Some(record) = records.get_mut(frame as usize) {
                *record = LENT | FIRST;
            }
            each(u64::from(frame) << shift);
        });
        self.frames += lent;
        self.packets += lent;
        lent
    }

    /// Notes that frames come back.
    #[inline]
    fn returning(&mut self) -> Returning<'_> {
        let (frames, packets, bytes, was_part) = (0, 0, 0, false);
        let totals = (&mut self.frames, &mut self.packets, &mut self.bytes);
        let (records, shift) = (&mut *self.records, self.shift);
        Returning { records, shift, frames, packets, bytes, was_part, totals }
    }

    /// Takes a frame back with `length` bytes of data at an address, metadata fresh; `None` if it is not lent, or the bytes are not
    /// within it.
    ///
    /// # Safety
    /// The device no longer touches the frame, if it was lent.
    #[inline]
    pub unsafe fn take(&mut self, address: u64, length: usize) -> Option<Packet> {
        let id = self.id;
        // SAFETY: the caller vouches for it.
        unsafe { self.returning().packet(id, address, length) }
    }

    /// Takes frames back as [`take`](Lent::take) does, behind the packets of a burst, up to `count` and as many as it has room for,
    /// as long as `next` has addresses and lengths; `Err` with the first that is none of this table's.
    ///
    /// # Safety
    /// As [`take`](Lent::take), for every address.
    #[inline]
    pub unsafe fn take_into(
        &mut self,
        burst: &mut Burst,
        count: usize,
        mut next: impl FnMut() -> Option<(u64, usize)>,
    ) -> Result<usize, u64> {
        let mut foreign = None;
        let id = self.id;
        let mut returning = self.returning();
        let taken = burst.extend_with(count, || {
            let (address, length) = next()?;
            // SAFETY: the caller vouches for it.
            let packet = unsafe { returning.packet(id, address, length) };
            if packet.is_none() {
                foreign = Some(address);
            }
            packet
        });
        foreign.map_or(Ok(taken), Err)
    }

    /// Gives frames back to their pool whose transmission is complete; `false` if there were some that are none of this table's. An
    /// address may be anywhere in a frame.
    ///
    /// # Safety
    /// The device no longer touches those frames that were lent.
    #[inline]
    pub unsafe fn complete(
        &mut self,
        cache: &mut PoolCache,
        mut next: impl FnMut() -> Option<u64>,
    ) -> bool {
        let mut known = true;
        if cache.pool().id() != self.id {
            // What is not completed stays lent.
            return false;
        }
        let mut returning = self.returning();
        cache.give_frames(|| {
            loop {
                match returning.frame(next()?) {
                    Some(frame) => return Some(frame),
                    None => known &= returning.was_part,
                }
            }
        });
        known
    }

    /// Takes back everything.
    ///
    /// # Safety
    /// The device has let go of the pool's memory.
    pub unsafe fn release(&mut self) {
        for frame in 0..self.records.len() {
            if self.records[frame] & LENT != 0 {
                self.records[frame] &= !PARTS;
                // SAFETY: the caller vouches for it.
                drop(unsafe { self.take((frame as u64) << self.shift, 0) });
            }
        }
    }
}

/// Frames that come back to a table; the totals are brought up to date when it is dropped.
struct Returning<'a> {
    records: &'a mut [u32],
    shift: u32,
    frames: usize,
    packets: u32,
    bytes: u64,
    /// What did not give a frame back last was one of its parts.
    was_part: bool,
    totals: (&'a mut usize, &'a mut usize, &'a mut u64),
}

impl Returning<'_> {
    /// The frame that an address is in, if it was lent: it is not any more.
    #[inline(always)]
    fn frame(&mut self, address: u64) -> Option<u32> {
        let frame = address >> self.shift;
        let record = self.records.get_mut(usize::try_from(frame).ok()?)?;
        let known = *record;
        if known & (LENT | PARTS) != LENT {
            return self.part(frame as usize);
        }
        *record = 0;
        self.frames += 1;
        self.packets += (known / FIRST) & 1;
        self.bytes += u64::from(known & BYTES);
        Some(frame as u32)
    }

    /// Notes that one of several parts of a frame has come back, if it was lent.
    #[cold]
    fn part(&mut self, frame: usize) -> Option<u32> {
        let record = &mut self.records[frame];
        self.was_part = *record & LENT != 0;
        if self.was_part {
            *record -= PART;
        }
        None
    }

    /// That frame as a packet of pool `id`, with these bytes.
    ///
    /// # Safety
    /// The device no longer touches the frame, if it was lent.
    #[inline(always)]
    unsafe fn packet(&mut self, id: u16, address: u64, length: usize) -> Option<Packet> {
        let size = 1usize << self.shift;
        let offset = address as usize & (size - 1);
        if length > size - offset {
            return None;
        }
        let mut packet = Packet::fresh(id, self.frame(address)?, offset as u16);
        packet.set_range(offset as u16, length as u16);
        Some(packet)
    }
}

impl Drop for Returning<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.totals.0 -= self.frames;
        *self.totals.1 -= self.packets as usize;
        *self.totals.2 -= self.bytes;
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").field("pool", &self.id).field("frames", &self.frames).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(frames: u32) -> Pool {
        Pool::builder().frames(frames).build().unwrap()
    }

    /// There is no device.
    fn take(lent: &mut Lent, address: u64, length: usize) -> Option<Packet> {
        // SAFETY: nobody touches the frames.
        unsafe { lent.take(address, length) }
    }

    fn complete(lent: &mut Lent, cache: &mut PoolCache, addresses: &[u64]) -> bool {
        let mut addresses = addresses.iter().copied();
        // SAFETY: nobody touches the frames.
        unsafe { lent.complete(cache, || addresses.next()) }
    }

    #[test]
    fn a_frame_comes_back_once_with_what_the_device_wrote() {
        let pool = pool(8);
        let mut lent = Lent::new(&pool);
        let packet = pool.packet(&[7; 100]).unwrap();
        let address = lent.lend(packet, true).unwrap();
        assert_eq!(lent.outstanding(), Outstanding { packets: 1, bytes: 100 });
        assert_eq!((lent.frames(), pool.free()), (1, 7));
        let back = take(&mut lent, address, 60).unwrap();
        assert_eq!(back.data(), [7; 60]);
        assert!(take(&mut lent, address, 60).is_none());
        assert_eq!((lent.frames(), lent.outstanding()), (0, Outstanding::default()));
        drop(back);
        assert_eq!(pool.free(), 8);
    }

    #[test]
    fn what_was_not_lent_does_not_come_back() {
        let pool = pool(8);
        let mut lent = Lent::new(&pool);
        let address = lent.lend(pool.take().unwrap(), true).unwrap();
        for (address, length) in [
            (address ^ 2048, 0),
            (8 * 2048, 0),
            (u64::MAX, 0),
            (address, 2048),
            (address, usize::MAX),
        ] {
            assert!(take(&mut lent, address, length).is_none(), "{address} {length}");
        }
        assert_eq!(lent.frames(), 1);
        let mut cache = pool.cache(4);
        assert!(!complete(&mut lent, &mut cache, &[address ^ 2048, u64::MAX]));
        assert_eq!(lent.frames(), 1);
        let other = Pool::builder().frames(1).build().unwrap();
        assert!(lent.lend(other.take().unwrap(), true).is_err());
        assert!(!complete(&mut lent, &mut other.cache(1), &[address]));
        let chain = pool.packet(&[1; 3000]).unwrap();
        assert!(lent.lend(chain, true).is_err());
        // SAFETY: there is no device.
        unsafe { lent.release() };
        drop(cache);
        assert_eq!((lent.frames(), pool.free()), (0, 8));
    }

    #[test]
    fn runs_are_the_same_as_one_by_one() {
        for cached in [0, 1, 5, 64] {
            let pool = pool(64);
            let other = Pool::builder().frames(4).build().unwrap();
            let (mut lent, mut cache) = (Lent::new(&pool), pool.cache(cached));
            let mut burst = Burst::with_capacity(16);
            for length in 1..=10usize {
                let bytes = vec![length as u8; length];
                let from = if length == 8 { &other } else { &pool };
                burst.push(from.packet(&bytes).unwrap()).unwrap();
            }
            let mut seen = Vec::new();
            let count =
                lent.lend_front(&mut burst, 3, |address, length| seen.push((address, length)));
            assert_eq!((count, burst.len(), burst[0].len()), (3, 7, 4));
            // The eighth packet is another pool's.
            let count =
                lent.lend_front(&mut burst, 9, |address, length| seen.push((address, length)));
            assert_eq!((count, burst.len(), burst[0].len()), (4, 3, 8));
            assert_eq!(lent.outstanding(), Outstanding { packets: 7, bytes: 28 });
            assert_eq!(
                seen.iter().map(|(_, length)| *length).collect::<Vec<_>>(),
                [1, 2, 3, 4, 5, 6, 7]
            );
            let addresses: Vec<u64> = seen.iter().map(|(address, _)| *address).collect();
            assert!(complete(&mut lent, &mut cache, &addresses[..5]));
            assert!(!complete(&mut lent, &mut cache, &[addresses[0], addresses[5]]));
            assert_eq!((lent.frames(), lent.outstanding().bytes), (1, 7));
            // 2 in the burst, 1 lent: those in the cache are free.
            assert_eq!(pool.free(), 61);

            let mut empty = Vec::new();
            assert_eq!(lent.lend_empty(&mut cache, 20, |address| empty.push(address)), 20);
            assert!(empty.iter().all(|address| address.is_multiple_of(2048)));
            let mut back = Burst::with_capacity(8);
            let mut next = empty.iter().map(|address| (address + 256, 60));
            // SAFETY: there is no device.
            let taken = unsafe { lent.take_into(&mut back, 12, || next.next()) };
            assert_eq!((taken, back.len(), back[7].len()), (Ok(8), 8, 60));
            back.clear();
            let mut odd = [(empty[8], 60), (empty[0], 60), (empty[9], 60)].into_iter();
            // SAFETY: there is no device.
            let taken = unsafe { lent.take_into(&mut back, 12, || odd.next()) };
            assert_eq!((taken, back.len()), (Err(empty[0]), 1));
            drop((back, burst));
            // SAFETY: there is no device.
            unsafe { lent.release() };
            drop(cache);
            assert_eq!((lent.frames(), pool.free(), other.free()), (0, 64, 4));
        }
    }

    #[test]
    fn a_frame_in_parts_comes_back_with_the_last_one() {
        let pool = Pool::builder().frames(4).frame_size(32768).build().unwrap();
        let (mut lent, mut cache) = (Lent::new(&pool), pool.cache(0));
        let packet = pool.packet(&[1; 10_000]).unwrap();
        let address = lent.lend_in_parts(packet, true, 3).unwrap();
        assert!(complete(&mut lent, &mut cache, &[address, address + 4096]));
        assert_eq!((lent.outstanding().packets, lent.outstanding().bytes), (1, 10_000));
        assert_eq!((lent.frames(), pool.free()), (1, 3));
        assert!(complete(&mut lent, &mut cache, &[address + 8192]));
        assert_eq!((lent.frames(), pool.free()), (0, 4));
        assert!(!complete(&mut lent, &mut cache, &[address]));
        for parts in [0, 513] {
            assert!(lent.lend_in_parts(pool.take().unwrap(), true, parts).is_err());
        }
        lent.lend_in_parts(pool.take().unwrap(), true, 512).unwrap();
        assert_eq!(pool.free(), 3);
        // SAFETY: there is no device.
        unsafe { lent.release() };
        assert_eq!((lent.frames(), pool.free()), (0, 4));
    }

    #[test]
    fn a_panic_while_lending_leaves_no_frame_two_owners() {
        let pool = pool(8);
        let mut lent = Lent::new(&pool);
        let mut burst = Burst::with_capacity(4);
        for _ in 0..4 {
            burst.push(pool.take().unwrap()).unwrap();
        }
        let mut calls = 0;
        let lend = || {
            lent.lend_front(&mut burst, 4, |_, _| {
                calls += 1;
                assert!(calls < 2, "on purpose");
            })
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(lend)).is_err());
        // What was being lent is nobody's any more.
        assert!(burst.is_empty());
        drop(burst);
        assert_eq!(pool.free(), 4);
    }
}
