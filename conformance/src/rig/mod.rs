//! Rigs: what makes two connected devices for a case, and takes them away again.
//!
//! | rig | devices | needs |
//! |---|---|---|
//! | [`LoopRig`] | an in-process cable | nothing |
//! | [`VethRig`] | a veth pair in a network namespace of the suite's own | root, or a user namespace |
//! | [`JoinedRig`] | wires of two rigs, with a forwarder between them | what they need |
//! | [`Given`] | two ports that somebody connected | whatever they need |

mod ethtool;
mod given;
mod joined;
mod loopback;
mod tags;
mod veth;

use std::net::Ipv4Addr;

use anyport::{Link, MacAddr, Registry};

pub use given::Given;
pub use joined::JoinedRig;
pub use loopback::LoopRig;
pub use veth::VethRig;

use crate::case::{Failure, Power, Verdict};
use crate::ctx::End;

/// The names of the rigs that [`named`] knows, with what they are.
pub const NAMES: [(&str, &str); 10] = [
    ("loop", "both ends of an in-process cable"),
    ("loop-offloads", "the same cable, whose ends do offloads themselves"),
    ("pcap-veth", "the kernel path through libpcap on both ends of a veth pair"),
    ("af_xdp-veth", "AF_XDP sockets on both ends of a veth pair, the program in the driver"),
    ("af_xdp-veth-generic", "the same, the program behind the driver"),
    ("af_xdp-veth-queues", "the program in the driver, and four queues each way"),
    ("af_xdp-pcap", "AF_XDP sockets on one end of a veth pair, libpcap on the other"),
    ("pcap-af_xdp", "the same the other way round: cases send more one way than the other"),
    ("loop-af_xdp", "an in-process cable, forwarded to AF_XDP sockets at the end of a veth pair"),
    ("af_xdp-loop", "the same the other way round"),
];

/// The rig of that name.
///
/// # Errors
/// A text that lists the names there are.
pub fn named(name: &str) -> Verdict<Box<dyn Rig>> {
    match name {
        "loop" => Ok(Box::new(LoopRig::new())),
        "loop-offloads" => Ok(Box::new(LoopRig::with_offloads())),
        "pcap-veth" => Ok(Box::new(VethRig::new(name, "pcap"))),
        "af_xdp-veth" => Ok(Box::new(VethRig::new(name, "af_xdp").with_keys(",attach=native"))),
        "af_xdp-veth-generic" => Ok(Box::new(
            VethRig::new(name, "af_xdp").with_keys(",attach=generic").with_tags_in_frames(),
        )),
        "af_xdp-veth-queues" => {
            Ok(Box::new(VethRig::new(name, "af_xdp").with_keys(",attach=native").with_queues(4)))
        }
        "af_xdp-pcap" => Ok(Box::new(VethRig::across(name, ["af_xdp", "pcap"]))),
        "pcap-af_xdp" => Ok(Box::new(VethRig::across(name, ["pcap", "af_xdp"]))),
        "loop-af_xdp" => {
            Ok(Box::new(JoinedRig::new(name, LoopRig::new(), VethRig::new(name, "af_xdp"))))
        }
        "af_xdp-loop" => {
            Ok(Box::new(JoinedRig::new(name, VethRig::new(name, "af_xdp"), LoopRig::new())))
        }
        _ => {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            Err(Failure(format!("there is no rig `{name}`; the rigs are: {}", known.join(", "))))
        }
    }
}

/// Makes connected devices.
pub trait Rig: Send {
    /// Its name in reports.
    fn name(&self) -> String;
    /// What it is, in a few words.
    fn about(&self) -> String;
    /// The backends that cases open ports with.
    fn registry(&self) -> Registry;
    /// What it can do besides connecting two ports.
    fn powers(&self) -> Vec<Power>;
    /// Called once, on the thread from which all cases are started: the place to enter a namespace.
    ///
    /// # Errors
    /// If the rig cannot be built here; the text says what it would take.
    fn enter(&mut self) -> Verdict {
        Ok(())
    }
    /// Called once, before the first case: whether the devices are what a rig must be, two connected ends where nobody else
    /// sends. A rig that makes its devices itself knows.
    ///
    /// # Errors
    /// If they are not; the text says what is wrong.
    fn check(&self) -> Verdict {
        Ok(())
    }
    /// Two connected devices; dropping them takes them away.
    ///
    /// # Errors
    /// If they cannot be made.
    fn wires(&self, number: usize) -> Verdict<Box<dyn Wires>>;
}

/// Frames and bytes that somebody else counted at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Witness {
    /// Frames that came out of the wire at this end.
    pub rx_packets: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Frames that this end put on the wire.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
}

/// The addresses by which a host's stack and a port can talk ([`Wires::host`]).
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// The host's own address.
    pub address: Ipv4Addr,
    /// An address that the host believes to be at the other end.
    pub peer: Ipv4Addr,
}

/// Two connected devices. What a rig cannot do (its [`powers`](Rig::powers) say so) keeps these defaults.
pub trait Wires: Send + Sync {
    /// The spec of an end.
    fn spec(&self, end: End) -> String;
    /// Takes the link down, or brings it up ([`Power::Cable`]).
    ///
    /// # Errors
    /// If that does not work.
    fn set_link(&self, _up: bool) -> Verdict {
        unable(Power::Cable)
    }
    /// Holds back what is sent from now on, or lets it go ([`Power::Pause`]).
    ///
    /// # Errors
    /// If that does not work.
    fn pause(&self, _on: bool) -> Verdict {
        unable(Power::Pause)
    }
    /// Takes the device of an end away for good ([`Power::Remove`]).
    ///
    /// # Errors
    /// If that does not work.
    fn remove(&self, _end: End) -> Verdict {
        unable(Power::Remove)
    }
    /// Gives the device of an end another name ([`Power::Rename`]).
    ///
    /// # Errors
    /// If that does not work.
    fn rename(&self, _end: End) -> Verdict {
        unable(Power::Rename)
    }
    /// Moves the device of an end to another network namespace ([`Power::Move`]).
    ///
    /// # Errors
    /// If that does not work.
    fn move_away(&self, _end: End) -> Verdict {
        unable(Power::Move)
    }
    /// Lets the input of an end's port end ([`Power::EndInput`]).
    ///
    /// # Errors
    /// If that does not work.
    fn end_input(&self, _end: End) -> Verdict {
        unable(Power::EndInput)
    }
    /// Gives the host behind an end an address; `at_peer` is the MAC address that it sends to
    /// ([`Power::Host`]). Sockets of the case's thread are on that host.
    ///
    /// # Errors
    /// If that does not work.
    fn host(&self, _end: End, _at_peer: MacAddr) -> Verdict<Host> {
        unable(Power::Host)
    }
    /// Sends what the host behind an end does not know to send elsewhere by this end, to the peer of [`host`](Wires::host),
    /// which was called before ([`Power::Host`]).
    ///
    /// # Errors
    /// If that does not work.
    fn default_route(&self, _end: End) -> Verdict {
        unable(Power::Host)
    }
    /// Leaves a VLAN tag (type and control word) beside every frame that the host behind an end sends from now on, as a kernel
    /// does where it takes the device to put tags in; or none ([`Power::Tags`]).
    ///
    /// # Errors
    /// If that does not work.
    fn tag_beside(&self, _end: End, _tag: Option<(u16, u16)>) -> Verdict {
        unable(Power::Tags)
    }
    /// What somebody else counted at an end ([`Power::Witness`]).
    ///
    /// # Errors
    /// If that cannot be read.
    fn witness(&self, _end: End) -> Verdict<Witness> {
        unable(Power::Witness)
    }
    /// How many frames have come out of the wire at an end, where the wire itself refuses some of those that are too long
    /// for what is there; `None` where it carries all that is sent ([`Power::LongFrames`]).
    ///
    /// # Errors
    /// If that cannot be read.
    fn came_out(&self, _end: End) -> Verdict<Option<u64>> {
        unable(Power::LongFrames)
    }
    /// Other specs of the same device: by another name, through another backend ([`Power::Alias`]).
    ///
    /// # Errors
    /// If there is none.
    fn aliases(&self, _end: End) -> Verdict<Vec<String>> {
        unable(Power::Alias)
    }
    /// Link state, speed and duplex as seen from outside ([`Power::Settings`]).
    ///
    /// # Errors
    /// If that cannot be read.
    fn link(&self, _end: End) -> Verdict<Link> {
        unable(Power::Settings)
    }
    /// Sets the device's address and MTU to something else than before, as an administrator would
    /// ([`Power::Settings`]).
    ///
    /// # Errors
    /// If that does not work.
    fn reset(&self, _end: End) -> Verdict {
        unable(Power::Settings)
    }
    /// The device's settings as seen from outside, to be compared before and after ([`Power::Settings`]).
    ///
    /// # Errors
    /// If that cannot be read.
    fn settings(&self, _end: End) -> Verdict<String> {
        unable(Power::Settings)
    }
}

fn unable<T>(power: Power) -> Verdict<T> {
    Err(Failure(format!("the case asked for {power:?}, which the rig does not have")))
}
