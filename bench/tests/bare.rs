//! The bare programs move every frame, once. Root only; in network namespaces of their own.

use std::time::{Duration, Instant};

use anyport_bench::bare::Tuning;
use anyport_bench::bare::forward::Forwarder;
use anyport_bench::bare::receive::{Idle, Receiver};
use anyport_bench::bare::send::Sender;
use anyport_bench::live::Source;
use anyport_netdev::testing::{in_namespace, ip, may_load_programs};

/// How long frames may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Steps until so many frames have come; how many, and what one step more brings.
fn all(count: u64, mut step: impl FnMut() -> u32) -> (u64, u32) {
    let (mut came, start) = (0, Instant::now());
    while came < count && start.elapsed() < PATIENCE {
        came += u64::from(step());
    }
    (came, step())
}

#[test]
fn what_is_sent_is_received() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        for idle in [Idle::Spin, Idle::Sleep] {
            let tuning = Tuning::default();
            let mut receiver = Receiver::new("a1", 64, idle, &tuning).unwrap();
            let mut sender = Sender::new("a0", 32, 64, &tuning).unwrap();
            let sent: u64 = (0..20).map(|_| u64::from(sender.step())).sum();
            assert_eq!((sent, all(sent, || receiver.step())), (640, (640, 0)));
        }
    });
}

#[test]
fn what_comes_in_goes_out_at_the_other_interface_both_ways() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        ip("link add b0 type veth peer name b1");
        for end in ["b0", "b1"] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        let tuning = Tuning::default();
        let mut forwarder = Forwarder::new(["a1", "b0"], 64, Idle::Spin, &tuning).unwrap();
        for (from, to) in [("a0", "b1"), ("b1", "a0")] {
            let mut receiver = Receiver::new(to, 64, Idle::Spin, &tuning).unwrap();
            let mut sender = Sender::new(from, 32, 64, &tuning).unwrap();
            // More frames than the forwarder has: they come back to where they came from.
            for _ in 0..200 {
                assert_eq!(sender.step(), 32);
                assert_eq!(all(32, || forwarder.step()), (32, 0));
                assert_eq!(all(32, || receiver.step()), (32, 0));
            }
        }
    });
}

#[test]
fn the_kernel_makes_as_many_frames_as_it_is_asked_for() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let mut receiver = Receiver::new("a1", 64, Idle::Spin, &Tuning::default()).unwrap();
        Source::new("a0").unwrap().send(200, 64).unwrap();
        assert_eq!(all(200, || receiver.step()), (200, 0));
    });
}
