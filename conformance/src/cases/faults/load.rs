//! F4, F5, F8: too much for pool or ring, and devices that lie.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];
