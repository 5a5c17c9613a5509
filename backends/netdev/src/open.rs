//! Finding the interface that a spec names, and what a lock on it is keyed by.

use anyport::{Error, Result};

use crate::interface::{self, Interface};

/// The interface of that name, for the backend called so.
///
/// # Errors
/// [`Error::UnknownDevice`], which lists the interfaces that there are.
pub fn find(backend: &str, device: &str) -> Result<Interface> {
    Interface::open(device).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => Error::UnknownDevice {
            backend: backend.into(),
            device: device.into(),
            hint: format!("the interfaces here are: {}", interface::all().join(", ")),
        },
        _ => Error::os(format!("{backend}:{device}"), "opening the interface", error),
    })
}

/// The key of the lock on an interface (contract L2): network namespace and index.
///
/// # Errors
/// [`Error::Os`] without `/proc`.
pub fn lock_key(interface: &Interface, device: &str) -> Result<String> {
    let namespace = std::fs::read_link("/proc/thread-self/ns/net")
        .map_err(|error| Error::os(device, "asking for the network namespace", error))?;
    Ok(format!("interface/{}/{}", namespace.display(), interface.index()))
}
