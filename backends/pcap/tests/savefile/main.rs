//! Capture files as ports, as an application uses them.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

mod life;
mod open;
mod receive;
mod send;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyport::{Burst, Error, Pool, Port, Registry, RxQueue, TxQueue, Wake};
use anyport_capfile::{Direction, Format, Reader, Record, Writer};

/// Longer than any of this takes; nothing is measured by it.
const LONG: Duration = Duration::from_secs(20);

const SECOND: u64 = 1_000_000_000;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_pcap::Pcap::default()).unwrap();
    registry
}

fn pool(frames: u32) -> Pool {
    Pool::builder().frames(frames).build().unwrap()
}

/// A frame that tells which it is.
fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.resize(length, number as u8);
    frame
}

/// A capture of frames, each with its time and the length that it had.
fn capture(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let format = Format::of_name(path).unwrap_or(Format::Pcapng);
    let mut writer = Writer::create(path, format, "x").unwrap();
    for (timestamp_ns, data) in frames {
        let (timestamp_ns, original_len) = (Some(*timestamp_ns), data.len());
        writer.write(&Record { timestamp_ns, original_len, data, direction: None }).unwrap();
    }
    writer.finish().unwrap();
}

/// `count` frames of 60 bytes, a millisecond apart.
fn numbered(path: &Path, count: u32) {
    let frames: Vec<_> =
        (0..count).map(|n| (SECOND + u64::from(n) * 1_000_000, frame(n, 60))).collect();
    capture(path, &frames);
}

/// The time, length on the wire, bytes and direction of each record.
type Read = (u64, usize, Vec<u8>, Option<Direction>);

fn read(path: &Path) -> Vec<Read> {
    let mut reader = Reader::open(path).unwrap();
    let mut all = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        let Record { timestamp_ns, original_len, data, direction } = record;
        all.push((timestamp_ns.unwrap(), original_len, data.to_vec(), direction));
    }
    all
}

struct End {
    port: Port,
    rx: RxQueue,
    tx: TxQueue,
    pool: Pool,
}

fn open(spec: &str, pool: Pool) -> End {
    let mut port = registry().open_with(spec, &pool).unwrap();
    let (rx, tx) = port.start().unwrap().into_pair();
    End { port, rx, tx, pool }
}

fn refused(spec: &str) -> String {
    registry().open(spec).unwrap_err().to_string()
}

fn says(error: impl std::fmt::Display, all: &[&str]) {
    let error = error.to_string();
    for part in all {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

impl End {
    /// Everything up to the end or an error, waiting where nothing is there.
    fn receive(&mut self) -> (Vec<Vec<u8>>, Error) {
        let mut frames = Vec::new();
        loop {
            let mut burst = Burst::new();
            match self.rx.recv(&mut burst) {
                Ok(0) => assert_ne!(self.rx.wait(LONG).unwrap(), Wake::Timeout),
                Ok(_) => frames.extend(
                    burst
                        .drain()
                        .map(|packet| packet.segments().flatten().copied().collect::<Vec<u8>>()),
                ),
                Err(error) => return (frames, error),
            }
        }
    }

    fn send(&mut self, frames: &[Vec<u8>]) -> anyport::Result<usize> {
        let mut burst = Burst::with_capacity(frames.len());
        frames.iter().for_each(|frame| burst.push(self.pool.packet(frame).unwrap()).unwrap());
        self.tx.send(&mut burst)
    }

    fn counters(&self) -> anyport::Counters {
        self.port.stats().read().port
    }
}

/// Ends one wait by a waker and the next by a stop, both from another thread.
fn waker_and_stop_end_a_wait(mut port: Port, mut rx: RxQueue) -> Port {
    let waker = rx.waker();
    let (woken, next) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            woken.send(rx.wait(LONG)).unwrap();
            rx.wait(LONG)
        });
        waker.wake();
        assert_eq!(next.recv().unwrap().unwrap(), Wake::Waker);
        port.stop().unwrap();
        assert!(waiting.join().unwrap().unwrap_err().is_closed());
    });
    port
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A spec in which `@` stands for the folder.
    fn spec(&self, keys: &str) -> String {
        format!("pcap:{keys}").replace('@', &format!("{}/", self.0.path().display()))
    }
}
