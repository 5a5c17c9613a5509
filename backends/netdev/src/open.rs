//! Finding the interface that a spec names, and what a lock on it is keyed by.

use std::os::fd::RawFd;

use anyport::{Error, Result};

use crate::error::explain;
use crate::interface::Interface;
use crate::links::{LinkInfo, links};

/// The interface of that name, for the backend called so.
///
/// # Errors
/// [`Error::UnknownDevice`], which lists the interfaces that there are.
pub fn find(backend: &str, device: &str) -> Result<Interface> {
    Interface::open(device).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => Error::UnknownDevice {
            backend: backend.into(),
            device: device.into(),
            hint: match links() {
                Ok(all) => {
                    let names = all.iter().map(|info| info.name.as_str()).collect::<Vec<_>>();
                    format!("the interfaces here are: {}", names.join(", "))
                }
                Err(_) => "`ip link` shows those that there are".into(),
            },
        },
        _ => Error::os(format!("{backend}:{device}"), "opening the interface", error),
    })
}

/// Refuses to go on in another network namespace than the one that the interface was found in: `socket` is one that the calling
/// thread has just made, `title` is how errors call the port.
///
/// # Errors
/// [`Error::Backend`] that says where to start the port; the system's.
pub fn check_namespace(interface: &Interface, title: &str, socket: RawFd) -> Result<()> {
    let here = interface.shares_namespace_with(socket);
    match here.map_err(|error| explain(title, "asking for the network namespace", error))? {
        true => Ok(()),
        false => Err(Error::Backend {
            device: title.into(),
            reason: "it is not in the network namespace that this thread is in: start the port from a thread in the namespace \
                     that it was opened in"
                .into(),
        }),
    }
}

/// Refuses what is not Ethernet; `title` is how errors call the port.
///
/// # Errors
/// [`Error::Backend`] with what it is instead.
pub fn check_ethernet(title: &str, info: &LinkInfo) -> Result<()> {
    match not_ethernet(info) {
        Some(reason) => Err(Error::Backend { device: title.into(), reason }),
        None => Ok(()),
    }
}

/// Why the interface cannot be a port, if its frames have no Ethernet header.
pub(crate) fn not_ethernet(info: &LinkInfo) -> Option<String> {
    let what = match info.hardware {
        libc::ARPHRD_ETHER => return None,
        libc::ARPHRD_LOOPBACK => {
            return Some(
                "the loopback interface is no Ethernet interface: what is sent there is at once received by this very \
                 host; for two ports joined in one program take loop:NAME.0 and loop:NAME.1, between programs a veth \
                 pair (`ip link add a0 type veth peer name a1`)"
                    .into(),
            );
        }
        libc::ARPHRD_NONE => {
            "an interface without link headers (a tun or a WireGuard tunnel)".into()
        }
        libc::ARPHRD_IEEE80211 | libc::ARPHRD_IEEE80211_RADIOTAP => {
            "a wireless interface in monitor mode".into()
        }
        other => format!("of hardware type {other}"),
    };
    Some(format!(
        "it is no Ethernet interface but {what}, and a port's frames begin with an Ethernet header"
    ))
}

/// The key of the lock on an interface (contract L2): network namespace and index.
///
/// # Errors
/// [`Error::Os`] if the kernel does not tell the namespace.
pub fn lock_key(interface: &Interface, device: &str) -> Result<String> {
    let namespace = interface
        .namespace()
        .map_err(|error| Error::os(device, "asking for the network namespace", error))?;
    Ok(format!("interface/{namespace}/{}", interface.index()))
}
