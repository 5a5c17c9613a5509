//! Captures: what passes a port, for somebody to look at.
//!
//! A second opener of a device is refused (contract L2), so watching a port is the port's own service: the key
//! `capture=FILE.pcapng` writes both directions to a file (a thread of its own writes it), and
//! [`Control::tap`](crate::port::Control::tap) gives a running program the same as a [`Tap`].
//!
//! Between the queues and the reader lies a bounded ring. The port never waits for the reader: what does not fit is
//! dropped from the capture, and counted as `capture_dropped`.
//!
//! A capture costs the queue's own thread a copy of every frame that the ring takes, and of a sent frame a second one;
//! a frame for which there is no room is not copied. Offloads to the device and bursts stay what they are.

mod file;
mod tap;

pub(crate) use file::CaptureFile;
pub use tap::{Captured, Tap};
pub(crate) use tap::{Captures, Staged};

/// Which way a captured frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Delivered by `recv`.
    Received,
    /// Accepted by `send`.
    Sent,
}
