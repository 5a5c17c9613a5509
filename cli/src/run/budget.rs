//! `--count`: exactly so many frames, also with several workers.
//!
//! A worker claims places before it receives and gives back what it did not need; so the workers together never take
//! more than was asked for, and no worker sits on places while it waits. Without a count nothing is shared.

use std::sync::atomic::{AtomicU64, Ordering};

/// The places that are left.
#[derive(Debug, Default)]
pub struct Budget {
    total: Option<u64>,
    left: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    /// So many places; without a count, no end of them.
    pub fn new(total: Option<u64>) -> Budget {
        Budget { total, left: AtomicU64::new(total.unwrap_or(0)), used: AtomicU64::new(0) }
    }

    /// Claims up to `want` places; how many. 0 means that others have claimed all that is left.
    #[inline]
    pub fn claim(&self, want: u64) -> u64 {
        if self.total.is_none() {
            return want;
        }
        let mut got = 0;
        let _ = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
            got = left.min(want);
            Some(left - got)
        });
        got
    }

    /// Gives back the places of a claim that were not used; whether all places are used now.
    #[inline]
    pub fn settle(&self, claimed: u64, used: u64) -> bool {
        let Some(total) = self.total else { return false };
        debug_assert!(used <= claimed);
        self.left.fetch_add(claimed - used, Ordering::AcqRel);
        self.used.fetch_add(used, Ordering::AcqRel) + used == total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_together_use_exactly_what_there_is() {
        let budget = Budget::new(Some(10_007));
        let used: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (1..=4)
                .map(|want| {
                    let budget = &budget;
                    scope.spawn(move || {
                        let mut used = 0;
                        loop {
                            let claimed = budget.claim(want * 3);
                            let use_now = claimed.min(want);
                            used += use_now;
                            if budget.settle(claimed, use_now)
                                || budget.used.load(Ordering::Acquire) == 10_007
                            {
                                return used;
                            }
                        }
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!((used, budget.claim(1)), (10_007, 0));
    }

    #[test]
    fn without_a_count_there_is_no_end() {
        let budget = Budget::new(None);
        assert_eq!(budget.claim(64), 64);
        assert!(!budget.settle(64, 64));
    }
}
