//! R12: a queue in somebody else's loop, by its descriptor.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyport::{Armed, Burst, Error, RxQueue, Wake};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::side::woken;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "wait.arm_says_ready_when_a_frame_is_there",
        clauses: &["R12"],
        about: "Arms a queue with nothing there, with frames there, and after they were received.",
        why: "Who sleeps on a descriptor although frames are there sleeps for good.",
        needs: &[Need::TwoWay],
        run: arm_says_ready,
    },
    Case {
        name: "wait.poll_on_the_descriptor",
        clauses: &["R12"],
        about: "A loop of arm, poll(2) and recv gets each of 1,000 frames that another thread sends one by one.",
        why: "It is how a queue gets into an existing event loop.",
        needs: &[Need::TwoWay],
        run: by_poll,
    },
    Case {
        name: "wait.level_triggered_epoll",
        clauses: &["R12"],
        about: "The same with the descriptor in an epoll set, level-triggered.",
        why: "Event loops use epoll, and a queue's descriptor is one itself.",
        needs: &[Need::TwoWay],
        run: by_level,
    },
    Case {
        name: "wait.edge_triggered_epoll",
        clauses: &["R12"],
        about: "The same, edge-triggered, as async runtimes do it.",
        why: "An edge that does not come is a task that never runs again.",
        needs: &[Need::TwoWay],
        run: by_edge,
    },
    Case {
        name: "wait.the_descriptor_tells_of_stop_and_close",
        clauses: &["R12", "L6"],
        about: "Armed queues of two ports; one is stopped, the other closed: both descriptors become readable and stay so.",
        why: "A task that sleeps on the descriptor of a port that is gone is never run again.",
        needs: &[],
        run: tells_of_stop,
    },
    Case {
        name: "wait.the_descriptor_tells_of_the_loss_of_the_device",
        clauses: &["R12", "T9"],
        about: "An armed queue whose device is taken away: its descriptor becomes readable, and the queue says DeviceGone.",
        why: "A deleted interface is no reason to sleep for ever.",
        needs: &[Need::CanVanish, Need::Rig(Power::Remove)],
        run: tells_of_loss,
    },
    Case {
        name: "wait.the_descriptor_tells_of_wakers",
        clauses: &["R12", "R10"],
        about: "An armed queue whose waker is called: its descriptor becomes readable.",
        why: "A waker has to reach a thread whichever way it sleeps.",
        needs: &[],
        run: tells_of_wakers,
    },
    Case {
        name: "wait.the_descriptor_tells_of_a_link_change",
        clauses: &["R12", "R10"],
        about: "An armed queue is received from for a while although nothing comes; the link goes down at the beginning, and \
                later up. Its descriptor is readable, and wait says why.",
        why: "An idle recv looks at its device now and then; where that takes the link's event away, who then sleeps learns of \
              the link after a whole timeout.",
        needs: &[Need::LinkState, Need::Rig(Power::Cable)],
        run: tells_of_a_link_change,
    },
    Case {
        name: "wait.the_descriptor_tells_when_the_pool_has_frames_again",
        clauses: &["R12", "R7"],
        about: "An armed queue whose pool ran dry under traffic; another thread gives the frames back.",
        why: "Only whoever receives can give a starved queue its frames: not told, it sleeps through all traffic.",
        needs: &[Need::TwoWay],
        run: tells_of_frames,
    },
];

/// A way to sleep on a descriptor.
enum Sleeper {
    Poll,
    Epoll(OwnedFd),
}

impl Sleeper {
    /// An epoll set that watches the descriptor.
    fn epoll(fd: RawFd, edge: bool) -> Verdict<Sleeper> {
        let events = libc::EPOLLIN | if edge { libc::EPOLLET } else { 0 };
        let mut event = libc::epoll_event { events: events as u32, u64: 7 };
        // SAFETY: no pointers.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        // SAFETY: valid descriptors and a local event.
        let added =
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        if added < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Sleeper::Epoll(epoll))
    }

    /// Sleeps until the descriptor is readable; whether it became so.
    fn sleep(&self, fd: RawFd, timeout: Duration) -> bool {
        let millis = timeout.as_millis() as libc::c_int;
        match self {
            Sleeper::Poll => {
                let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                // SAFETY: one descriptor, as is said.
                unsafe { libc::poll(&mut poll, 1, millis) == 1 }
            }
            Sleeper::Epoll(epoll) => {
                let mut event = libc::epoll_event { events: 0, u64: 0 };
                // SAFETY: room for one event, as is said.
                unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, millis) == 1 }
            }
        }
    }
}

/// Arms a queue, serving what may be left of its start, such as a change of the link.
fn armed(rx: &mut RxQueue) -> Verdict {
    eventually("a queue being armed", || match rx.arm()? {
        Armed::Armed => Ok(Some(())),
        Armed::Ready => {
            rx.recv(&mut Burst::new())?;
            Ok(None)
        }
    })
}

fn arm_says_ready(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    armed(&mut b.rx[0])?;
    for number in 0..100 {
        same!(b.rx[0].arm()?, Armed::Armed, "arming an empty queue, round {number}");
        a.send(&frames::run(b.mac(), 2, 60))?;
        let fd = b.rx[0].descriptor();
        ensure!(Sleeper::Poll.sleep(fd, PATIENCE), "round {number}: not readable with a frame");
        same!(b.rx[0].arm()?, Armed::Ready, "arming with frames there, round {number}");
        same!(b.rx[0].arm()?, Armed::Ready, "arming once more, round {number}");
        b.receive(2)?;
    }
    Ok(())
}

/// A loop of the application's own: each frame is sent when the one before has been received.
fn one_by_one(ctx: &Ctx, sleeper: impl Fn(RawFd) -> Verdict<Sleeper>) -> Verdict {
    const FRAMES: u32 = 1000;
    let (mut a, mut b) = ctx.pair()?;
    let to = b.mac();
    let rx = &mut b.rx[0];
    let fd = rx.descriptor();
    let sleeper = sleeper(fd)?;
    let (go, may) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || may.iter().try_for_each(|n| a.send(&[frames::numbered(to, n, 60)])));
        let mut burst = Burst::with_capacity(1);
        for number in 0..FRAMES {
            go.send(number).map_err(|_| "the sending thread ended")?;
            while rx.recv(&mut burst)? == 0 {
                if rx.arm()? == Armed::Armed {
                    let woken = sleeper.sleep(fd, PATIENCE);
                    ensure!(woken, "frame {number} of {FRAMES} did not make it readable");
                }
            }
            let found = burst.pop_front().and_then(|packet| frames::number(packet.data()));
            same!(found, Some(number), "the frame");
        }
        // The sender ends with the channel.
        drop(go);
        Ok(())
    })
}

fn by_poll(ctx: &Ctx) -> Verdict {
    one_by_one(ctx, |_| Ok(Sleeper::Poll))
}

fn by_level(ctx: &Ctx) -> Verdict {
    one_by_one(ctx, |fd| Sleeper::epoll(fd, false))
}

fn by_edge(ctx: &Ctx) -> Verdict {
    one_by_one(ctx, |fd| Sleeper::epoll(fd, true))
}

fn tells_of_stop(ctx: &Ctx) -> Verdict {
    let (a, b) = ctx.pair()?;
    let ((mut port_a, mut a, ..), (port_b, mut b, ..)) = (a.into_parts(), b.into_parts());
    let mut sleepers = Vec::new();
    for rx in [&mut a[0], &mut b[0]] {
        armed(rx)?;
        let fd = rx.descriptor();
        sleepers.push([Sleeper::Poll, Sleeper::epoll(fd, false)?, Sleeper::epoll(fd, true)?]);
    }
    port_a.stop()?;
    port_b.close()?;
    for (rx, sleepers) in [&mut a[0], &mut b[0]].into_iter().zip(&sleepers) {
        for sleeper in sleepers {
            ensure!(sleeper.sleep(rx.descriptor(), PATIENCE), "it did not become readable");
        }
        refused!(rx.arm(), Error::Closed, "arming the queue of a port that was stopped");
        refused!(rx.recv(&mut Burst::new()), Error::Closed, "receiving from it");
        ensure!(Sleeper::Poll.sleep(rx.descriptor(), PATIENCE), "it did not stay readable");
    }
    Ok(())
}

fn tells_of_loss(ctx: &Ctx) -> Verdict {
    let (_a, mut b) = ctx.pair()?;
    let rx = &mut b.rx[0];
    let fd = rx.descriptor();
    let sleeper = Sleeper::epoll(fd, true)?;
    armed(rx)?;
    ctx.wires().remove(End::B)?;
    eventually("the queue saying that its device is gone", || {
        match rx.arm() {
            Ok(Armed::Armed) => ensure!(sleeper.sleep(fd, PATIENCE), "it did not become readable"),
            // Its link went first.
            Ok(Armed::Ready) => {}
            Err(Error::DeviceGone { .. }) => return Ok(Some(())),
            Err(other) => return Err(other.into()),
        }
        Ok(None)
    })
}

fn tells_of_wakers(ctx: &Ctx) -> Verdict {
    let mut b = ctx.start(End::B, "")?;
    let rx = &mut b.rx[0];
    let fd = rx.descriptor();
    let (waker, edge) = (rx.waker(), Sleeper::epoll(fd, true)?);
    for sleeper in [&Sleeper::Poll, &edge] {
        for _ in 0..100 {
            armed(rx)?;
            waker.wake();
            ensure!(sleeper.sleep(fd, PATIENCE), "it did not become readable");
            same!(rx.arm()?, Armed::Ready, "arming after the waker was called");
        }
    }
    Ok(())
}

fn tells_of_a_link_change(ctx: &Ctx) -> Verdict {
    let (_a, mut b) = ctx.pair()?;
    let (rx, mut burst) = (&mut b.rx[0], Burst::new());
    while rx.wait(Duration::from_millis(100))? != Wake::Timeout {}
    for up in [false, true, false, true] {
        armed(rx)?;
        ctx.wires().set_link(up)?;
        // Longer than an idle queue goes without a look at its device.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            same!(rx.recv(&mut burst)?, 0, "frames that nobody sent");
        }
        let readable = Sleeper::Poll.sleep(rx.descriptor(), PATIENCE);
        ensure!(
            readable,
            "it is not readable after the link went {}",
            if up { "up" } else { "down" }
        );
        let expected = if up { Wake::LinkUp } else { Wake::LinkDown };
        same!(woken(rx)?, expected, "what wait says then");
    }
    Ok(())
}

fn tells_of_frames(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(64)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "", &pool)?;
    ctx.settle(&a, &b)?;
    let (to, fd) = (b.mac(), b.rx[0].descriptor());
    for sleeper in [Sleeper::Poll, Sleeper::epoll(fd, true)?] {
        let mut held = Burst::with_capacity(65);
        // Until all that comes is lost: then the queue is starved, and nothing is left to be received.
        eventually("the pool running dry", || {
            let before = b.counters().rx_dropped();
            a.send(&frames::run(to, 8, 60))?;
            let mut came = 0;
            eventually("8 frames delivered or counted", || {
                came += b.rx[0].recv(&mut held)?;
                let lost = b.counters().rx_dropped() - before;
                Ok((came as u64 + lost == 8).then_some(()))
            })?;
            Ok((came == 0).then_some(()))
        })?;
        same!(b.rx[0].arm()?, Armed::Armed, "arming the starved queue");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(held));
            ensure!(sleeper.sleep(fd, PATIENCE), "it did not become readable");
            Ok::<_, crate::Failure>(())
        })?;
        // What it was told for: a device that holds frames of its own gets them now.
        b.rx[0].recv(&mut Burst::new())?;
        a.mark(&mut b, &mut Vec::new())?;
    }
    Ok(())
}
