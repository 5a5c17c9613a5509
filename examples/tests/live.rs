//! The programs as a user starts them, on kernel interfaces, in a network namespace that goes with the test.
//!
//! ```text
//!   test ── a0 ═══ a1 ── program ── b0 ═══ b1 ── test
//! ```

mod common;

#[allow(dead_code)]
#[path = "../src/bin/backend.rs"]
mod backend;

use std::process::Command;

use anyport::MacAddr;
use common::{End, Program, first_line, frame, in_namespace, ip, swapped};

/// Frames to everybody, which a port need not be promiscuous for.
fn broadcasts(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| frame(MacAddr::BROADCAST, n, 60 + n as usize % 1455)).collect()
}

#[test]
fn hello_sends_back_what_comes_until_the_link_goes() {
    in_namespace(&["a"], || {
        let registry = anyport_backends::registry();
        let mut peer = End::open(&registry, "pcap:a0,promiscuous=true");
        let program = Program::start(env!("CARGO_BIN_EXE_hello"), &["pcap:a1"]);
        peer.probe(None);
        let frames = broadcasts(1500);
        let wanted: Vec<_> = frames.iter().cloned().map(swapped).collect();
        assert_eq!(peer.exchange(&frames, 50), wanted);
        ip("link set a0 down");
        assert_eq!(program.finish(), (true, String::new()));
    });
}

/// The program that handles frames is user 65534, and has no privilege.
#[test]
fn handover_gives_an_interface_to_a_program_without_privileges() {
    in_namespace(&["a"], || {
        let folder = tempfile::tempdir().unwrap();
        let hello = folder.path().join("hello");
        // Where everybody may run it.
        let copy = format!("-m 755 {} {}", env!("CARGO_BIN_EXE_hello"), hello.display());
        assert!(Command::new("install").args(copy.split(' ')).status().unwrap().success());
        assert!(Command::new("chmod").arg("755").arg(folder.path()).status().unwrap().success());
        let registry = anyport_backends::registry();
        let mut peer = End::open(&registry, "pcap:a0,promiscuous=true");
        let hello = hello.to_str().unwrap();
        let arguments = ["a1", "1", "65534", hello, "af_xdp:a1,sockets=SOCKETS"];
        let program = Program::start(env!("CARGO_BIN_EXE_handover"), &arguments);
        peer.probe(None);
        let frames = broadcasts(1500);
        let wanted: Vec<_> = frames.iter().cloned().map(swapped).collect();
        assert_eq!(peer.exchange(&frames, 50), wanted);
        ip("link set a0 down");
        assert_eq!(program.finish(), (true, String::new()));
        let shown = Command::new("ip").args(["link", "show", "a1"]).output().unwrap();
        assert!(!String::from_utf8(shown.stdout).unwrap().contains("xdp"));
    });
}

#[test]
fn async_program_serves_two_ports_and_stops_them() {
    in_namespace(&["a", "b"], || {
        let registry = anyport_backends::registry();
        let mut peers = ["pcap:a0,promiscuous=true", "pcap:b1,promiscuous=true"]
            .map(|spec| End::open(&registry, spec));
        let ports = ["pcap:a1", "pcap:b0"];
        let mut program = Program::start(env!("CARGO_BIN_EXE_async"), &ports);
        let frames = broadcasts(500);
        let wanted: Vec<_> = frames.iter().cloned().map(swapped).collect();
        let mut said = String::new();
        for (peer, port) in peers.iter_mut().zip(ports) {
            let total = peer.probe(None) + 500;
            assert_eq!(peer.exchange(&frames, 50), wanted);
            said += &format!("{port}: {total} frames sent back\n");
        }
        program.interrupt();
        assert_eq!(program.finish(), (true, said));
    });
}

#[test]
fn forward_joins_two_networks() {
    in_namespace(&["a", "b"], || {
        let registry = anyport_backends::registry();
        let mut near = End::open(&registry, "pcap:a0");
        let mut far = End::open(&registry, "pcap:b1");
        let mut program = Program::start(env!("CARGO_BIN_EXE_forward"), &["pcap:a1", "pcap:b0"]);
        let crossed = near.probe(Some(&mut far));
        let (to_near, to_far) = (near.mac(), far.mac());
        for batch in 0..20 {
            let frames: Vec<_> =
                (0..50).map(|n| frame(to_far, batch * 50 + n, 60 + 29 * n as usize)).collect();
            near.send(&frames);
            assert_eq!(far.receive(50), frames);
            let frames: Vec<_> = (0..50).map(|n| frame(to_near, batch * 50 + n, 1514)).collect();
            far.send(&frames);
            assert_eq!(near.receive(50), frames);
        }
        program.interrupt();
        let there = format!("{} frames from pcap:a1 to pcap:b0\n", crossed + 1000);
        let back = "1000 frames from pcap:b0 to pcap:a1\n";
        assert_eq!(program.finish(), (true, there + back));
    });
}

/// What the kernel counted on an interface: frames received and sent.
fn kernel_counters(device: &str) -> (u64, u64) {
    let output = Command::new("ip").args(["-s", "-j", "link", "show", device]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packets = |way: &str| shown[0]["stats64"][way]["packets"].as_u64().unwrap();
    (packets("rx"), packets("tx"))
}

#[test]
fn a_real_ping_is_answered() {
    in_namespace(&["a"], || {
        ip("addr add 10.0.0.1/24 dev a0");
        let before = kernel_counters("a0");
        let mut program = Program::start(env!("CARGO_BIN_EXE_ping"), &["pcap:a1", "10.0.0.2"]);
        assert!(first_line(program.child()).starts_with("10.0.0.2 is at "));
        for (count, size) in [(200, 56), (10, 0), (10, 17), (10, 1471), (10, 1472)] {
            let command = format!("-q -n -i 0.002 -W 5 -c {count} -s {size} 10.0.0.2");
            let output = Command::new("ping").args(command.split(' ')).output();
            let output = output.expect("`ping` must be installed (iputils-ping)");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let wanted = format!("{count} packets transmitted, {count} received, 0% packet loss");
            assert!(output.status.success() && said.contains(&wanted), "size {size}: {said}");
        }
        let after = kernel_counters("a0");
        // All that the host sent were requests to this address (one by ARP), and all were answered.
        let (answers, requests) = (after.0 - before.0, after.1 - before.1);
        assert_eq!((answers, requests), (241, 241));
        program.interrupt();
        assert_eq!(program.finish(), (true, "241 requests answered\n".into()));
    });
}

#[test]
fn backend_tunnels_frames_through_udp() {
    in_namespace(&["a"], || {
        let mut registry = anyport_backends::registry();
        registry.register(backend::Udp).unwrap();
        let mut near = End::open(&registry, "pcap:a0");
        let mut far = End::open(&registry, "udp:127.0.0.1:4790-127.0.0.1:4789");
        let ports = ["pcap:a1", "udp:127.0.0.1:4789-127.0.0.1:4790"];
        let mut program = Program::start(env!("CARGO_BIN_EXE_backend"), &ports);
        let crossed = near.probe(Some(&mut far));
        let (to_near, to_far) = (near.mac(), far.mac());
        for batch in 0..20 {
            let frames: Vec<_> =
                (0..50).map(|n| frame(to_far, batch * 50 + n, 60 + 29 * n as usize)).collect();
            near.send(&frames);
            assert_eq!(far.receive(50), frames);
            let frames: Vec<_> = (0..50).map(|n| frame(to_near, batch * 50 + n, 1514)).collect();
            far.send(&frames);
            assert_eq!(near.receive(50), frames);
        }
        program.interrupt();
        let [left, right] = ports;
        let there = format!("{} frames from {left} to {right}\n", crossed + 1000);
        assert_eq!(
            program.finish(),
            (true, there + &format!("1000 frames from {right} to {left}\n"))
        );
    });
}
