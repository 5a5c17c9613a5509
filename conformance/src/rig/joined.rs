//! Two rigs in a row: a forwarder between them passes on whatever comes, both ways, over one pool.
//!
//! ```text
//!   port A ── one rig's wires ── port ◄─ forwarder's thread ─► port ── the other's wires ── port B
//! ```
//! So a case sees ports of two backends as ends of one wire, and frames of both meet in one pool: what one backend received there
//! is what the other sends.
//!
//! The wire that comes of it has little power: nobody can pull it as a whole, and under load the forwarder's rings overflow like
//! a switch's.

use std::thread::JoinHandle;
use std::time::Duration;

use anyport::config::Switch;
use anyport::{Burst, Pool, Port, Registry, RxQueue, TxQueue, Wake, Waker, wait_any};

use super::{Rig, Wires};
use crate::case::{Failure, Power, Verdict};
use crate::ctx::End;

/// Frames of the forwarder's pool, of so many bytes; longer ones are chains, where both backends can have those.
const FRAMES: u32 = 16384;
const FRAME_SIZE: u32 = 4096;

/// The forwarder's receive rings, where a backend takes that many.
const RING: u32 = 4096;

/// Ends of two rigs, joined by a forwarder. Both rigs' backends must be in the first one's registry.
pub struct JoinedRig {
    name: String,
    rigs: [Box<dyn Rig>; 2],
}

impl JoinedRig {
    /// A rig of that name: end A is the first rig's end A, end B the second one's end B.
    pub fn new(name: &str, first: impl Rig + 'static, second: impl Rig + 'static) -> JoinedRig {
        JoinedRig { name: name.into(), rigs: [Box::new(first), Box::new(second)] }
    }
}

impl Rig for JoinedRig {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn about(&self) -> String {
        let [first, second] = &self.rigs;
        format!("{}, and {}, with a forwarder between them", first.about(), second.about())
    }

    fn registry(&self) -> Registry {
        self.rigs[0].registry()
    }

    fn powers(&self) -> Vec<Power> {
        Vec::new()
    }

    fn enter(&mut self) -> Verdict {
        self.rigs.iter_mut().try_for_each(|rig| rig.enter())
    }

    fn check(&self) -> Verdict {
        self.rigs.iter().try_for_each(|rig| rig.check())
    }

    fn wires(&self, number: usize) -> Verdict<Box<dyn Wires>> {
        let wires = [self.rigs[0].wires(number)?, self.rigs[1].wires(number)?];
        let inner = [wires[0].spec(End::B), wires[1].spec(End::A)];
        let forwarder = Forwarder::start(&self.registry(), &inner)?;
        Ok(Box::new(JoinedWires { _forwarder: forwarder, wires }))
    }
}

struct JoinedWires {
    // First: it ends before its devices go.
    _forwarder: Forwarder,
    wires: [Box<dyn Wires>; 2],
}

impl Wires for JoinedWires {
    fn spec(&self, end: End) -> String {
        self.wires[end.index()].spec(end)
    }
}

/// Two started ports and the thread between them.
struct Forwarder {
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    _ports: Vec<Port>,
}

impl Forwarder {
    fn start(registry: &Registry, specs: &[String; 2]) -> Verdict<Forwarder> {
        let pool = Pool::builder().frames(FRAMES).frame_size(FRAME_SIZE).build()?;
        let mut ports = Vec::new();
        for spec in specs {
            ports.push(registry.open_with(spec, &pool)?);
        }
        // What comes in by one in so many segments goes out by the other.
        let segments = ports.iter().map(|port| port.capability().max_segments).min().unwrap_or(1);
        let mut queues = Vec::new();
        for port in &mut ports {
            set_up(port, &pool, segments)?;
            queues.push(port.start()?.into_pair());
        }
        let (Some((rx_b, tx_b)), Some((rx_a, tx_a))) = (queues.pop(), queues.pop()) else {
            return Err(Failure("two ports have two pairs of queues".into()));
        };
        let waker = rx_a.waker();
        let ways = [Way::new(rx_a, tx_b), Way::new(rx_b, tx_a)];
        let thread = std::thread::Builder::new().name("forwarder".into());
        // An error is the loss of a device, which no case can ask for here; nothing passes any more then.
        let thread = thread.spawn(move || drop(forward(ways)))?;
        Ok(Forwarder { waker, thread: Some(thread), _ports: ports })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Lets a port take and give everything unchanged, up to what so many segments hold.
fn set_up(port: &mut Port, pool: &Pool, segments: u16) -> Verdict {
    let (mut config, capability) = (port.config(), port.capability());
    config.promiscuous = capability.promiscuous;
    config.finish_checksums = Switch::Off;
    config.rx_ring = Some(RING.clamp(capability.rx_ring.min, capability.rx_ring.max));
    config.max_segments = segments;
    if capability.set_max_frame {
        // One tag may come on top.
        let room = pool.room() * usize::from(segments) - 4;
        config.max_frame = Some(capability.max_frame.min(room));
    }
    Ok(port.configure(config)?)
}

/// One way through the forwarder.
struct Way {
    rx: RxQueue,
    tx: TxQueue,
    /// Received, and not yet taken by `tx`.
    burst: Burst,
}

impl Way {
    fn new(rx: RxQueue, tx: TxQueue) -> Way {
        Way { rx, tx, burst: Burst::new() }
    }

    /// Sends what is left of the last burst, then what is there now; whether everything was taken.
    fn pass(&mut self) -> anyport::Result<bool> {
        loop {
            while !self.burst.is_empty() {
                match self.tx.send(&mut self.burst) {
                    Ok(0) => return Ok(false),
                    Ok(_) => {}
                    // It is longer than the way out takes, and ends here, as at a switch.
                    Err(anyport::Error::FrameTooLong { .. }) => drop(self.burst.pop_front()),
                    Err(error) => return Err(error),
                }
            }
            if self.rx.recv(&mut self.burst)? == 0 {
                return Ok(true);
            }
        }
    }
}

/// Passes frames until a waker is called.
fn forward(mut ways: [Way; 2]) -> anyport::Result<()> {
    let mut wakes = [Wake::Timeout; 2];
    while !wakes.contains(&Wake::Waker) {
        let mut idle = true;
        for way in &mut ways {
            idle &= way.pass()?;
        }
        // What waits for room in a queue is tried again soon.
        let patience = if idle { Duration::from_secs(60) } else { Duration::from_millis(1) };
        let [one, other] = &mut ways;
        wait_any(&mut [&mut one.rx, &mut other.rx], &mut wakes, patience)?;
    }
    Ok(())
}
