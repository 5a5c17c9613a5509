//! For people at a terminal.

use crate::cases;
use crate::runner::{CaseResult, Outcome, Report};

/// One line for a case that has ended; more for one that failed.
pub fn line(result: &CaseResult) -> String {
    let clauses = result.clauses.join(" ");
    let (mark, remark) = match &result.outcome {
        Outcome::Passed => ("ok  ", format!("{:.2} s", result.seconds)),
        Outcome::Skipped(reason) => ("skip", reason.clone()),
        Outcome::Failed(reason) => ("FAIL", format!("\n        {reason}")),
        Outcome::NotRun => ("-   ", "not run".into()),
    };
    format!("  {mark}  {:<10} {:<52} {remark}", clauses, result.name)
}

/// What the whole run came to, and what failed once more. The last line has the form of a test runner.
pub fn summary(report: &Report) -> String {
    let (passed, failed, skipped) = report.totals();
    let mut text = format!(
        "\nconformance on {} ({}), {}: {:.1} s\n",
        report.rig, report.about, report.system, report.seconds
    );
    for result in &report.results {
        if let Outcome::Failed(reason) = &result.outcome {
            let case = cases::all().find(|case| case.name == result.name);
            text += &format!("\nFAILED {} ({}): {reason}\n", result.name, result.clauses.join(" "));
            if let Some(case) = case {
                text += &format!("  it does: {}\n  it matters: {}\n", case.about, case.why);
            }
        }
    }
    let not_run = report.not_run();
    if !not_run.is_empty() {
        text += &format!("\nnot run, because the run was ended: {}\n", not_run.join(", "));
    }
    text += &format!("{passed} passed, {failed} failed");
    if skipped > 0 {
        text += &format!(", {skipped} skipped");
    }
    if !not_run.is_empty() {
        text += &format!(", {} not run", not_run.len());
    }
    text
}

/// The table of all cases.
pub fn table() -> String {
    let mut text = String::new();
    for case in cases::all() {
        text += &format!("{:<12} {}\n", case.clauses.join(" "), case.name);
        text +=
            &format!("             does:    {}\n             matters: {}\n", case.about, case.why);
        let needs = crate::runner::needs(case);
        if !needs.is_empty() {
            text += &format!("             needs:   {}\n", needs.join("; "));
        }
    }
    text
}
