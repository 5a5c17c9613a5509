//! Files that others wrote are read, and files written here are read by others: Wireshark's tools.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

mod common;

use std::path::Path;
use std::process::Command;

use anyport_capfile::{Direction, Error, Format, Reader, Writer};
use common::*;

/// Whether Wireshark's tools are here; `ANYPORT_REQUIRE_TOOLS` makes it an error if not.
fn tools() -> bool {
    let missing: Vec<&str> = ["tshark", "editcap", "mergecap", "text2pcap"]
        .into_iter()
        .filter(|tool| Command::new(tool).arg("--version").output().is_err())
        .collect();
    if !missing.is_empty() {
        let required = std::env::var_os("ANYPORT_REQUIRE_TOOLS").is_some();
        assert!(!required, "not installed: {missing:?}");
        eprintln!("skipped: not installed: {missing:?}");
    }
    missing.is_empty()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Frames of every length that matters, with times to the nanosecond.
fn records() -> Vec<Owned> {
    [14, 15, 16, 17, 60, 61, 1514, 1518, 9014, 65_535]
        .into_iter()
        .enumerate()
        .map(|(number, length)| {
            let mut data = frame(number as u8, length);
            // A type of no protocol, so that nobody finds fault with the bytes.
            data[12..14].copy_from_slice(&[0x88, 0xb5]);
            let timestamp_ns = 1_700_000_000_123_456_789 + number as u64 * 1_000_000_001;
            let direction = [Some(Direction::Received), Some(Direction::Sent), None][number % 3];
            Owned { direction, ..Owned::new(timestamp_ns, &data) }
        })
        .collect()
}

fn write(path: &Path, format: Format, records: &[Owned]) {
    let mut writer = Writer::create(path, format, "anyport0").unwrap();
    records.iter().for_each(|record| writer.write(&record.record()).unwrap());
    writer.finish().unwrap();
}

fn read_file(path: &Path) -> Vec<Owned> {
    let (records, end) = drain(Reader::open(path));
    end.unwrap();
    records
}

#[test]
fn tshark_reads_every_byte_time_and_direction() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut records = records();
    // One that was cut short.
    records[6].data.truncate(100);
    for format in [Format::Pcap, Format::Pcapng] {
        let path = folder.path().join("a");
        write(&path, format, &records);
        let fields = [
            "-e",
            "frame.time_epoch",
            "-e",
            "frame.len",
            "-e",
            "frame.cap_len",
            "-e",
            "frame.interface_name",
            "-e",
            "frame.packet_flags_direction",
        ];
        let shown = run("tshark", &[&["-r", text(&path), "-T", "fields"], &fields[..]].concat());
        let expected: String = records
            .iter()
            .map(|record| {
                let (seconds, rest) =
                    (record.timestamp_ns / 1_000_000_000, record.timestamp_ns % 1_000_000_000);
                let (name, direction) = match (format, record.direction) {
                    (Format::Pcap, _) => ("", ""),
                    (_, Some(Direction::Received)) => ("anyport0", "0x00000001"),
                    (_, Some(Direction::Sent)) => ("anyport0", "0x00000002"),
                    (_, None) => ("anyport0", ""),
                };
                let (original, captured) = (record.original_len, record.data.len());
                format!("{seconds}.{rest:09}\t{original}\t{captured}\t{name}\t{direction}\n")
            })
            .collect();
        assert_eq!(shown, expected, "{format:?}");
        let raw = run("tshark", &["-r", text(&path), "-T", "jsonraw"]);
        let frames: Vec<&str> = raw
            .split("\"frame_raw\": [")
            .skip(1)
            .map(|part| part.split('"').nth(1).unwrap())
            .collect();
        let expected: Vec<String> = records
            .iter()
            .map(|record| record.data.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        assert_eq!(frames, expected);
    }
}

#[test]
fn what_editcap_writes_is_read() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let records = records();
    for source in [Format::Pcap, Format::Pcapng] {
        write(&from, source, &records);
        for (kind, format, unit) in [
            ("pcap", Format::Pcap, 1000),
            ("nsecpcap", Format::Pcap, 1),
            ("pcapng", Format::Pcapng, 1),
        ] {
            run("editcap", &["-F", kind, text(&from), text(&to)]);
            assert_eq!(Reader::open(&to).unwrap().format(), format);
            let mut expected = records.clone();
            for record in &mut expected {
                record.timestamp_ns -= record.timestamp_ns % unit;
                if source == Format::Pcap || format == Format::Pcap {
                    record.direction = None;
                }
            }
            assert_eq!(read_file(&to), expected, "{source:?} to {kind}");
        }
        // Cut to 40 bytes, with a comment.
        run("editcap", &["-s", "40", "-a", "2:a comment", text(&from), text(&to)]);
        for (read, record) in read_file(&to).iter().zip(&records) {
            assert_eq!(read.data, record.data[..record.data.len().min(40)]);
            assert_eq!(read.original_len, record.original_len);
        }
        // Of another link type.
        run("editcap", &["-F", "pcap", "-T", "rawip", text(&from), text(&to)]);
        assert!(matches!(Reader::open(&to), Err(Error::LinkType { number: 101, .. })));
        run("editcap", &["-F", "pcapng", "-T", "linux-sll", text(&from), text(&to)]);
        let (read, end) = drain(Reader::open(&to));
        assert!(read.is_empty());
        assert!(matches!(end, Err(Error::LinkType { number: 113, record: 1, .. })));
    }
}

#[test]
fn what_mergecap_writes_of_several_interfaces_is_read() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let records = records();
    let (even, odd): (Vec<_>, Vec<_>) =
        records.iter().cloned().enumerate().partition(|(number, _)| number % 2 == 0);
    let part = |part: Vec<(usize, Owned)>| part.into_iter().map(|(_, r)| r).collect::<Vec<_>>();
    write(&path("even"), Format::Pcapng, &part(even));
    write(&path("odd"), Format::Pcap, &part(odd));
    run("mergecap", &["-w", text(&path("all")), text(&path("even")), text(&path("odd"))]);
    let mut expected = records;
    expected.iter_mut().skip(1).step_by(2).for_each(|record| record.direction = None);
    assert_eq!(read_file(&path("all")), expected);
}

#[test]
fn what_text2pcap_and_tshark_write_is_read() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut records: Vec<Owned> =
        records().into_iter().filter(|record| record.data.len() < 2000).collect();
    let mut dump = String::new();
    for record in &mut records {
        record.direction = None;
        let (seconds, rest) =
            (record.timestamp_ns / 1_000_000_000, record.timestamp_ns % 1_000_000_000);
        dump.push_str(&format!("{seconds}.{rest:09}\n"));
        for (line, bytes) in record.data.chunks(16).enumerate() {
            let bytes: String = bytes.iter().map(|byte| format!(" {byte:02x}")).collect();
            dump.push_str(&format!("{:06x}{bytes}\n", line * 16));
        }
    }
    std::fs::write(path("dump"), dump).unwrap();
    run("text2pcap", &["-q", "-t", "%s.%f", text(&path("dump")), text(&path("a"))]);
    assert_eq!(read_file(&path("a")), records);
    run("tshark", &["-r", text(&path("a")), "-w", text(&path("b")), "-F", "pcapng"]);
    assert_eq!(read_file(&path("b")), records);
}
