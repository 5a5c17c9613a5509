//! What a sender does while a port takes nothing: tries again at once for a while, then with growing pauses.

use std::time::Duration;

const SPINS: u32 = 64;
const FIRST: Duration = Duration::from_micros(10);
const LONGEST: Duration = Duration::from_millis(1);

/// Attempts that were in vain.
#[derive(Debug, Default)]
pub struct Retry {
    tries: u32,
}

impl Retry {
    /// Something was taken; whether it had to be waited for.
    #[inline]
    pub fn done(&mut self) -> bool {
        std::mem::take(&mut self.tries) > 0
    }

    /// Nothing was taken: waits before the next attempt.
    pub fn pause(&mut self) {
        self.tries += 1;
        match self.tries.checked_sub(SPINS) {
            None => std::hint::spin_loop(),
            Some(more) => std::thread::sleep((FIRST * (more / 16 + 1)).min(LONGEST)),
        }
    }
}
