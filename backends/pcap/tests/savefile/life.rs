//! Start, stop, one direction alone.

use std::time::Duration;

use anyport::{Armed, Burst, Wake};

use super::*;

#[test]
fn each_direction_alone() {
    let folder = Folder::new();
    numbered(&folder.path("a.pcap"), 3);
    let mut end = open(&folder.spec("in=@a.pcap"), pool(64));
    assert!(!end.port.capability().transmits && end.port.capability().can_end);
    says(end.send(&[frame(1, 60)]).unwrap_err(), &["a.pcap", "only receives"]);
    assert_eq!(end.receive().0.len(), 3);

    let End { port, mut rx, .. } = open(&folder.spec("out=@b.pcap"), pool(64));
    assert!(!port.capability().receives && !port.capability().can_end);
    assert_eq!(rx.recv(&mut Burst::new()).unwrap(), 0);
    assert_eq!(rx.wait(Duration::from_millis(1)).unwrap(), Wake::Timeout);
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    waker_and_stop_end_a_wait(port, rx);
}

#[test]
fn stop_and_start_go_on_where_they_were() {
    let folder = Folder::new();
    numbered(&folder.path("a.pcap"), 10);
    let mut end = open(&folder.spec("in=@a.pcap,out=@b.pcap"), pool(64));
    let mut received = Vec::new();
    for round in 0..5 {
        let mut burst = Burst::with_capacity(2);
        assert_eq!(end.rx.recv(&mut burst).unwrap(), 2);
        received.extend(burst.iter().map(|packet| packet.data().to_vec()));
        assert_eq!(end.tx.send(&mut burst).unwrap(), 2);
        assert_eq!(read(&folder.path("b.pcap")).len(), 2 * (round + 1));
        end.port.stop().unwrap();
        (end.rx, end.tx) = end.port.start().unwrap().into_pair();
    }
    assert_eq!(received, (0..10).map(|n| frame(n, 60)).collect::<Vec<_>>());
    for _ in 0..2 {
        assert!(end.rx.recv(&mut Burst::new()).unwrap_err().is_ended());
        end.port.stop().unwrap();
        (end.rx, end.tx) = end.port.start().unwrap().into_pair();
    }
    // What was received and not delivered goes with the stop (contract L6).
    numbered(&folder.path("c.pcap"), 100);
    let mut end = open(&folder.spec("in=@c.pcap"), pool(256));
    assert_eq!(end.rx.wait(LONG).unwrap(), Wake::Ready);
    end.port.stop().unwrap();
    assert_eq!(end.pool.free(), 256);
    (end.rx, end.tx) = end.port.start().unwrap().into_pair();
    assert_eq!(end.receive().0, (64..100).map(|n| frame(n, 60)).collect::<Vec<_>>());
}

#[test]
fn a_hundred_rounds_leak_nothing() {
    let folder = Folder::new();
    numbered(&folder.path("a.pcap"), 100);
    let pool = pool(512);
    let round = || {
        let spec = folder.spec("in=@a.pcap,out=@b.pcap,loops=0,timing=original");
        let mut end = open(&spec, pool.clone());
        let mut burst = Burst::new();
        assert_ne!(end.rx.recv(&mut burst).unwrap(), 0);
        assert_ne!(end.tx.send(&mut burst).unwrap(), 0);
    };
    // Descriptors of this test's own files only: others run beside it.
    let own = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| target.starts_with(folder.0.path()))
            .count()
    };
    for _ in 0..100 {
        round();
    }
    assert_eq!((own(), pool.free()), (0, 512));
}
