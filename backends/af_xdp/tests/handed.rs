//! Ports of processes that have no privilege, on what another process hands over (contract F6, L6, R6).
//!
//! ```text
//!  test (root)                                        this program again, as user 65534, without capabilities
//!  a1: port ◄── veth ──► a0: program ─► map ─► socket ─► port with sockets= or map=
//! ```

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyport::{Burst, Error, MacAddr, Pool, Queues, Registry};
use anyport_af_xdp::handover::{Handover, Options, pass};
use anyport_netdev::privilege::Privilege;
use anyport_netdev::testing::end::{End, frame, number};
use anyport_netdev::testing::{in_namespace, ip, keep_only, may_load_programs, run};

/// The spec that the other process is to open; only that process has it.
const ROLE: &str = "ANYPORT_TEST_PORT";

/// How long anything may take that is sure to happen.
const PATIENCE: Duration = Duration::from_secs(20);

const NOBODY: u32 = 65534;

/// Frames that go each way on each queue.
const FRAMES: u32 = 2000;

/// So many frames come in one go: far fewer than a queue of the other process has empty frames for (an eighth of its pool).
const WINDOW: u32 = 25;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_af_xdp::AfXdp::default()).unwrap();
    registry
}

fn pool() -> Pool {
    Pool::builder().frames(512).frame_size(2048).build().unwrap()
}

/// The other role: opens the port, says so or why not, sends back what it receives, and says how much that was when its input
/// ends.
#[allow(clippy::print_stderr, reason = "it is read by the process that started this one")]
fn other_role() -> bool {
    let Ok(spec) = std::env::var(ROLE) else { return false };
    // Whatever hangs here does not hang the one that reads what is said.
    // SAFETY: no pointers; the signal's default action ends the process.
    unsafe { libc::alarm(60) };
    let pool = pool();
    let mut port = match registry().open_with(&spec, &pool) {
        Ok(port) => port,
        Err(error) => {
            eprintln!("said: {error}");
            return true;
        }
    };
    let capability = port.capability();
    assert!(!capability.filters && capability.promiscuous && !capability.set_mac);
    // What needs no socket that can be bound once can be done again.
    if spec.contains(",map=") && !spec.contains(",sockets=") {
        port.start().unwrap();
        port.stop().unwrap();
    }
    let Queues { rx, tx, .. } = match port.start() {
        Ok(queues) => queues,
        Err(error) => {
            eprintln!("said: {error}");
            return true;
        }
    };
    let waker = rx[0].waker();
    let control = port.control();
    eprintln!("said: open");
    let threads: Vec<_> = rx
        .into_iter()
        .zip(tx)
        .map(|(mut rx, mut tx)| {
            std::thread::spawn(move || {
                let mut burst = Burst::new();
                loop {
                    match rx.recv(&mut burst) {
                        Ok(0) => drop(rx.wait(Duration::from_millis(100))),
                        Ok(_) => {}
                        Err(error) => {
                            assert!(error.is_closed(), "{error}");
                            return;
                        }
                    }
                    while !burst.is_empty() {
                        if tx.send(&mut burst).unwrap() == 0 {
                            std::thread::yield_now();
                        }
                    }
                }
            })
        })
        .collect();
    for line in std::io::stdin().lines() {
        control.set_promiscuous(line.unwrap() == "promiscuous").unwrap();
        eprintln!("said: switched");
    }
    waker.wake();
    port.stop().unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    let counters = port.stats().read().port;
    let lost = counters.lost.unwrap();
    eprintln!(
        "said: {} received, {} sent",
        counters.rx_packets.unwrap(),
        counters.tx_packets.unwrap()
    );
    drop(port);
    assert_eq!((pool.free(), lost), (pool.capacity(), 0));
    true
}

/// A process in the other role.
struct Other {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Other {
    /// Starts this program to run the test of that name in the other role; `setpriv` is what it gives up, and what it keeps.
    fn start(test: &str, setpriv: &str, spec: &str, sockets: Vec<std::os::fd::OwnedFd>) -> Other {
        // Its user may not enter the directories of this one.
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("test");
        // By another process: a file that this one writes cannot be begun while some thread of it begins another program.
        let own = std::env::current_exe().unwrap();
        run("cp", &format!("{} {}", own.display(), program.display()));
        run("chmod", &format!("755 {} {}", folder.path().display(), program.display()));
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(setpriv.split(' ')).arg(&program);
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        let spec = match sockets.len() {
            0 => spec.to_owned(),
            _ => format!("{spec},sockets={}", pass(&mut command, sockets)),
        };
        command.env(ROLE, spec).env("TMPDIR", folder.path()).stdin(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut other = Other { child, lines };
        // The program is there until it was begun.
        assert_eq!(other.says(), "open");
        other
    }

    /// What it says next.
    fn says(&mut self) -> String {
        let mut rest = String::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            match line.strip_prefix("said: ") {
                Some(said) => return said.to_owned(),
                None => rest += &(line + "\n"),
            }
        }
        panic!("it says only: {rest}")
    }

    fn promiscuous(&mut self, on: bool) {
        let word = if on { "promiscuous\n" } else { "not\n" };
        self.child.stdin.as_mut().unwrap().write_all(word.as_bytes()).unwrap();
        assert_eq!(self.says(), "switched");
    }

    /// Ends its input; what it says then.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let said = self.says();
        let rest: Vec<_> = self.lines.by_ref().map_while(Result::ok).collect();
        assert!(self.child.wait().unwrap().success(), "{rest:?}");
        said
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends frames on every queue, and takes them back on the same queue, every one once, in order.
fn round_trip(spec: &str, to: MacAddr) {
    let pool = Pool::builder().frames(2048).frame_size(2048).build().unwrap();
    let mut port = registry().open_with(spec, &pool).unwrap();
    // What comes back is addressed as it was sent.
    port.control().set_promiscuous(true).unwrap();
    let Queues { rx, tx, .. } = port.start().unwrap();
    let mut sent = 0;
    for (mut rx, mut tx) in rx.into_iter().zip(tx) {
        let mut back = 0;
        for first in (0..FRAMES).step_by(WINDOW as usize) {
            let mut burst = Burst::new();
            for number in first..first + WINDOW {
                if burst.is_full() {
                    assert_ne!(tx.send(&mut burst).unwrap(), 0);
                }
                burst.push(pool.packet(&frame(to, number, 60)).unwrap()).unwrap();
            }
            while !burst.is_empty() {
                assert_ne!(tx.send(&mut burst).unwrap(), 0);
            }
            let deadline = Instant::now() + PATIENCE;
            while back < first + WINDOW {
                assert!(Instant::now() < deadline, "{back} came back");
                rx.wait(Duration::from_millis(100)).unwrap();
                rx.recv(&mut burst).unwrap();
                for packet in burst.drain() {
                    assert_eq!(packet.data(), frame(to, back, 60));
                    back += 1;
                }
            }
        }
        assert_eq!(back, FRAMES);
        sent += FRAMES;
    }
    port.stop().unwrap();
    let counters = port.stats().read().port;
    let expected = (Some(u64::from(sent)), Some(u64::from(sent)));
    assert_eq!((counters.rx_packets, counters.tx_packets), expected);
}

fn mac_of(name: &str) -> MacAddr {
    anyport_netdev::Interface::open(name).unwrap().mac().unwrap()
}

const NOTHING: &str = "--inh-caps=-all --ambient-caps=-all --bounding-set=-all --no-new-privs";

#[test]
fn a_process_without_privilege_has_a_port_on_sockets() {
    if other_role() {
        return;
    }
    let name = "a_process_without_privilege_has_a_port_on_sockets";
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        ip(
            "link add q0 numrxqueues 2 numtxqueues 2 type veth peer name q1 numrxqueues 2 numtxqueues 2",
        );
        for end in ["q0", "q1"] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        for generic in [false, true] {
            let mut options = Options::default();
            (options.generic, options.tags_in_frames) = (generic, generic);
            let handover = Handover::open("q0", &options).unwrap();
            // Behind the driver a veth has forgotten which queue a frame came by.
            let queues = if generic { 1 } else { 2 };
            let sockets = handover.sockets(queues).unwrap();
            let spec = format!("af_xdp:q0,queues={queues}");
            let mut other = Other::start(name, NOTHING, &spec, sockets);
            round_trip(&format!("af_xdp:q1,queues={queues},tags_in_frames=true"), mac_of("q0"));
            // Frames to others are not the port's, unless it is promiscuous: then they come back.
            let mut end = End::open(&registry(), "af_xdp:q1,tags_in_frames=true", 2048);
            end.port.control().set_promiscuous(true).unwrap();
            let somebody = MacAddr([2, 0, 0, 0, 0, 9]);
            end.send((0..3).map(|number| frame(somebody, number, 60)));
            end.send([frame(mac_of("q0"), 9, 60)]);
            let back = end.receive(1);
            assert_eq!(back.iter().map(|frame| number(frame)).collect::<Vec<_>>(), [9]);
            other.promiscuous(true);
            end.send((10..13).map(|number| frame(somebody, number, 60)));
            let back = end.receive(3);
            assert_eq!(back.iter().map(|frame| number(frame)).collect::<Vec<_>>(), [10, 11, 12]);
            let both = queues * FRAMES + 4;
            assert_eq!(other.end(), format!("{both} received, {both} sent"));
            drop(handover);
            assert!(!run("ip", "link show q0").contains("xdp"));
        }
    });
}

#[test]
fn a_process_that_may_make_sockets_has_a_port_on_a_pinned_map() {
    if other_role() {
        return;
    }
    let name = "a_process_that_may_make_sockets_has_a_port_on_a_pinned_map";
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        with_bpf_file_system(|folder| {
            let there = folder.join("a0");
            let mut handover = Handover::open("a0", &Options::default()).unwrap();
            handover.pin(&there, NOBODY).unwrap();
            let again = handover.pin(&there, NOBODY).unwrap_err();
            assert!(matches!(again, Error::Os { .. }), "{again:?}");
            // The program stays without the process that attached it.
            drop(handover);
            let kept = "--inh-caps=-all,+net_raw --ambient-caps=-all,+net_raw \
                        --bounding-set=-all,+net_raw --no-new-privs";
            let spec = format!("af_xdp:a0,map={}", there.join("map").display());
            // One after the other, as a service that is started again.
            for _ in 0..2 {
                let other = Other::start(name, kept, &spec, Vec::new());
                round_trip("af_xdp:a1", mac_of("a0"));
                assert_eq!(other.end(), format!("{FRAMES} received, {FRAMES} sent"));
            }
            // One that is killed leaves nothing behind that is in the way of the next.
            let other = Other::start(name, kept, &spec, Vec::new());
            drop(other);
            let other = Other::start(name, kept, &spec, Vec::new());
            round_trip("af_xdp:a1", mac_of("a0"));
            assert_eq!(other.end(), format!("{FRAMES} received, {FRAMES} sent"));
            // Beside it there is no place for another program.
            let error = registry().open_with("af_xdp:a0", &pool()).unwrap_err().to_string();
            assert!(
                error.contains("\"anyport\"") && error.contains("attached by a link"),
                "{error}"
            );
            for file in ["link", "map"] {
                std::fs::remove_file(there.join(file)).unwrap();
            }
            registry().open_with("af_xdp:a0", &pool()).unwrap().start().unwrap();
        });
    });
}

/// Runs with a BPF file system of its own.
fn with_bpf_file_system(test: impl FnOnce(&Path)) {
    // SAFETY: no pointers; it changes this thread alone.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    run("mount", "--make-rprivate /");
    let folder = tempfile::tempdir().unwrap();
    run("chmod", &format!("755 {}", folder.path().display()));
    run("mount", &format!("-t bpf none {}", folder.path().display()));
    test(folder.path());
    run("umount", &format!("{}", folder.path().display()));
}

/// Why it does not open.
fn refused(spec: &str) -> Error {
    match registry().open_with(spec, &pool()) {
        Err(error) => error,
        Ok(_) => panic!("{spec} opens"),
    }
}

#[test]
fn what_was_not_handed_over_or_not_rightly_is_refused() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let says = |spec: &str, words: &[&str]| {
            let error = refused(spec).to_string();
            for word in words {
                assert!(error.contains(word), "{word}: {error}");
            }
        };
        says("af_xdp:a0,sockets=9999", &["sockets=9999", "no such descriptor is open"]);
        says("af_xdp:a0,map=9999", &["map=9999", "no such descriptor is open"]);
        says("af_xdp:a0,map=/no/such/map", &["no map of sockets is pinned at /no/such/map"]);
        let file = tempfile::tempfile().unwrap().into_raw_fd();
        says(&format!("af_xdp:a0,sockets={file}"), &["is no AF_XDP socket"]);
        says(&format!("af_xdp:a0,map={file}"), &["is no map of AF_XDP sockets"]);
        says("af_xdp:a0,sockets=5+5", &["`5` or `5+6`"]);
        let handover = Handover::open("a0", &Options::default()).unwrap();
        let map = handover.map().as_raw_fd();
        says(
            &format!("af_xdp:a0,map={map},attach=native"),
            &["`attach` = native", "attaches none"],
        );
        says(
            &format!("af_xdp:a0,map={map},to_kernel=arp"),
            &["`to_kernel` = arp", "attaches none"],
        );
        let [socket] = handover.sockets(1).unwrap().try_into().unwrap();
        let socket = socket.into_raw_fd();
        let queues = anyport_netdev::Interface::open("a0").unwrap().queues().unwrap().0;
        if queues > 1 {
            says(
                &format!("af_xdp:a0,queues=2,sockets={socket}"),
                &["`queues` = 2", "what was handed over is enough for 1"],
            );
        }
        std::thread::scope(|scope| {
            let elsewhere = || {
                in_namespace(|| {
                    let error = refused(&format!("af_xdp:a0,sockets={socket}")).to_string();
                    assert!(error.contains("made in another network namespace"), "{error}");
                });
            };
            scope.spawn(elsewhere).join().unwrap();
        });
        // Nothing of that has taken the socket away.
        let mut port =
            registry().open_with(&format!("af_xdp:a0,sockets={socket}"), &pool()).unwrap();
        assert!(matches!(Handover::open("a0", &Options::default()), Err(Error::Busy { .. })));
        port.start().unwrap();
        port.stop().unwrap();
        let error = port.start().unwrap_err().to_string();
        assert!(error.contains("used by the first start"), "{error}");
        drop(port);
        let error = handover.sockets(queues + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("1 to {queues}")), "{error}");
        let second = Handover::open("a0", &Options::default()).unwrap_err().to_string();
        assert!(second.contains("\"anyport\""), "{second}");

        // The map, and nothing else: who may not make sockets learns what it takes.
        let _holder = handover.sockets(1).unwrap();
        let mut port = registry().open_with(&format!("af_xdp:a0,map={map}"), &pool()).unwrap();
        let error = port.start().unwrap_err().to_string();
        assert!(error.contains("another socket has queue 0"), "{error}");
        drop(port);
        keep_only(&[]);
        let error = refused(&format!("af_xdp:a0,map={map}"));
        let Error::Permission { needs, doing, .. } = &error else { panic!("{error:?}") };
        assert_eq!(needs, "CAP_NET_RAW");
        assert!(doing.contains("sockets= needs none"), "{doing}");
        let error = Handover::open("a1", &Options::default()).unwrap_err();
        assert!(matches!(error, Error::Permission { .. }), "{error:?}");
    });
}

#[test]
fn a_map_that_may_not_be_used_is_refused_with_the_command_that_allows_it() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        with_bpf_file_system(|folder| {
            let there = folder.join("a0");
            let mut handover = Handover::open("a0", &Options::default()).unwrap();
            handover.pin(&there, NOBODY).unwrap();
            let map = there.join("map");
            // This thread's user goes by the file's mode without CAP_DAC_OVERRIDE.
            let spec = format!("af_xdp:a0,map={}", map.display());
            let without = || {
                keep_only(&[Privilege::NetRaw]);
                let error = refused(&spec);
                let Error::Permission { remedy, .. } = &error else { panic!("{error:?}") };
                let command = format!("`sudo chown $(id -u) {}`", map.display());
                assert!(remedy.contains(&command), "{remedy}");
            };
            std::thread::scope(|scope| scope.spawn(without).join().unwrap());
        });
    });
}

/// A socket that the giver still has open may go on receiving: what it may receive into is never used again.
#[test]
fn frames_that_a_socket_may_still_receive_into_are_not_used_again() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let handover = Handover::open("a0", &Options::default()).unwrap();
        for keeps in [true, false] {
            let socket = handover.sockets(1).unwrap().remove(0);
            let kept = keeps.then(|| socket.try_clone().unwrap());
            let pool = pool();
            let spec = format!("af_xdp:a0,sockets={}", socket.into_raw_fd());
            let mut port = registry().open_with(&spec, &pool).unwrap();
            port.start().unwrap();
            let lent = pool.capacity() - pool.free();
            assert_ne!(lent, 0);
            port.stop().unwrap();
            let lost = port.stats().read().port.lost.unwrap();
            let expected = if keeps { lent } else { 0 };
            assert_eq!((lost as usize, pool.capacity() - pool.free()), (expected, expected));
            drop((port, kept));
        }
    });
}

#[test]
fn what_the_host_needs_is_not_handed_over_unasked() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        ip("addr add 192.0.2.1/24 dev a0");
        ip("route add default via 192.0.2.2");
        let error = Handover::open("a0", &Options::default()).unwrap_err();
        assert!(matches!(error, Error::NeedsTakeover { .. }), "{error:?}");
        let mut options = Options::default();
        options.takeover = true;
        let handover = Handover::open("a0", &options).unwrap();
        assert!(run("ip", "link show a0").contains("xdp"));
        drop(handover);
        assert!(!run("ip", "link show a0").contains("xdp"));
        run("ethtool", "-K a1 gro on");
        options.generic = true;
        options.tags_in_frames = true;
        let error = Handover::open("a1", &options).unwrap_err().to_string();
        assert!(error.contains("`ethtool -K a1 rx-gro off`"), "{error}");
    });
}
