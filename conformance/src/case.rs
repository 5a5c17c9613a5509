//! What a case is: a function with the clauses that it checks and what it needs.

use std::fmt;

use anyport::Capability;

/// One case of the suite.
pub struct Case {
    /// Its name, unique in the suite: `group.what_must_hold`.
    pub name: &'static str,
    /// The clauses of the contract that it checks.
    pub clauses: &'static [&'static str],
    /// What it does, in a sentence or two.
    pub about: &'static str,
    /// What goes wrong for users where it does not hold.
    pub why: &'static str,
    /// What must be there; otherwise it is skipped, and the report says for lack of what.
    pub needs: &'static [Need],
    /// The case itself.
    pub run: fn(&Ctx) -> Verdict,
}

use crate::ctx::Ctx;

/// What a case finds.
pub type Verdict<T = ()> = Result<T, Failure>;

/// Why a case failed, for a person to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

macro_rules! failure_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure(error.to_string())
            }
        }
    )*};
}

failure_from!(anyport::Error, anyport::Refused, std::io::Error, String, &str, serde_json::Error);

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Failure(format!("{} ({}:{})", format_args!($($message)+), file!(), line!())));
        }
    };
}

/// Fails the case unless both values are the same; the message says what they are.
#[macro_export]
macro_rules! same {
    ($found:expr, $expected:expr, $($message:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) => {
                if *found != *expected {
                    return Err($crate::Failure(format!(
                        "{}: found {found:?}, expected {expected:?} ({}:{})",
                        format_args!($($message)+), file!(), line!()
                    )));
                }
            }
        }
    };
}

/// Fails the case unless the result is an error of this kind.
#[macro_export]
macro_rules! refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?, $($message:tt)+) => {
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => {
                return Err($crate::Failure(format!(
                    "{}: {:?} instead of {} ({}:{})",
                    format_args!($($message)+), other.map(drop), stringify!($pattern), file!(), line!()
                )));
            }
        }
    };
}

/// The error of a call that must fail.
///
/// # Errors
/// If it did not.
pub fn refusal<T>(result: anyport::Result<T>, what: &str) -> Verdict<anyport::Error> {
    match result {
        Ok(_) => Err(Failure(format!("{what} was accepted"))),
        Err(error) => Ok(error),
    }
}

/// Checks that an error tells a person these things.
///
/// # Errors
/// If one is missing from its text.
pub fn tells(error: &anyport::Error, words: &[&str]) -> Verdict {
    let text = error.to_string();
    match words.iter().find(|word| !text.contains(**word)) {
        Some(word) => Err(Failure(format!("the error does not say `{word}`: {text}"))),
        None => Ok(()),
    }
}

/// How the reason begins of a skip that is the rig's and not the ports'.
pub(crate) const RIG_CANNOT: &str = "the rig cannot ";

/// What a case needs of the ports or of the rig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Both ports receive and transmit (all but savefiles do).
    TwoWay,
    /// Capability `promiscuous`.
    Promiscuous,
    /// Capability `zero_copy`.
    ZeroCopy,
    /// Capability `exact_drops`, and a rig that loses nothing itself ([`Power::Direct`]).
    ExactDrops,
    /// Capability `exclusive`.
    Exclusive,
    /// Capability `shared`.
    Shared,
    /// Capability `filters`.
    Filters,
    /// Capability `software_link`.
    SoftwareLink,
    /// Capability `link_state`.
    LinkState,
    /// Capability `can_vanish`.
    CanVanish,
    /// Capability `can_end`.
    CanEnd,
    /// Capability `set_mac`.
    SetMac,
    /// Capability `set_max_frame`.
    SetMaxFrame,
    /// Capability `rss`.
    Rss,
    /// So many receive and transmit queues.
    Queues(u16),
    /// Capability `max_segments` of at least so many.
    Segments(u16),
    /// Capability `max_pools` of at least so many.
    Pools(usize),
    /// A largest maximum frame of at least so many bytes.
    MaxFrame(usize),
    /// Capability `offloads.tx_timestamp`.
    TxTimestamp,
    /// Something that the rig can do.
    Rig(Power),
}

/// What a rig can do besides connecting two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Take the link down and bring it up, as a cable that is pulled.
    Cable,
    /// Hold frames back in the sender's transmit ring, as pause frames do.
    Pause,
    /// Take a device away.
    Remove,
    /// Rename a device.
    Rename,
    /// Move a device to another network namespace.
    Move,
    /// Let a port's input end.
    EndInput,
    /// The kernel's own stack sits behind the devices: it can send and would answer.
    Host,
    /// The host leaves VLAN tags beside its frames, for a device to put them in.
    Tags,
    /// Somebody who is not anyport counts what passes an end.
    Witness,
    /// It is known which frames that are too long for the far end get there.
    LongFrames,
    /// The device's settings can be read from outside.
    Settings,
    /// Be a wire and no more: nothing between the ends holds frames, or loses any.
    Direct,
    /// A device has more names than one.
    Alias,
    /// Other processes can open the devices, and the suite has a helper program to do it with.
    Processes,
}

impl Power {
    /// What the rig cannot do without it.
    fn lacking(self) -> &'static str {
        match self {
            Power::Cable => "pull the cable",
            Power::Pause => "hold frames back",
            Power::Remove => "take a device away",
            Power::Rename => "rename a device",
            Power::Move => "move a device to another network namespace",
            Power::EndInput => "end a port's input",
            Power::Host => "send and answer from a host's stack",
            Power::Tags => "leave VLAN tags beside the frames of a host",
            Power::Witness => "count frames independently",
            Power::LongFrames => {
                "say how many frames that are too long for their far end get there"
            }
            Power::Settings => "show a device's settings",
            Power::Direct => "do without frames being held, or lost, between the ends",
            Power::Alias => "name a device in a second way",
            Power::Processes => "open its devices from another process",
        }
    }
}

impl Need {
    /// Why a case cannot run, if it cannot: the capability or power that is missing.
    pub fn missing(self, capabilities: &[Capability; 2], powers: &[Power]) -> Option<String> {
        let all = |name: &str, has: &dyn Fn(&Capability) -> bool| {
            let lacking = capabilities.iter().any(|capability| !has(capability));
            lacking.then(|| format!("capability `{name}` is not declared"))
        };
        let at_least = |name: &str, want: usize, value: &dyn Fn(&Capability) -> usize| {
            let least = capabilities.iter().map(value).min().unwrap_or(0);
            (least < want).then(|| format!("capability `{name}` is {least}, the case needs {want}"))
        };
        match self {
            Need::TwoWay => all("receives` and `transmits", &|c| c.receives && c.transmits),
            Need::Promiscuous => all("promiscuous", &|c| c.promiscuous),
            Need::ZeroCopy => all("zero_copy", &|c| c.zero_copy),
            // What is lost on the way is no end's to count.
            Need::ExactDrops => all("exact_drops", &|c| c.exact_drops)
                .or_else(|| Need::Rig(Power::Direct).missing(capabilities, powers)),
            Need::Exclusive => all("exclusive", &|c| c.exclusive),
            Need::Shared => all("shared", &|c| c.shared),
            Need::Filters => all("filters", &|c| c.filters),
            Need::SoftwareLink => all("software_link", &|c| c.software_link),
            Need::LinkState => all("link_state", &|c| c.link_state),
            Need::CanVanish => all("can_vanish", &|c| c.can_vanish),
            Need::CanEnd => all("can_end", &|c| c.can_end),
            Need::SetMac => all("set_mac", &|c| c.set_mac),
            Need::SetMaxFrame => all("set_max_frame", &|c| c.set_max_frame),
            Need::Rss => all("rss", &|c| c.rss),
            Need::Queues(want) => at_least("max_queues", want.into(), &|c| {
                c.max_rx_queues.min(c.max_tx_queues).into()
            }),
            Need::Segments(want) => {
                at_least("max_segments", want.into(), &|c| c.max_segments.into())
            }
            Need::Pools(want) => at_least("max_pools", want, &|c| c.max_pools),
            Need::MaxFrame(want) => at_least("max_frame", want, &|c| c.max_frame),
            Need::TxTimestamp => all("offloads.tx_timestamp", &|c| c.offloads.tx_timestamp),
            Need::Rig(power) => {
                (!powers.contains(&power)).then(|| format!("{RIG_CANNOT}{}", power.lacking()))
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Rig(power) => write!(f, "a rig that can {}", power.lacking()),
            other => write!(f, "{other:?}"),
        }
    }
}
