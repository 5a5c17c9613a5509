//! `cargo xtask test`: the steps, one after the other, and what became of each.
//!
//! A step that fails does not hide the later ones. A step that cannot run here (no privilege, a missing program
//! that may not be installed) is listed with the reason and counted as skipped; nothing is skipped silently.
//! The last line of the output is the total, in the form of a test runner.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::packages::{self, Need, Provided};
use crate::proc::{self, Interrupted, Stream};
use crate::tally::Tally;
use crate::term;
use crate::workspace::{BUILD_LIMIT, Workspace};
use crate::{demo, matrix, netns};

/// No run of the tests takes that long unless it hangs.
const TEST_LIMIT: Duration = Duration::from_secs(3600);

/// One step of the test run.
struct Step {
    name: &'static str,
    about: &'static str,
    /// What must be there for the step to run.
    needs: &'static [Need],
    /// Whether the step starts the project's own programs, so that what they leave behind is theirs. (A
    /// compiler cache may rightly leave a server behind.)
    own_programs: bool,
    run: fn(&Workspace) -> Result<Outcome>,
}

/// What a step found.
enum Outcome {
    Ran(Tally),
    Skipped(String),
}

/// What the tests of the workspace start.
const TEST_NEEDS: &[Need] =
    &[Need::Libpcap, Need::Ip, Need::Ping, Need::Iperf3, Need::Ethtool, Need::Tshark];

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "the sources are formatted",
        needs: &[],
        own_programs: false,
        run: |ws| cargo(ws, &["fmt", "--all", "--check"], &[]),
    },
    Step {
        name: "clippy",
        about: "lints, all targets, warnings are errors",
        needs: &[Need::Libpcap],
        own_programs: false,
        run: |ws| {
            cargo(ws, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
        },
    },
    Step {
        name: "build",
        about: "everything builds",
        needs: &[Need::Libpcap],
        own_programs: false,
        run: |ws| cargo(ws, &["build", "--workspace", "--all-targets"], &[]),
    },
    Step {
        name: "test",
        about: "unit, integration and documentation tests",
        needs: TEST_NEEDS,
        own_programs: true,
        run: cargo_test,
    },
    Step {
        name: "loom",
        about: "the pool's lock-free list, under every order of its steps",
        needs: &[],
        own_programs: false,
        run: loom,
    },
    Step {
        name: "doc",
        about: "the documentation builds without warnings",
        needs: &[Need::Libpcap],
        own_programs: false,
        run: |ws| {
            cargo(ws, &["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
        },
    },
    Step {
        name: "conformance-loop",
        about: "the contract's suite on the in-process cable",
        needs: &[Need::Libpcap],
        own_programs: true,
        run: |ws| conformance(ws, "loop", Place::Anywhere),
    },
    Step {
        name: "conformance-loop-offloads",
        about: "the same with a cable whose ends do offloads themselves",
        needs: &[Need::Libpcap],
        own_programs: true,
        run: |ws| conformance(ws, "loop-offloads", Place::Anywhere),
    },
    Step {
        name: "conformance-pcap-veth",
        about: "the contract's suite on libpcap over veth",
        needs: &[Need::Libpcap, Need::Ip],
        own_programs: true,
        run: |ws| conformance(ws, "pcap-veth", Place::Namespaces),
    },
    Step {
        name: "conformance-af_xdp-veth",
        about: "the same on AF_XDP over veth, the program in the driver",
        needs: &[Need::Libpcap, Need::Ip],
        own_programs: true,
        run: |ws| conformance(ws, "af_xdp-veth", Place::Root),
    },
    Step {
        name: "conformance-af_xdp-veth-generic",
        about: "the same with the program behind the driver",
        needs: &[Need::Libpcap, Need::Ip, Need::Ethtool],
        own_programs: true,
        run: |ws| conformance(ws, "af_xdp-veth-generic", Place::Root),
    },
    Step {
        name: "conformance-af_xdp-veth-queues",
        about: "what has to do with queues on AF_XDP over veth with four of them",
        needs: &[Need::Libpcap, Need::Ip],
        own_programs: true,
        run: |ws| sections(ws, "af_xdp-veth-queues", Place::Root, &QUEUES),
    },
    Step {
        name: "conformance-af_xdp-pcap",
        about: "what passes between AF_XDP and libpcap",
        needs: &[Need::Libpcap, Need::Ip],
        own_programs: true,
        run: |ws| crossing(ws, "af_xdp-pcap"),
    },
    Step {
        name: "conformance-pcap-af_xdp",
        about: "the same the other way round",
        needs: &[Need::Libpcap, Need::Ip],
        own_programs: true,
        run: |ws| crossing(ws, "pcap-af_xdp"),
    },
    Step {
        name: "conformance-loop-af_xdp",
        about: "what passes from an in-process cable through a forwarder to AF_XDP",
        needs: &[Need::Libpcap, Need::Ip],
        own_programs: true,
        run: |ws| crossing(ws, "loop-af_xdp"),
    },
    Step {
        name: "conformance-af_xdp-loop",
        about: "the same the other way round",
        needs: &[Need::Libpcap, Need::Ip],
        own_programs: true,
        run: |ws| crossing(ws, "af_xdp-loop"),
    },
    Step {
        name: "readme",
        about: "the README's matrix is what these runs have shown",
        needs: &[Need::Libpcap],
        own_programs: false,
        run: readme,
    },
    Step {
        name: "demo",
        about: "the demonstration, every claim checked",
        needs: demo::NEEDS,
        own_programs: true,
        run: demonstration,
    },
];

fn cargo(ws: &Workspace, args: &[&str], env: &[(&str, &str)]) -> Result<Outcome> {
    let mut command = ws.cargo(args);
    command.envs(env.iter().copied());
    println!("{}", term::dim(&format!("$ {}", proc::describe(&command))));
    Ok(Outcome::Ran(Tally::one(proc::run(&mut command, BUILD_LIMIT)?)))
}

/// The models run with the list's atomics replaced, so nothing else is built that way, and it has a folder of its own.
fn loom(ws: &Workspace) -> Result<Outcome> {
    let folder = ws.target.join("loom");
    let mut command = ws.cargo(&["test", "-p", "anyport", "--lib", "freelist::model"]);
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", &folder);
    test_run(&mut command)
}

/// Where a rig of the suite can be built.
#[derive(PartialEq, Eq)]
enum Place {
    /// It needs no privilege.
    Anywhere,
    /// It makes network namespaces: as root, or below a user namespace.
    Namespaces,
    /// It also loads programs into the kernel, for which a user namespace will not do.
    Root,
}

/// The sections of the contract that say what passes between two ports. The others are about one, and shown on rigs whose ends
/// are alike.
const BETWEEN_PORTS: [&str; 6] = ["R", "T", "S", "M", "Q", "O"];

/// What has to do with queues.
const QUEUES: [&str; 4] = ["Q", "S3", "R11", "T6"];

/// The suite on a rig, with reports under `target/reports`.
fn conformance(ws: &Workspace, rig: &str, place: Place) -> Result<Outcome> {
    sections(ws, rig, place, &[])
}

/// What passes between two ports, on a rig whose ends are of two backends.
fn crossing(ws: &Workspace, rig: &str) -> Result<Outcome> {
    sections(ws, rig, Place::Root, &BETWEEN_PORTS)
}

/// The suite on a rig, or some sections of it.
fn sections(ws: &Workspace, rig: &str, place: Place, only: &[&str]) -> Result<Outcome> {
    // A report of an earlier run must not pass for this one's.
    for old in
        ["xml", "json", "md"].map(|ext| matrix::report(ws, rig).map(|p| p.with_extension(ext)))
    {
        let old = old?;
        if old.exists() {
            std::fs::remove_file(&old)?;
        }
    }
    if place == Place::Root && !crate::is_root() {
        return Ok(Outcome::Skipped(
            "only root may load programs into the kernel: run as root".into(),
        ));
    }
    let as_user = place == Place::Namespaces && !crate::is_root();
    if as_user && !netns::user_namespaces_work()? {
        let why = "neither root nor user namespaces: run as root, with sudo for example";
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    let anyport = ws.build_binary("anyport-cli", "anyport", true)?;
    let stem = matrix::report(ws, rig)?;
    let report = |ext: &str| stem.with_extension(ext);
    let junit = report("xml");
    let mut suite = if as_user { netns::user_namespace(&anyport) } else { proc::command(&anyport) };
    suite.args(["conformance", "--rig", rig]).arg("--junit").arg(&junit);
    for section in only {
        suite.args(["--clause", section]);
    }
    suite.arg("--json-report").arg(report("json")).arg("--markdown").arg(report("md"));
    println!("{}", term::dim(&format!("$ {}", proc::describe(&suite))));
    let success = proc::run(&mut suite, TEST_LIMIT)?;
    let mut tally = Tally::from_junit(&std::fs::read_to_string(&junit).unwrap_or_default());
    if !success && tally.failed == 0 {
        tally.failed = 1;
    }
    if success && tally.passed == 0 {
        bail!("the suite succeeded without a case in {}", junit.display());
    }
    Ok(Outcome::Ran(tally))
}

fn readme(ws: &Workspace) -> Result<Outcome> {
    let missing = matrix::missing(ws)?;
    if !missing.is_empty() {
        return Ok(Outcome::Skipped(format!("no report of {} in this run", missing.join(", "))));
    }
    matrix::check(ws)?;
    Ok(Outcome::Ran(Tally::one(true)))
}

fn demonstration(ws: &Workspace) -> Result<Outcome> {
    demo::run(ws, demo::Options { check: true, rig: None }).map(Outcome::Ran)
}

fn cargo_test(ws: &Workspace) -> Result<Outcome> {
    let mut command = ws.cargo(&["test", "--workspace", "--no-fail-fast"]);
    if crate::is_root() {
        // Root can do everything that a test may need, so no test has an excuse.
        command.env("ANYPORT_REQUIRE_PRIVILEGED", "1").env("ANYPORT_REQUIRE_TOOLS", "1");
    }
    test_run(&mut command)
}

/// Runs `cargo test`, and counts.
fn test_run(command: &mut Command) -> Result<Outcome> {
    println!("{}", term::dim(&format!("$ {}", proc::describe(command))));
    let out = proc::run_with(command, TEST_LIMIT, Stream::Tee, Stream::Inherit)?;
    let mut tally = Tally::from_cargo_test(&out.stdout);
    // A test program that does not build, or dies, prints no result.
    if !out.status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    if out.status.success() && tally.passed == 0 {
        bail!("cargo test succeeded without running a test");
    }
    Ok(Outcome::Ran(tally))
}

/// What the summary says about one step.
struct Row {
    name: &'static str,
    time: Duration,
    tally: Tally,
    remark: String,
}

/// Prints the steps.
pub fn list() {
    for step in STEPS {
        println!("{:<26} {}", step.name, step.about);
    }
}

/// Runs the named steps (all, if none is named). True if nothing failed.
pub fn run(ws: &Workspace, names: &[String]) -> Result<bool> {
    let chosen = choose(names)?;
    let needs: Vec<Need> = chosen.iter().flat_map(|s| s.needs.iter().copied()).collect();
    let mut rows = Vec::new();
    let mut interrupted = None;
    let missing = if needs.is_empty() { Vec::new() } else { provide(&needs, &mut rows)? };
    for step in chosen {
        term::header(&format!("{}: {}", step.name, step.about));
        let started = Instant::now();
        let (tally, remark) = match run_one(ws, step, &missing) {
            Ok(result) => result,
            Err(signal) => {
                interrupted = Some(signal);
                (Tally::one(false), signal.to_string())
            }
        };
        rows.push(Row { name: step.name, time: started.elapsed(), tally, remark });
        if interrupted.is_some() {
            break;
        }
    }
    let total = summary(&rows);
    println!("{total}");
    term::flush();
    match interrupted {
        Some(signal) => Err(signal.into()),
        None => Ok(total.failed == 0),
    }
}

fn choose(names: &[String]) -> Result<Vec<&'static Step>> {
    if let Some(unknown) = names.iter().find(|n| STEPS.iter().all(|s| s.name != n.as_str())) {
        let known: Vec<&str> = STEPS.iter().map(|s| s.name).collect();
        bail!("there is no step `{unknown}`; the steps are: {}", known.join(" "));
    }
    let wanted = |s: &&Step| names.is_empty() || names.iter().any(|n| n == s.name);
    Ok(STEPS.iter().filter(wanted).collect())
}

/// Installs what is missing; gives what stays missing.
fn provide(needs: &[Need], rows: &mut Vec<Row>) -> Result<Vec<Need>> {
    term::header("packages: what the steps need from the system");
    let started = Instant::now();
    let (missing, tally, remark) = match packages::provide(needs) {
        Ok(Provided::Present) => {
            println!("nothing is missing");
            (Vec::new(), Tally::one(true), String::new())
        }
        Ok(Provided::Installed(new)) => {
            let names: Vec<&str> = new.iter().map(|n| n.package()).collect();
            (Vec::new(), Tally::one(true), format!("installed {}", names.join(" ")))
        }
        Ok(Provided::Missing(absent)) => {
            let remark = format!("install with: {}", packages::install_command(&absent));
            println!("{remark}");
            // Without libpcap hardly anything can be built: that is no mere omission.
            let tally = if absent.contains(&Need::Libpcap) {
                Tally::one(false)
            } else {
                Tally { skipped: 1, ..Tally::default() }
            };
            (absent, tally, remark)
        }
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => {
            println!("{}: {error:#}", term::red("failed"));
            (packages::missing(needs)?, Tally::one(false), format!("{error:#}"))
        }
    };
    rows.push(Row { name: "packages", time: started.elapsed(), tally, remark });
    Ok(missing)
}

/// Runs one step; an error only if a signal ended it.
fn run_one(ws: &Workspace, step: &Step, missing: &[Need]) -> Result<(Tally, String), Interrupted> {
    let lacks: Vec<&str> =
        step.needs.iter().filter(|n| missing.contains(n)).map(|n| n.package()).collect();
    let outcome = if lacks.is_empty() {
        (step.run)(ws)
    } else {
        Ok(Outcome::Skipped(format!("missing: {}", lacks.join(" "))))
    };
    let (mut tally, mut remark) = match outcome {
        Ok(Outcome::Ran(tally)) => (tally, String::new()),
        Ok(Outcome::Skipped(why)) => {
            println!("{}: {why}", term::yellow("skipped"));
            (Tally { skipped: 1, ..Tally::default() }, why)
        }
        Err(error) => {
            if let Some(signal) = error.downcast_ref::<Interrupted>() {
                return Err(*signal);
            }
            println!("{}: {error:#}", term::red("failed"));
            let first = error.to_string();
            (Tally::one(false), first.lines().next().unwrap_or_default().to_owned())
        }
    };
    let orphans = proc::end_orphans();
    if step.own_programs && !orphans.is_empty() {
        println!("{}: left running: {}", term::red("failed"), orphans.join(", "));
        tally.failed += 1;
        remark = format!("left running: {}", orphans.join(", "));
    }
    Ok((tally, remark))
}

fn summary(rows: &[Row]) -> Tally {
    term::header("summary");
    let mut total = Tally::default();
    for row in rows {
        let verdict = if row.tally.failed > 0 {
            term::red("failed ")
        } else if row.tally.passed == 0 {
            term::yellow("skipped")
        } else {
            term::green("ok     ")
        };
        let counts = row.tally.to_string();
        let line = format!("{:<26} {verdict} {:>12}  {counts}", row.name, term::seconds(row.time));
        if row.remark.is_empty() {
            println!("{line}");
        } else {
            println!("{line}  ({})", row.remark);
        }
        total += row.tally;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name_in_their_own_order() {
        let names = |chosen: Vec<&'static Step>| chosen.iter().map(|s| s.name).collect::<Vec<_>>();
        assert_eq!(names(choose(&[]).unwrap()).len(), STEPS.len());
        let two = ["test".to_owned(), "fmt".to_owned()];
        assert_eq!(names(choose(&two).unwrap()), ["fmt", "test"]);
        let error = choose(&["tset".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("`tset`") && error.contains("clippy"), "{error}");
    }

    #[test]
    fn names_of_steps_are_unique() {
        for (i, step) in STEPS.iter().enumerate() {
            assert!(STEPS[..i].iter().all(|s| s.name != step.name), "{}", step.name);
        }
    }

    #[test]
    fn a_step_that_lacks_something_is_skipped_with_the_reason() {
        let ws = Workspace::find().unwrap();
        let step = Step {
            name: "probe",
            about: "",
            needs: &[Need::Tshark],
            own_programs: false,
            run: |_| bail!("must not run"),
        };
        let (tally, remark) = run_one(&ws, &step, &[Need::Tshark]).unwrap();
        assert_eq!(tally, Tally { skipped: 1, ..Tally::default() });
        assert!(remark.contains("tshark"), "{remark}");
    }
}
