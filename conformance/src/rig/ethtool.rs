//! What `ethtool` shows of an interface, asked of the kernel by the suite itself: a witness of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::case::{Failure, Verdict};

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

/// What the driver counts by itself (`ethtool -S`), by name.
pub(super) fn statistics(name: &str) -> Verdict<Vec<(String, u64)>> {
    const MOST: usize = 1024;
    const STATISTICS: u32 = 1;
    /// `struct ethtool_sset_info`.
    #[repr(C)]
    struct Sets {
        command: u32,
        reserved: u32,
        asked: u64,
        count: u32,
    }
    /// `struct ethtool_gstrings`.
    #[repr(C)]
    struct Names {
        command: u32,
        set: u32,
        count: u32,
        names: [[u8; 32]; MOST],
    }
    /// `struct ethtool_stats`.
    #[repr(C)]
    struct Values {
        command: u32,
        count: u32,
        values: [u64; MOST],
    }
    let mut sets = Sets { command: 0x37, reserved: 0, asked: 1 << STATISTICS, count: 0 };
    // SAFETY: that is the layout, for one set.
    unsafe { ask(name, &mut sets)? };
    if sets.count as usize > MOST {
        return Err(Failure(format!("{name} has {} statistics", sets.count)));
    }
    let count = sets.count;
    let mut names = Names { command: 0x1b, set: STATISTICS, count, names: [[0; 32]; MOST] };
    let mut values = Values { command: 0x1d, count, values: [0; MOST] };
    // SAFETY: that is the layout, and there is room for as many as the device said that it has.
    unsafe {
        ask(name, &mut names)?;
        ask(name, &mut values)?;
    }
    let text = |name: &[u8; 32]| {
        let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let named = names.names.iter().map(text).zip(values.values);
    Ok(named.take(count as usize).collect())
}
