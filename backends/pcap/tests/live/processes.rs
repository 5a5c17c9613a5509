//! What happens to a process that has a port open: killed, started from a login (contract L2, L8, R13, F1).
//!
//! The test's own program is started again, in the test's namespace, to run the same test in the role of that process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyport::Error;
use anyport_netdev::testing::{in_namespace, may_keep_a_journal, may_load_programs, run};

use crate::common::{frame, open, registry, warnings};

/// The spec that the other process is to open; only that process has it.
const ROLE: &str = "ANYPORT_TEST_PORT";

/// Starts this program to run the test of that name in the other role; what it says first.
fn start(test: &str, spec: &str, environment: &[(&str, &str)]) -> (Child, String) {
    start_by(Command::new(std::env::current_exe().unwrap()), test, spec, environment)
}

/// The same by a command that goes before.
fn start_by(
    mut command: Command,
    test: &str,
    spec: &str,
    environment: &[(&str, &str)],
) -> (Child, String) {
    let mut child = command
        .args(["--exact", &format!("processes::{test}"), "--nocapture", "--test-threads=1"])
        .env(ROLE, spec)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.find_map(|line| Some(line.unwrap().strip_prefix("said: ")?.to_owned()));
    (child, said.unwrap_or_default())
}

/// The other role: opens and starts the port, says so or why not, and holds it until it is killed, or its input ends
/// because the one who started it has died.
#[allow(clippy::print_stderr, reason = "it is read by the process that started this one")]
fn other_role() -> bool {
    let Ok(spec) = std::env::var(ROLE) else { return false };
    // Whatever hangs here does not hang the one that reads what is said.
    // SAFETY: no pointers; the signal's default action ends the process.
    unsafe { libc::alarm(60) };
    match registry().open(&spec) {
        Err(error) => eprintln!("said: {error}"),
        Ok(port) => {
            drop(port);
            let _end = open(&spec);
            eprintln!("said: open");
            let _ = std::io::stdin().read_line(&mut String::new());
        }
    }
    true
}

/// All that `ip` and `ethtool` show of a0.
fn shown() -> String {
    run("ip", "-d -j link show a0") + &run("ethtool", "-k a0")
}

#[test]
fn what_a_killed_process_left_changed_is_put_back_by_the_next_opener() {
    if other_role() {
        return;
    }
    let name = "what_a_killed_process_left_changed_is_put_back_by_the_next_opener";
    in_namespace(|| {
        if !may_keep_a_journal() {
            return;
        }
        run("ethtool", "-K a0 gro on");
        let before = shown();
        let spec = "pcap:a0,mac=02:00:00:00:00:77,max_frame=4014,promiscuous=true";
        for round in 0..3 {
            let (mut child, said) = start(name, spec, &[]);
            assert_eq!(said, "open");
            let busy = registry().open("pcap:a0").unwrap_err();
            assert!(matches!(busy, Error::Busy { pid, .. } if pid == child.id()), "{busy}");
            child.kill().unwrap();
            child.wait().unwrap();
            // What dies with the process has died: modes, program. The rest only it could undo.
            let left = shown();
            assert!(
                left.contains("\"promiscuity\":0") && left.contains("\"allmulti\":0"),
                "{left}"
            );
            assert!(left.contains("\"mtu\":4000") && left.contains("02:00:00:00:00:77"), "{left}");
            // Where no program can be loaded, another warning says so.
            let open = || {
                let (port, mut said) = warnings(|| registry().open("pcap:a0").unwrap());
                said.retain(|line| line.contains("put back"));
                (port, said)
            };
            let (port, said) = open();
            assert_eq!(shown(), before, "round {round}");
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].contains(&format!("process {} left changed", child.id())), "{said:?}");
            drop(port);
            assert_eq!(open().1, [] as [String; 0]);
        }
    });
}

#[test]
fn a_listing_puts_it_back_as_well_but_not_from_under_a_living_one() {
    if other_role() {
        return;
    }
    let name = "a_listing_puts_it_back_as_well_but_not_from_under_a_living_one";
    in_namespace(|| {
        if !may_keep_a_journal() {
            return;
        }
        let before = shown();
        let (mut child, said) = start(name, "pcap:a0,mac=02:00:00:00:00:77,max_frame=4014", &[]);
        assert_eq!(said, "open");
        let obstacle = || {
            let devices = registry().devices();
            devices.into_iter().find(|device| device.spec == "pcap:a0").unwrap().obstacle
        };
        assert_eq!(obstacle(), Some(format!("it is in use by process {}", child.id())));
        assert!(shown().contains("\"mtu\":4000"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(obstacle(), None);
        assert_eq!(shown(), before);
    });
}

#[test]
fn the_hosts_stack_has_its_frames_again_when_the_port_was_killed() {
    if other_role() {
        return;
    }
    let name = "the_hosts_stack_has_its_frames_again_when_the_port_was_killed";
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        run("ip", "addr add 192.0.2.1/24 dev a0");
        let mut asker = open("pcap:a1");
        let mut question = frame(anyport::MacAddr::BROADCAST, 0, 60);
        question[12..].fill(0);
        question[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        question[6..12].copy_from_slice(&asker.mac().0);
        question[22..28].copy_from_slice(&asker.mac().0);
        question[28..32].copy_from_slice(&[192, 0, 2, 2]);
        question[38..42].copy_from_slice(&[192, 0, 2, 1]);
        let (mut child, said) = start(name, "pcap:a0", &[]);
        assert_eq!(said, "open");
        asker.send([question.clone()]);
        assert_eq!(asker.receive(0), [] as [Vec<u8>; 0]);
        child.kill().unwrap();
        child.wait().unwrap();
        asker.send([question]);
        assert_eq!(asker.receive(1).len(), 1);
    });
}

#[test]
fn the_interface_of_a_login_is_not_taken_by_accident() {
    if other_role() {
        return;
    }
    let name = "the_interface_of_a_login_is_not_taken_by_accident";
    in_namespace(|| {
        run("ip", "addr add 192.0.2.1/24 dev a0");
        let login = [("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22")];
        let (mut child, said) = start(name, "pcap:a0", &login);
        assert!(
            said.contains("the session that you are logged in by, from 192.0.2.7")
                && said.contains("`takeover=true`"),
            "{said}"
        );
        assert!(child.wait().unwrap().success());
        for spec in ["pcap:a0,takeover=true", "pcap:a0,shared=true", "pcap:a1"] {
            let (mut child, said) = start(name, spec, &login);
            assert_eq!(said, "open", "{spec}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
}

#[test]
fn a_capability_that_does_not_hold_for_the_namespace_is_none() {
    if other_role() {
        return;
    }
    let name = "a_capability_that_does_not_hold_for_the_namespace_is_none";
    // Also refused to root: below chroot, in a container, by a switch.
    let tried =
        Command::new("unshare").args(["--user", "--map-root-user", "true"]).output().unwrap();
    if !tried.status.success() {
        eprintln!("skipped: no user namespace can be made here");
        return;
    }
    in_namespace(|| {
        // All capabilities, but in a user namespace to which this network namespace does not belong.
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
        let (mut child, said) = start_by(command, name, "pcap:a0", &[]);
        assert!(
            said.contains("no privilege to open a packet socket: it needs CAP_NET_RAW"),
            "{said}"
        );
        assert!(child.wait().unwrap().success());
    });
}
