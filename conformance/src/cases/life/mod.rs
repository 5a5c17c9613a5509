//! L, life cycle: opening, starting, stopping, closing, and what is left behind: nothing.

use crate::case::Case;

pub(super) const CASES: &[&[Case]] = &[];
