//! The tool without any privilege: help, checks, errors, signals, the in-process cable.

mod common;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use common::{anyport, number, run, start};

#[test]
fn list_names_backends_and_ports() {
    let devices = run("list --json").json()["devices"].clone();
    let specs: Vec<&str> =
        devices.as_array().unwrap().iter().map(|d| d["spec"].as_str().unwrap()).collect();
    assert!(specs.contains(&"loop:NAME.0") && specs.contains(&"pcap:lo"), "{specs:?}");
    let text = run("list").text();
    assert!(text.lines().count() >= specs.len() && text.contains("pcap:lo"), "{text}");
}

#[test]
fn what_stands_in_the_way_is_said() {
    // No such file is a file, whoever asks.
    for (arguments, code, words) in [
        ("sink nic:eth0", 1, &["unknown backend `nic`", "loop, pcap"][..]),
        ("sink pcap:no-such-if0", 1, &["no-such-if0", "lo"]),
        ("sink loop:a.2", 1, &["loop", "NAME.0 and NAME.1"]),
        ("sink loop:a.0,colour=red", 1, &["loop:a.0", "unknown key `colour`", "rx_ring"]),
        ("sink loop:a.0,queues=many", 1, &["`queues` cannot be `many`"]),
        ("sink loop:a.0,queues=1000", 1, &["`queues` = 1000", "are possible"]),
        ("sink eth0", 1, &["`eth0`", "backend:device"]),
        ("sink eth0 --config /no/such/file.toml", 1, &["/no/such/file.toml"]),
        ("fwd loop:a.0 loop:a.0", 1, &["loop:a.0 cannot be both ports"]),
        ("gen loop:a.0 --size 1515 --count 1", 1, &["1515 bytes are over its maximum of 1514"]),
        ("gen loop:a.0,queues=4 --flows 3", 1, &["--flows 4"]),
        ("gen loop:a.0 --pool-frames 0 --count 1", 1, &["frames = 0"]),
        ("gen loop:a.0 --cores 1000 --count 1", 1, &["core 1000"]),
        ("gen loop:a.0 --size 59", 2, &["--size", "60"]),
        ("gen loop:a.0 --flows 0", 2, &["--flows"]),
        ("gen", 2, &["PORT"]),
        ("sing loop:a.0", 2, &["sing", "sink"]),
    ] {
        let finished = run(arguments);
        finished.failed_with(code, words);
        // A run that failed after it began has its totals; everything else prints nothing.
        assert!(finished.stdout.is_empty() || arguments.contains("--cores"), "{}", finished.text());
    }
}

#[test]
fn pages_and_scripts_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("man1");
    assert!(run(&format!("man {}", to.display())).status.success());
    for page in ["anyport.1", "anyport-gen.1", "anyport-fwd.1"] {
        let text = std::fs::read_to_string(to.join(page)).unwrap();
        assert!(text.contains(".TH anyport"), "{page}: {text}");
    }
    assert!(std::fs::read_to_string(to.join("anyport-fwd.1")).unwrap().contains("fwd_output_full"));
    assert!(run("man").text().contains(".SH NAME"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&format!("completions {shell}")).text().contains("anyport"), "{shell}");
    }
    let help = run("help sink").text();
    assert!(help.contains("before_first") && help.contains("anyport sink pcap:eth1"), "{help}");
    let schema = run("schema").json();
    assert_eq!(schema["title"], "anyport configuration");
}

#[test]
fn checks_open_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ports.toml");
    std::fs::write(&file, "[ports.wan]\nbackend = 'loop'\ndevice = 'check.0'\nqueues = 2\n")
        .unwrap();
    let finished = run(&format!("check --config {} loop:x.0", file.display()));
    assert!(finished.status.success());
    assert_eq!(finished.text(), "wan: right, loop:check.0,queues=2\nloop:x.0: right\n");
    std::fs::write(&file, "[ports.wan]\nbackend = 'loop'\ndevice = 'check.0'\nqeues = 2\n")
        .unwrap();
    let finished = run(&format!("check --config {}", file.display()));
    finished.failed_with(1, &["wan: loop:check.0: unknown key `qeues`", "1 of 1 ports are wrong"]);
    run("check").failed_with(2, &["PORT"]);
    for (wrong, words) in [
        ("loop:a.0,drop=abc", &["`drop`"][..]),
        ("loop:nonsense", &["nonsense"]),
        ("loop:a.0,queues=0", &["`queues`", "at least 1"]),
        ("pcap:eth0,to_kernel=bogus", &["`to_kernel`", "bogus"]),
        ("pcap:eth0,in=a.pcap", &["`in`"]),
        ("pcap:", &["pcap: it names neither"]),
        ("pcap:in=", &["`in` cannot be ``", "the name of a file"]),
        ("pcap:in=a.pcap,out=", &["`out` cannot be ``"]),
        ("loop:a.0,capture=", &["`capture` cannot be ``"]),
        ("pcap:in=a.pcap,timing=never", &["`timing`"]),
        ("pcap:in=a.pcap,loops=-3", &["`loops`"]),
        ("pcap:in=a.pcap,format=pcap", &["`format`", "`out`"]),
        ("pcap:out=a.txt", &["`out`"]),
    ] {
        run(&format!("check {wrong}")).failed_with(1, words);
    }
    run("check loop:a.0 --frame-size 100").failed_with(1, &["frame_size = 100"]);
    std::fs::write(&file, "[ports.lan]\nbackend = 'loop'\ndevice = 'a.0'\n").unwrap();
    let finished = run(&format!("check lan --config {}", file.display()));
    assert_eq!(finished.text(), "lan: right, loop:a.0\n");
    std::fs::write(&file, "[pool]\nframes = 0\n").unwrap();
    run(&format!("check --config {}", file.display())).failed_with(1, &["frames = 0"]);
}

#[test]
fn a_count_is_exact_and_ports_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ports.toml");
    let text =
        "[pool]\nframes = 64\n[ports.out]\nbackend = 'loop'\ndevice = 'count.0'\nqueues = 3\n";
    std::fs::write(&file, text).unwrap();
    let report = run(&format!(
        "gen out --config {} --count 10007 --flows 5 --size imix --json",
        file.display()
    ))
    .json();
    assert_eq!((number(&report, "/packets"), number(&report, "/flows")), (10007, 5));
    assert_eq!(report["ended_by"], "count");
    assert_eq!(report["ports"][0]["port"], "loop:count.0,queues=3");
    assert_eq!(number(&report, "/ports/0/counters/tx_packets"), 10007);
    assert_eq!(number(&report, "/ports/0/counters/tx_bytes"), number(&report, "/bytes"));
    assert_eq!(report["ports"][0]["tx_queues"].as_array().unwrap().len(), 3);
    assert_eq!((number(&report, "/drops/tx_dropped"), number(&report, "/unfinished")), (0, 0));
    let text = run("gen loop:count.0 --count 1000").text();
    assert!(text.starts_with("gen loop:count.0: 1,000 frames, 60,000 bytes in "), "{text}");
}

#[test]
fn a_rate_is_kept_over_the_whole_run() {
    let report = run("gen loop:rate.0 --count 200 --rate 1000 --json").json();
    assert_eq!((number(&report, "/packets"), report["rate"].as_f64()), (200, Some(1000.0)));
    // The last of 200 frames is due after 199 ms; a busy machine may be late, but never early.
    assert!(report["seconds"].as_f64().unwrap() >= 0.199, "{report}");
}

#[test]
fn a_duration_ends_the_run() {
    for command in [
        "gen loop:time.0",
        "sink loop:time.0",
        "reflect loop:time.0",
        "fwd loop:time.0 loop:time.1",
    ] {
        let report = run(&format!("{command} --duration 50ms --json")).json();
        assert_eq!(report["ended_by"], "duration", "{command}");
        assert!(report["elapsed"].as_f64().unwrap() >= 0.05, "{command}");
        assert_eq!(report["command"], command.split(' ').next().unwrap());
    }
}

#[test]
fn signals_end_a_run_with_its_totals() {
    for (command, ports) in [
        ("gen loop:signal.0", 1),
        ("gen loop:signal.0 --rate 0.01", 1),
        ("sink loop:signal.0,queues=2", 1),
        ("reflect loop:signal.0", 1),
        ("fwd loop:signal.0 loop:signal.1", 2),
    ] {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let running = start(anyport(&format!("{command} --json"))).wait_started(ports);
            running.signal(signal);
            let report = running.finish().json();
            assert_eq!(report["ended_by"], "signal", "{command}");
            assert_eq!(report["ports"].as_array().unwrap().len(), ports);
        }
    }
}

#[test]
fn a_signal_at_any_moment_is_clean() {
    for delay in [0, 1, 2, 4, 8, 16] {
        let running = start(anyport("fwd loop:early.0 loop:early.1 --json"));
        std::thread::sleep(Duration::from_millis(delay));
        running.signal(libc::SIGTERM);
        let finished = running.finish();
        // Before it catches signals it dies of one; afterwards it ends by itself, with its totals.
        match finished.status.signal() {
            Some(signal) => assert_eq!((signal, finished.stdout.len()), (libc::SIGTERM, 0)),
            None => assert_eq!(finished.json()["ended_by"], "signal"),
        }
    }
}

#[test]
fn files_are_ports_too() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (first, second) = (at("a.pcapng"), at("b.pcap"));
    let sent =
        run(&format!("gen pcap:out={first} --count 100 --flows 3 --size imix --json")).json();
    let passed = run(&format!("fwd pcap:in={first} pcap:out={second} --json")).json();
    assert_eq!((number(&passed, "/packets"), &passed["ended_by"]), (100, &"end_of_input".into()));
    assert_eq!(number(&passed, "/directions/0/bytes"), number(&sent, "/bytes"));
    let got = run(&format!("sink pcap:in={second} --json")).json();
    assert_eq!(
        (number(&got, "/packets"), number(&got, "/lost"), number(&got, "/streams")),
        (100, 0, 3)
    );
    // How long ago a file was written is no latency.
    assert_eq!(got["latency"], serde_json::Value::Null);
    assert!(got["latency_note"].as_str().unwrap().contains("file"), "{got}");
    for (command, words) in [
        (format!("sink pcap:out={}", at("c.pcap")), "only transmits"),
        (format!("gen pcap:in={first} --count 1"), "only receives"),
        (format!("fwd pcap:in={first} pcap:in={second}"), "nothing can pass"),
    ] {
        run(&command).failed_with(1, &[words]);
    }
    // A file that is cut off: what is whole of it, and an error.
    let whole = std::fs::read(&second).unwrap();
    std::fs::write(&second, &whole[..whole.len() - 1]).unwrap();
    let finished = run(&format!("sink pcap:in={second} --json"));
    finished.failed_with(1, &["b.pcap", "cut off"]);
    assert_eq!(number(&finished.object(), "/packets"), 99);
}

#[test]
fn a_reader_that_goes_is_no_failure() {
    let mut command = anyport("list");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn nothing_of_a_live_line_without_a_terminal() {
    let finished = run("gen loop:live.0 --rate 100 --duration 1.2s");
    assert!(finished.status.success());
    assert!(
        !finished.stderr.contains('\r') && !finished.stderr.contains("kpps"),
        "{}",
        finished.stderr
    );
    std::io::stdout().flush().unwrap();
}
