//! `loop:NAME.0` and `loop:NAME.1`: an in-process cable. It needs no privilege and no device, and is the reference for
//! what the contract means.
//!
//! Frames of a pool that both ends have attached are handed over without a copy; others are copied into the
//! receiver's pool. A full receive ring drops and counts at the receiver. The transmit ring fills only while the cable is
//! paused ([`Cable::pause`]). Frames to an end that is not started are lost, as on a wire that ends nowhere: nobody counts
//! them. The link of both ends is up while the cable is plugged in ([`Cable::set_link`]), whoever is at the other end.
//! With `device_offloads=true` an end does checksums, VLAN tags and hashes itself, instead of the common layer; a frame
//! for whose tag the pool has no room waits in the burst, or is the sender's `tx_dropped` if it was accepted while the
//! cable was paused. Transmit timestamps that nobody fetches are kept up to 4,096.
//!
//! ```
//! use anyport::{Burst, Pool, Registry};
//!
//! # fn main() -> anyport::Result<()> {
//! let mut registry = Registry::new();
//! registry.register(anyport_loopback::Loopback::default())?;
//! let pool = Pool::builder().frames(64).build()?;
//! let mut left = registry.open_with("loop:doc.0", &pool)?;
//! let mut right = registry.open_with("loop:doc.1,promiscuous=true", &pool)?;
//! let (_, mut tx) = left.start()?.into_pair();
//! let (mut rx, _) = right.start()?.into_pair();
//! let mut burst = Burst::new();
//! burst.push(pool.packet(&[7; 60]).unwrap()).unwrap();
//! tx.send(&mut burst)?;
//! assert_eq!(rx.recv(&mut burst)?, 1);
//! assert_eq!(burst[0].data(), [7; 60]);
//! # Ok(())
//! # }
//! ```

mod cable;
mod driver;
mod faults;
mod offload;
mod ring;
mod steer;

pub use cable::Cable;
pub use driver::Loopback;
pub use faults::Faults;
