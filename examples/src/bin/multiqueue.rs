//! Sends back what a port receives, on several queue pairs at once: a thread per pair, each on a core of its own.
//!
//! It shows queues that move to other threads, pinned workers, and counters that are read while the workers run. No
//! lock is needed anywhere: each queue belongs to one thread, the pool and the statistics handle to all.
//!
//! ```text
//! cargo run --release -p anyport-examples --bin multiqueue -- loop:a.0,queues=4
//! ```

use std::time::Duration;

use anyhow::Context;
use anyport::workers::{Worker, spawn_pinned};
use anyport::{Burst, Error, Pool, Queues, RxQueue, Stats, TxQueue, Wake};
use rustix::thread::{CpuSet, sched_getaffinity};

fn main() -> anyhow::Result<()> {
    let spec = std::env::args().nth(1).context("usage: multiqueue PORT,queues=N")?;
    let pool = Pool::builder().frames(16384).build()?;
    let mut port = anyport_backends::registry().open_with(&spec, &pool)?;
    let queues = port.start()?;
    anyport_examples::wake_on_ctrl_c(queues.rx.iter().map(RxQueue::waker))?;
    let workers = spawn_workers(queues)?;
    let stats = port.stats();
    while !workers.iter().all(Worker::is_finished) {
        std::thread::sleep(Duration::from_secs(1));
        println!("{}", line(&stats));
    }
    for worker in workers {
        worker.join()?;
    }
    port.close()?;
    Ok(())
}

/// One worker per queue pair, on the cores that this process may use, in turn.
pub fn spawn_workers(queues: Queues) -> anyhow::Result<Vec<Worker<anyport::Result<u64>>>> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    let pairs = queues.rx.into_iter().zip(queues.tx);
    let workers = pairs.enumerate().map(|(index, (rx, tx))| {
        let core = cores[index % cores.len()];
        spawn_pinned(&format!("queue {index}"), core, move || reflect(rx, tx))
            .with_context(|| format!("starting a worker on core {core}"))
    });
    workers.collect()
}

/// Sends back what one queue receives until its waker is called or its port is stopped; how many frames.
fn reflect(mut rx: RxQueue, mut tx: TxQueue) -> anyport::Result<u64> {
    let (mut burst, mut reflected) = (Burst::new(), 0);
    loop {
        match rx.wait(Duration::from_secs(60)) {
            Ok(Wake::Ready) => {}
            Ok(Wake::Waker | Wake::Ended) | Err(Error::Closed) => return Ok(reflected),
            Ok(_) => continue,
            Err(error) => return Err(error),
        }
        rx.recv(&mut burst)?;
        for packet in &mut burst {
            let (destination, source) = packet.data_mut()[..12].split_at_mut(6);
            destination.swap_with_slice(source);
        }
        reflected += tx.send(&mut burst)? as u64;
        burst.clear(); // what the queue did not take goes back to the pool
    }
}

/// What the port and each of its queues have received so far. Reading it does not slow the workers down.
pub fn line(stats: &Stats) -> String {
    let now = stats.read();
    let queues: Vec<u64> =
        now.rx_queues.iter().map(|queue| queue.rx_packets.unwrap_or(0)).collect();
    let (received, dropped) = (now.port.rx_packets.unwrap_or(0), now.port.rx_dropped());
    format!("received {received}, by queue {queues:?}, dropped {dropped}")
}
