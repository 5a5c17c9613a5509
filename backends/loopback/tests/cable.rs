//! The cable as an application uses it: exact counts at the far end.

use std::collections::HashSet;
use std::time::Duration;

use anyport::{Burst, Error, Packet, Pool, Port, Registry, RxQueue, TxQueue, Wake};
use anyport_loopback::{Cable, Faults};

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_loopback::Loopback::default()).unwrap();
    registry
}

struct End {
    port: Port,
    rx: Vec<RxQueue>,
    tx: Vec<TxQueue>,
    pool: Pool,
}

/// Opens an end with a pool of its own, promiscuous unless the keys say otherwise.
fn open(spec: &str) -> End {
    open_over(spec, &Pool::builder().frames(2048).build().unwrap())
}

fn open_over(spec: &str, pool: &Pool) -> End {
    let mut port = registry().open_with(&format!("{spec},promiscuous=true"), pool).unwrap();
    let queues = port.start().unwrap();
    End { port, rx: queues.rx, tx: queues.tx, pool: pool.clone() }
}

fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.resize(length, number as u8);
    frame
}

fn number(packet: &Packet) -> u32 {
    u32::from_be_bytes(packet.data()[14..18].try_into().unwrap())
}

impl End {
    fn send(&mut self, numbers: std::ops::Range<u32>, length: usize) -> usize {
        let mut sent = 0;
        for number in numbers {
            let mut burst = Burst::with_capacity(1);
            burst.push(self.pool.packet(&frame(number, length)).unwrap()).unwrap();
            sent += self.tx[0].send(&mut burst).unwrap();
        }
        sent
    }

    fn receive(&mut self) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut burst = Burst::with_capacity(7);
        while self.rx[0].recv(&mut burst).unwrap() > 0 {
            numbers.extend(burst.drain().map(|packet| number(&packet)));
        }
        numbers
    }
}

#[test]
fn pools_of_their_own_are_copied_between_and_common_ones_passed_on() {
    let (mut a, mut b) = (open("loop:copy.0"), open("loop:copy.1"));
    assert_eq!(a.send(0..100, 60), 100);
    assert_eq!((a.pool.free(), b.pool.free()), (2048, 1948));
    assert_eq!(b.receive(), (0..100).collect::<Vec<_>>());
    assert_eq!((b.pool.free(), a.receive().len()), (2048, 0));
    let pool = Pool::builder().frames(64).build().unwrap();
    let (mut a, mut b) = (open_over("loop:pass.0", &pool), open_over("loop:pass.1", &pool));
    let packet = pool.packet(&frame(1, 60)).unwrap();
    let address = packet.data().as_ptr();
    assert!(a.tx[0].send_one(packet).unwrap().is_none());
    let mut burst = Burst::new();
    assert_eq!(b.rx[0].recv(&mut burst).unwrap(), 1);
    assert_eq!(burst[0].data().as_ptr(), address, "the very frame");
}

#[test]
fn a_full_ring_and_a_dry_pool_are_counted_where_they_happen() {
    let (mut a, mut b) = (open("loop:full.0"), open("loop:full.1,rx_ring=50"));
    assert_eq!(a.send(0..80, 60), 80);
    assert_eq!(b.receive(), (0..50).collect::<Vec<_>>());
    let counters = b.port.stats().read().port;
    assert_eq!((counters.rx_packets, counters.rx_ring_full), (Some(50), Some(30)));
    assert_eq!(a.port.stats().read().port.tx_packets, Some(80));
    let held: Vec<Packet> = std::iter::from_fn(|| b.pool.take()).collect();
    assert_eq!(a.send(0..10, 60), 10);
    // What the ring's own cache still has is delivered.
    let got = b.receive().len() as u64;
    assert_eq!(b.port.stats().read().port.rx_no_buffer, Some(10 - got));
    drop(held);
    a.send(5..6, 60);
    assert_eq!(b.receive(), [5]);
}

#[test]
fn a_pause_fills_the_transmit_ring_and_empties_it_in_order() {
    let cable = Cable::named("pause");
    let (mut a, mut b) = (open("loop:pause.0,tx_ring=20"), open("loop:pause.1"));
    cable.pause(true);
    assert_eq!(a.send(0..30, 60), 20);
    assert_eq!(a.tx[0].flush(Duration::from_millis(1)).unwrap(), 20);
    assert_eq!(b.receive(), [0u32; 0]);
    cable.pause(false);
    assert_eq!(b.receive(), (0..20).collect::<Vec<_>>());
    assert_eq!((a.tx[0].flush(Duration::ZERO).unwrap(), a.send(20..25, 60)), (0, 5));
    assert_eq!(b.receive(), (20..25).collect::<Vec<_>>());
    cable.pause(true);
    assert_eq!(a.send(0..3, 100), 3);
    a.port.stop().unwrap();
    let counters = a.port.stats().read().port;
    assert_eq!((counters.tx_dropped, counters.tx_dropped_bytes), (Some(3), Some(300)));
    assert_eq!((counters.tx_packets, a.pool.free()), (Some(25), 2048));
}

#[test]
fn a_pulled_cable_keeps_what_waits_in_a_ring() {
    let cable = Cable::named("pulled");
    let (mut a, mut b) = (open("loop:pulled.0"), open("loop:pulled.1"));
    cable.pause(true);
    assert_eq!(a.send(0..3, 60), 3);
    cable.set_link(false);
    cable.pause(false);
    assert_eq!(b.receive(), [0u32; 0], "it went through a cable that is not there");
    assert_eq!(a.tx[0].flush(Duration::ZERO).unwrap(), 3);
    cable.pause(true);
    cable.set_link(true);
    assert_eq!(b.receive(), [0u32; 0], "it is still paused");
    cable.pause(false);
    assert_eq!((b.receive(), a.tx[0].flush(Duration::ZERO).unwrap()), (vec![0, 1, 2], 0));
}

#[test]
fn faults_hit_exactly_the_nth() {
    let (mut a, mut b) = (open("loop:faults.0"), open("loop:faults.1,drop=10"));
    a.send(1..31, 60);
    let expected: Vec<u32> = (1..31).filter(|n| n % 10 != 0).collect();
    assert_eq!(b.receive(), expected);
    assert_eq!(b.port.stats().read().port.rx_errors, Some(3));
    let cable = Cable::named("faults");
    let mut faults = Faults::default();
    faults.duplicate = 4;
    cable.set_faults(1, faults);
    a.send(1..9, 60);
    assert_eq!(b.receive(), [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]);
    let mut faults = Faults::default();
    faults.delay = 4;
    cable.set_faults(1, faults);
    a.send(1..9, 60);
    assert_eq!(b.receive(), [1, 2, 3, 5, 6, 7, 4, 8]);
    let mut faults = Faults::default();
    faults.corrupt = 2;
    cable.set_faults(1, faults);
    a.send(1..3, 60);
    let mut burst = Burst::new();
    b.rx[0].recv(&mut burst).unwrap();
    assert_eq!((burst[0].data(), burst[1].data()[59]), (&frame(1, 60)[..], 2 ^ 1));
}

/// A UDP frame of a flow.
fn flow_frame(flow: u16, number: u32) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0]);
    frame.extend(flow.to_be_bytes());
    frame.extend([0x10, 0, 0x20, 0, 0, 26, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

#[test]
fn flows_keep_to_their_queue_and_all_queues_are_used() {
    let (mut a, mut b) = (open("loop:rss.0"), open("loop:rss.1,rx_queues=4"));
    let mut queue_of = vec![None; 250];
    let mut burst = Burst::new();
    for round in 0..4 {
        for number in 0..250u16 {
            burst.push(a.pool.packet(&flow_frame(number, round)).unwrap()).unwrap();
            assert_eq!(a.tx[0].send(&mut burst).unwrap(), 1);
        }
        let mut seen = 0;
        for (index, rx) in b.rx.iter_mut().enumerate() {
            while rx.recv(&mut burst).unwrap() > 0 {
                for packet in burst.drain() {
                    let flow =
                        u16::from_be_bytes(packet.data()[32..34].try_into().unwrap()) as usize;
                    assert_eq!(
                        (packet.queue() as usize, *queue_of[flow].get_or_insert(index)),
                        (index, index)
                    );
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 250);
    }
    assert_eq!(queue_of.into_iter().flatten().collect::<HashSet<_>>().len(), 4);
    let counters = b.port.stats().read();
    let sum: u64 = counters.rx_queues.iter().filter_map(|queue| queue.rx_packets).sum();
    assert_eq!((sum, counters.port.rx_packets), (1000, Some(1000)));
}

#[test]
fn chains_pass_up_to_9600_bytes() {
    let keys = "max_frame=9600,max_segments=6";
    let (mut a, mut b) =
        (open(&format!("loop:jumbo.0,{keys}")), open(&format!("loop:jumbo.1,{keys}")));
    let long: Vec<u8> = (0..9600u32).map(|i| if i < 12 { 2 } else { i as u8 }).collect();
    let mut burst = Burst::new();
    for bytes in [&long[..], &long[..9599], &long[..1800]] {
        burst.push(a.pool.packet(bytes).unwrap()).unwrap();
    }
    assert_eq!(a.tx[0].send(&mut burst).unwrap(), 3);
    assert_eq!(b.rx[0].recv(&mut burst).unwrap(), 3);
    for (packet, length) in burst.drain().zip([9600, 9599, 1800]) {
        let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
        assert_eq!(bytes, &long[..length]);
    }
    assert_eq!((a.pool.free(), b.pool.free()), (2048, 2048));
    burst.push(a.pool.packet(&[2; 9601]).unwrap()).unwrap();
    assert!(matches!(
        a.tx[0].send(&mut burst),
        Err(Error::FrameTooLong { length: 9601, max: 9600 })
    ));
}

#[test]
fn nothing_from_before_a_stop_is_heard_after_the_next_start() {
    let (mut a, mut b) = (open("loop:stop.0"), open("loop:stop.1"));
    a.send(0..10, 60);
    b.port.stop().unwrap();
    assert_eq!(b.pool.free(), 2048);
    a.send(10..20, 60);
    let queues = b.port.start().unwrap();
    (b.rx, b.tx) = (queues.rx, queues.tx);
    a.send(20..23, 60);
    assert_eq!(b.receive(), [20, 21, 22]);
    assert_eq!(a.port.stats().read().port.tx_packets, Some(23));
}

#[test]
fn a_removed_end_is_gone_for_all_its_calls() {
    let cable = Cable::named("gone");
    let mut a = open("loop:gone.0");
    let mut rx = a.rx.remove(0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || rx.wait(Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(20));
        cable.remove(0, true);
        assert!(waiting.join().unwrap().unwrap_err().is_gone());
    });
    let mut burst = Burst::new();
    burst.push(a.pool.packet(&frame(1, 60)).unwrap()).unwrap();
    assert!(a.tx[0].send(&mut burst).unwrap_err().is_gone());
    assert!(a.port.control().link().unwrap_err().is_gone());
    a.port.close().unwrap();
    assert!(registry().open("loop:gone.0").unwrap_err().is_gone());
    cable.remove(0, false);
    open("loop:gone.0");
}

#[test]
fn no_wake_up_is_lost() {
    let (mut a, mut b) = (open("loop:wake.0"), open("loop:wake.1"));
    let rounds = 20_000;
    std::thread::scope(|scope| {
        // Each answers the other: a lost wake-up would stop both.
        scope.spawn(move || {
            for round in 0..rounds {
                assert_eq!(b.rx[0].wait(Duration::from_secs(30)).unwrap(), Wake::Ready);
                assert_eq!(b.receive(), [round]);
                assert_eq!(b.send(round..round + 1, 60), 1);
            }
        });
        for round in 0..rounds {
            assert_eq!(a.send(round..round + 1, 60), 1);
            assert_eq!(a.rx[0].wait(Duration::from_secs(30)).unwrap(), Wake::Ready);
            assert_eq!(a.receive(), [round]);
        }
    });
}

#[test]
fn stop_is_safe_while_both_ends_are_busy() {
    for round in 0..20 {
        let (mut a, mut b) = (open("loop:busy.0"), open("loop:busy.1"));
        let (pool_a, pool_b) = (a.pool.clone(), b.pool.clone());
        let (mut tx, mut rx) = (a.tx.remove(0), b.rx.remove(0));
        let source = pool_a.clone();
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let mut burst = Burst::with_capacity(32);
                loop {
                    while let Some(packet) =
                        (!burst.is_full()).then(|| source.packet(&frame(1, 60))).flatten()
                    {
                        burst.push(packet).unwrap();
                    }
                    if tx.send(&mut burst).is_err() {
                        return;
                    }
                }
            });
            let receiver = scope.spawn(move || {
                let mut burst = Burst::new();
                while rx.recv(&mut burst).is_ok() {
                    burst.clear();
                }
            });
            let stats = b.port.stats();
            for _ in 0..100_000 {
                if stats.read().port.rx_packets > Some(1000) {
                    break;
                }
                std::thread::yield_now();
            }
            if round % 2 == 0 {
                a.port.stop().unwrap();
                b.port.stop().unwrap();
            } else {
                b.port.stop().unwrap();
                a.port.stop().unwrap();
            }
            sender.join().unwrap();
            receiver.join().unwrap();
        });
        let (sent, got) = (a.port.stats().read().port, b.port.stats().read().port);
        let heard = got.rx_packets.unwrap() + got.rx_dropped();
        assert!(heard <= sent.tx_packets.unwrap(), "{got:?} {sent:?}");
        assert!(got.rx_packets > Some(1000), "{got:?}");
        assert_eq!((pool_a.free(), pool_b.free()), (2048, 2048));
    }
}

#[test]
fn names_have_one_form() {
    for bad in ["loop:", "loop:a", "loop:a.2", "loop:.0", "loop:a.00"] {
        let error = registry().open(bad).unwrap_err().to_string();
        assert!(error.contains("NAME.0 and NAME.1"), "{bad}: {error}");
    }
    assert!(
        registry().open("loop:a.b.0,drp=1").unwrap_err().to_string().contains("unknown key `drp`")
    );
}

#[test]
fn an_input_that_ends_says_so_after_its_last_frame() {
    let cable = Cable::named("ends");
    let (mut a, mut b) = (open("loop:ends.0"), open("loop:ends.1"));
    a.send(0..3, 60);
    cable.end_input(1);
    a.send(3..4, 60);
    // One at a time: a full burst leaves frames behind, and they come before the end.
    let mut full = Burst::with_capacity(1);
    assert_eq!(b.rx[0].recv(&mut full).unwrap(), 1);
    assert_eq!(b.rx[0].recv(&mut full).unwrap(), 0);
    let mut burst = Burst::new();
    assert_eq!(b.rx[0].recv(&mut burst).unwrap(), 2);
    assert_eq!(burst.iter().map(number).collect::<Vec<_>>(), [1, 2]);
    assert!(b.rx[0].recv(&mut burst).unwrap_err().is_ended());
    assert_eq!(b.rx[0].wait(Duration::from_secs(5)).unwrap(), Wake::Ended);
    b.port.stop().unwrap();
    b.rx = b.port.start().unwrap().rx;
    a.send(4..5, 60);
    assert_eq!(b.receive(), [4]);
}

#[test]
fn a_full_burst_costs_no_delayed_frame() {
    let (mut a, mut b) = (open("loop:late.0"), open("loop:late.1,delay=1"));
    a.send(0..1, 60);
    let mut full = Burst::with_capacity(1);
    full.push(b.pool.packet(&[0; 60]).unwrap()).unwrap();
    assert_eq!(b.rx[0].recv(&mut full).unwrap(), 0);
    full.clear();
    assert_eq!(b.rx[0].recv(&mut full).unwrap(), 1);
    assert_eq!(number(&full[0]), 0);
}

/// A UDP frame with its checksums left to whoever sends it.
fn unsummed() -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x04, 0, 0x50, 0, 0, 11, 0, 0, b'a', b'b', b'c']);
    frame
}

#[test]
fn the_cables_own_engines_do_what_the_common_layer_does() {
    use anyport::packet::{ChecksumStatus, Checksums, L4Checksum, TxRequests};
    let keys = |how| {
        format!(
            "tx_checksum={how},vlan_insert={how},rx_checksum={how},vlan_strip={how},rss_hash={how}"
        )
    };
    let mut seen = Vec::new();
    for (number, (headroom, engines)) in
        [(256, false), (256, true), (0, true)].into_iter().enumerate()
    {
        let how = if engines { "required" } else { "auto" };
        let pool = Pool::builder().frames(64).headroom(headroom).build().unwrap();
        let open = |end| {
            let device = if engines { ",device_offloads=true" } else { "" };
            open_over(&format!("loop:engines{number}.{end},{}{device}", keys(how)), &pool)
        };
        let (mut a, mut b) = (open(0), open(1));
        let mut packet = pool.packet(&unsummed()).unwrap();
        let checksums = Checksums { ipv4: true, l4: L4Checksum::Udp };
        packet.set_requests(TxRequests { checksums, vlan: Some(0x2005), timestamp: false });
        assert!(a.tx[0].send_one(packet).unwrap().is_none());
        let mut burst = Burst::new();
        assert_eq!(b.rx[0].recv(&mut burst).unwrap(), 1);
        let packet = &burst[0];
        assert_eq!(
            (packet.ip_checksum(), packet.l4_checksum()),
            (ChecksumStatus::Good, ChecksumStatus::Good)
        );
        assert_eq!((packet.vlan(), packet.len()), (Some(0x2005), 56));
        seen.push((packet.data().to_vec(), packet.rss_hash()));
        let (sent, got) = (a.port.stats().read().port, b.port.stats().read().port);
        assert_eq!((sent.tx_bytes, got.rx_bytes), (Some(60), Some(56)), "the tag left the frame");
        burst.clear();
        assert_eq!(pool.free(), 64);
    }
    assert!(seen[0].1.is_some() && seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    let error = registry().open("loop:engines.0,rx_checksum=required").unwrap_err().to_string();
    assert!(error.contains("rx_checksum"), "{error}");
    let error = registry().open("loop:engines.0,device_offloads=perhaps").unwrap_err().to_string();
    assert!(error.contains("device_offloads") && error.contains("perhaps"), "{error}");
}

#[test]
fn an_end_is_taken_for_the_whole_process() {
    let first = registry().open("loop:taken.0").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // In another network namespace the device's lock is another one, the cable is the same. Without the privilege
            // for that it is the lock that says so.
            // SAFETY: plain flags; only this thread moves.
            unsafe { libc::unshare(libc::CLONE_NEWNET) };
            match registry().open("loop:taken.0") {
                Err(Error::Busy { pid, .. }) => assert_eq!(pid, std::process::id()),
                other => panic!("{other:?}"),
            }
        });
    });
    drop(first);
    registry().open("loop:taken.0").unwrap();
}

/// Everything that a pool still has: what a cache holds cannot be taken.
fn all_of(pool: &Pool) -> Vec<Packet> {
    std::iter::from_fn(|| pool.take()).collect()
}

#[test]
fn a_queue_that_is_slept_on_holds_no_frames() {
    // Every frame is lost on the way, after it was copied: nothing wakes the owner.
    let (mut a, mut b) = (open("loop:stranded.0"), open("loop:stranded.1,drop=1"));
    assert_eq!(b.rx[0].arm().unwrap(), anyport::Armed::Armed);
    assert_eq!(a.send(0..3, 60), 3);
    assert_eq!(b.port.stats().read().port.rx_errors, Some(3));
    assert_eq!((b.pool.free(), all_of(&b.pool).len()), (2048, 2048));
}

#[test]
fn a_queue_caches_no_more_than_its_share() {
    // 8 queues of 512 frames: 8 each (contract P1), and only those that receive have any here.
    let pool = Pool::builder().frames(512).build().unwrap();
    let (mut a, mut b) = (open("loop:share.0"), open_over("loop:share.1,queues=4", &pool));
    let mut burst = Burst::new();
    for round in 0..200 {
        // Dry now and then: a starved queue looks into the pool by another cache.
        let held = if round % 10 == 9 { all_of(&pool) } else { Vec::new() };
        for flow in 0..50u16 {
            burst.push(a.pool.packet(&flow_frame(flow, round)).unwrap()).unwrap();
        }
        assert_eq!(a.tx[0].send(&mut burst).unwrap(), 50);
        drop(held);
        for rx in &mut b.rx {
            while rx.recv(&mut burst).unwrap() > 0 {}
            burst.clear();
        }
        let taken = all_of(&pool);
        let cached = pool.free();
        assert!(cached <= 4 * 8, "{cached} of {} frames are in caches", 512 - taken.len());
    }
}

#[test]
fn what_a_sender_cannot_send_is_the_senders_loss() {
    use anyport::packet::TxRequests;
    let cable = Cable::named("tags");
    // Without head room a tag takes another frame.
    let pool = Pool::builder().frames(64).headroom(0).build().unwrap();
    let keys = "device_offloads=true,vlan_insert=required";
    let (mut a, mut b) = (open_over(&format!("loop:tags.0,{keys}"), &pool), open("loop:tags.1"));
    let asking = |length| {
        let mut packet = pool.packet(&frame(7, length)).unwrap();
        packet.set_requests(TxRequests { vlan: Some(5), ..TxRequests::default() });
        packet
    };
    let counted = |a: &End, b: &End| {
        let (sent, got) = (a.port.stats().read().port, b.port.stats().read().port);
        assert_eq!((got.rx_dropped(), got.rx_packets), (0, sent.tx_packets));
        [sent.tx_packets, sent.tx_bytes, sent.tx_dropped, sent.tx_dropped_bytes].map(Option::unwrap)
    };
    let tagged_length = |b: &mut End| {
        let mut burst = Burst::new();
        assert_eq!(b.rx[0].recv(&mut burst).unwrap(), 1);
        assert_eq!(burst[0].data()[12..16], [0x81, 0, 0, 5]);
        burst[0].len()
    };
    // With the pool dry it is as if the queue were full: the packet stays the caller's.
    let packet = asking(100);
    let mut held = all_of(&pool);
    let packet = a.tx[0].send_one(packet).unwrap().expect("there is no frame to send it with");
    assert_eq!((packet.data(), counted(&a, &b)), (&frame(7, 100)[..], [0, 0, 0, 0]));
    held.pop();
    assert!(a.tx[0].send_one(packet).unwrap().is_none());
    assert_eq!((tagged_length(&mut b), counted(&a, &b)), (104, [1, 104, 0, 0]));
    // Accepted into the transmit ring, and then the pool runs dry: lost, and the sender's to count.
    held.clear();
    cable.pause(true);
    for length in [100, 20] {
        assert!(a.tx[0].send_one(asking(length)).unwrap().is_none());
    }
    let mut untagged = Burst::new();
    untagged.push(pool.packet(&frame(8, 70)).unwrap()).unwrap();
    assert_eq!(a.tx[0].send(&mut untagged).unwrap(), 1);
    held = all_of(&pool);
    cable.pause(false);
    // The first gave its frame back, and with that the second went.
    let mut burst = Burst::new();
    assert_eq!(b.rx[0].recv(&mut burst).unwrap(), 2);
    assert_eq!((burst[0].len(), burst[1].len()), (60, 70));
    assert_eq!(counted(&a, &b), [3, 234, 1, 104]);
    // What stop discards counts as it would have been on the wire.
    held.clear();
    cable.pause(true);
    for length in [100, 20] {
        assert!(a.tx[0].send_one(asking(length)).unwrap().is_none());
    }
    a.port.stop().unwrap();
    assert_eq!((counted(&a, &b), pool.free()), ([3, 234, 3, 268], 64));
}
