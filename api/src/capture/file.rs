//! `capture=FILE.pcapng`: a thread that writes a port's capture to a file.
//!
//! This is the one thread that the library starts, and only for this key: a disk must not be waited for in the
//! packet path. A full disk ends the file, not the port: the rest of the capture is counted as dropped, and
//! closing the port reports the error.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::tap::TapWriter;
use super::{Captured, Direction, Tap};
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
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl CaptureFile {
    /// Creates the file and starts the thread.
    pub fn create(path: &Path, port: &str) -> Result<CaptureFile> {
        let context = path.display().to_string();
        let system = |source| Error::os(&context, "creating the capture file", source);
        let file = File::create(path).map_err(system)?;
        let mut writer = BufWriter::with_capacity(1 << 16, file);
        pcapng::header(&mut writer, port).and_then(|()| writer.flush()).map_err(system)?;
        let tap = Tap::new(RING);
        let shared = tap.writer();
        let counter = shared.clone();
        let thread = std::thread::Builder::new()
            .name("anyport-capture".into())
            .spawn(move || write(tap, &counter, writer))
            .map_err(system)?;
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
        let written = thread.join().unwrap_or_else(|_| Err(io::Error::other("the writer died")));
        written.map_err(|source| {
            Error::os(self.path.display().to_string(), "writing the capture", source)
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
fn write(mut tap: Tap, counter: &TapWriter, mut writer: BufWriter<File>) -> io::Result<()> {
    let mut result = Ok(());
    let mut unwritten = 0;
    while !tap.is_finished() {
        match tap.next(FLUSH_AFTER) {
            Some(_) if result.is_err() => counter.count_dropped(1),
            Some(captured) => {
                unwritten += 1;
                result = pcapng::record(&mut writer, &captured);
            }
            None if result.is_ok() && unwritten > 0 => {
                result = writer.flush();
                unwritten = 0;
            }
            None => {}
        }
    }
    if result.is_ok() {
        result = writer.flush();
    }
    if result.is_err() {
        // What the buffer still holds cannot be written either; do not try again on drop.
        drop(writer.into_parts());
    }
    result
}

/// The three blocks that a capture needs (draft-ietf-opsawg-pcapng).
mod pcapng {
    use super::*;

    /// Section header and one Ethernet interface with nanosecond time stamps.
    pub fn header(writer: &mut impl Write, port: &str) -> io::Result<()> {
        let mut section = Vec::new();
        section.extend(0x1A2B_3C4Du32.to_le_bytes());
        section.extend([1, 0, 0, 0]);
        section.extend(u64::MAX.to_le_bytes());
        block(writer, 0x0A0D_0D0A, &section)?;
        let mut interface = vec![1, 0, 0, 0];
        interface.extend(0u32.to_le_bytes());
        option(&mut interface, 2, port.as_bytes());
        option(&mut interface, 9, &[9]);
        option(&mut interface, 0, &[]);
        block(writer, 1, &interface)
    }

    /// An enhanced packet block with its direction.
    pub fn record(writer: &mut impl Write, captured: &Captured<'_>) -> io::Result<()> {
        let length = captured.frame.len() as u32;
        let mut body = Vec::with_capacity(captured.frame.len() + 36);
        body.extend(0u32.to_le_bytes());
        body.extend(((captured.timestamp_ns >> 32) as u32).to_le_bytes());
        body.extend((captured.timestamp_ns as u32).to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(captured.frame);
        body.resize(body.len().next_multiple_of(4), 0);
        let flags: u32 = if captured.direction == Direction::Received { 1 } else { 2 };
        option(&mut body, 2, &flags.to_le_bytes());
        option(&mut body, 0, &[]);
        block(writer, 6, &body)
    }

    fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
        body.extend(code.to_le_bytes());
        body.extend((value.len() as u16).to_le_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }

    fn block(writer: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32 + 12).to_le_bytes();
        // In one piece, so that a failing disk is noticed between blocks, as far as the buffer allows.
        let whole = [&kind.to_le_bytes()[..], &length, body, &length].concat();
        writer.write_all(&whole)
    }
}
