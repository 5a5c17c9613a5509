//! F1, F6: processes that die, and those that may not.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];
