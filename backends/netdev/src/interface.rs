//! The interface's own affairs, by ioctl: address, MTU, flags, speed.
//!
//! Everything goes by interface index: a renamed interface is the same one, a deleted one is gone. The socket belongs to
//! the network namespace of the thread that opened it, so other threads may use it whatever namespace they are in.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyport::MacAddr;

/// One interface of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Interface {
    socket: OwnedFd,
    index: u32,
}

/// Interface flags that matter here (`net_device_flags`).
#[derive(Debug, Clone, Copy)]
pub struct Flags {
    /// Switched on (`IFF_UP`).
    pub up: bool,
    /// There is a carrier, too (`IFF_RUNNING`).
    pub running: bool,
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Interface {
    /// Finds the interface of that name.
    ///
    /// # Errors
    /// `ENODEV` if there is none; the system's.
    pub fn open(name: &str) -> io::Result<Interface> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: a fresh descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
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

    /// Another handle for the same interface.
    ///
    /// # Errors
    /// The system's, when descriptors have run out.
    pub fn try_clone(&self) -> io::Result<Interface> {
        Ok(Interface { socket: self.socket.try_clone()?, index: self.index })
    }

    fn ioctl(&self, request: libc::Ioctl, ifreq: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: all SIOC[GS]IF* calls used here take an ifreq.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), request, std::ptr::from_mut(ifreq)) })
    }

    /// A request under the interface's present name; `ENODEV` if it is gone.
    fn request(&self) -> io::Result<libc::ifreq> {
        let mut request = named("")?;
        request.ifr_ifru.ifru_ifindex = self.index as libc::c_int;
        self.ioctl(libc::SIOCGIFNAME, &mut request)?;
        Ok(request)
    }

    /// The interface's present name.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn name(&self) -> io::Result<String> {
        let request = self.request()?;
        // SAFETY: the kernel terminates the name.
        let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    }

    /// Whether it is up, and whether there is a carrier.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn flags(&self) -> io::Result<Flags> {
        let mut request = self.request()?;
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has filled in the flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        Ok(Flags { up: flags & libc::IFF_UP != 0, running: flags & libc::IFF_RUNNING != 0 })
    }

    /// Its address now.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn mac(&self) -> io::Result<MacAddr> {
        let mut request = self.request()?;
        self.ioctl(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR has filled in the address.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok(MacAddr(std::array::from_fn(|at| data[at] as u8)))
    }

    /// Sets its address.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn set_mac(&self, mac: MacAddr) -> io::Result<()> {
        let mut request = self.request()?;
        self.ioctl(libc::SIOCGIFHWADDR, &mut request)?;
        for (at, byte) in mac.0.into_iter().enumerate() {
            // SAFETY: the request holds a hardware address; its family stays what the kernel said.
            unsafe { request.ifr_ifru.ifru_hwaddr.sa_data[at] = byte as libc::c_char };
        }
        self.ioctl(libc::SIOCSIFHWADDR, &mut request)
    }

    /// Its MTU now.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn mtu(&self) -> io::Result<usize> {
        let mut request = self.request()?;
        self.ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU has filled in the MTU.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as usize)
    }

    /// Sets its MTU.
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn set_mtu(&self, mtu: usize) -> io::Result<()> {
        let mut request = self.request()?;
        request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
        self.ioctl(libc::SIOCSIFMTU, &mut request)
    }

    /// Whether this is Ethernet (`ARPHRD_ETHER`).
    ///
    /// # Errors
    /// `ENODEV` if the interface is gone; the system's.
    pub fn is_ethernet(&self) -> io::Result<bool> {
        let mut request = self.request()?;
        self.ioctl(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR has filled in the address.
        Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family } == libc::ARPHRD_ETHER)
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

/// The names of all interfaces of this network namespace.
pub fn all() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: the list is walked up to its zero entry and freed.
    unsafe {
        let list = libc::if_nameindex();
        let mut at = list;
        while !at.is_null() && (*at).if_index != 0 {
            names.push(CStr::from_ptr((*at).if_name).to_string_lossy().into_owned());
            at = at.add(1);
        }
        if !list.is_null() {
            libc::if_freenameindex(list);
        }
    }
    names
}
