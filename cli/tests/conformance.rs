//! `anyport conformance` on ports that somebody else connected: what it looks at before the cases, and how a signal ends it.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Finished, anyport, in_namespace, ip, run};
use serde_json::Value;

/// The names and outcomes of a JSON report.
fn outcomes(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let results = report["results"].as_array().unwrap().iter();
    results.map(|result| (text(&result["name"]), text(&result["outcome"]))).collect()
}

/// The run ended before any case with this error.
#[track_caller]
fn refused(finished: &Finished, words: &[&str]) {
    finished.failed_with(1, words);
    assert!(finished.stdout.is_empty(), "{}", finished.text());
}

#[test]
fn connected_ports_are_found_to_be() {
    // With several queues the probe may come in on any of them.
    for keys in ["", ",queues=3", ",promiscuous=false"] {
        let pair = format!("loop:pair.0{keys} loop:pair.1{keys}");
        let report = run(&format!("conformance {pair} --case receive.bursts --json")).json();
        let expected = [("receive.bursts_of_any_size".to_owned(), "passed".to_owned())];
        assert_eq!(outcomes(&report), expected);
    }
}

#[test]
fn ports_that_are_not_connected_are_refused() {
    let finished = run("conformance loop:here.0 loop:there.0");
    refused(&finished, &["loop:here.0 and loop:there.0 are not connected to each other"]);
    // What comes to one end is lost.
    let finished = run("conformance loop:way.0 loop:way.1,drop=1");
    refused(&finished, &["from loop:way.1,drop=1 to loop:way.0, but none", "the other way"]);
    let finished = run("conformance loop:way.0,drop=1 loop:way.1");
    refused(&finished, &["from loop:way.0,drop=1 to loop:way.1, but none"]);
}

#[test]
fn files_are_not_probed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (from, to) = (at("a.pcap"), at("b.pcap"));
    assert!(run(&format!("gen pcap:out={from} --count 1")).status.success());
    let ports = format!("pcap:in={from} pcap:out={to}");
    let report = run(&format!("conformance {ports} --case receive.bursts --json")).json();
    let expected = [("receive.bursts_of_any_size".to_owned(), "skipped".to_owned())];
    assert_eq!(outcomes(&report), expected);
}

#[test]
fn a_quiet_veth_pair_keeps_to_the_lengths() {
    in_namespace(|| {
        let report = run("conformance pcap:a0 pcap:a1 --case receive.much_longer \
                          --case receive.chains_beyond --json")
        .json();
        // The pair itself drops what its far end is not made for; nobody tells the suite.
        let expected = [
            ("receive.much_longer_is_never_cut", "passed"),
            ("receive.much_longer_is_counted", "skipped"),
            ("receive.chains_beyond_the_maximum_are_never_cut", "passed"),
            ("receive.chains_beyond_the_maximum_are_counted", "skipped"),
        ];
        let expected = expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()));
        assert_eq!(outcomes(&report), expected, "{report:#}");
        let reason = report["results"][1]["reason"].as_str().unwrap();
        assert!(reason.starts_with("the rig cannot say how many frames"), "{reason}");
    });
}

#[test]
fn interfaces_that_are_not_connected_are_refused() {
    in_namespace(|| {
        let finished = run("conformance pcap:a0 pcap:b1");
        refused(&finished, &["pcap:a0 and pcap:b1 are not connected to each other"]);
    });
}

/// Runs the suite on a veth pair while the host sends again and again by `socket`.
fn while_the_host_sends(socket: &UdpSocket) -> Finished {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Every thread of this one is in its namespace, and the socket anyhow.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Between open and close the interface may be down for a moment.
                let _ = socket.send(b"by somebody else");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let finished = run("conformance pcap:a0 pcap:a1");
        over.store(true, Ordering::Relaxed);
        finished
    })
}

#[test]
fn a_host_that_sends_is_named() {
    in_namespace(|| {
        ip("link set a0 address 02:00:00:00:00:0a");
        ip("address add 10.99.1.1/24 dev a0");
        ip("neigh replace 10.99.1.2 lladdr 02:00:00:00:00:0b dev a0 nud permanent");
        let socket = UdpSocket::bind("10.99.1.1:0").unwrap();
        socket.connect("10.99.1.2:9").unwrap();
        let finished = while_the_host_sends(&socket);
        refused(
            &finished,
            &[
                "pcap:a1: a frame arrived that the suite did not send",
                "from 02:00:00:00:00:0a to 02:00:00:00:00:0b, EtherType 0x0800, 58 bytes",
                "Somebody else sends here",
            ],
        );
        assert!(!finished.stderr.contains("disable_ipv6"), "{}", finished.stderr);
    });
}

#[test]
fn neighbour_discovery_is_named_with_its_remedy() {
    in_namespace(|| {
        ip("link set a0 address 02:00:00:00:00:0a");
        for end in ["a0", "a1"] {
            // `/proc/sys/net` is the view of whoever opens it.
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "0").unwrap();
        }
        ip("-6 address add fe80::1/64 dev a0 nodad");
        // SAFETY: a string that lives on.
        let index = unsafe { libc::if_nametoindex(c"a0".as_ptr()) };
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        socket.connect(SocketAddrV6::new(all_nodes, 9, 0, index)).unwrap();
        let finished = while_the_host_sends(&socket);
        refused(
            &finished,
            &[
                "pcap:a1: a frame arrived that the suite did not send, from 02:00:00:00:00:0a to 33:33:",
                "EtherType 0x86dd",
                "`sysctl -w net.ipv6.conf.a0.disable_ipv6=1 net.ipv6.conf.a1.disable_ipv6=1`",
            ],
        );
    });
}

/// The names of all cases.
fn all_cases() -> Vec<String> {
    let listed: Value = serde_json::from_slice(&run("conformance --list --json").stdout).unwrap();
    let names = listed.as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

#[test]
fn a_signal_ends_it_with_the_totals_of_what_ran() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut command = anyport("conformance --rig loop");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        stdout.read_line(&mut text).unwrap();
        // SAFETY: no pointers; the child has not been waited for, so the number is its own.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        stdout.read_to_string(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.signal(), Some(signal), "{said}{text}");
        assert_eq!(said, "anyport: ends after the running case; a second signal ends it at once\n");

        let ran: Vec<&str> =
            text.lines().take_while(|line| !line.is_empty()).map(|line| &line[..6]).collect();
        let count = |mark| ran.iter().filter(|found| **found == mark).count();
        let (passed, failed, skipped) = (count("  ok  "), count("  FAIL"), count("  skip"));
        assert_eq!((passed + skipped, failed), (ran.len(), 0), "{text}");
        let left =
            text.lines().find_map(|line| line.strip_prefix("not run, because the run was ended: "));
        let left: Vec<&str> = left.unwrap_or_else(|| panic!("{text}")).split(", ").collect();
        let all = all_cases();
        assert_eq!(left, all[ran.len()..], "{text}");
        assert_eq!(left.iter().collect::<BTreeSet<_>>().len(), all.len() - ran.len());
        let mut totals = format!("{passed} passed, 0 failed");
        if skipped > 0 {
            totals += &format!(", {skipped} skipped");
        }
        totals += &format!(", {} not run", left.len());
        assert_eq!(text.lines().last(), Some(&*totals), "{text}");
    }
}
