//! Maps of sockets, and links, that outlive the process that made them, or are another one's: pinned in a BPF file system, or
//! handed over as a descriptor.
//!
//! Who may write to the file (or has the descriptor) may use the map: since Linux 5.19 without any capability, before that
//! with CAP_BPF, or where `kernel.unprivileged_bpf_disabled` is 0.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::info::info;
use super::xdp::{Entry, XSKMAP};
use super::{Link, MAP_UPDATE, Sockets, call};
use crate::sys::owned;

const OBJECT_PIN: libc::c_long = 6;
const OBJECT_GET: libc::c_long = 7;

/// The start of the attributes of both.
#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

fn pin(fd: RawFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object { path: path.as_ptr() as u64, fd: fd as u32, ..Object::default() };
    call(OBJECT_PIN, &mut object).map(drop)
}

impl Sockets {
    /// The map that is pinned at a path.
    ///
    /// # Errors
    /// `ENOENT`; `EACCES` if this process may not write there; `EINVAL` if what is there is no map of sockets; `EPERM` before
    /// Linux 5.19 without CAP_BPF.
    pub fn pinned(path: &Path) -> io::Result<Sockets> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut object = Object { path: path.as_ptr() as u64, ..Object::default() };
        Sockets::checked(owned(call(OBJECT_GET, &mut object)?)?)
    }

    /// The map behind a descriptor of this process, which stays as it is.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL` if it is no map of sockets.
    pub fn inherited(descriptor: RawFd) -> io::Result<Sockets> {
        // SAFETY: no pointers; a descriptor that is none is refused.
        let copy = owned(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) })?;
        Sockets::checked(copy)
    }

    fn checked(fd: OwnedFd) -> io::Result<Sockets> {
        let map = Sockets(fd);
        match map.info()?.kind {
            XSKMAP => Ok(map),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn info(&self) -> io::Result<MapInfo> {
        info(&self.0)
    }

    /// For how many queues it is.
    ///
    /// # Errors
    /// The system's.
    pub fn queues(&self) -> io::Result<u32> {
        self.info().map(|info| info.entries)
    }

    /// As [`set`](Sockets::set), but another one's socket stays where it is.
    ///
    /// # Errors
    /// As [`set`](Sockets::set); `EEXIST` if another socket has the queue.
    pub fn add(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        const NO_EXIST: u64 = 1;
        let socket = socket as u32;
        let mut entry = Entry {
            map: self.0.as_raw_fd() as u32,
            key: (&raw const queue) as u64,
            value: (&raw const socket) as u64,
            flags: NO_EXIST,
            ..Entry::default()
        };
        call(MAP_UPDATE, &mut entry).map(drop)
    }

    /// Pins it at a path in a BPF file system: it stays until that file is removed.
    ///
    /// # Errors
    /// `EEXIST`; `ENOENT` without the directory; `EPERM` if that is in no BPF file system.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_raw_fd(), path)
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// Pins it at a path in a BPF file system: the program stays attached until that file is removed.
    ///
    /// # Errors
    /// As [`Sockets::pin`].
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_raw_fd(), path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Program;
    use crate::testing::{in_namespace, may_load_programs};

    #[test]
    fn what_is_no_map_of_sockets_is_not_taken_for_one() {
        in_namespace(|| {
            if !may_load_programs() {
                return;
            }
            let map = Sockets::new(7).unwrap();
            let same = Sockets::inherited(map.as_raw_fd()).unwrap();
            assert_eq!(same.queues().unwrap(), 7);
            let code = |error: io::Result<Sockets>| error.unwrap_err().raw_os_error();
            let program = crate::to_kernel::ToKernel::default().tcx_program().unwrap();
            let program = Program::load(crate::bpf::Kind::Tc, "anyport_test", &program).unwrap();
            assert_eq!(code(Sockets::inherited(program.as_raw_fd())), Some(libc::EINVAL));
            assert_eq!(code(Sockets::inherited(-1)), Some(libc::EBADF));
            let file = tempfile::tempfile().unwrap();
            assert_eq!(code(Sockets::inherited(file.as_raw_fd())), Some(libc::EINVAL));
            assert_eq!(code(Sockets::pinned(Path::new("/no/such"))), Some(libc::ENOENT));
            let not_there = map.add(0, -1).unwrap_err();
            assert_eq!(not_there.raw_os_error(), Some(libc::EBADF));
            let refused = map.pin(Path::new("/tmp/no-bpf-file-system")).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        });
    }
}
