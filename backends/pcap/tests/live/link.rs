//! Links that go and come, interfaces that are down, renamed, moved or deleted (contract T8, T9, M3, R10, R12).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyport::{Burst, Error, Wake};
use anyport_netdev::testing::{in_namespace, ip};

use crate::common::{End, frame, open, until};

#[test]
fn speed_and_duplex_are_the_devices() {
    in_namespace(|| {
        let a = open("pcap:a0");
        let link = a.port.control().link().unwrap();
        assert_eq!((link.up, link.speed_mbps, link.full_duplex), (true, Some(10_000), Some(true)));
    });
}

#[test]
fn a_link_that_is_lost_takes_nothing_and_goes_on_when_it_is_back() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let (to_a, to_b) = (a.mac(), b.mac());
        for _ in 0..3 {
            ip("link set a1 down");
            b.wait_for(Wake::LinkDown);
            a.wait_for(Wake::LinkDown);
            assert!(!a.port.control().link().unwrap().up);
            assert!(a.taken_for(&frame(to_b, 1, 60)) <= Duration::from_millis(200));
            assert!(b.taken_for(&frame(to_a, 1, 60)) <= Duration::from_millis(200));
            ip("link set a1 up");
            b.wait_for(Wake::LinkUp);
            a.wait_for(Wake::LinkUp);
            let before = b.counters().rx_packets;
            a.send_when_possible(&frame(to_b, 2, 60));
            assert_eq!(b.receive(1), [frame(to_b, 2, 60)]);
            b.send_when_possible(&frame(to_a, 3, 60));
            assert_eq!(a.receive(1), [frame(to_a, 3, 60)]);
            assert_eq!(b.counters().rx_packets, before.map(|before| before + 1));
        }
    });
}

/// A tap, and the file by which somebody is at its other end.
fn tap(name: &str) -> File {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the call takes an ifreq.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) }, 0);
    file
}

/// Takes a tap's carrier away, or gives it back.
fn set_carrier(tap: &File, on: bool) {
    const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;
    let on = libc::c_int::from(on);
    // SAFETY: the call takes an int.
    assert_eq!(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETCARRIER, &raw const on) }, 0);
}

#[test]
fn a_carrier_that_is_lost_twice_within_a_second_is_noticed_in_time() {
    in_namespace(|| {
        // The kernel's flags of such a device are up to a second late after another change.
        let file = tap("t0");
        ip("link set t0 up");
        let mut port = open("pcap:t0");
        assert!(port.port.capability().software_link);
        let bytes = frame(anyport::MacAddr([2; 6]), 1, 60);
        for _ in 0..4 {
            port.send_when_possible(&bytes);
            set_carrier(&file, false);
            let taken = port.taken_for(&bytes);
            assert!(taken <= Duration::from_millis(200), "taken for {taken:?}");
            assert!(!port.port.control().link().unwrap().up);
            set_carrier(&file, true);
        }
        port.send_when_possible(&bytes);
    });
}

#[test]
fn a_carrier_is_noticed_in_time_where_the_peer_elsewhere_has_the_same_index() {
    in_namespace(|| {
        let (told, tell) = std::sync::mpsc::channel::<String>();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // SAFETY: no pointers; it changes this thread alone.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
                // SAFETY: it takes nothing and cannot fail.
                done.send(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap();
                for command in tell {
                    ip(&command);
                    done.send(0).unwrap();
                }
            });
            let there = wait.recv().unwrap();
            let elsewhere = |command: &str| {
                told.send(command.into()).unwrap();
                wait.recv().unwrap();
            };
            // So the kernel takes t0 for a device on its own, whose flags it lets be late.
            ip(&format!("link add t0 index 77 type veth peer name t1 index 77 netns {there}"));
            ip("link set t0 addrgenmode none");
            ip("link set t0 up");
            elsewhere("link set t1 up");
            let mut port = open("pcap:t0");
            let bytes = frame(anyport::MacAddr([2; 6]), 1, 60);
            for _ in 0..4 {
                port.send_when_possible(&bytes);
                elsewhere("link set t1 down");
                let taken = port.taken_for(&bytes);
                assert!(taken <= Duration::from_millis(200), "taken for {taken:?}");
                elsewhere("link set t1 up");
            }
            port.send_when_possible(&bytes);
            // What the veth refused was not given up: the link was known to be gone before.
            assert_eq!(port.counters().tx_dropped, Some(0));
            drop(told);
        });
    });
}

#[test]
fn an_interface_that_is_down_can_be_opened_and_started() {
    in_namespace(|| {
        let mut b = open("pcap:a1");
        ip("link set a0 down");
        let mut a = open("pcap:a0,promiscuous=true");
        let (to_a, to_b) = (a.mac(), b.mac());
        assert!(!a.port.control().link().unwrap().up);
        let mut burst = Burst::new();
        burst.push(a.pool.packet(&frame(to_b, 1, 60)).unwrap()).unwrap();
        assert_eq!((a.tx.send(&mut burst).unwrap(), a.rx.recv(&mut Burst::new()).unwrap()), (0, 0));
        assert_eq!(a.rx.wait(Duration::from_millis(20)).unwrap(), Wake::Timeout);
        // What is set meanwhile holds when it comes up.
        a.port.control().set_promiscuous(false).unwrap();
        ip("link set a0 up");
        a.wait_for(Wake::LinkUp);
        b.send_when_possible(&frame(anyport::MacAddr([2, 9, 9, 9, 9, 9]), 2, 60));
        b.send_when_possible(&frame(to_a, 3, 60));
        assert_eq!(a.receive(1), [frame(to_a, 3, 60)]);
        a.send_all(&mut burst);
        assert_eq!(b.receive(1), [frame(to_b, 1, 60)]);
        // The queue can be slept on now.
        assert_eq!(a.rx.wait(Duration::from_millis(20)).unwrap(), Wake::Timeout);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| a.rx.wait(Duration::from_secs(10)).unwrap());
            b.send_when_possible(&frame(to_a, 4, 60));
            assert_eq!(waiting.join().unwrap(), Wake::Ready);
        });
    });
}

#[test]
fn a_sender_alone_notices_that_the_interface_came_up() {
    in_namespace(|| {
        let mut b = open("pcap:a1");
        ip("link set a0 down");
        let mut a = open("pcap:a0");
        let to_b = b.mac();
        ip("link set a0 up");
        a.send_when_possible(&frame(to_b, 1, 60));
        assert_eq!(b.receive(1), [frame(to_b, 1, 60)]);
        // Stopping and starting while it is down again.
        ip("link set a0 down");
        a.port.stop().unwrap();
        let (rx, tx) = a.port.start().unwrap().into_pair();
        (a.rx, a.tx) = (rx, tx);
        a.port.stop().unwrap();
        a.port.close().unwrap();
    });
}

#[test]
fn a_renamed_interface_goes_on_working() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0,mac=02:00:00:00:00:77"), open("pcap:a1"));
        let (to_a, to_b) = (a.mac(), b.mac());
        let exchange = |a: &mut End, b: &mut End, number| {
            a.send_when_possible(&frame(to_b, number, 60));
            assert_eq!(b.receive(1), [frame(to_b, number, 60)]);
            b.send_when_possible(&frame(to_a, number, 60));
            assert_eq!(a.receive(1), [frame(to_a, number, 60)]);
        };
        ip("link set a0 down");
        ip("link set a0 name c0");
        // libpcap looks for it under the name that it had.
        assert_eq!(a.receive(0), [] as [Vec<u8>; 0]);
        ip("link set c0 up");
        b.port.control().wait_link_up(Duration::from_secs(5)).unwrap();
        exchange(&mut a, &mut b, 1);
        // Another one has its old name: it is not that one that goes down.
        ip("link add a0 type veth peer name x0");
        ip("link set a0 up");
        ip("link set c0 down");
        assert_eq!(a.receive(0), [] as [Vec<u8>; 0]);
        ip("link del a0");
        ip("link set c0 up");
        b.port.control().wait_link_up(Duration::from_secs(5)).unwrap();
        exchange(&mut a, &mut b, 2);
        // Started anew it is the same one, and it is put back under whatever name.
        a.port.stop().unwrap();
        let (rx, tx) = a.port.start().unwrap().into_pair();
        (a.rx, a.tx) = (rx, tx);
        exchange(&mut a, &mut b, 3);
        a.port.close().unwrap();
        let shown = anyport_netdev::testing::run("ip", "link show c0");
        assert!(!shown.contains("00:77"), "{shown}");
    });
}

/// Whether recv, wait and send say that the device is gone, from a second on at the latest, and close works.
fn is_gone(mut end: End) {
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut burst = Burst::new();
    let received = loop {
        let begun = Instant::now();
        match end.rx.recv(&mut burst) {
            Ok(_) if begun < deadline => std::thread::yield_now(),
            other => break other,
        }
    };
    assert!(matches!(received, Err(Error::DeviceGone { .. })), "recv: {received:?}");
    let waited = end.rx.wait(Duration::from_secs(1));
    assert!(matches!(waited, Err(Error::DeviceGone { .. })), "wait: {waited:?}");
    burst.clear();
    burst.push(end.pool.packet(&frame(anyport::MacAddr([2; 6]), 1, 60)).unwrap()).unwrap();
    let sent = loop {
        let begun = Instant::now();
        match end.tx.send(&mut burst) {
            Ok(_) if begun < deadline => std::thread::yield_now(),
            other => break other,
        }
    };
    assert!(matches!(sent, Err(Error::DeviceGone { .. })), "send: {sent:?}");
    assert!(matches!(end.port.control().link(), Err(Error::DeviceGone { .. })));
    end.port.stop().unwrap();
    end.port.close().unwrap();
}

#[test]
fn a_deleted_interface_is_gone() {
    in_namespace(|| {
        let (a, b) = (open("pcap:a0,mac=02:00:00:00:00:77,max_frame=4014"), open("pcap:a1"));
        ip("link del a0");
        is_gone(a);
        is_gone(b);
    });
}

#[test]
fn one_that_is_deleted_under_load_wakes_those_who_wait() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let to_b = b.mac();
        let (stats, deadline) = (b.port.stats(), Instant::now() + Duration::from_secs(20));
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                loop {
                    assert!(Instant::now() < deadline, "it can be sent to for ever");
                    let mut burst = Burst::new();
                    for number in 0..32 {
                        burst.push(a.pool.packet(&frame(to_b, number, 60)).unwrap()).unwrap();
                    }
                    if let Err(error) = a.tx.send(&mut burst) {
                        break error;
                    }
                }
            });
            let receiver = scope.spawn(|| {
                let mut burst = Burst::new();
                loop {
                    assert!(Instant::now() < deadline, "it can be received from for ever");
                    burst.clear();
                    match b.rx.wait(Duration::from_secs(5)).and_then(|_| b.rx.recv(&mut burst)) {
                        Ok(_) => {}
                        Err(error) => break error,
                    }
                }
            });
            until("frames flow", || stats.read().port.rx_packets >= Some(1000));
            ip("link del a1");
            let errors = [sender.join().unwrap(), receiver.join().unwrap()];
            assert!(errors.iter().all(Error::is_gone), "{errors:?}");
        });
    });
}

#[test]
fn one_that_moved_to_another_namespace_is_gone_also_when_it_comes_back() {
    in_namespace(|| {
        let (a, b) = (open("pcap:a0"), open("pcap:a1"));
        // Another namespace, held by its file.
        let other = std::thread::spawn(|| {
            // SAFETY: no pointers; it changes this thread alone.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), other.as_raw_fd());
        ip(&format!("link set a0 netns {path}"));
        is_gone(a);
        drop(b);
        let b = open("pcap:a1");
        let back = format!("/proc/{}/task/{}/ns/net", std::process::id(), thread_id());
        ip(&format!("link set a1 netns {path}"));
        run_in(&other, || ip(&format!("link set a1 netns {back}")));
        ip("link set a1 up");
        is_gone(b);
        open("pcap:a1");
    });
}

fn thread_id() -> libc::c_long {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Runs something in a thread in that namespace.
fn run_in(namespace: &File, run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let inside = || {
            // SAFETY: a descriptor of a namespace; it changes this thread alone.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            run();
        };
        scope.spawn(inside).join().unwrap();
    });
}

#[test]
fn a_port_is_not_started_from_another_namespace() {
    in_namespace(|| {
        let mut end = open("pcap:a0");
        end.port.stop().unwrap();
        let start = |end: &mut End| end.port.start().map(|_| ()).unwrap_err().to_string();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: no pointers; it changes this thread alone.
                    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
                    assert!(start(&mut end).contains("from a thread in the namespace"));
                    // Nor on a namesake there.
                    ip("link add a0 type veth peer name a1");
                    ip("link set a0 up");
                    assert!(start(&mut end).contains("from a thread in the namespace"));
                })
                .join()
                .unwrap();
        });
        end.port.start().unwrap();
    });
}
