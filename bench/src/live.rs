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

use anyhow::{Context, Result};
use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::{Assembler, Op, Reg};
use anyport_netdev::bpf::{Kind, Program};

use crate::bare::{FRAME, frame};

/// `bpf_redirect(interface, flags)`.
const REDIRECT: i32 = 23;

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
        match self.program.run_live(&self.frame, frames, batch) {
            // A signal, between two frames.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
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
