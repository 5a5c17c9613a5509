//! Turns over AF_XDP in one thread, each once with bare rings and once through anyport: for counting instructions.
//!
//! ```text
//!   send:      a0 ───► a1               the kernel drops what arrives
//!   receive:   a0 ───► a1               a bare sender at a0
//!   forward:   a0 ───► a1 ───► b0 ───► b1      a bare sender at a0; the kernel drops what arrives at b1
//! ```
//!
//! In copy mode the kernel sends within the system call, and a veth pair's other end receives before it returns. So a turn
//! moves a burst in one piece, each time the same. What the bare sender costs is counted by itself and taken off.

use anyhow::{Context, Result, ensure};
use anyport::{Burst, Pool, Port, Registry, RxQueue, TxQueue};
use anyport_af_xdp::AfXdp;

use crate::bare::forward::Forwarder;
use crate::bare::receive::{Idle, Receiver};
use crate::bare::send::Sender;
use crate::bare::{FRAME, Tuning};
use crate::topology::make_pairs;

/// How often a receiver looks before a burst counts as lost.
const LOOKS: u32 = 10_000;

/// One turn of a scenario.
pub type Turn = Box<dyn FnMut() -> Result<()>>;

/// The turn of that name, `send`, `receive` or `forward`, by `bare` rings or by `anyport`. It makes interfaces in the network
/// namespace that the process is in.
///
/// # Errors
/// There is no such scenario; it cannot be set up: no root, for instance.
pub fn turn(name: &str, by: &str, burst: usize) -> Result<Turn> {
    make_pairs(&[("a0", "a1"), ("b0", "b1")])?;
    let batch = burst as u32;
    let tuning = Tuning::default();
    let sender = || Sender::new("a0", batch, 64, &tuning);
    Ok(match (name, by) {
        ("send", "bare") => {
            let mut sender = sender()?;
            Box::new(move || all(sender.step(), batch))
        }
        ("send", "anyport") => {
            let mut a = Opened::new("a0", &pool()?)?;
            let mut held = Burst::with_capacity(burst);
            Box::new(move || {
                a.take(&mut held)?;
                a.send(&mut held, batch)
            })
        }
        ("receive", "bare") => {
            let mut receiver = Receiver::new("a1", batch, Idle::Spin, &tuning)?;
            let mut sender = sender()?;
            Box::new(move || {
                all(sender.step(), batch)?;
                until(batch, || Ok(receiver.step()))
            })
        }
        ("receive", "anyport") => {
            let mut a = Opened::new("a1", &pool()?)?;
            let mut sender = sender()?;
            let mut held = Burst::with_capacity(burst);
            Box::new(move || {
                all(sender.step(), batch)?;
                until(batch, || {
                    let received = a.recv(&mut held);
                    held.clear();
                    received
                })
            })
        }
        ("forward", "bare") => {
            let mut forwarder = Forwarder::new(["a1", "b0"], batch, Idle::Spin, &tuning)?;
            let mut sender = sender()?;
            Box::new(move || {
                all(sender.step(), batch)?;
                until(batch, || Ok(forwarder.step()))
            })
        }
        ("forward", "anyport") => {
            let pool = pool()?;
            let (mut a, mut b) = (Opened::new("a1", &pool)?, Opened::new("b0", &pool)?);
            let mut sender = sender()?;
            let mut held = Burst::with_capacity(burst);
            Box::new(move || {
                all(sender.step(), batch)?;
                until(batch, || {
                    let there = pass(&mut a, &mut b, &mut held)?;
                    Ok(there + pass(&mut b, &mut a, &mut held)?)
                })
            })
        }
        _ => anyhow::bail!("no scenario `{name} {by}`"),
    })
}

fn pool() -> Result<Pool> {
    Ok(Pool::builder().frames(8192).build()?)
}

/// A started port with one queue each way.
struct Opened {
    rx: RxQueue,
    tx: TxQueue,
    // Dropped last: queues answer `Closed` without their port.
    _port: Port,
}

impl Opened {
    fn new(interface: &str, pool: &Pool) -> Result<Opened> {
        let mut registry = Registry::new();
        registry.register(AfXdp::default())?;
        let mut port = registry.open_with(&format!("af_xdp:{interface},promiscuous=true"), pool)?;
        let (rx, tx) = port.start().context("starting the port")?.into_pair();
        Ok(Opened { rx, tx, _port: port })
    }

    fn take(&mut self, held: &mut Burst) -> Result<()> {
        self.tx.take(held, held.capacity())?;
        Ok(held.iter_mut().try_for_each(|packet| packet.set_len(FRAME))?)
    }

    fn send(&mut self, held: &mut Burst, count: u32) -> Result<()> {
        all(self.tx.send(held)? as u32, count)
    }

    fn recv(&mut self, held: &mut Burst) -> Result<u32> {
        Ok(self.rx.recv(held)? as u32)
    }
}

/// One direction.
fn pass(from: &mut Opened, to: &mut Opened, held: &mut Burst) -> Result<u32> {
    let received = from.recv(held)?;
    if received > 0 {
        to.send(held, received)?;
    }
    Ok(received)
}

fn all(moved: u32, of: u32) -> Result<()> {
    ensure!(moved == of, "only {moved} of {of} frames were sent");
    Ok(())
}

/// Looks until so many frames have come.
fn until(count: u32, mut look: impl FnMut() -> Result<u32>) -> Result<()> {
    let mut there = 0;
    for _ in 0..LOOKS {
        there += look()?;
        if there >= count {
            return Ok(());
        }
    }
    anyhow::bail!("of {count} frames {there} came")
}
