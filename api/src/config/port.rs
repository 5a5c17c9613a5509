//! The keys that every port takes, whatever is under it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mac::MacAddr;
use crate::offload::toeplitz;

/// How an offload is to be done (contract O).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Not at all: costs nothing.
    #[default]
    Off,
    /// By the device where it can, else in software.
    Auto,
    /// By the device, or the configuration is refused.
    Required,
}

/// A switch whose default depends on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// On where the device needs it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The configuration of a port. Every field has a default; nothing is on that was not asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Receive and transmit queues at once; overrides the two above.
    pub queues: Option<u16>,
    /// Frames in each receive ring; the capability's default if absent.
    pub rx_ring: Option<u32>,
    /// Frames in each transmit ring; the capability's default if absent.
    pub tx_ring: Option<u32>,
    /// The maximum frame in bytes without FCS (MTU + 14); the device's own if absent.
    pub max_frame: Option<usize>,
    /// The most segments of a packet (contract: `max_segments`); 1 means that a frame fits one pool frame.
    pub max_segments: u16,
    /// The port's own address; the device's if absent.
    pub mac: Option<MacAddr>,
    /// Deliver everything, not only what is addressed to this port (contract R6).
    pub promiscuous: bool,
    /// Finish the checksums that a sending kernel left undone (contract R3); `auto`: on software links.
    pub finish_checksums: Switch,
    /// Leave received frames to the host's stack as well (contract R13), where the port can (capability `shared`).
    pub shared: bool,
    /// Take the interface even if it carries the default route or the login session (contract R13).
    pub takeover: bool,
    /// What goes to the kernel, and not to the port, although the port is exclusive: `arp,tcp:22` (contract R13). The words
    /// are those of the guide to configuration.
    #[serde(deserialize_with = "list")]
    pub to_kernel: Vec<String>,
    /// Write everything received and sent to this pcapng file.
    #[serde(deserialize_with = "super::path")]
    pub capture: Option<PathBuf>,
    /// Receive checksum status (contract O1).
    pub rx_checksum: Offload,
    /// Transmit checksums on request of the packet (contract O2).
    pub tx_checksum: Offload,
    /// Take the 802.1Q tag out of received frames (contract O3).
    pub vlan_strip: Offload,
    /// Put an 802.1Q tag in on request of the packet (contract O3).
    pub vlan_insert: Offload,
    /// Receive timestamps (contract O4).
    pub rx_timestamp: Offload,
    /// Transmit timestamps on request of the packet (contract O4).
    pub tx_timestamp: Offload,
    /// The Toeplitz hash in each packet (contract O5).
    pub rss_hash: Offload,
    /// The Toeplitz key: 80 hexadecimal digits, or `default`, or `symmetric`.
    pub rss_key: RssKey,
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            queues: None,
            rx_ring: None,
            tx_ring: None,
            max_frame: None,
            max_segments: 1,
            mac: None,
            promiscuous: false,
            finish_checksums: Switch::Auto,
            shared: false,
            takeover: false,
            to_kernel: Vec::new(),
            capture: None,
            rx_checksum: Offload::Off,
            tx_checksum: Offload::Off,
            vlan_strip: Offload::Off,
            vlan_insert: Offload::Off,
            rx_timestamp: Offload::Off,
            tx_timestamp: Offload::Off,
            rss_hash: Offload::Off,
            rss_key: RssKey::default(),
        }
    }
}

impl PortConfig {
    /// Refuses numbers that no port takes.
    pub(crate) fn check(&self, context: &str) -> Result<()> {
        let least_one = [
            ("rx_queues", Some(self.rx_queues.into())),
            ("tx_queues", Some(self.tx_queues.into())),
            ("queues", self.queues.map(u32::from)),
            ("rx_ring", self.rx_ring),
            ("tx_ring", self.tx_ring),
            ("max_segments", Some(self.max_segments.into())),
        ];
        match least_one.into_iter().find(|(_, value)| *value == Some(0)) {
            Some((key, _)) => Err(Error::InvalidValue {
                context: context.into(),
                key: key.into(),
                value: "0".into(),
                expected: "at least 1".into(),
            }),
            None => Ok(()),
        }
    }

    /// The number of receive queues asked for.
    pub fn rx_queue_count(&self) -> u16 {
        self.queues.unwrap_or(self.rx_queues)
    }

    /// The number of transmit queues asked for.
    pub fn tx_queue_count(&self) -> u16 {
        self.queues.unwrap_or(self.tx_queues)
    }
}

/// A 40-byte Toeplitz key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RssKey(pub [u8; 40]);

impl Default for RssKey {
    fn default() -> RssKey {
        RssKey(toeplitz::DEFAULT_KEY)
    }
}

impl RssKey {
    /// A key under which both directions of a flow have the same hash.
    pub const SYMMETRIC: RssKey = RssKey(toeplitz::SYMMETRIC_KEY);
}

impl Serialize for RssKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for RssKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<RssKey, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = "80 hexadecimal digits, `default` or `symmetric`";
        match text.as_str() {
            "default" => return Ok(RssKey::default()),
            "symmetric" => return Ok(RssKey::SYMMETRIC),
            _ => {}
        }
        let digits: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| digits.len() == 80);
        let digits = digits.ok_or_else(|| serde::de::Error::custom(expected))?;
        let mut key = [0; 40];
        for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(RssKey(key))
    }
}

impl JsonSchema for RssKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RssKey".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(default|symmetric|[0-9A-Fa-f]{80})$",
            "examples": ["symmetric"],
        })
    }
}

/// `a,b` in a spec is `["a", "b"]` in a file.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::List(list) => list,
        Either::Text(text) => {
            text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
        }
    })
}
