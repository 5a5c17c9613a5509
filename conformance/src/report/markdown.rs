//! Markdown: one run as a document, and several runs as the matrix of backends.

use std::collections::BTreeSet;

use crate::case::RIG_CANNOT;
use crate::runner::{Outcome, Report};

/// One run: the cases and what became of them.
pub fn markdown(report: &Report) -> String {
    let (passed, failed, skipped) = report.totals();
    let not_run = match report.not_run().len() {
        0 => String::new(),
        count => format!(", {count} not run"),
    };
    let mut text = format!(
        "# Conformance: {}\n\n{}, {}. {passed} passed, {failed} failed, {skipped} skipped{not_run} in {:.1} s.\n\n\
         | clauses | case | result |\n|---|---|---|\n",
        report.rig, report.about, report.system, report.seconds
    );
    for result in &report.results {
        let outcome = match &result.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(reason) => format!("**failed**: {}", cell(reason)),
            Outcome::Skipped(reason) => format!("skipped: {}", cell(reason)),
            Outcome::NotRun => "not run".to_owned(),
        };
        text += &format!("| {} | `{}` | {outcome} |\n", result.clauses.join(" "), result.name);
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Several runs side by side: what each backend declares, and how it fares with each clause: `yes` if all of its cases held
/// but for those about capabilities that it does not declare, `partly` if some were not run for another reason, `-` if none was run. It has no times, no counts and no machine in it, so that it changes only when a
/// backend does.
pub fn matrix(reports: &[Report]) -> String {
    let head = |first: &str| {
        let names: Vec<&str> = reports.iter().map(|report| &*report.rig).collect();
        format!("| {first} | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()))
    };
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut text = head("capability");
    for (name, _) in reports.first().map(declared).unwrap_or_default() {
        let cells = reports.iter().map(|report| {
            let value = declared(report).into_iter().find(|(other, _)| *other == name);
            value.map(|(_, value)| value).unwrap_or_default()
        });
        text += &row(&format!("`{name}`"), cells.collect());
    }
    text += "\n";
    text += &head("clause");
    let cited = reports.iter().flat_map(|report| &report.results).flat_map(|r| &r.clauses);
    let clauses: BTreeSet<Clause> = cited.map(|text| Clause::new(text)).collect();
    for clause in clauses {
        let cells = reports.iter().map(|report| verdict(report, &clause.text));
        text += &row(&clause.text, cells.collect());
    }
    text
}

/// The capabilities of a report's first port as names and values.
fn declared(report: &Report) -> Vec<(String, String)> {
    let value = report.capabilities.first().and_then(|c| serde_json::to_value(c).ok());
    let Some(serde_json::Value::Object(fields)) = value else { return Vec::new() };
    let mut rows = Vec::new();
    for (name, value) in fields {
        match value {
            serde_json::Value::Object(inner) if inner.contains_key("default") => {
                let shown = format!(
                    "{} to {}, {} unless set",
                    inner["min"], inner["max"], inner["default"]
                );
                rows.push((name, shown));
            }
            serde_json::Value::Object(inner) => {
                for (field, value) in inner {
                    rows.push((format!("{name}.{field}"), plain(&value)));
                }
            }
            value => rows.push((name, plain(&value))),
        }
    }
    rows
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Bool(true) => "yes".into(),
        serde_json::Value::Bool(false) => "-".into(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A clause, ordered as in the contract: by section in the contract's own order, then by number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Clause {
    section: usize,
    number: u32,
    text: String,
}

impl Clause {
    fn new(text: &str) -> Clause {
        let section = text.chars().next().and_then(|c| "LRTSMQOPF".find(c)).unwrap_or(9);
        let number = text.get(1..).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Clause { section, number, text: text.to_owned() }
    }
}

fn verdict(report: &Report, clause: &str) -> String {
    let cited = |result: &&crate::CaseResult| result.clauses.iter().any(|c| c == clause);
    let (mut passed, mut failed, mut skipped, mut not_shown) = (0, 0, 0, 0);
    for result in report.results.iter().filter(cited) {
        match result.outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped(ref reason) if reason.starts_with(RIG_CANNOT) => not_shown += 1,
            Outcome::NotRun => not_shown += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
    }
    match (passed, failed, skipped + not_shown) {
        (0, 0, 0) => "no case".into(),
        (_, 1.., _) => format!("**no** ({failed} failed)"),
        (0, 0, _) => "-".into(),
        (..) if not_shown > 0 => "partly".into(),
        (..) => "yes".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CaseResult;

    #[test]
    fn a_clause_is_yes_only_if_the_rig_could_show_all_of_it() {
        let skipped = |reason: &str| Outcome::Skipped(reason.to_owned());
        let undeclared = skipped("capability `rss` is not declared");
        let beyond = skipped("the rig cannot hold frames back");
        for (outcomes, expected) in [
            (vec![], "no case"),
            (vec![Outcome::Passed, undeclared.clone()], "yes"),
            (vec![Outcome::Passed, undeclared.clone(), beyond.clone()], "partly"),
            (vec![undeclared, beyond.clone()], "-"),
            (vec![Outcome::Passed, Outcome::NotRun], "partly"),
            (vec![Outcome::Passed, beyond, Outcome::Failed("x".into())], "**no** (1 failed)"),
        ] {
            let results = outcomes.into_iter().map(|outcome| CaseResult {
                name: "x".into(),
                clauses: vec!["R1".into()],
                outcome,
                seconds: 0.0,
            });
            let report = Report {
                rig: "x".into(),
                about: String::new(),
                system: String::new(),
                capabilities: Vec::new(),
                results: results.collect(),
                seconds: 0.0,
            };
            assert_eq!(verdict(&report, "R1"), expected);
        }
    }

    #[test]
    fn clauses_are_in_the_contracts_order() {
        let mut clauses: Vec<Clause> = ["F1", "R10", "L2", "R2"].map(Clause::new).into();
        clauses.sort();
        let order: Vec<&str> = clauses.iter().map(|clause| &*clause.text).collect();
        assert_eq!(order, ["L2", "R2", "R10", "F1"]);
    }
}
