//! Ports with their queues, and frames.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyport::{Burst, Counters, MacAddr, Pool, Port, Registry, RxQueue, TxQueue, Wake};

/// How long anything may take that is sure to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what another thread does.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_pcap::Pcap::default()).unwrap();
    registry
}

/// A started port.
pub struct End {
    pub port: Port,
    pub rx: RxQueue,
    pub tx: TxQueue,
    pub pool: Pool,
}

pub fn open(spec: &str) -> End {
    open_with(spec, 8192)
}

/// With a pool whose frames are of that size.
pub fn open_with(spec: &str, frame_size: u32) -> End {
    let pool = Pool::builder().frames(2048).frame_size(frame_size).build().unwrap();
    let mut port = registry().open_with(spec, &pool).unwrap();
    let (rx, tx) = port.start().unwrap().into_pair();
    End { port, rx, tx, pool }
}

/// A frame of an experimental EtherType: to, from, number, and the number's last byte up to the length.
pub fn frame(to: MacAddr, number: u32, length: usize) -> Vec<u8> {
    let mut frame = to.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.resize(length, number as u8);
    frame
}

/// The number in such a frame.
pub fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// The same with a tag, no longer than it was.
pub fn tagged(mut frame: Vec<u8>, tpid: u16, tci: u16) -> Vec<u8> {
    let length = frame.len();
    let ([t0, t1], [i0, i1]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    frame.splice(12..12, [t0, t1, i0, i1]);
    frame.truncate(length);
    frame
}

impl End {
    pub fn mac(&self) -> MacAddr {
        self.port.control().mac().unwrap()
    }

    pub fn counters(&self) -> Counters {
        self.port.stats().read().port
    }

    pub fn send(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        let mut burst = Burst::new();
        for frame in frames {
            burst.push(self.pool.packet(&frame).unwrap()).unwrap();
            if burst.is_full() {
                self.send_all(&mut burst);
            }
        }
        self.send_all(&mut burst);
    }

    pub fn send_all(&mut self, burst: &mut Burst) {
        let deadline = Instant::now() + PATIENCE;
        while !burst.is_empty() {
            if self.tx.send(burst).unwrap() == 0 {
                assert!(Instant::now() < deadline, "the queue stays full");
                std::thread::yield_now();
            }
        }
    }

    /// Everything that arrives until so many are there and nothing more comes for a while.
    pub fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.receive_until(|frames, _| frames.len() >= count)
    }

    /// The same where some may be lost: until those that arrived, and those that the ring had no room for since it was
    /// `lost` of them, are so many. More are found out, too: they come within the while.
    pub fn receive_or_lose(&mut self, count: usize, lost: u64) -> Vec<Vec<u8>> {
        self.receive_until(|frames, counters| {
            frames.len() as u64 + counters.rx_ring_full.unwrap() - lost >= count as u64
        })
    }

    fn receive_until(&mut self, all: impl Fn(&[Vec<u8>], Counters) -> bool) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        let mut burst = Burst::new();
        loop {
            // Links come and go in some tests, so not every early end is a frame.
            let wake = self.rx.wait(Duration::from_millis(50)).unwrap();
            let late = Instant::now() > deadline;
            if late || wake == Wake::Timeout && all(&frames, self.counters()) {
                return frames;
            }
            self.rx.recv(&mut burst).unwrap();
            frames.extend(burst.drain().map(|packet| packet.data().to_vec()));
        }
    }
}

/// Runs something, and returns the warnings that this thread gave meanwhile.
pub fn warnings<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    logged(tracing::Level::WARN, run)
}

/// The same with all that is of that level or above.
pub fn logged<T>(level: tracing::Level, run: impl FnOnce() -> T) -> (T, Vec<String>) {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    (result, text.lines().map(str::to_owned).collect())
}
