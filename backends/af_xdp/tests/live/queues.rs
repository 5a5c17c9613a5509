//! Several queues, several ports over one pool (contract Q1, R13, T7).

use std::time::Duration;

use anyport::pool::PoolConfig;
use anyport::{Burst, Pool};
use anyport_netdev::testing::{in_namespace, ip, may_load_programs};

use crate::common::{frame, number, open, registry};

/// A veth pair whose ends have four queues each way.
fn four_queues() {
    ip("link del a0");
    ip(
        "link add a0 numrxqueues 4 numtxqueues 4 type veth peer name a1 numrxqueues 4 numtxqueues 4",
    );
    for name in ["a0", "a1"] {
        ip(&format!("link set {name} addrgenmode none"));
        ip(&format!("link set {name} up"));
    }
}

#[test]
fn each_queue_has_its_own_frames() {
    in_namespace(|| {
        four_queues();
        let pool = Pool::builder().frames(4096).build().unwrap();
        let spec = |name: &str| format!("af_xdp:{name},rx_queues=4,tx_queues=4,rx_ring=256");
        let mut a = registry().open_with(&spec("a0"), &pool).unwrap();
        let mut b = registry().open_with(&spec("a1"), &pool).unwrap();
        let to_b = b.control().mac().unwrap();
        let mut from = a.start().unwrap();
        let mut to = b.start().unwrap();
        // veth: transmit queue n is receive queue n.
        for (queue, tx) in from.tx.iter_mut().enumerate() {
            let mut burst = Burst::new();
            for at in 0..50 {
                let frame = frame(to_b, queue as u32 * 1000 + at, 60);
                burst.push(pool.packet(&frame).unwrap()).unwrap();
                if burst.is_full() || at == 49 {
                    while !burst.is_empty() {
                        tx.send(&mut burst).unwrap();
                    }
                }
            }
        }
        for (queue, rx) in to.rx.iter_mut().enumerate() {
            let mut numbers = Vec::new();
            for _ in 0..100 {
                if numbers.len() == 50 {
                    break;
                }
                rx.wait(Duration::from_millis(200)).unwrap();
                let mut burst = Burst::new();
                rx.recv(&mut burst).unwrap();
                for packet in burst.drain() {
                    assert_eq!(usize::from(packet.queue()), queue);
                    numbers.push(number(packet.data()));
                }
            }
            let first = queue as u32 * 1000;
            assert_eq!(numbers, (first..first + 50).collect::<Vec<_>>(), "queue {queue}");
        }
        let counters = b.stats().read();
        let per_queue: Vec<_> = counters.rx_queues.iter().map(|queue| queue.rx_packets).collect();
        assert_eq!(per_queue, [Some(50); 4]);
        a.close().unwrap();
        b.close().unwrap();
        drop((from, to));
        assert_eq!(pool.free(), pool.capacity());
    });
}

#[test]
fn what_comes_to_a_queue_that_is_not_opened_is_the_hosts() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        four_queues();
        let pool = Pool::builder().frames(4096).build().unwrap();
        let mut a = registry().open_with("af_xdp:a0,tx_queues=4,rx_ring=256", &pool).unwrap();
        let mut b = open("af_xdp:a1,rx_ring=256");
        let mut from = a.start().unwrap();
        ip("address add 10.9.0.1/24 dev a1");
        let host = std::net::UdpSocket::bind("10.9.0.1:7777").unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mac = b.mac();
        let mut send = |queue: usize, text: &[u8; 18]| {
            let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac.0)
                .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
                .udp(7777, 7777);
            let mut frame = Vec::new();
            builder.write(&mut frame, text).unwrap();
            let mut burst = Burst::new();
            burst.push(pool.packet(&frame).unwrap()).unwrap();
            assert_eq!(from.tx[queue].send(&mut burst).unwrap(), 1);
        };
        send(0, b"for the port, here");
        send(1, b"for the host, one ");
        send(3, b"for the host, two ");
        let frames = b.receive(1);
        assert_eq!(frames.len(), 1);
        assert!(frames[0].ends_with(b"for the port, here"));
        let mut bytes = [0; 64];
        for text in [b"for the host, one ", b"for the host, two "] {
            let length = host.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], text);
        }
    });
}

#[test]
fn between_ports_of_one_pool_nothing_is_copied() {
    in_namespace(|| {
        ip("link add b0 type veth peer name b1");
        for name in ["b0", "b1"] {
            ip(&format!("link set {name} addrgenmode none"));
            ip(&format!("link set {name} up"));
        }
        let mut source = open("af_xdp:a0");
        let mut target = open("af_xdp:b1");
        let pool = Pool::builder().frames(4096).build().unwrap();
        let mut one = registry().open_with("af_xdp:a1", &pool).unwrap();
        let mut other = registry().open_with("af_xdp:b0", &pool).unwrap();
        one.control().set_promiscuous(true).unwrap();
        let (mut rx, _tx) = one.start().unwrap().into_pair();
        let (_rx, mut tx) = other.start().unwrap().into_pair();
        let to = target.mac();
        let mut burst = Burst::new();
        // More than the pool has frames, so that each has been everywhere.
        let (rounds, each) = (100, 64);
        for round in 0..rounds {
            source.send((0..each).map(|at| frame(to, round * each + at, 60)));
            let mut forwarded = 0;
            for _ in 0..1000 {
                if forwarded == each as usize {
                    break;
                }
                rx.wait(Duration::from_millis(200)).unwrap();
                rx.recv(&mut burst).unwrap();
                forwarded += burst.len();
                let places: Vec<_> = burst.iter().map(|packet| packet.data().as_ptr()).collect();
                assert!(places.iter().all(|place| {
                    let region = pool.region();
                    let start = region.base().addr();
                    (start..start + region.len()).contains(&place.addr())
                }));
                while !burst.is_empty() {
                    tx.send(&mut burst).unwrap();
                }
            }
            let numbers: Vec<u32> =
                target.receive(each as usize).iter().map(|frame| number(frame)).collect();
            assert_eq!(numbers, (round * each..(round + 1) * each).collect::<Vec<_>>());
        }
        let counters = other.stats().read().port;
        assert_eq!(counters.tx_copied, Some(0));
        assert_eq!(counters.tx_packets, Some(u64::from(rounds * each)));
        one.close().unwrap();
        other.close().unwrap();
        drop((rx, tx, _rx, _tx));
        assert_eq!(pool.free(), pool.capacity());
    });
}

/// Pools as they are worked out for ports fill large rings whole, also where ports share them.
#[test]
fn a_pool_made_for_the_ports_fills_their_rings() {
    in_namespace(|| {
        ip("link del a0");
        let many = "numrxqueues 5 numtxqueues 5";
        ip(&format!("link add a0 {many} type veth peer name a1 {many}"));
        for name in ["a0", "a1"] {
            ip(&format!("link set {name} up"));
        }
        for (devices, queues) in [(&["a0"][..], 1), (&["a0", "a1"], 1), (&["a0"], 5)] {
            let open = |device: &&str| {
                let spec = format!("af_xdp:{device},rx_queues={queues},rx_ring=8192,tx_ring=16");
                registry().open(&spec).unwrap()
            };
            let mut ports: Vec<_> = devices.iter().map(open).collect();
            let pool = PoolConfig::for_ports(&ports).build().unwrap();
            let mut started = Vec::new();
            for port in &mut ports {
                port.attach(&pool).unwrap();
                started.push(port.start().unwrap());
            }
            let lent = pool.capacity() - pool.free();
            let rings = devices.len() * queues * 8192;
            let spare = devices.len() * queues * 64;
            assert!((rings..=rings + spare).contains(&lent), "{devices:?} {queues}: {lent}");
            for port in &mut ports {
                port.stop().unwrap();
            }
        }
    });
}

#[test]
fn ports_over_a_small_pool_leave_frames_to_the_application() {
    in_namespace(|| {
        let pool = Pool::builder().frames(512).build().unwrap();
        let mut one = registry().open_with("af_xdp:a0", &pool).unwrap();
        let _one = one.start().unwrap();
        assert_eq!(pool.free(), 256);
        let mut other = registry().open_with("af_xdp:a1", &pool).unwrap();
        let _other = other.start().unwrap();
        assert_eq!(pool.free(), 128);
    });
}
