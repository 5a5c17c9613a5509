//! Frames that the kernel makes itself, at an interface under load: more than any sender on one core can send.
//!
//! ```text
//!   bpf(BPF_PROG_TEST_RUN, live frames) ─ program: redirect to ─► h0 ═══ f0, which has an XDP program
//! ```
//!
//! The kernel runs a program on a frame again and again and does what the program says (Linux 5.18): here, to send it out of an
//! interface. No packet of the kernel's own is made of it, so that a frame costs a fraction of what a sender's frame costs.
//!
//! Trap: a veth interface takes such frames only while its peer has an XDP program; until then they are lost.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::{Assembler, Op, Reg};
use anyport_netdev::bpf::{Kind, Program};

use crate::bare::{FRAME, frame};

const PROG_TEST_RUN: libc::c_long = 10;

/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;

/// `bpf_redirect(interface, flags)`.
const REDIRECT: i32 = 23;

/// The kernel's attributes of a run.
#[repr(C)]
#[derive(Debug, Default)]
struct Run {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

/// A source of frames.
#[derive(Debug)]
pub struct Source {
    program: Program,
    frame: [u8; FRAME],
}

impl Source {
    /// A source that sends out of an interface.
    ///
    /// # Errors
    /// There is no such interface; no CAP_BPF and CAP_NET_ADMIN.
    pub fn new(interface: &str) -> Result<Source> {
        let to = Interface::open(interface).with_context(|| format!("opening {interface}"))?;
        let code = redirect(to.index()).context("assembling the program")?;
        let program = Program::load(Kind::Xdp, "source", &code).context("loading the program")?;
        Ok(Source { program, frame: frame() })
    }

    /// Sends frames, `batch` of them at a time (256 at most), and returns when all are sent. Setting up and ending takes some
    /// 30 ms.
    ///
    /// # Errors
    /// `EINVAL` or `ENOTSUPP` before Linux 5.18; the system's.
    pub fn send(&self, frames: u32, batch: u32) -> io::Result<()> {
        let mut run = Run {
            program: self.program.as_raw_fd() as u32,
            size_in: FRAME as u32,
            data_in: self.frame.as_ptr() as u64,
            repeat: frames,
            flags: LIVE_FRAMES,
            batch,
            ..Run::default()
        };
        let size = size_of::<Run>();
        // SAFETY: the attributes are as long as is said, and point to the frame, which is only read.
        let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut run, size) };
        match done {
            0.. => Ok(()),
            _ => match io::Error::last_os_error() {
                // A signal, between two frames.
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
        }
    }
}

fn redirect(interface: u32) -> Option<Vec<u64>> {
    let mut code = Assembler::new();
    code.op(Op::Mov, Reg::R1, interface as i32)
        .op(Op::Mov, Reg::R2, 0)
        .call(REDIRECT)
        .exit_with_r0();
    code.finish()
}
