//! Exclusive use of an interface: received frames stay away from the host's stack (contract R13).
//!
//! A program at the interface's ingress (tcx, Linux 6.6) ends a frame's way after packet sockets have their copy. It stands
//! in front of the programs that others attached there, for a program behind may let through, redirect or answer what a port
//! has received; those programs stay attached, see the frames that are named to stay with the kernel
//! ([`ToKernel`]), and see everything again when ours is gone. Whoever attaches one in front of ours later decides before us.
//!
//! The program is loaded when a port opens, which shows whether it can be attached at all, and attached from start to stop
//! only: a port that nobody receives from must not cut the host off.
//!
//! It is held by a descriptor alone: it goes with the process, also after `kill -9`. When the port is stopped it is detached
//! expressly, for a child that another thread is just starting has the descriptor, too, for a moment.

use std::io;

use crate::bpf::{Kind, Link, Program};
use crate::to_kernel::ToKernel;

/// No interface has this index: they are positive, in 32 bits with a sign.
const NO_INTERFACE: u32 = u32::MAX;

/// Keeps received frames from the host's stack while it is attached.
#[derive(Debug)]
pub struct Silencer {
    program: Program,
    link: Option<Link>,
}

impl Silencer {
    /// Makes everything ready to silence the host's stack, but for what `to_kernel` names. No interface is touched.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6; `EPERM` without CAP_BPF and CAP_NET_ADMIN; the system's.
    pub fn prepare(to_kernel: &ToKernel) -> io::Result<Silencer> {
        let program = Program::load(Kind::Tc, "anyport", &to_kernel.tcx_program()?)?;
        // A kernel that knows these links looks for the interface; another one refuses the attributes.
        match program.attach_tcx_first(NO_INTERFACE) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
            _ => Ok(Silencer { program, link: None }),
        }
    }

    /// Silences the host's stack on that interface of the calling thread's network namespace, until
    /// [`detach`](Silencer::detach).
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface; `EPERM` if the privilege was given up meanwhile; the system's.
    pub fn attach(&mut self, interface: u32) -> io::Result<()> {
        self.detach();
        self.link = Some(self.program.attach_tcx_first(interface)?);
        Ok(())
    }

    /// Lets the host's stack have everything again.
    pub fn detach(&mut self) {
        if let Some(link) = self.link.take() {
            link.detach();
        }
    }
}

impl Drop for Silencer {
    fn drop(&mut self) {
        self.detach();
    }
}
