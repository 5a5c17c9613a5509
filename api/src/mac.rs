//! Ethernet addresses, and the receive filter that every port has (contract R6).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address.
///
/// ```
/// let mac: anyport::MacAddr = "02:00:00:00:00:01".parse().unwrap();
/// assert!(mac.is_unicast() && mac.is_local());
/// assert_eq!(mac.to_string(), "02:00:00:00:00:01");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Whether the group bit is unset.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0
    }

    /// Whether the group bit is set (broadcast included).
    pub fn is_multicast(self) -> bool {
        !self.is_unicast()
    }

    /// Whether the address is locally administered.
    pub fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }

    /// The first six bytes of a frame, if there are six.
    pub fn destination(frame: &[u8]) -> Option<MacAddr> {
        Some(MacAddr(*frame.first_chunk()?))
    }

    /// Checks that the address may be a port's own (contract M1).
    ///
    /// # Errors
    /// [`Error::InvalidMac`](crate::Error::InvalidMac) for a group address and for all zeros.
    pub fn check_own(self) -> crate::Result<()> {
        let reason = if self.is_multicast() {
            "it is a group address (the lowest bit of the first byte is set)"
        } else if self.0 == [0; 6] {
            "it is all zeros"
        } else {
            return Ok(());
        };
        Err(crate::Error::InvalidMac { address: self, reason })
    }

    fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six two-digit hexadecimal numbers separated by `:`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address such as 02:00:00:00:00:01")]
pub struct ParseMacError(String);

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<MacAddr, ParseMacError> {
        let error = || ParseMacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(error)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(MacAddr(bytes)) }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<MacAddr, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for MacAddr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddr".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$",
            "examples": ["02:00:00:00:00:01"],
        })
    }
}

/// Which frames a port delivers (contract R6): off, own unicast and every group address; on, everything.
///
/// One word, so that a sender's thread and the control handle need no lock. Backends that filter below the
/// common layer may use it too.
#[derive(Debug)]
pub struct MacFilter(AtomicU64);

const PROMISCUOUS: u64 = 1 << 63;
const ADDRESS: u64 = (1 << 48) - 1;

impl MacFilter {
    /// A filter for a port's own address, promiscuous mode off.
    pub fn new(own: MacAddr) -> MacFilter {
        MacFilter(AtomicU64::new(own.to_bits()))
    }

    /// The own address.
    pub fn own(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = self.0.load(Ordering::Acquire).to_le_bytes();
        MacAddr([a, b, c, d, e, f])
    }

    /// Changes the own address.
    pub fn set_own(&self, own: MacAddr) {
        let keep = |word| Some((word & PROMISCUOUS) | own.to_bits());
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, keep);
    }

    /// Switches promiscuous mode.
    pub fn set_promiscuous(&self, on: bool) {
        if on {
            self.0.fetch_or(PROMISCUOUS, Ordering::AcqRel);
        } else {
            self.0.fetch_and(!PROMISCUOUS, Ordering::AcqRel);
        }
    }

    /// Whether promiscuous mode is on.
    pub fn promiscuous(&self) -> bool {
        self.0.load(Ordering::Acquire) & PROMISCUOUS != 0
    }

    /// The filter as it is now, to be applied to a burst of frames.
    #[inline]
    pub fn snapshot(&self) -> MacFilterSnapshot {
        MacFilterSnapshot(self.0.load(Ordering::Acquire))
    }
}

/// A [`MacFilter`] at one moment: two compares per frame.
#[derive(Debug, Clone, Copy)]
pub struct MacFilterSnapshot(u64);

impl MacFilterSnapshot {
    /// A filter that lets everything pass.
    pub const ALL: MacFilterSnapshot = MacFilterSnapshot(PROMISCUOUS);

    /// Whether everything passes, so that no frame needs to be looked at.
    #[inline]
    pub fn passes_all(self) -> bool {
        self.0 & PROMISCUOUS != 0
    }

    /// Whether a frame is delivered; one without a whole destination address is not.
    #[inline]
    pub fn passes(self, frame: &[u8]) -> bool {
        if self.passes_all() {
            return true;
        }
        // Eight bytes at once: a frame has at least 14, the two behind the address are masked off.
        if let Some(&first) = frame.first_chunk::<8>() {
            let destination = u64::from_le_bytes(first);
            return destination & 1 != 0 || destination & ADDRESS == self.0 & ADDRESS;
        }
        MacAddr::destination(frame)
            .is_some_and(|mac| mac.is_multicast() || mac.to_bits() == self.0 & ADDRESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_what_it_prints() {
        let mac: MacAddr = "0a:1b:2c:3D:4e:5F".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:1b:2c:3d:4e:5f");
        for bad in
            ["", "0a:1b:2c:3d:4e", "0a:1b:2c:3d:4e:5f:00", "a:1b:2c:3d:4e:5f", "+a:1b:2c:3d:4e:5f"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn own_addresses_are_unicast_and_not_zero() {
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).check_own().is_ok());
        assert!(MacAddr([1, 0, 0x5e, 0, 0, 1]).check_own().is_err());
        assert!(MacAddr([0; 6]).check_own().is_err());
    }

    #[test]
    fn filter_lets_own_and_group_pass() {
        let own = MacAddr([2, 0, 0, 0, 0, 1]);
        let filter = MacFilter::new(own);
        let frame = |destination: [u8; 6]| [&destination[..], &[9; 8]].concat();
        for length in [14, 6] {
            let passes = |mac: [u8; 6]| filter.snapshot().passes(&frame(mac)[..length]);
            assert!(passes(own.0));
            assert!(passes([0xff; 6]));
            assert!(passes([1, 0, 0x5e, 0, 0, 1]));
            assert!(!passes([2, 0, 0, 0, 0, 2]));
        }
        assert!(!filter.snapshot().passes(&own.0[..5]));
        filter.set_promiscuous(true);
        filter.set_own(MacAddr([2, 0, 0, 0, 0, 7]));
        assert!(filter.promiscuous() && filter.snapshot().passes(&frame([2, 0, 0, 0, 0, 2])));
        filter.set_promiscuous(false);
        assert!(!filter.snapshot().passes(&frame(own.0)));
        assert!(filter.snapshot().passes(&frame([2, 0, 0, 0, 0, 7])));
    }
}
