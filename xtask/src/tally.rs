//! Counting tests: what test runners say, added up.

use std::ops::AddAssign;

/// How many tests passed, failed and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and held.
    pub passed: u64,
    /// Ran and did not hold.
    pub failed: u64,
    /// Did not run, for a reason that was told.
    pub skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

impl Tally {
    /// A single check.
    pub fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 }
    }

    /// Reads a line that [`Tally`]'s `Display` wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let mut tally = Self::default();
        for part in line.trim().split(", ") {
            let (number, word) = part.split_once(' ')?;
            let number = number.parse().ok()?;
            match word {
                "passed" => tally.passed = number,
                "failed" => tally.failed = number,
                "skipped" => tally.skipped = number,
                _ => return None,
            }
        }
        Some(tally)
    }

    /// Adds up the `test result:` lines of `cargo test`. A benchmark or a filtered test counts as nothing.
    pub fn from_cargo_test(output: &str) -> Self {
        let mut total = Self::default();
        for line in output.lines() {
            let Some((_, result)) = line.split_once("test result: ") else { continue };
            for part in result.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let number = words.next().and_then(|w| w.parse::<u64>().ok());
                match (number, words.next()) {
                    (Some(n), Some("passed")) => total.passed += n,
                    (Some(n), Some("failed")) => total.failed += n,
                    (Some(n), Some("ignored")) => total.skipped += n,
                    _ => {}
                }
            }
        }
        total
    }

    /// Adds up the test suites of a JUnit file by counting its cases.
    pub fn from_junit(xml: &str) -> Self {
        let mut total = Self::default();
        // A case is `<testcase .../>` or `<testcase ...> ... </testcase>`; the verdict is an element inside.
        for case in xml.split("<testcase").skip(1) {
            let inside = case.split("</testcase").next().unwrap_or(case);
            if inside.contains("<failure") || inside.contains("<error") {
                total.failed += 1;
            } else if inside.contains("<skipped") {
                total.skipped += 1;
            } else {
                total.passed += 1;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_test_results_are_added_up() {
        let text = "running 3 tests\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s\n\
            \u{1b}[0mtest result: \u{1b}[31mFAILED\u{1b}[0m. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n\
            test tally::passed ... ok\n";
        assert_eq!(Tally::from_cargo_test(text), Tally { passed: 3, failed: 2, skipped: 1 });
        assert_eq!(Tally::from_cargo_test("error: could not compile"), Tally::default());
    }

    #[test]
    fn junit_cases_are_counted() {
        let xml = r#"<testsuites><testsuite name="s" tests="4">
            <testcase name="a"/><testcase name="b" time="1"></testcase>
            <testcase name="c"><skipped message="no capability"/></testcase>
            <testcase name="d"><failure message="5 of 6">text</failure></testcase>
            </testsuite></testsuites>"#;
        assert_eq!(Tally::from_junit(xml), Tally { passed: 2, failed: 1, skipped: 1 });
    }

    #[test]
    fn the_last_line_has_the_form_of_a_test_runner() {
        let mut tally = Tally::one(true);
        assert_eq!(tally.to_string(), "1 passed, 0 failed");
        tally += Tally { passed: 0, failed: 1, skipped: 2 };
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 2 skipped");
        assert_eq!(Tally::parse(&tally.to_string()), Some(tally));
        assert_eq!(Tally::parse("all is well"), None);
    }
}
