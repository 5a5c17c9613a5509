//! `capture=FILE.pcapng`: a thread that writes a port's capture to a file.
//!
//! This is the one thread that the library starts, and only for this key: a disk must not be waited for in the
//! packet path. A full disk ends the file, not the port: it is logged, the rest of the capture is counted as
//! dropped, and closing the port reports the error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyport_capfile::{Direction, Format, Record, Writer};

use super::tap::TapWriter;
use super::{Captured, Tap};
use crate::error::{Error, Result};

/// The ring's size: at 60-byte frames about 57,000 of them, at full-size frames about 2,700.
const RING: usize = 4 << 20;

/// How long records may stay in the writer's buffer while the port is idle.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// A capture to a file at work. Dropping it writes what is there and ends the thread.
#[derive(Debug)]
pub(crate) struct CaptureFile {
    path: PathBuf,
    tap: Arc<TapWriter>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl CaptureFile {
    /// Creates the file and starts the thread.
    pub fn create(path: &Path, port: &str) -> Result<CaptureFile> {
        let context = path.display().to_string();
        let writer = Writer::create(path, Format::Pcapng, port)
            .map_err(|error| explain(&context, "creating the capture file", error))?;
        let tap = Tap::new(RING);
        let shared = tap.writer();
        let counter = shared.clone();
        let thread = std::thread::Builder::new()
            .name("anyport-capture".into())
            .spawn({
                let context = context.clone();
                move || write(tap, &counter, writer, &context)
            })
            .map_err(|source| Error::os(&context, "starting the capture's thread", source))?;
        Ok(CaptureFile { path: path.to_owned(), tap: shared, thread: Some(thread) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tap(&self) -> Arc<TapWriter> {
        self.tap.clone()
    }

    /// Writes what is there, and reports how the writing went.
    pub fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.tap.close();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| {
            let died = io::Error::other("the writer died");
            Err(Error::os(self.path.display().to_string(), "writing the capture", died))
        })
    }
}

impl Drop for CaptureFile {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The thread: from the ring to the file until the port is closed. After an error it goes on emptying the ring,
/// counting.
fn write(mut tap: Tap, counter: &TapWriter, writer: Writer, context: &str) -> Result<()> {
    let mut writer = Some(writer);
    let mut result = Ok(());
    let mut taken = 0;
    while !tap.is_finished() {
        let captured = tap.next(FLUSH_AFTER);
        let Some(file) = &mut writer else {
            counter.count_dropped(captured.map_or(0, |_| 1));
            continue;
        };
        let written = match captured {
            Some(captured) => {
                taken += 1;
                file.write(&record(&captured))
            }
            // It costs nothing if there is nothing.
            None => file.flush(),
        };
        if let Err(error) = written {
            let error = explain(context, "writing the capture", error);
            // Whoever runs the port for days is not to learn it at the end.
            tracing::warn!(
                "{error}; the file ends here, and what the port sends and receives from now on is not in it"
            );
            result = Err(error);
            counter.count_dropped(taken - file.records());
            writer = None;
        }
    }
    if let Some(mut file) = writer {
        let flushed = file.flush();
        counter.count_dropped(taken - file.records());
        result = flushed.map_err(|error| explain(context, "writing the capture", error));
    }
    result
}

fn record<'a>(captured: &Captured<'a>) -> Record<'a> {
    Record {
        timestamp_ns: Some(captured.timestamp_ns),
        original_len: captured.frame.len(),
        data: captured.frame,
        direction: Some(match captured.direction {
            super::Direction::Received => Direction::Received,
            super::Direction::Sent => Direction::Sent,
        }),
    }
}

fn explain(context: &str, doing: &str, error: anyport_capfile::Error) -> Error {
    match error {
        anyport_capfile::Error::Io { source, .. } => Error::os(context, doing, source),
        other => Error::os(context, doing, io::Error::other(other.to_string())),
    }
}
