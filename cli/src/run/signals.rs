//! SIGINT and SIGTERM: the first one ends the run with its totals, the second one ends the process at once.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Iterator;
use signal_hook::low_level::emulate_default_handler;

/// What the main thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A signal that ends the run.
    Signal,
    /// A worker has ended.
    WorkerEnded,
}

/// The catcher of signals. Make it before anything is opened: a signal that comes while ports are being opened ends the
/// run as soon as it starts, so that all is closed in order.
pub struct Signals {
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn catch() -> Result<Signals> {
        let (sender, events) = channel();
        let mut signals = Iterator::new([SIGINT, SIGTERM]).context("catching signals")?;
        let to_main = sender.clone();
        let body = move || {
            let mut caught = false;
            for signal in signals.forever() {
                if caught {
                    // The way that a process ends which does not catch it; nothing comes back from there.
                    let _ = emulate_default_handler(signal);
                }
                caught = true;
                let _ = to_main.send(Event::Signal);
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(body)
            .context("starting a thread")?;
        Ok(Signals { sender, events })
    }

    /// For workers to say that they have ended.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// The next event, or `None` after the time.
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        // The catcher holds a sender, so what is no event is the end of the time.
        self.events.recv_timeout(timeout).ok()
    }
}
