//! What can be known before a port starts: what the kernel and the driver can do, what is in the way, and what mends it.
//!
//! The kernel says most of it as `EINVAL`, and late. What is known earlier is said earlier and in words, at open, or before the
//! first system call of a start; it is said in the listing of devices, too.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyport::config::PortConfig;
use anyport::{Error, Result};
use anyport_netdev::bpf::Sockets;
use anyport_netdev::devices::More;
use anyport_netdev::error::explain;
use anyport_netdev::privilege::{Privilege, denied};
use anyport_netdev::xdp_attached::{By, xdp_attached};
use anyport_netdev::xdp_features::{XdpFeatures, xdp_features};
use anyport_netdev::{Interface, LinkInfo, XdpAttached};

use crate::keys::{Attach, Keys, Mode};
use crate::locked;
use crate::port::KERNEL_HEADROOM;
use crate::program;
use crate::socket::Socket;
use crate::tags::Tags;

/// What a port needs that makes all of its own.
pub(crate) const PRIVILEGES: [Privilege; 3] =
    [Privilege::NetAdmin, Privilege::NetRaw, Privilege::Bpf];

/// How long what a killed process had attached may stay: the kernel takes it away a moment later.
const SETTLE: Duration = Duration::from_secs(1);

const NO_AF_XDP: &str = "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); `pcap:` works without";

/// Whether this process may make sockets and maps, and the kernel has them.
///
/// # Errors
/// `EPERM` if not; what is missing in the kernel, in words.
pub(crate) fn permitted() -> io::Result<()> {
    let socket = Socket::new().map_err(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => io::Error::new(io::ErrorKind::Unsupported, NO_AF_XDP),
        _ => error,
    })?;
    if !knows_flag(&socket, libc::XDP_USE_NEED_WAKEUP)? {
        let old =
            "this kernel's AF_XDP is too old: Linux 5.9 or newer is needed; `pcap:` works without";
        return Err(io::Error::new(io::ErrorKind::Unsupported, old));
    }
    // Capabilities held in a user namespace are not enough for this.
    Sockets::new(1).map(drop)
}

/// The same as an error of the port called `title`.
///
/// # Errors
/// [`Error::Permission`]; [`Error::Backend`] with what is missing.
pub(crate) fn check_permitted(title: &str) -> Result<()> {
    permitted().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            denied(title, "open AF_XDP sockets and load their program", &PRIVILEGES)
        }
        Some(_) => explain(title, "opening an AF_XDP socket", error),
        None => Error::Backend { device: title.into(), reason: error.to_string() },
    })
}

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

/// Refuses several queues where they cannot be on one pool (before Linux 5.10).
///
/// Whether sockets of different queues may share memory is not to be asked without taking queues up. The same version lets a socket
/// into a map before it is bound, which is.
///
/// # Errors
/// [`Error::Unsupported`]; the system's.
pub(crate) fn check_several_queues(title: &str, config: &PortConfig) -> Result<()> {
    let asked = config.rx_queue_count().max(config.tx_queue_count());
    if asked <= 1 {
        return Ok(());
    }
    let attempt = || Sockets::new(1)?.set(0, Socket::new()?.as_raw_fd());
    several_queues(title, asked, attempt())
}

fn several_queues(title: &str, asked: u16, attempt: io::Result<()>) -> Result<()> {
    attempt.map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            unsupported(title, "queues", &asked.to_string(), ONE_QUEUE.into())
        }
        _ => explain(title, "trying whether queues can share a pool", error),
    })
}

/// What is said of several queues before Linux 5.10.
pub(crate) const ONE_QUEUE: &str = "1: this kernel's AF_XDP lets no two queues share a pool, for which Linux 5.10 is needed; \
     `ethtool -L` can bring all frames to one queue";

/// Whether `bind` knows a flag; the socket stays as it was.
pub(crate) fn knows_flag(socket: &impl AsRawFd, flag: u16) -> io::Result<bool> {
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

/// Refuses keys that ask for what the driver does not have, as far as the kernel tells (Linux 6.3). The most descriptors of a frame
/// that the driver takes in the mode that the keys ask for, if it limits them.
///
/// # Errors
/// [`Error::Unsupported`]; the system's.
pub(crate) fn check_driver(title: &str, interface: &Interface, keys: &Keys) -> Result<Option<u16>> {
    let asking = |error| explain(title, "asking what the driver can do", error);
    let Some(features) = xdp_features(interface.index()).map_err(asking)? else {
        return Ok(None);
    };
    let driver = interface.driver().map_err(asking)?;
    if keys.mode == Mode::ZeroCopy && !features.zero_copy {
        return Err(no_zero_copy(title, &driver));
    }
    if keys.attach == Attach::Native && !features.native {
        return Err(no_native(title, &driver));
    }
    Ok(most_segments(keys.mode, &features))
}

/// How many descriptors of a frame the driver takes, if it limits them.
fn most_segments(mode: Mode, features: &XdpFeatures) -> Option<u16> {
    let most = features.zero_copy_segments.filter(|_| features.zero_copy)?;
    match (mode, most) {
        (Mode::Copy, _) => None,
        // One that takes no chains is left in copy mode by the kernel when they are asked for.
        (Mode::Auto, 0 | 1) => None,
        _ => Some(u16::try_from(most).unwrap_or(u16::MAX).max(1)),
    }
}

/// The driver has no zero-copy mode.
pub(crate) fn no_zero_copy(title: &str, driver: &str) -> Error {
    unsupported(
        title,
        "mode",
        "zero_copy",
        format!(
            "{} has no zero-copy mode, or not as it is set up; mode=copy works everywhere, mode=auto takes the better one",
            named(driver)
        ),
    )
}

/// What a veth wants (`veth_xdp_set`).
const VETH_QUEUES: &str = "a veth takes a program only while it has as many receive queues as its other end has transmit queues; \
                           `ethtool -l` shows them, `ethtool -L IFACE rx N tx N`, the same N at both ends, sets them";

/// The driver has no XDP.
fn no_native(title: &str, driver: &str) -> Error {
    let limit = match driver {
        // It has, but declares none as it is set up.
        "veth" => VETH_QUEUES.into(),
        _ => format!("{} has no XDP; attach=generic runs the program behind it", named(driver)),
    };
    unsupported(title, "attach", "native", limit)
}

/// Whether a program was not loaded for want of privilege. `EACCES` is what the kernel says of a program that it does not take.
pub(crate) fn is_denied(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// The kernel does not take a program that asks the driver for VLAN tags. No error of the system, so that [`refusal`] knows it.
pub(crate) fn no_tags(error: &io::Error) -> io::Error {
    io::Error::other(format!("no program can ask it for them ({error})"))
}

/// Why the driver does not want the program, in words.
pub(crate) fn refusal(interface: &Interface, error: &io::Error) -> String {
    let driver = named(&interface.driver().unwrap_or_default());
    if error.raw_os_error().is_none() {
        return format!("{driver} keeps VLAN tags beside frames, and {error}");
    }
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
        return format!("{driver} has no XDP");
    }
    let (mtu, name) = (interface.mtu().unwrap_or_default(), interface.name().unwrap_or_default());
    // A page, less what the kernel keeps in front of a frame and behind it, and the frame's header.
    let most = 4096 - KERNEL_HEADROOM - 320 - 14;
    let mended = match (mtu > most, driver.contains("veth")) {
        (true, _) => format!("`ip link set dev {name} mtu {most}`, or less, may mend it"),
        (false, true) => {
            format!("the MTU of its other end, PEER, counts: `ip link set dev PEER mtu {most}`")
        }
        (false, false) => {
            format!("`ethtool -K {name} lro off rx-gro-hw off`, or a lower MTU, may mend it")
        }
    };
    format!("{driver} refuses the program at MTU {mtu} ({error}); {mended}")
}

/// The error of attach=native where the driver refuses the program.
pub(crate) fn refused_native(title: &str, interface: &Interface, error: &io::Error) -> Error {
    let refusal = refusal(interface, error);
    let limit = format!("{refusal}; attach=generic runs the program behind the driver");
    unsupported(title, "attach", "native", limit)
}

/// The error where the program cannot be attached behind the driver, which every interface takes.
pub(crate) fn nowhere(title: &str, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => Error::Backend {
            device: title.into(),
            reason: "this kernel attaches no XDP program by a link, which would go with the process: Linux 5.9 is needed; `pcap:` \
                     works without"
                .into(),
        },
        _ => explain(title, "attaching the program", error),
    }
}

/// The error where another program was attached since it was looked for.
pub(crate) fn taken(title: &str, interface: &Interface, error: io::Error) -> Error {
    match xdp_attached(interface.index()) {
        Ok(Some(found)) => foreign(title, &found),
        _ => explain(title, "attaching the program", error),
    }
}

fn named(driver: &str) -> String {
    match driver {
        "" => "its driver".into(),
        driver => format!("its driver, {driver},"),
    }
}

/// Refuses more queues than the interface has, with the command that gives it more where that is possible.
///
/// # Errors
/// [`Error::Unsupported`]; the system's.
pub(crate) fn check_queues(
    title: &str,
    interface: &Interface,
    info: &LinkInfo,
    config: &PortConfig,
) -> Result<()> {
    let asking = |error| explain(title, "asking for its queues", error);
    let (rx, tx) = interface.queues().map_err(asking)?;
    let both = config.queues.is_some();
    for (field, asked, has) in
        [("rx_queues", config.rx_queue_count(), rx), ("tx_queues", config.tx_queue_count(), tx)]
    {
        let asked = u32::from(asked);
        if asked <= has {
            continue;
        }
        let name = interface.name().map_err(asking)?;
        let channels = interface.channels().map_err(asking)?.unwrap_or_default();
        let more = match channels.command(&name, asked) {
            Some(command) => format!("`{command}` gives it {asked}"),
            None if info.kind.as_deref() == Some("veth") => {
                let many = format!("numrxqueues {asked} numtxqueues {asked}");
                format!(
                    "a veth gets more when it is made: `ip link add {name} {many} type veth peer name PEER {many}`"
                )
            }
            None => "it can have no more".into(),
        };
        let field = if both { "queues" } else { field };
        let limit = format!("the interface has {has}; {more}");
        return Err(unsupported(title, field, &asked.to_string(), limit));
    }
    Ok(())
}

/// Refuses an interface that has an XDP program already. What a killed process of this backend had attached is waited for.
///
/// # Errors
/// [`Error::Backend`], which names it and what takes it away; the system's.
pub(crate) fn check_free(title: &str, interface: u32) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let found = xdp_attached(interface);
        match found.map_err(|error| explain(title, "asking for its XDP program", error))? {
            None => return Ok(()),
            Some(found) if may_be_left_over(&found) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Some(found) => return Err(foreign(title, &found)),
        }
    }
}

/// Whether it may be what a process of this backend had attached that was killed just now. Its link may be gone already, which
/// looks like a program that was attached by netlink; this backend's never are.
fn may_be_left_over(found: &XdpAttached) -> bool {
    match (found.name.as_deref(), &found.by) {
        (_, By::Link { holder: Some(_), .. }) => false,
        (Some(name), _) => name == program::NAME,
        (None, by) => *by != By::Netlink,
    }
}

/// Another program has the place.
fn foreign(title: &str, found: &XdpAttached) -> Error {
    Error::Backend { device: title.into(), reason: in_the_way(found) }
}

fn in_the_way(found: &XdpAttached) -> String {
    format!(
        "an interface takes one XDP program, and another one is attached to it: {found}; it is left alone. {}",
        found.remedy()
    )
}

/// A veth whose ends have different numbers of queues.
pub(crate) fn unequal_queues(title: &str) -> Error {
    Error::Backend { device: title.into(), reason: VETH_QUEUES.into() }
}

/// What the listing of devices says of an interface: words for its description, and what keeps a port with defaults from opening or
/// starting.
pub(crate) fn listed(info: &LinkInfo, held: bool) -> More {
    let words = match xdp_features(info.index) {
        Ok(Some(features)) if features.zero_copy => Some("native XDP with zero-copy"),
        Ok(Some(features)) if features.native => Some("native XDP"),
        Ok(Some(_)) => Some("generic XDP"),
        _ => None,
    };
    let attached = match held {
        // The port's own.
        true => None,
        false => xdp_attached(info.index).ok().flatten(),
    };
    let tags = Tags::of(info, false);
    let asked = tags.function().is_some();
    let loses = tags.check(&info.name, info, asked).err().map(|error| match error {
        Error::Backend { reason, .. } => reason,
        error => error.to_string(),
    });
    let obstacles = [attached.as_ref().map(in_the_way), loses, too_long(info), locked::too_much()];
    let queues = Interface::open(&info.name).and_then(|interface| interface.queues());
    let queues = queues.ok().filter(|(rx, tx)| *rx.max(tx) > 1);
    let queues = queues.map(|(rx, tx)| match rx == tx {
        true => format!("{rx} queues"),
        false => format!("{rx} receive and {tx} transmit queues"),
    });
    More {
        words: words.map(str::to_owned).into_iter().chain(queues).collect(),
        obstacles: obstacles.into_iter().flatten().collect(),
    }
}

/// Frames that are longer than the largest frame of a pool that the kernel takes.
fn too_long(info: &LinkInfo) -> Option<String> {
    let room = 4096 - KERNEL_HEADROOM;
    let tagged = info.mtu as usize + 14 + 4;
    (tagged > room).then(|| {
        format!(
            "with its MTU of {} a frame is longer than a page has room for: open it with max_segments={} and a pool of frames of \
             4096 bytes (Linux 6.6), or with max_frame={}",
            info.mtu,
            tagged.div_ceil(room),
            room - 4
        )
    })
}

pub(crate) fn unsupported(title: &str, field: &str, asked: &str, limit: String) -> Error {
    Error::Unsupported { device: title.into(), field: field.into(), asked: asked.into(), limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport_netdev::bpf::asm::Assembler;
    use anyport_netdev::bpf::{Kind, Program, XdpMode};
    use anyport_netdev::testing::{in_namespace, ip, may_load_programs};

    /// Programs that take frames of one buffer only are those of kernels before 6.6.
    #[test]
    fn an_mtu_that_the_driver_does_not_take_is_named_with_one_that_it_does() {
        const XDP_PASS: i32 = 2;
        in_namespace(|| {
            if !may_load_programs() {
                return;
            }
            let mut code = Assembler::new();
            code.exit(XDP_PASS);
            let program = Program::load(Kind::Xdp, "one_buffer", &code.finish().unwrap()).unwrap();
            let attach = |name: &str| {
                let interface = Interface::open(name).unwrap();
                let attached = program.attach_xdp(interface.index(), XdpMode::Native);
                attached.map_err(|error| (refused_native("x:y", &interface, &error), error))
            };
            ip("link set a1 mtu 9000");
            // A veth looks at the other end's MTU.
            let (error, _) = attach("a0").unwrap_err();
            let Error::Unsupported { field, limit, .. } = &error else { panic!("{error:?}") };
            assert_eq!(field, "attach");
            for words in
                ["refuses the program at MTU 1500", "attach=generic runs the program behind"]
            {
                assert!(limit.contains(words), "{words}: {limit}");
            }
            let command = limit.split('`').nth(1).unwrap().replace("PEER", "a1");
            ip(command.strip_prefix("ip ").unwrap());
            attach("a0").unwrap().detach();
            ip("link set a0 mtu 9000");
            let (_, why) = attach("a1").unwrap_err();
            let here = refusal(&Interface::open("a0").unwrap(), &why);
            assert!(here.contains("`ip link set dev a0 mtu 3506`"), "{here}");
        });
    }

    #[test]
    fn several_queues_are_refused_before_the_kernel_that_has_them() {
        in_namespace(|| {
            if !may_load_programs() {
                return;
            }
            let mut config = PortConfig::default();
            config.queues = Some(4);
            // A kernel with frames in several descriptors has queues on one pool.
            let here = check_several_queues("x:y", &config);
            assert!(here.is_ok() || !kernel_has_segments().unwrap(), "{here:?}");
        });
        let old = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let error = several_queues("x:y", 4, Err(old)).unwrap_err();
        let Error::Unsupported { field, asked, limit, .. } = &error else { panic!("{error:?}") };
        assert_eq!([field.as_str(), asked.as_str()], ["queues", "4"]);
        assert!(limit.contains("Linux 5.10"), "{limit}");
    }

    #[test]
    fn the_device_itself_may_take_fewer_segments_than_the_kernel() {
        let mut features = XdpFeatures::default();
        assert_eq!(most_segments(Mode::Auto, &features), None);
        features.zero_copy = true;
        assert_eq!(most_segments(Mode::ZeroCopy, &features), None);
        for (most, zero_copy, auto) in [(1, Some(1), None), (5, Some(5), Some(5))] {
            features.zero_copy_segments = Some(most);
            assert_eq!(most_segments(Mode::ZeroCopy, &features), zero_copy);
            assert_eq!(most_segments(Mode::Auto, &features), auto);
            assert_eq!(most_segments(Mode::Copy, &features), None);
        }
    }

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
