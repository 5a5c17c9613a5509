//! What `ethtool` shows of an interface, asked of the kernel by the suite itself: a witness of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::case::Verdict;

/// Asks about an interface of the calling thread's network namespace: `settings` begins with a command and is filled in.
///
/// # Safety
/// `settings` has the layout that the kernel gives the answer to its command.
unsafe fn ask<T>(name: &str, settings: &mut T) -> std::io::Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    // SAFETY: an all-zero request is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the terminator.
    for (to, from) in request.ifr_name[..15].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(settings).cast();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request points to what the caller vouches for, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Speed in Mbit/s and whether the link is full duplex, as far as the device knows.
pub(super) fn speed(name: &str) -> Verdict<(Option<u32>, Option<bool>)> {
    /// `struct ethtool_cmd`.
    #[repr(C)]
    #[derive(Default)]
    struct Settings {
        command: u32,
        modes: [u32; 2],
        speed: u16,
        duplex: u8,
        rest: [u8; 13],
        speed_high: u16,
        more: [u8; 14],
    }
    const GET: u32 = 1;
    let mut settings = Settings { command: GET, ..Settings::default() };
    // SAFETY: that is the layout.
    unsafe { ask(name, &mut settings)? };
    let speed = u32::from(settings.speed_high) << 16 | u32::from(settings.speed);
    let duplex = match settings.duplex {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    // All ones: unknown.
    Ok(((speed != 0 && speed != u32::MAX).then_some(speed), duplex))
}

/// The offload switches that `ethtool -k` has always had, with their values.
pub(super) fn switches(name: &str) -> Verdict<String> {
    const SWITCHES: [(&str, u32); 7] = [
        ("rx-checksum", 0x14),
        ("tx-checksum", 0x16),
        ("scatter-gather", 0x18),
        ("tso", 0x1e),
        ("gso", 0x23),
        ("gro", 0x2b),
        // LRO, VLAN, filters, hashing: a bit each.
        ("flags", 0x25),
    ];
    let mut all = Vec::new();
    for (switch, command) in SWITCHES {
        /// `struct ethtool_value`.
        #[repr(C)]
        struct Value {
            command: u32,
            value: u32,
        }
        let mut value = Value { command, value: 0 };
        // SAFETY: that is the layout.
        let shown = match unsafe { ask(name, &mut value) } {
            Ok(()) => value.value.to_string(),
            // A device that has no such switch.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => "none".into(),
            Err(error) => return Err(error.into()),
        };
        all.push(format!("{switch}:{shown}"));
    }
    Ok(all.join(","))
}
