//! T, transmit: what `send` accepts leaves in order, whole, without another call; what it does not stays the caller's.

mod full;
mod length;
mod link;
mod order;
mod pools;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] =
    &[order::CASES, full::CASES, length::CASES, pools::CASES, link::CASES];
