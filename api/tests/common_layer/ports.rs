//! States, configuration, counters and the end of a port.

use std::time::{Duration, Instant};

use anyport::driver::DeviceLock;
use anyport::{Burst, Error, MacAddr, Pool, Port, PortConfig, PortCounters};

use crate::driver::*;

#[test]
fn configuration_is_applied_whole_or_not_at_all() {
    let bench = Bench::new(|capability| {
        (capability.set_mac, capability.promiscuous, capability.filters) = (true, true, true);
        (capability.set_max_frame, capability.max_frame) = (true, 9000);
    });
    let mut port = bench.registry.open("mock:config").unwrap();
    let mut config = PortConfig::default();
    config.mac = Some(MacAddr([2; 6]));
    let mut refused = config.clone();
    refused.rx_queues = 2;
    let error = port.configure(refused).unwrap_err().to_string();
    assert!(
        error.contains("rx_queues") && error.contains("= 2") && error.contains("1 to 1"),
        "{error}"
    );
    assert_eq!(bench.with(|device| device.log.clone()), [""; 0], "nothing was applied");
    bench.with(|device| device.fail = Some("promiscuous true"));
    (config.max_frame, config.promiscuous) = (Some(4000), true);
    assert!(port.configure(config.clone()).is_err());
    assert_eq!(bench.with(|device| device.mac), OWN, "put back");
    assert_eq!(port.config(), PortConfig::default());
    bench.with(|device| device.fail = None);
    port.configure(config).unwrap();
    assert_eq!(
        (port.control().mac().unwrap(), port.control().max_frame()),
        (MacAddr([2; 6]), 4000)
    );
    port.configure(PortConfig::default()).unwrap();
    assert_eq!((port.control().mac().unwrap(), port.control().max_frame()), (OWN, 1514));
    assert!(port.control().set_mac(MacAddr::BROADCAST).is_err());
}

#[test]
fn a_port_that_cannot_share_is_not_shared() {
    let bench = Bench::new(|capability| (capability.exclusive, capability.shared) = (true, false));
    for _ in 0..2 {
        match bench.registry.open("mock:alone,shared=true") {
            Err(Error::Unsupported { field, asked, .. }) => {
                assert_eq!((&*field, &*asked), ("shared", "true"));
            }
            other => panic!("{other:?}"),
        }
    }
    bench.registry.open("mock:alone,shared=false").unwrap().close().unwrap();
    // What is received goes somewhere.
    let bench = Bench::new(|capability| (capability.exclusive, capability.shared) = (false, false));
    assert!(matches!(bench.registry.open("mock:nowhere"), Err(Error::Backend { .. })));
}

#[test]
fn states_are_kept() {
    let bench = Bench::new(|_| {});
    let mut port = bench.registry.open("mock:states").unwrap();
    assert!(matches!(port.start(), Err(Error::State { hint: "attach a pool first", .. })));
    match bench.registry.open("mock:states") {
        Err(Error::Busy { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    port.attach(&bench.pool).unwrap();
    port.attach(&bench.pool).unwrap();
    assert!(matches!(
        port.attach(&Pool::builder().frames(1).build().unwrap()),
        Err(Error::Unsupported { .. })
    ));
    let (mut rx, mut tx) = port.start().unwrap().into_pair();
    assert!(matches!(port.start(), Err(Error::State { .. })));
    assert!(matches!(port.configure(PortConfig::default()), Err(Error::State { .. })));
    assert!(matches!(port.attach(&bench.pool), Err(Error::State { .. })));
    port.stop().unwrap();
    port.stop().unwrap();
    let mut burst = burst_of(&bench.pool, &[frame(60)]);
    assert!(matches!(rx.recv(&mut burst), Err(Error::Closed)));
    assert!(matches!(tx.send(&mut burst), Err(Error::Closed)));
    assert!(matches!(rx.wait(Duration::from_secs(9)), Err(Error::Closed)));
    assert!(matches!(
        (rx.arm(), tx.flush(Duration::ZERO)),
        (Err(Error::Closed), Err(Error::Closed))
    ));
    let (control, stats) = (port.control(), port.stats());
    let (_rx, mut tx) = port.start().unwrap().into_pair();
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    port.close().unwrap();
    assert!(matches!(control.link(), Err(Error::Closed)));
    assert_eq!(stats.read().port.tx_packets, Some(1));
    assert_eq!(bench.with(|device| device.log.clone()), ["start", "stop", "start", "stop"]);
    bench.registry.open("mock:states").unwrap();
}

#[test]
fn stop_wakes_the_waiting_and_ends_calls() {
    let bench = Bench::new(|_| {});
    let (mut port, mut rx, mut tx) = bench.open("");
    let pool = bench.pool.clone();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || rx.wait(Duration::from_secs(60)));
        let sending = scope.spawn(move || {
            let mut sent = 0u64;
            loop {
                let mut burst = burst_of(&pool, &[frame(60)]);
                match tx.send(&mut burst) {
                    Ok(count) => sent += count as u64,
                    Err(error) => return (sent, error),
                }
            }
        });
        while bench.with(|device| device.taken.len()) < 100 {
            std::thread::yield_now();
        }
        let start = Instant::now();
        port.stop().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
        let (sent, error) = sending.join().unwrap();
        assert!(matches!(error, Error::Closed));
        assert_eq!(port.stats().read().port.tx_packets, Some(sent));
        assert!(start.elapsed() < Duration::from_secs(30));
    });
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn the_devices_counters_are_there_before_the_first_start_and_after_close() {
    let bench = Bench::new(|_| {});
    // Of as many queues as it could have, as a device with registers does.
    bench.with(|device| {
        let mut queue = anyport::Counters::default();
        queue.rx_ring_full = Some(3);
        device.counted.rx_queues = vec![queue; 4];
        device.counted.port.rx_errors = Some(5);
    });
    let names =
        |counters: &PortCounters| counters.port.iter().map(|(name, _)| name).collect::<Vec<_>>();
    let spec = format!("mock:{:?}", std::thread::current().id());
    let mut port = bench.registry.open_with(&spec, &bench.pool).unwrap();
    let stats = port.stats();
    let fresh = stats.read();
    assert_eq!((fresh.port.rx_errors, fresh.port.rx_packets), (Some(5), Some(0)));
    let queues = port.start().unwrap();
    assert_eq!(names(&stats.read()), names(&fresh));
    assert_eq!(stats.read().port.rx_ring_full, Some(12), "of queues that were never started, too");
    port.stop().unwrap();
    let stopped = stats.read();
    drop((port, queues));
    assert_eq!(stats.read(), stopped, "after close");
}

#[test]
fn stop_counts_what_was_not_sent() {
    let bench = Bench::new(|capability| capability.deferred_tx = true);
    let (mut port, mut rx, mut tx) = bench.open("");
    let mut burst = burst_of(&bench.pool, &[frame(60), frame(70), frame(80)]);
    bench.with(|device| device.outstanding = 3);
    assert_eq!(tx.send(&mut burst).unwrap(), 3);
    assert_eq!(bench.pool.free(), 509);
    bench.with(|device| device.outstanding = 2);
    // Completed frames are back after the next call on the port, of whichever queue (contract T6).
    assert_eq!(rx.recv(&mut burst).unwrap(), 0);
    assert_eq!((bench.pool.free(), tx.flush(Duration::ZERO).unwrap()), (510, 2));
    port.stop().unwrap();
    let counters = port.stats().read().port;
    assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(1), Some(60)));
    assert_eq!((counters.tx_dropped, counters.tx_dropped_bytes), (Some(2), Some(150)));
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn completed_frames_come_back_by_calls_on_any_queue() {
    let bench = Bench::new(|capability| {
        (capability.deferred_tx, capability.max_tx_queues) = (true, 3);
    });
    let spec = format!("mock:{:?},tx_queues=3", std::thread::current().id());
    let mut port = bench.registry.open_with(&spec, &bench.pool).unwrap();
    let mut queues = port.start().unwrap();
    let (rx, [first, middle, last]) = (&mut queues.rx[0], &mut queues.tx[..]) else { panic!() };
    let mut nothing = Burst::new();
    for call in 0..5 {
        bench.with(|device| device.outstanding = 2);
        assert_eq!(first.send(&mut burst_of(&bench.pool, &[frame(60), frame(70)])).unwrap(), 2);
        assert_eq!(last.send(&mut burst_of(&bench.pool, &[frame(80)])).unwrap(), 1);
        assert_eq!((bench.pool.free(), middle.flush(Duration::ZERO).unwrap()), (509, 0));
        // Of a queue whose device has not completed them they stay.
        bench.with(|device| device.outstanding = 1);
        assert_eq!((middle.send(&mut nothing).unwrap(), bench.pool.free()), (0, 510));
        bench.with(|device| device.outstanding = 0);
        match call {
            0 => assert_eq!(middle.send(&mut nothing).unwrap(), 0),
            1 => assert_eq!(middle.flush(Duration::ZERO).unwrap(), 0),
            2 => assert_eq!(rx.recv(&mut nothing).unwrap(), 0),
            3 => {
                let mut burst = burst_of(&bench.pool, &[frame(90)]);
                assert_eq!(middle.send(&mut burst).unwrap(), 1);
                assert_eq!((bench.pool.free(), middle.flush(Duration::ZERO).unwrap()), (511, 0));
            }
            _ => {
                let packet = bench.pool.packet(&frame(90)).unwrap();
                assert!(middle.send_one(packet).unwrap().is_none());
                assert_eq!((bench.pool.free(), middle.flush(Duration::ZERO).unwrap()), (511, 0));
            }
        }
        assert_eq!(bench.pool.free(), 512, "after call {call}");
    }
}

#[test]
fn specs_are_checked_before_anything_is_opened() {
    let bench = Bench::new(|_| {});
    let error = |spec: &str| bench.registry.open(spec).unwrap_err().to_string();
    assert_eq!(error("mok:x"), "unknown backend `mok`; this program has: mock");
    let unknown = error("mock:x,rx_quues=1");
    assert!(
        unknown.contains("unknown key `rx_quues`") && unknown.contains("rx_queues"),
        "{unknown}"
    );
    let value = error("mock:x,rx_checksum=maybe");
    assert!(
        value.contains("`rx_checksum` cannot be `maybe`: expected `off`, `auto` or `required`"),
        "{value}"
    );
    assert_eq!(
        error("mock:x,rx_ring=lots"),
        "mock:x: `rx_ring` cannot be `lots`: expected a whole number"
    );
    assert!(error("mock:x,rx_queues=-1").contains("`rx_queues` cannot be `-1`"));
    assert!(error("mock:x,rx_queues=0").contains("1 to 1 are possible"));
    assert!(error("mock:x,mac=01:00:5e:00:00:01").contains("group address"));
    assert!(error("mock:x,tx_timestamp=auto").contains("no software fallback"));
    assert!(error("mock:x,rss_key=abc").contains("80 hexadecimal digits"));
    assert_eq!(bench.with(|device| device.log.clone()), [""; 0]);
    drop(bench.registry.open("mock:x").unwrap());
}

#[test]
fn what_the_host_sees_is_chosen_at_open() {
    let bench = Bench::new(|_| {});
    let spec = format!("mock:{:?},shared=true,to_kernel=arp", std::thread::current().id());
    let mut port = bench.registry.open(&spec).unwrap();
    let config = port.config();
    assert!(config.shared && config.to_kernel == ["arp"]);
    let refused = |port: &mut Port, said: &str, change: fn(&mut PortConfig)| {
        let mut other = port.config();
        change(&mut other);
        let error = port.configure(other).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("when the port is opened"), "{error}");
    };
    refused(&mut port, "`shared` = false", |config| config.shared = false);
    refused(&mut port, "`takeover` = true", |config| config.takeover = true);
    refused(&mut port, "`to_kernel` = tcp:22", |config| config.to_kernel = vec!["tcp:22".into()]);
    assert_eq!(port.config(), config);
    port.configure(config).unwrap();
}

#[test]
fn controls_of_a_closed_port_say_so() {
    for filters in [false, true] {
        let bench = Bench::new(|capability| {
            (capability.filters, capability.promiscuous, capability.set_mac) =
                (filters, true, true);
        });
        let (port, _rx, _tx) = bench.open("");
        let control = port.control();
        control.set_promiscuous(true).unwrap();
        port.close().unwrap();
        assert!(control.set_promiscuous(false).unwrap_err().is_closed());
        assert!(control.set_mac(OWN).unwrap_err().is_closed());
        assert!(control.mac().unwrap_err().is_closed() && control.link().unwrap_err().is_closed());
        assert!(control.promiscuous(), "what was refused changed nothing");
    }
}

#[test]
fn a_device_lost_while_it_starts_is_stopped_again() {
    let bench = Bench::new(|_| {});
    let (mut port, ..) = bench.open("");
    port.stop().unwrap();
    bench.with(|device| {
        device.log.clear();
        device.fail = Some("link");
    });
    assert!(port.start().unwrap_err().is_gone());
    assert_eq!(bench.with(|device| device.log.clone()), ["start", "stop"]);
    bench.with(|device| device.fail = None);
    port.start().unwrap();
}

#[test]
fn who_changes_a_port_changes_all_of_it() {
    let bench = Bench::new(|capability| {
        (capability.set_mac, capability.promiscuous, capability.filters) = (true, true, true);
    });
    let (port, ..) = bench.open("");
    let start = std::sync::Barrier::new(2);
    let change = |last: u8| {
        let control = port.control();
        start.wait();
        control.set_mac(MacAddr([2, 0, 0, 0, 0, last])).unwrap();
        control.set_promiscuous(last == 1).unwrap();
    };
    for _ in 0..20_000 {
        std::thread::scope(|scope| {
            scope.spawn(|| change(1));
            change(2);
        });
        let (config, control) = (port.config(), port.control());
        assert_eq!(config.mac, Some(control.mac().unwrap()));
        assert_eq!(config.promiscuous, control.promiscuous());
        let told = bench.with(|device| {
            let log = std::mem::take(&mut device.log);
            log.into_iter().rev().find(|line| line.starts_with("promiscuous"))
        });
        assert_eq!(told, Some(format!("promiscuous {}", config.promiscuous)));
    }
}

#[test]
fn a_device_stays_locked_until_its_driver_is_dropped() {
    let bench = Bench::new(|capability| capability.max_rx_queues = 0);
    let error = bench.registry.open("mock:contradictory").unwrap_err().to_string();
    assert!(error.contains("contradict themselves"), "{error}");
    assert_eq!(bench.with(|device| device.locked_to_the_end), Some(true));
    assert_eq!(DeviceLock::holder(&key("contradictory")), None);
}

#[test]
fn a_call_that_outlives_its_port_keeps_the_device_locked_and_lets_go() {
    for next_call in [false, true] {
        let bench = Bench::new(|_| {});
        let mut port = bench.registry.open_with("mock:held", &bench.pool).unwrap();
        let (mut rx, tx) = port.start().unwrap().into_pair();
        let (end, hold) = std::sync::mpsc::channel();
        bench.with(|device| device.hold = Some(hold));
        let in_it = std::thread::spawn(move || {
            rx.recv(&mut Burst::new()).unwrap();
            rx
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while bench.with(|device| device.hold.is_some()) {
            assert!(Instant::now() < deadline, "the call does not begin");
            std::thread::yield_now();
        }
        assert!(matches!(port.close(), Err(Error::Timeout { .. })));
        // The port's half is gone, and the queue whose owner is in no call; the other one still has the device.
        assert_eq!(bench.with(|device| device.locked_to_the_end), Some(true));
        let own = Some(std::process::id());
        assert_eq!(DeviceLock::holder(&key("held")), own);
        end.send(()).unwrap();
        let mut rx = in_it.join().unwrap();
        assert_eq!(DeviceLock::holder(&key("held")), own);
        match next_call {
            true => assert!(rx.recv(&mut Burst::new()).unwrap_err().is_closed()),
            false => drop(rx),
        }
        assert_eq!(DeviceLock::holder(&key("held")), None);
        drop(tx);
    }
}
