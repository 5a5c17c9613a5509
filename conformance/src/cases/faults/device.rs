//! F2, F3: the link goes, or the whole device, under load.

use crate::case::Case;

pub(super) const CASES: &[Case] = &[];
