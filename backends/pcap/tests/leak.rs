//! Nothing is leaked (contract L9). Alone in its process, so that every descriptor and thread is this test's own.

use anyport::{Burst, MacAddr, Pool, Registry};
use anyport_netdev::testing::{in_namespace, may_load_programs};

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// The process's mapped memory in bytes.
fn mapped() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').next().unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_hundred_rounds_leak_nothing() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let mut registry = Registry::new();
        registry.register(anyport_pcap::Pcap::default()).unwrap();
        let pool = Pool::builder().frames(256).frame_size(2048).build().unwrap();
        let mut frame = MacAddr::BROADCAST.0.to_vec();
        frame.resize(60, 2);
        let round = || {
            // Everything that a port may hold: a program, a filter, a journal, memberships, a capture.
            let spec = "pcap:a0,to_kernel=arp,mac=02:00:00:00:00:77,promiscuous=true";
            let mut port = registry.open_with(spec, &pool).unwrap();
            for _ in 0..2 {
                let (mut rx, mut tx) = port.start().unwrap().into_pair();
                let mut burst = Burst::new();
                burst.push(pool.packet(&frame).unwrap()).unwrap();
                assert_eq!(tx.send(&mut burst).unwrap(), 1);
                assert_eq!(rx.recv(&mut burst).unwrap(), 0);
                port.stop().unwrap();
            }
            port.close().unwrap();
            assert_eq!(pool.free(), pool.capacity());
            (entries("/proc/self/fd"), entries("/proc/self/task"))
        };
        let first = round();
        let memory = mapped();
        for number in 0..100 {
            assert_eq!(round(), first, "descriptors and threads after round {number}");
        }
        // A ring alone is a megabyte.
        let grown = mapped().saturating_sub(memory);
        assert!(grown < 4 << 20, "{grown} bytes more are mapped");
    });
}
