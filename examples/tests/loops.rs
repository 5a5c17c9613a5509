//! The programs' own functions, over in-process cables: no privilege is needed. The other end of each cable is in the
//! test's hands, and counts.

mod common;

#[allow(dead_code)]
#[path = "../src/bin/async.rs"]
mod async_program;
#[allow(dead_code)]
#[path = "../src/bin/epoll.rs"]
mod epoll;
#[allow(dead_code)]
#[path = "../src/bin/forward.rs"]
mod forward;
#[allow(dead_code)]
#[path = "../src/bin/multiqueue.rs"]
mod multiqueue;
#[allow(dead_code)]
#[path = "../src/bin/ping.rs"]
mod ping;

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyport::{MacAddr, Pool};
use anyport_loopback::Cable;
use common::{End, PATIENCE, Program, frame, swapped};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, SlicedPacket};

#[test]
fn forward_passes_every_frame_in_order_both_ways() {
    let registry = anyport_backends::registry();
    let (mut a, mut b) = (End::open(&registry, "loop:fa.0"), End::open(&registry, "loop:fb.0"));
    let pool = Pool::builder().frames(4096).build().unwrap();
    // The one side takes longer frames than the other.
    let mut left = forward::open(&registry, "loop:fa.1,max_frame=1600", &pool).unwrap();
    let mut right = forward::open(&registry, "loop:fb.1", &pool).unwrap();
    a.port.stop().unwrap();
    let mut config = a.port.config();
    config.max_frame = Some(1600);
    a.port.configure(config).unwrap();
    (a.rx, a.tx) = a.port.start().unwrap().into_pair();

    let ends = [left.start().unwrap().into_pair(), right.start().unwrap().into_pair()];
    let waker = ends[1].0.waker();
    let bridge = std::thread::spawn(move || forward::forward(ends));
    // To the other end's address, which is foreign to the bridge: it is promiscuous.
    let (to_a, to_b) = (a.mac(), b.mac());
    let frames: Vec<_> = (0..2000).map(|n| frame(to_b, n, 60 + n as usize % 1400)).collect();
    for batch in frames.chunks(256) {
        a.send(batch);
        assert_eq!(b.receive(batch.len()), batch);
    }
    let back: Vec<_> = (0..500).map(|n| frame(to_a, n, 1514)).collect();
    for batch in back.chunks(256) {
        b.send(batch);
        assert_eq!(a.receive(batch.len()), batch);
    }
    // Too long for the other side: it goes no further, and holds nothing up.
    let mixed =
        [frame(to_b, 1, 1514), frame(to_b, 2, 1515), frame(to_b, 3, 1600), frame(to_b, 4, 60)];
    a.send(&mixed);
    assert_eq!(b.receive(2), [mixed[0].clone(), mixed[3].clone()]);
    waker.wake();
    assert_eq!(bridge.join().unwrap().unwrap(), [2002, 500]);
    assert_eq!((a.leftover(), b.leftover()), (0, 0));
    let (left, right) = (left.stats().read().port, right.stats().read().port);
    assert_eq!((left.rx_packets, left.tx_packets), (Some(2004), Some(500)));
    assert_eq!(
        (right.rx_packets, right.tx_packets, right.tx_copied),
        (Some(500), Some(2002), Some(0))
    );
}

#[test]
fn forward_keeps_what_a_full_queue_does_not_take() {
    let registry = anyport_backends::registry();
    let (mut a, mut b) = (End::open(&registry, "loop:ka.0"), End::open(&registry, "loop:kb.0"));
    let pool = Pool::builder().frames(4096).build().unwrap();
    let mut left = forward::open(&registry, "loop:ka.1", &pool).unwrap();
    let mut right = forward::open(&registry, "loop:kb.1,tx_ring=16", &pool).unwrap();
    let ends = [left.start().unwrap().into_pair(), right.start().unwrap().into_pair()];
    let waker = ends[0].0.waker();
    let cable = Cable::named("kb");
    cable.pause(true);
    let bridge = std::thread::spawn(move || forward::forward(ends));
    let frames: Vec<_> = (0..500).map(|n| frame(b.mac(), n, 60)).collect();
    a.send(&frames);
    // 16 are in the ring; the others wait in the burst and in the receive ring until the cable goes on.
    let stats = right.stats();
    let deadline = std::time::Instant::now() + PATIENCE;
    while stats.read().port.tx_packets != Some(16) {
        assert!(std::time::Instant::now() < deadline, "the ring does not fill");
        std::thread::yield_now();
    }
    cable.pause(false);
    assert_eq!(b.receive(500), frames);
    waker.wake();
    assert_eq!(bridge.join().unwrap().unwrap(), [500, 0]);
}

#[test]
fn forward_ends_with_an_input() {
    let registry = anyport_backends::registry();
    let (mut a, mut b) = (End::open(&registry, "loop:ea.0"), End::open(&registry, "loop:eb.0"));
    let pool = Pool::builder().build().unwrap();
    let mut left = forward::open(&registry, "loop:ea.1", &pool).unwrap();
    let mut right = forward::open(&registry, "loop:eb.1", &pool).unwrap();
    let ends = [left.start().unwrap().into_pair(), right.start().unwrap().into_pair()];
    let frames: Vec<_> = (0..300).map(|n| frame(b.mac(), n, 60)).collect();
    a.send(&frames);
    Cable::named("ea").end_input(1);
    assert_eq!(forward::forward(ends).unwrap(), [300, 0]);
    assert_eq!(b.receive(300), frames);
}

#[test]
fn epoll_counts_beside_timer_and_input() {
    let registry = anyport_backends::registry();
    let mut peer = End::open(&registry, "loop:ep.0");
    let mut port = registry.open_with("loop:ep.1", &Pool::builder().build().unwrap()).unwrap();
    let (rx, _tx) = port.start().unwrap().into_pair();
    let (input, mut commands) = std::io::pipe().unwrap();
    let (said, hear) = channel();
    let report = move |totals| _ = said.send(totals);
    let counter =
        std::thread::spawn(move || epoll::count(rx, input, Duration::from_millis(2), report));
    let expect = |frames, bytes| {
        let wanted = epoll::Totals { frames, bytes };
        let deadline = std::time::Instant::now() + PATIENCE;
        while hear.recv_timeout(PATIENCE).unwrap() != wanted {
            assert!(std::time::Instant::now() < deadline, "never {wanted:?}");
        }
    };
    expect(0, 0);
    for round in 1..=20 {
        peer.send(&(0..50).map(|n| frame(MacAddr::BROADCAST, n, 100)).collect::<Vec<_>>());
        expect(round * 50, round * 5000);
        commands.write_all(b"anything but the end\n").unwrap();
    }
    drop(commands);
    let totals = counter.join().unwrap().unwrap();
    assert_eq!(totals, epoll::Totals { frames: 1000, bytes: 100_000 });
}

#[test]
fn async_tasks_share_a_thread() {
    let registry = anyport_backends::registry();
    let mut peers = ["loop:as.0", "loop:at.0"].map(|spec| End::open(&registry, spec));
    let pool = Pool::builder().build().unwrap();
    let mut ports = ["loop:as.1", "loop:at.1"].map(|spec| registry.open_with(spec, &pool).unwrap());
    let queues = ports.each_mut().map(|port| port.start().unwrap().into_pair());
    let runtime = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let tasks = queues.map(|(rx, tx)| tokio::spawn(async_program::reflect(rx, tx)));
            let mut totals = Vec::new();
            for task in tasks {
                totals.push(task.await.unwrap().unwrap());
            }
            totals
        })
    });
    // One at a time, so that the task sleeps before each; then in batches, both ports at once.
    for peer in &mut peers {
        let frames: Vec<_> = (0..200).map(|n| frame(MacAddr::BROADCAST, n, 60)).collect();
        let wanted: Vec<_> = frames.iter().cloned().map(swapped).collect();
        let (to_us, from_us) = (peer.mac(), wanted[0][..6].to_vec());
        assert_ne!(to_us.0.to_vec(), from_us, "what comes back is for a foreign address");
        peer.port.control().set_promiscuous(true).unwrap();
        assert_eq!(peer.exchange(&frames, 1), wanted);
    }
    let frames: Vec<_> = (0..512).map(|n| frame(MacAddr::BROADCAST, n, 60)).collect();
    let wanted: Vec<_> = frames.iter().cloned().map(swapped).collect();
    peers.iter_mut().for_each(|peer| peer.send(&frames));
    assert_eq!(peers.each_mut().map(|peer| peer.receive(512)), [wanted.clone(), wanted]);
    ports.iter_mut().for_each(|port| port.stop().unwrap());
    assert_eq!(runtime.join().unwrap(), [712, 712]);
}

#[test]
fn multiqueue_uses_every_queue_and_loses_nothing() {
    let registry = anyport_backends::registry();
    let mut peer = End::open(&registry, "loop:mq.0,promiscuous=true");
    let pool = Pool::builder().frames(4096).build().unwrap();
    let mut port = registry.open_with("loop:mq.1,queues=4,promiscuous=true", &pool).unwrap();
    let stats = port.stats();
    let workers = multiqueue::spawn_workers(port.start().unwrap()).unwrap();
    let flow = |n: u32| {
        let [_, _, high, low] = n.to_be_bytes();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8])
            .ipv4([10, 0, high, low], [10, 1, 0, 1], 64)
            .udp(5000 + n as u16, 7);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &n.to_be_bytes()).unwrap();
        bytes.resize(60, 0);
        bytes
    };
    let frames: Vec<_> = (0..1000).map(flow).collect();
    let mut back = peer.exchange(&frames, 128);
    // Queues keep the order of a flow, not among one another.
    let mut wanted: Vec<_> = frames.into_iter().map(swapped).collect();
    back.sort();
    wanted.sort();
    assert_eq!(back, wanted);
    let counted = stats.read();
    let queues: Vec<u64> =
        counted.rx_queues.iter().map(|queue| queue.rx_packets.unwrap()).collect();
    assert_eq!((queues.len(), queues.iter().sum::<u64>()), (4, 1000));
    assert!(queues.iter().all(|&count| count > 0), "1,000 flows over 4 queues: {queues:?}");
    assert_eq!(multiqueue::line(&stats), format!("received 1000, by queue {queues:?}, dropped 0"));
    port.stop().unwrap();
    let totals: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    assert_eq!(totals, queues);
}

#[test]
fn ping_answers_requests_to_itself_and_nothing_else() {
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const PEER: [u8; 4] = [10, 0, 0, 1];
    let registry = anyport_backends::registry();
    let mut peer = End::open(&registry, "loop:pi.0");
    let mut port = ping::open(&registry, "loop:pi.1", &Pool::builder().build().unwrap()).unwrap();
    let (mac, from) = (port.control().mac().unwrap(), peer.mac().0);
    let (rx, tx) = port.start().unwrap().into_pair();
    let waker = rx.waker();
    let responder = std::thread::spawn(move || ping::respond(rx, tx, mac, OWN));

    let arp = |target: [u8; 4], operation| {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &from,
            &PEER,
            &[0; 6],
            &target,
        );
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2(from, [0xff; 6]).arp(packet.unwrap());
        builder.write(&mut bytes).unwrap();
        bytes
    };
    let echo = |to: [u8; 4], sequence, payload: &[u8]| {
        let builder = PacketBuilder::ethernet2(from, mac.0).ipv4(PEER, to, 3);
        let mut bytes = Vec::new();
        builder.icmpv4_echo_request(77, sequence).write(&mut bytes, payload).unwrap();
        bytes
    };
    let mut broken = echo(OWN.octets(), 1, b"broken");
    *broken.last_mut().unwrap() ^= 1;
    let mut tagged = echo(OWN.octets(), 1, b"tagged");
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    peer.send(&[
        arp([10, 0, 0, 3], ArpOperation::REQUEST),
        arp(OWN.octets(), ArpOperation::REPLY),
        arp(OWN.octets(), ArpOperation::REQUEST),
        broken,
        tagged,
        echo([10, 0, 0, 3], 1, b"to another"),
        frame(mac, 1, 60),
        echo(OWN.octets(), 1, b""),
        echo(OWN.octets(), 2, &[0x5a; 1471]),
        echo(OWN.octets(), 3, &[0xa5; 1472]),
    ]);
    let answers = peer.receive(4);
    assert_eq!(answers.len(), 4);
    let reply = SlicedPacket::from_ethernet(&answers[0]).unwrap();
    let Some(etherparse::NetSlice::Arp(arp)) = reply.net else { panic!("{reply:?}") };
    let arp = arp.to_packet().try_eth_ipv4().unwrap();
    assert_eq!((arp.operation, arp.sender_mac, arp.target_mac), (ArpOperation::REPLY, mac.0, from));
    assert_eq!((arp.sender_ipv4, arp.target_ipv4), (OWN.octets(), PEER));
    for (answer, (sequence, length)) in answers[1..].iter().zip([(1, 0), (2, 1471), (3, 1472)]) {
        assert_eq!((&answer[..6], &answer[6..12]), (&from[..], &mac.0[..]));
        let reply = SlicedPacket::from_ethernet(answer).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = reply.net else { panic!("{answer:?}") };
        let header = ip.header().to_header();
        assert_eq!((header.source, header.destination), (OWN.octets(), PEER));
        assert_eq!(
            (header.time_to_live, header.calc_header_checksum()),
            (64, header.header_checksum)
        );
        let Some(etherparse::TransportSlice::Icmpv4(icmp)) = reply.transport else { panic!() };
        let wanted = etherparse::IcmpEchoHeader { id: 77, seq: sequence };
        assert_eq!(icmp.icmp_type(), etherparse::Icmpv4Type::EchoReply(wanted));
        assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
        assert_eq!(icmp.payload().len(), length);
    }
    waker.wake();
    assert_eq!((responder.join().unwrap().unwrap(), peer.leftover()), (4, 0));
}

/// The programs as a user starts them. Both ends of a cable would have to be in one process, so all that they have to
/// do here is to start and to end well.
#[test]
fn programs_start_and_end_well() {
    let program = Program::start(env!("CARGO_BIN_EXE_epoll"), &["loop:a.0"]);
    assert_eq!(program.finish(), (true, "0 frames, 0 bytes\n".into()));

    let mut program = Program::start(env!("CARGO_BIN_EXE_multiqueue"), &["loop:a.0,queues=2"]);
    let line = common::first_line(program.child());
    assert_eq!(line, "received 0, by queue [0, 0], dropped 0");
    program.interrupt();
    assert!(program.finish().0);

    let mut program = Program::start(env!("CARGO_BIN_EXE_ping"), &["loop:a.0", "10.0.0.2"]);
    let line = common::first_line(program.child());
    assert!(line.starts_with("10.0.0.2 is at 02:") && line.ends_with(", on loop:a.0"), "{line}");
    program.interrupt();
    assert_eq!(program.finish(), (true, "0 requests answered\n".into()));
}

#[test]
fn programs_run_on_capture_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (questions, answers) = (path("questions.pcap"), path("answers.pcapng"));
    let registry = anyport_backends::registry();
    let frames: Vec<_> = (0..1000).map(|n| frame(MacAddr::BROADCAST, n, 60 + n as usize)).collect();
    let mut writer = End::open(&registry, &format!("pcap:out={questions}"));
    writer.send(&frames);
    writer.port.close().unwrap();
    let spec = format!("pcap:in={questions},out={answers}");
    let program = Program::start(env!("CARGO_BIN_EXE_hello"), &[&spec]);
    assert_eq!(program.finish(), (true, String::new()));
    let copy = path("copy.pcap");
    let ports = [format!("pcap:in={answers}"), format!("pcap:out={copy}")];
    let program = Program::start(env!("CARGO_BIN_EXE_forward"), &[&ports[0], &ports[1]]);
    let [from, to] = &ports;
    let said = format!("1000 frames from {from} to {to}\n0 frames from {to} to {from}\n");
    assert_eq!(program.finish(), (true, said));
    let mut reader = End::open(&registry, &format!("pcap:in={copy}"));
    assert_eq!(reader.receive(1000), frames.into_iter().map(swapped).collect::<Vec<_>>());
    assert!(reader.rx.recv(&mut anyport::Burst::new()).unwrap_err().is_ended());
}
