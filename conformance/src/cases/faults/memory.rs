//! F7: huge pages that are not there.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];
