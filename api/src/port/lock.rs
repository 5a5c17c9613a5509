//! One opener per device (contract L2): a lock that vanishes with the process.
//!
//! The kernel does not refuse a second packet socket, so the common layer does: it binds a Unix socket to an abstract
//! name made of the device's key. The name goes with the last descriptor, so `kill -9` leaves nothing behind,
//! no file is needed and no permission; whoever finds it taken connects and asks the kernel for the holder's process
//! id. Abstract names live in a network namespace, as interfaces do; what is not in a namespace (PCI devices) is
//! refused by the kernel itself.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use crate::error::{Error, Result};

/// Held as long as the device is open.
#[derive(Debug)]
pub(crate) struct DeviceLock {
    _listener: OwnedFd,
}

impl DeviceLock {
    /// Takes the lock on what `key` names; `device` is how errors call it.
    pub fn take(key: &str, device: &str) -> Result<DeviceLock> {
        let system = |source| Error::os(device, "locking the device", source);
        let name = format!("anyport/device/{key}");
        let address = SocketAddr::from_abstract_name(name).map_err(system)?;
        // A holder may be closing between the two steps: look twice, then take what is seen.
        for last in [false, true] {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(DeviceLock { _listener: listener.into() }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    if let Some(pid) = holder(&address) {
                        return Err(Error::Busy { device: device.into(), pid });
                    }
                    if last {
                        return Err(Error::Busy { device: device.into(), pid: 0 });
                    }
                }
                Err(error) => return Err(system(error)),
            }
        }
        Err(Error::Busy { device: device.into(), pid: 0 })
    }
}

/// The process that listens on the address.
fn holder(address: &SocketAddr) -> Option<u32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the option's type is ucred, and the size is its size.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut size,
        )
    };
    (result == 0).then_some(peer.pid as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_opener_learns_who_was_first() {
        let key = format!("test-{}", std::process::id());
        let lock = DeviceLock::take(&key, "pcap:x").unwrap();
        // Often: unanswered connections of those who asked must not fill a queue.
        for _ in 0..300 {
            match DeviceLock::take(&key, "pcap:x") {
                Err(Error::Busy { pid, .. }) => assert_eq!(pid, std::process::id()),
                other => panic!("{other:?}"),
            }
        }
        drop(lock);
        DeviceLock::take(&key, "pcap:x").unwrap();
    }
}
