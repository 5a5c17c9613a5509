//! R, receive: what comes out of a port is what was sent to it, whole, once, in order, and nothing else.

mod bytes;
mod checksums;
mod filter;
mod kernel;
mod length;
mod load;
mod metadata;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] = &[
    bytes::CASES,
    checksums::CASES,
    kernel::CASES,
    length::CASES,
    filter::CASES,
    load::CASES,
    metadata::CASES,
];
