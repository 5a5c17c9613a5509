//! R10 to R14: sleeping until there is something to do, and who else sees a delivered frame.

mod descriptor;
mod end;
mod fair;
mod host;
mod owners;
mod reasons;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] =
    &[reasons::CASES, fair::CASES, descriptor::CASES, host::CASES, owners::CASES, end::CASES];
