//! The driver's work done within the port's own calls loses nothing, whether the interface leaves it to them or not.

use std::fs;
use std::process::Command;

use anyport_netdev::testing::{in_namespace, may_load_programs};

use crate::common::{frame, number, open};

/// Has the drivers of the pair leave their work to whoever polls, as the guide says. `/sys` shows the interfaces of the namespace in
/// which it was mounted, so this thread gets one of its own.
fn leave_the_work() {
    // SAFETY: no pointers; it changes this thread alone.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    for arguments in [&["--make-rprivate", "/"][..], &["-t", "sysfs", "sysfs", "/sys"]] {
        assert!(Command::new("mount").args(arguments).status().unwrap().success());
    }
    for name in ["a0", "a1"] {
        for (setting, value) in [("napi_defer_hard_irqs", "2"), ("gro_flush_timeout", "200000")] {
            fs::write(format!("/sys/class/net/{name}/{setting}"), value).unwrap();
        }
    }
}

#[test]
fn every_frame_arrives_both_ways() {
    const ROUNDS: u32 = 5;
    const EACH: u32 = 200;
    for leave in [false, true] {
        in_namespace(move || {
            if !may_load_programs() {
                return;
            }
            if leave {
                leave_the_work();
            }
            let mut a = open("af_xdp:a0,busy_poll=50,busy_poll_budget=16");
            let mut b = open("af_xdp:a1,busy_poll=50,busy_poll_budget=16");
            let (to_a, to_b) = (a.mac(), b.mac());
            for round in 0..ROUNDS {
                let numbers = round * EACH..(round + 1) * EACH;
                a.send(numbers.clone().map(|at| frame(to_b, at, 60)));
                b.send(numbers.clone().map(|at| frame(to_a, at, 60)));
                for end in [&mut a, &mut b] {
                    let frames = end.receive(EACH as usize);
                    let got: Vec<u32> = frames.iter().map(|frame| number(frame)).collect();
                    assert_eq!(got, numbers.clone().collect::<Vec<_>>(), "leave: {leave}");
                }
            }
            let all = Some(u64::from(ROUNDS * EACH));
            for end in [&a, &b] {
                let counters = end.counters();
                assert_eq!((counters.rx_packets, counters.tx_packets), (all, all));
                let lost = [counters.rx_ring_full, counters.rx_no_buffer, counters.tx_dropped];
                assert_eq!(lost, [Some(0); 3]);
            }
        });
    }
}
