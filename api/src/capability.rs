//! What a port can do, readable before anything is configured (contract L3).
//!
//! The conformance suite skips a case only because of what stands here, so a backend that declares too
//! much fails the suite and one that declares too little is not tested for it.

use serde::{Deserialize, Serialize};

/// Who does a piece of per-packet work when it is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Doer {
    /// The device or the kernel below the backend.
    Device,
    /// The common layer, on the processor.
    #[default]
    Software,
}

/// Offloads that the *device* can do; whatever it cannot, the common layer does in software when the
/// configuration says `auto` (contract O).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceOffloads {
    /// Checksum status of received frames (contract O1).
    pub rx_checksum: bool,
    /// IPv4, TCP and UDP checksums on transmit (contract O2).
    pub tx_checksum: bool,
    /// Taking the 802.1Q tag out of received frames (contract O3).
    pub vlan_strip: bool,
    /// Putting an 802.1Q tag into frames on transmit (contract O3).
    pub vlan_insert: bool,
    /// Receive timestamps (contract O4).
    pub rx_timestamp: bool,
    /// Transmit timestamps (contract O4). There is no software fallback.
    pub tx_timestamp: bool,
    /// The Toeplitz hash of the configured key in each packet (contract O5).
    pub rss_hash: bool,
}

/// What becomes of frames that are in a transmit ring when the link is lost (contract T8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkLoss {
    /// They are sent when the link returns.
    #[default]
    Kept,
    /// They are dropped and counted as `tx_dropped`.
    Dropped,
}

/// The limits and abilities of one port.
///
/// Backends start from [`Capability::new`], which claims the least that the contract allows, and raise
/// what they can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capability {
    /// The most receive queues (at least 1).
    pub max_rx_queues: u16,
    /// The most transmit queues (at least 1).
    pub max_tx_queues: u16,
    /// The largest maximum frame that can be configured, in bytes without FCS.
    pub max_frame: usize,
    /// The smallest maximum frame that can be configured, in bytes without FCS.
    pub min_max_frame: usize,
    /// The maximum frame that the port has if none is configured, in bytes without FCS.
    pub default_max_frame: usize,
    /// The receive ring sizes that can be configured, in frames: least, most, and the default.
    pub rx_ring: RingSizes,
    /// The transmit ring sizes that can be configured, in frames: least, most, and the default.
    pub tx_ring: RingSizes,
    /// How many pools can be attached (contract T7).
    pub max_pools: usize,
    /// The most segments of a packet, received or sent; 1 means that a frame must fit one pool frame.
    pub max_segments: u16,
    /// Packets from an attached pool are never copied (contract T7).
    pub zero_copy: bool,
    /// Every frame lost because the application was too slow is counted (contract R8).
    pub exact_drops: bool,
    /// Flows are spread over the receive queues by a Toeplitz hash (contract Q1).
    pub rss: bool,
    /// Delivered frames are not seen by the host's network stack as well (contract R13).
    pub exclusive: bool,
    /// They can be left to the host's stack as well: `shared=true` is possible (contract R13). A port that can neither is
    /// impossible.
    pub shared: bool,
    /// Promiscuous mode can be switched (contract R6).
    pub promiscuous: bool,
    /// The device, kernel or backend filters by destination address itself; otherwise the common layer does
    /// (contract R6).
    pub filters: bool,
    /// A sending kernel may leave checksums unfinished on this link (veth, tap), so `finish_checksums=auto`
    /// means on (contract R3).
    pub software_link: bool,
    /// The MAC address can be set (contract M1).
    pub set_mac: bool,
    /// The maximum frame can be changed (contract M2).
    pub set_max_frame: bool,
    /// The link can go up and down, and that is noticed (contract T8, M3).
    pub link_state: bool,
    /// What becomes of frames in a transmit ring when the link is lost (contract T8).
    pub link_loss: LinkLoss,
    /// The device can go away while the port is open (contract T9).
    pub can_vanish: bool,
    /// The input can end, as a capture file does (contract R14).
    pub can_end: bool,
    /// The port receives; a port that only writes a file does not.
    pub receives: bool,
    /// The port transmits; a port that only reads a file does not.
    pub transmits: bool,
    /// What the device does by itself of the offloads.
    pub offloads: DeviceOffloads,
    /// Frames may still be with the device when `send` returns, so that completed ones have to be fetched
    /// (contract T6).
    pub deferred_tx: bool,
    /// The device brings frames of 14 to 59 bytes to 60 by itself; otherwise the common layer pads
    /// (contract T5).
    pub pads: bool,
}

/// The ring sizes that a port takes, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RingSizes {
    /// The least.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// What is used if nothing is configured.
    pub default: u32,
}

impl RingSizes {
    /// From `min` to `max`, `default` if nothing is configured.
    pub const fn new(min: u32, max: u32, default: u32) -> RingSizes {
        RingSizes { min, max, default }
    }
}

impl Capability {
    /// The least that the contract allows: one queue each way, one pool, one segment, frames up to 1,514
    /// bytes, no device offloads, everything else off.
    pub fn new() -> Capability {
        Capability {
            max_rx_queues: 1,
            max_tx_queues: 1,
            max_frame: 1514,
            min_max_frame: 1514,
            default_max_frame: 1514,
            rx_ring: RingSizes::new(1, 4096, 512),
            tx_ring: RingSizes::new(1, 4096, 512),
            max_pools: 1,
            max_segments: 1,
            zero_copy: false,
            exact_drops: false,
            rss: false,
            exclusive: false,
            shared: true,
            promiscuous: false,
            filters: false,
            software_link: false,
            set_mac: false,
            set_max_frame: false,
            link_state: false,
            link_loss: LinkLoss::Kept,
            can_vanish: false,
            can_end: false,
            receives: true,
            transmits: true,
            offloads: DeviceOffloads::default(),
            deferred_tx: false,
            pads: false,
        }
    }
}

impl Default for Capability {
    fn default() -> Capability {
        Capability::new()
    }
}
