//! Bare AF_XDP programs: what somebody who knows the rings well would write to be fast, and nothing besides.
//!
//! ```text
//!   send:     frames in rotation ──► transmit ring ──► completion ring ──► again
//!   receive:  fill ring ──► receive ring ──► counted, back to the fill ring
//!   forward:  receive ring ──► transmit ring of the other interface ──► its completion ring ──► the first one's fill ring
//! ```
//!
//! They are what anyport's ports are measured against: over libc alone, with the same sizes of rings and the same modes, but
//! no pool, no owned packets, no checks of what the kernel says, no counters, no stamps in the frames. A frame that cannot
//! be sent or received is tried again or forgotten.
//!
//! | module | what it does |
//! |---|---|
//! | [`memory`] | the frames |
//! | [`ring`] | the rings, unchecked |
//! | [`socket`] | a socket on an interface's first queue, and the program that feeds it |
//! | [`send`], [`receive`], [`forward`] | the programs' loops |

pub mod forward;
pub mod memory;
pub mod receive;
pub mod ring;
pub mod send;
pub mod socket;

pub use memory::Memory;
pub use socket::{Port, Tuning};

/// Bytes of a frame without FCS: the smallest that Ethernet has.
pub const FRAME: usize = 60;

/// A 60-byte frame to everybody, of an Ethernet type for experiments.
pub fn frame() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}
