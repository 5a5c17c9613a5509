//! Rings over plain memory, with both sides in this process.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::plain::Plain;
use super::*;

#[test]
fn what_does_not_lie_in_the_memory_is_no_ring() {
    let plain = Plain::<u64>::new(8, 0);
    let ring = |offsets: Offsets, size| Ring::<u64>::new(plain.memory.clone(), &offsets, size);
    let good = plain.offsets;
    assert!(ring(good, 8).is_some());
    assert!(ring(good, 16).is_none() && ring(good, 7).is_none() && ring(good, 0).is_none());
    assert!(ring(Offsets { entries: 196, ..good }, 4).is_none(), "not aligned");
    assert!(ring(Offsets { producer: 1 << 40, ..good }, 8).is_none());
    assert!(ring(Offsets { consumer: u64::MAX, ..good }, 8).is_none());
    assert!(ring(Offsets { flags: 2, ..good }, 8).is_none());
}

#[test]
fn nothing_is_the_kernels_before_it_is_published() {
    let plain = Plain::<u64>::new(4, u32::MAX - 1);
    let (mut ours, mut kernel) = (plain.producer(4), plain.consumer(4));
    assert!(ours.push(1) && ours.push(2) && ours.push(3));
    assert_eq!(kernel.ready(1), Ok(0));
    ours.publish();
    assert_eq!(kernel.ready(1), Ok(3));
    assert_eq!((kernel.pop(), kernel.pop()), (Some(1), Some(2)));
    assert_eq!(ours.pending(), Ok(3));
    kernel.release();
    assert_eq!((ours.pending(), ours.free(4)), (Ok(1), Ok(3)));
}

#[test]
fn what_was_consumed_lately_can_be_seen_until_its_slot_is_written_anew() {
    let plain = Plain::<u64>::new(4, u32::MAX - 1);
    let (mut ours, mut kernel) = (plain.producer(4), plain.consumer(4));
    assert!((1..=3).all(|entry| ours.push(entry)));
    ours.publish();
    assert_eq!(kernel.ready(3), Ok(3));
    assert_eq!((kernel.pop(), kernel.pop()), (Some(1), Some(2)));
    kernel.release();
    assert_eq!(ours.pending(), Ok(1));
    assert_eq!(ours.consumed().take(2).collect::<Vec<_>>(), [2, 1]);
    assert!(ours.push(4) && ours.push(5));
    assert_eq!(ours.consumed().collect::<Vec<_>>(), [2]);
    assert!(ours.push(6) && !ours.push(7));
    assert_eq!(ours.consumed().next(), None);
}

#[test]
fn indices_that_cannot_be_are_no_ring_to_begin_with() {
    let plain = Plain::<u64>::new(8, 100);
    plain.word(64).store(0, Ordering::Relaxed);
    assert!(Producer::<u64>::new(plain.memory.clone(), &plain.offsets, 8).is_none());
    plain.word(64).store(92, Ordering::Relaxed);
    assert_eq!(plain.producer(8).free(8), Ok(0));
}

#[test]
fn an_index_that_jumps_is_an_error_and_no_access() {
    let plain = Plain::<u64>::new(4, 0);
    let (mut ours, mut kernel) = (plain.producer(4), plain.consumer(4));
    // The consumer has consumed what was never there; the producer has produced more than fits.
    plain.word(64).store(1, Ordering::Relaxed);
    assert_eq!(ours.free(5), Err(Broken));
    assert!((0..4).all(|entry| ours.push(entry)) && !ours.push(4));
    plain.word(0).store(5, Ordering::Relaxed);
    assert_eq!(kernel.ready(1), Err(Broken));
    assert_eq!(kernel.pop(), None);
    plain.word(0).store(u32::MAX, Ordering::Relaxed);
    assert_eq!(kernel.ready(1), Err(Broken));
}

#[test]
fn the_kernel_says_when_it_sleeps() {
    let plain = Plain::<u64>::new(4, 0);
    let ours = plain.producer(4);
    assert!(!ours.needs_wakeup());
    plain.word(128).store(NEED_WAKEUP, Ordering::Relaxed);
    assert!(ours.needs_wakeup());
}

#[test]
fn two_threads_lose_nothing() {
    let count = if cfg!(miri) { 200 } else { 100_000 };
    let plain = Plain::<u64>::new(8, u32::MAX - 50);
    let (mut ours, mut kernel) = (plain.producer(8), plain.consumer(8));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut next = 0;
            while next < count {
                let free = u64::from(ours.free(3).unwrap()).min(count - next);
                if free == 0 {
                    std::thread::yield_now();
                }
                (0..free).for_each(|at| assert!(ours.push(next + at)));
                next += free;
                ours.publish();
            }
        });
        let mut expected = 0;
        while expected < count {
            if kernel.ready(1).unwrap() == 0 {
                std::thread::yield_now();
            }
            while let Some(entry) = kernel.pop() {
                assert_eq!(entry, expected);
                expected += 1;
            }
            kernel.release();
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the two sides do in whatever order, the ring is the queue that it pretends to be.
    #[test]
    fn a_ring_is_a_bounded_queue(
        start in any::<u32>(),
        power in 0u32..5,
        steps in proptest::collection::vec((0u8..5, 1u32..20), 0..200),
    ) {
        let size = 1 << power;
        let plain = Plain::<u64>::new(size, start);
        let (mut ours, mut kernel) = (plain.producer(size), plain.consumer(size));
        let (mut pushed, mut published, mut popped) = (VecDeque::new(), VecDeque::new(), 0usize);
        let mut number = 0;
        for (step, n) in steps {
            match step {
                0 => {
                    let free = ours.free(n).unwrap();
                    prop_assert!(free as usize + pushed.len() + published.len() + popped <= size as usize);
                    let mut run = ours.run();
                    for _ in 0..n {
                        if run.push(number) {
                            pushed.push_back(number);
                            number += 1;
                        }
                    }
                    drop(run);
                    prop_assert!(pushed.len() + published.len() + popped <= size as usize);
                }
                1 => {
                    ours.publish();
                    published.append(&mut pushed);
                }
                2 => prop_assert_eq!(kernel.ready(u32::MAX).unwrap() as usize, published.len()),
                3 => {
                    kernel.ready(n).unwrap();
                    let mut run = kernel.run();
                    for _ in 0..n {
                        let Some(entry) = run.pop() else { break };
                        prop_assert_eq!(Some(entry), published.pop_front());
                        popped += 1;
                    }
                }
                _ => {
                    kernel.release();
                    popped = 0;
                    prop_assert_eq!(ours.pending().unwrap() as usize, published.len() + pushed.len());
                }
            }
        }
    }
}
