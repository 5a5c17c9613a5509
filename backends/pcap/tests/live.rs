//! Two ports on the ends of a veth pair, in a network namespace that goes with the test's thread.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

use std::process::Command;
use std::time::Duration;

use anyport::{Burst, Error, Pool, Port, Registry, RxQueue, TxQueue, Wake};

/// Runs a test in a namespace of its own with a veth pair `a0`, `a1`; false where that needs more privilege.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: no pointers; it changes this thread alone.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    assert!(
                        std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_none(),
                        "root is required"
                    );
                    eprintln!("skipped: it needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                    return;
                }
                ip("link set lo up");
                ip("link add a0 type veth peer name a1");
                for end in ["a0", "a1"] {
                    ip(&format!("link set {end} addrgenmode none"));
                    ip(&format!("link set {end} up"));
                }
                test();
            })
            .join()
            .unwrap();
    });
}

fn ip(arguments: &str) {
    assert!(
        Command::new("ip").args(arguments.split(' ')).status().unwrap().success(),
        "ip {arguments}"
    );
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_pcap::Pcap::default()).unwrap();
    registry
}

struct End {
    port: Port,
    rx: RxQueue,
    tx: TxQueue,
    pool: Pool,
}

fn open(spec: &str) -> End {
    let pool = Pool::builder().frames(2048).frame_size(8192).build().unwrap();
    let mut port = registry().open_with(spec, &pool).unwrap();
    let (rx, tx) = port.start().unwrap().into_pair();
    End { port, rx, tx, pool }
}

fn frame(to: anyport::MacAddr, number: u32, length: usize) -> Vec<u8> {
    let mut frame = to.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.resize(length, number as u8);
    frame
}

impl End {
    fn send(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        let mut burst = Burst::new();
        for frame in frames {
            burst.push(self.pool.packet(&frame).unwrap()).unwrap();
            if burst.is_full() {
                self.flush(&mut burst);
            }
        }
        self.flush(&mut burst);
    }

    fn flush(&mut self, burst: &mut Burst) {
        for _ in 0..1_000_000 {
            self.tx.send(burst).unwrap();
            if burst.is_empty() {
                return;
            }
        }
        panic!("the queue stays full");
    }

    /// Everything that arrives until nothing has come for a while.
    fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut burst = Burst::new();
        loop {
            let patience = if frames.len() < count { 5000 } else { 50 };
            if self.rx.wait(Duration::from_millis(patience)).unwrap() != Wake::Ready {
                return frames;
            }
            self.rx.recv(&mut burst).unwrap();
            frames.extend(burst.drain().map(|packet| packet.data().to_vec()));
        }
    }
}

#[test]
fn frames_pass_both_ways_exactly() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let to_a = a.port.control().mac().unwrap();
        let to_b = b.port.control().mac().unwrap();
        for length in [60, 61, 1000, 1513, 1514] {
            let frames: Vec<_> = (0..300).map(|n| frame(to_b, n, length)).collect();
            a.send(frames.clone());
            assert_eq!(b.receive(300), frames);
        }
        let frames: Vec<_> = (0..300).map(|n| frame(to_a, n, 64)).collect();
        b.send(frames.clone());
        assert_eq!(a.receive(300), frames);
        let (sent, received) = (a.port.stats().read().port, b.port.stats().read().port);
        assert_eq!((sent.tx_packets, received.rx_packets), (Some(1500), Some(1500)));
        assert_eq!(
            (sent.tx_bytes, received.rx_bytes, received.rx_dropped()),
            (received.rx_bytes, sent.tx_bytes, 0)
        );
        assert_eq!(a.port.stats().read().port.rx_packets, Some(300), "none of its own");
    });
}

#[test]
fn tags_stay_and_longer_frames_are_dropped() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let to_b = b.port.control().mac().unwrap();
        let tagged = |tpid: [u8; 2], length: usize| {
            let mut frame = frame(to_b, 7, length);
            frame.splice(12..12, [tpid[0], tpid[1], 0x20, 5]);
            frame.truncate(length);
            frame
        };
        let frames = [tagged([0x81, 0], 60), tagged([0x88, 0xa8], 80), tagged([0x81, 0], 1518)];
        a.send(frames.clone());
        assert_eq!(b.receive(3), frames);
        assert_eq!(b.port.stats().read().port.rx_too_long, Some(0));
    });
}

#[test]
fn promiscuous_mode_governs_what_is_sent_after_the_switch() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let foreign = anyport::MacAddr([2, 9, 9, 9, 9, 9]);
        let group = anyport::MacAddr([1, 0, 0x5e, 1, 2, 3]);
        a.send([
            frame(foreign, 1, 60),
            frame(group, 2, 60),
            frame(anyport::MacAddr::BROADCAST, 3, 60),
        ]);
        assert_eq!(b.receive(2).len(), 2);
        b.port.control().set_promiscuous(true).unwrap();
        a.send([frame(foreign, 4, 60)]);
        assert_eq!(b.receive(1), [frame(foreign, 4, 60)]);
        b.port.control().set_promiscuous(false).unwrap();
        a.send([frame(foreign, 5, 60), frame(group, 6, 60)]);
        assert_eq!(b.receive(1), [frame(group, 6, 60)]);
    });
}

#[test]
fn the_device_is_exclusive_and_found_as_it_was() {
    in_namespace(|| {
        let a = open("pcap:a0,max_frame=4014,mac=02:00:00:00:00:77");
        assert!(matches!(registry().open("pcap:a0"), Err(Error::Busy { .. })));
        assert_eq!(a.port.control().mac().unwrap().to_string(), "02:00:00:00:00:77");
        let show = || {
            let output =
                Command::new("ip").args(["-d", "-j", "link", "show", "a0"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let during = show();
        assert!(
            during.contains("\"mtu\":4000") && during.contains("02:00:00:00:00:77"),
            "{during}"
        );
        drop(a);
        let after = show();
        assert!(after.contains("\"mtu\":1500") && !after.contains("00:77"), "{after}");
        assert!(after.contains("\"promiscuity\":0") && after.contains("\"allmulti\":0"), "{after}");
        open("pcap:a0");
    });
}

#[test]
fn a_deleted_interface_is_gone_and_a_link_goes_down() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        ip("link set a0 down");
        assert_eq!(b.rx.wait(Duration::from_secs(5)).unwrap(), Wake::LinkDown);
        ip("link set a0 up");
        while b.rx.wait(Duration::from_secs(5)).unwrap() != Wake::LinkUp {}
        let to_b = b.port.control().mac().unwrap();
        b.port.control().wait_link_up(Duration::from_secs(5)).unwrap();
        std::thread::sleep(Duration::from_millis(60));
        a.send([frame(to_b, 1, 60)]);
        assert_eq!(b.receive(1), [frame(to_b, 1, 60)]);
        ip("link del a0");
        let error = loop {
            match b.rx.wait(Duration::from_secs(5)) {
                Ok(Wake::Timeout) => panic!("nobody noticed"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.is_gone(), "{error}");
        let mut burst = Burst::new();
        burst.push(a.pool.packet(&frame(to_b, 1, 60)).unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(60));
        assert!(a.tx.send(&mut burst).unwrap_err().is_gone());
        a.port.close().unwrap();
        b.port.close().unwrap();
    });
}
