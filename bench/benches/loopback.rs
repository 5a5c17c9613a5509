//! The cable: `send` on one end and `recv` on the other, one thread, everything that the common layer does included.
//!
//! What it shows is the cost of the API itself: no packet is copied, no system call made.

use anyport_bench::Cable;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn loopback_benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop, send + recv, 60 bytes");
    for burst in [1, 8, 32, 64] {
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_with_input(BenchmarkId::new("burst", burst), &burst, |bencher, &burst| {
            let mut cable = Cable::new("bench", burst);
            bencher.iter(|| cable.turn());
        });
    }
    group.finish();
}

criterion_group!(benches, loopback_benches);
criterion_main!(benches);
