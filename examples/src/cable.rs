//! Two short functions for the guides, whose examples run on an in-process cable.

use anyport::{Burst, Packet, Pool, Port, Result, RxQueue, TxQueue};

/// Opens a port by its spec and starts it.
///
/// # Errors
/// Whatever stands in the way.
pub fn start(spec: &str, pool: &Pool) -> Result<(Port, RxQueue, TxQueue)> {
    let mut port = anyport_backends::registry().open_with(spec, pool)?;
    let (rx, tx) = port.start()?.into_pair();
    Ok((port, rx, tx))
}

/// Sends a packet on one end of a cable and takes it from the other.
///
/// # Errors
/// What the queues say.
///
/// # Panics
/// If the queue has no room, or if anything but one frame is there.
pub fn pass(packet: Packet, tx: &mut TxQueue, rx: &mut RxQueue) -> Result<Packet> {
    assert!(tx.send_one(packet)?.is_none(), "there is no room");
    let mut burst = Burst::new();
    assert_eq!(rx.recv(&mut burst)?, 1, "one frame arrives");
    Ok(burst.pop_front().expect("one was received"))
}
