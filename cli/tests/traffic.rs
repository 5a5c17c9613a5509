//! The tool on kernel interfaces: veth pairs in a namespace of the test's own, exact counts at the far end.
//!
//! ```text
//!   gen ──► [a0]═══[a1] ──► fwd ──► [b0]═══[b1] ──► sink
//! ```
//!
//! Rings are larger than what is sent, so that nothing depends on how fast the machine is.

mod common;

use common::{anyport, in_namespace, ip, kernel_received, number, run, start};

#[track_caller]
fn succeeds(arguments: &str) {
    let finished = run(arguments);
    assert!(finished.status.success(), "{finished:?}");
}

#[test]
fn what_gen_sends_sink_gets() {
    in_namespace(|| {
        let sink = start(anyport("sink pcap:a1,rx_ring=8192 --count 3000 --json")).wait_started(1);
        let sent = run("gen pcap:a0 --count 3000 --rate 30000 --flows 7 --size imix --json").json();
        let got = sink.finish().json();
        assert_eq!((number(&sent, "/packets"), number(&got, "/packets")), (3000, 3000));
        assert_eq!(number(&sent, "/bytes"), number(&got, "/bytes"));
        for wrong in
            ["lost", "duplicates", "reordered", "late", "before_first", "foreign", "unchecked"]
        {
            assert_eq!(number(&got, &format!("/{wrong}")), 0, "{wrong}");
        }
        assert_eq!((number(&got, "/streams"), number(&got, "/run_count")), (7, 1));
        assert_eq!((&got["runs"][0]["run"], &got["ended_by"]), (&sent["run"], &"count".into()));
        let latency = &got["latency"];
        assert_eq!(number(latency, "/samples"), 3000);
        let order = ["/min", "/p50", "/p90", "/p99", "/p999", "/max"].map(|at| number(latency, at));
        assert!(order[0] > 0 && order.is_sorted(), "{latency}");
        assert_eq!(got["latency_note"], serde_json::Value::Null);
        assert_eq!(kernel_received("a1"), (3000, number(&sent, "/bytes")));
    });
}

#[test]
fn frames_cross_the_forwarder_exactly() {
    in_namespace(|| {
        let sink = start(anyport("sink pcap:b1,rx_ring=8192 --count 5000 --json")).wait_started(1);
        let fwd =
            start(anyport("fwd pcap:a1,rx_ring=8192 pcap:b0,rx_ring=8192 --json")).wait_started(2);
        let sent = run("gen pcap:a0 --count 5000 --rate 20000 --flows 3 --json").json();
        let got = sink.finish().json();
        let fwd = fwd.interrupt().json();
        assert_eq!((number(&sent, "/packets"), number(&got, "/packets")), (5000, 5000));
        assert_eq!((number(&got, "/lost"), number(&got, "/foreign")), (0, 0));
        assert_eq!(number(&got, "/latency/samples"), 5000);
        assert_eq!((number(&fwd, "/packets"), number(&fwd, "/bytes")), (5000, 300_000));
        let [there, back] =
            ["/directions/0", "/directions/1"].map(|at| fwd.pointer(at).unwrap().clone());
        assert_eq!(
            (&there["from"], &there["to"]),
            (&"pcap:a1,rx_ring=8192".into(), &"pcap:b0,rx_ring=8192".into())
        );
        assert_eq!((number(&there, "/packets"), number(&there, "/fwd_dropped")), (5000, 0));
        assert_eq!((number(&there, "/bytes"), number(&back, "/packets")), (300_000, 0));
        assert_eq!(number(&fwd, "/ports/0/counters/rx_packets"), 5000);
        assert_eq!(number(&fwd, "/ports/1/counters/tx_packets"), 5000);
        assert!(
            fwd["drops"].as_object().unwrap().values().all(|drops| drops == 0),
            "{}",
            fwd["drops"]
        );
        assert_eq!(kernel_received("b1"), (5000, 300_000));
    });
}

#[test]
fn a_sink_ends_when_nothing_comes_any_more() {
    in_namespace(|| {
        let sink = start(anyport("sink pcap:a1 --idle 300ms --json")).wait_started(1);
        succeeds("gen pcap:a0 --count 10");
        let got = sink.finish().json();
        assert_eq!((number(&got, "/packets"), &got["ended_by"]), (10, &"idle".into()));
        assert!(got["elapsed"].as_f64().unwrap() >= 0.3, "{got}");
    });
}

#[test]
fn a_forwarder_counts_what_cannot_pass_and_goes_on() {
    in_namespace(|| {
        ip("link set b0 mtu 1000");
        ip("link set b1 mtu 1000");
        let sink = start(anyport("sink pcap:b1,rx_ring=8192 --count 1100 --json")).wait_started(1);
        let fwd =
            start(anyport("fwd pcap:a1,rx_ring=8192 pcap:b0,rx_ring=8192 --count 1200 --json"))
                .wait_started(2);
        // Of 12 frames of the mixture the seventh is too long.
        run("gen pcap:a0 --count 1200 --rate 20000 --size imix --json").json();
        let (fwd, got) = (fwd.finish().json(), sink.finish().json());
        assert_eq!((number(&got, "/packets"), number(&got, "/lost")), (1100, 100));
        assert_eq!((number(&fwd, "/packets"), &fwd["ended_by"]), (1100, &"count".into()));
        assert_eq!(number(&fwd, "/drops/fwd_too_long"), 100);
        assert_eq!(number(&fwd, "/directions/0/fwd_dropped"), 100);
        assert_eq!(number(&fwd, "/directions/0/received"), 1200);
    });
}

#[test]
fn directions_can_have_threads_of_their_own() {
    in_namespace(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let list = if cores > 1 { "0,1" } else { "0" };
        let sink = start(anyport("sink pcap:b1,rx_ring=8192 --count 1000 --json")).wait_started(1);
        let command = format!(
            "fwd pcap:a1,rx_ring=8192 pcap:b0,rx_ring=8192 --count 1000 --cores {list} --json"
        );
        let fwd = start(anyport(&command)).wait_started(2);
        succeeds("gen pcap:a0 --count 1000 --rate 20000");
        assert_eq!(number(&fwd.finish().json(), "/packets"), 1000);
        assert_eq!(number(&sink.finish().json(), "/packets"), 1000);
    });
}

#[test]
fn reflected_frames_come_back() {
    in_namespace(|| {
        let reflect =
            start(anyport("reflect pcap:b1,rx_ring=8192 --count 500 --json")).wait_started(1);
        let fwd =
            start(anyport("fwd pcap:a1,rx_ring=8192 pcap:b0,rx_ring=8192 --count 1000 --json"))
                .wait_started(2);
        succeeds("gen pcap:a0 --count 500 --rate 20000");
        let reflected = reflect.finish().json();
        assert_eq!((number(&reflected, "/packets"), number(&reflected, "/bytes")), (500, 30_000));
        assert_eq!(
            (number(&reflected, "/received"), number(&reflected, "/not_reflected")),
            (500, 0)
        );
        let fwd = fwd.finish().json();
        assert_eq!(number(&fwd, "/directions/1/packets"), 500);
        assert_eq!(kernel_received("a0"), (500, 30_000));
        // To a group nothing goes back.
        let reflect =
            start(anyport("reflect pcap:b1,rx_ring=8192 --count 10 --json")).wait_started(1);
        run("gen pcap:b0 --count 10 --dst ff:ff:ff:ff:ff:ff")
            .status
            .success()
            .then_some(())
            .unwrap();
        let reflected = reflect.finish().json();
        assert_eq!((number(&reflected, "/packets"), number(&reflected, "/not_reflected")), (0, 10));
    });
}

#[test]
fn an_interface_that_is_deleted_ends_the_forwarder_with_totals() {
    in_namespace(|| {
        // The input's interface, and the output's.
        for (one, other, source) in [("x1", "b0", "x0"), ("a1", "x1", "a0")] {
            ip("link add x0 type veth peer name x1");
            for end in ["x0", "x1"] {
                ip(&format!("link set {end} addrgenmode none up"));
            }
            let command = format!("fwd pcap:{one} pcap:{other} --json");
            let fwd = start(anyport(&command)).wait_started(2);
            succeeds(&format!("gen pcap:{source} --count 100 --rate 10000"));
            ip("link del x0");
            let finished = fwd.finish();
            finished.failed_with(1, &["anyport: ", "pcap:x1 is gone", "deleted"]);
            let report = finished.object();
            assert_eq!(
                (number(&report, "/packets"), &report["ended_by"]),
                (100, &"error".into()),
                "{command}"
            );
            assert!(report["error"].as_str().unwrap().contains("pcap:x1 is gone"));
        }
    });
}

#[test]
fn a_sender_on_a_link_that_is_down_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.pcap");
    succeeds(&format!("gen pcap:out={} --count 1", path.display()));
    in_namespace(|| {
        ip("link set a1 down");
        let replay = format!("replay {} pcap:a0 --duration 300ms", path.display());
        for command in ["gen pcap:a0 --count 5 --duration 300ms", &replay] {
            let finished = run(command);
            finished.failed_with(1, &["the link is down", "pcap:a0 took no frame in that time"]);
            assert!(finished.text().contains(" 0 frames, 0 bytes"), "{}", finished.text());
        }
    });
}

#[test]
fn a_sender_tells_of_its_link() {
    in_namespace(|| {
        let mut gen_ = start(anyport("gen pcap:a0 --rate 1000 --json")).wait_started(1);
        ip("link set a1 down");
        gen_ = gen_.wait_line("pcap:a0: the link went down");
        ip("link set a1 up");
        gen_ = gen_.wait_line("pcap:a0: the link came up");
        assert_eq!(gen_.interrupt().json()["ended_by"], "signal");
    });
}

#[test]
fn what_would_help_is_said() {
    in_namespace(|| {
        // Nobody reads fast enough who is asleep: the ring of 16 overflows.
        let sink = start(anyport("sink pcap:a1,rx_ring=16")).wait_started(1);
        sink.signal(libc::SIGSTOP);
        succeeds("gen pcap:a0 --count 100");
        sink.signal(libc::SIGCONT);
        let text = sink.interrupt().text();
        assert!(
            text.contains("rx_ring_full 84") && !text.contains("holds longer bursts"),
            "{text}"
        );
        let sink = start(anyport("sink pcap:a1")).wait_started(1);
        sink.signal(libc::SIGSTOP);
        succeeds("gen pcap:a0 --count 1000");
        sink.signal(libc::SIGCONT);
        let text = sink.interrupt().text();
        assert!(text.contains("pcap:a1: ") && text.contains("`rx_ring=4096`"), "{text}");
        // Maxima that differ.
        ip("link set b0 mtu 1600");
        ip("link set b1 mtu 1600");
        let finished = start(anyport("fwd pcap:a1 pcap:b0")).wait_started(2).interrupt();
        assert!(
            finished.stderr.contains("pcap:a1 takes frames of up to 1514 bytes"),
            "{finished:?}"
        );
        run("sink pcap:a1 --cores 4000").failed_with(1, &["--cores", "core 4000"]);
    });
}

#[test]
fn an_interface_is_open_once() {
    in_namespace(|| {
        let sink = start(anyport("sink pcap:a0")).wait_started(1);
        run("gen pcap:a0 --count 1")
            .failed_with(1, &["pcap:a0 is in use by process", &sink.pid().to_string()]);
        let text = sink.interrupt().text();
        assert!(text.starts_with("sink pcap:a0: 0 frames"), "{text}");
        assert!(run("gen pcap:a0 --count 1").status.success());
    });
}

#[test]
fn a_forwarder_fits_its_memory() {
    in_namespace(|| {
        let fwd = start(anyport("fwd pcap:a1 pcap:b0 --pool-frames 16384 --json")).wait_started(2);
        let sent = run("gen pcap:a0 --count 40000 --rate 40000 --json").json();
        assert_eq!(number(&sent, "/packets"), 40_000);
        let status = std::fs::read_to_string(format!("/proc/{}/status", fwd.pid())).unwrap();
        let kib = |field: &str| {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let (resident, huge) = (kib("VmRSS:"), kib("HugetlbPages:"));
        fwd.interrupt().json();
        // 40 MiB for a release build; unoptimised code is larger by what this allows.
        let limit = if cfg!(debug_assertions) { 48 } else { 40 } * 1024;
        assert!(resident + huge <= limit, "{resident} KiB resident, {huge} KiB on huge pages");
    });
}
