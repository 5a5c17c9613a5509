//! The sending side of a file port.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyport::driver::TxDriver;
use anyport::packet::Clock;
use anyport::time::realtime_ns;
use anyport::{Burst, Error, Packet, PoolCache, Result};
use anyport_capfile::{Direction, Format, Record, Target, Writer};

use super::{explain, lock, same};

/// What a pcapng file calls the interface that its frames were sent on.
const INTERFACE: &str = "anyport";

/// An opened `out`.
pub(crate) struct Output {
    title: String,
    path: PathBuf,
    format: Format,
    file: File,
    /// Until the first start.
    target: Option<Target>,
    /// From the first start on.
    writer: Option<Writer>,
    /// There was none before.
    created: bool,
}

impl Output {
    /// Opens the file; what is in it stays in it until the first [`start`](Output::start).
    pub fn open(title: &str, path: &Path, format: Format) -> Result<Output> {
        let failed = |source| {
            Error::os(path.display().to_string(), "opening the file to be sent to", source)
        };
        let kind = std::fs::metadata(path).map(|found| found.file_type());
        if kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket()) {
            let reason =
                "`out` is a pipe or a socket, which would make sending wait; send to a file";
            return Err(Error::Backend { device: title.into(), reason: reason.into() });
        }
        let mut options = OpenOptions::new();
        let (file, created) = match options.write(true).create_new(true).open(path) {
            Ok(file) => (file, true),
            // Or a link to a file that does not exist.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = options.create_new(false).create(true).open(path);
                (file.map_err(failed)?, false)
            }
            Err(error) => return Err(failed(error)),
        };
        let (title, path) = (title.to_owned(), path.to_owned());
        let name = path.display().to_string();
        let same = file.try_clone().map_err(failed)?;
        let mut output = Output { title, path, format, file, target: None, writer: None, created };
        let target = Target::new(same, &name);
        output.target = Some(target.map_err(|error| explain(&output.title, error))?);
        Ok(output)
    }

    /// Empties the file and writes its header, the first time.
    pub fn start(&mut self) -> Result<()> {
        if self.writer.is_some() {
            return Ok(());
        }
        let failed = |error| explain(&self.title, error);
        let target = match self.target.take() {
            Some(target) => target,
            // An earlier attempt failed.
            None => {
                let name = self.path.display().to_string();
                let file = self.file.try_clone();
                let file =
                    file.map_err(|source| Error::os(&name, "opening the file once more", source))?;
                Target::new(file, &name).map_err(failed)?
            }
        };
        self.writer = Some(Writer::start_on(target, self.format, INTERFACE).map_err(failed)?);
        Ok(())
    }

    /// Writes packets; how many of them the file has now, and why not all.
    fn write(&mut self, packets: &[Packet], scratch: &mut Vec<u8>) -> (usize, Result<()>) {
        let Some(writer) = &mut self.writer else { return (0, Err(Error::Closed)) };
        let (before, now) = (writer.records(), realtime_ns());
        let mut result = Ok(());
        for packet in packets {
            result = writer.write(&record(packet, now, scratch));
            if result.is_err() {
                break;
            }
        }
        // A record that cannot be written does not keep those before it.
        let flushed = writer.flush();
        let taken = (writer.records() - before) as usize;
        (taken, result.and(flushed).map_err(|error| explain(&self.title, error)))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.writer.is_some() || !self.created {
            return;
        }
        // It was opened, never started: there was no such file, so there is none again, unless somebody replaced it.
        if let (Ok(own), Ok(found)) = (self.file.metadata(), std::fs::metadata(&self.path))
            && same(&own, &found)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn record<'a>(packet: &'a Packet, now: u64, scratch: &'a mut Vec<u8>) -> Record<'a> {
    let stamp = packet.timestamp().filter(|stamp| stamp.clock == Clock::RealTime);
    let data = match packet.is_chain() {
        false => packet.data(),
        true => {
            scratch.clear();
            packet.segments().for_each(|segment| scratch.extend_from_slice(segment));
            scratch
        }
    };
    Record {
        timestamp_ns: Some(stamp.map_or(now, |stamp| stamp.ns)),
        original_len: data.len(),
        data,
        direction: Some(Direction::Sent),
    }
}

/// The transmit queue over an [`Output`].
pub(crate) struct SaveTx {
    output: Arc<Mutex<Output>>,
    /// A chain's bytes in one piece.
    scratch: Vec<u8>,
}

impl SaveTx {
    pub fn new(output: Arc<Mutex<Output>>) -> SaveTx {
        SaveTx { output, scratch: Vec::new() }
    }
}

impl TxDriver for SaveTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        let (taken, result) = lock(&self.output).write(&burst[..count], &mut self.scratch);
        for _ in 0..taken {
            let Some(packet) = burst.pop_front() else { break };
            match pools.iter_mut().find(|cache| cache.pool().id() == packet.pool_id()) {
                Some(cache) => cache.give(packet),
                None => drop(packet),
            }
        }
        // What stopped it is said when nothing could be taken (contract T1).
        if taken > 0 { Ok(()) } else { result }
    }
}
