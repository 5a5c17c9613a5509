//! What is sent to a file.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyport::{Burst, Error};
use anyport_capfile::{Direction, Format, Reader};

use super::*;

#[test]
fn what_is_sent_is_in_the_file_when_send_returns() {
    let folder = Folder::new();
    for (keys, format) in [
        ("out=@b.pcap,max_segments=64", Format::Pcap),
        ("out=@b.pcapng,max_segments=64", Format::Pcapng),
        ("out=@b,format=pcap,max_segments=64", Format::Pcap),
        ("out=@b.pcap,format=pcapng,max_segments=64", Format::Pcapng),
    ] {
        let path = folder.path(keys["out=@".len()..].split(',').next().unwrap());
        let mut end = open(&folder.spec(keys), pool(512));
        let lengths = [14, 59, 60, 61, 1514, 1518, 9000, 65_535];
        let frames: Vec<_> = (0..).zip(lengths).map(|(n, length)| frame(n, length)).collect();
        let before = anyport::time::realtime_ns();
        for (sent, frame) in frames.iter().enumerate() {
            assert_eq!(read(&path).len(), sent);
            assert_eq!(end.send(std::slice::from_ref(frame)).unwrap(), 1);
        }
        assert_eq!(end.send(&vec![frame(9, 100); 64]).unwrap(), 64);
        let after = anyport::time::realtime_ns();
        let records = read(&path);
        assert_eq!(Reader::open(&path).unwrap().format(), format);
        assert_eq!(records.len(), frames.len() + 64);
        let direction = (format == Format::Pcapng).then_some(Direction::Sent);
        let mut last = before;
        for (index, (ns, original, data, way)) in records.iter().enumerate() {
            let mut expected = frames.get(index).cloned().unwrap_or_else(|| frame(9, 100));
            // Padded with zero bytes (contract T5).
            expected.resize(expected.len().max(60), 0);
            assert_eq!((data, *original, *way), (&expected, expected.len(), direction));
            assert!((last..=after).contains(ns));
            last = *ns;
        }
        let counters = end.counters();
        assert_eq!(counters.tx_packets, Some(records.len() as u64));
        assert_eq!(counters.tx_bytes, Some(records.iter().map(|record| record.1 as u64).sum()));
        assert_eq!(end.tx.flush(Duration::ZERO).unwrap(), 0);
        assert_eq!(end.pool.free(), 512);
        // Too short is refused, and nothing of it is in the file.
        assert!(matches!(end.send(&[vec![0; 13]]), Err(Error::FrameTooShort { length: 13 })));
        end.port.close().unwrap();
        assert_eq!(read(&path), records);
    }
}

#[test]
fn from_file_to_file_times_are_kept_where_they_are_received() {
    let folder = Folder::new();
    numbered(&folder.path("a.pcap"), 200);
    let mut end = open(&folder.spec("in=@a.pcap,out=@b.pcapng,rx_timestamp=auto"), pool(512));
    let mut burst = Burst::new();
    while end.rx.recv(&mut burst).is_ok() {
        while !burst.is_empty() {
            assert_ne!(end.tx.send(&mut burst).unwrap(), 0);
        }
    }
    end.port.close().unwrap();
    let (from, to) = (read(&folder.path("a.pcap")), read(&folder.path("b.pcapng")));
    let strip = |all: Vec<Read>| all.into_iter().map(|(ns, length, data, _)| (ns, length, data));
    assert!(strip(from).eq(strip(to)));
}

/// Runs a test with a disk of `size` bytes, which only its thread sees; without the privilege to mount one, not at all.
fn on_small_disk(size: usize, test: impl FnOnce(&Folder) + Send) {
    let folder = Folder::new();
    let path = CString::new(folder.0.path().as_os_str().as_bytes()).unwrap();
    let options = CString::new(format!("size={size}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: it changes this thread alone.
            let apart = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
            let mount = |source: &std::ffi::CStr,
                         target: &std::ffi::CStr,
                         flags,
                         options: *const libc::c_char| {
                // SAFETY: terminated strings, and null where the kernel takes that. What is mounted goes with the thread.
                unsafe {
                    libc::mount(
                        source.as_ptr(),
                        target.as_ptr(),
                        source.as_ptr(),
                        flags,
                        options.cast(),
                    ) == 0
                }
            };
            if !apart
                || !mount(c"none", c"/", libc::MS_PRIVATE | libc::MS_REC, std::ptr::null())
                || !mount(c"tmpfs", &path, 0, options.as_ptr())
            {
                let required = std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_some();
                assert!(!required, "root is required");
                eprintln!("skipped: mounting a small disk needs CAP_SYS_ADMIN");
                return;
            }
            test(&folder);
        });
        thread.join().unwrap();
    });
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_counters_stay_exact() {
    on_small_disk(128 << 10, |folder| {
        let ballast = folder.path("ballast");
        std::fs::write(&ballast, vec![0; 64 << 10]).unwrap();
        let mut end = open(&folder.spec("out=@b.pcapng"), pool(512));
        let burst: Vec<_> = (0..32).map(|n| frame(n, 1000)).collect();
        let mut sent = 0;
        let error = loop {
            match end.send(&burst) {
                Ok(count) => sent += count as u64,
                Err(error) => break error,
            }
            assert!(sent < 128);
        };
        says(&error, &["b.pcapng", "No space left on device"]);
        let agree = |end: &End, sent: u64| {
            assert_eq!(read(&folder.path("b.pcapng")).len() as u64, sent);
            let counters = end.counters();
            assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(sent), Some(sent * 1000)));
        };
        assert_ne!(sent, 0);
        agree(&end, sent);
        // It stays an error that takes nothing, and what was refused is still the caller's.
        let mut packets = Burst::new();
        burst.iter().for_each(|frame| packets.push(end.pool.packet(frame).unwrap()).unwrap());
        assert!(end.tx.send(&mut packets).is_err());
        assert_eq!(packets.len(), 32);
        agree(&end, sent);
        std::fs::remove_file(&ballast).unwrap();
        assert_eq!(end.tx.send(&mut packets).unwrap(), 32);
        agree(&end, sent + 32);
        let path = folder.path("b.pcapng");
        end.port.close().unwrap();
        assert_eq!(read(&path).len() as u64, sent + 32);
    });
    // Full from the beginning.
    let mut port = registry().open_with("pcap:out=/dev/full,format=pcap", &pool(64)).unwrap();
    says(port.start().unwrap_err(), &["/dev/full", "No space left on device"]);
}
