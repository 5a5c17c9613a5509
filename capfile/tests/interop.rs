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

fn time(record: &Owned) -> u64 {
    record.timestamp_ns.unwrap()
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
                let (seconds, rest) = (time(record) / 1_000_000_000, time(record) % 1_000_000_000);
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
                record.timestamp_ns = record.timestamp_ns.map(|time| time - time % unit);
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
        let (seconds, rest) = (time(record) / 1_000_000_000, time(record) % 1_000_000_000);
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

/// Files of kinds that none of the tools writes, read here and by tshark.
#[test]
fn tshark_understands_files_made_by_hand_as_this_crate_does() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let [little, big] = ORDERS;
    let data = |number: u8, length| {
        let mut data = frame(number, length);
        data[12..14].copy_from_slice(&[0x88, 0xb5]);
        data
    };
    let mut files = Vec::new();
    for order in ORDERS {
        for (nano, network) in [(false, 1), (true, 1), (true, 1 | 1 << 26 | 2 << 28)] {
            let mut file = order.pcap(nano, network);
            file.extend(order.pcap_record(1_700_000_000, 999_999, 100, &data(1, 100)));
            file.extend(order.pcap_record(1_700_000_001, 5, 100, &data(2, 61)));
            files.push((file, network != 1));
        }
        let seconds = 1_700_000_000u64;
        for (resolution, units) in [
            (3, seconds * 1000 + 7),
            (6, seconds * 1_000_000 + 7),
            (0x80 | 20, (seconds << 20) + 7),
        ] {
            let offset = order.option(14, &order.u64(100));
            let options = [order.option(9, &[resolution]), offset];
            let obsolete = [
                &order.u16(0)[..],
                &order.u16(3),
                &order.u32((units >> 32) as u32),
                &order.u32(units as u32),
                &order.u32(21),
                &order.u32(30),
                &data(3, 21),
                &[0; 3],
            ];
            let file = [
                order.section(),
                order.interface(1, 0, &options),
                order.packet(0, units, &data(1, 60), &[order.option(2, &order.u32(2))]),
                order.block(0x77, &[1; 40]),
                order.block(2, &obsolete.concat()),
                // A section of the other order.
                if order.big { little.section() } else { big.section() },
                if order.big { little.interface(1, 0, &[]) } else { big.interface(1, 0, &[]) },
                if order.big { little } else { big }.packet(0, 1_000_000, &data(2, 33), &[]),
            ];
            files.push((file.concat(), false));
        }
    }
    for (number, (file, has_fcs)) in files.into_iter().enumerate() {
        std::fs::write(&path, file).unwrap();
        let fields = ["-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.cap_len"];
        let shown = run("tshark", &[&["-r", text(&path), "-T", "fields"], &fields[..]].concat());
        // It leaves the frame check sequence in.
        let fcs = if has_fcs { 4 } else { 0 };
        let ours: String = read_file(&path)
            .iter()
            .map(|record| {
                let (seconds, rest) = (time(record) / 1_000_000_000, time(record) % 1_000_000_000);
                let original = record.original_len + fcs;
                // All of the first frame was captured, so its check sequence was, too.
                let captured = record.data.len() + if record.data.len() > 61 { fcs } else { 0 };
                format!("{seconds}.{rest:09}\t{original}\t{captured}\n")
            })
            .collect();
        assert_eq!(shown, ours, "file {number}");
    }
}
