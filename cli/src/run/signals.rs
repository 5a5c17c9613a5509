//! SIGINT and SIGTERM: the first one ends the run with its totals, the second one ends the process at once.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Iterator;
use signal_hook::low_level::emulate_default_handler;

/// Signals that come so soon after the first are the same one: `timeout` sends it to the process, and then to the process's
/// group.
const TWICE: Duration = Duration::from_millis(100);

/// What the main thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A signal that ends the run.
    Signal,
    /// A worker has ended.
    WorkerEnded,
}

/// Catches the signals from now on: the first one calls `first` with its number, on a thread of its own.
///
/// # Errors
/// The system's.
pub fn on_signal(first: impl FnOnce(i32) + Send + 'static) -> Result<()> {
    let mut signals = Iterator::new([SIGINT, SIGTERM]).context("catching signals")?;
    let body = move || {
        let mut signals = signals.forever();
        let Some(signal) = signals.next() else { return };
        let at = Instant::now();
        first(signal);
        for signal in signals {
            if at.elapsed() >= TWICE {
                die_of(signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(body).context("starting a thread")?;
    Ok(())
}

/// Ends the process as one ends that does not catch the signal.
pub fn die_of(signal: i32) {
    // Nothing comes back from there for signals that end a process.
    let _ = emulate_default_handler(signal);
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
        let to_main = sender.clone();
        on_signal(move |_| {
            let _ = to_main.send(Event::Signal);
        })?;
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
