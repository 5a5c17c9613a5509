//! F, faults: each one injected where it can happen.

mod device;
mod hostile;
mod load;
mod memory;
mod process;

use crate::case::Case;

pub(super) const CASES: &[&[Case]] =
    &[process::CASES, device::CASES, load::CASES, memory::CASES, hostile::CASES];
