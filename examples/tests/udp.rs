//! The example backend `udp:` by itself, over the loop-back interface: what it has to do right on its own, and then
//! the conformance suite.

mod common;

#[allow(dead_code)]
#[path = "../src/bin/backend.rs"]
mod backend;

use std::net::UdpSocket;

use anyport::{Armed, Burst, Error, MacAddr, Pool, Registry};
use anyport_conformance::{Filter, Need, Outcome, Power, cases, rig::Given, run};
use common::{End, frame};

fn registry() -> Registry {
    let mut registry = anyport_backends::registry();
    registry.register(backend::Udp).unwrap();
    registry
}

/// Two addresses that no other test, in no other process, uses: the whole of 127.0.0.0/8 is this host.
fn addresses(test: u8) -> [String; 2] {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    [1, 2].map(|end| {
        format!("127.{}.{middle}.{low}:{}", 100 + high, 4000 + 10 * u16::from(test) + end)
    })
}

fn specs(test: u8) -> [String; 2] {
    let [a, b] = addresses(test);
    [format!("udp:{a}-{b}"), format!("udp:{b}-{a}")]
}

#[test]
fn frames_pass_both_ways_and_are_filtered() {
    let [mut a, mut b] = specs(0).map(|spec| End::open(&registry(), &spec));
    let (to_a, to_b) = (a.mac(), b.mac());
    assert_ne!(to_a, to_b);
    for batch in 0..20 {
        let frames: Vec<_> =
            (0..50).map(|n| frame(to_b, batch * 50 + n, 60 + 29 * n as usize)).collect();
        a.send(&frames);
        assert_eq!(b.receive(50), frames);
    }
    let foreign = MacAddr([2, 9, 9, 9, 9, 9]);
    b.send(&[frame(foreign, 1, 60), frame(MacAddr::BROADCAST, 2, 60), frame(to_a, 3, 20)]);
    let mut padded = frame(to_a, 3, 20);
    padded.resize(60, 0);
    assert_eq!(a.receive(2), [frame(MacAddr::BROADCAST, 2, 60), padded]);
    a.port.control().set_promiscuous(true).unwrap();
    b.send(&[frame(foreign, 4, 60)]);
    assert_eq!(a.receive(1), [frame(foreign, 4, 60)]);
    let counted = a.port.stats().read().port;
    assert_eq!(
        (counted.rx_packets, counted.rx_filtered, counted.rx_ring_full),
        (Some(3), Some(1), None)
    );
}

#[test]
fn what_is_no_frame_of_the_other_end_is_not_delivered() {
    let [near, far] = addresses(1);
    let [spec, _] = specs(1);
    let mut port = End::open(&registry(), &spec);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = UdpSocket::bind(&far).unwrap();
    let wanted = frame(port.mac(), 1, 60);
    for _ in 0..10 {
        stranger.send_to(&wanted, &near).unwrap();
    }
    for length in [0, 13, 1515, 1518, 60000] {
        peer.send_to(&frame(port.mac(), 0, 60000)[..length], &near).unwrap();
    }
    peer.send_to(&wanted, &near).unwrap();
    assert_eq!(port.receive(1), [wanted]);
    let counted = port.port.stats().read().port;
    assert_eq!(
        (counted.rx_packets, counted.rx_too_short, counted.rx_too_long),
        (Some(1), Some(2), Some(3))
    );
}

#[test]
fn a_stop_forgets_what_came_and_a_dry_pool_counts() {
    let [mut a, mut b] = specs(2).map(|spec| End::open(&registry(), &spec));
    let to_b = b.mac();
    a.send(&[frame(to_b, 1, 60)]);
    b.port.stop().unwrap();
    a.send(&[frame(to_b, 2, 60)]);
    (b.rx, b.tx) = b.port.start().unwrap().into_pair();
    a.send(&[frame(to_b, 3, 60)]);
    assert_eq!(b.receive(1), [frame(to_b, 3, 60)]);

    // Arming gives back what the queue holds in its cache.
    assert_eq!(b.rx.arm().unwrap(), Armed::Armed);
    let held: Vec<_> = std::iter::from_fn(|| b.pool.take()).collect();
    a.send(&(0..10).map(|n| frame(to_b, n, 60)).collect::<Vec<_>>());
    let mut burst = Burst::new();
    while b.port.stats().read().port.rx_no_buffer != Some(10) {
        assert_eq!(b.rx.recv(&mut burst).unwrap(), 0);
    }
    drop(held);
    a.send(&[frame(to_b, 4, 60)]);
    assert_eq!(b.receive(1), [frame(to_b, 4, 60)]);
}

#[test]
fn bad_devices_and_second_openers_are_refused() {
    let registry = registry();
    for device in ["", "127.0.0.1:1", "127.0.0.1:1-nowhere", "127.0.0.1:1-127.0.0.1:1"] {
        let error = registry.open(&format!("udp:{device}")).unwrap_err();
        assert!(matches!(error, Error::UnknownDevice { .. }), "{error}");
        assert!(error.to_string().contains("LOCAL-REMOTE"), "{error}");
    }
    let [spec, _] = specs(3);
    let error = registry.open(&format!("{spec},ttl=3")).unwrap_err();
    assert!(matches!(error, Error::UnknownKey { .. }), "{error}");
    // An address of a documentation network, which no interface here has.
    let error = registry.open("udp:192.0.2.1:5-192.0.2.2:5").unwrap_err().to_string();
    assert!(error.starts_with("udp:192.0.2.1:5-192.0.2.2:5: binding the socket: "), "{error}");
    let first = registry.open_with(&spec, &Pool::builder().build().unwrap()).unwrap();
    let [local, _] = addresses(3);
    let error = registry.open(&format!("udp:{local}-127.0.0.1:9")).unwrap_err();
    let own = std::process::id();
    assert!(matches!(error, Error::Busy { pid, .. } if pid == own), "{error}");
    first.close().unwrap();
    registry.open(&spec).unwrap();
}

/// Whether a case needs what `udp:` does not declare, or what a rig of two given ports cannot do.
fn lacks(need: &Need) -> bool {
    match need {
        Need::TwoWay | Need::Exclusive | Need::Promiscuous | Need::Shared => false,
        Need::Queues(count) | Need::Segments(count) => *count > 1,
        Need::Pools(count) => *count > 8,
        Need::MaxFrame(bytes) => *bytes > 1514,
        Need::CanEnd | Need::CanVanish | Need::ExactDrops | Need::Filters | Need::LinkState => true,
        Need::Rss | Need::SetMac | Need::SetMaxFrame | Need::SoftwareLink => true,
        Need::Rig(Power::Direct) => false,
        Need::TxTimestamp | Need::ZeroCopy | Need::Rig(_) => true,
    }
}

#[test]
fn it_keeps_the_contract() {
    let [one, other] = specs(4);
    let rig = Given::new(registry(), &one, &other).unwrap();
    let report = run(Box::new(rig), &Filter::default(), None, &mut |_| {}).unwrap();
    let failed: Vec<_> =
        report.results.iter().filter(|case| matches!(case.outcome, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // Every case has run and passed, but for those alone that need what is not there.
    let wrong: Vec<_> = cases::all()
        .zip(&report.results)
        .filter(|(case, result)| {
            let as_it_should_be = match (&result.outcome, case.needs.iter().any(lacks)) {
                (Outcome::Passed, false) => true,
                (Outcome::Skipped(reason), true) => {
                    reason.starts_with("capability `") || reason.starts_with("the rig cannot ")
                }
                _ => false,
            };
            case.name != result.name || !as_it_should_be
        })
        .map(|(_, result)| result)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(report.results.len(), cases::all().count());
}
