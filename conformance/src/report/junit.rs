//! JUnit XML, for continuous integration.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use crate::case::{Failure, Verdict};
use crate::runner::{Outcome, Report};

fn skipped(reason: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(reason);
    status
}

/// The report as a JUnit document: one suite, a test case for each case.
///
/// # Errors
/// If it cannot be written as XML.
pub fn junit(report: &Report) -> Verdict<String> {
    let mut suite = TestSuite::new(format!("conformance-{}", report.rig));
    suite.set_time(Duration::from_secs_f64(report.seconds));
    for result in &report.results {
        let status = match &result.outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Failed(reason) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(reason.clone());
                status
            }
            Outcome::Skipped(reason) => skipped(reason),
            Outcome::NotRun => skipped("not run, because the run was ended"),
        };
        let mut case = TestCase::new(result.name.clone(), status);
        case.set_classname(result.clauses.join(" "));
        case.set_time(Duration::from_secs_f64(result.seconds));
        suite.add_test_case(case);
    }
    let mut document = Document::new("anyport-conformance");
    document.add_test_suite(suite);
    document.to_string().map_err(|error| Failure(error.to_string()))
}
