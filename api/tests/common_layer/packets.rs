//! What a packet goes through on its way down and up: lengths, copies, requests, chains.

use std::time::{Duration, Instant};

use anyport::packet::{Checksums, Clock, L4Checksum, Timestamp, TimestampSource, TxRequests};
use anyport::{Burst, Error, Pool};

use crate::common::Log;
use crate::driver::*;

#[test]
fn what_is_not_taken_stays_unchanged() {
    let bench = Bench::new(|_| {});
    let (port, _rx, mut tx) = bench.open("");
    let frames = [frame(14), frame(59), frame(1514), frame(20), frame(60)];
    let mut burst = burst_of(&bench.pool, &frames);
    bench.with(|device| device.room = 2);
    assert_eq!(tx.send(&mut burst).unwrap(), 2);
    let left: Vec<&[u8]> = burst.iter().map(|packet| packet.data()).collect();
    assert_eq!(left, frames[2..].iter().map(Vec::as_slice).collect::<Vec<_>>());
    let padded = bench.with(|device| device.taken.clone());
    assert_eq!(padded[0], [&frames[0][..], &[0; 46]].concat());
    assert_eq!(padded[1], [&frames[1][..], &[0; 1]].concat());
    let counters = port.stats().read().port;
    assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(2), Some(120)));
    bench.with(|device| device.room = usize::MAX);
    assert_eq!(tx.send(&mut burst).unwrap(), 3);
    let counters = port.stats().read().port;
    assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(5), Some(120 + 1514 + 60 + 60)));
}

#[test]
fn lengths_are_checked_first_or_stopped_before() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open("");
    let cases = [
        (frame(0), false),
        (frame(13), false),
        (frame(14), true),
        (frame(1514), true),
        (frame(1515), false),
        (tagged(1518), true),
        (tagged(1519), false),
        (frame(1518), false),
    ];
    for (frame, good) in cases {
        let length = frame.len();
        let mut burst = burst_of(&bench.pool, std::slice::from_ref(&frame));
        match tx.send(&mut burst) {
            Ok(1) if good => assert!(burst.is_empty()),
            Err(Error::FrameTooShort { length: said }) if !good && length < 14 => {
                assert_eq!(said, length)
            }
            Err(Error::FrameTooLong { length: said, max: 1514 }) if !good && length > 14 => {
                assert_eq!(said, length);
            }
            other => panic!("{length} bytes: {other:?}"),
        }
        // Behind a good one it stays in the burst, and the queue goes on working.
        let mut burst = burst_of(&bench.pool, &[self::frame(64), frame]);
        assert_eq!(tx.send(&mut burst).unwrap(), if good { 2 } else { 1 });
        assert_eq!(burst.len(), usize::from(!good));
    }
}

#[test]
fn received_frames_are_checked_and_counted_by_cause() {
    let bench = Bench::new(|capability| capability.max_segments = 2);
    let (port, mut rx, _tx) = bench.open(",max_segments=2");
    let mut foreign = frame(60);
    foreign[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let mut own = frame(60);
    own[..6].copy_from_slice(&OWN.0);
    for frame in
        [frame(13), frame(1514), frame(1515), tagged(1518), tagged(1519), foreign, own, frame(4000)]
    {
        bench.arrive(frame);
    }
    let mut burst = Burst::new();
    assert_eq!(rx.recv(&mut burst).unwrap(), 3);
    assert_eq!(burst.iter().map(|packet| packet.len()).collect::<Vec<_>>(), [1514, 1518, 60]);
    let counters = port.stats().read().port;
    assert_eq!((counters.rx_packets, counters.rx_bytes), (Some(3), Some(1514 + 1518 + 60)));
    assert_eq!((counters.rx_too_long, counters.rx_too_short), (Some(3), Some(1)));
    assert_eq!((counters.rx_filtered, counters.rx_dropped()), (Some(1), 4));
    assert_eq!(counters.rx_ring_full, None, "nobody keeps it");
    burst.clear();
    drop(rx);
    drop(port);
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn a_chain_the_port_was_not_configured_for_arrives_linear_or_not_at_all() {
    let bench = Bench::new(|capability| {
        capability.max_segments = 4;
        (capability.max_frame, capability.default_max_frame) = (9600, 1514);
        capability.set_max_frame = true;
    });
    let (_port, mut rx, _tx) = bench.open("");
    let mut burst = Burst::new();
    bench.arrive(frame(1500));
    bench.arrive(frame(5000));
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    drop((_port, rx));
    // 5000 bytes take three segments of 1792.
    let (_port, mut rx, mut tx) = bench.open(",max_segments=3,max_frame=5000");
    bench.arrive(frame(5000));
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    assert_eq!((burst[1].segment_count(), burst[1].len()), (3, 5000));
    burst.pop_front();
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!(bench.with(|device| device.taken.pop()).unwrap(), frame(5000));
}

#[test]
fn foreign_packets_are_copied_and_the_originals_go_home() {
    let bench = Bench::new(|_| {});
    let (port, _rx, mut tx) = bench.open("");
    let foreign = Pool::builder().frames(8).frame_size(512).build().unwrap();
    let mut burst = burst_of(&foreign, &[frame(60), frame(600), frame(30)]);
    assert_eq!(burst[1].segment_count(), 3);
    bench.with(|device| device.room = 2);
    assert_eq!(tx.send(&mut burst).unwrap(), 2);
    assert_eq!((burst.len(), burst[0].len()), (1, 30), "no padding is left on what stays");
    assert_eq!(foreign.free(), 7);
    bench.with(|device| device.room = 1);
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!((foreign.free(), port.stats().read().port.tx_copied), (8, Some(3)));
    assert_eq!(bench.with(|device| device.taken[1].clone()), frame(600));
    assert_eq!(bench.with(|device| device.taken[2].len()), 60);
}

#[test]
fn requests_need_the_offload() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open("");
    let checksums = Checksums { ipv4: false, l4: L4Checksum::Udp };
    for (requests, field) in [
        (TxRequests { vlan: Some(5), ..TxRequests::default() }, "vlan_insert"),
        (TxRequests { checksums, ..TxRequests::default() }, "tx_checksum"),
        (TxRequests { timestamp: true, ..TxRequests::default() }, "tx_timestamp"),
    ] {
        let mut burst = burst_of(&bench.pool, &[frame(60)]);
        burst[0].set_requests(requests);
        match tx.send(&mut burst) {
            Err(Error::OffloadOff { field: said, .. }) => assert_eq!(said, field),
            other => panic!("{field}: {other:?}"),
        }
        assert_eq!(burst.len(), 1);
    }
}

#[test]
fn checksums_are_filled_in_software_and_taken_out_again_if_not_sent() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open(",tx_checksum=auto,vlan_insert=auto");
    // UDP over IPv4 with nothing but zeros for addresses, ports and checksums; 4 bytes of payload.
    let mut original = frame(46);
    original[12..34].fill(0);
    original[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    original[16..18].copy_from_slice(&[0, 32]);
    original[22..24].copy_from_slice(&[64, 17]);
    original[34..42].copy_from_slice(&[0, 0, 0, 0, 0, 12, 0xbe, 0xef]);
    let checksums = Checksums { ipv4: true, l4: L4Checksum::Udp };
    for vlan in [None, Some(5)] {
        let mut burst = burst_of(&bench.pool, std::slice::from_ref(&original));
        burst[0].set_requests(TxRequests { checksums, vlan, timestamp: false });
        bench.with(|device| device.room = 0);
        assert_eq!(tx.send(&mut burst).unwrap(), 0);
        assert_eq!(burst[0].data(), &original[..], "it was not sent, so it is not changed");
        bench.with(|device| device.room = 1);
        assert_eq!(tx.send(&mut burst).unwrap(), 1);
        let sent = bench.with(|device| device.taken.pop()).unwrap();
        let at = if vlan.is_some() { 4 } else { 0 };
        assert_ne!(sent[24 + at..26 + at], [0, 0]);
        assert_ne!(sent[40 + at..42 + at], [0xbe, 0xef]);
    }
}

#[test]
fn a_tag_finds_room_where_the_pool_has_none_in_front() {
    let mut bench = Bench::new(|_| {});
    bench.pool = Pool::builder().frames(64).headroom(0).build().unwrap();
    let (_port, _rx, mut tx) = bench.open(",vlan_insert=auto");
    let mut burst = burst_of(&bench.pool, &[frame(100)]);
    burst[0].set_requests(TxRequests { vlan: Some(5), ..TxRequests::default() });
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    let sent = bench.with(|device| device.taken.pop()).unwrap();
    assert_eq!((sent.len(), &sent[12..16]), (104, &[0x81, 0, 0, 5][..]));
    assert_eq!(sent[16..], frame(100)[12..]);
}

#[test]
fn tags_are_inserted_in_software_and_taken_out_again_if_not_sent() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open(",vlan_insert=auto");
    let frames = [frame(1514), tagged(1518), frame(20)];
    for (at, original) in frames.iter().enumerate() {
        let mut burst = burst_of(&bench.pool, std::slice::from_ref(original));
        burst[0].set_requests(TxRequests { vlan: Some(0x6005), ..TxRequests::default() });
        bench.with(|device| device.room = 0);
        if at == 1 {
            // A second tag on top of the allowed one is too much (contract M2).
            assert!(matches!(
                tx.send(&mut burst),
                Err(Error::FrameTooLong { length: 1522, max: 1514 })
            ));
            continue;
        }
        assert_eq!(tx.send(&mut burst).unwrap(), 0);
        assert_eq!(burst[0].data(), &original[..]);
        bench.with(|device| device.room = 1);
        assert_eq!(tx.send(&mut burst).unwrap(), 1);
        let mut expected = [&original[..12], &[0x81, 0, 0x60, 0x05], &original[12..]].concat();
        expected.resize(expected.len().max(60), 0);
        assert_eq!(bench.with(|device| device.taken.pop()).unwrap(), expected);
    }
}

#[test]
fn each_time_that_a_clock_is_set_back_is_reported() {
    let bench = Bench::new(|capability| capability.offloads.rx_timestamp = true);
    let (_port, mut rx, _tx) = bench.open(",rx_timestamp=required");
    let log = Log::default();
    let mut burst = Burst::new();
    let mut receive = |times: &[u64]| {
        let (source, clock) = (TimestampSource::Kernel, Clock::RealTime);
        for &ns in times {
            bench.with(|device| device.stamps.push_back(Timestamp { ns, source, clock }));
            bench.arrive(frame(60));
        }
        assert_eq!(rx.recv(&mut burst).unwrap(), times.len());
        burst.clear();
    };
    tracing::subscriber::with_default(log.clone(), || {
        receive(&[500, 600, 550]);
        assert_eq!(log.said().len(), 1);
        receive(&[700, 650, 660, 640]);
        // Not a second later, but as soon as that is over: a message at most per second.
        let deadline = Instant::now() + Duration::from_secs(20);
        while log.said().len() < 2 && Instant::now() < deadline {
            receive(&[]);
            std::thread::yield_now();
        }
        receive(&[700, 800]);
    });
    let said = log.said();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("went back by 50 ns"), "{said:?}");
    assert!(said[1].contains("went back 2 times, by up to 50 ns"), "{said:?}");
}
