//! Netlink, as little of it as is needed: dumps (of links, addresses, routes) and single questions, mostly to rtnetlink.
//!
//! A socket belongs to the network namespace of the thread that makes it, so the answers are about that namespace, whatever
//! `/proc` and `/sys` happen to show.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::owned;

/// A message's header and a family header in front of its attributes are padded to this.
const ALIGN: usize = 4;
const HEADER: usize = size_of::<libc::nlmsghdr>();

/// How often a dump that was interrupted by a change is begun anew.
const ATTEMPTS: usize = 8;

/// A socket of one of netlink's protocols.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// One to rtnetlink.
    pub fn open() -> io::Result<Netlink> {
        Netlink::open_with(libc::NETLINK_ROUTE)
    }

    pub fn open_with(protocol: libc::c_int) -> io::Result<Netlink> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers.
        let socket = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) })?;
        // The kernel answers within the call that asks; this is against hanging should it ever not.
        let patience = libc::timeval { tv_sec: 5, tv_usec: 0 };
        let size = size_of::<libc::timeval>() as libc::socklen_t;
        // SAFETY: the value is as long as is said.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                std::ptr::from_ref(&patience).cast(),
                size,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(Netlink { socket, sequence: 0 })
        }
    }

    /// Shows every answer to a dump: its type, and its body behind the message header.
    ///
    /// A change meanwhile makes the kernel say that the dump is not consistent: it begins anew, so `see` may see the same
    /// thing again.
    pub fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut see: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            self.send(kind, libc::NLM_F_DUMP, body)?;
            if self.answers(true, &mut see)? {
                return Ok(());
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Shows the one answer to a question.
    pub fn ask(
        &mut self,
        kind: u16,
        body: &[u8],
        mut see: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(kind, 0, body)?;
        self.answers(false, &mut see).map(|_| ())
    }

    /// Has something done, and waits until it is.
    #[cfg(any(test, feature = "testing"))]
    pub fn order(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, libc::NLM_F_ACK, body)?;
        self.answers(false, &mut |_, _| {}).map(|_| ())
    }

    fn send(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let header = libc::nlmsghdr {
            nlmsg_len: (HEADER + body.len()) as u32,
            nlmsg_type: kind,
            nlmsg_flags: (libc::NLM_F_REQUEST | flags) as u16,
            nlmsg_seq: self.sequence,
            nlmsg_pid: 0,
        };
        let mut message = bytes_of(&header).to_vec();
        message.extend(body);
        // SAFETY: the message is as long as is said.
        let sent = unsafe {
            libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads answers up to the end of the dump, or one; false if they are not consistent.
    fn answers(&mut self, dump: bool, see: &mut impl FnMut(u16, &[u8])) -> io::Result<bool> {
        // The kernel makes its packets no longer than what is asked for with, up to 32 KiB.
        let mut buffer = vec![0u8; 64 << 10];
        let mut consistent = true;
        loop {
            // SAFETY: the buffer is as long as is said.
            let got = unsafe {
                libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            if got < 0 {
                match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                }
            }
            let mut rest = &buffer[..got as usize];
            while let Some(header) = read::<libc::nlmsghdr>(rest) {
                let length = header.nlmsg_len as usize;
                let Some(body) = rest.get(HEADER..length) else {
                    return Err(io::Error::from_raw_os_error(libc::EBADMSG));
                };
                rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
                if header.nlmsg_seq != self.sequence {
                    continue;
                }
                consistent &= header.nlmsg_flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match libc::c_int::from(header.nlmsg_type) {
                    libc::NLMSG_DONE => return Ok(consistent),
                    libc::NLMSG_ERROR => {
                        return match read::<i32>(body) {
                            Some(0) => Ok(consistent),
                            Some(code) => Err(io::Error::from_raw_os_error(-code)),
                            None => Err(io::Error::from_raw_os_error(libc::EBADMSG)),
                        };
                    }
                    _ => {
                        see(header.nlmsg_type, body);
                        if !dump {
                            return Ok(true);
                        }
                    }
                }
            }
        }
    }
}

/// Plain C structs, as bytes.
pub(crate) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` types have no padding that is not initialised, and any of their bytes may be read.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A plain C struct from the front of some bytes, if there are enough.
pub(crate) fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: that many bytes are there, and any bytes are a valid `Plain` value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Types without padding for which any bytes are valid.
///
/// # Safety
/// That is promised.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: integers, and C structs of them that fill their size.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for libc::nlmsghdr {}

/// The attributes behind a message's family header: type without its flags, and content. Ends at the first that is broken.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE_MASK: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, kind) = (read::<u16>(rest)? as usize, read::<u16>(&rest[2..])?);
        let content = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind & TYPE_MASK, content))
    })
}

/// One attribute, padded.
pub(crate) fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = 4 + content.len();
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(content);
    bytes.resize(length.next_multiple_of(ALIGN), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written_and_broken_ones_end_the_list() {
        let mut bytes = attribute(1, b"abc");
        bytes.extend(attribute(2, &[]));
        bytes.extend(attribute(3 | 0x8000, &7u32.to_ne_bytes()));
        let whole: Vec<_> = attributes(&bytes).collect();
        assert_eq!(whole, [(1, &b"abc"[..]), (2, &[]), (3, &7u32.to_ne_bytes())]);
        for cut in 0..bytes.len() {
            let some: Vec<_> = attributes(&bytes[..cut]).collect();
            assert!(some.len() < 3 && some[..] == whole[..some.len()], "{cut}");
        }
        // A length that is less than the header's own, and one far beyond the end.
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[255, 255, 1, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[4]).count(), 0);
    }
}
