//! Programs in the kernel: assembled here, loaded and attached by `bpf(2)`.
//!
//! Everything is held by descriptors: a program and its attachment go with the process, also after `kill -9` (contract L8). Only
//! what is made for other processes can be pinned (`share`).

pub mod asm;
pub mod btf;
pub(crate) mod info;
mod share;
mod xdp;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::owned;

pub use xdp::{Sockets, XdpMode, XdpOptions};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// The kinds of program that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A filter on a socket.
    SocketFilter = 1,
    /// At an interface's ingress, after packet sockets and before the host's stack.
    Tc = 3,
    /// At an interface's ingress, before everything.
    Xdp = 6,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// The tail of the attributes: fields that stay zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// A call of `bpf(2)`; what it returns, if that is no error.
fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are as long as is said, and point to memory that the caller has borrowed.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

impl Program {
    /// Loads a program. `name` is what `bpftool` shows; at most 15 characters of it.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF (and CAP_NET_ADMIN, for all but socket filters); `EACCES` or `EINVAL` with the verifier's
    /// last words if it does not like the program.
    pub fn load(kind: Kind, name: &str, code: &[u64]) -> io::Result<Program> {
        Program::load_with(Load { kind: kind as u32, ..Load::default() }, name, code)
    }

    /// Loads a program as `load` describes it, but for name and code.
    fn load_with(load: Load, name: &str, code: &[u64]) -> io::Result<Program> {
        const LOG: usize = 64 << 10;
        let mut load = Load {
            instructions: code.len() as u32,
            program: code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..load
        };
        load.name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
        let result = call(PROG_LOAD, &mut load);
        let refused =
            |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL));
        let fd = match result {
            Err(error) if refused(&error) => {
                // Once more, for the reason.
                let mut log = vec![0u8; LOG];
                (load.log_level, load.log_size, load.log) =
                    (1, LOG as u32, log.as_mut_ptr() as u64);
                call(PROG_LOAD, &mut load).map_err(|_| with_log(error, &log))?
            }
            result => result?,
        };
        Ok(Program(owned(fd)?))
    }

    /// Attaches a [`Kind::Tc`] program to an interface's ingress by a tcx link (Linux 6.6), in front of all that are there.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6; `EPERM` without CAP_NET_ADMIN; `ENODEV` if there is no such interface.
    pub fn attach_tcx_first(&self, interface: u32) -> io::Result<Link> {
        const TCX_INGRESS: u32 = 46;
        self.attach_first(interface, TCX_INGRESS)
    }

    /// The same at the interface's egress, in front of its queueing discipline.
    ///
    /// # Errors
    /// As [`attach_tcx_first`](Program::attach_tcx_first).
    pub fn attach_tcx_egress(&self, interface: u32) -> io::Result<Link> {
        const TCX_EGRESS: u32 = 47;
        self.attach_first(interface, TCX_EGRESS)
    }

    fn attach_first(&self, interface: u32, attach_type: u32) -> io::Result<Link> {
        /// Relative to nothing: the first of all.
        const BEFORE: u32 = 1 << 3;
        #[repr(C)]
        struct Create {
            program: u32,
            interface: u32,
            attach_type: u32,
            flags: u32,
            relative: u64,
            revision: u64,
        }
        let fd = call(
            LINK_CREATE,
            &mut Create {
                program: self.0.as_raw_fd() as u32,
                interface,
                attach_type,
                flags: BEFORE,
                relative: 0,
                revision: 0,
            },
        )?;
        Ok(Link(owned(fd)?))
    }

    /// Runs the program on a frame in the kernel, without any interface: what it returns.
    ///
    /// # Errors
    /// `EINVAL` for a frame shorter than an Ethernet header; `EPERM` without CAP_BPF; the system's.
    pub fn test_run(&self, frame: &[u8]) -> io::Result<u32> {
        self.run(frame, Run::default())
    }

    /// Runs a program of [`Kind::Xdp`] on a frame, `times` times and so many as `batch` at once (256 at most), and does what it
    /// says with the frame: what it redirects to an interface leaves there. (Linux 5.18.)
    ///
    /// # Errors
    /// `EINTR` if a signal came between two frames; `EINVAL` or `ENOTSUPP` before Linux 5.18; `EPERM` without CAP_BPF and
    /// CAP_NET_ADMIN; the system's.
    pub fn run_live(&self, frame: &[u8], times: u32, batch: u32) -> io::Result<()> {
        const LIVE_FRAMES: u32 = 1 << 1;
        self.run(frame, Run { repeat: times, flags: LIVE_FRAMES, batch, ..Run::default() })
            .map(drop)
    }

    fn run(&self, frame: &[u8], run: Run) -> io::Result<u32> {
        let mut run = Run {
            program: self.0.as_raw_fd() as u32,
            size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            ..run
        };
        call(PROG_TEST_RUN, &mut run)?;
        Ok(run.verdict)
    }
}

/// How a program is run without an interface.
#[repr(C)]
#[derive(Default)]
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

/// A program's attachment, which goes with its last descriptor.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Puts another program of the same kind in the place of the attached one: there is no moment with neither, or both.
    ///
    /// # Errors
    /// `ENOLINK` if the interface is gone; the system's.
    pub fn replace(&self, program: &Program) -> io::Result<()> {
        #[repr(C)]
        struct Update {
            link: u32,
            program: u32,
            flags: u32,
            old: u32,
        }
        let mut update = Update {
            link: self.0.as_raw_fd() as u32,
            program: program.as_raw_fd() as u32,
            flags: 0,
            old: 0,
        };
        call(LINK_UPDATE, &mut update).map(drop)
    }

    /// Detaches the program now, whoever has the descriptor still.
    pub fn detach(&self) {
        // The descriptor, and fields that stay zero.
        let mut attributes = [self.0.as_raw_fd() as u32, 0, 0, 0];
        // What cannot be detached (its interface is gone) is not attached.
        let _ = call(LINK_DETACH, &mut attributes);
    }
}

impl AsRawFd for Program {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

fn with_log(error: io::Error, log: &[u8]) -> io::Error {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    match text.lines().rev().find(|line| !line.starts_with("processed") && !line.is_empty()) {
        Some(line) => io::Error::new(error.kind(), format!("{error}: {line}")),
        None => error,
    }
}
