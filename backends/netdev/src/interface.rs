//! The interface's own affairs, by ioctl: address, MTU, flags.
//!
//! Everything goes by interface index: a renamed interface is the same one, a deleted one is gone. The socket belongs to
//! the network namespace of the thread that opened it, so other threads may use it whatever namespace they are in.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use anyport::{Link, MacAddr};

use crate::sys::{get_option, owned};

/// Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// One interface of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Interface {
    socket: OwnedFd,
    index: u32,
}

/// Interface flags that matter here.
#[derive(Debug, Clone, Copy)]
pub struct Flags {
    /// Switched on (`IFF_UP`).
    pub up: bool,
    /// There is a carrier, too (`IFF_RUNNING`). For a device that does not hang on another interface, the kernel may notice
    /// the loss of a carrier here only a second after it noticed another change; [`Interface::carrier`] asks the device.
    pub running: bool,
}

/// When the device itself is asked for its carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The flags will do.
    Never,
    /// If its flags may be late.
    IfLate,
    /// In any case. The answer comes when the kernel has done all that a change of the carrier brings along.
    Always,
}

impl Interface {
    /// Finds the interface of that name.
    ///
    /// # Errors
    /// `ENODEV` if there is none; the system's.
    pub fn open(name: &str) -> io::Result<Interface> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers.
        let socket = owned(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        let mut interface = Interface { socket, index: 0 };
        let mut request = named(name)?;
        interface.ioctl(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: SIOCGIFINDEX has filled in the index.
        interface.index = unsafe { request.ifr_ifru.ifru_ifindex } as u32;
        Ok(interface)
    }

    /// The interface's index, which stays the same when it is renamed.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The network namespace that the interface was found in, as a number that the kernel never uses again before it is
    /// restarted.
    ///
    /// # Errors
    /// The system's.
    pub fn namespace(&self) -> io::Result<u64> {
        match namespace_of(self.socket.as_raw_fd())? {
            Some(cookie) => Ok(cookie),
            // The number of the namespace's inode, which may be used again when it is gone.
            None => std::fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino()),
        }
    }

    /// Whether a socket is in the interface's namespace; it is believed to be before Linux 5.14.
    ///
    /// # Errors
    /// The system's.
    pub fn shares_namespace_with(&self, socket: RawFd) -> io::Result<bool> {
        Ok(namespace_of(socket)? == namespace_of(self.socket.as_raw_fd())?)
    }

    /// Another handle for the same interface.
    ///
    /// # Errors
    /// The system's, when descriptors have run out.
    pub fn try_clone(&self) -> io::Result<Interface> {
        Ok(Interface { socket: self.socket.try_clone()?, index: self.index })
    }

    fn ioctl(&self, request: libc::Ioctl, ifreq: &mut libc::ifreq) -> io::Result<libc::c_int> {
        // SAFETY: all SIOC* calls used here take an ifreq, and what it points to is the caller's to promise.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), request, std::ptr::from_mut(ifreq)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    /// A call under the interface's present name, which `fill` completes; `ENODEV` if it is gone. Should it be renamed just
    /// between the two steps, it is not gone: they are done again.
    fn call(
        &self,
        request: libc::Ioctl,
        mut fill: impl FnMut(&mut libc::ifreq),
    ) -> io::Result<(libc::ifreq, libc::c_int)> {
        let mut left = 3;
        loop {
            let mut ifreq = named("")?;
            ifreq.ifr_ifru.ifru_ifindex = self.index as libc::c_int;
            self.ioctl(libc::SIOCGIFNAME, &mut ifreq)?;
            fill(&mut ifreq);
            left -= 1;
            match self.ioctl(request, &mut ifreq) {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) && left > 0 => {}
                result => return result.map(|value| (ifreq, value)),
            }
        }
    }

    /// Asks for something.
    fn get(&self, request: libc::Ioctl) -> io::Result<libc::ifreq> {
        self.call(request, |_| {}).map(|(answer, _)| answer)
    }

    /// An ethtool command; what the kernel returns if it is no error.
    pub(crate) fn ethtool<T: ?Sized>(&self, command: &mut T) -> io::Result<libc::c_int> {
        let data: *mut libc::c_char = std::ptr::from_mut(command).cast();
        let (_, value) = self.call(libc::SIOCETHTOOL, |ifreq| ifreq.ifr_ifru.ifru_data = data)?;
        Ok(value)
    }

    /// The interface's present name.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn name(&self) -> io::Result<String> {
        let mut answer = named("")?;
        answer.ifr_ifru.ifru_ifindex = self.index as libc::c_int;
        self.ioctl(libc::SIOCGIFNAME, &mut answer)?;
        // SAFETY: the kernel terminates the name.
        let name = unsafe { CStr::from_ptr(answer.ifr_name.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    }

    /// Whether it is up, and whether there is a carrier.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn flags(&self) -> io::Result<Flags> {
        let request = self.get(libc::SIOCGIFFLAGS)?;
        // SAFETY: SIOCGIFFLAGS has filled in the flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        Ok(Flags { up: flags & libc::IFF_UP != 0, running: flags & libc::IFF_RUNNING != 0 })
    }

    /// Whether frames can pass, by its flags, which were just read, and by its carrier. `prompt` says that flags know of the loss of
    /// a carrier at once ([`LinkInfo::prompt`](crate::LinkInfo::prompt)); else they may know of it a second late. The device
    /// itself is not late, but asking it takes the kernel's lock on all network configuration, so that is not for every wait
    /// (contract T8).
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn can_pass(&self, flags: Flags, prompt: bool, ask: Ask) -> io::Result<bool> {
        if !(flags.up && flags.running) {
            return Ok(false);
        }
        let ask = match ask {
            Ask::Never => false,
            Ask::IfLate => !prompt,
            Ask::Always => true,
        };
        Ok(!ask || self.carrier()? != Some(false))
    }

    /// State, speed and duplex of its link, as the device itself says (contract M3).
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn link(&self) -> io::Result<Link> {
        let up = self.can_pass(self.flags()?, false, Ask::Always)?;
        let speed = self.speed()?;
        Ok(Link::new(up).with_speed(speed.mbps, speed.full_duplex))
    }

    /// Its address now.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn mac(&self) -> io::Result<MacAddr> {
        let data = self.hardware()?.sa_data;
        Ok(MacAddr(std::array::from_fn(|at| data[at] as u8)))
    }

    /// Sets its address.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn set_mac(&self, mac: MacAddr) -> io::Result<()> {
        let mut address = self.hardware()?;
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        self.call(libc::SIOCSIFHWADDR, |ifreq| ifreq.ifr_ifru.ifru_hwaddr = address).map(|_| ())
    }

    /// The hardware address with its type.
    fn hardware(&self) -> io::Result<libc::sockaddr> {
        // SAFETY: SIOCGIFHWADDR has filled in the address.
        Ok(unsafe { self.get(libc::SIOCGIFHWADDR)?.ifr_ifru.ifru_hwaddr })
    }

    /// Its MTU now.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn mtu(&self) -> io::Result<usize> {
        let request = self.get(libc::SIOCGIFMTU)?;
        // SAFETY: SIOCGIFMTU has filled in the MTU.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as usize)
    }

    /// Sets its MTU.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn set_mtu(&self, mtu: usize) -> io::Result<()> {
        let mtu = libc::c_int::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.call(libc::SIOCSIFMTU, |ifreq| ifreq.ifr_ifru.ifru_mtu = mtu).map(|_| ())
    }
}

/// The number of a socket's network namespace; `None` before Linux 5.14.
pub(crate) fn namespace_of(socket: RawFd) -> io::Result<Option<u64>> {
    let mut cookie = 0u64;
    match get_option(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut cookie) {
        Ok(_) => Ok(Some(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the terminator.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
