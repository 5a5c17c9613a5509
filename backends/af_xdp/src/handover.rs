//! For a process that has privileges, and hands an interface's frames to one that has none.
//!
//! [`Handover::open`] attaches the program that a port would attach; what it hands frames to is a map of sockets, which is empty.
//! Then there are three ways to hand over:
//!
//! | this process | the other opens | and needs |
//! |---|---|---|
//! | makes sockets, and starts the other with them: [`Handover::sockets`], [`pass`] | `af_xdp:eth0,sockets=5+6` | nothing |
//! | pins the map, and gives the file to the other's user: [`Handover::pin`] | `af_xdp:eth0,map=/sys/fs/bpf/eth0/map` | CAP_NET_RAW |
//! | passes the map's descriptor ([`Handover::map`]) | `af_xdp:eth0,map=5` | CAP_NET_RAW |
//!
//! ```no_run
//! use std::process::Command;
//! use anyport_af_xdp::handover::{Handover, Options, pass};
//!
//! # fn main() -> anyport::Result<()> {
//! let handover = Handover::open("eth0", &Options::default())?;
//! let mut command = Command::new("/usr/bin/worker");
//! let sockets = pass(&mut command, handover.sockets(2)?);
//! command.arg(format!("af_xdp:eth0,queues=2,sockets={sockets}"));
//! let mut worker = command.spawn().unwrap();
//! // Or else this process has the worker's sockets open for as long as it runs.
//! drop(command);
//! worker.wait().unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! Traps:
//! - From the moment when a socket is in the map until it is bound, and when its process has stopped receiving, frames of its queue
//!   are dropped. When the socket is closed they go to the host's stack.
//! - The program does not sort by address: the port does (contract R6).
//! - What the interface receives beyond its own address, all groups and with [`Options::promiscuous`] everything, it receives for as
//!   long as this process holds the [`Handover`]: such memberships are a socket's, which cannot be pinned. After that a pinned
//!   program goes on with what a card lets through by itself, unless somebody sets `ip link set dev eth0 allmulticast on` (and
//!   `promisc on`) for good. On veth and tap there is no difference.
//! - Nothing of the interface is changed, because nobody would put it back: what puts frames together, or takes VLAN tags out of
//!   them, is refused with the command that switches it off.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyport::driver::DeviceLock;
use anyport::{Error, Result};
use anyport_netdev::bpf::{Link as Attachment, Sockets, XdpMode};
use anyport_netdev::error::explain;
use anyport_netdev::privilege::denied;
use anyport_netdev::segments::{MERGING, MERGING_HARDWARE};
use anyport_netdev::{Interface, Membership, ToKernel, links, open, packet_socket, takeover};

use crate::preflight::{self, PRIVILEGES};
use crate::program::{Filter, Place};
use crate::socket::Socket;
use crate::tags::Tags;

/// Bytes on their way for which a socket of somebody without privileges has room.
const SEND_BUFFER: libc::c_int = 1 << 26;

/// How an interface is to be handed over.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// In the driver, or not at all.
    pub native: bool,
    /// Behind the driver, also where it could be in it.
    pub generic: bool,
    /// What goes to the host's stack all the same (contract R13): `arp`, `tcp:22`.
    pub to_kernel: Vec<String>,
    /// Also if the host needs the interface (contract R13).
    pub takeover: bool,
    /// Receive whatever is on the wire, so that ports can be promiscuous (contract R6).
    pub promiscuous: bool,
    /// Every sender's kernel leaves VLAN tags in the frames.
    pub tags_in_frames: bool,
}

/// An interface whose frames go to other processes' sockets. When it is dropped they go to the host's stack again, unless it was
/// pinned.
#[derive(Debug)]
pub struct Handover {
    title: String,
    interface: Interface,
    queues: u32,
    map: Sockets,
    attachment: Attachment,
    pinned: bool,
    /// Memberships live as long as it.
    members: OwnedFd,
}

impl Handover {
    /// Attaches the program to an interface.
    ///
    /// # Errors
    /// Those that opening a port on it would give: [`Error::UnknownDevice`], [`Error::Busy`], [`Error::Permission`],
    /// [`Error::NeedsTakeover`], [`Error::Backend`] with what is in the way and what takes it away, ...
    pub fn open(device: &str, options: &Options) -> Result<Handover> {
        let title = format!("af_xdp:{device}");
        let failed = |doing: &str, error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => denied(&title, doing, &PRIVILEGES),
            _ => explain(&title, doing, error),
        };
        let to_kernel = ToKernel::parse(&title, &options.to_kernel)?;
        let interface = open::find("af_xdp", device)?;
        let info = links::link(interface.index())
            .map_err(|error| failed("reading the interface", error))?;
        open::check_ethernet(&title, &info)?;
        preflight::check_permitted(&title)?;
        // No port has it now; afterwards the other process's has.
        let _lock = DeviceLock::take(&open::lock_key(&interface, &title)?, &title)?;
        preflight::check_free(&title, interface.index())?;
        takeover::check(&interface, &title, options.takeover, false)?;
        let modes: &[XdpMode] = match (options.native, options.generic) {
            (true, false) => &[XdpMode::Native],
            (false, true) => &[XdpMode::Generic],
            _ => &[XdpMode::Native, XdpMode::Generic],
        };
        let (queues, _) =
            interface.queues().map_err(|error| failed("asking for its queues", error))?;
        let map =
            Sockets::new(queues).map_err(|error| failed("making the map of sockets", error))?;
        let members =
            packet_socket::idle().map_err(|error| failed("opening a packet socket", error))?;
        let mut kinds = vec![Membership::AllMulticast];
        kinds.extend(options.promiscuous.then_some(Membership::Promiscuous));
        for kind in kinds {
            packet_socket::membership(members.as_raw_fd(), interface.index(), kind, true)
                .map_err(|error| failed("switching what the interface receives", error))?;
        }
        let mac = interface.mac().map_err(|error| failed("reading the address", error))?;
        let filter = Filter { mac, promiscuous: true, to_kernel };
        let tags = Tags::of(&info, options.tags_in_frames);
        tags.check_left_in(&interface, &title)?;
        let segments = preflight::kernel_has_segments();
        let segments = segments.map_err(|error| failed("opening an AF_XDP socket", error))?;
        let mut attached = Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        for mode in modes {
            let native = *mode == XdpMode::Native;
            let function = if native { tags.function() } else { None };
            tags.check(&title, &info, function.is_some())?;
            refuse_merging(&title, &interface, device, native)?;
            let place = Place { segments, tags: function.map(|ask| (interface.index(), ask)) };
            let program = match filter.load(&map, &place) {
                Ok(program) => program,
                Err(error) if function.is_some() && !preflight::is_denied(&error) => {
                    attached = Err(preflight::no_tags(&error));
                    continue;
                }
                Err(error) => return Err(failed("loading the program", error)),
            };
            attached = program.attach_xdp(interface.index(), *mode);
            let unequal = |error: &io::Error| error.raw_os_error() == Some(libc::ENOSPC);
            if attached.as_ref().map_or_else(unequal, |_| true) {
                break;
            }
        }
        let attachment = attached.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => preflight::taken(&title, &interface, error),
            Some(libc::ENOSPC) => preflight::unequal_queues(&title),
            _ if modes == [XdpMode::Native] => {
                preflight::refused_native(&title, &interface, &error)
            }
            Some(libc::EPERM | libc::EACCES) => failed("attaching the program", error),
            _ => preflight::nowhere(&title, error),
        })?;
        let pinned = false;
        Ok(Handover { title, interface, queues, map, attachment, pinned, members })
    }

    /// How many queues the interface has.
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// The map of sockets.
    pub fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// Makes sockets for the first queues, and puts them into the map (Linux 5.10). Each can be opened by one port, once; who
    /// hands one over must close it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for more than there are queues; [`Error::Backend`] before Linux 5.10; the system's.
    pub fn sockets(&self, count: u32) -> Result<Vec<OwnedFd>> {
        if !(1..=self.queues).contains(&count) {
            let limit = format!("1 to {}: so many queues the interface has", self.queues);
            return Err(preflight::unsupported(&self.title, "queues", &count.to_string(), limit));
        }
        open::check_namespace(&self.interface, &self.title, self.members.as_raw_fd())?;
        let one = |queue| {
            let socket = Socket::new()
                .map_err(|error| explain(&self.title, "opening an AF_XDP socket", error))?;
            socket.set_send_buffer(SEND_BUFFER);
            self.map.set(queue, socket.as_raw_fd()).map_err(|error| match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => Error::Backend {
                    device: self.title.clone(),
                    reason: "before Linux 5.10 a socket cannot be put into the map before it is bound; hand over the map"
                        .into(),
                },
                _ => explain(&self.title, "putting a socket into the map", error),
            })?;
            Ok(OwnedFd::from(socket))
        };
        (0..count).map(one).collect()
    }

    /// Pins the map as `map` and the program's attachment as `link` in a new directory of a BPF file system (which is mounted at
    /// `/sys/fs/bpf`), for a user. The program stays attached until `link` is removed, whatever becomes of this process. What the
    /// interface receives for its sake does not: see the traps of [this module](self).
    ///
    /// # Errors
    /// [`Error::Os`]: the directory is there, or not in a BPF file system. Nothing is left then.
    pub fn pin(&mut self, directory: &Path, user: u32) -> Result<()> {
        let failed =
            |error| Error::os(&self.title, format!("pinning at {}", directory.display()), error);
        fs::create_dir(directory).map_err(failed)?;
        let (map, link) = (directory.join("map"), directory.join("link"));
        let pin = || -> io::Result<()> {
            self.map.pin(&map)?;
            std::os::unix::fs::chown(&map, Some(user), None)?;
            self.attachment.pin(&link)
        };
        if let Err(error) = pin() {
            for file in [&link, &map] {
                let _ = fs::remove_file(file);
            }
            let _ = fs::remove_dir(directory);
            return Err(failed(error));
        }
        self.pinned = true;
        Ok(())
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if !self.pinned {
            self.attachment.detach();
        }
    }
}

/// Refuses what puts frames together before the program sees them (contract R2).
fn refuse_merging(title: &str, interface: &Interface, name: &str, native: bool) -> Result<()> {
    let on = |names: &[&str]| -> Vec<String> {
        let is_on = |name: &&&str| {
            let feature = interface.features([**name]).ok().and_then(|[feature]| feature);
            feature.is_some_and(|feature| feature.active)
        };
        names.iter().filter(is_on).map(|name| (*name).to_owned()).collect()
    };
    let on = if native { on(&MERGING_HARDWARE) } else { on(&MERGING) };
    if on.is_empty() {
        return Ok(());
    }
    let switches: Vec<String> = on.iter().map(|name| format!("{name} off")).collect();
    let reason = format!(
        "it puts received frames together; `ethtool -K {name} {}` lets it receive the frames that were sent",
        switches.join(" ")
    );
    Err(Error::Backend { device: title.into(), reason })
}

/// Lets a command's process have sockets; what the key `sockets` of its spec is to be: `5+6`. They are closed here when the
/// command is dropped.
pub fn pass(command: &mut Command, sockets: Vec<OwnedFd>) -> String {
    let numbers: Vec<String> = sockets.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let keep_open = move || {
        for socket in &sockets {
            // SAFETY: no pointers.
            if unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call that is safe there, and reads memory; an error of the system is made
    // without memory being asked for.
    unsafe { command.pre_exec(keep_open) };
    numbers.join("+")
}
