//! Exclusive use of an interface: received frames stay away from the host's stack (contract R13).
//!
//! A program at the interface's ingress (tcx, Linux 6.6) ends a frame's way after packet sockets have their copy. It stands
//! in front of the programs that others attached there, for a program behind may let through, redirect or answer what a port
//! has received; those programs stay attached, see the frames that are named to stay with the kernel
//! ([`ToKernel`]), and see everything again when ours is gone. Whoever attaches one in front of ours later decides before us.
//!
//! The program is held by a descriptor alone: it goes with the process, also after `kill -9`. When the port is closed it is
//! detached expressly, for a child that another thread is just starting has the descriptor, too, for a moment.

use std::io;

use crate::bpf::{Kind, Link, Program};
use crate::to_kernel::ToKernel;

/// Keeps received frames from the host's stack as long as it lives.
#[derive(Debug)]
pub struct Silencer {
    link: Link,
}

impl Silencer {
    /// Silences the host's stack on that interface, but for what `to_kernel` names.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6; `EPERM` without CAP_BPF and CAP_NET_ADMIN; the system's.
    pub fn attach(interface: u32, to_kernel: &ToKernel) -> io::Result<Silencer> {
        let program = Program::load(Kind::Tc, "anyport", &to_kernel.tcx_program()?)?;
        Ok(Silencer { link: program.attach_tcx_first(interface)? })
    }
}

impl Drop for Silencer {
    fn drop(&mut self) {
        self.link.detach();
    }
}
