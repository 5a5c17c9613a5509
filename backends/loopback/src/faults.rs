//! Faults on request: what a cable does to frames so that applications can be tested against it.
//!
//! Each fault hits every n-th frame that reaches the receiving queue, counted per queue from start, so a test knows
//! exactly which. They are applied in the order drop, corrupt, duplicate, delay.

use std::collections::VecDeque;

use anyport::{Packet, Pool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The faults that frames suffer on their way to one end; 0 is never. Also the keys of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Faults {
    /// Every n-th frame that arrives here is lost (counted as `rx_errors`).
    pub drop: u64,
    /// One bit of the last byte of every n-th frame is turned.
    pub corrupt: u64,
    /// Every n-th frame arrives twice.
    pub duplicate: u64,
    /// Every n-th frame arrives after the three that follow it, or when nothing else is left.
    pub delay: u64,
}

/// How many frames overtake a delayed one.
const OVERTAKEN_BY: u8 = 3;

/// The most frames that are delayed at once; with more, the first of them is delayed no longer.
const DELAYED: usize = 64;

/// The faults of one receive queue at work.
pub(crate) struct FaultState {
    pub faults: Faults,
    seen: u64,
    /// Delayed frames, with how many must still overtake them.
    delayed: VecDeque<(Packet, u8)>,
}

impl FaultState {
    pub fn new(faults: Faults) -> FaultState {
        FaultState { faults, seen: 0, delayed: VecDeque::with_capacity(DELAYED) }
    }

    /// Counts from here for other faults; frames that are delayed still come.
    pub fn set(&mut self, faults: Faults) {
        (self.faults, self.seen) = (faults, 0);
    }

    pub fn active(&self) -> bool {
        self.faults != Faults::default() || !self.delayed.is_empty()
    }

    /// Frames held back.
    pub fn held(&self) -> usize {
        self.delayed.len()
    }

    /// What one frame becomes, in order: `deliver` gets each. Returns how many were dropped.
    pub fn apply(
        &mut self,
        mut packet: Packet,
        pool: &Pool,
        mut deliver: impl FnMut(Packet),
    ) -> u64 {
        self.seen += 1;
        let hits = |every: u64| every != 0 && self.seen.is_multiple_of(every);
        if hits(self.faults.drop) {
            return 1;
        }
        if hits(self.faults.corrupt)
            && let Some(last) = packet.data_mut().last_mut()
        {
            *last ^= 1;
        }
        let twin = if hits(self.faults.duplicate) { packet.copy_to(pool) } else { None };
        if hits(self.faults.delay) {
            if self.delayed.len() == DELAYED {
                self.delayed.pop_front().into_iter().for_each(|(packet, _)| deliver(packet));
            }
            self.delayed.push_back((packet, OVERTAKEN_BY));
        } else {
            deliver(packet);
            for (_, left) in &mut self.delayed {
                *left = left.saturating_sub(1);
            }
        }
        twin.into_iter().for_each(&mut deliver);
        while self.delayed.front().is_some_and(|(_, left)| *left == 0) {
            self.delayed.pop_front().into_iter().for_each(|(packet, _)| deliver(packet));
        }
        0
    }

    /// The next delayed frame, for a queue that has nothing else.
    pub fn release(&mut self) -> Option<Packet> {
        self.delayed.pop_front().map(|(packet, _)| packet)
    }
}
