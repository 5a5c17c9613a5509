//! Exclusive use of an interface: received frames stay away from the host's stack (contract R13).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::owned;

/// Keeps received frames from the host's stack: a two-instruction program at the interface's ingress (tcx, Linux 6.6). Packet
/// sockets have their copy by then. It goes with the descriptor, so with the process.
///
/// # Errors
/// The system's: `EPERM` without CAP_BPF, `EINVAL` before Linux 6.6.
pub fn silence(index: u32) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    const LINK_CREATE: libc::c_long = 28;
    const SCHED_CLS: u32 = 3;
    const TCX_INGRESS: u32 = 46;
    /// `mov r0, TCX_DROP` and `exit`.
    const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
        rest: [u32; 11],
        attach_type: u32,
        pad: u32,
    }
    #[repr(C)]
    struct Create {
        program: u32,
        index: u32,
        attach_type: u32,
        flags: u32,
        relative: [u64; 2],
    }
    fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
        // SAFETY: the attributes are as long as is said, and point to memory that lives on.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
        };
        owned(fd as libc::c_int)
    }
    let program = bpf(
        PROG_LOAD,
        &Load {
            kind: SCHED_CLS,
            instructions: PROGRAM.len() as u32,
            program: PROGRAM.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            rest: [0; 11],
            attach_type: TCX_INGRESS,
            pad: 0,
        },
    )?;
    let program = program.as_raw_fd() as u32;
    bpf(
        LINK_CREATE,
        &Create { program, index, attach_type: TCX_INGRESS, flags: 0, relative: [0; 2] },
    )
}
