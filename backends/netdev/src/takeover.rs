//! What an interface carries for the host: the default route, the session that the user is logged in by (contract R13).
//!
//! Taking such an interface away from the host's stack cuts the machine off, so it has to be asked for: `takeover=true`.
//!
//! Traps:
//! - The route may lie on something on top of the interface: a bridge, a bond, a VLAN. What sits on it counts as well.
//! - `sudo` clears the environment, so `SSH_CONNECTION` is looked for in this process's ancestors, too.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use anyport::{Error, Result};

use crate::interface::Interface;
use crate::links::{LinkInfo, links, stack};
use crate::netlink::{Netlink, attribute, attributes, read};

/// `struct rtmsg`: family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
const ROUTE_HEADER: usize = 12;
/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const ADDRESS_HEADER: usize = 8;

/// How many ancestors are looked at.
const ANCESTORS: usize = 64;

/// Refuses an interface that the host needs, unless `takeover` says that it is meant; `title` is how errors call the port, and
/// `shareable` whether `shared=true` is another way.
///
/// # Errors
/// [`Error::NeedsTakeover`] with what it carries; the system's, if that cannot be found out.
pub fn check(interface: &Interface, title: &str, takeover: bool, shareable: bool) -> Result<()> {
    if takeover {
        return Ok(());
    }
    let what = links().and_then(|all| Host::look()?.carries(&all, interface.index()));
    let what =
        what.map_err(|error| Error::os(title, "asking what the interface carries", error))?;
    match what {
        Some(carries) => Err(Error::NeedsTakeover { device: title.into(), carries, shareable }),
        None => Ok(()),
    }
}

/// What the host needs of its interfaces.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Interfaces with a default route.
    default: BTreeSet<u32>,
    /// Interfaces that the login session goes by, and where it comes from.
    session: Vec<(u32, IpAddr)>,
}

impl Host {
    /// Looks at the calling thread's network namespace and at this process's ancestors.
    pub fn look() -> io::Result<Host> {
        Host::with(&sessions(std::process::id()))
    }

    fn with(sessions: &[Session]) -> io::Result<Host> {
        let mut netlink = Netlink::open()?;
        let mut host = Host { default: default_routes(&mut netlink)?, ..Host::default() };
        for session in sessions {
            let mut found = BTreeSet::new();
            if let Some(local) = session.local {
                found.extend(holders(&mut netlink, local)?);
            }
            found.extend(route_to(&mut netlink, session.peer));
            host.session.extend(found.into_iter().map(|index| (index, session.peer)));
        }
        Ok(host)
    }

    /// What an interface, or one on top of it, carries, in words.
    pub fn carries(&self, all: &[LinkInfo], index: u32) -> io::Result<Option<String>> {
        let through = |upper: u32| match all.iter().find(|info| info.index == upper) {
            Some(info) if upper != index => format!(" (by way of {})", info.name),
            _ => String::new(),
        };
        Ok(stack(all, index).into_iter().find_map(|upper| {
            let session = self.session.iter().find(|(index, _)| *index == upper);
            match session {
                Some((_, peer)) => Some(format!(
                    "the session that you are logged in by, from {peer}{}",
                    through(upper)
                )),
                None if self.default.contains(&upper) => {
                    Some(format!("the host's default route{}", through(upper)))
                }
                None => None,
            }
        }))
    }
}

/// A login over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    peer: IpAddr,
    local: Option<IpAddr>,
}

impl Session {
    /// From the value of `SSH_CONNECTION` (client, its port, server, its port) or `SSH_CLIENT` (the same without the
    /// server's address).
    fn parse(value: &str) -> Option<Session> {
        let words: Vec<&str> = value.split_whitespace().collect();
        // An address of the local link carries its interface behind a percent sign.
        let address = |word: &str| word.split('%').next().and_then(|word| word.parse().ok());
        let peer = address(words.first()?)?;
        let local = if words.len() == 4 { address(words[2]) } else { None };
        Some(Session { peer, local })
    }
}

/// The sessions that a process or one of its ancestors was started from.
fn sessions(mut pid: u32) -> Vec<Session> {
    let mut found = Vec::new();
    for _ in 0..ANCESTORS {
        // Another user's environment cannot be read; its parent's may.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        for variable in environment.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(variable);
            let session = match text.split_once('=') {
                Some(("SSH_CONNECTION" | "SSH_CLIENT", value)) => Session::parse(value),
                _ => None,
            };
            found.extend(session.filter(|session| !found.contains(session)));
        }
        match parent(pid) {
            Some(next) if next > 0 => pid = next,
            _ => break,
        }
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// The interfaces that default routes of either family lead to, in any table.
fn default_routes(netlink: &mut Netlink) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = [0; ROUTE_HEADER];
        request[0] = family as u8;
        let result = netlink.dump(libc::RTM_GETROUTE, &request, |_, body| {
            let (Some(length), Some(kind)) = (body.get(1), body.get(7)) else { return };
            if *length == 0 && *kind == libc::RTN_UNICAST {
                found.extend(outputs(body.get(ROUTE_HEADER..).unwrap_or_default()));
            }
        });
        match result {
            // A kernel without that family.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {}
            result => result?,
        }
    }
    Ok(found)
}

/// The interfaces that a route leads to.
fn outputs(bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    for (kind, content) in attributes(bytes) {
        match kind {
            libc::RTA_OIF => found.extend(read::<u32>(content)),
            libc::RTA_MULTIPATH => {
                // `struct rtnexthop`: length, flags, hops, index; then attributes.
                let mut rest = content;
                while let (Some(length), Some(index)) =
                    (read::<u16>(rest), rest.get(4..).and_then(read::<u32>))
                {
                    found.push(index);
                    let next = (length as usize).next_multiple_of(4).max(8);
                    rest = rest.get(next..).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    found
}

/// The interfaces that have an address.
fn holders(netlink: &mut Netlink, address: IpAddr) -> io::Result<BTreeSet<u32>> {
    let wanted = octets(address);
    let mut found = BTreeSet::new();
    let mut request = [0; ADDRESS_HEADER];
    request[0] = family(address);
    netlink.dump(libc::RTM_GETADDR, &request, |_, body| {
        let Some(index) = body.get(4..).and_then(read::<u32>) else { return };
        let has =
            attributes(body.get(ADDRESS_HEADER..).unwrap_or_default()).any(|(kind, content)| {
                matches!(kind, libc::IFA_LOCAL | libc::IFA_ADDRESS) && content == wanted
            });
        if has {
            found.insert(index);
        }
    })?;
    Ok(found)
}

/// The interface that the host would reach an address by; `None` if it would not.
fn route_to(netlink: &mut Netlink, address: IpAddr) -> Option<u32> {
    let bytes = octets(address);
    let mut request = vec![0; ROUTE_HEADER];
    (request[0], request[1]) = (family(address), 8 * bytes.len() as u8);
    request.extend(attribute(libc::RTA_DST, &bytes));
    let mut found = None;
    netlink
        .ask(libc::RTM_GETROUTE, &request, |_, body| {
            found = outputs(body.get(ROUTE_HEADER..).unwrap_or_default()).first().copied();
        })
        .ok()?;
    found
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
