//! P, pool and packets: no frame is lost, none is there twice, and a packet is what its owner makes of it.

mod frames_add_up;
mod owners;
mod packets;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] = &[frames_add_up::CASES, owners::CASES, packets::CASES];

use anyport::{Packet, Pool};

/// All frames that can be taken right now: those that lie in a queue's cache cannot.
fn take_all(pool: &Pool) -> Vec<Packet> {
    // One more than there can be, so that a pool that gives too many does not go on for ever.
    std::iter::from_fn(|| pool.take()).take(pool.capacity() + 1).collect()
}
