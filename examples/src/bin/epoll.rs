//! Counts what a port receives, in an `epoll` loop of the program's own, beside a timer and standard input.
//!
//! It shows how a queue is one source among others: `arm` it, sleep on its descriptor, receive, arm again. The loop
//! serves all sources in turn, however many frames come. It ends with standard input (Ctrl-D).
//!
//! ```text
//! cargo run --release -p anyport-examples --bin epoll -- pcap:eth1,promiscuous=true,shared=true
//! ```

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use anyport::{Armed, Burst, Pool, RxQueue};
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// Which source an event is of.
const FRAMES: u64 = 0;
const TIMER: u64 = 1;
const INPUT: u64 = 2;

/// What has been received.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn main() -> anyhow::Result<()> {
    let spec = std::env::args().nth(1).context("usage: epoll PORT")?;
    let pool = Pool::builder().build()?;
    let mut port = anyport_backends::registry().open_with(&spec, &pool)?;
    let (rx, _tx) = port.start()?.into_pair();
    let report = |totals: Totals| println!("{} frames, {} bytes", totals.frames, totals.bytes);
    report(count(rx, std::io::stdin(), Duration::from_secs(1), report)?);
    port.close()?;
    Ok(())
}

/// Counts until `input` ends, and calls `report` at every tick.
pub fn count(
    mut rx: RxQueue,
    mut input: impl Read + AsFd,
    tick: Duration,
    mut report: impl FnMut(Totals),
) -> anyhow::Result<Totals> {
    let interval = Timespec::try_from(tick)?;
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let periodic = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &periodic)?;

    let sources = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |fd: &dyn AsFd, source| {
        epoll::add(&sources, fd, epoll::EventData::new_u64(source), epoll::EventFlags::IN)
    };
    watch(&rx, FRAMES)?;
    watch(&timer, TIMER)?;
    watch(&input, INPUT).context("standard input must be a terminal or a pipe")?;

    let (mut burst, mut totals) = (Burst::new(), Totals::default());
    let mut events = Vec::with_capacity(3);
    loop {
        // With a burst at hand there is no sleep, only a look at the other sources.
        let timeout = match rx.arm()? {
            Armed::Armed => None,
            Armed::Ready => {
                rx.recv(&mut burst)?;
                totals.frames += burst.len() as u64;
                totals.bytes += burst.iter().map(|packet| packet.len() as u64).sum::<u64>();
                burst.clear();
                Some(Timespec { tv_sec: 0, tv_nsec: 0 })
            }
        };
        events.clear();
        let ready = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&sources, ready, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                // `arm` above looks at the queue.
                FRAMES => {}
                TIMER => {
                    rustix::io::read(&timer, &mut [0; 8])?;
                    report(totals);
                }
                _ if input.read(&mut [0; 256])? == 0 => return Ok(totals),
                _ => {}
            }
        }
    }
}
