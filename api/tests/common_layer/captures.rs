//! Taps and capture files.

use std::time::Duration;

use anyport::{Burst, MacAddr};

use crate::driver::*;

#[test]
fn taps_see_what_was_received_and_accepted() {
    use anyport::capture::Direction;
    let bench = Bench::new(|_| {});
    let (port, mut rx, mut tx) = bench.open("");
    let mut tap = port.control().tap(1 << 16);
    bench.arrive(frame(80));
    let mut burst = Burst::new();
    rx.recv(&mut burst).unwrap();
    burst.clear();
    let mut burst = burst_of(&bench.pool, &[frame(20), frame(90)]);
    bench.with(|device| device.room = 1);
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    let seen: Vec<(Direction, usize)> =
        std::iter::from_fn(|| tap.next(Duration::ZERO).map(|c| (c.direction, c.frame.len())))
            .collect();
    assert_eq!(seen, [(Direction::Received, 80), (Direction::Sent, 60)]);
    assert_eq!(burst[0].len(), 90);
    drop(tap);
    bench.with(|device| device.room = 1);
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!(port.stats().read().port.capture_dropped, Some(0));
}

#[test]
fn a_tapped_burst_goes_down_as_one_and_the_tap_has_what_was_accepted() {
    let bench = Bench::new(|_| {});
    let (port, _rx, mut tx) = bench.open("");
    // Room for ten frames and their records' heads.
    let mut tap = port.control().tap(10 * (13 + 60));
    let frames: Vec<Vec<u8>> = (0..64).map(|number| [&frame(59)[..], &[number]].concat()).collect();
    let seen = |tap: &mut anyport::capture::Tap| -> Vec<Vec<u8>> {
        std::iter::from_fn(|| tap.next(Duration::ZERO).map(|c| c.frame.to_vec())).collect()
    };
    let mut burst = burst_of(&bench.pool, &frames);
    for (room, dropped) in [(6, 0), (14, 4)] {
        let at = 64 - burst.len();
        bench.with(|device| (device.room, device.sends) = (room, 0));
        assert_eq!(tx.send(&mut burst).unwrap(), room);
        assert_eq!(bench.with(|device| device.sends), 1);
        assert_eq!(seen(&mut tap), frames[at..at + room - dropped]);
        assert_eq!(port.stats().read().port.capture_dropped, Some(dropped as u64));
    }
}

#[test]
fn a_capture_goes_to_a_file_or_the_port_is_not_opened() {
    let bench = Bench::new(|_| {});
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("both.pcapng");
    let (port, mut rx, mut tx) = bench.open(&format!(",capture={}", path.display()));
    bench.arrive(frame(80));
    let mut burst = Burst::new();
    rx.recv(&mut burst).unwrap();
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!(port.stats().read().port.capture_dropped, Some(0));
    port.close().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let found = bytes.windows(80).filter(|window| *window == frame(80)).count();
    assert_eq!(found, 2, "received and sent");

    // A reader that goes away, as a full disk would: the port goes on, and closing it tells.
    let fifo = directory.path().join("fifo");
    let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: a terminated string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    use std::os::unix::fs::OpenOptionsExt;
    let reader =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    let (port, mut rx, _) = bench.open(&format!(",capture={}", fifo.display()));
    drop(reader);
    for _ in 0..3 {
        bench.arrive(frame(80));
        burst.clear();
        assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    }
    let stats = port.stats();
    let error = port.close().unwrap_err().to_string();
    assert!(error.contains("fifo: writing the capture: Broken pipe"), "{error}");
    assert_eq!(stats.read().port.capture_dropped, Some(3));

    let error = bench.registry.open("mock:full,capture=/dev/full").unwrap_err().to_string();
    assert!(error.contains("/dev/full: creating the capture file: No space left"), "{error}");
    burst.clear();
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn a_taps_reader_finds_the_end_after_close() {
    let bench = Bench::new(|_| {});
    let (port, _rx, mut tx) = bench.open("");
    let mut tap = port.control().tap(1 << 16);
    tx.send(&mut burst_of(&bench.pool, &[frame(60)])).unwrap();
    assert!(!tap.is_finished());
    port.close().unwrap();
    assert_eq!(tap.next(Duration::ZERO).unwrap().frame, frame(60));
    assert!(tap.next(Duration::from_secs(60)).is_none() && tap.is_finished());
}

#[test]
fn a_tap_of_a_closed_port_has_ended() {
    let bench = Bench::new(|_| {});
    let (port, ..) = bench.open("");
    let control = port.control();
    port.close().unwrap();
    let mut tap = control.tap(1 << 16);
    assert!(tap.is_finished() && tap.next(Duration::from_secs(60)).is_none());
}

#[test]
fn a_refused_configuration_leaves_an_old_capture_alone() {
    let bench = Bench::new(|capability| capability.set_mac = true);
    let (mut port, ..) = bench.open("");
    port.stop().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.pcapng");
    std::fs::write(&path, "old").unwrap();
    bench.with(|device| device.fail = Some("mac"));
    let mut config = port.config();
    (config.mac, config.capture) = (Some(MacAddr([2, 0, 0, 0, 0, 7])), Some(path.clone()));
    port.configure(config).unwrap_err();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    bench.with(|device| device.fail = None);
    let mut config = port.config();
    (config.mac, config.capture) = (Some(MacAddr([2, 0, 0, 0, 0, 7])), Some(dir.path().into()));
    port.configure(config).unwrap_err();
    assert_eq!(bench.with(|device| device.mac), OWN, "put back");
}
