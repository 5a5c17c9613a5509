//! System errors, with what they mean for a port.

use std::io;

use anyport::Error;

/// A system error with what it means for a port.
pub fn explain(device: &str, doing: &str, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => Error::DeviceGone {
            device: device.into(),
            reason: "the interface was deleted or moved to another network namespace".into(),
        },
        Some(libc::EPERM | libc::EACCES) => denied(device, doing),
        _ => Error::os(device, doing, error),
    }
}

/// The error of a process without the privilege (contract F6).
pub fn denied(device: &str, doing: &str) -> Error {
    Error::Permission {
        device: device.into(),
        doing: doing.into(),
        needs: "CAP_NET_RAW and CAP_NET_ADMIN".into(),
        remedy: "run it with sudo, or `setcap cap_net_raw,cap_net_admin+ep PROGRAM` once".into(),
    }
}
