//! Segments longer than a frame: who puts them together, or does not cut them, and what mends it (contract R2 to R4).
//!
//! Kernels hand several TCP segments on as one long frame where they can: a receiving one puts them together (GRO, LRO), a
//! sending one leaves them uncut for its device (TSO, GSO), and a software link carries them as they are. A port wants the
//! frames that were sent.

use crate::links::{LinkInfo, link};

/// The offload switches (as `ethtool -k` calls them) that put received frames together, for [`Settings::switch_off`].
///
/// [`Settings::switch_off`]: crate::Settings::switch_off
pub const MERGING: [&str; 5] =
    ["rx-gro", "rx-lro", "rx-gro-hw", "rx-gro-list", "rx-udp-gro-forwarding"];

/// Those of them that do so before an XDP program in the driver sees the frames.
pub const MERGING_HARDWARE: [&str; 2] = ["rx-lro", "rx-gro-hw"];

/// What mends it that frames longer than the interface's own arrive there: the command, and where it is to be given.
/// `merging` says that the port leaves the switches of [`MERGING`] as they are.
pub fn advice(info: &LinkInfo, merging: bool) -> String {
    let name = &info.name;
    let here = format!("`ethtool -K {name} gro off lro off`");
    let sender = match (info.kind.as_deref(), info.lower.and_then(|peer| link(peer).ok())) {
        (Some("veth"), Some(peer)) => format!(
            "`ethtool -K {} tso off gso off` lets the kernel cut what it sends at the other end",
            peer.name
        ),
        (Some("veth"), None) => "`ethtool -K PEER tso off gso off` in the network namespace of its other end, PEER, lets the \
                                 kernel there cut what it sends"
            .into(),
        (Some(_), _) => format!(
            "`ethtool -K DEV tso off gso off` lets a sender cut what it sends, where DEV is its interface behind {name}"
        ),
        (None, _) => return format!("{here} keeps this host from putting received segments together"),
    };
    match merging {
        true => format!("{sender}, and {here} keeps this host from putting segments together"),
        false => sender,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interface;
    use crate::testing::{in_namespace, ip};

    #[test]
    fn the_command_is_for_the_place_where_it_helps() {
        let info = |name: &str| link(Interface::open(name).unwrap().index()).unwrap();
        in_namespace(|| {
            assert!(advice(&info("a0"), false).starts_with("`ethtool -K a1 tso off gso off`"));
            let both = advice(&info("a0"), true);
            assert!(
                both.contains("ethtool -K a1 tso") && both.contains("ethtool -K a0 gro"),
                "{both}"
            );
            let away = LinkInfo { lower: None, ..info("a0") };
            assert!(advice(&away, false).contains("in the network namespace of its other end"));
            ip("link add b0 type bridge");
            assert!(advice(&info("b0"), false).contains("behind b0"));
            let card = LinkInfo { kind: None, ..info("a0") };
            assert!(advice(&card, true).starts_with("`ethtool -K a0 gro off lro off`"));
        });
    }
}
