//! Passes frames between two ports, both ways, nothing changed in them: a bridge.
//!
//! It shows one pool under two ports (frames move without a copy where the backends can), fair waiting on two queues
//! with `wait_any`, what to do with frames that a queue does not take, and how to end a loop from outside.
//!
//! ```text
//! cargo run --release -p anyport-examples --bin forward -- pcap:eth1 pcap:eth2
//! ```

use std::time::Duration;

use anyhow::bail;
use anyport::{Burst, Error, Pool, Port, Registry, Result, RxQueue, TxQueue, Wake, wait_any};

fn main() -> anyhow::Result<()> {
    run(&anyport_backends::registry())
}

/// Forwards between the two ports that the command line names, until Ctrl-C.
pub fn run(registry: &Registry) -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [left, right] = &arguments[..] else { bail!("two ports are needed, such as pcap:eth1") };
    let pool = Pool::builder().frames(8192).build()?;
    let mut left = open(registry, left, &pool)?;
    let mut right = open(registry, right, &pool)?;
    let ends = [left.start()?.into_pair(), right.start()?.into_pair()];
    anyport_examples::wake_on_ctrl_c([ends[0].0.waker()])?;
    let [to_right, to_left] = forward(ends)?;
    println!("{to_right} frames from {} to {}", left.title(), right.title());
    println!("{to_left} frames from {} to {}", right.title(), left.title());
    left.close()?;
    right.close()?;
    Ok(())
}

/// Opens a port that receives every frame, not only those addressed to itself: what a bridge needs.
pub fn open(registry: &Registry, spec: &str, pool: &Pool) -> Result<Port> {
    let mut port = registry.open_with(spec, pool)?;
    let mut config = port.config();
    config.promiscuous = port.capability().promiscuous; // a capture file has no such mode
    port.configure(config)?;
    Ok(port)
}

/// One way through the bridge.
struct Way {
    rx: RxQueue,
    tx: TxQueue,
    /// Received, and not yet taken by `tx`.
    burst: Burst,
    passed: u64,
}

impl Way {
    fn new(rx: RxQueue, tx: TxQueue) -> Way {
        Way { rx, tx, burst: Burst::new(), passed: 0 }
    }

    /// Sends what is left of the last burst, then receives, and sends that.
    fn pass(&mut self, wake: Wake) -> Result<()> {
        self.send()?;
        if wake == Wake::Ready {
            self.rx.recv(&mut self.burst)?;
            self.send()?;
        }
        Ok(())
    }

    /// What a full queue does not take stays in the burst, in order. So nothing is lost here: if the way out is slower
    /// than the way in, the receiving port's ring fills up, and the port counts what it drops.
    fn send(&mut self) -> Result<()> {
        while !self.burst.is_empty() {
            match self.tx.send(&mut self.burst) {
                Ok(0) => break,
                Ok(sent) => self.passed += sent as u64,
                // The first frame is longer than the other port's maximum: it goes no further.
                Err(Error::FrameTooLong { .. }) => drop(self.burst.pop_front()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Passes frames until a waker of one of the queues is called or an input has ended; how many went from the first
/// port to the second, and back.
pub fn forward([left, right]: [(RxQueue, TxQueue); 2]) -> Result<[u64; 2]> {
    let mut ways = [Way::new(left.0, right.1), Way::new(right.0, left.1)];
    let mut wakes = [Wake::Timeout; 2];
    while !wakes.iter().any(|wake| matches!(wake, Wake::Waker | Wake::Ended)) {
        // Frames that wait for room in a queue are tried again soon.
        let idle = ways.iter().all(|way| way.burst.is_empty());
        let patience = if idle { Duration::from_secs(60) } else { Duration::from_millis(1) };
        let [left, right] = &mut ways;
        wait_any(&mut [&mut left.rx, &mut right.rx], &mut wakes, patience)?;
        for (way, wake) in ways.iter_mut().zip(wakes) {
            way.pass(wake)?;
        }
    }
    // What the devices still have goes out before the ports are closed.
    for way in &mut ways {
        way.tx.flush(Duration::from_secs(1))?;
    }
    Ok(ways.map(|way| way.passed))
}
