//! A started port as cases use it: frames go in and come out as bytes, and nothing is waited for without a bound.

use std::time::{Duration, Instant};

use anyport::{Burst, Counters, Error, MacAddr, Packet, Pool, Port, RxQueue, TxQueue, Wake};

use crate::case::{Failure, Verdict};
use crate::ctx::PATIENCE;
use crate::frames;

/// One end, started.
pub struct Side {
    /// Receive queues, in order.
    pub rx: Vec<RxQueue>,
    /// Transmit queues, in order.
    pub tx: Vec<TxQueue>,
    pool: Pool,
    mac: MacAddr,
    // Last: queues answer `Closed` without their port.
    port: Port,
}

/// So many frames may be on their way at once, or as good as lost: fewer than a receiver holds that has little memory.
const UNDER_WAY: usize = 128;

/// The number of the frame that says "everything before me has arrived".
const MARKER: u32 = 0xfeed_0000;

impl Side {
    /// Starts a port that has `pool` attached.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(mut port: Port, pool: Pool) -> Verdict<Side> {
        let queues = port.start()?;
        let mac = port.control().mac()?;
        Ok(Side { rx: queues.rx, tx: queues.tx, pool, mac, port })
    }

    /// The port.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// The port, to be stopped, closed and the like.
    pub fn port_mut(&mut self) -> &mut Port {
        &mut self.port
    }

    /// Everything apart: port, queues, pool.
    pub fn into_parts(self) -> (Port, Vec<RxQueue>, Vec<TxQueue>, Pool) {
        (self.port, self.rx, self.tx, self.pool)
    }

    /// The pool that frames are received into and sent from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The port's own address when it was started.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The port's counters now.
    pub fn counters(&self) -> Counters {
        self.port.stats().read().port
    }

    /// Stops the port and starts it again, with new queues.
    ///
    /// # Errors
    /// If either fails.
    pub fn restart(&mut self) -> Verdict {
        self.port.stop()?;
        let queues = self.port.start()?;
        (self.rx, self.tx) = (queues.rx, queues.tx);
        self.port.control().wait_link_up(PATIENCE)?;
        Ok(())
    }

    /// Stops and closes the port.
    ///
    /// # Errors
    /// What close reports.
    pub fn close(self) -> Verdict {
        Ok(self.port.close()?)
    }

    /// A packet with these bytes from the side's pool.
    ///
    /// # Errors
    /// If the pool is empty.
    pub fn packet(&self, frame: &[u8]) -> Verdict<Packet> {
        self.pool.packet(frame).ok_or_else(|| Failure("the pool has no frame".into()))
    }

    /// A burst with these frames.
    ///
    /// # Errors
    /// If the pool is empty.
    pub fn burst(&self, frames: &[Vec<u8>]) -> Verdict<Burst> {
        let mut burst = Burst::with_capacity(frames.len());
        for frame in frames {
            // Cannot fail: there is room for all of them.
            let _ = burst.push(self.packet(frame)?);
        }
        Ok(burst)
    }

    /// One call of `send` on queue 0; how many of the frames were accepted.
    ///
    /// # Errors
    /// Those of `send`; a [`Failure`] if the pool is empty.
    pub fn offer(&mut self, frames: &[Vec<u8>]) -> anyport::Result<usize> {
        let mut burst = Burst::with_capacity(frames.len());
        for frame in frames {
            let packet = self.pool.packet(frame);
            let packet = packet.ok_or(Error::Pool { reason: "no frame for a test".into() })?;
            let _ = burst.push(packet);
        }
        self.tx[0].send(&mut burst)
    }

    /// Sends a whole burst on a queue, trying again while the queue is full.
    ///
    /// # Errors
    /// Those of `send`, or if the queue stays full.
    pub fn send_burst(&mut self, queue: usize, burst: &mut Burst) -> Verdict {
        let deadline = Instant::now() + PATIENCE;
        while !burst.is_empty() {
            if self.tx[queue].send(burst)? == 0 {
                if Instant::now() >= deadline {
                    let left = burst.len();
                    return Err(Failure(format!("the transmit queue stays full, {left} to go")));
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Sends all frames on queue 0.
    ///
    /// # Errors
    /// If one is not accepted in time.
    pub fn send(&mut self, frames: &[Vec<u8>]) -> Verdict {
        for chunk in frames.chunks(32) {
            let mut burst = self.burst(chunk)?;
            self.send_burst(0, &mut burst)?;
        }
        Ok(())
    }

    /// What `recv` on queue 0 gives now, without waiting.
    ///
    /// # Errors
    /// Those of `recv`.
    pub fn take(&mut self) -> Verdict<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let mut burst = Burst::new();
        while self.rx[0].recv(&mut burst)? > 0 {
            all.extend(burst.drain().map(|packet| bytes(&packet)));
        }
        Ok(all)
    }

    /// Waits for the next packets on queue 0.
    ///
    /// # Errors
    /// If none comes in time.
    pub fn receive_packets(&mut self) -> Verdict<Burst> {
        let mut burst = Burst::new();
        loop {
            if self.rx[0].recv(&mut burst)? > 0 {
                return Ok(burst);
            }
            match woken(&mut self.rx[0])? {
                Wake::Timeout => return Err(Failure(format!("nothing came for {PATIENCE:?}"))),
                Wake::Ended => return Err(Failure("the input has ended".into())),
                // A change of the link, a signal: look again.
                _ => {}
            }
        }
    }

    /// Waits for exactly one packet on queue 0.
    ///
    /// # Errors
    /// If none comes, or more than one.
    pub fn receive_packet(&mut self) -> Verdict<Packet> {
        let mut burst = self.receive_packets()?;
        match (burst.pop_front(), burst.len()) {
            (Some(packet), 0) => Ok(packet),
            (_, more) => Err(Failure(format!("{more} packets more than the one expected"))),
        }
    }

    /// Waits until `count` frames have come on queue 0; it may be more.
    ///
    /// # Errors
    /// If fewer come.
    pub fn receive(&mut self, count: usize) -> Verdict<Vec<Vec<u8>>> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let burst = self.receive_packets().map_err(|Failure(error)| {
                Failure(format!("{} of {count} frames came: {error}", all.len()))
            })?;
            all.extend(burst.iter().map(bytes));
        }
        Ok(all)
    }

    /// Sends the frames to the other side, in portions that fit any ring, and a marker after them; what arrived before
    /// the marker, in order. So whatever was sent has either arrived or was dropped, and nobody had to guess for
    /// how long to wait.
    ///
    /// # Errors
    /// If a frame is not accepted or the marker does not arrive.
    pub fn pass_to(&mut self, to: &mut Side, frames: &[Vec<u8>]) -> Verdict<Vec<Vec<u8>>> {
        let mut arrived = Vec::with_capacity(frames.len());
        let (mut sent, mut lost) = (0, 0);
        for chunk in frames.chunks(16) {
            self.send(chunk)?;
            arrived.extend(to.take()?);
            sent += chunk.len();
            // A wire that takes its time must not have more on it than the receiver's ring holds. What still does not come was
            // dropped, or filtered.
            while sent - lost > arrived.len() + UNDER_WAY {
                match to.rx[0].wait(Duration::from_millis(20))? {
                    Wake::Timeout => lost = sent - arrived.len(),
                    _ => arrived.extend(to.take()?),
                }
            }
        }
        self.mark(to, &mut arrived)?;
        Ok(arrived)
    }

    /// Sends all frames, as fast as they are accepted, while the other side receives: what arrived, in order. What was
    /// sent has either arrived or was dropped when it returns.
    ///
    /// # Errors
    /// If a frame is not accepted, or a frame sent after all others does not arrive.
    pub fn pour_to(&mut self, to: &mut Side, frames: &[Vec<u8>]) -> Verdict<Vec<Vec<u8>>> {
        let mut arrived = Vec::with_capacity(frames.len());
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| self.send(frames));
            while !sending.is_finished() {
                arrived.extend(to.take()?);
            }
            sending.join().map_err(|_| "the sending thread panicked")?
        })?;
        arrived.extend(to.take()?);
        self.mark(to, &mut arrived)?;
        Ok(arrived)
    }

    /// Sends a marker; adds to `arrived` what came before it.
    ///
    /// # Errors
    /// If the marker does not arrive.
    pub fn mark(&mut self, to: &mut Side, arrived: &mut Vec<Vec<u8>>) -> Verdict {
        let marker = frames::numbered(to.port.control().mac()?, MARKER, 60);
        self.send(std::slice::from_ref(&marker))?;
        loop {
            let burst = to.receive_packets().map_err(|Failure(error)| {
                Failure(format!("the frame after all others did not arrive: {error}"))
            })?;
            for packet in &burst {
                let frame = bytes(packet);
                if frame == marker {
                    return Ok(());
                }
                arrived.push(frame);
            }
        }
    }

    /// Checks that nothing is there and nothing comes for a moment. Where a marker can be sent, that is the better way.
    ///
    /// # Errors
    /// If something comes.
    pub fn hears_nothing(&mut self) -> Verdict {
        let deadline = Instant::now() + Duration::from_millis(50);
        loop {
            let arrived = self.take()?;
            if !arrived.is_empty() {
                return Err(Failure(format!("{} frames came that must not", arrived.len())));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.rx[0].wait(left)?;
        }
    }
}

/// Waits on a queue. A wait that says that something is there when its time is over has slept over it: that is the
/// look after the last tick, and not a wake-up.
///
/// # Errors
/// Those of `wait`, and if something was slept over.
pub fn woken(rx: &mut RxQueue) -> Verdict<Wake> {
    let start = Instant::now();
    let wake = rx.wait(PATIENCE)?;
    if wake != Wake::Timeout && start.elapsed() >= PATIENCE {
        return Err(Failure(format!(
            "{wake:?} was slept over: it came when the wait's time was over"
        )));
    }
    Ok(wake)
}

/// The bytes of a packet, all segments.
pub fn bytes(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}
