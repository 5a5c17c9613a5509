//! Portable example programs: each runs on any backend, by the specs that it is given (but for the last, which starts others).
//!
//! | program | what it shows |
//! |---|---|
//! | `hello` | the least: frames come in, are changed, and go back |
//! | `forward` | two ports over one pool: frames pass between them, both ways |
//! | `ping` | a host of its own: answers ARP and ICMP echo requests, checksums on request |
//! | `epoll` | a queue beside other sources in an `epoll` loop of the program's own |
//! | `async` | a queue under an async runtime |
//! | `multiqueue` | a pinned thread per queue pair, counters read from another thread |
//! | `backend` | a whole backend, registered and used: Ethernet frames in UDP datagrams |
//! | `handover` | a program without privileges is given an interface (AF_XDP) |
//!
//! ```text
//! cargo run --release -p anyport-examples --bin ping -- pcap:eth1 10.0.0.2
//! ```
//!
//! Each program is one file under 150 lines, read from top to bottom. This library has only what they share, and the
//! guides of `docs/guide`, so that all code in them is compiled and run.

pub mod cable;
pub mod guide;

use anyport::Waker;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls the wakers on Ctrl-C or SIGTERM, once, so that a program's loops end with a look at their totals. A second
/// signal ends the program at once.
///
/// # Errors
/// The system's, if a signal cannot be taken over.
pub fn wake_on_ctrl_c(wakers: impl IntoIterator<Item = Waker>) -> std::io::Result<()> {
    let wakers: Vec<Waker> = wakers.into_iter().collect();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            wakers.iter().for_each(Waker::wake);
        }
        if let Some(signal) = signals.forever().next() {
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
    Ok(())
}
