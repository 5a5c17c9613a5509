//! Children, orphans and signals of real processes.

use super::orphans::parse_stat;
use super::*;
use std::os::unix::process::ExitStatusExt;

const LONG: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Command {
    let mut c = command("sh");
    c.arg("-c").arg(script);
    c
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse_stat(&stat).is_some_and(|(_, state, _)| state != "Z" && state != "X")
}

fn gone(pid: i32) {
    let check = || Ok((!alive(pid)).then_some(()));
    poll_for("end of a process", LONG, check).expect("the process must end");
}

#[test]
fn output_and_status_are_reported() {
    let out = capture(&mut sh("echo out; echo err >&2; exit 3"), LONG).unwrap();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(out.status.code(), Some(3));
    let error = output(&mut sh("echo bad thing >&2; exit 1"), LONG).unwrap_err().to_string();
    assert!(error.contains("bad thing") && error.contains("sh -c"), "{error}");
    let error = output(&mut sh("seq 100; exit 1"), LONG).unwrap_err().to_string();
    assert!(error.ends_with("\n99\n100") && !error.contains("88"), "only the end: {error}");
    let out = capture(&mut sh("kill -9 $$"), LONG).unwrap();
    assert_eq!(out.status.signal(), Some(9));
}

#[test]
fn more_output_than_a_pipe_holds_does_not_block() {
    let out = capture(&mut sh("head -c 1000000 /dev/zero"), LONG).unwrap();
    assert_eq!(out.stdout.len(), 1_000_000);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = capture(&mut command("no-such-program-anywhere"), LONG).err().unwrap();
    assert!(error.to_string().contains("no-such-program-anywhere"), "{error}");
    assert!(!have("no-such-program-anywhere"));
    assert!(have("sh"));
}

#[test]
fn the_limit_ends_the_whole_group() {
    // The grandchild's id comes first; the shell then waits for it for ever.
    let mut child =
        Child::spawn(&mut sh("sleep 1000 & echo $!; wait"), Stream::Keep, Stream::Keep).unwrap();
    child.wait_until(LONG, |c| c.stdout().ends_with('\n')).unwrap();
    let grandchild: i32 = child.stdout().trim().parse().unwrap();
    let own = child.id() as i32;
    assert!(alive(grandchild) && alive(own));
    let error = child.wait(Duration::from_millis(50)).unwrap_err().to_string();
    assert!(error.contains("did not end"), "{error}");
    drop(child);
    gone(own);
    gone(grandchild);
}

#[test]
fn a_grandchild_that_outlives_its_parent_dies_with_the_handle() {
    let mut child =
        Child::spawn(&mut sh("sleep 1000 >/dev/null 2>&1 & echo $!"), Stream::Keep, Stream::Keep)
            .unwrap();
    assert!(child.wait(LONG).unwrap().success());
    let grandchild: i32 = child.stdout().trim().parse().unwrap();
    assert!(alive(grandchild));
    drop(child);
    gone(grandchild);
}

#[test]
fn stop_gives_the_status_of_a_clean_end() {
    let mut child = Child::spawn(
        &mut sh("trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.05; done"),
        Stream::Keep,
        Stream::Keep,
    )
    .unwrap();
    child.wait_until(LONG, |c| c.stdout().contains("ready")).unwrap();
    assert_eq!(child.stop(libc::SIGINT).unwrap().code(), Some(7));
    assert!(child.stdout().contains("bye"));
}

#[test]
fn a_look_without_waiting_notices_the_end() {
    let mut child = Child::spawn(&mut sh("exit 5"), Stream::Keep, Stream::Keep).unwrap();
    let look = || Ok(child.pump_for(Duration::ZERO)?.then_some(()));
    poll_for("the end to be noticed", LONG, look).unwrap();
    assert_eq!(child.wait(LONG).unwrap().code(), Some(5));
}

#[test]
fn waiting_for_a_line_notices_an_early_end() {
    let mut child = Child::spawn(&mut sh("echo other"), Stream::Keep, Stream::Keep).unwrap();
    let error = child.wait_until(LONG, |c| c.stdout().contains("ready")).unwrap_err();
    assert!(error.to_string().contains("ended too early"), "{error}");
}

#[test]
fn stat_lines_with_odd_names_are_read() {
    assert_eq!(parse_stat("7 (a) b) (c) S 42 1 1"), Some(("a) b) (c", "S", 42)));
    assert_eq!(parse_stat("nonsense"), None);
}

#[test]
fn commands_are_shown_as_typed() {
    let mut c = command("ping");
    c.args(["-c", "1", "a b", ""]);
    assert_eq!(describe(&c), "ping -c 1 'a b' ''");
}

/// Runs one test of this file in a process of its own, with a variable that tells it to play its part:
/// orphans and signal handlers belong to a process, and the other tests share this one.
fn this_test_alone(test: &str) -> Command {
    let mut c = command(std::env::current_exe().unwrap());
    c.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("XTASK_TEST_ALONE", test);
    c
}

fn alone() -> bool {
    std::env::var_os("XTASK_TEST_ALONE").is_some()
}

#[test]
fn orphans_are_found_and_ended() {
    if alone() {
        become_subreaper().unwrap();
        // One sleep stays in the group of its parent, two leave it.
        let script = "sleep 1000 >/dev/null 2>&1 & \
                      setsid sh -c 'sleep 1001 >/dev/null 2>&1 & \
                      echo started; exec sleep 1002 >/dev/null 2>&1' &";
        let mut child = Child::spawn(&mut sh(script), Stream::Keep, Stream::Keep).unwrap();
        child.wait_until(LONG, |c| c.stdout().contains("started")).unwrap();
        assert!(child.wait(LONG).unwrap().success());
        drop(child);
        let kept = Child::spawn(&mut sh("sleep 1003; :"), Stream::Keep, Stream::Keep).unwrap();
        let names = end_orphans();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(alive(kept.id() as i32), "a child that is still owned is no orphan");
        drop(kept);
        assert_eq!(end_orphans(), Vec::<String>::new());
        println!("orphans: done");
    } else {
        let out = output(&mut this_test_alone("proc::tests::orphans_are_found_and_ended"), LONG);
        assert!(out.unwrap().contains("orphans: done"));
    }
}

#[test]
fn a_signal_ends_a_wait_and_the_children() {
    if alone() {
        catch_signals().unwrap();
        let mut child =
            Child::spawn(&mut sh("exec sleep 1000"), Stream::Keep, Stream::Keep).unwrap();
        println!("child {}", child.id());
        let error = child.wait(LONG * 10).unwrap_err();
        let signal = error.downcast_ref::<Interrupted>().copied();
        assert_eq!(signal, Some(Interrupted(libc::SIGTERM)));
        drop(child);
        println!("signal: done");
    } else {
        let mut test = Child::spawn(
            &mut this_test_alone("proc::tests::a_signal_ends_a_wait_and_the_children"),
            Stream::Keep,
            Stream::Keep,
        )
        .unwrap();
        // libtest writes "test NAME ... " in front of the first line.
        let id = |c: &Child| {
            let text = c.stdout();
            let (_, rest) = text.split_once("child ")?;
            rest.split_once('\n')?.0.trim().parse::<i32>().ok()
        };
        test.wait_until(LONG, |c| id(c).is_some()).unwrap();
        let sleep = id(&test).unwrap();
        assert!(alive(sleep));
        test.signal(libc::SIGTERM);
        assert!(test.wait(LONG).unwrap().success(), "{}{}", test.stdout(), test.stderr());
        assert!(test.stdout().contains("signal: done"));
        gone(sleep);
    }
}
