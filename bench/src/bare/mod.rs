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
//! Which variants are fastest was tried on veth interfaces, in copy mode, on two cores of a virtual machine with Linux 6.18;
//! millions of frames a second:
//!
//! | variant | sender alone | sender to receiver | forwarder |
//! |---|---|---|---|
//! | batches of 32, 32 frames a system call | 1.34 | 0.85 | 1.12 |
//! | batches of 64, the budget of a call raised | 1.37 | 0.88 | 1.07 |
//! | batches of 256, the budget raised | 1.38 | 0.88 | 1.08 |
//! | one frame again and again, or 1024 in rotation, instead of 64 | no difference | | |
//! | receiver sleeps in `poll` instead of looking all the time | | 0.42 | 1.07 |
//! | receiver asks for busy polling | | 0.70, now and then 0.88 | 1.06 |
//! | interface collects received frames for 100 µs ([`defer`](crate::topology::defer)) | | 1.08 | |
//! | the same, and the receiver sleeps | | 1.00 | |
//!
//! A frame's time is the kernel's: each frame that is sent makes it look at the receiving interface, on the sender's core. Who
//! collects them for longer than veth's ring of 256 lasts loses it again (150 µs: 0.90). So: batches of 64, and no knob but
//! the budget.
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
