//! What wakes a sleeping queue besides its driver's events: the driver's descriptor, or a timer in its place.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::wait::{Epoll, Ticker};

/// How often a queue without a descriptor is looked at for frames while its owner sleeps.
pub(super) const POLL: Duration = Duration::from_millis(1);

/// How often a device without an event descriptor is looked at for its link, and whether it is still there, while the
/// queue's owner sleeps (contract T9: within 1 s).
pub(super) const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The driver's descriptor, while it is watched. Being watched costs the kernel something for every frame, sent ones
    /// included, so a queue that is only polled is not watched.
    frames: Option<RawFd>,
    /// There only while it is needed.
    ticker: Option<Ticker>,
}

impl Sources {
    /// Whether the driver's descriptor is watched.
    #[inline]
    pub fn watched(&self) -> bool {
        self.frames.is_some()
    }

    /// Lets the epoll descriptor watch the driver's, if there is one by now.
    pub fn watch(&mut self, epoll: &Epoll, frames: Option<RawFd>) -> io::Result<()> {
        if self.frames.is_none()
            && let Some(fd) = frames
        {
            epoll.add(fd)?;
            self.frames = frames;
        }
        Ok(())
    }

    /// Ends that.
    pub fn unwatch(&mut self, epoll: &Epoll) {
        self.frames.take().into_iter().for_each(|fd| epoll.remove(fd));
    }

    /// Makes the epoll descriptor readable once after that time, or not at all.
    pub fn tick(&mut self, epoll: &Epoll, after: Option<Duration>) -> io::Result<()> {
        let Some(after) = after else {
            self.ticker.take().into_iter().for_each(|ticker| epoll.remove(ticker.as_raw_fd()));
            return Ok(());
        };
        let ticker = match self.ticker.take() {
            Some(ticker) => ticker,
            None => {
                let ticker = Ticker::new()?;
                epoll.add(ticker.as_raw_fd())?;
                ticker
            }
        };
        self.ticker.insert(ticker).arm(after);
        Ok(())
    }

    /// Takes everything out of the epoll descriptor: it must not watch numbers that are used again.
    pub fn forget(&mut self, epoll: &Epoll) {
        self.unwatch(epoll);
        let _ = self.tick(epoll, None);
    }
}
