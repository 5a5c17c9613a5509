//! Logging: what the library and the tool have to say besides results, on standard error. Warnings by default, because
//! the library says there, once, what a port cannot do as well as one may think.

use std::io::{self, IsTerminal, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::run::live::clear_line;

/// Sets logging up for the process.
pub fn start() {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    // `warn`, or by target: `anyport=debug,anyport_pcap=trace`.
    let filter = asked.parse().ok().filter(|_: &Targets| !asked.is_empty());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .without_time()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| Stderr);
    // It can only be set already, and then somebody else has seen to it.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
}

/// Standard error, with the live line taken away first.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        clear_line();
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
