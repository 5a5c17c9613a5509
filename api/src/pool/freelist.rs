//! The shared free list: a lock-free stack of frame indices, last in first out, moved in bulk.
//!
//! A Treiber stack over an array of links. Invariants:
//! - a frame is on the list at most once, and only its owner pushes it;
//! - `head` holds a tag in its upper half that every pop and push raises, so that a head which was popped and
//!   pushed again in between (ABA) is noticed; 2^32 operations would have to fit between a load and a compare;
//! - links of frames that are not on the list are garbage: a pop may read one while it loses a race, follow it, and
//!   then fails its compare. Links are always in range, so following garbage reads only garbage.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// No frame: the end of the list.
const END: u32 = u32::MAX;

pub(crate) struct FreeList {
    /// Tag in the upper, first frame in the lower 32 bits.
    head: AtomicU64,
    /// The frame below each frame.
    links: Box<[AtomicU32]>,
}

impl FreeList {
    /// A list of all frames, frame 0 on top.
    pub fn full(frames: u32) -> FreeList {
        let below = |frame: u32| AtomicU32::new(if frame + 1 == frames { END } else { frame + 1 });
        FreeList { head: AtomicU64::new(0), links: (0..frames).map(below).collect() }
    }

    /// Takes frames off the top until `out` is full or the list empty; how many.
    pub fn pop(&self, out: &mut [u32]) -> usize {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let mut frame = head as u32;
            let mut count = 0;
            for place in &mut *out {
                // The end is beyond all links.
                let Some(link) = self.links.get(frame as usize) else { break };
                *place = frame;
                count += 1;
                frame = link.load(Ordering::Relaxed);
            }
            if count == 0 {
                return 0;
            }
            let next = bump(head) | u64::from(frame);
            match self.head.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return count,
                Err(now) => head = now,
            }
        }
    }

    /// Puts frames on top, the first of them topmost. The caller owns them and gives them up.
    pub fn push(&self, frames: &[u32]) {
        let Some((first, rest)) = frames.split_first() else { return };
        let mut last = *first;
        for frame in rest {
            self.links[last as usize].store(*frame, Ordering::Relaxed);
            last = *frame;
        }
        self.push_chain(*first, last);
    }

    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::SeqCst) as u32 == END
    }

    fn push_chain(&self, first: u32, last: u32) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            self.links[last as usize].store(head as u32, Ordering::Relaxed);
            let next = bump(head) | u64::from(first);
            // Release: the links, and all that the owner wrote into the frames, before the head. Sequentially
            // consistent for those who wait for frames (see PoolShared::wake_when_filled).
            match self.head.compare_exchange_weak(head, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// The head's tag, one further, with no frame.
fn bump(head: u64) -> u64 {
    ((head >> 32).wrapping_add(1)) << 32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn last_in_first_out_and_never_twice() {
        let list = FreeList::full(4);
        let mut out = [0; 3];
        assert_eq!((list.pop(&mut out), out), (3, [0, 1, 2]));
        list.push(&[2, 0]);
        assert_eq!((list.pop(&mut out), out), (3, [2, 0, 3]));
        assert_eq!(list.pop(&mut out), 0);
        list.push(&[]);
        list.push(&[1]);
        assert_eq!((list.pop(&mut out), out[0]), (1, 1));
    }

    #[test]
    fn threads_never_hold_the_same_frame() {
        use std::sync::atomic::AtomicBool;
        let frames = 64;
        let list = FreeList::full(frames);
        let held: Vec<AtomicBool> = (0..frames).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for size in [1, 7, 16] {
                let (list, held) = (&list, &held);
                scope.spawn(move || {
                    let mut out = vec![0; size];
                    for _ in 0..20_000 {
                        let count = list.pop(&mut out);
                        for &frame in &out[..count] {
                            assert!(!held[frame as usize].swap(true, Ordering::Relaxed));
                        }
                        for &frame in &out[..count] {
                            held[frame as usize].store(false, Ordering::Relaxed);
                        }
                        list.push(&out[..count]);
                    }
                });
            }
        });
        let mut all = vec![0; 65];
        assert_eq!(list.pop(&mut all), 64);
        all.truncate(64);
        all.sort_unstable();
        assert_eq!(all, (0..64).collect::<Vec<_>>());
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;

    /// `cargo xtask test loom`
    #[test]
    fn two_threads_pop_and_push() {
        loom::model(|| {
            let list = Arc::new(FreeList::full(3));
            let other = list.clone();
            let thread = loom::thread::spawn(move || {
                let mut out = [0; 2];
                let count = other.pop(&mut out);
                other.push(&out[..count]);
                count
            });
            let mut out = [0; 1];
            let count = list.pop(&mut out);
            list.push(&out[..count]);
            assert!(count <= 1 && thread.join().unwrap() <= 2);
            let mut all = [0; 4];
            assert_eq!(list.pop(&mut all), 3);
            let mut seen = all[..3].to_vec();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
        });
    }
}
