//! Reports of a run: for a terminal, for machines (JSON, JUnit), for a document (Markdown).

mod junit;
mod markdown;
mod terminal;

pub use junit::junit;
pub use markdown::{markdown, matrix};
pub use terminal::{line, summary, table};

use crate::case::Verdict;
use crate::runner::Report;

/// The report as JSON; [`from_json`] reads it again.
///
/// # Errors
/// Never for a report that [`run`](crate::run) made.
pub fn json(report: &Report) -> Verdict<String> {
    Ok(serde_json::to_string_pretty(report)?)
}

/// Reads what [`json`] wrote.
///
/// # Errors
/// If it is something else.
pub fn from_json(text: &str) -> Verdict<Report> {
    Ok(serde_json::from_str(text)?)
}

/// All cases, with clauses, what they do, why, and what they need, as JSON.
///
/// # Errors
/// Never.
pub fn list_json() -> Verdict<String> {
    let cases: Vec<serde_json::Value> = crate::cases::all()
        .map(|case| {
            serde_json::json!({
                "name": case.name, "clauses": case.clauses, "about": case.about, "why": case.why,
                "needs": crate::runner::needs(case),
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&cases)?)
}
