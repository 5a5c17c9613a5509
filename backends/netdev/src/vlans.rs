//! All VLAN identifiers for a port, whatever an interface is configured for (contract R6).
//!
//! A network card with a VLAN filter passes on what carries an identifier that somebody made a VLAN interface for, and drops the
//! rest before anybody sees it. A port that has the interface to itself switches the filter off, which is put back. Where
//! that cannot be, or others use the interface as well, it holds a promiscuous membership, for which drivers let all through;
//! the socket's filter then sorts the addresses.

use std::io;

use anyport::Result;

use crate::error::explain;
use crate::ethtool::Feature;
use crate::interface::Interface;
use crate::settings::Settings;

/// The switches (as `ethtool -k` calls them) of the filters for 802.1Q and 802.1ad.
const FILTERS: [&str; 2] = ["rx-vlan-filter", "rx-vlan-stag-filter"];

/// What it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    Nothing,
    SwitchOff,
    Promiscuous,
}

fn remedy(filters: &[Option<Feature>], exclusive: bool) -> Remedy {
    let mut active = filters.iter().flatten().filter(|filter| filter.active).peekable();
    if active.peek().is_none() {
        Remedy::Nothing
    } else if exclusive && active.all(|filter| filter.changeable) {
        Remedy::SwitchOff
    } else {
        Remedy::Promiscuous
    }
}

/// Lets all VLAN identifiers through where a switch does that; the switches that were switched off, and whether the port
/// has to hold a promiscuous membership for it instead.
///
/// # Errors
/// [`anyport::Error::Permission`], [`anyport::Error::DeviceGone`]; the system's.
pub fn receive_all(
    settings: &mut Settings,
    title: &str,
    exclusive: bool,
) -> Result<(Vec<&'static str>, bool)> {
    let look = |settings: &Settings| {
        let filters = filters(settings.interface());
        filters.map_err(|error| explain(title, "reading the offload switches", error))
    };
    let mut switched = Vec::new();
    if remedy(&look(settings)?, exclusive) == Remedy::SwitchOff {
        switched = settings.switch_off(FILTERS)?;
    }
    // A switch may stay as it is although it says that it can be switched.
    Ok((switched, remedy(&look(settings)?, false) == Remedy::Promiscuous))
}

fn filters(interface: &Interface) -> io::Result<[Option<Feature>; 2]> {
    match interface.features(FILTERS) {
        // A device without any.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok([None; 2]),
        filters => filters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_namespace;

    #[test]
    fn a_filter_is_switched_off_by_who_may_and_got_around_by_who_may_not() {
        let filter = |active, changeable| Some(Feature { active, changeable });
        for (filters, exclusive, shared) in [
            ([None, None], Remedy::Nothing, Remedy::Nothing),
            ([filter(false, true), filter(false, false)], Remedy::Nothing, Remedy::Nothing),
            ([filter(true, true), None], Remedy::SwitchOff, Remedy::Promiscuous),
            ([filter(true, true), filter(true, true)], Remedy::SwitchOff, Remedy::Promiscuous),
            ([filter(true, false), filter(false, true)], Remedy::Promiscuous, Remedy::Promiscuous),
            ([filter(true, true), filter(true, false)], Remedy::Promiscuous, Remedy::Promiscuous),
            ([None, filter(true, true)], Remedy::SwitchOff, Remedy::Promiscuous),
        ] {
            assert_eq!(remedy(&filters, true), exclusive, "{filters:?}");
            assert_eq!(remedy(&filters, false), shared, "{filters:?}");
        }
    }

    #[test]
    fn a_veth_filters_nothing() {
        in_namespace(|| {
            let interface = Interface::open("a0").unwrap();
            let mut settings = Settings::open(interface, "x:a0").unwrap();
            for exclusive in [true, false] {
                let done = receive_all(&mut settings, "x:a0", exclusive).unwrap();
                assert_eq!(done, (vec![], false));
            }
        });
    }
}
