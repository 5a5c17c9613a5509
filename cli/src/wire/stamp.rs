//! The stamp that `gen` puts into every frame and `sink` reads: 18 bytes, which is what a 60-byte frame has left behind
//! its Ethernet, IPv4 and UDP headers.
//!
//! ```text
//!   0        3        6      8           12                 18
//!   | magic  | run    | clock| sequence  | time              |      all numbers big-endian
//! ```
//!
//! - *run*: a random number that a generator takes when it starts, so that several generators, and the leftovers of an
//!   earlier run, are told apart;
//! - *clock*: which clock the time is from (see [`clock`](super::clock));
//! - *sequence*: counts the frames of one flow from 0, modulo 2^32;
//! - *time*: nanoseconds modulo 2^48 (78 hours).
//!
//! The flow is not in the stamp: it is the UDP port that is not [`PORT`], so it survives a reflector that swaps ports.

/// What every stamp begins with.
pub const MAGIC: [u8; 3] = [0xa9, 0x97, 0x1e];

/// Bytes of a stamp.
pub const LEN: usize = 18;

/// The UDP port that generated frames go to: discard (RFC 863), so that a host that gets one answers nothing.
pub const PORT: u16 = 9;

/// The UDP source port of flow 0; the next flow has the next one.
pub const FIRST_FLOW_PORT: u16 = 1024;

/// The most flows.
pub const MAX_FLOWS: u64 = 65536 - FIRST_FLOW_PORT as u64;

const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// What a generated frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The generator's run; 24 bits.
    pub run: u32,
    /// The identity of the clock that `time` is from.
    pub clock: u16,
    /// The frame's number in its flow, modulo 2^32.
    pub sequence: u32,
    /// When the frame was meant to leave, in nanoseconds; 48 bits.
    pub time: u64,
}

impl Stamp {
    /// The stamp's bytes.
    #[inline]
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3..6].copy_from_slice(&self.run.to_be_bytes()[1..]);
        bytes[6..8].copy_from_slice(&self.clock.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[12..].copy_from_slice(&self.time.to_be_bytes()[2..]);
        bytes
    }

    /// Reads a stamp; `None` if the magic is not there.
    #[inline]
    pub fn from_bytes(bytes: &[u8; LEN]) -> Option<Stamp> {
        let [m0, m1, m2, r0, r1, r2, c0, c1, s0, s1, s2, s3, time @ ..] = *bytes;
        let [t0, t1, t2, t3, t4, t5] = time;
        ([m0, m1, m2] == MAGIC).then_some(Stamp {
            run: u32::from_be_bytes([0, r0, r1, r2]),
            clock: u16::from_be_bytes([c0, c1]),
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            time: u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
        })
    }

    /// Nanoseconds from the stamp's time to `now` of the same clock; `None` if that would be negative (or over 39
    /// hours), which two readings of one clock cannot be.
    #[inline]
    pub fn age(&self, now: u64) -> Option<u64> {
        let age = now.wrapping_sub(self.time) & TIME_MASK;
        (age >> (TIME_BITS - 1) == 0).then_some(age)
    }
}

/// A time as it fits a stamp.
#[inline]
pub fn fit_time(ns: u64) -> u64 {
    ns & TIME_MASK
}

/// Reads the flow's port and the stamp out of a frame that `gen` made, with at most one 802.1Q tag in front; `None` for
/// any other frame. Works for the answer of a reflector, too. `length` is the whole frame's, of which the first segment is
/// enough.
#[inline]
pub fn find(frame: &[u8], length: usize) -> Option<(u16, Stamp)> {
    let two = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let ip = match two(12)? {
        0x0800 => 14,
        0x8100 if two(16)? == 0x0800 => 18,
        _ => return None,
    };
    let header: &[u8; 28] = frame.get(ip..)?.first_chunk()?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // IPv4 without options, UDP; and nothing of it was cut off.
    if header[0] != 0x45 || header[9] != 17 || total < 28 + LEN || length < ip + total {
        return None;
    }
    let source = u16::from_be_bytes([header[20], header[21]]);
    let destination = u16::from_be_bytes([header[22], header[23]]);
    let flow = match (source, destination) {
        (flow, PORT) | (PORT, flow) => flow,
        _ => return None,
    };
    Some((flow, Stamp::from_bytes(frame[ip + 28..].first_chunk()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Template;
    use anyport::MacAddr;

    const STAMP: Stamp = Stamp {
        run: 0x00ab_cdef,
        clock: 0x1234,
        sequence: 0xfedc_ba98,
        time: 0x0000_7654_3210_9876,
    };

    fn frame(size: usize, flow: u16) -> Vec<u8> {
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let mut frame = vec![0; size];
        Template::new(mac(2), mac(1), size).write(&mut frame, flow, STAMP);
        frame
    }

    fn found(frame: &[u8]) -> Option<(u16, Stamp)> {
        find(frame, frame.len())
    }

    #[test]
    fn stamps_survive_bytes() {
        assert_eq!(Stamp::from_bytes(&STAMP.to_bytes()), Some(STAMP));
        let mut bytes = STAMP.to_bytes();
        bytes[1] ^= 1;
        assert_eq!(Stamp::from_bytes(&bytes), None);
    }

    #[test]
    fn found_with_a_tag_and_after_a_reflector() {
        let plain = frame(60, 4321);
        assert_eq!(found(&plain), Some((4321, STAMP)));
        let mut tagged = plain.clone();
        tagged.splice(12..12, [0x81, 0, 0x20, 5]);
        assert_eq!(found(&tagged), Some((4321, STAMP)));
        let mut reflected = plain.clone();
        reflected[34..36].copy_from_slice(&PORT.to_be_bytes());
        reflected[36..38].copy_from_slice(&4321u16.to_be_bytes());
        assert_eq!(found(&reflected), Some((4321, STAMP)));
    }

    #[test]
    fn what_is_cut_short_or_foreign_is_not_taken() {
        let whole = frame(100, 1024);
        for length in 0..100 {
            assert_eq!(found(&whole[..length]), None, "{length} bytes");
        }
        // Padding behind the datagram is no harm.
        assert!(found(&[&whole[..], &[0; 4]].concat()).is_some());
        for at in [12, 14, 23, 36, 42] {
            let mut other = whole.clone();
            other[at] ^= 0x40;
            assert_eq!(found(&other), None, "byte {at}");
        }
    }

    #[test]
    fn age_is_right_across_the_wrap_and_never_negative() {
        let stamp = Stamp { time: TIME_MASK - 9, ..STAMP };
        assert_eq!(stamp.age(5 << TIME_BITS | 20), Some(30));
        assert_eq!(stamp.age(stamp.time - 1), None);
        assert_eq!(stamp.age(stamp.time), Some(0));
        assert_eq!(fit_time(7 << TIME_BITS | 3), 3);
    }
}
