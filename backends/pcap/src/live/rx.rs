//! libpcap's ring to packets.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyport::driver::RxDriver;
use anyport::packet::{Clock, Timestamp, TimestampSource};
use anyport::time::coarse_ms;
use anyport::{Burst, Error, PoolCache, Result};
use anyport_netdev::{Ask, LinkWatch};

use super::socket::Socket;

/// How old an answer about the link may be where no change was reported since.
const LINK_AGE_MS: u64 = 50;

/// How often the kernel's count of dropped frames is added up: it has 32 bits.
const COUNT_MS: u64 = 1000;

pub(super) struct LiveRx {
    socket: Arc<Socket>,
    watch: LinkWatch,
    timestamps: bool,
    /// What to do about frames that are too long; it is said once.
    advice: Option<String>,
    link_up: bool,
    /// When the link was last looked at.
    link_ms: u64,
    counted_ms: u64,
}

impl LiveRx {
    pub fn new(socket: Arc<Socket>, watch: LinkWatch, timestamps: bool, advice: String) -> LiveRx {
        let advice = Some(advice);
        LiveRx { socket, watch, timestamps, advice, link_up: false, link_ms: 0, counted_ms: 0 }
    }

    #[cold]
    fn report_too_long(&mut self, count: u64) {
        self.socket.counts.too_long.fetch_add(count, Ordering::Relaxed);
        if let Some(advice) = self.advice.take() {
            let (title, max) = (&self.socket.title, self.socket.max - 4);
            tracing::warn!(
                "{title}: dropped a frame longer than {max} bytes. If it was segments that nobody cut: {advice}"
            );
        }
    }

    /// What an error of libpcap means.
    #[cold]
    fn explain(&mut self, error: &pcap::Error) -> Result<()> {
        self.socket.check_there()?;
        let text = error.to_string();
        // It looks for the interface under its old name once it has been down.
        if text.contains("disappeared") || text.contains("went down") {
            return Ok(());
        }
        let device = self.socket.title.clone();
        Err(Error::Backend { device, reason: format!("receiving: {text}") })
    }
}

impl RxDriver for LiveRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        let (mut too_long, mut no_buffer) = (0, 0);
        let (room, pool_room, max) = (burst.room(), pool.pool().room(), self.socket.max);
        let timestamps = self.timestamps;
        let mut capture = self.socket.capture();
        let Some(capture_now) = capture.as_mut() else { return Ok(()) };
        let result = capture_now.dispatch(Some(room), |frame| {
            // The kernel keeps no more than the snap length, and says how long it was.
            if frame.header.caplen < frame.header.len || frame.data.len() > max {
                too_long += 1;
                return;
            }
            let packet = if frame.data.len() <= pool_room {
                pool.take().map(|mut packet| {
                    let _ = packet.fill(frame.data);
                    packet
                })
            } else {
                // Chains come from the shared list; what the cache holds may be what is missing there.
                pool.pool().packet(frame.data).or_else(|| {
                    pool.flush();
                    pool.pool().packet(frame.data)
                })
            };
            let Some(mut packet) = packet else {
                no_buffer += 1;
                return;
            };
            if timestamps {
                let stamp = frame.header.ts;
                packet.set_timestamp(Timestamp {
                    // With nanosecond precision the second field holds nanoseconds.
                    ns: stamp.tv_sec as u64 * 1_000_000_000 + stamp.tv_usec as u64,
                    source: TimestampSource::Kernel,
                    clock: Clock::RealTime,
                });
            }
            let _ = burst.push(packet);
        });
        drop(capture);
        if no_buffer > 0 {
            self.socket.counts.no_buffer.fetch_add(no_buffer, Ordering::Relaxed);
        }
        if too_long > 0 {
            self.report_too_long(too_long);
        }
        let now = coarse_ms();
        if now >= self.counted_ms + COUNT_MS {
            self.counted_ms = now;
            self.socket.count_drops();
        }
        match result {
            Ok(_) | Err(pcap::Error::TimeoutExpired) => Ok(()),
            Err(error) => self.explain(&error),
        }
    }

    fn arm(&mut self) -> Result<()> {
        // The socket is readable whenever there is a frame.
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        // None as long as the interface has not been up: no frame can come, and the event descriptor tells when it is.
        self.socket.fd()
    }

    fn event_descriptor(&self) -> Option<RawFd> {
        Some(self.watch.as_raw_fd())
    }

    fn link_up(&mut self) -> Result<bool> {
        let now = coarse_ms();
        if self.watch.drain() || now >= self.link_ms + LINK_AGE_MS {
            self.link_up = self.socket.link_up(Ask::Never)?;
            self.link_ms = now;
        }
        Ok(self.link_up)
    }
}
