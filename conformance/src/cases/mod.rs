//! The cases, a module per section of the contract.
//!
//! A case is written against [`Ctx`](crate::Ctx) and [`Side`](crate::Side) and never asks which backend it runs on. It
//! judges at the far end, with exact counts; it waits for events, with a bound, and does not sleep; where something
//! must *not* arrive, a frame sent after it says when it would have.

mod control;
mod counters;
mod faults;
mod life;
mod offloads;
mod pool;
mod queues;
mod receive;
mod transmit;
mod wait;

use crate::case::Case;

/// All cases, in the contract's order. A section is a file of cases, or a folder of such files.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let sections: [&[&[Case]]; 10] = [
        life::CASES,
        receive::CASES,
        wait::CASES,
        transmit::CASES,
        counters::CASES,
        control::CASES,
        queues::CASES,
        offloads::CASES,
        pool::CASES,
        faults::CASES,
    ];
    sections.into_iter().flatten().copied().flatten()
}
