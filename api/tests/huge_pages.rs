//! A program of its own, since what is said once is said once in a process (contract F7).

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

use std::sync::atomic::{AtomicUsize, Ordering};

use anyport::Pool;
use anyport::pool::HugePages;

/// Counts what is logged about huge pages, from whatever thread.
struct Count;

static SAID: AtomicUsize = AtomicUsize::new(0);

impl tracing::Subscriber for Count {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(bool);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let text = format!("{value:?}");
                self.0 |=
                    text.contains("huge pages") && text.contains("sysctl -w vm.nr_hugepages=");
            }
        }
        let mut text = Text(false);
        event.record(&mut text);
        SAID.fetch_add(usize::from(text.0), Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn falling_back_is_said_once() {
    tracing::subscriber::set_global_default(Count).unwrap();
    // Asked for nothing, there is nothing to say.
    drop(Pool::builder().frames(8).huge_pages(HugePages::Off).build().unwrap());
    assert_eq!(SAID.load(Ordering::Relaxed), 0);
    let pools: Vec<Pool> = (0..3)
        .map(|_| Pool::builder().frames(8192).huge_pages(HugePages::Auto).build().unwrap())
        .collect();
    if pools.iter().any(Pool::on_huge_pages) {
        eprintln!("skipped: this machine has huge pages reserved");
        return;
    }
    assert_eq!(SAID.load(Ordering::Relaxed), 1);
    // And they work.
    for pool in &pools {
        let packet = pool.packet(&[7; 60]).unwrap();
        assert_eq!(packet.data(), [7; 60]);
    }
}
