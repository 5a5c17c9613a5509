//! When frames come: pools that run dry, and original timing.

use std::time::{Duration, Instant};

use anyport::{Armed, Burst, RxQueue, Wake};

use super::*;

#[test]
fn a_dry_pool_makes_a_file_wait_and_loses_nothing() {
    let folder = Folder::new();
    numbered(&folder.path("a.pcap"), 1000);
    let mut end = open(&folder.spec("in=@a.pcap"), pool(8));
    let mut held = Burst::new();
    assert_eq!(end.rx.recv(&mut held).unwrap(), 8);
    for _ in 0..3 {
        assert_eq!(end.rx.recv(&mut held).unwrap(), 0);
        assert_eq!(end.rx.wait(Duration::from_millis(1)).unwrap(), Wake::Timeout);
    }
    let mut received: Vec<Vec<u8>> = held.iter().map(|packet| packet.data().to_vec()).collect();
    // Frames come back from another thread, while this one waits.
    let (give, take) = std::sync::mpsc::channel::<Burst>();
    std::thread::scope(|scope| {
        scope.spawn(move || take.into_iter().for_each(drop));
        give.send(std::mem::take(&mut held)).unwrap();
        loop {
            let wake = end.rx.wait(LONG).unwrap();
            if wake == Wake::Ended {
                break;
            }
            assert_eq!(wake, Wake::Ready);
            let mut burst = Burst::new();
            end.rx.recv(&mut burst).unwrap();
            received.extend(burst.iter().map(|packet| packet.data().to_vec()));
            give.send(burst).unwrap();
        }
        drop(give);
    });
    assert_eq!(received, (0..1000).map(|n| frame(n, 60)).collect::<Vec<_>>());
    let counters = end.counters();
    assert_eq!((counters.rx_packets, counters.rx_dropped()), (Some(1000), 0));
    drop(held);
    end.port.close().unwrap();
    assert_eq!(end.pool.free(), 8);
}

#[test]
fn long_frames_are_chains_and_wait_for_enough_of_the_pool() {
    let folder = Folder::new();
    let frames: Vec<_> = (0..100).map(|n| (1, frame(n, 4000))).collect();
    capture(&folder.path("a.pcap"), &frames);
    // Three segments each: the second frame has to wait for the first one's.
    let spec = folder.spec("in=@a.pcap,max_frame=4000,max_segments=3");
    let mut end = open(&spec, pool(5));
    let (give, take) = std::sync::mpsc::channel::<Burst>();
    let mut received = 0;
    std::thread::scope(|scope| {
        scope.spawn(move || take.into_iter().for_each(drop));
        loop {
            let mut burst = Burst::new();
            match end.rx.recv(&mut burst) {
                Ok(0) => assert_eq!(end.rx.wait(LONG).unwrap(), Wake::Ready),
                Ok(_) => {
                    for packet in &*burst {
                        assert_eq!(packet.segment_count(), 3);
                        let bytes: Vec<u8> = packet.segments().flatten().copied().collect();
                        assert_eq!(bytes, frame(received, 4000));
                        received += 1;
                    }
                    give.send(burst).unwrap();
                }
                Err(error) => {
                    assert!(error.is_ended());
                    break;
                }
            }
        }
        drop(give);
    });
    assert_eq!(received, 100);
    assert_eq!(end.counters().rx_dropped(), 0);
    // A pool that could never hold one: counted, not waited for.
    let mut end = open(&spec, pool(2));
    let (frames, error) = end.receive();
    assert!(frames.is_empty() && error.is_ended());
    assert_eq!(end.counters().rx_no_buffer, Some(100));
}

#[test]
fn original_timing_keeps_the_gaps() {
    let folder = Folder::new();
    let gap = 20_000_000;
    // Two at once, and one whose time goes back.
    let times = [SECOND, SECOND, SECOND + gap, SECOND, SECOND + 2 * gap];
    let frames: Vec<_> =
        times.iter().enumerate().map(|(n, ns)| (*ns, frame(n as u32, 60))).collect();
    capture(&folder.path("a.pcap"), &frames);
    let mut end = open(&folder.spec("in=@a.pcap,timing=original,loops=2"), pool(64));
    let started = Instant::now();
    let (mut received, mut arrived) = (Vec::new(), Vec::new());
    loop {
        match end.rx.wait(LONG).unwrap() {
            Wake::Ended => break,
            wake => assert_eq!(wake, Wake::Ready),
        }
        let mut burst = Burst::new();
        end.rx.recv(&mut burst).unwrap();
        for packet in burst.drain() {
            received.push(packet.data().to_vec());
            arrived.push(started.elapsed());
        }
    }
    let once: Vec<_> = frames.iter().map(|(_, frame)| frame.clone()).collect();
    assert_eq!(received, [once.clone(), once].concat());
    // The second pass begins a mean gap after the first: half of one.
    let due = [0, 0, 2, 2, 4, 5, 5, 7, 7, 9].map(|halves| Duration::from_nanos(halves * gap / 2));
    for (arrived, due) in arrived.into_iter().zip(due) {
        assert!(arrived >= due, "{arrived:?} before {due:?}");
    }
}

#[test]
fn a_frame_that_is_not_due_is_slept_for_by_wait_and_by_a_loop_of_ones_own() {
    let folder = Folder::new();
    let hour = 3600 * SECOND;
    let times = [SECOND, SECOND + 30_000_000, hour];
    let frames: Vec<_> = times.iter().map(|ns| (*ns, frame(0, 60))).collect();
    capture(&folder.path("a.pcap"), &frames);
    let End { port, mut rx, .. } = open(&folder.spec("in=@a.pcap,timing=original"), pool(64));
    let mut burst = Burst::new();
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    let poll = |rx: &RxQueue, timeout: i32| {
        let mut fd = libc::pollfd { fd: rx.descriptor(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one local entry.
        unsafe { libc::poll(&mut fd, 1, timeout) }
    };
    assert_eq!(poll(&rx, 20_000), 1);
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    assert_eq!(poll(&rx, 1), 0);
    assert_eq!(rx.recv(&mut burst).unwrap(), 0);
    assert_eq!(rx.wait(Duration::from_millis(1)).unwrap(), Wake::Timeout);
    // Nobody has to wait an hour to stop it.
    let mut port = waker_and_stop_end_a_wait(port, rx);
    // The frame that was not due is the first one after the next start, and due then.
    let (mut rx, _) = port.start().unwrap().into_pair();
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    assert!(rx.recv(&mut burst).unwrap_err().is_ended());
    assert_eq!(port.stats().read().port.rx_packets, Some(3));
}
