//! The namespaces that a thread is in, and what they prove about others that are gone.
//!
//! Nobody can ask the kernel whether a network namespace still exists: one may be held by a descriptor, a socket or a mount
//! of any process, seen or unseen. But the inode numbers of all namespaces, of whatever kind, come from one store, and two
//! that exist at once never have the same. So a namespace whose number another one has is gone, for certain. The kernel gives
//! the least number that is free, so numbers do come again; until then nothing is known, and it has to be taken for alive.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use crate::interface::namespace_of;
use crate::sys::owned;

/// The namespaces of one thread, which exist as long as it is in them.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// The network namespace: the kernel's number, which is never used again, and the inode's.
    network: Option<(u64, u64)>,
    /// The inode numbers of all others.
    others: Vec<u64>,
}

impl Namespaces {
    /// Those of the calling thread, as far as `/proc` shows them.
    pub fn of_this_thread() -> Namespaces {
        let mut all = Namespaces::default();
        for file in fs::read_dir("/proc/thread-self/ns").into_iter().flatten().flatten() {
            let Ok(inode) = fs::metadata(file.path()).map(|namespace| namespace.ino()) else {
                continue;
            };
            if file.file_name() == "net" {
                all.network = network().ok().flatten().map(|number| (number, inode));
            } else {
                all.others.push(inode);
            }
        }
        all
    }

    /// The inode number of the network namespace with that number, if this is it.
    pub fn inode_of(&self, network: u64) -> Option<u64> {
        self.network.filter(|(number, _)| *number == network).map(|(_, inode)| inode)
    }

    /// Whether the network namespace that had those two numbers is gone for certain: another namespace has its inode number.
    pub fn prove_gone(&self, network: u64, inode: u64) -> bool {
        self.others.contains(&inode)
            || self.network.is_some_and(|(number, own)| own == inode && number != network)
    }
}

/// The kernel's number of the network namespace that this thread is in; `None` before Linux 5.14.
fn network() -> io::Result<Option<u64>> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let socket = owned(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    namespace_of(socket.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_namespace_of_the_same_inode_number_is_proof() {
        let here = Namespaces { network: Some((7, 100)), others: vec![200, 201] };
        assert_eq!((here.inode_of(7), here.inode_of(8)), (Some(100), None));
        // Itself; one with another inode number; one whose number is this network namespace's, or another one's, now.
        for (network, inode, gone) in [
            (7, 100, false),
            (8, 101, false),
            (8, 100, true),
            (8, 200, true),
            (8, 201, true),
            (9, 7, false),
        ] {
            assert_eq!(here.prove_gone(network, inode), gone, "{network} {inode}");
        }
        assert!(!Namespaces::default().prove_gone(8, 100));
    }

    #[test]
    fn a_thread_sees_its_own() {
        let here = Namespaces::of_this_thread();
        let (number, inode) = here.network.unwrap();
        assert_eq!(fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), inode);
        assert!(here.others.len() >= 5 && !here.others.contains(&inode), "{here:?}");
        assert!(!here.prove_gone(number, inode));
    }
}
