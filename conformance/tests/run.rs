//! Running the suite: what is looked at before the cases, and how a run is ended early.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyport_conformance::rig::{Given, JoinedRig, LoopRig};
use anyport_conformance::{
    Failure, Filter, Outcome, Report, Verdict, cases, report, run, run_until,
};

fn on_loop(one: &str, other: &str) -> Verdict<Report> {
    let rig = Given::new(anyport_backends::registry(), one, other)?;
    run(Box::new(rig), &Filter::clauses(["R1"]), None, &mut |_| {})
}

#[test]
fn given_ports_must_be_connected_both_ways() {
    let report = on_loop("loop:given.0,queues=2", "loop:given.1").unwrap();
    assert!(report.results.iter().all(|result| result.outcome == Outcome::Passed), "{report:#?}");
    let Failure(text) = on_loop("loop:given.0", "loop:other.0").unwrap_err();
    assert!(text.starts_with("loop:given.0 and loop:other.0 are not connected"), "{text}");
    let Failure(text) = on_loop("loop:given.0,drop=1", "loop:given.1").unwrap_err();
    assert!(text.starts_with("frames pass from loop:given.0,drop=1 to loop:given.1"), "{text}");
}

#[test]
fn joined_rigs_are_one_wire() {
    let rig = JoinedRig::new("loop-loop", LoopRig::new(), LoopRig::with_offloads());
    let filter = Filter { names: vec!["receive.".into(), "control.".into()], ..Filter::default() };
    let report = run(Box::new(rig), &filter, None, &mut |_| {}).unwrap();
    let failed: Vec<_> =
        report.results.iter().filter(|case| matches!(case.outcome, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let outcome = |name: &str| {
        let result = report.results.iter().find(|result| result.name == name).unwrap();
        result.outcome.clone()
    };
    assert_eq!(outcome("receive.order_and_bytes"), Outcome::Passed);
    assert_eq!(outcome("control.largest_maximum_to_the_byte"), Outcome::Passed);
    // A forwarder under load is no wire.
    let Outcome::Skipped(why) = outcome("receive.overload_is_counted_exactly") else { panic!() };
    assert!(why.starts_with("the rig cannot"), "{why}");
}

#[test]
fn a_section_is_all_of_its_clauses() {
    let of = |clauses: &[&str]| -> Vec<&str> {
        let filter = Filter::clauses(clauses.to_vec());
        cases::all().filter(|case| filter.matches(case)).map(|case| case.name).collect()
    };
    assert_eq!(of(&["m"]), of(&["M1", "M2", "M3"]));
    assert!(of(&["R1"]).len() < of(&["R"]).len() && of(&["X"]).is_empty());
    assert!(!of(&["L1"]).contains(&"life.port_is_dropped_under_traffic"));
}

#[test]
fn a_run_that_was_ended_says_what_it_did_not_run() {
    let stop = Arc::new(AtomicBool::new(true));
    let mut heard = 0;
    let rig = Box::new(LoopRig::new());
    let run = run_until(rig, &Filter::clauses(["R1", "O1"]), None, &stop, &mut |_| heard += 1);
    let run = run.unwrap();
    let filter = Filter::clauses(["R1", "O1"]);
    let meant: Vec<&str> =
        cases::all().filter(|case| filter.matches(case)).map(|case| case.name).collect();
    assert_eq!((heard, run.totals(), run.not_run()), (0, (0, 0, 0), meant.clone()));

    let text = report::summary(&run);
    let count = meant.len();
    assert!(text.contains(&format!("not run, because the run was ended: {}", meant.join(", "))));
    assert!(text.ends_with(&format!("\n0 passed, 0 failed, {count} not run")), "{text}");
    let read = report::from_json(&report::json(&run).unwrap()).unwrap();
    assert_eq!(read.not_run(), meant);
    let skipped =
        report::junit(&run).unwrap().matches("not run, because the run was ended").count();
    assert_eq!(skipped, count);
    let markdown = report::markdown(&run);
    assert!(markdown.contains(&format!("0 skipped, {count} not run in")), "{markdown}");
    assert!(report::matrix(&[run]).contains("| R1 | - |"));
}
