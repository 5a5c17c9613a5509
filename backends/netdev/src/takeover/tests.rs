use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::testing::{in_namespace, ip};

/// What the interface carries, in words.
fn carries(name: &str, sessions: &[&str]) -> Option<String> {
    let sessions: Vec<Session> =
        sessions.iter().map(|value| Session::parse(value).unwrap()).collect();
    let index = Interface::open(name).unwrap().index();
    Host::with(&sessions).unwrap().carries(&links().unwrap(), index).unwrap()
}

#[test]
fn the_values_of_ssh_are_read() {
    let v4 =
        Session { peer: "192.0.2.7".parse().unwrap(), local: Some("192.0.2.1".parse().unwrap()) };
    assert_eq!(Session::parse("192.0.2.7 50000 192.0.2.1 22"), Some(v4));
    assert_eq!(Session::parse("192.0.2.7 50000 22"), Some(Session { local: None, ..v4 }));
    let v6 = Session { peer: "fe80::7".parse().unwrap(), local: Some("fe80::1".parse().unwrap()) };
    assert_eq!(Session::parse("fe80::7%eth0 50000 fe80::1%eth0 22"), Some(v6));
    assert_eq!((Session::parse(""), Session::parse("UNKNOWN 65535 65535")), (None, None));
}

#[test]
fn a_login_is_found_although_the_environment_was_cleared() {
    let mut shell = Command::new("sh")
        .args(["-c", "env -i sleep 60 & echo $!; wait"])
        .env("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let sleeper: u32 = line.trim().parse().unwrap();
    let name = || std::fs::read_to_string(format!("/proc/{sleeper}/comm")).unwrap();
    for _ in 0..10_000 {
        if name().trim() == "sleep" {
            break;
        }
        std::thread::yield_now();
    }
    let own = std::fs::read(format!("/proc/{sleeper}/environ")).unwrap();
    let found = sessions(sleeper);
    // SAFETY: no pointers; a process that this test started.
    unsafe { libc::kill(sleeper as libc::pid_t, libc::SIGKILL) };
    shell.wait().unwrap();
    assert_eq!(own, [] as [u8; 0], "its own environment is empty");
    let peer = "192.0.2.7".parse::<IpAddr>().unwrap();
    assert!(found.iter().any(|session| session.peer == peer), "{found:?}");
}

#[test]
fn default_routes_are_found_wherever_they_are() {
    in_namespace(|| {
        ip("addr add 192.0.2.1/24 dev a0");
        ip("addr add 198.51.100.1/24 dev a1");
        assert_eq!((carries("a0", &[]), carries("a1", &[])), (None, None));
        let default = Some("the host's default route".to_owned());
        for (route, a0, a1) in [
            ("default via 192.0.2.2", true, false),
            ("default via 198.51.100.2 table 77", false, true),
            ("default nexthop via 192.0.2.2 nexthop via 198.51.100.2", true, true),
            // Not the default, and one that leads nowhere.
            ("203.0.113.0/24 via 192.0.2.2", false, false),
            ("unreachable default", false, false),
        ] {
            ip(&format!("route add {route}"));
            let expected = [a0, a1].map(|is| default.clone().filter(|_| is));
            assert_eq!([carries("a0", &[]), carries("a1", &[])], expected, "{route}");
            ip(&format!("route del {route}"));
        }
        ip("-6 addr add 2001:db8::1/64 dev a1 nodad");
        ip("-6 route add default via 2001:db8::2");
        assert_eq!((carries("a0", &[]), carries("a1", &[])), (None, default));
    });
}

#[test]
fn what_lies_on_top_of_an_interface_counts() {
    in_namespace(|| {
        ip("link add br0 type bridge");
        ip("link set br0 up");
        ip("link set a0 master br0");
        ip("link add m1 link a1 type macvlan");
        ip("link set m1 up");
        ip("addr add 192.0.2.1/24 dev br0");
        ip("route add default via 192.0.2.2");
        ip("addr add 198.51.100.1/24 dev m1");
        let route = |name: &str| Some(format!("the host's default route (by way of {name})"));
        assert_eq!((carries("a0", &[]), carries("a1", &[])), (route("br0"), None));
        ip("route del default");
        ip("route add default via 198.51.100.2");
        assert_eq!((carries("a0", &[]), carries("a1", &[])), (None, route("m1")));
        assert_eq!(carries("m1", &[]).as_deref(), Some("the host's default route"));
    });
}

#[test]
fn the_way_of_a_login_is_found_by_both_ends() {
    in_namespace(|| {
        ip("addr add 192.0.2.1/24 dev a0");
        ip("addr add 198.51.100.1/24 dev a1");
        ip("route add 203.0.113.0/24 via 192.0.2.2");
        let from = |peer: &str| Some(format!("the session that you are logged in by, from {peer}"));
        // It came in by one and its answers leave by the other: both are needed.
        let session = ["203.0.113.9 50000 198.51.100.1 22"];
        let both = (from("203.0.113.9"), from("203.0.113.9"));
        assert_eq!((carries("a0", &session), carries("a1", &session)), both);
        let session = ["198.51.100.9 50000 22"];
        assert_eq!(
            (carries("a0", &session), carries("a1", &session)),
            (None, from("198.51.100.9"))
        );
        // From an address that is not reached at all.
        let session = ["192.88.99.1 50000 192.88.99.2 22"];
        assert_eq!((carries("a0", &session), carries("a1", &session)), (None, None));
    });
}
