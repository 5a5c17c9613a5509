//! A veth pair in a network namespace of the suite's own.
//!
//! ```text
//!   namespace (goes with the suite's threads, also after kill -9)
//!     port A ── c1a ═══════ c1b ── port B        a fresh pair for every case
//! ```
//! Traps:
//! - `/proc/net` is the view of the process's first thread; a thread in another namespace looks at `/proc/thread-self/net`.
//! - A native XDP program at one end takes segmentation offloads from the other end's settings, and changes what the pair counts
//!   as bytes.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyport::{Link, MacAddr, Registry};
use anyport_netdev::bpf::Link as Attached;

use super::{Host, Rig, Wires, Witness, ethtool, tags};
use crate::case::{Failure, Power, Verdict};
use crate::ctx::{End, eventually};

/// Ports on both ends of a veth pair, of one backend or of two.
pub struct VethRig {
    name: String,
    ends: [Driver; 2],
    registry: Registry,
    /// Senders put tags into frames themselves.
    tags_in_frames: bool,
    /// Queues each way, where it is not for the system to say.
    queues: Option<u16>,
}

/// What opens an end.
#[derive(Clone, PartialEq, Eq)]
struct Driver {
    backend: String,
    /// What stands behind the interface's name in every spec: `,key=value` or nothing.
    keys: &'static str,
}

impl Driver {
    fn new(backend: &str) -> Driver {
        Driver { backend: backend.into(), keys: "" }
    }

    /// The spec of an interface.
    fn spec(&self, name: &str) -> String {
        format!("{}:{name}{}", self.backend, self.keys)
    }
}

impl VethRig {
    /// A rig of that name over a built-in backend that opens interfaces by their names.
    pub fn new(name: &str, backend: &str) -> VethRig {
        VethRig::with_registry(name, backend, anyport_backends::registry())
    }

    /// The same over a backend from a given registry.
    pub fn with_registry(name: &str, backend: &str, registry: Registry) -> VethRig {
        let ends = [Driver::new(backend), Driver::new(backend)];
        VethRig { name: name.into(), ends, registry, tags_in_frames: false, queues: None }
    }

    /// A rig of that name with another backend on each end.
    pub fn across(name: &str, backends: [&str; 2]) -> VethRig {
        let registry = anyport_backends::registry();
        VethRig {
            name: name.into(),
            ends: backends.map(Driver::new),
            registry,
            tags_in_frames: false,
            queues: None,
        }
    }

    /// The same with so many queues each way. What a host sends may come by any of them, also by one that no port has opened, so
    /// there is none behind the ends ([`Power::Host`]).
    #[must_use]
    pub fn with_queues(self, queues: u16) -> VethRig {
        VethRig { queues: Some(queues), ..self }
    }

    /// The same with the hosts at both ends putting VLAN tags into frames themselves, instead of leaving that to the device: what
    /// an administrator does where a port cannot see tags beside frames, and says so.
    #[must_use]
    pub fn with_tags_in_frames(self) -> VethRig {
        VethRig { tags_in_frames: true, ..self }
    }

    /// The same with keys (`,key=value`) in every spec.
    #[must_use]
    pub fn with_keys(mut self, keys: &'static str) -> VethRig {
        self.ends.iter_mut().for_each(|end| end.keys = keys);
        self
    }
}

/// The addresses of the host behind an end.
const HOST: Host = Host { address: Ipv4Addr::new(10, 99, 0, 1), peer: Ipv4Addr::new(10, 99, 0, 2) };

/// Backends whose devices are kernel interfaces.
const INTERFACE_BACKENDS: [&str; 2] = ["pcap", "af_xdp"];

impl Rig for VethRig {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn about(&self) -> String {
        let [one, other] = self.ends.each_ref().map(|end| end.spec("IFACE"));
        match one == other {
            true => format!("`{one}` on both ends of a veth pair, in a network namespace"),
            false => format!("`{one}` and `{other}` on a veth pair, in a network namespace"),
        }
    }

    fn registry(&self) -> Registry {
        self.registry.clone()
    }

    fn powers(&self) -> Vec<Power> {
        let mut powers = vec![
            Power::Cable,
            Power::Remove,
            Power::Rename,
            Power::Move,
            Power::Host,
            Power::Witness,
            Power::LongFrames,
            Power::Settings,
            Power::Direct,
            Power::Alias,
            Power::Processes,
        ];
        if tags::possible() {
            powers.push(Power::Tags);
        }
        if self.queues.is_some() {
            powers.retain(|power| *power != Power::Host);
        }
        powers
    }

    fn enter(&mut self) -> Verdict {
        // SAFETY: plain flags; only the calling thread moves.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = std::io::Error::last_os_error();
            return Err(Failure(format!(
                "cannot make a network namespace ({error}): run it as root, or below a user namespace with \
                 `unshare --map-root-user --net COMMAND`"
            )));
        }
        // One peer is told of six closed ports at once and of one more each second: cases provoke more than that.
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?;
        for scope in ["all", "default"] {
            // `/proc/sys/net` is the view of whoever opens it.
            let switch = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
            // Without IPv6 there is no such switch, and no neighbour discovery to keep quiet.
            if std::path::Path::new(&switch).exists() {
                std::fs::write(&switch, "1")?;
            }
        }
        ip("link set lo up")
    }

    fn wires(&self, number: usize) -> Verdict<Box<dyn Wires>> {
        let names = [format!("c{number}a"), format!("c{number}b")];
        let [a, b] = &names;
        let queues = self
            .queues
            .map_or(String::new(), |count| format!(" numrxqueues {count} numtxqueues {count}"));
        ip(&format!("link add {a}{queues} type veth peer name {b}{queues}"))?;
        let backends = self.registry.backends().map(anyport::Backend::name);
        let wires = VethWires {
            ends: self.ends.clone(),
            backends: backends.filter(|name| INTERFACE_BACKENDS.contains(name)).collect(),
            names: Mutex::new(names.clone()),
            tag: Mutex::new(None),
            elsewhere: Mutex::new(None),
        };
        for name in &names {
            if self.tags_in_frames {
                run("ethtool", &format!("-K {name} txvlan off tx-vlan-stag-hw-insert off"))?;
            }
            ip(&format!("link set {name} addrgenmode none"))?;
            ip(&format!("link set {name} up"))?;
        }
        for end in End::BOTH {
            wires.wait_for_carrier(end)?;
        }
        Ok(Box::new(wires))
    }
}

struct VethWires {
    ends: [Driver; 2],
    /// Registered backends that open interfaces by name.
    backends: Vec<&'static str>,
    names: Mutex<[String; 2]>,
    /// Leaves a tag beside frames.
    tag: Mutex<Option<Attached>>,
    /// A process in a namespace of its own, to move devices to.
    elsewhere: Mutex<Option<Child>>,
}

impl VethWires {
    fn name(&self, end: End) -> String {
        self.names.lock().map_or_else(|poisoned| poisoned.into_inner().clone(), |n| n.clone())
            [end.index()]
        .clone()
    }

    /// Frames that an end took out of its receive rings: with a native XDP program, or GRO, and not without.
    ///
    /// Of these the pair counts the bytes without the Ethernet header, at both ends (`veth_xdp_rcv` adds up `skb->len` of frames
    /// whose header was taken off when they were put into the ring).
    fn polled(&self, end: End) -> Verdict<u64> {
        let counted = ethtool::statistics(&self.name(end))?;
        let polled = counted
            .iter()
            .filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with("_xdp_packets"));
        Ok(polled.map(|(_, count)| count).sum())
    }

    fn wait_for_carrier(&self, end: End) -> Verdict {
        let name = self.name(end);
        eventually(&format!("carrier on {name}"), || {
            let shown = output(&format!("-o link show dev {name}"))?;
            Ok(shown.contains("LOWER_UP").then_some(()))
        })
    }
}

impl Wires for VethWires {
    fn spec(&self, end: End) -> String {
        self.ends[end.index()].spec(&self.name(end))
    }

    fn set_link(&self, up: bool) -> Verdict {
        // One end down takes the carrier from both.
        let state = if up { "up" } else { "down" };
        ip(&format!("link set {} {state}", self.name(End::B)))?;
        match up {
            true => self.wait_for_carrier(End::A),
            false => Ok(()),
        }
    }

    fn remove(&self, end: End) -> Verdict {
        ip(&format!("link del {}", self.name(end)))
    }

    fn rename(&self, end: End) -> Verdict {
        let (old, new) = (self.name(end), format!("{}x", self.name(end)));
        ip(&format!("link set {old} name {new}"))?;
        self.names.lock().map_err(|_| "an earlier call panicked")?[end.index()] = new;
        Ok(())
    }

    fn move_away(&self, end: End) -> Verdict {
        let mut elsewhere = self.elsewhere.lock().map_err(|_| "an earlier call panicked")?;
        let process = match &mut *elsewhere {
            Some(process) => process,
            none => none.insert(somewhere_else()?),
        };
        ip(&format!("link set {} netns {}", self.name(end), process.id()))
    }

    fn host(&self, end: End, at_peer: MacAddr) -> Verdict<Host> {
        let name = self.name(end);
        ip(&format!("address replace {}/24 dev {name}", HOST.address))?;
        ip(&format!("neigh replace {} lladdr {at_peer} dev {name} nud permanent", HOST.peer))?;
        Ok(HOST)
    }

    fn default_route(&self, end: End) -> Verdict {
        ip(&format!("route add default via {} dev {}", HOST.peer, self.name(end)))
    }

    fn tag_beside(&self, end: End, tag: Option<(u16, u16)>) -> Verdict {
        let mut attached = self.tag.lock().map_err(|_| "an earlier call panicked")?;
        // One at a time: two would leave two tags.
        if let Some(before) = attached.take() {
            before.detach();
        }
        if let Some((tpid, tci)) = tag {
            *attached = Some(tags::leave_beside(&self.name(end), tpid, tci)?);
        }
        Ok(())
    }

    fn witness(&self, end: End) -> Verdict<Witness> {
        let name = self.name(end);
        let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let mut counted = parse_counters(&text, &name).ok_or_else(|| {
            Failure(format!("no counters of {name} in /proc/thread-self/net/dev"))
        })?;
        counted.rx_bytes += headers(self.polled(end)?);
        counted.tx_bytes += headers(self.polled(end.other())?);
        Ok(counted)
    }

    fn came_out(&self, end: End) -> Verdict<Option<u64>> {
        // What is longer than the far end's MTU, a header and a tag is dropped by the pair itself.
        Ok(Some(self.witness(end)?.rx_packets))
    }

    fn aliases(&self, end: End) -> Verdict<Vec<String>> {
        let name = self.name(end);
        let second = format!("{name}-altname");
        ip(&format!("link property add dev {name} altname {second}"))?;
        let own = &*self.ends[end.index()].backend;
        let others = self.backends.iter().filter(|backend| **backend != own);
        let others = others.map(|backend| format!("{backend}:{name}"));
        Ok(others.chain([format!("{own}:{second}")]).collect())
    }

    fn link(&self, end: End) -> Verdict<Link> {
        let name = self.name(end);
        let up = output(&format!("-o link show dev {name}"))?.contains("LOWER_UP");
        let (speed, full_duplex) = ethtool::speed(&name)?;
        Ok(Link::new(up).with_speed(speed, full_duplex))
    }

    fn reset(&self, end: End) -> Verdict {
        ip(&format!("link set {} address 02:00:00:aa:bb:cc mtu 1300", self.name(end)))
    }

    fn settings(&self, end: End) -> Verdict<String> {
        let name = self.name(end);
        let shown = output(&format!("-d -j link show dev {name}"))?;
        let links: serde_json::Value = serde_json::from_str(&shown)?;
        let link = &links[0];
        let keys =
            ["address", "mtu", "flags", "promiscuity", "allmulti", "xdp", "num_rx_queues", "qdisc"];
        let settings = keys.iter().map(|key| format!("{key}={}", link[*key]));
        let switches = format!("switches={}", ethtool::switches(&name)?);
        Ok(settings.chain([switches]).collect::<Vec<_>>().join(" "))
    }
}

impl Drop for VethWires {
    fn drop(&mut self) {
        for end in End::BOTH {
            // One takes the other along; what a case has removed is gone already.
            if ip(&format!("link del {}", self.name(end))).is_ok() {
                break;
            }
        }
        if let Ok(Some(mut process)) = self.elsewhere.lock().map(|mut process| process.take()) {
            // It does nothing but be there; without it the namespace goes.
            let _ = process.kill().and_then(|()| process.wait());
        }
    }
}

/// A process that sleeps in a network namespace of its own, for no longer than any case takes.
fn somewhere_else() -> Verdict<Child> {
    let mut sleep = Command::new("sleep");
    sleep.arg("120").process_group(0).stdin(Stdio::null());
    // SAFETY: what runs between fork and exec is one system call.
    let sleep = unsafe {
        sleep.pre_exec(|| match libc::unshare(libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    sleep.spawn().map_err(|error| Failure(format!("running `sleep` in another namespace: {error}")))
}

/// Runs `ip` with arguments that contain no blanks of their own, in the calling thread's namespace.
fn ip(arguments: &str) -> Verdict {
    output(arguments).map(drop)
}

fn output(arguments: &str) -> Verdict<String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Verdict<String> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        // Ctrl-C at a terminal ends the suite after its case, and must not fail the case.
        .process_group(0)
        .output()
        .map_err(|error| match program {
            "ip" => format!("running `ip` (package iproute2): {error}"),
            _ => format!("running `{program}`: {error}"),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure(format!("`{program} {arguments}`: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bytes of so many Ethernet headers.
fn headers(frames: u64) -> u64 {
    frames * 14
}

/// The line of an interface in the format of `/proc/net/dev`.
fn parse_counters(text: &str, interface: &str) -> Option<Witness> {
    let line = text.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == interface).then_some(counters)
    })?;
    let numbers: Vec<u64> = line.split_whitespace().map_while(|n| n.parse().ok()).collect();
    Some(Witness {
        rx_bytes: *numbers.first()?,
        rx_packets: *numbers.get(1)?,
        tx_bytes: *numbers.get(8)?,
        tx_packets: *numbers.get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets ...\n\
                    c1a: 120 2 0 0 0 0 0 0 60 1 0 0 0 0 0 0\n";
        let expected = Witness { rx_packets: 2, rx_bytes: 120, tx_packets: 1, tx_bytes: 60 };
        assert_eq!(parse_counters(text, "c1a"), Some(expected));
        assert_eq!(parse_counters(text, "c1"), None);
    }
}
