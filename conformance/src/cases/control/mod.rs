//! M, port control: address, maximum frame, link.

mod address;
mod link;
mod max_frame;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] = &[address::CASES, max_frame::CASES, link::CASES];
