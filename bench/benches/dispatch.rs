//! How a queue calls its driver: through a vtable, through an enum, or monomorphised. The record is
//! `docs/decisions/001-dispatch.md`.
//!
//! The driver hands out packets from an array, as a ring does, so that the call is weighed against the least work
//! that a real one has.

use std::hint::black_box;
use std::mem::MaybeUninit;

use anyport::{Burst, Packet, Pool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use enum_dispatch::enum_dispatch;

#[enum_dispatch]
trait Ring {
    fn recv(&mut self, burst: &mut Burst);
    fn send(&mut self, burst: &mut Burst);
}

/// A ring that gives back what it was given.
struct Array {
    slots: Box<[MaybeUninit<Packet>]>,
    filled: usize,
}

impl Ring for Array {
    #[inline]
    fn recv(&mut self, burst: &mut Burst) {
        // SAFETY: `send` filled so many slots, and they count as empty from here on.
        unsafe { burst.extend_from(&self.slots[..self.filled]) };
        self.filled = 0;
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst) {
        self.filled = burst.move_front(usize::MAX, &mut self.slots);
    }
}

/// A second kind, so that the enum has something to choose from.
struct Nothing;

impl Ring for Nothing {
    fn recv(&mut self, _: &mut Burst) {}
    fn send(&mut self, _: &mut Burst) {}
}

#[enum_dispatch(Ring)]
enum Either {
    Array(Array),
    Nothing(Nothing),
}

fn array() -> Array {
    Array { slots: Box::new_uninit_slice(64), filled: 0 }
}

fn turn(ring: &mut (impl Ring + ?Sized), burst: &mut Burst) {
    ring.send(burst);
    ring.recv(burst);
}

fn dispatch_benches(criterion: &mut Criterion) {
    let pool = Pool::builder().frames(64).build().expect("memory");
    let mut group = criterion.benchmark_group("dispatch, send + recv");
    for size in [1, 32] {
        let mut burst = Burst::with_capacity(size);
        while !burst.is_full() {
            let _ = burst.push(pool.take().expect("64 frames"));
        }
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("generic", size), |bencher| {
            let mut ring = array();
            bencher.iter(|| turn(black_box(&mut ring), &mut burst));
        });
        group.bench_function(BenchmarkId::new("enum", size), |bencher| {
            let mut ring = black_box(Either::from(array()));
            bencher.iter(|| turn(black_box(&mut ring), &mut burst));
            assert!(!matches!(black_box(Either::from(Nothing)), Either::Array(_)));
        });
        group.bench_function(BenchmarkId::new("dyn", size), |bencher| {
            let mut ring: Box<dyn Ring> = black_box(Box::new(array()));
            bencher.iter(|| turn(black_box(&mut *ring), &mut burst));
        });
    }
    group.finish();
}

criterion_group!(benches, dispatch_benches);
criterion_main!(benches);
