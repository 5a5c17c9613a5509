//! `dump` and `replay`: bytes and times of a capture, there and back, against tshark; disks that are full, files that are
//! damaged.

mod common;

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyport_capfile::{Format, Reader, Record, Writer};
use common::{anyport, in_namespace, ip, mount, number, run, start};

/// Frames of all kinds that matter: tagged (one and two tags), a payload of 9 bytes, the longest, the longest with a tag.
fn frames() -> Vec<Vec<u8>> {
    let head = |ethertype: &[u8]| [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], ethertype].concat();
    let fill = |mut frame: Vec<u8>, length: usize| {
        let start = frame.len();
        frame.extend((start..length).map(|at| at as u8));
        frame
    };
    vec![
        fill(head(&[0x88, 0xb5]), 60),
        fill(head(&[0x81, 0x00, 0x20, 0x05, 0x88, 0xb5]), 64),
        fill(head(&[0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x20, 0x05, 0x88, 0xb5]), 100),
        fill(head(&[0x88, 0xb5]), 14 + 9),
        fill(head(&[0x88, 0xb5]), 1514),
        fill(head(&[0x81, 0x00, 0x20, 0x05, 0x88, 0xb5]), 1518),
        fill(head(&[0x88, 0xb5]), 14),
    ]
}

/// What is on the wire of a frame.
fn padded(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Writes a capture: frames, a millisecond apart.
fn capture(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = Writer::create(path, Format::of_name(path).unwrap(), "test").unwrap();
    for (at, frame) in frames.iter().enumerate() {
        let timestamp_ns = Some(1_700_000_000_000_000_000 + at as u64 * 1_000_000);
        let record =
            Record { timestamp_ns, original_len: frame.len(), data: frame, direction: None };
        writer.write(&record).unwrap();
    }
    writer.finish().unwrap();
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = Reader::open(path).unwrap();
    let mut frames = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        assert_eq!(record.data.len(), record.original_len);
        frames.push(record.data.to_vec());
    }
    frames
}

/// The frames as tshark reads them; `None` where it is not installed (and need not be).
fn tshark(path: &Path) -> Option<Vec<Vec<u8>>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-n", "-x"]);
    // Nobody's own settings.
    command.env("WIRESHARK_CONFIG_DIR", path.parent().unwrap());
    let Ok(output) = command.output() else {
        assert!(std::env::var_os("ANYPORT_REQUIRE_TOOLS").is_none(), "tshark is required");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Lines of an offset and up to 16 bytes; a blank line behind each frame.
    let mut frames = Vec::new();
    let text = String::from_utf8(output.stdout).unwrap();
    for dump in text.split("\n\n").filter(|dump| !dump.trim().is_empty()) {
        let bytes = dump.lines().flat_map(|line| {
            let columns = line.get(6..53).unwrap_or(line.get(6..).unwrap_or_default());
            columns.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap())
        });
        frames.push(bytes.collect());
    }
    Some(frames)
}

#[test]
fn a_capture_arrives_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    in_namespace(|| {
        for format in ["pcap", "pcapng"] {
            let (source, copy) = (at(&format!("in.{format}")), at(&format!("out.{format}")));
            capture(&source, &frames());
            let to = copy.display();
            let dump =
                start(anyport(&format!("dump pcap:a1 -w {to} --count 7 --json"))).wait_started(1);
            let replay = format!("replay {} pcap:a0 --json", source.display());
            let (sent, got) = (run(&replay).json(), dump.finish().json());
            let expected: Vec<_> = frames().iter().map(|frame| padded(frame)).collect();
            let bytes = expected.iter().map(Vec::len).sum::<usize>() as u64;
            assert_eq!((number(&sent, "/packets"), number(&sent, "/bytes")), (7, bytes));
            assert_eq!((number(&got, "/packets"), number(&got, "/bytes")), (7, bytes));
            assert_eq!((number(&sent, "/loops"), &sent["ended_by"]), (1, &"end_of_input".into()));
            assert_eq!(read(&copy), expected);
            if let Some(seen) = tshark(&copy) {
                assert_eq!(seen, expected);
            }
            // In original timing: the last frame comes 6 ms after the first.
            assert!(sent["seconds"].as_f64().unwrap() >= 0.005, "{sent}");
        }
        // Without a file there are lines of text; the filter is tcpdump's.
        let dump =
            start(anyport("dump pcap:a1 --count 3 vlan 5 or ether[12:2]=0x88a8")).wait_started(1);
        let replay = format!("replay {} pcap:a0 --rate max", at("in.pcap").display());
        assert!(run(&replay).status.success());
        let finished = dump.finish();
        let lines: Vec<String> = finished.text().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3, "{finished:?}");
        assert!(lines[0].ends_with("vlan 5, type 0x88b5, 64 bytes"), "{lines:?}");
        assert!(lines[1].ends_with("vlan 7, vlan 5, type 0x88b5, 100 bytes"), "{lines:?}");
        assert!(
            finished.stderr.contains("dump pcap:a1: 3 frames, 1,682 bytes"),
            "{}",
            finished.stderr
        );
    });
}

#[test]
fn what_cannot_be_sent_is_counted_by_cause() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.pcapng");
    let mut writer = Writer::create(&path, Format::Pcapng, "test").unwrap();
    let mut write = |length: usize, original: usize| {
        let data = &vec![2; length][..];
        let record =
            Record { timestamp_ns: Some(1), original_len: original, data, direction: None };
        writer.write(&record).unwrap();
    };
    for (length, original) in
        [(60, 60), (0, 0), (13, 13), (60, 100), (1515, 1515), (9000, 9000), (61, 61)]
    {
        write(length, original);
    }
    writer.finish().unwrap();
    let file = path.display();
    let report = run(&format!("replay {file} loop:odd.0 --rate max --loops 3 --json")).json();
    assert_eq!((number(&report, "/packets"), number(&report, "/bytes")), (6, 3 * 121));
    assert_eq!(number(&report, "/loops"), 3);
    for (cause, frames) in [("snapped", 3), ("too_short", 6), ("too_long", 6), ("unsendable", 0)] {
        assert_eq!(number(&report, &format!("/drops/replay_{cause}")), frames, "{cause}");
    }
    let report = run(&format!("replay {file} loop:odd.0 --loops 0 --count 5 --json")).json();
    assert_eq!((number(&report, "/packets"), &report["ended_by"]), (5, &"count".into()));
    let report =
        run(&format!("replay {file} loop:odd.0 --loops 0 --rate 100 --duration 50ms --json"))
            .json();
    assert_eq!(report["ended_by"], "duration");
}

#[test]
fn a_file_is_never_emptied_under_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("a.pcap"), dir.path().join("b.pcap"));
    capture(&path, &frames());
    std::fs::hard_link(&path, &link).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (a, b) = (path.display(), link.display());
    for command in [
        format!("dump pcap:in={a} -w {b}"),
        format!("dump pcap:in={a} -w {a}"),
        format!("dump pcap:in={a},capture={b}"),
        format!("fwd pcap:in={a} pcap:out={b}"),
        format!("fwd pcap:out={b} pcap:in={a}"),
        format!("fwd pcap:in={a},capture={b} loop:x.0"),
        format!("replay {a} pcap:out={b}"),
        format!("replay {a} loop:x.0,capture={b}"),
    ] {
        run(&command).failed_with(1, &[".pcap"]);
        assert!(std::fs::read(&path).unwrap() == before, "{command}");
    }
}

#[test]
fn standard_input_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("a.pcap"), dir.path().join("b.pcap"));
    capture(&path, &frames()[..1]);
    let mut command = anyport(&format!("replay - pcap:out={} --json", copy.display()));
    command.stdin(std::fs::File::open(&path).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read(&copy), frames()[..1]);
}

#[test]
fn a_frame_longer_than_any_packet_is_replayed_as_a_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (long, copy) = (dir.path().join("long.pcap"), dir.path().join("copy.pcap"));
    let frame: Vec<u8> = (0..40_014u32).map(|at| at as u8).collect();
    capture(&long, std::slice::from_ref(&frame));
    let (from, to) = (long.display(), copy.display());
    let report = run(&format!("replay {from} pcap:out={to} --json")).json();
    assert_eq!((number(&report, "/packets"), number(&report, "/bytes")), (1, 40_014));
    assert_eq!(read(&copy), [frame]);
}

#[test]
fn damaged_files_are_sent_up_to_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.pcap");
    let file = path.display().to_string();
    let replay = || run(&format!("replay {file} loop:damaged.0 --rate max --json"));
    capture(&path, &frames());
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 29, 1000] {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let finished = replay();
        finished.failed_with(1, &["cut.pcap is cut off"]);
        let report = finished.object();
        assert_eq!(report["ended_by"], "error");
        let sent = if cut == 1000 { 5 } else { 6 };
        assert_eq!(number(&report, "/packets"), sent, "{cut} bytes are missing");
    }
    // What is wrong from the start opens no port, and prints nothing.
    for (bytes, words) in [
        (&b""[..], "is empty"),
        (&b"not a capture at all, is it?"[..], "neither a pcap nor a pcapng"),
        (&whole[..10], "cut"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let finished = replay();
        finished.failed_with(1, &["cut.pcap", words]);
        assert!(finished.stdout.is_empty());
    }
    let mut other = whole.clone();
    other[20] = 101; // raw IP
    std::fs::write(&path, &other).unwrap();
    replay().failed_with(1, &["Ethernet"]);
    std::fs::write(&path, &whole[..24]).unwrap();
    let report = replay().json();
    assert_eq!((number(&report, "/packets"), &report["ended_by"]), (0, &"end_of_input".into()));
    run("replay /no/such/file.pcap loop:damaged.0").failed_with(1, &["/no/such/file.pcap"]);
    run(&format!("replay {file} loop:damaged.0 --loops 0"))
        .failed_with(1, &["nothing in the file"]);
}

#[test]
fn a_frame_that_the_format_cannot_hold_is_counted_and_the_dump_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut writer = Writer::create(&at("in.pcapng"), Format::Pcapng, "test").unwrap();
    // The beginning of 1970 is a time; 2^33 seconds later is none for pcap.
    let times = [0, 1_000, 8_589_934_592_000_000_000, 8_589_934_592_000_000_001, 2_000];
    for (number, time) in times.into_iter().enumerate() {
        let (timestamp_ns, data) = (Some(time), &[number as u8 * 2; 60][..]);
        writer.write(&Record { timestamp_ns, original_len: 60, data, direction: None }).unwrap();
    }
    writer.finish().unwrap();
    for (name, kept) in [("out.pcap", &[0, 1, 4][..]), ("out.pcapng", &[0, 1, 2, 3, 4])] {
        let (from, to) = (at("in.pcapng"), at(name));
        let dump = format!("dump pcap:in={} -w {} --json", from.display(), to.display());
        let report = run(&dump).json();
        assert_eq!(number(&report, "/packets"), kept.len() as u64);
        let lost = (times.len() - kept.len()) as u64;
        assert_eq!(number(&report, "/drops/dump_unwritten"), lost, "{report}");
        let mut reader = Reader::open(&to).unwrap();
        for at in kept {
            let record = reader.next_record().unwrap().unwrap();
            let (time, first) = (record.timestamp_ns, record.data[0]);
            assert_eq!((time, first), (Some(times[*at]), *at as u8 * 2), "{name}");
        }
        assert_eq!(reader.next_record().unwrap(), None);
    }
}

#[test]
fn signals_end_a_replay_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slow.pcapng");
    let mut writer = Writer::create(&path, Format::Pcapng, "test").unwrap();
    for hours in 0..3 {
        let timestamp_ns = Some(hours * 3_600_000_000_000);
        let data = &[2; 60][..];
        writer.write(&Record { timestamp_ns, original_len: 60, data, direction: None }).unwrap();
    }
    writer.finish().unwrap();
    let command = format!("replay {} loop:slow.0 --json", path.display());
    let report = start(anyport(&command)).wait_started(1).interrupt().json();
    assert_eq!((&report["ended_by"], number(&report, "/loops")), (&"signal".into(), 0));
    assert!(number(&report, "/packets") <= 1, "{report}");
}

#[test]
fn a_full_disk_ends_the_dump_and_leaves_it_readable() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap().to_owned();
    in_namespace(|| {
        mount("tmpfs", &at, "tmpfs", 0, "size=256k");
        let path = Path::new(&at).join("full.pcapng");
        let command = format!("dump pcap:a1,rx_ring=4096 -w {} --json", path.display());
        let dump = start(anyport(&command)).wait_started(1);
        assert!(run("gen pcap:a0 --count 1000 --size 1000 --rate 20000").status.success());
        let finished = dump.finish();
        finished.failed_with(1, &["full.pcapng", "No space left on device"]);
        let report = finished.object();
        let kept = read(&path);
        assert_eq!(number(&report, "/packets"), kept.len() as u64);
        assert!(kept.iter().all(|frame| frame.len() == 1000));
        // Only what did not fit is missing: a record is its frame and 44 bytes.
        let room = (256 << 10) - std::fs::metadata(&path).unwrap().len();
        assert!(room < 1044, "{room} bytes are free after {} frames", kept.len());
        assert!(number(&report, "/drops/dump_unwritten") > 0, "{report}");
        // Not even room for the file's header: nothing is opened.
        std::fs::write(Path::new(&at).join("rest"), vec![0; 1 << 20]).unwrap_err();
        let finished = run(&format!("dump pcap:a1 -w {at}/none.pcapng"));
        finished.failed_with(1, &["none.pcapng"]);
    });
}

#[test]
fn a_full_disk_under_a_capture_is_said_at_once_and_the_port_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap().to_owned();
    in_namespace(|| {
        mount("tmpfs", &at, "tmpfs", 0, "size=256k");
        let path = Path::new(&at).join("full.pcapng");
        let command =
            format!("gen pcap:a0,capture={} --size 1000 --rate 20000 --json", path.display());
        // It has no end of its own: what is waited for is said while it runs.
        let generator = start(anyport(&command)).wait_line("the file ends here");
        let finished = generator.interrupt();
        finished.failed_with(1, &["full.pcapng", "No space left on device"]);
        let kept = read(&path);
        assert!(!kept.is_empty());
        assert!(number(&finished.object(), "/packets") > kept.len() as u64);
    });
}

#[test]
fn a_dump_goes_through_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe.pcapng");
    in_namespace(|| {
        let dump = start(anyport("dump pcap:a1 -w - --count 20")).wait_started(1);
        assert!(run("gen pcap:a0 --count 20 --size 100").status.success());
        let finished = dump.finish();
        assert!(finished.status.success(), "{finished:?}");
        std::fs::write(&path, &finished.stdout).unwrap();
        assert_eq!(read(&path).len(), 20);
        assert!(
            finished.stderr.contains("dump pcap:a1: 20 frames, 2,000 bytes"),
            "{}",
            finished.stderr
        );
        // The reader goes after the header: no failure.
        let mut command = anyport("dump pcap:a1 -w -");
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        drop(command);
        let mut header = [0; 28];
        std::io::Read::read_exact(&mut &reader, &mut header).unwrap();
        drop(reader);
        // The header is written before the port is started, so these may come too early for it.
        let mut sent = 0;
        let output = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| child.wait_with_output().unwrap());
            while !waiting.is_finished() && sent < 10_000 {
                assert!(run("gen pcap:a0 --count 10").status.success());
                sent += 10;
            }
            waiting.join().unwrap()
        });
        assert!(output.status.success(), "{output:?}");
        run("dump pcap:a1 -w - --json").failed_with(2, &["standard output"]);
    });
}

/// A dump into a pipe that nobody reads hangs in it, and cannot end by itself; how it ends by signals.
fn dump_into_a_full_pipe() -> std::process::ExitStatus {
    let mut command = anyport("dump pcap:a1 -w -");
    let (_reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer.try_clone().unwrap()).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    // By its pages, as the writer finds it: each may be used in part only.
    let is_full = || {
        let mut poll = libc::pollfd { fd: writer.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one descriptor, as is said.
        unsafe { libc::poll(&mut poll, 1, 0) == 0 }
    };
    let deadline = Instant::now() + common::LIMIT;
    let fill = || assert!(run("gen pcap:a0 --count 500 --size 1000").status.success());
    while !is_full() {
        assert!(Instant::now() < deadline, "the pipe never fills");
        fill();
    }
    fill();
    loop {
        // Two that are pending together are one, so several are sent; the tool's own patience is 5 s.
        // SAFETY: no pointers; the child has not been waited for, so the number is its own.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    in_namespace(|| {
        for _ in 0..5 {
            let status = dump_into_a_full_pipe();
            if !status.success() {
                assert_eq!(status.signal(), Some(libc::SIGINT), "{status}");
                return;
            }
            // On a slow machine it may have had nothing left to write when the first signal came.
        }
        panic!("it never had anything left to write");
    });
}

/// IP packets that this namespace's own stack has received.
fn host_received() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let at = lines.next().unwrap().split(' ').position(|name| name == "InReceives").unwrap();
    lines.next().unwrap().split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
fn a_dump_is_shared_with_the_host_and_cut_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.pcapng");
    in_namespace(|| {
        ip("address add 10.9.0.1/24 dev a0");
        ip("link set a1 address 02:00:00:00:00:a1");
        ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:a1 dev a0");
        let to = path.display();
        let dump = start(anyport(&format!("dump pcap:a1 -w {to} -s 40 --count 5 --json udp")))
            .wait_started(1);
        let socket = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
        let before = host_received();
        for _ in 0..5 {
            socket.send_to(&[7; 100], "10.9.0.2:1234").unwrap();
        }
        let report = dump.finish().json();
        assert_eq!((number(&report, "/packets"), number(&report, "/bytes")), (5, 5 * 142));
        let mut reader = Reader::open(&path).unwrap();
        for _ in 0..5 {
            let record = reader.next_record().unwrap().unwrap();
            assert_eq!((record.data.len(), record.original_len), (40, 142));
            assert_eq!(record.direction, Some(anyport_capfile::Direction::Received));
        }
        assert!(reader.next_record().unwrap().is_none());
        assert_eq!(host_received() - before, 5);
        run("dump pcap:a1 -w /tmp/x.pcapng udp prot 9")
            .failed_with(1, &["`udp prot 9`", "syntax error"]);
    });
}
