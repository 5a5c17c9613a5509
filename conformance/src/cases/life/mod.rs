//! L, life cycle: opening, starting, stopping, closing, and what is left behind: nothing.

mod busy;
mod discard;
mod leaks;
mod limits;
mod names;
mod outlive;
mod restore;
mod states;
mod stop;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] = &[
    names::CASES,
    busy::CASES,
    limits::CASES,
    states::CASES,
    stop::CASES,
    discard::CASES,
    restore::CASES,
    leaks::CASES,
    outlive::CASES,
];
