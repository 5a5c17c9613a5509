//! R14: an input that ends.

use std::time::Duration;

use anyport::{Armed, Burst, Error, Wake};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::Worker;
use crate::side::woken;
use crate::{frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "wait.an_input_ends_after_its_last_frame",
        clauses: &["R14"],
        about: "Frames arrive, then the input ends: all are delivered, then recv says Ended, and wait returns at once.",
        why: "A program that reads a capture file must get all of it, and must know when it is through.",
        needs: &[Need::TwoWay, Need::CanEnd, Need::Rig(Power::EndInput)],
        run: ends_after_its_last_frame,
    },
    Case {
        name: "wait.an_end_ends_a_wait",
        clauses: &["R14", "R10", "R12"],
        about: "The input ends while a thread waits, and while a descriptor is armed.",
        why: "A program that waits for more of a file that has ended never ends.",
        needs: &[Need::CanEnd, Need::Rig(Power::EndInput)],
        run: an_end_ends_a_wait,
    },
];

fn ends_after_its_last_frame(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let sent = frames::run(b.mac(), 100, 60);
    a.send(&sent)?;
    let mut burst = Burst::with_capacity(7);
    // No wait before: it would look ahead.
    eventually("the first frames", || Ok((b.rx[0].recv(&mut burst)? > 0).then_some(())))?;
    ctx.wires().end_input(End::B)?;
    while !burst.is_full() {
        b.rx[0].recv(&mut burst)?;
    }
    same!(b.rx[0].recv(&mut burst)?, 0, "recv into a full burst, with frames left");
    let mut arrived: Vec<_> = burst.drain().map(|packet| packet.data().to_vec()).collect();
    while arrived.len() < sent.len() {
        same!(woken(&mut b.rx[0])?, Wake::Ready, "a wait with frames left");
        b.rx[0].recv(&mut burst)?;
        arrived.extend(burst.drain().map(|packet| packet.data().to_vec()));
    }
    same!(arrived, sent, "what arrived before the end");
    for _ in 0..3 {
        refused!(b.rx[0].recv(&mut burst), Error::Ended, "recv after the last frame");
        same!(woken(&mut b.rx[0])?, Wake::Ended, "wait after the last frame");
        same!(b.rx[0].wait(Duration::ZERO)?, Wake::Ended, "a poll after the last frame");
        same!(b.rx[0].arm()?, Armed::Ready, "arm after the last frame");
    }
    // Only the input has ended.
    let answer = frames::run(a.mac(), 3, 60);
    b.send(&answer)?;
    same!(a.receive(3)?, answer, "what the port sends afterwards");
    b.close()
}

fn an_end_ends_a_wait(ctx: &Ctx) -> Verdict {
    let (a, b) = ctx.pair()?;
    let ((_port_a, mut a, ..), (_port_b, mut b, ..)) = (a.into_parts(), b.into_parts());
    let (mut a, mut b) = (a.swap_remove(0), b.swap_remove(0));
    let waiting = Worker::start(move || b.wait(3 * PATIENCE))?;
    waiting.asleep()?;
    ctx.wires().end_input(End::B)?;
    same!(waiting.join()??, Wake::Ended, "a wait during which the input ended");
    same!(a.arm()?, Armed::Armed, "arming the other port");
    ctx.wires().end_input(End::A)?;
    let mut poll = libc::pollfd { fd: a.descriptor(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as is said.
    let readable = unsafe { libc::poll(&mut poll, 1, PATIENCE.as_millis() as libc::c_int) };
    same!(readable, 1, "readable descriptors after the end");
    refused!(a.recv(&mut Burst::new()), Error::Ended, "recv after the end");
    Ok(())
}
