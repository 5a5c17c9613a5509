//! System errors, with what they mean for a port.

use std::io;

use anyport::Error;

use crate::privilege::{Privilege, denied};

/// Says what a system error of a call on an interface means: gone, not allowed, or what the system says.
pub fn explain(device: &str, doing: &str, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => gone(device),
        Some(libc::EPERM | libc::EACCES) => {
            denied(device, doing, &[Privilege::NetRaw, Privilege::NetAdmin])
        }
        _ => Error::os(device, doing, error),
    }
}

/// The error of an interface that is no longer there (contract T9).
pub fn gone(device: &str) -> Error {
    Error::DeviceGone {
        device: device.into(),
        reason: "the interface was deleted or moved to another network namespace".into(),
    }
}
