//! Benchmarks: time and instructions per packet, and comparisons with bare code and with DPDK.
//!
//! - `cargo bench -p anyport-bench`: time per packet (criterion);
//! - `anyport-bench-instructions`: instructions per packet, counted by callgrind, so repeatable on a busy machine;
//! - `anyport-bench-compare`: `gen`, `sink` and `fwd` beside bare programs and DPDK's testpmd, on the same interfaces in one
//!   run ([`compare`]);
//! - `anyport-bench-bare`: the bare AF_XDP programs alone ([`bare`]).

pub mod bare;
pub mod compare;
pub mod flood;
pub mod live;
pub mod topology;
pub mod xdp;

use anyport::{Burst, Pool, Registry, RxQueue, TxQueue};
use anyport_loopback::Loopback;

/// A started cable with both ends in one thread, over one pool.
pub struct Cable {
    tx: TxQueue,
    rx: RxQueue,
    burst: Burst,
    // Dropped last: queues answer `Closed` without their ports.
    _ports: [anyport::Port; 2],
}

impl Cable {
    /// A cable with a burst of 60-byte frames on the way.
    ///
    /// # Panics
    /// If it cannot be set up: a benchmark has nobody to tell.
    pub fn new(name: &str, burst_size: usize) -> Cable {
        let setup = || -> anyport::Result<Cable> {
            let pool = Pool::builder().frames(4096).build()?;
            let mut registry = Registry::new();
            registry.register(Loopback::default())?;
            let mut from = registry.open_with(&format!("loop:{name}.0"), &pool)?;
            let mut to = registry.open_with(&format!("loop:{name}.1"), &pool)?;
            let mut frame = [0; 60];
            frame[..6].copy_from_slice(&to.control().mac()?.0);
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            let (rx, _) = to.start()?.into_pair();
            let (_, tx) = from.start()?.into_pair();
            let mut burst = Burst::with_capacity(burst_size);
            while let Some(packet) = (!burst.is_full()).then(|| pool.packet(&frame)).flatten() {
                let _ = burst.push(packet);
            }
            Ok(Cable { tx, rx, burst, _ports: [from, to] })
        };
        setup().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends the burst and receives it again.
    ///
    /// # Panics
    /// If a frame is lost.
    #[inline]
    pub fn turn(&mut self) {
        let sent = self.tx.send(&mut self.burst).expect("an open port");
        let received = self.rx.recv(&mut self.burst).expect("an open port");
        assert_eq!((sent, received), (self.burst.len(), self.burst.len()));
    }
}
