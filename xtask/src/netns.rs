//! Network namespaces that cannot be left behind.
//!
//! A namespace made here has no name under `/run/netns`: a descriptor of this process holds it, and it vanishes
//! with that descriptor and the processes inside, also after `kill -9`. Links between namespaces (veth) vanish
//! with either end.
//!
//! ```text
//!  NetNs::create   thread: unshare(CLONE_NEWNET), open /proc/thread-self/ns/net, end
//!  NetNs::command  child:  setns(descriptor), own /sys, exec
//! ```
//!
//! Trap: `/sys/class/net` shows the namespace of whoever mounted `/sys`, so a child gets a private mount
//! namespace with its own sysfs where that is allowed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::proc;

const LIMIT: Duration = Duration::from_secs(20);

/// A network namespace that lives as long as this value or a process inside.
pub struct NetNs {
    file: File,
    name: &'static str,
}

impl NetNs {
    /// Makes an empty namespace with its loopback interface up and IPv6 off (so that no neighbour discovery
    /// mixes with counted traffic). `name` is for messages only.
    pub fn create(name: &'static str) -> Result<Self> {
        let file = std::thread::spawn(|| {
            // SAFETY: unshare takes plain flags; only this short-lived thread moves.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes a namespace panicked"))?
        .context("cannot make a network namespace (needs CAP_SYS_ADMIN: run as root)")?;
        let ns = Self { file, name };
        ns.inside(|| {
            for scope in ["all", "default"] {
                let switch = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                // A kernel without IPv6 has no such switch, and needs none.
                if std::path::Path::new(&switch).exists() {
                    std::fs::write(&switch, "1").with_context(|| switch.clone())?;
                }
            }
            Ok(())
        })?;
        ns.ip(&["link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// A path by which `ip link ... netns PATH` finds this namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = proc::command(program);
        let fd = self.file.as_raw_fd();
        // SAFETY: the closure runs between fork and exec and calls only async-signal-safe functions; all
        // pointers are to literals. The descriptor is this value's, inherited by the fork.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(io::Error::last_os_error());
                }
                own_sysfs();
                Ok(())
            })
        };
        command
    }

    /// Runs a function on a thread inside.
    pub fn inside<T: Send>(&self, function: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: setns with our own descriptor; only this thread moves.
                if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error())
                        .with_context(|| format!("cannot enter namespace {}", self.name));
                }
                function()
            });
            thread.join().map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    /// Runs `ip` inside.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        proc::output(self.command("ip").args(args), LIMIT)
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Joins two namespaces with a veth pair; both ends are left down.
    pub fn join(&self, end: &str, other: &NetNs, other_end: &str) -> Result<()> {
        self.ip(&[
            "link",
            "add",
            end,
            "type",
            "veth",
            "peer",
            "name",
            other_end,
            "netns",
            &other.path(),
        ])
        .map(drop)
    }

    /// What the kernel counted on an interface.
    pub fn link_stats(&self, interface: &str) -> Result<LinkStats> {
        let json = self.ip(&["-s", "-j", "link", "show", "dev", interface])?;
        LinkStats::parse(&json).with_context(|| format!("`ip -s -j link` said: {json}"))
    }

    /// A protocol counter of the namespace from `/proc/net/snmp`, such as (`Udp`, `InDatagrams`).
    pub fn snmp(&self, protocol: &str, counter: &str) -> Result<u64> {
        let text = self
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp").context("net/snmp"))?;
        snmp_counter(&text, protocol, counter)
            .with_context(|| format!("no {protocol} {counter} in /proc/net/snmp"))
    }

    /// Waits until a process inside listens on a TCP port.
    pub fn wait_tcp_listener(&self, port: u16) -> Result<()> {
        let what = format!("a TCP listener on port {port} in namespace {}", self.name);
        proc::poll_for(&what, LIMIT, || {
            let mut tables = self.inside(|| {
                let v4 = std::fs::read_to_string("/proc/thread-self/net/tcp").context("net/tcp")?;
                // Absent where the kernel has no IPv6.
                let v6 = std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
                Ok([v4, v6])
            })?;
            Ok(tables.iter_mut().any(|t| listens(t, port)).then_some(()))
        })
    }
}

/// Mounts a sysfs that shows the network namespace of the caller, in a mount namespace of its own. Best effort:
/// in a user namespace it may be forbidden, and most programs do not look.
fn own_sysfs() {
    // SAFETY: called between fork and exec; plain system calls with pointers to NUL-terminated literals.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            return;
        }
        let none = std::ptr::null();
        if libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none.cast()) == 0 {
            libc::mount(
                c"sysfs".as_ptr(),
                c"/sys".as_ptr(),
                c"sysfs".as_ptr(),
                0,
                std::ptr::null(),
            );
        }
    }
}

/// The kernel's counters of one interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes, without FCS.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Their bytes, without FCS.
    pub tx_bytes: u64,
    /// Frames dropped in either direction.
    pub dropped: u64,
}

impl LinkStats {
    /// Reads what `ip -s -j link show dev X` prints.
    fn parse(json: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(json)?;
        let get = |side: &str, counter: &str| {
            let path = format!("/0/stats64/{side}/{counter}");
            value.pointer(&path).and_then(serde_json::Value::as_u64).context(path)
        };
        Ok(Self {
            rx_packets: get("rx", "packets")?,
            rx_bytes: get("rx", "bytes")?,
            tx_packets: get("tx", "packets")?,
            tx_bytes: get("tx", "bytes")?,
            dropped: get("rx", "dropped")? + get("tx", "dropped")?,
        })
    }

    /// What was counted since an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            rx_packets: self.rx_packets - earlier.rx_packets,
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            tx_packets: self.tx_packets - earlier.tx_packets,
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
            dropped: self.dropped - earlier.dropped,
        }
    }
}

/// Looks a counter up in the two-line groups of `/proc/net/snmp`.
fn snmp_counter(text: &str, protocol: &str, counter: &str) -> Option<u64> {
    let prefix = format!("{protocol}: ");
    let mut lines = text.lines().filter_map(|l| l.strip_prefix(&prefix));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == counter)?.1.parse().ok()
}

/// Whether a table in the format of `/proc/net/tcp` has a listener on the port.
fn listens(table: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        let local_port = local.and_then(|l| l.rsplit_once(':')).map(|(_, p)| p);
        local_port == Some(format!("{port:04X}").as_str()) && state == Some(LISTEN)
    })
}

/// Whether a user without privilege may make network namespaces inside a user namespace. Some distributions
/// allow the user namespace and forbid what one needs it for, so the need itself is tried.
pub fn user_namespaces_work() -> Result<bool> {
    if !proc::have("unshare") || !proc::have("ip") {
        return Ok(false);
    }
    let mut probe = user_namespace("ip");
    probe.args(["link", "add", "probe0", "type", "veth", "peer", "name", "probe1"]);
    Ok(proc::capture(&mut probe, LIMIT)?.status.success())
}

/// A command that will run as root of new user, network and mount namespaces.
pub fn user_namespace(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = proc::command("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_ip() {
        let json = r#"[{"ifname":"a0","stats64":{
            "rx":{"bytes":10,"packets":1,"errors":0,"dropped":2,"over_errors":0,"multicast":0},
            "tx":{"bytes":30,"packets":3,"errors":0,"dropped":4,"carrier_errors":0,"collisions":0}}}]"#;
        let now = LinkStats::parse(json).unwrap();
        let expected =
            LinkStats { rx_packets: 1, rx_bytes: 10, tx_packets: 3, tx_bytes: 30, dropped: 6 };
        assert_eq!(now, expected);
        assert_eq!(now.since(now), LinkStats::default());
        assert!(LinkStats::parse("[]").is_err());
    }

    #[test]
    fn protocol_counters_are_looked_up_by_name() {
        let text = "Ip: A B\nIp: 1 2\nUdp: InDatagrams NoPorts OutDatagrams\nUdp: 7 8 9\nUdpLite: InDatagrams\nUdpLite: 1\n";
        assert_eq!(snmp_counter(text, "Udp", "InDatagrams"), Some(7));
        assert_eq!(snmp_counter(text, "Udp", "OutDatagrams"), Some(9));
        assert_eq!(snmp_counter(text, "Udp", "Nothing"), None);
        assert_eq!(snmp_counter(text, "Icmp", "InMsgs"), None);
    }

    #[test]
    fn listeners_are_told_from_connections() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 00000000:1451 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:1452 0100007F:9999 01 00000000:00000000\n";
        assert!(listens(table, 5201));
        assert!(!listens(table, 5202), "established, not listening");
        assert!(!listens(table, 80));
    }

    #[test]
    fn namespaces_are_separate_and_joined_by_veth() {
        if !crate::is_root() {
            assert!(
                std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_none(),
                "this test needs root to make network namespaces"
            );
            return;
        }
        let (a, b) = (NetNs::create("A").unwrap(), NetNs::create("B").unwrap());
        a.join("left0", &b, "right0").unwrap();
        assert!(a.link_stats("left0").is_ok() && a.link_stats("right0").is_err());
        assert!(b.link_stats("right0").is_ok() && b.link_stats("left0").is_err());
        let listed = proc::output(b.command("ls").arg("/sys/class/net"), LIMIT).unwrap();
        assert!(listed.contains("right0") && !listed.contains("left0"), "{listed}");
        assert_eq!(a.snmp("Udp", "InDatagrams").unwrap(), 0);
        drop(a);
        // The end of A is the end of its veth and so of the other end.
        proc::poll_for("the link's end", LIMIT, || {
            Ok(b.link_stats("right0").is_err().then_some(()))
        })
        .unwrap();
    }
}
