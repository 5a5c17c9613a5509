//! Every way a call can fail, for people: what failed, on which device, why, what to do next.
//!
//! One variant per thing a caller may want to act on. Backends use the same type: they may not invent texts
//! for what the common layer already says, so that two backends cannot be told apart by their errors.

use std::time::Duration;

use crate::mac::MacAddr;
use crate::packet::Packet;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with what is needed to act on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The spec names a backend that is not registered (contract L1).
    #[error("unknown backend `{backend}`; this program has: {}", known.join(", "))]
    UnknownBackend {
        /// What was asked for.
        backend: String,
        /// The registered backends.
        known: Vec<String>,
    },
    /// The backend has no such device (contract L1).
    #[error("{backend}: no device `{device}`; {hint}")]
    UnknownDevice {
        /// The backend asked.
        backend: String,
        /// What was asked for.
        device: String,
        /// What there is, or the form that a device name has.
        hint: String,
    },
    /// A key that neither the common layer nor the backend knows (contract L1).
    #[error("{context}: unknown key `{key}`; accepted are: {}", accepted.join(", "))]
    UnknownKey {
        /// The spec or the path in the configuration file.
        context: String,
        /// The key.
        key: String,
        /// All keys that are accepted there.
        accepted: Vec<String>,
    },
    /// A value that the key does not take (contract L1).
    #[error("{context}: `{key}` cannot be `{value}`: {expected}")]
    InvalidValue {
        /// The spec or the path in the configuration file.
        context: String,
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A spec, a name or a configuration file that cannot be read at all.
    #[error("{context}: {reason}")]
    Config {
        /// The spec or file.
        context: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The device is open already (contract L2).
    #[error("{device} is in use by {} (another open port); close it there first", holder(*pid))]
    Busy {
        /// The device.
        device: String,
        /// The process that holds it; 0 where it cannot be known.
        pid: u32,
    },
    /// The interface carries something that the host needs, and taking it was not asked for (contract R13).
    #[error(
        "{device} carries {carries}; taking it away from the host needs `takeover=true`{}",
        if *shareable { " (or share it: `shared=true`)" } else { "" }
    )]
    NeedsTakeover {
        /// The device.
        device: String,
        /// What would be cut off: the default route, the login session.
        carries: String,
        /// It can be opened with `shared=true` instead (capability `shared`).
        shareable: bool,
    },
    /// A configuration beyond the port's capabilities; nothing of it was applied (contract L3).
    #[error("{device}: `{field}` = {asked} is beyond this port: {limit}")]
    Unsupported {
        /// The device.
        device: String,
        /// The configuration field or the operation.
        field: String,
        /// The value asked for.
        asked: String,
        /// The limit.
        limit: String,
    },
    /// The port is in the wrong state for the call (contract L4).
    #[error("{device}: cannot {operation} while the port is {state}; {hint}")]
    State {
        /// The device.
        device: String,
        /// What was asked.
        operation: &'static str,
        /// The state that the port is in.
        state: &'static str,
        /// What to do first.
        hint: &'static str,
    },
    /// The queue's port was stopped or closed (contract L6, L10).
    #[error("the port was stopped or closed; its queues are gone (start hands out new ones)")]
    Closed,
    /// The port's input has ended and all of it was delivered (contract R14).
    #[error("the port's input has ended")]
    Ended,
    /// The device went away (contract T9).
    #[error("{device} is gone: {reason}")]
    DeviceGone {
        /// The device.
        device: String,
        /// How that was noticed.
        reason: String,
    },
    /// The first frame of the burst is under 14 bytes (contract T4).
    #[error("a frame of {length} bytes is too short: an Ethernet header takes 14")]
    FrameTooShort {
        /// Its length in bytes.
        length: usize,
    },
    /// The first frame of the burst is over the port's maximum frame (contract T4, M2).
    #[error(
        "a frame of {length} bytes is too long: this port takes {max} (4 more with one 802.1Q tag)"
    )]
    FrameTooLong {
        /// Its length in bytes, without FCS.
        length: usize,
        /// The maximum frame in bytes, without FCS.
        max: usize,
    },
    /// The first packet of the burst asks for something that the port was not configured for (contract O).
    #[error(
        "the packet asks for {request}, but the port has `{field}` off; set it to `auto` or `required`"
    )]
    OffloadOff {
        /// What the packet asks for.
        request: &'static str,
        /// The configuration field that allows it.
        field: &'static str,
    },
    /// The first frame of the burst cannot be brought into the form that the device needs.
    #[error("the packet cannot be sent on this port: {reason}")]
    Unsendable {
        /// Why, and what would help.
        reason: String,
    },
    /// Head or tail room asked for is not there; nothing was changed (contract P4).
    #[error("{asked} bytes of {what} asked for, {available} available")]
    NoRoom {
        /// Head room, tail room, or packet bytes.
        what: &'static str,
        /// Bytes asked for.
        asked: usize,
        /// Bytes there are.
        available: usize,
    },
    /// A multicast or zero MAC address was to become a port's own (contract M1).
    #[error("{address} cannot be a port's own address: {reason}")]
    InvalidMac {
        /// The address.
        address: MacAddr,
        /// Why not.
        reason: &'static str,
    },
    /// The pool cannot be made, or has not what was asked.
    #[error("pool: {reason}")]
    Pool {
        /// What is wrong, and what would help.
        reason: String,
    },
    /// The process lacks a privilege (contract F6).
    #[error("{device}: no privilege to {doing}: it needs {needs}; {remedy}")]
    Permission {
        /// The device.
        device: String,
        /// What was attempted.
        doing: String,
        /// The capability or file permission that is missing.
        needs: String,
        /// The command that grants it.
        remedy: String,
    },
    /// A wait for a state of the device ran out.
    #[error("{device}: {what} did not happen within {timeout:?}")]
    Timeout {
        /// The device.
        device: String,
        /// What was waited for.
        what: &'static str,
        /// For how long.
        timeout: Duration,
    },
    /// The operating system refused something that nothing above describes better.
    #[error("{device}: {doing}: {source}")]
    Os {
        /// The device or file.
        device: String,
        /// What was attempted.
        doing: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A backend's own failure that no other variant describes.
    #[error("{device}: {reason}")]
    Backend {
        /// The device.
        device: String,
        /// What failed, why, and what to do next.
        reason: String,
    },
}

/// Who has a device open, in words.
fn holder(pid: u32) -> String {
    match pid {
        0 => "a process that cannot be named".into(),
        pid => format!("process {pid}"),
    }
}

impl Error {
    /// Wraps a system error with what was being done on which device.
    pub fn os(
        device: impl Into<String>,
        doing: impl Into<String>,
        source: std::io::Error,
    ) -> Error {
        Error::Os { device: device.into(), doing: doing.into(), source }
    }

    /// Whether the device is gone (contract T9): the port can only be closed now.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::DeviceGone { .. })
    }

    /// Whether the queue's port was stopped or closed (contract L6).
    pub fn is_closed(&self) -> bool {
        matches!(self, Error::Closed)
    }

    /// Whether the port's input has ended (contract R14).
    pub fn is_ended(&self) -> bool {
        matches!(self, Error::Ended)
    }
}

/// A packet that was not taken, and why (contract T1: an error takes nothing).
///
/// As an error it reads like the [`Error`] in it, and `?` makes it one; the packet is dropped then.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: Error,
    /// The packet, unchanged.
    pub packet: Packet,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        refused.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_is_not_known_is_not_process_0() {
        let busy = |pid| Error::Busy { device: "pcap:a".into(), pid }.to_string();
        let text = "pcap:a is in use by process 7 (another open port); close it there first";
        assert_eq!(busy(7), text);
        assert_eq!(busy(0), text.replace("process 7", "a process that cannot be named"));
    }
}
