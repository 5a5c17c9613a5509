//! S, counters: exact, monotonic, one cause per lost frame.

mod causes;
mod exact;
mod reading;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] = &[exact::CASES, reading::CASES, causes::CASES];
