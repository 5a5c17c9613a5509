//! Whose a received frame is: the port's, the host's stack's, or both (contract R13).
//!
//! ```text
//!   host's stack, 192.0.2.1, 2001:db8::1 ── a0 ═══════ a1 ── a port that sends questions and sees the answers
//!                         port under test ──┘
//! ```

use anyport::{Error, MacAddr, Pool};
use anyport_netdev::bpf::asm::Assembler;
use anyport_netdev::bpf::{Kind, Link, Program};
use anyport_netdev::testing::{in_namespace, ip, may_load_programs};
use anyport_netdev::{Interface, links};
use etherparse::PacketBuilder;

use crate::common::{End, frame, logged, open, registry, tagged, warnings};

/// Where questions come from.
const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);

/// Gives a0 its addresses, and the host's stack the asker's, so that it answers without asking.
fn addresses() {
    ip("addr add 192.0.2.1/24 dev a0");
    ip("-6 addr add 2001:db8::1/64 dev a0 nodad");
    neighbours();
}

fn neighbours() {
    for neighbour in ["192.0.2.2", "2001:db8::2"] {
        ip(&format!("neigh replace {neighbour} lladdr {ASKER} dev a0"));
    }
}

fn index(name: &str) -> u32 {
    Interface::open(name).unwrap().index()
}

fn ethernet(to: MacAddr) -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(ASKER.0, to.0)
}

/// Opens a connection to that port: a stack without a listener answers with a reset.
fn syn(to: MacAddr, port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder =
        ethernet(to).ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64).tcp(40000, port, 1, 1000).syn();
    builder.write(&mut bytes, &[]).unwrap();
    bytes.resize(60, 0);
    bytes
}

fn syn6(to: MacAddr, port: u16) -> Vec<u8> {
    let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let mut bytes = Vec::new();
    let builder = ethernet(to).ipv6(address(2), address(1), 64).tcp(40000, port, 1, 1000).syn();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}

fn ping(to: MacAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ethernet(to).ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64).icmpv4_echo_request(1, 1);
    builder.write(&mut bytes, b"0123456789abcdefgh").unwrap();
    bytes
}

/// Who has 192.0.2.1?
fn arp() -> Vec<u8> {
    let mut bytes = MacAddr::BROADCAST.0.to_vec();
    bytes.extend(ASKER.0);
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(ASKER.0);
    bytes.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    bytes.resize(60, 0);
    bytes
}

/// What kind of answer a frame is.
fn kind(frame: &[u8]) -> String {
    match (frame[12], frame[13]) {
        (8, 6) => "arp".into(),
        (8, 0) if frame[23] == 6 => format!("tcp {}", u16::from_be_bytes([frame[34], frame[35]])),
        (8, 0) if frame[23] == 1 => format!("icmp {}", frame[34]),
        (0x86, 0xdd) if frame[20] == 6 => {
            format!("tcp6 {}", u16::from_be_bytes([frame[54], frame[55]]))
        }
        _ => format!("{frame:02x?}"),
    }
}

/// What the asker was answered. What the stack says to groups (that it listens to IPv6 addresses) is no answer.
fn answered(asker: &mut End, count: usize) -> Vec<String> {
    let frames = asker.receive(count);
    frames.iter().filter(|frame| frame[..6] == ASKER.0).map(|frame| kind(frame)).collect()
}

/// Asks all the questions; what the port under test received, and what the asker was answered.
fn ask(
    port: &mut End,
    asker: &mut End,
    questions: &[Vec<u8>],
    to_port: usize,
    answers: usize,
) -> (Vec<Vec<u8>>, Vec<String>) {
    asker.send(questions.to_vec());
    let received = port.receive(to_port);
    (received, answered(asker, answers))
}

/// A port that receives what is for the asker.
fn asker() -> End {
    open(&format!("pcap:a1,mac={ASKER}"))
}

#[test]
fn the_stack_answers_nothing_that_an_exclusive_port_receives() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        addresses();
        let mut asker = asker();
        let mut port = open("pcap:a0");
        assert!(port.port.capability().exclusive);
        let to = port.mac();
        let questions =
            [arp(), ping(to), syn(to, 22), syn6(to, 22), tagged(frame(to, 1, 60), 0x8100, 5)];
        let (received, answers) = ask(&mut port, &mut asker, &questions, 5, 0);
        assert_eq!((received, answers), (questions.to_vec(), vec![]));
        // A stopped port leaves the host its interface, as often as it is stopped.
        for _ in 0..2 {
            port.port.stop().unwrap();
            asker.send(questions.to_vec());
            assert_eq!(answered(&mut asker, 4), ["arp", "icmp 0", "tcp 22", "tcp6 22"]);
            (port.rx, port.tx) = port.port.start().unwrap().into_pair();
            let (received, answers) = ask(&mut port, &mut asker, &questions, 5, 0);
            assert_eq!((received, answers), (questions.to_vec(), vec![]));
        }
        // So does one that is not started yet, one whose start failed, and a closed one.
        port.port.close().unwrap();
        let mut port = registry().open("pcap:a0").unwrap();
        assert!(port.capability().exclusive);
        asker.send(questions.to_vec());
        assert_eq!(answered(&mut asker, 4), ["arp", "icmp 0", "tcp 22", "tcp6 22"]);
        port.close().unwrap();
        let pool = Pool::builder().frames(64).frame_size(16384).build().unwrap();
        let keys = "rx_ring=65536,max_frame=65531,max_segments=5";
        port = registry().open_with(&format!("pcap:a0,{keys}"), &pool).unwrap();
        assert!(matches!(port.start(), Err(Error::Unsupported { .. })));
        neighbours();
        asker.send(questions.to_vec());
        assert_eq!(answered(&mut asker, 4), ["arp", "icmp 0", "tcp 22", "tcp6 22"]);
        port.close().unwrap();
        asker.send(questions.to_vec());
        assert_eq!(answered(&mut asker, 4), ["arp", "icmp 0", "tcp 22", "tcp6 22"]);
    });
}

#[test]
fn a_shared_port_leaves_everything_to_the_stack_as_well() {
    in_namespace(|| {
        addresses();
        let mut asker = asker();
        // Also what it names: both get everything.
        for spec in ["pcap:a0,shared=true", "pcap:a0,shared=true,to_kernel=arp,tcp:22"] {
            let mut port = open(spec);
            assert!(!port.port.capability().exclusive);
            let to = port.mac();
            let questions = [arp(), ping(to), syn(to, 22)];
            let (received, answers) = ask(&mut port, &mut asker, &questions, 3, 3);
            assert_eq!(received, questions);
            assert_eq!(answers, ["arp", "icmp 0", "tcp 22"]);
        }
    });
}

#[test]
fn what_is_named_goes_to_the_stack_alone_and_the_rest_to_the_port_alone() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        addresses();
        let mut asker = asker();
        let mut port = open("pcap:a0,to_kernel=arp,tcp:22");
        assert!(port.port.capability().exclusive);
        let to = port.mac();
        let tag = |frame: Vec<u8>| {
            let mut frame = frame;
            frame.splice(12..12, [0x81, 0, 0x20, 5]);
            frame
        };
        let qinq = |frame: Vec<u8>| {
            let mut frame = tag(frame);
            frame.splice(12..12, [0x88, 0xa8, 0, 9]);
            frame
        };
        let kernels = [arp(), syn(to, 22), syn6(to, 22)];
        let ports = [ping(to), syn(to, 80), syn6(to, 2222), frame(to, 1, 60)];
        for promiscuous in [false, true] {
            port.port.control().set_promiscuous(promiscuous).unwrap();
            let mixed: Vec<_> = kernels.iter().chain(&ports).cloned().collect();
            let (received, answers) = ask(&mut port, &mut asker, &mixed, 4, 3);
            assert_eq!(received, ports);
            assert_eq!(answers, ["arp", "tcp 22", "tcp6 22"]);
            // Behind tags: nobody here has that VLAN, so the kernel's have no answer, and the port has not seen them either.
            for tag in [&tag as &dyn Fn(Vec<u8>) -> Vec<u8>, &qinq] {
                let mixed: Vec<_> = mixed.iter().map(|frame| tag(frame.clone())).collect();
                let (received, answers) = ask(&mut port, &mut asker, &mixed, 4, 0);
                assert_eq!(received, ports.clone().map(tag));
                assert_eq!(answers, [] as [String; 0]);
            }
        }
        // The address still counts.
        port.port.control().set_promiscuous(false).unwrap();
        let foreign = MacAddr([2, 9, 9, 9, 9, 9]);
        asker.send([frame(foreign, 1, 60), frame(to, 2, 60)]);
        assert_eq!(port.receive(1), [frame(to, 2, 60)]);
        // A set address, too.
        let new = MacAddr([2, 0, 0, 0, 0, 0x77]);
        port.port.control().set_mac(new).unwrap();
        // The kernel forgets its neighbours with its address.
        neighbours();
        asker.send([frame(to, 3, 60), frame(new, 4, 60), syn(new, 22)]);
        assert_eq!(port.receive(1), [frame(new, 4, 60)]);
        assert_eq!(answered(&mut asker, 1), ["tcp 22"]);
    });
}

#[test]
fn fragments_of_one_datagram_go_one_way() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        addresses();
        let (mut asker, mut port) = (asker(), open("pcap:a0,to_kernel=udp:53,icmp"));
        let to = port.mac();
        let fragment = |protocol: u8, field: u16| {
            let mut frame = syn(to, 53);
            frame[23] = protocol;
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame
        };
        let dns = [fragment(17, 0x2000), fragment(17, 0x2001), fragment(17, 2)];
        let icmp = [fragment(1, 0x2000), fragment(1, 2)];
        asker.send(dns.iter().chain(&icmp).cloned());
        assert_eq!(port.receive(3), dns);
    });
}

/// A program that does nothing but say this, at the ingress, in front of all that are there.
fn program(verdict: i32) -> Link {
    let mut a = Assembler::new();
    a.exit(verdict);
    let program = Program::load(Kind::Tc, "anyport_test", &a.finish().unwrap()).unwrap();
    program.attach_tcx_first(index("a0")).unwrap()
}

#[test]
fn programs_of_others_are_neither_in_the_way_nor_disturbed() {
    const PASS: i32 = 0;
    const DROP: i32 = 2;
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        addresses();
        let mut asker = asker();
        // One that ends with "pass" for everything: behind ours it does not undo what ours says.
        let passing = program(PASS);
        let mut port = open("pcap:a0,to_kernel=arp");
        let to = port.mac();
        let questions = [arp(), syn(to, 22)];
        let (received, answers) = ask(&mut port, &mut asker, &questions, 1, 1);
        assert_eq!((received, answers), (vec![syn(to, 22)], vec!["arp".to_owned()]));
        drop(port);
        passing.detach();
        // One that drops everything: it goes on deciding about what stays with the kernel.
        let dropping = program(DROP);
        let mut port = open("pcap:a0,to_kernel=arp");
        let (received, answers) = ask(&mut port, &mut asker, &questions, 1, 0);
        assert_eq!((received, answers), (vec![syn(to, 22)], vec![]));
        // And it is still there when the port is not.
        drop(port);
        asker.send(questions.clone());
        assert_eq!(answered(&mut asker, 0), [] as [String; 0]);
        dropping.detach();
        asker.send(questions);
        assert_eq!(answered(&mut asker, 2), ["arp", "tcp 22"]);
    });
}

#[test]
fn words_are_checked_before_anything_is_changed() {
    in_namespace(|| {
        let error = registry().open("pcap:a0,to_kernel=arp,ssh,mac=02:00:00:00:00:77").unwrap_err();
        assert!(
            matches!(&error, Error::InvalidValue { key, value, .. } if key == "to_kernel" && value == "ssh")
        );
        assert!(error.to_string().contains("accepted are arp, ip, "), "{error}");
        assert_ne!(Interface::open("a0").unwrap().mac().unwrap().to_string(), "02:00:00:00:00:77");
    });
}

#[test]
fn what_the_host_needs_is_not_taken_by_accident() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        addresses();
        ip("route add default via 192.0.2.2");
        let error = registry().open("pcap:a0").unwrap_err();
        let Error::NeedsTakeover { device, carries, .. } = &error else { panic!("{error:?}") };
        assert_eq!((device.as_str(), carries.as_str()), ("pcap:a0", "the host's default route"));
        let text = error.to_string();
        assert!(text.contains("takeover=true") && text.contains("shared=true"), "{text}");
        // Nothing of it was taken: the stack answers, nobody holds it.
        let mut asker = asker();
        asker.send([arp()]);
        assert_eq!(answered(&mut asker, 1), ["arp"]);
        for spec in ["pcap:a0,shared=true", "pcap:a0,takeover=true"] {
            let (port, said) = warnings(|| open(spec));
            assert_eq!(port.port.capability().exclusive, spec.contains("takeover"));
            assert_eq!(said, [] as [String; 0]);
        }
        // The other one is free to be taken.
        drop(asker);
        open("pcap:a1");
    });
}

#[test]
fn segments_are_not_put_together_while_a_port_has_the_interface() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let merging = || {
            let [gro] = Interface::open("a0").unwrap().features(["rx-gro"]).unwrap();
            gro.unwrap().active
        };
        anyport_netdev::testing::run("ethtool", "-K a0 gro on");
        assert!(links::link(index("a0")).unwrap().is_ethernet() && merging());
        for (spec, during) in [("pcap:a0", false), ("pcap:a0,shared=true", true)] {
            let (port, said) = logged(tracing::Level::INFO, || {
                let mut port = open(spec);
                assert_eq!(merging(), during, "{spec}");
                port.port.stop().unwrap();
                assert!(merging(), "{spec}");
                (port.rx, port.tx) = port.port.start().unwrap().into_pair();
                assert_eq!(merging(), during, "{spec}");
                port
            });
            // Once, however often it is started.
            let said: Vec<_> = said.iter().filter(|line| line.contains("switched off")).collect();
            assert_eq!(said.len(), usize::from(!during), "{said:?}");
            assert!(said.iter().all(|line| line.contains("pcap:a0") && line.contains("rx-gro")));
            drop(port);
            assert!(merging(), "{spec}");
        }
        // Opening alone changes nothing.
        let port = registry().open("pcap:a0").unwrap();
        assert!(merging());
        drop(port);
    });
}
