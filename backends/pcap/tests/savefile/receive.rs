//! What is received from a file, and how it ends.

use anyport::packet::{Clock, TimestampSource};
use anyport::{Armed, Burst, Pool, Wake};
use anyport_capfile::{Format, Record, Writer};

use super::*;

#[test]
fn a_file_is_received_whole_and_ends() {
    let folder = Folder::new();
    let lengths = [14, 15, 59, 60, 61, 64, 1000, 1513, 1514];
    let frames: Vec<(u64, Vec<u8>)> = (0..300)
        .map(|n| (SECOND + u64::from(n), frame(n, lengths[n as usize % lengths.len()])))
        .collect();
    for name in ["a.pcap", "a.pcapng", "noname"] {
        capture(&folder.path(name), &frames);
        let mut end = open(&folder.spec(&format!("in=@{name}")), pool(512));
        let (received, error) = end.receive();
        assert!(error.is_ended());
        assert!(received.iter().eq(frames.iter().map(|(_, frame)| frame)));
        // It stays so, and nobody waits for it.
        assert_eq!(end.rx.wait(LONG).unwrap(), Wake::Ended);
        assert_eq!(end.rx.arm().unwrap(), Armed::Ready);
        assert!(end.rx.recv(&mut Burst::new()).unwrap_err().is_ended());
        let counters = end.counters();
        assert_eq!(counters.rx_packets, Some(300));
        assert_eq!(counters.rx_bytes, Some(frames.iter().map(|(_, f)| f.len() as u64).sum()));
        assert_eq!((counters.rx_dropped(), counters.rx_no_buffer), (0, Some(0)));
        end.port.close().unwrap();
        assert_eq!(end.pool.free(), 512);
    }
}

#[test]
fn the_end_comes_after_the_last_burst_and_wait_says_ready_before() {
    let folder = Folder::new();
    numbered(&folder.path("a.pcap"), 4);
    let mut end = open(&folder.spec("in=@a.pcap"), pool(64));
    let mut burst = Burst::with_capacity(2);
    for _ in 0..2 {
        assert_eq!(end.rx.wait(LONG).unwrap(), Wake::Ready);
        assert_eq!(end.rx.recv(&mut burst).unwrap(), 2);
        burst.clear();
    }
    assert_eq!(end.rx.wait(LONG).unwrap(), Wake::Ended);
}

#[test]
fn times_are_the_files_where_they_are_asked_for() {
    let folder = Folder::new();
    // One of them is the beginning of 1970, one is not known: a simple packet block has none.
    capture(&folder.path("a"), &[(5 * SECOND + 7, frame(0, 60)), (0, frame(1, 60))]);
    let mut file = std::fs::read(folder.path("a")).unwrap();
    for part in [&[3, 76, 60].map(u32::to_le_bytes).concat()[..], &frame(2, 60), &[76, 0, 0, 0]] {
        file.extend(part);
    }
    std::fs::write(folder.path("a"), file).unwrap();
    for (key, times) in
        [("", [None; 3]), (",rx_timestamp=required", [Some(5 * SECOND + 7), Some(0), None])]
    {
        let mut end = open(&folder.spec(&format!("in=@a{key}")), pool(64));
        let mut burst = Burst::new();
        assert_eq!(end.rx.recv(&mut burst).unwrap(), 3);
        for (packet, ns) in burst.iter().zip(times) {
            let stamp = packet.timestamp();
            assert_eq!(stamp.map(|stamp| stamp.ns), ns);
            assert!(
                stamp.is_none_or(|stamp| stamp.source == TimestampSource::Recorded
                    && stamp.clock == Clock::RealTime)
            );
        }
    }
}

#[test]
fn loops_are_counted_and_their_times_go_on() {
    let folder = Folder::new();
    // Out of order, as a merged capture may be: a span of 9 in 4 frames, so a mean gap of 3.
    let times = [1006, 1000, 1009, 1003];
    let frames: Vec<_> = times.iter().map(|ns| (*ns, frame(*ns as u32, 60))).collect();
    capture(&folder.path("a.pcap"), &frames);
    let mut end = open(&folder.spec("in=@a.pcap,loops=3,rx_timestamp=auto"), pool(64));
    let mut burst = Burst::new();
    while end.rx.recv(&mut burst).is_ok() {}
    let received: Vec<_> = burst.iter().map(|packet| packet.timestamp().unwrap().ns).collect();
    let expected: Vec<_> = (0..3).flat_map(|pass| times.map(|ns| ns + pass * 12)).collect();
    assert_eq!(received, expected);
    assert_eq!(end.counters().rx_packets, Some(12));
    drop(burst);

    // A million passes of one frame, and no more.
    capture(&folder.path("one.pcapng"), &[(7, frame(1, 60))]);
    let mut end = open(&folder.spec("in=@one.pcapng,loops=100000"), pool(512));
    let mut burst = Burst::new();
    while end.rx.recv(&mut burst).is_ok() {
        burst.clear();
    }
    assert_eq!(end.counters().rx_packets, Some(100_000));

    // Endlessly: more than anybody counts, and the port stops.
    let mut end = open(&folder.spec("in=@one.pcapng,loops=0,rx_timestamp=auto"), pool(512));
    for round in 0..1000 {
        assert_eq!(end.rx.recv(&mut burst).unwrap(), 64);
        assert_eq!(burst[0].timestamp().unwrap().ns, 7 + 64 * round);
        burst.clear();
    }
    end.port.close().unwrap();
}

#[test]
fn what_has_nothing_to_deliver_ends_even_endlessly() {
    let folder = Folder::new();
    capture(&folder.path("none.pcap"), &[]);
    // Only frames over the maximum.
    capture(&folder.path("long.pcap"), &vec![(0, frame(1, 1600)); 3000]);
    for (name, loops, long) in
        [("none", 0, 0), ("none", 5, 0), ("long", 0, 3000), ("long", 2, 6000)]
    {
        let mut end = open(&folder.spec(&format!("in=@{name}.pcap,loops={loops}")), pool(64));
        let (frames, error) = end.receive();
        assert!(frames.is_empty() && error.is_ended());
        assert_eq!(end.counters().rx_too_long, Some(long));
    }
}

#[test]
fn frames_of_a_length_that_does_not_fit_are_dropped_and_counted() {
    let folder = Folder::new();
    let mut tagged = frame(3, 1518);
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    let mut writer = Writer::create(&folder.path("a.pcap"), Format::Pcap, "x").unwrap();
    let all = [
        (frame(0, 60), 60),
        // Cut short when it was captured, although what is left would do.
        (frame(1, 60), 61),
        (frame(2, 1515), 1515),
        (tagged.clone(), 1518),
        (frame(4, 1518), 1518),
        (frame(5, 1519), 1519),
        (frame(6, 9000), 9000),
        (frame(7, 13)[..13].to_vec(), 13),
        (Vec::new(), 0),
        (frame(8, 14), 14),
    ];
    for (data, original_len) in &all {
        let (timestamp_ns, original_len) = (Some(1), *original_len);
        writer.write(&Record { timestamp_ns, original_len, data, direction: None }).unwrap();
    }
    writer.finish().unwrap();
    let mut end = open(&folder.spec("in=@a.pcap"), pool(64));
    let (frames, error) = end.receive();
    assert!(error.is_ended());
    assert_eq!(frames, [frame(0, 60), tagged, frame(8, 14)]);
    let counters = end.counters();
    assert_eq!((counters.rx_too_long, counters.rx_too_short), (Some(5), Some(2)));
    assert_eq!(counters.rx_packets, Some(3));

    // With room for all of them: those that were cut are the only ones left out.
    let pool = Pool::builder().frames(64).frame_size(16384).build().unwrap();
    let mut end = open(&folder.spec("in=@a.pcap,max_frame=9000"), pool);
    assert_eq!(end.receive().0.len(), 7);
    let counters = end.counters();
    assert_eq!((counters.rx_too_long, counters.rx_too_short), (Some(1), Some(2)));
    // A pool that cannot hold the maximum is refused at start.
    let mut port =
        registry().open_with(&folder.spec("in=@a.pcap,max_frame=9000"), &self::pool(64)).unwrap();
    says(port.start().unwrap_err(), &["max_frame", "9004", "max_segments"]);
}

#[test]
fn damage_is_an_error_after_the_frames_before_it() {
    let folder = Folder::new();
    for name in ["a.pcap", "a.pcapng"] {
        let path = folder.path(name);
        numbered(&path, 100);
        let whole = std::fs::read(&path).unwrap();
        let record = if name == "a.pcap" { 16 + 60 } else { 32 + 60 };
        let cut = &whole[..whole.len() - 10];
        let mut corrupt = whole.clone();
        // The length of the last frame.
        let at = whole.len() - record + if name == "a.pcap" { 8 } else { 20 };
        corrupt[at..at + 4].copy_from_slice(&[0xff; 4]);
        for (bytes, what) in
            [(cut, "is cut off: record 100"), (&corrupt, "is corrupt at record 100")]
        {
            std::fs::write(&path, bytes).unwrap();
            let mut end = open(&folder.spec(&format!("in=@{name},loops=5")), pool(512));
            let (frames, error) = end.receive();
            assert_eq!(frames, (0..99).map(|n| frame(n, 60)).collect::<Vec<_>>());
            says(error, &[name, what]);
            for _ in 0..3 {
                says(end.rx.recv(&mut Burst::new()).unwrap_err(), &[name, what]);
                says(end.rx.wait(LONG).unwrap_err(), &[name, what]);
            }
            // After a new start, too.
            end.port.stop().unwrap();
            let (mut rx, _) = end.port.start().unwrap().into_pair();
            says(rx.wait(LONG).unwrap_err(), &[name, what]);
            assert_eq!(end.counters().rx_packets, Some(99));
            end.port.close().unwrap();
        }
    }
}
