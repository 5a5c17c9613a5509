//! An interface that takes no more: what is lost is counted, what waits is sent (contract S1, T2).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyport::{Burst, Wake};
use anyport_netdev::testing::{in_namespace, run};

use crate::common::{End, frame, open};

/// Lets an interface collect what it receives for a while, so that what a veth has room for is full soon. It has effect once a
/// frame has come.
fn collect(name: &str, time: Duration) {
    // The files are those of the network namespace that the file system is mounted in.
    // SAFETY: no pointers; it changes this thread alone.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    run("mount", "--make-rprivate /");
    run("mount", "-t sysfs sysfs /sys");
    let set = |file: &str, value: String| {
        std::fs::write(format!("/sys/class/net/{name}/{file}"), value).unwrap();
    };
    set("napi_defer_hard_irqs", "1000".into());
    set("gro_flush_timeout", time.as_nanos().to_string());
}

/// What is there.
fn take(end: &mut End) -> u64 {
    let (mut burst, mut count) = (Burst::new(), 0);
    while end.rx.recv(&mut burst).unwrap() > 0 {
        count += burst.len() as u64;
        burst.clear();
    }
    count
}

#[test]
fn what_is_lost_while_another_thread_waits_is_counted() {
    in_namespace(|| {
        let mut far = open("af_xdp:a1,attach=native,rx_ring=4096");
        let near = open("af_xdp:a0,attach=native");
        collect("a1", Duration::from_millis(2));
        let (to_far, to_near, statistics) = (far.mac(), near.mac(), near.port.stats());
        let End { port: _port, mut rx, mut tx, pool } = near;
        let over = AtomicBool::new(false);
        let arrived = std::thread::scope(|scope| {
            let over = &over;
            let sender = scope.spawn(move || {
                let mut burst = Burst::with_capacity(32);
                while !over.load(Ordering::Relaxed) {
                    while let Some(packet) =
                        (!burst.is_full()).then(|| pool.packet(&frame(to_far, 1, 60))).flatten()
                    {
                        burst.push(packet).unwrap();
                    }
                    tx.send(&mut burst).unwrap();
                }
                assert_eq!(tx.flush(Duration::from_secs(10)).unwrap(), 0);
                tx
            });
            let waiter = scope.spawn(move || {
                let mut burst = Burst::new();
                while !over.load(Ordering::Relaxed) {
                    rx.wait(Duration::from_millis(5)).unwrap();
                    rx.recv(&mut burst).unwrap();
                    burst.clear();
                }
                rx
            });
            let (begun, mut arrived) = (Instant::now(), 0);
            while begun.elapsed() < Duration::from_secs(1) {
                arrived += take(&mut far);
                far.send([frame(to_near, 1, 60)]);
            }
            over.store(true, Ordering::Relaxed);
            let (_tx, _rx) = (sender.join().unwrap(), waiter.join().unwrap());
            // What is still collected.
            loop {
                std::thread::sleep(Duration::from_millis(100));
                match take(&mut far) {
                    0 => return arrived,
                    more => arrived += more,
                }
            }
        });
        let (sent, seen) = (statistics.read().port, far.counters());
        let missed = seen.rx_ring_full.unwrap() + seen.rx_no_buffer.unwrap();
        assert!(sent.tx_dropped.unwrap() > 0, "nothing was lost, so nothing is shown");
        assert_eq!(sent.tx_packets, Some(arrived + missed), "{sent:?} {seen:?}");
    });
}

#[test]
fn what_waits_is_sent_while_its_queue_is_waited_on() {
    in_namespace(|| {
        let mut far = open("af_xdp:a1,attach=native");
        let mut near = open("af_xdp:a0,attach=native");
        // A veth with a queueing discipline takes no more when the other end is full, instead of dropping.
        run("tc", "qdisc add dev a0 root pfifo limit 1000");
        collect("a1", Duration::from_millis(50));
        let to_far = far.mac();
        near.send([frame(to_far, 0, 60)]);
        assert_eq!(far.receive(1).len(), 1);
        let mut burst = Burst::with_capacity(1000);
        while let Some(packet) =
            (!burst.is_full()).then(|| near.pool.packet(&frame(to_far, 1, 60))).flatten()
        {
            burst.push(packet).unwrap();
        }
        let taken = near.tx.send(&mut burst).unwrap() as u64;
        let End { port, mut rx, mut tx, .. } = near;
        let waker = rx.waker();
        let arrived = std::thread::scope(|scope| {
            // One wait, and no other call of the port's queues.
            let waits = scope.spawn(move || rx.wait(Duration::from_secs(60)).unwrap());
            let (deadline, mut arrived) = (Instant::now() + Duration::from_secs(20), 0);
            while arrived < taken && Instant::now() < deadline {
                arrived += take(&mut far);
                std::thread::sleep(Duration::from_millis(1));
            }
            waker.wake();
            assert_eq!(waits.join().unwrap(), Wake::Waker);
            arrived
        });
        assert_eq!(arrived, taken);
        assert_eq!(tx.flush(Duration::from_secs(10)).unwrap(), 0);
        assert_eq!(port.stats().read().port.tx_dropped, Some(0));
    });
}
