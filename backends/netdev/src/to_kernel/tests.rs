//! The programs against a plain model of the same rules, run by the kernel on frames of every shape.

use proptest::prelude::*;

use super::*;
use crate::bpf::{Kind, Program};
use crate::testing::may_load_programs;

const NEXT: u32 = -1i32 as u32;
const DROP: u32 = 2;
/// The kernel tests programs on no less than a header and a byte, ...
const LEAST: usize = 15;

/// ... and on no IP header that is cut short, unless a tag hides it.
fn tagged(frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, [0x81, 0, 0x20, 5]);
    tagged
}

fn can_be_run(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => LEAST,
    };
    frame.len() >= least
}

fn words(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A program, where one may be loaded.
fn program(text: &str) -> Option<Program> {
    let code = ToKernel::parse("test", &words(text)).unwrap().tcx_program().unwrap();
    may_load_programs().then(|| match Program::load(Kind::Tc, "anyport_test", &code) {
        Ok(program) => program,
        Err(error) => panic!("{text}: {error}"),
    })
}

/// Whether the rules give the frame to the kernel, told the slow way.
fn model(text: &str, frame: &[u8]) -> bool {
    let words = words(text);
    let named = |word: &str| words.iter().any(|named| named == word);
    let half = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut at = 12;
    let mut tags = 0;
    let ethertype = loop {
        match half(at) {
            None => return false,
            Some(0x8100 | 0x88a8) if tags < 2 => (at, tags) = (at + 4, tags + 1),
            Some(ethertype) => break ethertype,
        }
    };
    at += 2;
    let name = match ethertype {
        0x0806 => "arp",
        0x0800 => "ip",
        0x86dd => "ip6",
        0x88cc => "lldp",
        _ => "",
    };
    if named(name) || named(&format!("ether:{ethertype:#06x}")) {
        return true;
    }
    let (protocol, fragment, version) = match ethertype {
        0x0800 => {
            let Some(header) = frame.get(at..at + 10) else { return false };
            let words = header[0] & 15;
            if header[0] >> 4 != 4 || words < 5 {
                return false;
            }
            at += words as usize * 4;
            (header[9], u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0, 4)
        }
        0x86dd => {
            let Some(header) = frame.get(at..at + 7) else { return false };
            if header[0] >> 4 != 6 {
                return false;
            }
            let (mut next, mut fragment) = (header[6], false);
            at += 40;
            for _ in 0..8 {
                let length = |shift: usize| {
                    frame.get(at + 1).map(|length| 8usize + (usize::from(*length) << shift))
                };
                let skip = match next {
                    0 | 43 | 60 | 135 => length(3),
                    51 => length(2),
                    44 => match frame.get(at..at + 4) {
                        Some(header) => {
                            fragment = u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0;
                            Some(8)
                        }
                        None => None,
                    },
                    _ => break,
                };
                let Some(skip) = skip else { return false };
                next = frame[at];
                at += skip;
                if fragment {
                    break;
                }
            }
            (next, fragment, 6)
        }
        _ => return false,
    };
    let name = match (protocol, version) {
        (1, 4) => "icmp",
        (2, 4) => "igmp",
        (58, 6) => "icmp6",
        (6, _) => "tcp",
        (17, _) => "udp",
        (132, _) => "sctp",
        _ => "",
    };
    if named(name) || named(&format!("proto:{protocol}")) {
        return true;
    }
    if fragment || !["tcp", "udp", "sctp"].contains(&name) {
        return false;
    }
    let (Some(source), Some(destination)) = (half(at), half(at + 2)) else { return false };
    named(&format!("{name}:{source}")) || named(&format!("{name}:{destination}"))
}

/// A frame from its parts: EtherTypes of tags and of the payload, and the payload.
fn frame(types: &[u16], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (index, number) in types.iter().enumerate() {
        if index > 0 {
            frame.extend([0x20, 5]);
        }
        frame.extend(number.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

fn ipv4(protocol: u8, fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45 + options as u8, 0, 0, 0, 0, 1];
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    header.resize(20 + 4 * options, 1);
    header.extend(payload);
    header
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    header.extend([0x20; 32]);
    header.extend(payload);
    header
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.resize(20, 0);
    bytes
}

#[test]
fn what_is_named_stays_with_the_kernel_and_the_rest_does_not() {
    let text = "arp,tcp:22,udp:53,icmp,icmp6,proto:112,ether:0x88f7";
    let Some(program) = program(text) else { return };
    let fragment = |next, offset: u16| {
        let [o0, o1] = offset.to_be_bytes();
        let mut header = vec![next, 0, o0, o1, 0, 0, 0, 9];
        header.extend(ports(22, 22));
        ipv6(44, &header)
    };
    let options = {
        // Hop by hop of 8 bytes, destination options of 16, then TCP.
        let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
        chain.extend([6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend(ports(1000, 22));
        chain
    };
    let cases: [(&str, Vec<u8>, bool); 22] = [
        ("ARP", frame(&[0x0806], &[0; 28]), true),
        ("ARP behind a tag", frame(&[0x8100, 0x0806], &[0; 28]), true),
        ("ARP behind two", frame(&[0x88a8, 0x8100, 0x0806], &[0; 28]), true),
        ("ARP behind three", frame(&[0x8100, 0x8100, 0x8100, 0x0806], &[0; 28]), false),
        ("PTP", frame(&[0x88f7], &[0; 46]), true),
        ("LLDP", frame(&[0x88cc], &[0; 46]), false),
        ("SSH in", frame(&[0x0800], &ipv4(6, 0, 0, &ports(40000, 22))), true),
        ("SSH out", frame(&[0x0800], &ipv4(6, 0, 0, &ports(22, 40000))), true),
        ("HTTP", frame(&[0x0800], &ipv4(6, 0, 0, &ports(40000, 80))), false),
        ("UDP 22", frame(&[0x0800], &ipv4(17, 0, 0, &ports(40000, 22))), false),
        ("SSH with IP options", frame(&[0x0800], &ipv4(6, 0, 10, &ports(1, 22))), true),
        ("do not fragment", frame(&[0x0800], &ipv4(6, 0x4000, 0, &ports(1, 22))), true),
        ("a first fragment", frame(&[0x0800], &ipv4(17, 0x2000, 0, &ports(53, 53))), false),
        ("a later fragment", frame(&[0x0800], &ipv4(17, 185, 0, &ports(53, 53))), false),
        ("a fragment of ICMP", frame(&[0x0800], &ipv4(1, 185, 0, &[0; 8])), true),
        ("a port cut short", frame(&[0x0800], &ipv4(6, 0, 0, &[0, 22, 0])), false),
        ("VRRP", frame(&[0x0800], &ipv4(112, 0, 0, &[0; 8])), true),
        ("DNS over IPv6", frame(&[0x86dd], &ipv6(17, &ports(53, 40000))), true),
        ("SSH behind options", frame(&[0x8100, 0x86dd], &ipv6(0, &options)), true),
        ("an atomic fragment", frame(&[0x86dd], &fragment(6, 0)), true),
        ("an IPv6 fragment", frame(&[0x86dd], &fragment(6, 1)), false),
        ("an IPv6 fragment of ICMP", frame(&[0x86dd], &fragment(58, 1480)), true),
    ];
    for (name, frame, kernel) in cases {
        assert_eq!(model(text, &frame), kernel, "the model of {name}");
        let verdict = program.test_run(&frame).unwrap();
        assert_eq!(verdict, if kernel { NEXT } else { DROP }, "{name}");
        // Nothing that is cut short anywhere is told differently, or fails.
        for length in LEAST..frame.len() {
            for frame in [frame[..length].to_vec(), tagged(&frame[..length])] {
                if can_be_run(&frame) {
                    let expected = if model(text, &frame) { NEXT } else { DROP };
                    assert_eq!(
                        program.test_run(&frame).unwrap(),
                        expected,
                        "{name}, {length} bytes"
                    );
                }
            }
        }
    }
}

#[test]
fn nothing_named_means_nothing_for_the_kernel() {
    let Some(program) = program("") else { return };
    for promiscuous in [true, false] {
        let code = ToKernel::default().socket_program(MacAddr([2; 6]), promiscuous, 1518).unwrap();
        Program::load(Kind::SocketFilter, "anyport_test", &code).unwrap();
    }
    assert_eq!(program.test_run(&frame(&[0x0806], &[0; 28])).unwrap(), DROP);
}

#[test]
fn as_many_words_as_are_taken_can_be_loaded() {
    let many: Vec<String> = (0..MOST).map(|n| format!("tcp:{}", 1000 + n)).collect();
    let Some(program) = program(&many.join(",")) else { return };
    let last = frame(&[0x0800], &ipv4(6, 0, 0, &ports(1, 1255)));
    assert_eq!(program.test_run(&last).unwrap(), NEXT);
    let mut more = many;
    more.push("arp".into());
    assert!(ToKernel::parse("pcap:x", &more).unwrap_err().to_string().contains("at most 256"));
}

#[test]
fn words_that_are_not_accepted_say_what_is() {
    for (word, why) in [
        ("ssh", "accepted are arp"),
        ("", "accepted are arp"),
        ("ARP", "accepted are arp"),
        ("tcp:0", "from 1 to 65535"),
        ("udp:65536", "from 1 to 65535"),
        ("tcp:ssh", "from 1 to 65535"),
        ("icmp:8", "accepted are arp"),
        ("proto:256", "from 1 to 255"),
        ("proto:44", "name the protocol"),
        ("ether:88cc", "0x0600"),
        ("ether:0x5ff", "0x0600"),
        ("ether:0x8100", "name what is inside"),
    ] {
        let error = ToKernel::parse("pcap:eth0", &[word.to_owned()]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("pcap:eth0: `to_kernel` cannot be `{word}`: "))
                && error.contains(why)
                && error.contains(ACCEPTED),
            "{error}"
        );
    }
    let twice = ToKernel::parse("x", &words("arp,tcp:22,arp,ether:0x0806")).unwrap();
    assert_eq!(twice.rules.len(), 2);
}

/// Frames that look like something, and then have bytes changed and the end cut off.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let port = || prop_oneof![Just(22), Just(53), any::<u16>()];
    let transport = || {
        (port(), port(), 0usize..24).prop_map(|(source, destination, length)| {
            let mut bytes = ports(source, destination);
            bytes.resize(length, 0);
            bytes
        })
    };
    let protocol =
        || prop_oneof![Just(1u8), Just(2), Just(6), Just(17), Just(58), Just(132), any::<u8>()];
    let four = (protocol(), prop_oneof![3 => Just(0), 1 => any::<u16>()], 0usize..12, transport())
        .prop_map(|(protocol, fragment, options, payload)| {
            (0x0800, ipv4(protocol, fragment, options.saturating_sub(1), &payload))
        });
    let header = || prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), Just(135)];
    let six = (
        proptest::collection::vec((header(), 0u8..3), 0..11),
        protocol(),
        transport(),
        any::<u16>(),
    )
        .prop_map(|(chain, last, payload, offset)| {
            let mut kinds: Vec<u8> = chain.iter().map(|(kind, _)| *kind).collect();
            kinds.push(last);
            let mut body = Vec::new();
            for ((kind, length), next) in chain.iter().zip(&kinds[1..]) {
                let bytes = match kind {
                    44 => 8,
                    51 => 8 + 4 * *length as usize,
                    _ => 8 + 8 * *length as usize,
                };
                let start = body.len();
                body.resize(start + bytes, 0);
                body[start] = *next;
                match kind {
                    44 if offset & 1 == 1 => {
                        body[start + 2..start + 4].copy_from_slice(&offset.to_be_bytes());
                    }
                    44 => {}
                    _ => body[start + 1] = *length,
                }
            }
            body.extend(payload);
            (0x86dd, ipv6(kinds[0], &body))
        });
    let other = prop_oneof![Just(0x0806), Just(0x88cc), Just(0x88f7), any::<u16>()]
        .prop_map(|ethertype| (ethertype, vec![0; 46]));
    let tags = prop_oneof![
        4 => Just(vec![]),
        2 => Just(vec![0x8100]),
        1 => Just(vec![0x88a8, 0x8100]),
        1 => Just(vec![0x8100, 0x8100, 0x8100]),
    ];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (tags, prop_oneof![3 => four, 3 => six, 1 => other], changes, any::<u16>()).prop_map(
        |(mut types, (ethertype, payload), changes, cut)| {
            types.push(ethertype);
            let mut frame = frame(&types, &payload);
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if cut % 4 == 0 {
                frame.truncate(cut as usize % frame.len());
            }
            frame.resize(frame.len().max(LEAST), 0);
            if can_be_run(&frame) { frame } else { tagged(&frame) }
        },
    )
}

/// The same rules in the form for XDP, which sees tags in the frame and nothing of the kernel's.
fn xdp_program(text: &str) -> Program {
    const XDP_DROP: i32 = 1;
    const XDP_PASS: i32 = 2;
    let rules = ToKernel::parse("test", &words(text)).unwrap();
    let mut a = Assembler::new();
    let owners = Owners { kernel: a.label(), port: a.label() };
    a.op_reg(Op::Mov, Reg::R6, Reg::R1);
    rules.classify(&mut a, LoadBytes::Xdp, owners);
    a.place(owners.port).exit(XDP_DROP).place(owners.kernel).exit(XDP_PASS);
    Program::load(Kind::Xdp, "anyport_test", &a.finish().unwrap()).unwrap()
}

#[test]
fn the_kernel_runs_what_the_model_says() {
    for text in
        ["arp,tcp:22,udp:53", "ip6,sctp:22,igmp", "icmp,icmp6,lldp,udp:53,tcp", "proto:132,udp"]
    {
        let Some(program) = program(text) else { return };
        let xdp = xdp_program(text);
        let config =
            ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(frame in frames())| {
            let kernel = model(text, &frame);
            prop_assert_eq!(program.test_run(&frame).unwrap(), if kernel { NEXT } else { DROP });
            prop_assert_eq!(xdp.test_run(&frame).unwrap(), if kernel { 2 } else { 1 });
        });
    }
}
