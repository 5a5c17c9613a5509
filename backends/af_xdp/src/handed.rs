//! What another process has made for this one, so that this one needs no privilege: a map of sockets that an attached program
//! hands frames to, sockets, or both.
//!
//! | spec | this process makes | it needs |
//! |---|---|---|
//! | `map=` | sockets, and puts them into the map | CAP_NET_RAW |
//! | `sockets=` | nothing: who made them has put them into a map | – |
//! | both | nothing, and puts the sockets into the map | – |
//!
//! Everything else that a port does, registering its pool, making rings, binding, sending and receiving, needs no privilege.
//!
//! Traps:
//! - A socket can be bound once, so a port on handed sockets can be started once.
//! - A socket that somebody else has open as well goes on receiving into the pool when this process has closed it. That is found
//!   out (`Witness`), and the frames are never used again (contract L6).
//! - A number in a spec is taken over when the port is opened, and closed with it: nothing else in this process may own it.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyport::config::PortConfig;
use anyport::{Error, Result};
use anyport_netdev::bpf::Sockets;
use anyport_netdev::sys::{get_option, owned};
use anyport_netdev::{Interface, open};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::keys::{Attach, Keys};
use crate::preflight::{knows_flag, unsupported};
use crate::socket::Socket;

/// Numbers of descriptors, as the key `sockets` has them: `5+6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptors(Vec<RawFd>);

const NUMBERS: &str =
    "expected the numbers of open descriptors, one per queue, each once: `5` or `5+6`";

impl Descriptors {
    fn new(numbers: Vec<RawFd>) -> Option<Descriptors> {
        let once = numbers.iter().enumerate().all(|(at, one)| !numbers[..at].contains(one));
        // The first three are everybody's.
        (once && !numbers.is_empty() && numbers.iter().all(|number| *number > 2))
            .then_some(Descriptors(numbers))
    }
}

impl<'de> Deserialize<'de> for Descriptors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Descriptors, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = Descriptors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers of descriptors")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Descriptors, E> {
                let numbers = text.split('+').map(str::parse).collect::<Result<_, _>>().ok();
                numbers.and_then(Descriptors::new).ok_or_else(|| E::custom(NUMBERS))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Descriptors, E> {
                let number = RawFd::try_from(number).ok();
                let one = number.and_then(|number| Descriptors::new(vec![number]));
                one.ok_or_else(|| E::custom(NUMBERS))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Descriptors, A::Error> {
                let mut numbers = Vec::new();
                while let Some(number) = list.next_element()? {
                    numbers.push(number);
                }
                Descriptors::new(numbers).ok_or_else(|| serde::de::Error::custom(NUMBERS))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

/// What was handed to a port.
#[derive(Debug)]
pub(crate) struct Handed {
    title: String,
    map: Option<Sockets>,
    /// By queue, until the port is started.
    sockets: Option<Vec<Socket>>,
    /// Sockets were handed over, be they there still or not.
    has_sockets: bool,
    /// For how many queues that is enough.
    pub queues: u32,
    pub segments: bool,
}

impl Handed {
    /// Looks at what the keys name; takes nothing over but on success.
    ///
    /// # Errors
    /// [`Error::Backend`] with what is wrong with it; [`Error::Unsupported`] for what is not this port's to choose.
    pub fn take(
        title: &str,
        keys: &Keys,
        config: &PortConfig,
        interface: &Interface,
    ) -> Result<Option<Handed>> {
        if keys.map.is_none() && keys.sockets.is_none() {
            return Ok(None);
        }
        let theirs =
            "that is for who attached the program: a port with map= or sockets= attaches none";
        if keys.attach != Attach::Auto {
            let asked = if keys.attach == Attach::Native { "native" } else { "generic" };
            return Err(unsupported(title, "attach", asked, theirs.into()));
        }
        if !config.to_kernel.is_empty() {
            let asked = config.to_kernel.join(",");
            return Err(unsupported(title, "to_kernel", &asked, theirs.into()));
        }
        let map = keys.map.as_deref().map(|map| find_map(title, map)).transpose()?;
        let in_map = match &map {
            Some(map) => map.queues().map_err(|error| {
                Error::os(title, "asking the map of sockets for its size", error)
            })?,
            None => u32::MAX,
        };
        let mut queues = in_map;
        let segments = match &keys.sockets {
            None => {
                let socket = Socket::new().map_err(|error| no_socket(title, error))?;
                knows_flag(&socket, libc::XDP_USE_SG)
            }
            Some(Descriptors(numbers)) => {
                queues = queues.min(numbers.len() as u32);
                for number in numbers {
                    check_socket(title, *number, interface)?;
                }
                knows_flag(&numbers[0], libc::XDP_USE_SG)
            }
        };
        let segments = segments.map_err(|error| Error::os(title, "asking AF_XDP", error))?;
        let asked = config.rx_queue_count().max(config.tx_queue_count());
        if u32::from(asked) > queues {
            let limit = format!("what was handed over is enough for {queues}");
            return Err(unsupported(title, "queues", &asked.to_string(), limit));
        }
        let has_sockets = keys.sockets.is_some();
        let sockets = match &keys.sockets {
            None => None,
            Some(Descriptors(numbers)) => {
                let take_over = |number: &RawFd| take_over(*number);
                let sockets = numbers.iter().map(take_over).collect::<io::Result<_>>();
                Some(sockets.map_err(|error| Error::os(title, "taking the sockets over", error))?)
            }
        };
        let title = title.into();
        Ok(Some(Handed { title, map, sockets, has_sockets, queues, segments }))
    }

    /// The sockets, by queue; none if the port has to make them.
    ///
    /// # Errors
    /// [`Error::Backend`] if they were used already.
    pub fn sockets(&mut self) -> Result<Vec<Socket>> {
        if self.has_sockets && self.sockets.is_none() {
            return Err(Error::Backend {
                device: self.title.clone(),
                reason: "the sockets that were handed over were used by the first start, and a socket cannot be bound twice; open \
                         the port again with new ones, or with map= alone (which needs CAP_NET_RAW)"
                    .into(),
            });
        }
        Ok(self.sockets.take().unwrap_or_default())
    }

    /// Whether sockets were handed over, so that others may have them open, too.
    pub fn has_sockets(&self) -> bool {
        self.has_sockets
    }

    /// Lets frames of a queue come to a socket, if that is not done yet.
    ///
    /// # Errors
    /// [`Error::Backend`] if another socket has the queue; the system's.
    pub fn add(&self, queue: u32, socket: &Socket) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        map.add(queue, socket.as_raw_fd()).map_err(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => Error::Backend {
                device: self.title.clone(),
                reason: format!(
                    "another socket has queue {queue} of the map of sockets; whoever has it open has to close it first"
                ),
            },
            Some(libc::EPERM) => Error::Permission {
                device: self.title.clone(),
                doing: "put a socket into the map of sockets".into(),
                needs: "CAP_BPF before Linux 5.19".into(),
                remedy: "`sudo sysctl kernel.unprivileged_bpf_disabled=0` lets everybody, or let who makes the sockets put them \
                         into the map, and give sockets= alone"
                    .into(),
            },
            _ => Error::os(&self.title, "putting a socket into the map of sockets", error),
        })
    }

    /// Lets no more frames come to the first so many queues.
    pub fn clear(&self, queues: u32) {
        for queue in 0..queues {
            // A map that refuses has nothing of ours.
            let _ = self.map.as_ref().map(|map| map.clear(queue));
        }
    }
}

fn find_map(title: &str, map: &Path) -> Result<Sockets> {
    let number = map.to_str().and_then(|map| map.parse::<RawFd>().ok());
    let found = match number {
        Some(number) => Sockets::inherited(number),
        None => Sockets::pinned(map),
    };
    let shown = map.display();
    let failed = |reason: String| Error::Backend { device: title.into(), reason };
    found.map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => Error::Permission {
            device: title.into(),
            doing: format!("use the map of sockets {shown}"),
            needs: "leave to read and write that file, and to enter its directories".into(),
            remedy: format!(
                "`sudo chown $(id -u) {shown}`, and `sudo chmod o+x` for a directory; before Linux 5.19 it takes CAP_BPF as well"
            ),
        },
        Some(libc::ENOENT) => failed(format!("no map of sockets is pinned at {shown}")),
        Some(libc::EBADF) => failed(format!("map={shown}: no such descriptor is open")),
        Some(libc::EINVAL) => failed(format!("{shown} is no map of AF_XDP sockets (BPF_MAP_TYPE_XSKMAP)")),
        _ => Error::os(title, format!("opening the map of sockets {shown}"), error),
    })
}

/// Refuses what is no AF_XDP socket, or one of another network namespace.
fn check_socket(title: &str, number: RawFd, interface: &Interface) -> Result<()> {
    let failed = |reason: String| Error::Backend { device: title.into(), reason };
    let mut domain: libc::c_int = 0;
    match get_option(number, libc::SOL_SOCKET, libc::SO_DOMAIN, &mut domain) {
        Ok(_) if domain == libc::AF_XDP => {}
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
            return Err(failed(format!(
                "sockets={number}: no such descriptor is open; was it closed when this program was started (close-on-exec)?"
            )));
        }
        _ => return Err(failed(format!("descriptor {number} is no AF_XDP socket"))),
    }
    open::check_namespace(interface, title, number).map_err(|error| match error {
        Error::Backend { .. } => failed(format!(
            "the socket {number} was made in another network namespace than the interface's: it can be bound there only"
        )),
        error => error,
    })
}

/// Makes an inherited descriptor this port's own. It was checked to be an AF_XDP socket.
fn take_over(number: RawFd) -> io::Result<Socket> {
    // SAFETY: no pointers.
    let copy = owned(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the spec says that this number is the port's from now on, and nobody else's in this process.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(Socket::from(copy))
}

/// The process may not make a socket.
fn no_socket(title: &str, error: io::Error) -> Error {
    use anyport_netdev::privilege::{Privilege, denied};
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            denied(title, "open an AF_XDP socket (sockets= needs none)", &[Privilege::NetRaw])
        }
        _ => Error::os(title, "opening an AF_XDP socket", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport::config::from_table;

    #[test]
    fn numbers_of_descriptors_are_read_and_others_refused() {
        let read = |value: &str| {
            let table = format!("sockets = {value}").parse().unwrap();
            from_table::<Keys>("x", &table).map(|keys| keys.sockets.unwrap().0)
        };
        assert_eq!(read("5").unwrap(), [5]);
        assert_eq!(read("\"5+6\"").unwrap(), [5, 6]);
        assert_eq!(read("[7, 5]").unwrap(), [7, 5]);
        for wrong in ["\"\"", "\"5+\"", "\"5+5\"", "-1", "2", "\"a\"", "[]", "99999999999"] {
            let error = read(wrong).unwrap_err();
            let Error::InvalidValue { key, expected, .. } = &error else { panic!("{error:?}") };
            assert_eq!((key.as_str(), expected.as_str()), ("sockets", NUMBERS), "{wrong}");
        }
    }
}
