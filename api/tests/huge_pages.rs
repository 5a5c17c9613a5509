//! A program of its own, since what is said once is said once in a process (contract F7).

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

mod common;

use anyport::Pool;
use anyport::pool::HugePages;
use common::Log;

#[test]
fn falling_back_is_said_once() {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let said = || {
        let remedy = "sysctl -w vm.nr_hugepages=";
        let about = |text: &&String| text.contains("huge pages") && text.contains(remedy);
        log.said().iter().filter(about).count()
    };
    // Asked for nothing, there is nothing to say.
    drop(Pool::builder().frames(8).huge_pages(HugePages::Off).build().unwrap());
    assert_eq!(said(), 0);
    let pools: Vec<Pool> = (0..3)
        .map(|_| Pool::builder().frames(8192).huge_pages(HugePages::Auto).build().unwrap())
        .collect();
    if pools.iter().any(Pool::on_huge_pages) {
        eprintln!("skipped: this machine has huge pages reserved");
        return;
    }
    assert_eq!(said(), 1);
    // And they work.
    for pool in &pools {
        let packet = pool.packet(&[7; 60]).unwrap();
        assert_eq!(packet.data(), [7; 60]);
    }
}
