//! The suite against the contract's text: every clause has cases, every case cites clauses that exist.

use std::collections::{BTreeMap, BTreeSet};

use anyport_conformance::cases;

/// The clauses of `docs/contract.md`: list items that begin with a bold identifier.
fn clauses() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/contract.md");
    let text = std::fs::read_to_string(path).unwrap();
    let ids = text.lines().filter_map(|line| line.strip_prefix("- **")?.split_once("**"));
    let ids: Vec<String> = ids.map(|(id, _)| id.to_owned()).collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(ids.len(), set.len(), "a clause stands twice");
    set
}

#[test]
fn every_clause_has_a_case() {
    let clauses = clauses();
    assert!(clauses.contains("R14") && clauses.contains("F8"), "{clauses:?}");
    let mut cited: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases::all() {
        assert!(!case.clauses.is_empty(), "{} cites no clause", case.name);
        for clause in case.clauses {
            assert!(clauses.contains(*clause), "{} cites {clause}, which is no clause", case.name);
            *cited.entry(clause).or_default() += 1;
        }
    }
    let without: Vec<&String> =
        clauses.iter().filter(|clause| !cited.contains_key(clause.as_str())).collect();
    assert!(without.is_empty(), "clauses without a case: {without:?}");
}

#[test]
fn cases_have_names_of_their_own_and_say_what_and_why() {
    let mut names = BTreeSet::new();
    for case in cases::all() {
        assert!(names.insert(case.name), "{} stands twice", case.name);
        assert!(case.name.contains('.'), "{}: group.what_must_hold", case.name);
        assert!(case.about.len() > 20 && case.why.len() > 20, "{}: says too little", case.name);
    }
}
