//! Started ports for tests, and frames.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use anyport::{Burst, Counters, MacAddr, Packet, Pool, Port, Registry, RxQueue, TxQueue, Wake};

/// How long anything may take that is sure to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what another thread does.
///
/// # Panics
/// If it is not done in time.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A started port.
pub struct End {
    /// The port itself.
    pub port: Port,
    /// Its first receive queue.
    pub rx: RxQueue,
    /// Its first transmit queue.
    pub tx: TxQueue,
    /// Its pool.
    pub pool: Pool,
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
///
/// # Panics
/// If it is too short for one.
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
    /// Opens a port with one queue each way, with a pool whose frames are of that size, and starts it.
    ///
    /// # Panics
    /// If that does not work.
    pub fn open(registry: &Registry, spec: &str, frame_size: u32) -> End {
        let pool = Pool::builder().frames(2048).frame_size(frame_size).build().unwrap();
        End::over(registry, spec, &pool)
    }

    /// The same with a given pool.
    ///
    /// # Panics
    /// As [`open`](End::open).
    pub fn over(registry: &Registry, spec: &str, pool: &Pool) -> End {
        let mut port = registry.open_with(spec, pool).unwrap();
        let (rx, tx) = port.start().unwrap().into_pair();
        End { port, rx, tx, pool: pool.clone() }
    }

    /// Its address.
    ///
    /// # Panics
    /// If it is gone.
    pub fn mac(&self) -> MacAddr {
        self.port.control().mac().unwrap()
    }

    /// What it has counted.
    pub fn counters(&self) -> Counters {
        self.port.stats().read().port
    }

    /// Sends frames, all of them.
    ///
    /// # Panics
    /// If they are not taken.
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

    /// Sends a burst, all of it.
    ///
    /// # Panics
    /// As [`send`](End::send).
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
    ///
    /// # Panics
    /// If the port cannot wait or receive.
    pub fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.receive_until(|frames, _| frames.len() >= count)
    }

    /// The same where some may be lost: until those that arrived, and those that the ring had no room for since it was
    /// `lost` of them, are so many. More are found out, too: they come within the while.
    ///
    /// # Panics
    /// As [`receive`](End::receive).
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
            let bytes = |packet: Packet| packet.segments().collect::<Vec<_>>().concat();
            frames.extend(burst.drain().map(bytes));
        }
    }

    /// Waits for that to be said of the link; frames and timeouts are no answer.
    ///
    /// # Panics
    /// If that does not come about in time.
    pub fn wait_for(&mut self, wanted: Wake) {
        for _ in 0..100 {
            if self.rx.wait(Duration::from_millis(100)).unwrap() == wanted {
                return;
            }
        }
        panic!("{wanted:?} was never said");
    }

    /// Sends one frame, trying again until it is taken.
    ///
    /// # Panics
    /// If that does not come about in time.
    pub fn send_when_possible(&mut self, frame: &[u8]) {
        let mut burst = Burst::with_capacity(1);
        burst.push(self.pool.packet(frame).unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.tx.send(&mut burst).unwrap() == 0 {
            assert!(Instant::now() < deadline, "it is not taken");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How long frames are taken for, once nothing is to be taken any more; they are all the same one. What counts is when
    /// a call began: how long the thread had to wait for a processor in it does not matter.
    ///
    /// # Panics
    /// If that does not come about in time.
    pub fn taken_for(&mut self, frame: &[u8]) -> Duration {
        let start = Instant::now();
        let mut burst = Burst::with_capacity(1);
        let mut last = Duration::ZERO;
        while start.elapsed() < last + Duration::from_millis(300) {
            if burst.is_empty() {
                burst.push(self.pool.packet(frame).unwrap()).unwrap();
            }
            let begun = start.elapsed();
            if self.tx.send(&mut burst).unwrap() > 0 {
                last = begun;
                assert!(last < Duration::from_secs(5), "it is taken for ever");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        last
    }
}
