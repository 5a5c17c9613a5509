//! Pool take and give: through a queue's cache, through the shared list, and with a second thread at work.
//!
//! The target is 5 ns each through a cache, and no collapse with two threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use anyport::{Burst, Pool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Packets taken and given per iteration.
const PACKETS: usize = 32;

fn pool() -> Pool {
    Pool::builder().frames(16384).build().expect("32 MiB of memory")
}

fn pool_benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pool");
    group.throughput(Throughput::Elements(PACKETS as u64));
    // The target's own figure: nothing but the cache. The others hold a burst, and count its moves, too.
    group.bench_function("cache: take and give, one by one", |bencher| {
        let mut cache = pool().cache(64);
        bencher.iter(|| {
            for _ in 0..PACKETS {
                if let Some(packet) = cache.take() {
                    // By reference: a move through here is a copy, and would be what is measured.
                    black_box(&packet);
                    cache.give(packet);
                }
            }
        });
    });
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
    group.bench_function("cache and shared list: take 32, drop the burst at once", |bencher| {
        let mut cache = pool().cache(64);
        let mut burst = Burst::with_capacity(PACKETS);
        bencher.iter(|| {
            while let Some(packet) = (!burst.is_full()).then(|| cache.take()).flatten() {
                let _ = burst.push(packet);
            }
            burst.clear();
        });
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
        cache.give(packet);
    }
}

/// Writing and reading the first 60 bytes of 64 frames, at equal and at staggered offsets: frames at equal offsets of
/// a power of two compete for the same cache sets (`docs/decisions/002-frame-placement.md`).
fn placement_benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement, 64 frames");
    group.throughput(Throughput::Elements(64));
    for stagger in [0, 1, 2, 4, 8] {
        group.bench_with_input(
            BenchmarkId::new("steps of 64 bytes", stagger),
            &stagger,
            |bencher, &stagger| {
                let pool = pool();
                let mut packets: Vec<anyport::Packet> = Vec::new();
                for at in 0..64 {
                    let mut packet = pool.take().expect("16384 frames");
                    packet.grow_tail(60 + 64 * (at % (stagger + 1))).expect("room");
                    packet.shrink_head(64 * (at % (stagger + 1))).expect("bytes");
                    packets.push(packet);
                }
                let frame = [7u8; 60];
                bencher.iter(|| {
                    packets
                        .iter_mut()
                        .for_each(|packet| packet.data_mut().copy_from_slice(black_box(&frame)));
                    packets.iter().map(|packet| u64::from(packet.data()[13])).sum::<u64>()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, pool_benches, placement_benches);
criterion_main!(benches);
