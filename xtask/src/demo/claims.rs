//! What the demonstration claims, and whether it held.

use crate::tally::Tally;
use crate::term;

/// The claims of one demonstration, printed as they are checked.
#[derive(Debug, Default)]
pub struct Claims {
    tally: Tally,
}

impl Claims {
    /// Checks a claim that holds or does not.
    pub fn check(&mut self, claim: &str, holds: bool) {
        let mark = if holds { term::green("ok  ") } else { term::red("FAIL") };
        println!("  {mark}  {claim}");
        self.tally += Tally::one(holds);
    }

    /// Checks that two counts are the same, and shows both.
    pub fn equal(&mut self, claim: &str, one: &str, a: u64, other: &str, b: u64) {
        let text = format!("{claim}: {one} {}, {other} {}", term::count(a), term::count(b));
        self.check(&text, a == b);
    }

    /// The count of all claims.
    pub fn finish(self) -> Tally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_counts_as_failed() {
        let mut claims = Claims::default();
        claims.check("holds", true);
        claims.equal("differs", "sent", 3, "received", 2);
        claims.equal("same", "sent", 3, "received", 3);
        assert_eq!(claims.finish(), Tally { passed: 2, failed: 1, skipped: 0 });
    }
}
