//! Writing where it fails: a full disk, a pipe that breaks, a process that dies.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

mod common;

use std::ffi::CString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyport_capfile::{Error, Format, Reader, Target, Writer};
use common::*;

/// Runs a test with a disk of `size` bytes, which only its thread sees; without the privilege to mount one, not at all.
fn on_small_disk(size: usize, test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let path = CString::new(folder.path().as_os_str().as_bytes()).unwrap();
    let options = CString::new(format!("size={size}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: it changes this thread alone.
            let apart = unsafe { libc::unshare(libc::CLONE_NEWNS) };
            let private = libc::MS_PRIVATE | libc::MS_REC;
            let none = std::ptr::null();
            // SAFETY: terminated strings, and null where the kernel takes that. What is mounted goes with the thread.
            let mounted = apart == 0
                && unsafe {
                    libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()) == 0
                        && libc::mount(
                            c"none".as_ptr(),
                            path.as_ptr(),
                            c"tmpfs".as_ptr(),
                            0,
                            options.as_ptr().cast(),
                        ) == 0
                };
            if !mounted {
                let required = std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_some();
                assert!(!required, "root is required");
                eprintln!("skipped: mounting a small disk needs CAP_SYS_ADMIN");
                return;
            }
            test(folder.path());
        });
        thread.join().unwrap();
    });
}

#[test]
fn a_full_disk_keeps_whole_records_and_writing_goes_on_when_there_is_room() {
    for format in [Format::Pcap, Format::Pcapng] {
        on_small_disk(64 << 10, |folder| {
            let path = folder.join("full");
            let ballast = folder.join("ballast");
            std::fs::write(&ballast, vec![0; 32 << 10]).unwrap();
            let mut writer = Writer::create(&path, format, "x").unwrap();
            let mut kept = Vec::new();
            let error = loop {
                let record = Owned::new(kept.len() as u64, &frame(kept.len() as u8, 1001));
                writer.write(&record.record()).unwrap();
                match writer.flush() {
                    Ok(()) => kept.push(record),
                    Err(error) => break error,
                }
                assert!(kept.len() < 64);
            };
            let text = error.to_string();
            assert!(text.contains("full: writing: No space left on device"), "{text}");
            assert!(!kept.is_empty());
            assert_eq!(writer.records(), kept.len() as u64);
            let reads = |kept: &[Owned]| {
                let (records, end) = drain(Reader::open(&path));
                end.unwrap();
                assert_eq!(records, kept);
            };
            reads(&kept);
            // More than the buffer takes at once, with nothing of it fitting.
            let big = Owned::new(7, &frame(7, 70_000));
            assert!(matches!(writer.write(&big.record()), Err(Error::Io { .. })));
            reads(&kept);
            std::fs::remove_file(&ballast).unwrap();
            let record = Owned::new(9, &frame(9, 999));
            writer.write(&record.record()).unwrap();
            writer.finish().unwrap();
            kept.push(record);
            reads(&kept);
        });
    }
}

#[test]
fn a_full_disk_costs_only_what_does_not_fit() {
    for (format, around) in [(Format::Pcap, 16), (Format::Pcapng, 32 + 3)] {
        on_small_disk(32 << 10, |folder| {
            let path = folder.join("full");
            let mut writer = Writer::create(&path, format, "x").unwrap();
            // Less than goes to the system by itself, and more than there is room for.
            let records: Vec<_> = (0..50).map(|n| Owned::new(n, &frame(n as u8, 1001))).collect();
            records.iter().for_each(|record| writer.write(&record.record()).unwrap());
            assert!(matches!(writer.flush(), Err(Error::Io { .. })));
            let (kept, end) = drain(Reader::open(&path));
            end.unwrap();
            assert_eq!(writer.records(), kept.len() as u64);
            assert_eq!(kept, records[..kept.len()]);
            let room = (32 << 10) - std::fs::metadata(&path).unwrap().len();
            assert!(room < 1001 + around, "{room} bytes are free after {} records", kept.len());
            // A smaller one fits; the next flush has nothing to do with the one that failed.
            let small = Owned::new(9, &frame(9, 60));
            writer.write(&small.record()).unwrap();
            writer.finish().unwrap();
            let (records, end) = drain(Reader::open(&path));
            end.unwrap();
            assert_eq!(records.last(), Some(&small));
            assert_eq!(records.len(), kept.len() + 1);
        });
    }
}

#[test]
fn a_disk_that_is_full_from_the_beginning_is_an_error_of_create() {
    let error = Writer::create("/dev/full".as_ref(), Format::Pcapng, "x").unwrap_err().to_string();
    assert!(error.contains("/dev/full: writing: No space left on device"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = Writer::create(folder.path(), Format::Pcap, "x").unwrap_err().to_string();
    assert!(error.contains("creating: Is a directory"), "{error}");
}

#[test]
fn what_was_flushed_is_there_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let records: Vec<Owned> = (0..300).map(|n| Owned::new(n, &frame(n as u8, 1000))).collect();
    let mut writer = Writer::create(&path, Format::Pcapng, "x").unwrap();
    records[..100].iter().for_each(|record| writer.write(&record.record()).unwrap());
    writer.flush().unwrap();
    records[100..].iter().for_each(|record| writer.write(&record.record()).unwrap());
    let with_the_system = writer.records() as usize;
    assert!((100..300).contains(&with_the_system));
    // Nothing is run or written any more.
    std::mem::forget(writer);
    let (read, end) = drain(Reader::open(&path));
    end.unwrap();
    assert_eq!(read, records[..with_the_system]);
}

#[test]
fn an_open_file_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, vec![1; 100_000]).unwrap();
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    io::copy(&mut file, &mut io::sink()).unwrap();
    let record = Owned::new(1, &frame(1, 60));
    let mut writer = Writer::start_on(Target::new(file, "a").unwrap(), Format::Pcap, "x").unwrap();
    writer.write(&record.record()).unwrap();
    writer.finish().unwrap();
    assert_eq!(read_whole(&std::fs::read(&path).unwrap()), [record]);
}

#[test]
fn a_file_is_not_emptied_under_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("a"), folder.path().join("b"));
    let record = Owned::new(1, &frame(1, 60));
    let write = |path: &Path| -> Result<(), Error> {
        let mut writer = Writer::create(path, Format::Pcap, "x")?;
        writer.write(&record.record())?;
        writer.finish()
    };
    write(&path).unwrap();
    std::fs::hard_link(&path, &link).unwrap();
    let (first, second) = (Reader::open(&path).unwrap(), Reader::open(&link).unwrap());
    for reader in [first, second] {
        let error = write(&link).unwrap_err();
        assert!(
            matches!(error, Error::InUse { .. }) && error.to_string().contains("b is in use"),
            "{error}"
        );
        drop(reader);
    }
    assert_eq!(drain(Reader::open(&path)).0, std::slice::from_ref(&record));
    // What waits to be emptied is not read, nor written twice; once it is written, it may be looked at.
    let target =
        Target::new(std::fs::OpenOptions::new().write(true).open(&link).unwrap(), "b").unwrap();
    assert!(matches!(Reader::open(&path), Err(Error::InUse { .. })));
    assert!(matches!(write(&path), Err(Error::InUse { .. })));
    let writer = Writer::start_on(target, Format::Pcap, "x").unwrap();
    assert!(matches!(write(&path), Err(Error::InUse { .. })));
    assert!(drain(Reader::open(&path)).0.is_empty());
    drop(writer);
    write(&path).unwrap();
}

#[test]
fn dropping_writes_what_is_buffered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let record = Owned::new(1, &frame(1, 60));
    Writer::create(&path, Format::Pcap, "x").unwrap().write(&record.record()).unwrap();
    assert_eq!(drain(Reader::open(&path)).0, [record]);
}

/// Takes `room` bytes, then breaks.
#[derive(Clone)]
struct Pipe {
    room: usize,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Write for Pipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(self.room);
        if count == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.room -= count;
        self.taken.lock().unwrap().extend(&data[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_pipe_that_broke_takes_no_more() {
    let mut pipe = Pipe { room: 1000, taken: Arc::default() };
    let mut writer = Writer::new(pipe.clone(), "pipe", Format::Pcap, "x").unwrap();
    let record = Owned::new(1, &frame(1, 600));
    writer.write(&record.record()).unwrap();
    writer.flush().unwrap();
    writer.write(&record.record()).unwrap();
    let error = writer.flush().unwrap_err().to_string();
    assert!(error.contains("pipe: writing: broken pipe"), "{error}");
    pipe.room = 1 << 20;
    writer.write(&record.record()).unwrap();
    assert!(writer.flush().unwrap_err().to_string().contains("earlier"));
    assert_eq!(writer.records(), 1);
    let (records, end) = read(&pipe.taken.lock().unwrap());
    assert_eq!(records, [record]);
    assert!(matches!(end, Err(Error::Truncated { record: 2, .. })));
}
