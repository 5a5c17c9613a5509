//! VLAN tags stay in the frame (contract R3), also where a kernel or a card keeps them beside it: an XDP program sees the bytes
//! only.
//!
//! | interface | what is done |
//! |---|---|
//! | a card that takes tags out of received frames | that is switched off, from start to stop |
//! | veth, program in the driver | the program asks the driver for the tag, and puts it in (Linux 6.8) |
//! | veth, otherwise | refused, as long as the other end leaves tags to a device to put in |
//! | tun, tap, tunnels | tags are in the bytes |
//! | bridges, macvlans and the like | refused: the kernel has taken the tag out before they see the frame |
//!
//! The key `tags_in_frames=true` says that all this is known not to matter.

use anyport::{Error, Result};
use anyport_netdev::bpf::btf::Function;
use anyport_netdev::error::explain;
use anyport_netdev::ethtool::Feature;
use anyport_netdev::links::{LinkInfo, link};
use anyport_netdev::{Interface, Settings};

/// The switches (as `ethtool -k` calls them) of what takes 802.1Q and 802.1ad tags out of received frames.
const TAKE_OUT: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];

/// Those of what leaves tags to the device.
const LEAVE: [&str; 2] = ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];

/// The function by which a program asks the driver for a tag.
const ASK: &str = "bpf_xdp_metadata_rx_vlan_tag";

/// Kinds of virtual interfaces whose frames come from outside the kernel as they are.
const WHOLE: [&str; 6] = ["tun", "vxlan", "geneve", "gretap", "ip6gretap", "dummy"];

/// Where an interface's tags are, by all that can be known of it before it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tags {
    /// In the frames.
    InFrames,
    /// A card may take them out: a switch.
    CardsSwitch,
    /// Beside the frames of a veth.
    Veth,
    /// Beside the frames, out of reach.
    OutOfReach,
}

impl Tags {
    /// What can be said of an interface.
    pub fn of(info: &LinkInfo, in_frames: bool) -> Tags {
        match info.kind.as_deref() {
            _ if in_frames => Tags::InFrames,
            None => Tags::CardsSwitch,
            Some("veth") => Tags::Veth,
            Some(kind) if WHOLE.contains(&kind) => Tags::InFrames,
            Some(_) => Tags::OutOfReach,
        }
    }

    /// The kernel's function that a program in the driver has to call, if one has to and there is one.
    pub fn function(self) -> Option<Function> {
        // What cannot be read is not there to be called.
        (self == Tags::Veth).then(|| Function::find(ASK).ok().flatten()).flatten()
    }

    /// Refuses what would lose tags. `asked` says that the program is going to ask the driver.
    ///
    /// # Errors
    /// [`Error::Backend`] with the command that mends it; the system's.
    pub fn check(self, title: &str, info: &LinkInfo, asked: bool) -> Result<()> {
        let refuse = |reason: String| {
            Err(Error::Backend {
                device: title.into(),
                reason: format!(
                    "received frames would lose their VLAN tags: {reason}, or, if no frame has a tag or all senders put it into \
                     the frame themselves, tags_in_frames=true says so"
                ),
            })
        };
        let name = &info.name;
        match self {
            Tags::OutOfReach => refuse(format!(
                "before they come to an interface of kind `{}`, the kernel has taken them out; open the interfaces below it \
                 instead, or take `pcap:{name}`",
                info.kind.as_deref().unwrap_or("unknown")
            )),
            Tags::Veth if !asked => match info.lower.and_then(|peer| link(peer).ok()) {
                Some(peer) if !leaves_tags(&peer.name, title)? => Ok(()),
                Some(peer) => refuse(format!(
                    "the kernel at the other end leaves them to the device; `ethtool -K {} txvlan off tx-vlan-stag-hw-insert off` \
                     lets it put them in, attach=native (Linux 6.8) gets them from the driver",
                    peer.name
                )),
                None => refuse(
                    "the kernel at the other end, in another network namespace, may leave them to the device; attach=native \
                     (Linux 6.8) gets them from the driver. After `ethtool -K PEER txvlan off tx-vlan-stag-hw-insert off` there"
                        .into(),
                ),
            },
            _ => Ok(()),
        }
    }

    /// Refuses a card that takes tags out of frames, with the command that makes it leave them in.
    ///
    /// # Errors
    /// [`Error::Backend`]; the system's.
    pub fn check_left_in(self, interface: &Interface, title: &str) -> Result<()> {
        if self != Tags::CardsSwitch || !any_active(interface, TAKE_OUT, title)? {
            return Ok(());
        }
        let name = interface.name().unwrap_or_default();
        let switches = TAKE_OUT.map(|switch| format!("{switch} off")).join(" ");
        Err(Error::Backend {
            device: title.into(),
            reason: format!(
                "its card takes VLAN tags out of received frames; `ethtool -K {name} {switches}` makes it leave them in, or, if no \
                 frame has a tag, say so by tags_in_frames"
            ),
        })
    }

    /// Lets a card leave tags in frames; what was switched off.
    ///
    /// # Errors
    /// [`Error::Backend`] if it does not; the system's.
    pub fn leave_in(self, settings: &mut Settings, title: &str) -> Result<Vec<&'static str>> {
        if self != Tags::CardsSwitch {
            return Ok(Vec::new());
        }
        let switched = settings.switch_off(TAKE_OUT)?;
        match any_active(settings.interface(), TAKE_OUT, title)? {
            false => Ok(switched),
            true => Err(Error::Backend {
                device: title.into(),
                reason: format!(
                    "its card takes VLAN tags out of received frames, and cannot be told not to (`ethtool -k {}` shows \
                     rx-vlan-offload as fixed); take `pcap:` instead, or, if no frame has a tag, say so by tags_in_frames=true",
                    settings.info().name
                ),
            }),
        }
    }
}

/// Whether the kernel leaves tags to that interface when it sends.
fn leaves_tags(name: &str, title: &str) -> Result<bool> {
    let interface = Interface::open(name);
    let interface = interface.map_err(|error| explain(title, "opening its other end", error))?;
    any_active(&interface, LEAVE, title)
}

fn any_active(interface: &Interface, names: [&str; 2], title: &str) -> Result<bool> {
    match interface.features(names) {
        // A device without any.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(explain(title, "reading the offload switches", error)),
        Ok(features) => Ok(features.iter().flatten().any(|feature: &Feature| feature.active)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport_netdev::testing::{in_namespace, ip};

    #[test]
    fn what_would_lose_tags_is_refused_with_what_mends_it() {
        let info = |name: &str| link(Interface::open(name).unwrap().index()).unwrap();
        in_namespace(|| {
            let veth = info("a0");
            let tags = Tags::of(&veth, false);
            assert_eq!(tags, Tags::Veth);
            assert!(tags.check("x:a0", &veth, true).is_ok());
            let refused = tags.check("x:a0", &veth, false).unwrap_err().to_string();
            assert!(refused.contains("`ethtool -K a1 txvlan off"), "{refused}");
            for switch in LEAVE {
                let _ = Interface::open("a1").unwrap().set_feature(switch, false);
            }
            assert!(tags.check("x:a0", &veth, false).is_ok());
            let mut away = veth.clone();
            away.lower = None;
            let refused = tags.check("x:a0", &away, false).unwrap_err().to_string();
            assert!(refused.contains("`ethtool -K PEER"), "{refused}");
            assert_eq!(Tags::of(&away, true), Tags::InFrames);

            ip("link add b0 type bridge");
            let bridge = info("b0");
            let refused = Tags::of(&bridge, false).check("x:b0", &bridge, false).unwrap_err();
            assert!(refused.to_string().contains("kind `bridge`"), "{refused}");
            assert!(refused.to_string().contains("tags_in_frames=true"), "{refused}");
            for (kind, expected) in [(Some("tun"), Tags::InFrames), (None, Tags::CardsSwitch)] {
                let mut other = veth.clone();
                other.kind = kind.map(str::to_owned);
                assert_eq!(Tags::of(&other, false), expected);
            }
            // A veth has such switches, which do nothing.
            let mut settings = Settings::open(Interface::open("a0").unwrap(), "x:a0").unwrap();
            let active = || any_active(&Interface::open("a0").unwrap(), TAKE_OUT, "x:a0").unwrap();
            assert!(active());
            assert_eq!(Tags::CardsSwitch.leave_in(&mut settings, "x:a0").unwrap(), TAKE_OUT);
            assert!(!active());
            settings.switch_back();
            assert!(active());
        });
    }
}
