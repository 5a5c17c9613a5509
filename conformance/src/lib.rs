//! The conformance suite: the contract, case by case, on any two connected ports.
//!
//! ```text
//!   case code ──► Ctx ──► Side ══ wires of a rig ══ Side ◄── Ctx ◄── case code
//!   (one for all)         port                     port
//! ```
//!
//! A [`Case`] cites the clauses of `docs/contract.md` that it checks and is written once, against ports: it never knows
//! which backend it runs on. A [`Rig`](rig::Rig) makes two connected devices for it, fresh for every case, and says what it can
//! do besides ([`Power`]: pull the cable, delete the device, count as an independent witness). A case is skipped
//! only for a capability that a port does not declare or a power that the rig does not have, and the report names it.
//!
//! What frames did is judged at the far end, frame by frame, with exact counts.
//!
//! ```
//! use anyport_conformance::{Filter, Outcome, rig::LoopRig, run};
//!
//! let filter = Filter::clauses(["R1"]);
//! let report = run(Box::new(LoopRig::new()), &filter, None, &mut |_| {}).unwrap();
//! assert!(report.results.iter().all(|result| matches!(result.outcome, Outcome::Passed)));
//! ```
//!
//! To run it on a backend of your own, see the guide "writing a backend": two connected ports are enough
//! ([`rig::Given`]).

mod case;
pub mod cases;
mod ctx;
pub mod frames;
pub mod helper;
pub mod hostile;
pub mod ip;
pub mod own;
mod probe;
pub mod report;
pub mod rig;
mod runner;
mod side;

pub use case::{Case, Failure, Need, Power, Verdict};
pub use ctx::{Ctx, End, PATIENCE};
pub use runner::{CaseResult, Filter, Outcome, Report, run, run_until};
pub use side::Side;
