//! Many frames with one system call.

use std::io;
use std::os::fd::RawFd;

use anyport::{Burst, Packet};

/// Packets that one system call sends.
pub(crate) const BATCH: usize = 64;

/// Segments of those packets, all together.
const PIECES: usize = 256;

/// Messages for `sendmmsg`, made once.
pub(crate) struct Batch {
    messages: Box<[libc::mmsghdr; BATCH]>,
    pieces: Box<[libc::iovec; PIECES]>,
}

// SAFETY: the pointers inside are written anew by every call of `send`, and used only within it.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new() -> Batch {
        // SAFETY: all-zero headers and vectors are valid, and empty.
        unsafe {
            Batch { messages: Box::new(std::mem::zeroed()), pieces: Box::new(std::mem::zeroed()) }
        }
    }

    /// Sends up to `count` packets from the front of the burst in one system call, without waiting; how many the kernel
    /// took. The packets stay in the burst.
    ///
    /// # Errors
    /// The first packet's: none was taken then.
    pub fn send(&mut self, fd: RawFd, burst: &Burst, count: usize) -> io::Result<usize> {
        let (mut messages, mut used) = (0, 0);
        for packet in &burst[..count.min(BATCH)] {
            let start = used;
            for segment in packet.segments() {
                let Some(piece) = self.pieces.get_mut(used) else { break };
                // The kernel only reads through it.
                *piece = libc::iovec {
                    iov_base: segment.as_ptr().cast_mut().cast(),
                    iov_len: segment.len(),
                };
                used += 1;
            }
            if used - start < Packet::segment_count(packet) {
                break;
            }
            let header = &mut self.messages[messages].msg_hdr;
            header.msg_iov = &mut self.pieces[start];
            header.msg_iovlen = used - start;
            messages += 1;
        }
        // SAFETY: that many headers were filled in; they point into `pieces` and the burst's packets, which live on.
        let sent = unsafe {
            libc::sendmmsg(
                fd,
                self.messages.as_mut_ptr(),
                messages as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}
