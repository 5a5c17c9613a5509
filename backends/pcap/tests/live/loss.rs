//! Nothing is lost without being counted, and nothing is counted that was not lost (contract R7, R8, S1 to S4, T3).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyport::{Burst, Pool, Wake};
use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::Assembler;
use anyport_netdev::bpf::{Kind, Program};
use anyport_netdev::testing::{in_namespace, ip, may_load_programs, privileged, run, try_run};

use crate::common::{End, frame, number, open, open_with, registry, until};

#[test]
fn a_flood_into_a_slow_receiver_is_delivered_or_counted() {
    in_namespace(|| {
        const SENT: u32 = 100_000;
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1,rx_ring=64"));
        let to = b.mac();
        let mut arrived = Vec::new();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                for start in (0..SENT).step_by(1000) {
                    a.send((start..start + 1000).map(|n| frame(to, n, 60 + (n % 1000) as usize)));
                }
            });
            let mut burst = Burst::with_capacity(8);
            // It gives up by itself when it cannot send.
            while !sender.is_finished() {
                b.rx.recv(&mut burst).unwrap();
                arrived.extend(burst.drain().map(|packet| number(packet.data())));
                // Too slow.
                for _ in 0..100 {
                    std::thread::yield_now();
                }
            }
            sender.join().unwrap();
        });
        let rest = b.receive_or_lose(SENT as usize - arrived.len(), 0);
        arrived.extend(rest.iter().map(|frame| number(frame)));
        let counters = b.counters();
        assert!(arrived.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
        let lost = u64::from(SENT) - arrived.len() as u64;
        assert!(lost > 0, "the receiver was too fast for this to show anything");
        assert_eq!((counters.rx_ring_full, counters.rx_dropped()), (Some(lost), lost));
        assert_eq!(counters.rx_packets, Some(arrived.len() as u64));
        assert_eq!(
            (a.counters().tx_packets, a.counters().tx_dropped),
            (Some(u64::from(SENT)), Some(0))
        );
        // It goes on as before.
        let frames: Vec<_> = (0..60).map(|n| frame(to, n, 60)).collect();
        a.send(frames.clone());
        assert_eq!((b.receive(60), b.counters().rx_ring_full), (frames, Some(lost)));
    });
}

#[test]
fn as_many_frames_as_are_configured_fit_the_ring() {
    in_namespace(|| {
        ip("link set a0 mtu 9000");
        for (ring, max) in
            [(16, 1514), (512, 1514), (1001, 1514), (64, 9014), (100, 4014), (257, 300), (16, 82)]
        {
            let mut b = open_with(&format!("pcap:a1,rx_ring={ring},max_frame={max}"), 16384);
            let mut a = open_with("pcap:a0", 16384);
            let to = b.mac();
            // The longest, the shortest, and tagged ones: all of them as the kernel may have to store them.
            for length in [max, 60, max + 4] {
                let frames: Vec<_> = (0..ring)
                    .map(|n| match length > max {
                        true => crate::common::tagged(frame(to, n, length), 0x8100, 5),
                        false => frame(to, n, length),
                    })
                    .collect();
                a.send(frames.clone());
                assert_eq!(b.receive(ring as usize), frames, "{ring} frames of {length} bytes");
                assert_eq!(b.counters().rx_ring_full, Some(0), "{ring} frames of {length} bytes");
            }
            // And beyond: what does not fit is counted.
            a.send((0..3 * ring).map(|n| frame(to, n, 60)));
            let arrived = b.receive_or_lose(3 * ring as usize, 0).len() as u64;
            assert_eq!(b.counters().rx_ring_full, Some(3 * u64::from(ring) - arrived));
        }
    });
}

#[test]
fn counters_go_on_across_stop_and_start() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1,rx_ring=16"));
        let to = b.mac();
        let (mut delivered, mut lost) = (0, 0);
        for round in 1..=5 {
            a.send((0..100).map(|n| frame(to, n, 60)));
            let arrived = b.receive_or_lose(100, lost).len() as u64;
            (delivered, lost) = (delivered + arrived, lost + 100 - arrived);
            let counters = b.counters();
            assert_eq!((counters.rx_packets, counters.rx_ring_full), (Some(delivered), Some(lost)));
            b.port.stop().unwrap();
            // Nobody's: neither delivered nor lost.
            a.send((0..100).map(|n| frame(to, n, 60)));
            let counters = b.counters();
            assert_eq!(
                (counters.rx_packets, counters.rx_ring_full),
                (Some(delivered), Some(lost)),
                "{round}"
            );
            let (rx, tx) = b.port.start().unwrap().into_pair();
            (b.rx, b.tx) = (rx, tx);
        }
        let stats = b.port.stats();
        b.port.close().unwrap();
        assert_eq!(
            (stats.read().port.rx_packets, stats.read().port.rx_ring_full),
            (Some(delivered), Some(lost))
        );
    });
}

#[test]
fn a_start_under_load_delivers_or_counts_from_one_instant_on() {
    in_namespace(|| {
        let mut a = open("pcap:a0");
        let pool = Pool::builder().frames(2048).frame_size(4096).build().unwrap();
        let mut b = registry().open_with("pcap:a1,rx_ring=64", &pool).unwrap();
        let to = b.control().mac().unwrap();
        let (sent, stopping) = (AtomicU32::new(0), AtomicBool::new(false));
        for _ in 0..20 {
            stopping.store(false, Ordering::Release);
            std::thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    let deadline = Instant::now() + Duration::from_secs(60);
                    while !stopping.load(Ordering::Acquire) {
                        assert!(Instant::now() < deadline, "nobody says that it is enough");
                        let start = sent.load(Ordering::Acquire);
                        a.send((start..start + 64).map(|n| frame(to, n, 60)));
                        sent.store(start + 64, Ordering::Release);
                    }
                });
                let before = b.stats().read().port.rx_ring_full.unwrap();
                let stopped_at = sent.load(Ordering::Acquire);
                let (mut rx, _tx) = b.start().unwrap().into_pair();
                // Long enough that the ring has run over.
                let live_at = sent.load(Ordering::Acquire);
                until("the sender goes on", || sent.load(Ordering::Acquire) >= live_at + 2000);
                stopping.store(true, Ordering::Release);
                sender.join().unwrap();
                let last = sent.load(Ordering::Acquire);
                let mut arrived = Vec::new();
                let mut burst = Burst::new();
                let counted = || b.stats().read().port.rx_ring_full.unwrap() - before;
                // All that was sent from the first one on is there, and nothing more.
                until("what was sent arrives or is counted", || {
                    while rx.recv(&mut burst).unwrap() > 0 {
                        arrived.extend(burst.drain().map(|packet| number(packet.data())));
                    }
                    rx.wait(Duration::from_millis(50)).unwrap() == Wake::Timeout
                        && arrived.first().is_some_and(|first| {
                            arrived.len() as u64 + counted() >= u64::from(last - first)
                        })
                });
                let (first, counted) = (arrived[0], counted());
                assert!(first >= stopped_at, "{first} was sent before the start, at {stopped_at}");
                assert_eq!(
                    arrived.len() as u64 + counted,
                    u64::from(last - first),
                    "from frame {first} on"
                );
                drop(rx);
                b.stop().unwrap();
            });
        }
    });
}

#[test]
fn an_empty_pool_drops_and_counts_and_recovers() {
    in_namespace(|| {
        let mut a = open("pcap:a0");
        let pool = Pool::builder().frames(64).frame_size(2048).build().unwrap();
        let mut port = registry().open_with("pcap:a1", &pool).unwrap();
        let (rx, tx) = port.start().unwrap().into_pair();
        let mut b = End { port, rx, tx, pool };
        let to = b.mac();
        let mut held = Burst::with_capacity(64);
        a.send((0..100).map(|n| frame(to, n, 60)));
        until("all that the pool has arrives", || {
            b.rx.recv(&mut held).unwrap();
            held.len() == 64
        });
        // A full burst asks for nothing more; another one finds the pool dry.
        let mut more = Burst::new();
        until("the rest is counted", || {
            assert_eq!(b.rx.recv(&mut more).unwrap(), 0);
            b.counters().rx_no_buffer == Some(36)
        });
        assert_eq!(b.receive(0), [] as [Vec<u8>; 0]);
        let counters = b.counters();
        assert_eq!((counters.rx_no_buffer, counters.rx_dropped()), (Some(36), 36));
        held.clear();
        a.send((0..20).map(|n| frame(to, n, 60)));
        assert_eq!(b.receive(20).len(), 20);
        assert_eq!(b.counters().rx_packets, Some(84));
    });
}

#[test]
fn what_the_queueing_discipline_has_no_room_for_is_not_taken() {
    in_namespace(|| {
        // Some 40 frames fit, and 10 leave in a millisecond: fewer than any machine sends.
        run("tc", "qdisc add dev a0 root tbf rate 5mbit burst 4kb limit 3000");
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1,rx_ring=8192"));
        let to = b.mac();
        let frames: Vec<_> = (0..4000).map(|n| frame(to, n, 60)).collect();
        a.send(frames.clone());
        assert_eq!(b.receive(4000), frames);
        let counters = a.counters();
        assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(4000), Some(240_000)));
        assert_eq!(counters.tx_dropped, Some(0));
        let shown = run("tc", "-s qdisc show dev a0");
        let dropped = shown.split("dropped ").nth(1).unwrap().split(',').next().unwrap();
        assert_ne!(dropped, "0", "it had room for all: {shown}");
    });
}

#[test]
fn a_queue_that_passes_a_frame_now_and_then_is_full_and_drops_nothing() {
    in_namespace(|| {
        // Some 26 frames leave at once, 10 stand, and four leave in a second.
        let shaper = "qdisc add dev a0 root tbf rate 2kbit burst 1600 limit 600";
        let there = try_run("tc", shaper).status.success();
        if !privileged(there, "a kernel with the token bucket filter") {
            return;
        }
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let to = b.mac();
        let frames: Vec<_> = (0..42).map(|n| frame(to, n, 60)).collect();
        a.send(frames.clone());
        run("tc", &shaper.replace("add", "change").replace("2kbit", "1gbit"));
        assert_eq!(b.receive(42), frames);
        let counters = a.counters();
        assert_eq!((counters.tx_packets, counters.tx_dropped), (Some(42), Some(0)));
    });
}

#[test]
fn what_a_program_refuses_does_not_wait_for_others_in_the_queue() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let there = try_run("tc", "qdisc add dev a0 root tbf rate 8bit burst 1600 limit 600");
        if !privileged(there.status.success(), "a kernel with the token bucket filter") {
            return;
        }
        let (mut a, b) = (open("pcap:a0"), open("pcap:a1"));
        let to = b.mac();
        // Frames that stand there for an hour.
        a.send((0..30).map(|n| frame(to, n, 60)));
        let mut code = Assembler::new();
        code.exit(2);
        let program = Program::load(Kind::Tc, "anyport_test", &code.finish().unwrap()).unwrap();
        let refusing = program.attach_tcx_egress(Interface::open("a0").unwrap().index()).unwrap();
        a.send((0..3).map(|n| frame(to, n, 60)));
        let counters = a.counters();
        assert_eq!((counters.tx_packets, counters.tx_dropped), (Some(30), Some(3)));
        refusing.detach();
    });
}

#[test]
fn a_frame_that_never_passes_does_not_stop_the_others() {
    in_namespace(|| {
        // The other end of the link takes no more than 1,500 bytes: the kernel drops longer ones on the way.
        let (mut a, mut b) = (open("pcap:a0,max_frame=4014"), open("pcap:a1"));
        let to = b.mac();
        let mixed = (0..300).map(|n| frame(to, n, if n % 3 == 1 { 4000 } else { 1514 }));
        a.send(mixed);
        let expected: Vec<_> =
            (0..300).filter(|n| n % 3 != 1).map(|n| frame(to, n, 1514)).collect();
        assert_eq!(b.receive(200), expected);
        let counters = a.counters();
        assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(200), Some(200 * 1514)));
        assert_eq!((counters.tx_dropped, counters.tx_dropped_bytes), (Some(100), Some(400_000)));
        assert_eq!((b.counters().rx_packets, b.counters().rx_dropped()), (Some(200), 0));
        a.port.stop().unwrap();
        assert_eq!(a.pool.free(), a.pool.capacity(), "all came home");
    });
}

#[test]
fn the_kernels_own_count_agrees() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1,rx_ring=4096"));
        let (to_a, to_b) = (a.mac(), b.mac());
        a.send((0..3000).map(|n| frame(to_b, n, 60 + n as usize % 1455)));
        assert_eq!(b.receive(3000).len(), 3000);
        b.send((0..500).map(|n| frame(to_a, n, 20)));
        assert_eq!(a.receive(500).len(), 500);
        let kernel = |name: &str, direction: &str| {
            let json = run("ip", &format!("-j -s link show {name}"));
            let stats: serde_json::Value = serde_json::from_str(&json).unwrap();
            let of = |what| stats[0]["stats64"][direction][what].as_u64();
            (of("packets"), of("bytes"))
        };
        let (a_now, b_now) = (a.counters(), b.counters());
        assert_eq!((a_now.tx_packets, a_now.tx_bytes), kernel("a0", "tx"));
        assert_eq!((b_now.rx_packets, b_now.rx_bytes), kernel("a1", "rx"));
        assert_eq!((b_now.tx_packets, b_now.tx_bytes), kernel("a1", "tx"));
        assert_eq!((a_now.rx_packets, a_now.rx_bytes), kernel("a0", "rx"));
        assert_eq!(b_now.tx_bytes, Some(500 * 60), "padding counts");
    });
}
