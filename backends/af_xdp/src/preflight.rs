//! What can be known before a port starts: what the kernel and the driver can do.

use std::io;
use std::os::fd::AsRawFd;

use crate::socket::Socket;

/// Whether frames may lie in several descriptors (Linux 6.6), in copy mode at any rate.
///
/// What the driver declares does not say it for copy mode, but `bind` looks at the flags before anything else, so one to an
/// interface that cannot be does.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW; `EAFNOSUPPORT` if the kernel has no AF_XDP.
pub(crate) fn kernel_has_segments() -> io::Result<bool> {
    knows_flag(&Socket::new()?, libc::XDP_USE_SG)
}

/// Whether `bind` knows a flag; the socket stays as it was.
fn knows_flag(socket: &Socket, flag: u16) -> io::Result<bool> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flag,
        sxdp_ifindex: u32::MAX >> 1,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as is said.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    match io::Error::last_os_error() {
        error if result < 0 && error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        error if result < 0 && error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport_netdev::testing::in_namespace;

    #[test]
    fn flags_that_the_kernel_knows_are_told_from_those_that_it_does_not() {
        in_namespace(|| {
            let socket = Socket::new().unwrap();
            for flag in [libc::XDP_COPY, libc::XDP_USE_NEED_WAKEUP] {
                assert!(knows_flag(&socket, flag).unwrap(), "{flag}");
            }
            assert!(!knows_flag(&socket, 1 << 15).unwrap());
            kernel_has_segments().unwrap();
        });
    }
}
