//! R10: what `wait` returns for, and for what it does not.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyport::{Burst, RxQueue, Wake};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::{NoOpHandler, Worker};
use crate::side::{Side, woken};
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "wait.returns_for_a_frame",
        clauses: &["R10"],
        about: "A thread sleeps in wait; a frame is sent; wait says Ready, says so again until the frame is received, and \
                recv delivers it.",
        why: "An application that sleeps is to be woken by traffic and by nothing else.",
        needs: &[Need::TwoWay],
        run: returns_for_a_frame,
    },
    Case {
        name: "wait.times_out_and_says_so",
        clauses: &["R10"],
        about: "Waits 30 ms with nothing there.",
        why: "An application that cannot tell a timeout from a frame does its periodic work at the wrong time.",
        needs: &[],
        run: times_out,
    },
    Case {
        name: "wait.zero_polls",
        clauses: &["R10"],
        about: "Waits with a timeout of zero, 20,000 times with nothing there, and once with a frame.",
        why: "A poll that sleeps a little makes a poll loop slow; one that misses a frame makes it deaf.",
        needs: &[Need::TwoWay],
        run: zero_polls,
    },
    Case {
        name: "wait.a_filtered_frame_is_no_reason",
        clauses: &["R10", "R6"],
        about: "While a thread waits, 100 frames for others arrive, then one for the port.",
        why: "Being woken for frames that recv then does not deliver looks like a lost frame.",
        needs: &[Need::TwoWay],
        run: filtered_is_no_reason,
    },
    Case {
        name: "wait.frames_stay_in_order",
        clauses: &["R10", "R2"],
        about: "Frames arrive before a wait and after it, and are received into small bursts.",
        why: "A wait that looks at the ring must not put a frame behind those that come later.",
        needs: &[Need::TwoWay],
        run: frames_stay_in_order,
    },
    Case {
        name: "wait.loses_no_frame_in_the_gap",
        clauses: &["R10"],
        about: "2,000 times: recv finds nothing, then wait; another thread sends one frame at about that moment.",
        why: "A frame that arrives between the last look and the sleep is slept over: latency of a whole timeout, now and \
              then, on an idle machine only.",
        needs: &[Need::TwoWay],
        run: no_frame_in_the_gap,
    },
    Case {
        name: "wait.loses_no_waker_in_the_gap",
        clauses: &["R10"],
        about: "2,000 times: wait, while another thread calls the waker at about that moment; each call ends one wait.",
        why: "A shutdown that is asked for just before the sleep must not wait for the next frame.",
        needs: &[],
        run: no_waker_in_the_gap,
    },
    Case {
        name: "wait.returns_for_a_waker",
        clauses: &["R10"],
        about: "A waker is called before a wait and during one; it ends one wait only, and says that it was it.",
        why: "It is how another thread tells the receiving one that there is something else to do.",
        needs: &[],
        run: returns_for_a_waker,
    },
    Case {
        name: "wait.returns_for_a_signal",
        clauses: &["R10"],
        about: "A thread that waits gets a signal whose handler does nothing.",
        why: "A program that is to end on SIGTERM has to get out of its wait to see that.",
        needs: &[],
        run: returns_for_a_signal,
    },
    Case {
        name: "wait.returns_for_a_link_change",
        clauses: &["R10", "M3"],
        about: "At both ends a thread waits while the link goes down, and again while it comes up.",
        why: "A routing daemon acts on a lost link at once, not after its next timeout.",
        needs: &[Need::LinkState, Need::Rig(Power::Cable)],
        run: returns_for_a_link_change,
    },
    Case {
        name: "wait.polls_tell_of_a_link_change",
        clauses: &["R10", "M3"],
        about: "The link goes down and comes up while both ends do nothing but poll, with timeouts of zero: each change is told \
                once.",
        why: "A busy-polling program never sleeps; it has to learn of a lost link all the same.",
        needs: &[Need::LinkState, Need::Rig(Power::Cable)],
        run: polls_tell_of_a_link_change,
    },
    Case {
        name: "wait.returns_for_stop_and_close",
        clauses: &["R10", "L6"],
        about: "A port is stopped, and another closed, while a thread waits on its queue: Closed.",
        why: "A thread that is left waiting on a port that is gone never ends.",
        needs: &[],
        run: returns_for_stop_and_close,
    },
    Case {
        name: "wait.returns_for_the_loss_of_the_device",
        clauses: &["R10", "T9"],
        about: "The device is taken away while a thread waits: DeviceGone.",
        why: "An interface that was deleted sends no frame any more; the wait would never end.",
        needs: &[Need::CanVanish, Need::Rig(Power::Remove)],
        run: returns_for_loss,
    },
];

/// How long a thread of its own waits: longer than the case waits for the thread, so that a wait which is not woken does
/// not end just in time.
const SLEEP: Duration = PATIENCE.saturating_mul(3);

/// Parts of a side, so that its receive queue can be waited on by another thread.
fn apart(side: Side) -> (anyport::Port, RxQueue) {
    let (port, mut rx, ..) = side.into_parts();
    (port, rx.swap_remove(0))
}

/// A thread that waits once.
fn waiting(mut rx: RxQueue) -> Verdict<Worker<(anyport::Result<Wake>, RxQueue)>> {
    let waiting = Worker::start(move || (rx.wait(SLEEP), rx))?;
    waiting.asleep()?;
    Ok(waiting)
}

fn returns_for_a_frame(ctx: &Ctx) -> Verdict {
    let (mut a, b) = ctx.pair()?;
    let to = b.mac();
    let (_port, mut rx) = apart(b);
    for number in 0..50 {
        let waiting = waiting(rx)?;
        let frame = frames::numbered(to, number, 60);
        a.send(std::slice::from_ref(&frame))?;
        let wake;
        (wake, rx) = waiting.join()?;
        same!(wake?, Wake::Ready, "what the wait returned");
        same!(woken(&mut rx)?, Wake::Ready, "what it returns until the frame is received");
        let mut burst = Burst::new();
        same!(rx.recv(&mut burst)?, 1, "frames after Ready");
        same!(burst[0].data(), &frame[..], "the frame");
        same!(rx.wait(Duration::ZERO)?, Wake::Timeout, "what it returns after that");
    }
    Ok(())
}

fn times_out(ctx: &Ctx) -> Verdict {
    let mut b = ctx.start(End::B, "")?;
    // What starting it has set in motion has passed when a wait says so.
    eventually("a wait with nothing to report", || {
        let wake = b.rx[0].wait(Duration::from_millis(100))?;
        Ok((wake == Wake::Timeout).then_some(()))
    })?;
    for _ in 0..3 {
        let timeout = Duration::from_millis(30);
        let start = Instant::now();
        same!(b.rx[0].wait(timeout)?, Wake::Timeout, "what a wait with nothing there returned");
        let took = start.elapsed();
        ensure!(took >= timeout, "the wait of {timeout:?} was over after {took:?}");
    }
    Ok(())
}

fn zero_polls(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let start = Instant::now();
    for _ in 0..20_000 {
        same!(b.rx[0].wait(Duration::ZERO)?, Wake::Timeout, "a poll with nothing there");
    }
    let took = start.elapsed();
    ensure!(took < PATIENCE, "20,000 polls took {took:?}: they sleep");
    a.send(&frames::run(b.mac(), 1, 60))?;
    // The frame may take its time to arrive; a wait knows when it has.
    same!(woken(&mut b.rx[0])?, Wake::Ready, "a wait for the frame");
    same!(b.rx[0].wait(Duration::ZERO)?, Wake::Ready, "a poll with a frame there");
    b.receive_packet()?;
    same!(b.rx[0].wait(Duration::ZERO)?, Wake::Timeout, "a poll after it was received");
    Ok(())
}

fn filtered_is_no_reason(ctx: &Ctx) -> Verdict {
    let (mut a, b) = ctx.pair()?;
    let to = b.mac();
    let (_port, rx) = apart(b);
    let waiting = waiting(rx)?;
    for _ in 0..10 {
        a.send(&frames::run(frames::STRANGER, 10, 60))?;
    }
    let own = frames::numbered(to, 7, 60);
    a.send(std::slice::from_ref(&own))?;
    let (wake, mut rx) = waiting.join()?;
    same!(wake?, Wake::Ready, "what the wait returned");
    let mut burst = Burst::new();
    same!(rx.recv(&mut burst)?, 1, "frames after Ready");
    same!(burst[0].data(), &own[..], "the frame");
    Ok(())
}

fn frames_stay_in_order(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let sent = frames::run(b.mac(), 90, 60);
    let mut arrived = Vec::new();
    let mut burst = Burst::with_capacity(3);
    for chunk in sent.chunks(10) {
        a.send(chunk)?;
        same!(woken(&mut b.rx[0])?, Wake::Ready, "a wait with frames there");
        b.rx[0].recv(&mut burst)?;
        arrived.extend(burst.drain().map(|packet| packet.data().to_vec()));
    }
    while arrived.len() < sent.len() {
        same!(woken(&mut b.rx[0])?, Wake::Ready, "a wait for the rest");
        ensure!(b.rx[0].recv(&mut burst)? > 0, "nothing came after Ready");
        arrived.extend(burst.drain().map(|packet| packet.data().to_vec()));
    }
    ensure!(arrived == sent, "the frames came in another order");
    Ok(())
}

/// Calls `act` in another thread at about the moment at which round after round of `wait` begins; `wait` gets the
/// round's number.
fn rounds(
    count: u32,
    mut act: impl FnMut(u32) -> Verdict + Send,
    mut wait: impl FnMut(u32) -> Verdict,
) -> Verdict {
    const ABORTED: u32 = u32::MAX;
    let round = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            for number in 1..=count {
                while round.load(Ordering::Acquire) < number {
                    std::hint::spin_loop();
                }
                if round.load(Ordering::Acquire) == ABORTED {
                    return Ok(());
                }
                // From "before the wait" to "asleep already".
                for _ in 0..number.wrapping_mul(7919) % 3000 {
                    std::hint::spin_loop();
                }
                act(number)?;
            }
            Ok(())
        });
        let waited = (1..=count).try_for_each(|number| {
            round.store(number, Ordering::Release);
            wait(number)
        });
        round.store(ABORTED, Ordering::Release);
        let acted: Verdict = acting.join().map_err(|_| "the other thread panicked")?;
        acted.and(waited)
    })
}

fn no_frame_in_the_gap(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let to = b.mac();
    let rx = &mut b.rx[0];
    let mut burst = Burst::new();
    rounds(
        2000,
        |number| a.send(&[frames::numbered(to, number, 60)]),
        |number| {
            while rx.recv(&mut burst)? == 0 {
                let wake = woken(rx)?;
                same!(wake, Wake::Ready, "what the wait returned in round {number}");
            }
            let found: Vec<_> = burst.drain().map(|p| frames::number(p.data())).collect();
            same!(found, [Some(number)], "the frames of round {number}");
            Ok(())
        },
    )
}

fn no_waker_in_the_gap(ctx: &Ctx) -> Verdict {
    let mut b = ctx.start(End::B, "")?;
    eventually("a wait with nothing to report", || {
        let wake = b.rx[0].wait(Duration::from_millis(100))?;
        Ok((wake == Wake::Timeout).then_some(()))
    })?;
    let waker = b.rx[0].waker();
    let rx = &mut b.rx[0];
    let called = AtomicU32::new(0);
    rounds(
        2000,
        |number| {
            waker.wake();
            called.store(number, Ordering::Release);
            Ok(())
        },
        |number| {
            let (wake, last) = (woken(rx)?, called.load(Ordering::Acquire));
            // A machine that stood still has called nobody, which is no loss of a call.
            same!(
                wake,
                Wake::Waker,
                "what the wait returned in round {number}, by whose end {last} calls had been made"
            );
            same!(rx.wait(Duration::ZERO)?, Wake::Timeout, "what the next one returned");
            Ok(())
        },
    )
}

fn returns_for_a_waker(ctx: &Ctx) -> Verdict {
    let b = ctx.start(End::B, "")?;
    let (_port, mut rx) = apart(b);
    while rx.wait(Duration::from_millis(100))? != Wake::Timeout {}
    let waker = rx.waker();
    // Before the wait; twice is once.
    waker.wake();
    waker.wake();
    same!(woken(&mut rx)?, Wake::Waker, "a wait after the waker was called");
    same!(rx.wait(Duration::from_millis(1))?, Wake::Timeout, "the wait after that");
    for _ in 0..20 {
        let waiting = waiting(rx)?;
        waker.wake();
        let wake;
        (wake, rx) = waiting.join()?;
        same!(wake?, Wake::Waker, "a wait during which the waker was called");
        same!(rx.wait(Duration::ZERO)?, Wake::Timeout, "the wait after that");
    }
    // Of a queue that is gone it does nothing.
    drop((rx, _port));
    waker.wake();
    Ok(())
}

fn returns_for_a_signal(ctx: &Ctx) -> Verdict {
    let b = ctx.start(End::B, "")?;
    let (_port, mut rx) = apart(b);
    while rx.wait(Duration::from_millis(100))? != Wake::Timeout {}
    let _handler = NoOpHandler::install(libc::SIGUSR1)?;
    for _ in 0..20 {
        let waiting = waiting(rx)?;
        waiting.signal(libc::SIGUSR1)?;
        let wake;
        (wake, rx) = waiting.join()?;
        same!(wake?, Wake::Signal, "a wait during which a signal came");
    }
    same!(rx.wait(Duration::ZERO)?, Wake::Timeout, "the wait after that");
    Ok(())
}

fn returns_for_a_link_change(ctx: &Ctx) -> Verdict {
    let (a, b) = ctx.pair()?;
    let ((_port_a, mut a), (_port_b, mut b)) = (apart(a), apart(b));
    for rx in [&mut a, &mut b] {
        while rx.wait(Duration::from_millis(100))? != Wake::Timeout {}
    }
    for up in [false, true, false, true] {
        let expected = if up { Wake::LinkUp } else { Wake::LinkDown };
        let both = [waiting(a)?, waiting(b)?];
        ctx.wires().set_link(up)?;
        let [one, other] = both;
        let ((one, rx_a), (other, rx_b)) = (one.join()?, other.join()?);
        same!((one?, other?), (expected, expected), "what the waits at both ends returned");
        (a, b) = (rx_a, rx_b);
        for rx in [&mut a, &mut b] {
            same!(rx.wait(Duration::from_millis(1))?, Wake::Timeout, "a change is said once");
        }
    }
    Ok(())
}

fn polls_tell_of_a_link_change(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let mut ends = [&mut a.rx[0], &mut b.rx[0]];
    for rx in &mut ends {
        while rx.wait(Duration::from_millis(100))? != Wake::Timeout {}
    }
    for up in [false, true, false, true] {
        let expected = if up { Wake::LinkUp } else { Wake::LinkDown };
        ctx.wires().set_link(up)?;
        for rx in &mut ends {
            let wake = eventually("a poll that tells of the link", || {
                Ok(Some(rx.wait(Duration::ZERO)?).filter(|wake| *wake != Wake::Timeout))
            })?;
            same!(wake, expected, "what a poll told");
        }
        for rx in &mut ends {
            same!(rx.wait(Duration::from_millis(100))?, Wake::Timeout, "a change is told once");
        }
    }
    Ok(())
}

fn returns_for_stop_and_close(ctx: &Ctx) -> Verdict {
    let (a, b) = ctx.pair()?;
    let ((mut port_a, a), (port_b, b)) = (apart(a), apart(b));
    let (stopped, closed) = (waiting(a)?, waiting(b)?);
    port_a.stop()?;
    port_b.close()?;
    for (which, waiting) in [("stopped", stopped), ("closed", closed)] {
        let (wake, mut rx) = waiting.join()?;
        refused!(wake, anyport::Error::Closed, "a wait on a port that was {which}");
        refused!(rx.wait(PATIENCE), anyport::Error::Closed, "the wait after that");
        refused!(rx.wait(Duration::ZERO), anyport::Error::Closed, "a poll after that");
    }
    Ok(())
}

fn returns_for_loss(ctx: &Ctx) -> Verdict {
    let (_a, b) = ctx.pair()?;
    let (port, b) = apart(b);
    let waiting = waiting(b)?;
    ctx.wires().remove(End::B)?;
    let (wake, mut rx) = waiting.join()?;
    // A device may lose its link before it goes.
    let wake = match wake {
        Ok(Wake::LinkDown) => rx.wait(PATIENCE),
        other => other,
    };
    refused!(wake, anyport::Error::DeviceGone { .. }, "a wait on a device that went away");
    refused!(rx.wait(PATIENCE), anyport::Error::DeviceGone { .. }, "the wait after that");
    port.close()?;
    refused!(rx.wait(PATIENCE), anyport::Error::Closed, "a wait on the closed port");
    Ok(())
}
