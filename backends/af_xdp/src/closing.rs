//! Stopping, and what shows that the kernel has let go of a pool's memory (contract L6). Without that a frame is never used again:
//! what the kernel writes into a frame that has a new owner is corruption.
//!
//! Traps:
//! - A look at a socket that sends, as an epoll set takes one when it is added, makes it send.
//! - Dropping a socket does not close it while somebody else has its descriptor: who handed it over, or a child of any thread of this
//!   process, between `fork` and `exec`. A [`Witness`] tells.
//! - Where somebody else is the last to close it, the kernel may be about it still when the witness says that it is closed.
//!   The first look cannot tell that from this process's own closing if it falls into the same few microseconds.
//! - In zero-copy mode, and for frames that are on their way, the device has the memory a moment longer than the socket.
//!   [`let_go`] tells that it has done with a queue. Only success, and that there is no such device any more, shows that; all
//!   other errors are the attempt's own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyport::Pool;
use anyport_netdev::sys::owned;
use anyport_netdev::{Interface, open};

use crate::handed::Handed;
use crate::port::XdpPort;
use crate::socket::{Binding, Socket};
use crate::started::{SETTLE, Started, chunk, statistics};

impl XdpPort {
    /// Takes away all that [`begin`](XdpPort::begin) has made, and gives the interface back to the host.
    pub fn end(&mut self) {
        let Some(mut started) = self.started.take() else { return };
        if let Some(attachment) = started.attachment.take() {
            attachment.detach();
        }
        if let Some(handed) = &self.handed {
            handed.clear(started.sockets.len() as u32);
        }
        for (queue, socket) in started.sockets.iter().enumerate() {
            let sender = started.senders.get(queue).and_then(Option::as_deref);
            self.counts[queue].settle(&statistics(socket, sender), started.ways);
        }
        let free = self.has_let_go(&mut started);
        for mut lent in started.device.take_left() {
            match &free {
                // SAFETY: no queue uses the memory any more. Every socket that could receive into it is closed, by whoever had it
                // open, which the witness has seen; the last to close it was this process, whose call to close returned when the
                // kernel had unbound it, or else each queue was found free. So it was, too, where the device itself has the
                // memory, or frames are on their way, which a socket that only sends may have kept.
                Ok(()) => unsafe { lent.release() },
                Err(_) => {
                    if let Some(counts) = self.counts.first() {
                        counts.lost.fetch_add(lent.frames() as u64, Ordering::Relaxed);
                    }
                }
            }
        }
        if let Err(why) = free {
            tracing::warn!("{}: frames that the kernel may still use are lost: {why}", self.title);
        }
        self.settings.switch_back();
    }

    /// Closes the sockets; why the kernel may have the pool's memory all the same.
    fn has_let_go(&self, started: &mut Started) -> std::result::Result<(), String> {
        let queues = started.sockets.len() as u32;
        // Nothing is written to memory by what only sends, and what it has not sent `let_go` is asked about below. To watch it would
        // make it send what is counted as dropped by now.
        let mut receiving = started.sockets.iter().take(started.receiving);
        let watched = receiving.try_for_each(|socket| started.witness.watch(socket));
        let senders = started.senders.drain(..).flatten();
        // The others first: the memory is the first one's.
        let sockets: Vec<_> = senders.chain(started.sockets.drain(..).rev()).collect();
        let mut used = 0;
        for socket in sockets {
            used += usize::from(Arc::into_inner(socket).is_none());
        }
        if used > 0 {
            return Err(format!("{used} of its queues have not come back from a call"));
        }
        watched
            .map_err(|error| format!("nothing tells whether its sockets are closed: {error}"))?;
        let closed = started.witness.wait(Instant::now() + SETTLE);
        let closed = closed
            .map_err(|error| format!("nothing tells whether its sockets are closed: {error}"))?;
        if closed == Closed::No {
            let why = match self.handed.as_ref().is_some_and(Handed::has_sockets) {
                true => {
                    "another process still has a socket open that was handed to this one. Whoever hands a socket over has to close it"
                }
                false => {
                    "another process still has one of its sockets open, a child perhaps that runs no program of its own"
                }
            };
            return Err(why.into());
        }
        // Frames to receive into are lent empty.
        let on_their_way = started.device.left_bytes() > 0;
        if started.ways.zero_copy || on_their_way || closed == Closed::Elsewhere {
            let deadline = Instant::now() + SETTLE;
            for queue in 0..queues {
                let_go(self.settings.interface(), &self.title, queue, deadline).map_err(
                    |error| format!("its queue {queue} cannot be taken up again: {error}"),
                )?;
            }
        }
        Ok(())
    }
}

/// What became of sockets that this process has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// They are closed, and the kernel has done with them: that was part of closing them.
    Here,
    /// Somebody else was the last to close one, so the kernel may be about it still.
    Elsewhere,
    /// Somebody else has one open.
    No,
}

/// Tells whether somebody else has a socket open, after this process has closed it.
///
/// An epoll set forgets a file when the last descriptor of it is closed, in whichever process; what it has not forgotten is open.
#[derive(Debug)]
pub(crate) struct Witness(OwnedFd);

impl Witness {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Witness> {
        // SAFETY: no pointers.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Witness)
    }

    /// Watches a socket, too, before it is closed. A watched socket costs time for every wakeup, so not before it has to be,
    /// and what it has not sent it may send now.
    ///
    /// # Errors
    /// The system's.
    pub fn watch(&self, socket: &Socket) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let (set, socket) = (self.0.as_raw_fd(), socket.as_raw_fd());
        // SAFETY: the event is a whole one.
        let added = unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until all are closed: another thread of this process may be starting a program just now, which has all descriptors
    /// until it begins.
    ///
    /// # Errors
    /// The system's, without `/proc`.
    pub fn wait(&self, deadline: Instant) -> io::Result<Closed> {
        if self.all_closed()? {
            return Ok(Closed::Here);
        }
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
            if self.all_closed()? {
                return Ok(Closed::Elsewhere);
            }
        }
        Ok(Closed::No)
    }

    /// Whether all of them are closed for good.
    fn all_closed(&self) -> io::Result<bool> {
        let path = PathBuf::from(format!("/proc/thread-self/fdinfo/{}", self.0.as_raw_fd()));
        let about = std::fs::read_to_string(path)?;
        Ok(!about.lines().any(|line| line.starts_with("tfd:")))
    }
}

/// Waits until a queue can be taken up again: then the kernel has let go of the memory that was bound to it.
///
/// # Errors
/// Why that was not shown: `EBUSY` if the queue is taken still, or what has kept this process from trying, such as `EPERM` without
/// CAP_NET_RAW, or `ENOBUFS` at the limit of locked memory.
pub(crate) fn let_go(
    interface: &Interface,
    title: &str,
    queue: u32,
    deadline: Instant,
) -> io::Result<()> {
    let attempt = || -> io::Result<()> {
        let pool = Pool::builder().frames(2).build().map_err(io::Error::other)?;
        let socket = Socket::new()?;
        // Elsewhere there is no such device either.
        open::check_namespace(interface, title, socket.as_raw_fd()).map_err(io::Error::other)?;
        // SAFETY: the pool lives longer than the socket, whose rings are given nothing.
        unsafe { socket.register(pool.region(), chunk(&pool))? };
        let (_fill, _completion) = (socket.fill_ring(1)?, socket.completion_ring(1)?);
        let _receive = socket.receive_ring(1)?;
        let zero_copy = Some(false);
        let binding = Binding { interface: interface.index(), queue, zero_copy, segments: false };
        socket.bind(&binding, None)
    };
    loop {
        match judge(attempt()) {
            Shown::LetGo => return Ok(()),
            Shown::NotYet(_) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Shown::NotYet(error) | Shown::Nothing(error) => return Err(error),
        }
    }
}

/// What an attempt to take up a queue has shown.
#[derive(Debug)]
enum Shown {
    LetGo,
    /// Worth another attempt.
    NotYet(io::Error),
    /// Another attempt will not show more.
    Nothing(io::Error),
}

fn judge(attempt: io::Result<()>) -> Shown {
    let Err(error) = attempt else { return Shown::LetGo };
    match error.raw_os_error() {
        // There is no device any more that could have it.
        Some(libc::ENODEV | libc::ENXIO) => Shown::LetGo,
        // It is taken; or this process, or the system, has too little of something, perhaps because of what was just closed.
        Some(libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            Shown::NotYet(error)
        }
        _ => Shown::Nothing(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport_netdev::privilege::Privilege;
    use anyport_netdev::testing::{in_namespace, ip, keep_only};

    #[test]
    fn a_socket_that_somebody_else_has_open_is_not_closed() {
        in_namespace(|| {
            let sockets = [Socket::new().unwrap(), Socket::new().unwrap()];
            let witness = Witness::new().unwrap();
            sockets.iter().for_each(|socket| witness.watch(socket).unwrap());
            let soon = || Instant::now() + Duration::from_millis(10);
            assert_eq!(witness.wait(soon()).unwrap(), Closed::No);
            // SAFETY: no pointers.
            let copy = owned(unsafe { libc::dup(sockets[1].as_raw_fd()) }).unwrap();
            drop(sockets);
            assert_eq!(witness.wait(soon()).unwrap(), Closed::No);
            drop(copy);
            // Other tests start programs.
            let closed = witness.wait(Instant::now() + Duration::from_secs(20)).unwrap();
            assert_ne!(closed, Closed::No);
        });
    }

    #[test]
    fn only_a_free_queue_and_a_device_that_is_gone_show_anything() {
        let error = io::Error::from_raw_os_error;
        assert!(matches!(judge(Ok(())), Shown::LetGo));
        for gone in [libc::ENODEV, libc::ENXIO] {
            assert!(matches!(judge(Err(error(gone))), Shown::LetGo));
        }
        let busy = [libc::EBUSY, libc::ENOBUFS, libc::ENOMEM, libc::EMFILE, libc::ENFILE];
        for busy in busy {
            assert!(matches!(judge(Err(error(busy))), Shown::NotYet(_)));
        }
        for other in [libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENETDOWN, libc::EAFNOSUPPORT] {
            assert!(matches!(judge(Err(error(other))), Shown::Nothing(_)));
        }
        assert!(matches!(judge(Err(io::Error::other("no pool"))), Shown::Nothing(_)));
    }

    #[test]
    fn a_queue_that_is_held_is_not_let_go_whatever_hinders_the_attempt() {
        in_namespace(|| {
            let interface = Interface::open("a0").unwrap();
            let pool = Pool::builder().frames(64).build().unwrap();
            let socket = Socket::new().unwrap();
            // SAFETY: the pool lives longer than the socket, whose rings are given nothing.
            unsafe { socket.register(pool.region(), chunk(&pool)) }.unwrap();
            let rings = (socket.fill_ring(64).unwrap(), socket.completion_ring(64).unwrap());
            let receive = socket.receive_ring(64).unwrap();
            let index = interface.index();
            let binding =
                Binding { interface: index, queue: 0, zero_copy: Some(false), segments: false };
            socket.bind(&binding, None).unwrap();
            let attempt = |millis| {
                let deadline = Instant::now() + Duration::from_millis(millis);
                let_go(&interface, "x:a0", 0, deadline).map_err(|error| error.raw_os_error())
            };
            assert_eq!(attempt(10), Err(Some(libc::EBUSY)));
            // From another namespace it looks as if the device were gone.
            std::thread::scope(|scope| {
                let elsewhere = scope.spawn(|| {
                    // SAFETY: no pointers; it changes this thread alone.
                    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
                    attempt(10)
                });
                assert_eq!(elsewhere.join().unwrap(), Err(None));
            });
            std::thread::scope(|scope| {
                let unprivileged = scope.spawn(|| {
                    keep_only(&[]);
                    attempt(10)
                });
                assert_eq!(unprivileged.join().unwrap(), Err(Some(libc::EPERM)));
                let limited = scope.spawn(|| {
                    // The limit is the process's, but only who lacks CAP_IPC_LOCK has it: this thread alone.
                    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    // SAFETY: the limit is where it is to be written.
                    let read = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
                    assert_eq!(read, 0);
                    limit.rlim_cur = 0;
                    // SAFETY: the limit is a whole one.
                    let set = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
                    assert_eq!(set, 0);
                    keep_only(&[Privilege::NetRaw]);
                    attempt(10)
                });
                assert_eq!(limited.join().unwrap(), Err(Some(libc::ENOBUFS)));
            });
            drop((socket, rings, receive));
            assert_eq!(attempt(20_000), Ok(()));
            ip("link del a0");
            assert_eq!(attempt(10), Ok(()));
        });
    }
}
