//! A process that is killed at any moment leaves nothing behind, and the next opener has the interface (contract F1, L8).
//!
//! The test's own program is started again, in the test's namespace, to be killed. It is a program of its own because it counts
//! what the process holds.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyport::{Burst, Error, MacAddr, Pool, Registry};
use anyport_netdev::testing::end::{End, frame, number};
use anyport_netdev::testing::{in_namespace, may_load_programs, run};

/// The spec that the other process is to open; only that process has it.
const ROLE: &str = "ANYPORT_TEST_PORT";

/// How often a process is killed.
const ROUNDS: u32 = 200;

/// Nothing that happens takes anywhere near that long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The number of frames that the other process sends; the test's own have others.
const THEIRS: u32 = 0xdead;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_af_xdp::AfXdp::default()).unwrap();
    registry
}

fn start(attach: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_at_any_moment_200_times", "--test-threads=1"])
        .env(ROLE, format!("af_xdp:a0,attach={attach}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The other role: opens, starts, and sends without a pause until it is killed.
fn other_role() -> bool {
    let Ok(spec) = std::env::var(ROLE) else { return false };
    // Nobody need look after it: the signal's default action ends the process.
    // SAFETY: no pointers.
    unsafe { libc::alarm(20) };
    let mut end = End::open(&registry(), &spec, 2048);
    loop {
        end.send((0..32).map(|_| frame(MacAddr::BROADCAST, THEIRS, 60)));
    }
}

/// Waits for something that is sure to happen.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What there is at the other end, without waiting: how many of the other process's frames, and the numbers of others.
fn take(b: &mut End) -> (u32, Vec<u32>) {
    let (mut burst, mut theirs, mut others) = (Burst::new(), 0, Vec::new());
    while b.rx.recv(&mut burst).unwrap() > 0 {
        for packet in burst.drain() {
            match number(packet.data()) {
                THEIRS => theirs += 1,
                other => others.push(other),
            }
        }
    }
    (theirs, others)
}

/// Opens the interface; a bounded number of attempts is allowed (contract L8).
fn open_again(attach: &str) -> End {
    let spec = format!("af_xdp:a0,attach={attach}");
    let pool = Pool::builder().frames(2048).build().unwrap();
    until("the interface to be free again", || match registry().open_with(&spec, &pool) {
        Ok(mut port) => {
            let (rx, tx) = port.start().unwrap().into_pair();
            Some(End { port, rx, tx, pool: pool.clone() })
        }
        Err(Error::Busy { .. }) => None,
        Err(error) => panic!("{error}"),
    })
}

/// Descriptors, and pages of address space, of this process.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    (descriptors, statm.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn killed_at_any_moment_200_times() {
    if other_role() {
        return;
    }
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        // Generic mode takes no port whose peer leaves tags to the device.
        run("ethtool", "-K a1 txvlan off tx-vlan-stag-hw-insert off");
        run("ethtool", "-K a0 txvlan off tx-vlan-stag-hw-insert off");
        let mut b = End::open(&registry(), "af_xdp:a1,promiscuous=true", 2048);
        let shown = || run("ip", "-d -j link show a0") + &run("ethtool", "-k a0");
        let found = shown();
        // How long one takes until it sends says which moments there are.
        let begun = Instant::now();
        let mut child = start("native");
        until("the other process to send", || (take(&mut b).0 > 0).then_some(()));
        let most = 3 * begun.elapsed().as_micros() as u64 / 2;
        child.kill().unwrap();
        child.wait().unwrap();

        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut random = random_from(seed.as_nanos() as u64 | 1);
        let mut at_first = None;
        for round in 0..ROUNDS {
            let attach = ["native", "generic"][round as usize % 2];
            // A quarter of them has begun to send, whatever else the machine does.
            let sends = round % 4 >= 3;
            let moment = Duration::from_micros(random() % if sends { 5000 } else { most });
            let what = format!("round {round}, {attach}, killed after {moment:?}, sends: {sends}");
            let mut child = start(attach);
            if sends {
                until(&what, || (take(&mut b).0 > 0).then_some(()));
            }
            std::thread::sleep(moment);
            child.kill().unwrap();
            child.wait().unwrap();
            let mut left = String::new();
            let gone = Instant::now();
            while gone.elapsed() < PATIENCE {
                left = shown();
                if left == found {
                    break;
                }
            }
            assert_eq!(left, found, "{what}");
            let mut a = open_again(attach);
            take(&mut b);
            a.send([frame(b.mac(), round, 60)]);
            let arrived = until(&what, || Some(take(&mut b).1).filter(|all| !all.is_empty()));
            assert_eq!(arrived, [round], "{what}");
            b.send([frame(a.mac(), round, 60)]);
            let arrived = until(&what, || Some(take(&mut a).1).filter(|all| !all.is_empty()));
            assert_eq!(arrived, [round], "{what}");
            let End { port, rx, tx, pool } = a;
            port.close().unwrap();
            drop((rx, tx));
            assert_eq!(pool.free(), pool.capacity(), "{what}");
            drop(pool);
            if round == ROUNDS / 10 {
                at_first = Some(held());
            }
        }
        let (descriptors, pages) = at_first.unwrap();
        let (descriptors_now, pages_now) = held();
        assert_eq!(descriptors_now, descriptors, "descriptors");
        // A pool is 1,024 pages; one that stays each time would make 180 of them.
        assert!(pages_now < pages + 4 * 1024, "{pages_now} pages are mapped, and were {pages}");
        assert_eq!(shown(), found);
    });
}

/// A generator of numbers (xorshift) from a seed that is not 0.
fn random_from(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}
