//! Runs cases on a rig, one after the other, and stops those that hang or panic from taking the run with them.
//!
//! ```text
//!   caller ◄── results ── suite thread (in the rig's namespace) ── case thread, one per case
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyport::Capability;
use serde::{Deserialize, Serialize};

use crate::case::{Case, Failure, Need, Power, Verdict};
use crate::cases;
use crate::ctx::{Ctx, End};
use crate::helper::HelperCommand;
use crate::rig::Rig;

/// No case takes that long unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Which cases run; by default all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Parts of case names; any of them is enough.
    pub names: Vec<String>,
    /// Clauses (`R6`), or whole sections (`R`); any of them is enough.
    pub clauses: Vec<String>,
}

impl Filter {
    /// The cases of these clauses.
    pub fn clauses<T: Into<String>>(clauses: impl IntoIterator<Item = T>) -> Filter {
        Filter { clauses: clauses.into_iter().map(Into::into).collect(), ..Filter::default() }
    }

    /// Whether a case is meant.
    pub fn matches(&self, case: &Case) -> bool {
        let by_name =
            self.names.is_empty() || self.names.iter().any(|part| case.name.contains(&**part));
        let by_clause = self.clauses.is_empty()
            || self
                .clauses
                .iter()
                .any(|clause| case.clauses.iter().any(|cited| is_meant(clause, cited)));
        by_name && by_clause
    }
}

/// Whether a clause is the one that is meant, or of the section that is meant.
fn is_meant(meant: &str, clause: &str) -> bool {
    let section = clause.trim_end_matches(|c: char| c.is_ascii_digit());
    clause.eq_ignore_ascii_case(meant) || section.eq_ignore_ascii_case(meant)
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "reason")]
pub enum Outcome {
    /// It ran and held.
    Passed,
    /// It ran and did not hold, and why.
    Failed(String),
    /// It did not run, for lack of what.
    Skipped(String),
    /// The run was ended before its turn came.
    NotRun,
}

/// A case and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// The clauses that it cites.
    pub clauses: Vec<String>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
}

/// A run of the suite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The rig's name.
    pub rig: String,
    /// What the rig is.
    pub about: String,
    /// The system that it ran on: name and release of the kernel.
    pub system: String,
    /// What the ports declared, end A and end B.
    pub capabilities: Vec<Capability>,
    /// The cases, in the order in which they ran, and those that were not run because the run was ended.
    pub results: Vec<CaseResult>,
    /// How long it all took.
    pub seconds: f64,
}

impl Report {
    /// The names of the cases whose turn never came.
    pub fn not_run(&self) -> Vec<&str> {
        let left = self.results.iter().filter(|result| result.outcome == Outcome::NotRun);
        left.map(|result| &*result.name).collect()
    }

    /// How many passed, failed and were skipped.
    pub fn totals(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Outcome) -> bool| {
            self.results.iter().filter(|result| wanted(&result.outcome)).count()
        };
        (
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        )
    }
}

/// Runs the cases that `filter` names on a rig; `progress` hears of each as it ends. `helper` is how to start
/// a second process ([`crate::helper`]); without it, cases that need one are skipped.
///
/// # Errors
/// If the rig cannot be built or is not what it must be, its ports cannot be opened, or no case is meant.
pub fn run(
    rig: Box<dyn Rig>,
    filter: &Filter,
    helper: Option<HelperCommand>,
    progress: &mut dyn FnMut(&CaseResult),
) -> Verdict<Report> {
    run_until(rig, filter, helper, &Arc::default(), progress)
}

/// As [`run`], but no further case is begun once `stop` is set; `progress` hears nothing of those that are not
/// ([`Outcome::NotRun`]).
///
/// # Errors
/// As [`run`].
pub fn run_until(
    rig: Box<dyn Rig>,
    filter: &Filter,
    helper: Option<HelperCommand>,
    stop: &Arc<AtomicBool>,
    progress: &mut dyn FnMut(&CaseResult),
) -> Verdict<Report> {
    let chosen: Vec<&'static Case> = cases::all().filter(|case| filter.matches(case)).collect();
    if chosen.is_empty() {
        return Err(Failure("no case has such a name or clause".into()));
    }
    let started = Instant::now();
    let (say, hear) = channel();
    let stop = stop.clone();
    let suite = std::thread::Builder::new()
        .name("conformance".into())
        .spawn(move || suite(rig, &chosen, helper, &stop, &say))?;
    let mut results = Vec::new();
    for result in hear {
        if result.outcome != Outcome::NotRun {
            progress(&result);
        }
        results.push(result);
    }
    let mut report = suite.join().map_err(|_| Failure("the suite's own thread died".into()))??;
    report.results = results;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The suite's thread: builds the rig and runs the cases.
fn suite(
    mut rig: Box<dyn Rig>,
    chosen: &[&'static Case],
    helper: Option<HelperCommand>,
    stop: &AtomicBool,
    say: &Sender<CaseResult>,
) -> Verdict<Report> {
    rig.enter()?;
    rig.check()?;
    let mut powers = rig.powers();
    if helper.is_none() {
        powers.retain(|power| *power != Power::Processes);
    }
    let capabilities = {
        let wires = rig.wires(0)?;
        let registry = rig.registry();
        let read = |end| Ok::<_, Failure>(registry.open(&wires.spec(end))?.capability().clone());
        [read(End::A)?, read(End::B)?]
    };
    let mut hung = None;
    for (number, case) in chosen.iter().enumerate() {
        let started = Instant::now();
        let missing = case.needs.iter().find_map(|need| need.missing(&capabilities, &powers));
        let outcome = match (&hung, missing) {
            _ if stop.load(Ordering::Acquire) => Outcome::NotRun,
            (_, Some(reason)) => Outcome::Skipped(reason),
            (Some(name), None) => Outcome::Failed(format!("not run, because {name} still runs")),
            (None, None) => {
                let run = run_case(&*rig, number + 1, case, &capabilities, helper.clone());
                run.unwrap_or_else(|Hung| {
                    hung = Some(case.name);
                    Outcome::Failed(format!("still running after {LIMIT:?}"))
                })
            }
        };
        let result = CaseResult {
            name: case.name.into(),
            clauses: case.clauses.iter().map(|clause| (*clause).to_owned()).collect(),
            outcome,
            seconds: started.elapsed().as_secs_f64(),
        };
        if say.send(result).is_err() {
            break;
        }
    }
    Ok(Report {
        rig: rig.name(),
        about: rig.about(),
        system: system(),
        capabilities: capabilities.into(),
        results: Vec::new(),
        seconds: 0.0,
    })
}

/// A case that does not end.
struct Hung;

fn run_case(
    rig: &dyn Rig,
    number: usize,
    case: &'static Case,
    capabilities: &[Capability; 2],
    helper: Option<HelperCommand>,
) -> Result<Outcome, Hung> {
    let wires = match rig.wires(number) {
        Ok(wires) => wires,
        Err(Failure(error)) => return Ok(Outcome::Failed(format!("the rig failed: {error}"))),
    };
    let ctx = Ctx::new(rig.registry(), wires, capabilities.clone(), helper);
    let (say, hear) = channel();
    let thread = std::thread::Builder::new().name(case.name.into()).spawn(move || {
        let verdict = catch_unwind(AssertUnwindSafe(|| (case.run)(&ctx)));
        // The wires are taken away before the result is told: the next case finds nothing of this one.
        drop(ctx);
        let _ = say.send(match verdict {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(Failure(error))) => Outcome::Failed(error),
            Err(panic) => Outcome::Failed(format!("it panicked: {}", panic_text(&*panic))),
        });
    });
    if let Err(error) = thread {
        return Ok(Outcome::Failed(format!("no thread for the case: {error}")));
    }
    match hear.recv_timeout(LIMIT) {
        Ok(outcome) => Ok(outcome),
        Err(RecvTimeoutError::Disconnected) => {
            Ok(Outcome::Failed("it panicked while its ports were closed".into()))
        }
        Err(RecvTimeoutError::Timeout) => Err(Hung),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}

/// Name and release of the running kernel.
fn system() -> String {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    format!("{} {}", read("ostype"), read("osrelease"))
}

/// The cases' needs as a text for `--list`.
pub(crate) fn needs(case: &Case) -> Vec<String> {
    case.needs.iter().map(Need::to_string).collect()
}
