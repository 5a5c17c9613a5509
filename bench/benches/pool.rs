//! Pool take and give: through a queue's cache, through the shared list, and with a second thread at work.
//!
//! The target is 5 ns each through a cache, and no collapse with two threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use anyport::{Burst, Pool};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Packets taken and given per iteration.
const PACKETS: usize = 32;

fn pool() -> Pool {
    Pool::builder().frames(16384).build().expect("32 MiB of memory")
}

fn pool_benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pool");
    group.throughput(Throughput::Elements(PACKETS as u64));
    group.bench_function("cache: take 32, give 32", |bencher| {
        let mut cache = pool().cache(64);
        let mut held = Burst::with_capacity(PACKETS);
        bencher.iter(|| take_and_give(&mut cache, &mut held));
    });
    group.bench_function("cache: take 32, give 32, another thread doing the same", |bencher| {
        let pool = pool();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut cache = pool.cache(64);
                let mut held = Burst::with_capacity(PACKETS);
                while !stop.load(Ordering::Relaxed) {
                    take_and_give(&mut cache, &mut held);
                }
            });
            let mut cache = pool.cache(64);
            let mut held = Burst::with_capacity(PACKETS);
            bencher.iter(|| take_and_give(&mut cache, &mut held));
            stop.store(true, Ordering::Relaxed);
        });
    });
    group.bench_function("cache too small: every 16 frames cross the shared list", |bencher| {
        let pool = pool();
        let (mut from, mut to) = (pool.cache(32), pool.cache(32));
        let mut held = Burst::with_capacity(PACKETS);
        bencher.iter(|| {
            while let Some(packet) = (!held.is_full()).then(|| from.take()).flatten() {
                let _ = held.push(packet);
            }
            while let Some(packet) = held.pop_front() {
                to.give(packet);
            }
        });
    });
    group.bench_function("shared list: a burst dropped at once", |bencher| {
        let pool = pool();
        let mut cache = pool.cache(64);
        bencher.iter_batched_ref(
            || {
                let mut burst = Burst::with_capacity(PACKETS);
                while let Some(packet) = (!burst.is_full()).then(|| cache.take()).flatten() {
                    let _ = burst.push(packet);
                }
                burst
            },
            |burst| burst.clear(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("shared list: one by one", |bencher| {
        let pool = pool();
        bencher.iter(|| {
            for _ in 0..PACKETS {
                drop(black_box(pool.take()));
            }
        });
    });
    group.finish();
}

fn take_and_give(cache: &mut anyport::PoolCache, held: &mut Burst) {
    for _ in 0..PACKETS {
        if let Some(packet) = cache.take() {
            let _ = held.push(packet);
        }
    }
    while let Some(packet) = held.pop_front() {
        cache.give(black_box(packet));
    }
}

criterion_group!(benches, pool_benches);
criterion_main!(benches);
