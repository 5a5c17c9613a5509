//! One opener per device (contract L2): a lock that vanishes with the process.
//!
//! The kernel does not refuse a second packet socket, so the common layer does: it binds a Unix socket to an abstract
//! name made of the device's key. The name goes with the last descriptor, so `kill -9` leaves nothing behind,
//! no file is needed and no permission; whoever finds it taken connects and asks the kernel for the holder's process
//! id. Abstract names live in a network namespace, as interfaces do; what is not in a namespace (PCI devices) is
//! refused by the kernel itself.
//!
//! Trap: a lock that is let go refuses to be asked, but its name may stay for a moment: another thread of the process may
//! be starting a program just then, and the child has all descriptors until the program begins.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// A lock on a device, held as long as the device is open; the registry takes it before it calls a backend's `open`.
///
/// Backends need it only for what they do to a device that nobody has open: naming its holder in a list, or putting back
/// what a process that was killed left changed (contract L8).
#[derive(Debug)]
pub struct DeviceLock {
    listener: OwnedFd,
}

/// How long a name may stay that nobody answers for.
const LET_GO: Duration = Duration::from_secs(1);

impl DeviceLock {
    /// The process that holds the lock on what `key` names, `Some(0)` if it cannot be known who; the holder is not
    /// disturbed, and neither is one that wants to take the lock meanwhile.
    pub fn holder(key: &str) -> Option<u32> {
        holder(&address(key).ok()?)
    }

    /// Takes the lock on what `key` names; `device` is how errors call it.
    ///
    /// # Errors
    /// [`Error::Busy`] with the holder's process id; the system's.
    pub fn take(key: &str, device: &str) -> Result<DeviceLock> {
        let deadline = Instant::now() + LET_GO;
        DeviceLock::take_while(key, device, || {
            // Nothing tells when a name goes.
            std::thread::sleep(Duration::from_millis(1));
            Instant::now() < deadline
        })
    }

    /// Tries as long as nobody answers for the name and `again` says so: it is being taken, or let go, at this moment.
    fn take_while(key: &str, device: &str, mut again: impl FnMut() -> bool) -> Result<DeviceLock> {
        let system = |source| Error::os(device, "locking the device", source);
        let address = address(key).map_err(system)?;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(DeviceLock { listener: listener.into() }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let pid = holder(&address);
                    if pid.is_some() || !again() {
                        return Err(Error::Busy { device: device.into(), pid: pid.unwrap_or(0) });
                    }
                }
                Err(error) => return Err(system(error)),
            }
        }
    }
}

impl Drop for DeviceLock {
    fn drop(&mut self) {
        // SAFETY: an open descriptor of this lock. It can only fail by not being a socket.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

fn address(key: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("anyport/device/{key}"))
}

/// The process that listens on the address; 0 if there is one that cannot be named.
///
/// A connection stays in the holder's queue, which nobody empties: when that is full (4,096 questions), the kernel refuses
/// at once because the socket does not block, and the holder is looked for in `/proc`.
fn holder(address: &SocketAddr) -> Option<u32> {
    let name = address.as_abstract_name()?;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    };
    if fd < 0 {
        return None;
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero sockaddr_un is valid.
    let mut to: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    to.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // An abstract name stands behind a zero byte.
    for (to, from) in to.sun_path.iter_mut().skip(1).zip(name) {
        *to = *from as libc::c_char;
    }
    let size = std::mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len();
    // SAFETY: the address is at least as long as is said: the standard library checked the name's length.
    let result = unsafe {
        libc::connect(socket.as_raw_fd(), (&raw const to).cast(), size as libc::socklen_t)
    };
    if result < 0 {
        let full = io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
        return full.then(|| whose(name).unwrap_or(0));
    }
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the option's type is ucred, and the size is its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut size,
        )
    };
    (result == 0).then_some(peer.pid as u32)
}

/// The process that has the socket of that name, as far as this one may look into others.
fn whose(name: &[u8]) -> Option<u32> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").ok()?;
    // Unanswered connections have the name, too: of them all one accepts any.
    const ACCEPTS: &str = "00010000";
    let shown = format!("@{}", std::str::from_utf8(name).ok()?);
    let inode = sockets.lines().find_map(|line| {
        // Number, references, protocol, flags, type, state, inode; an abstract name is shown with an `@` before it.
        let columns: Vec<&str> = line.strip_suffix(&shown)?.split_whitespace().collect();
        (columns.get(3) == Some(&ACCEPTS)).then(|| columns.get(6).copied())?
    })?;
    let link = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = descriptors.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.any(|to| to.as_os_str() == link.as_str()).then_some(pid)
    };
    let processes = std::fs::read_dir("/proc").ok()?;
    let mut pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find_map(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_opener_learns_who_was_first() {
        let key = format!("test-{}", std::process::id());
        let lock = DeviceLock::take(&key, "pcap:x").unwrap();
        let busy = || match DeviceLock::take(&key, "pcap:x") {
            Err(Error::Busy { pid, .. }) => pid,
            other => panic!("{other:?}"),
        };
        for _ in 0..300 {
            assert_eq!(busy(), std::process::id());
        }
        assert_eq!(DeviceLock::holder(&key), Some(std::process::id()));
        // Unanswered questions fill a queue in the end: the answer is the same, and nobody hangs.
        for _ in 0..4110 {
            assert_eq!(busy(), std::process::id());
        }
        let address = address(&key).unwrap();
        assert_eq!(whose(address.as_abstract_name().unwrap()), Some(std::process::id()));
        assert_eq!(DeviceLock::holder(&key), Some(std::process::id()));
        drop(lock);
        assert_eq!(DeviceLock::holder(&key), None);
        DeviceLock::take(&key, "pcap:x").unwrap();
    }

    #[test]
    fn a_lock_that_was_let_go_is_free_although_a_child_still_has_its_descriptor() {
        let key = format!("test-child-{}", std::process::id());
        let lock = DeviceLock::take(&key, "pcap:x").unwrap();
        // What a child has between its beginning and the program that it starts.
        let mut childs = Some(lock.listener.try_clone().unwrap());
        drop(lock);
        assert_eq!(DeviceLock::holder(&key), None);
        // As long as the child has it, nobody in particular is busy; when it has not any more, the lock is free.
        let busy = DeviceLock::take_while(&key, "pcap:x", || false).unwrap_err();
        assert!(matches!(busy, Error::Busy { pid: 0, .. }), "{busy}");
        let next = DeviceLock::take_while(&key, "pcap:x", || childs.take().is_some()).unwrap();
        assert!(childs.is_none(), "it was taken before the child let go");
        assert_eq!(DeviceLock::holder(&key), Some(std::process::id()));
        drop(next);
    }
}
