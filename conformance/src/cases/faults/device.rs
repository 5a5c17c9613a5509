//! F2, F3: the link goes, or the whole device, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyport::{Burst, Error, MacAddr, Pool, RxQueue, TxQueue};

use crate::case::{Case, Need, Power, Verdict, refusal};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::Worker;
use crate::side::Side;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "faults.link_down_and_up_under_load",
        clauses: &["F2", "T8", "R2"],
        about: "Takes the link away and brings it back, three times, under a stream that never pauses; looks at every frame.",
        why: "Cables are pulled under load, and nobody restarts the programs.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Rig(Power::Cable)],
        run: link_under_load,
    },
    Case {
        name: "faults.a_lost_link_loses_what_it_may",
        clauses: &["T8", "S1", "F2"],
        about: "As above, and a witness counts what left: frames that were accepted, did not leave and are not in tx_dropped, \
                are no more than were accepted in the 200 ms after a loss.",
        why: "A kernel may take frames for a link that is gone, or not yet back, and say nothing.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Rig(Power::Cable), Need::Rig(Power::Witness)],
        run: lost_link_loses_what_it_may,
    },
    Case {
        name: "faults.link_flaps",
        clauses: &["F2", "M3"],
        about: "Takes the link down and up twenty times in a row, and passes frames both ways after that.",
        why: "A bad contact flaps; a port that counts wrong once stays down for good.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Rig(Power::Cable)],
        run: link_flaps,
    },
    Case {
        name: "faults.settings_survive_the_link",
        clauses: &["F2", "R6"],
        about: "Switches promiscuous mode on, takes the link down and up, and sends foreign frames and group frames.",
        why: "Memberships and filters that a driver forgets with the link are missed much later.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Promiscuous, Need::Rig(Power::Cable)],
        run: settings_survive,
    },
    Case {
        name: "faults.device_goes_under_load",
        clauses: &["F3", "T9"],
        about: "Takes the device away under a thread that sends, one that receives and the control handle, and closes the port.",
        why: "USB and virtual devices go while programs run; those have to end, not to hang.",
        needs: &[Need::TwoWay, Need::CanVanish, Need::Rig(Power::Remove)],
        run: device_goes_under_load,
    },
    Case {
        name: "faults.device_goes_while_waiting",
        clauses: &["F3", "T9", "R10"],
        about: "Takes the device away under a thread that waits for frames without end.",
        why: "As above, for a program that has nothing to do when it happens.",
        needs: &[Need::CanVanish, Need::Rig(Power::Remove)],
        run: device_goes_while_waiting,
    },
    Case {
        name: "faults.device_goes_while_idle",
        clauses: &["F3", "T9"],
        about: "Takes the device away under ports whose queues nobody touches, then calls everything there is.",
        why: "The loss must be told whoever asks first.",
        needs: &[Need::TwoWay, Need::CanVanish, Need::Rig(Power::Remove)],
        run: device_goes_while_idle,
    },
    Case {
        name: "faults.device_goes_while_stopped",
        clauses: &["F3", "T9", "L4"],
        about: "Takes the device of a stopped port away, starts it, and closes it.",
        why: "As above; a start that fails must leave nothing half started.",
        needs: &[Need::CanVanish, Need::Rig(Power::Remove)],
        run: device_goes_while_stopped,
    },
    Case {
        name: "faults.a_lost_device_frees_its_frames",
        clauses: &["F3", "T9", "P1"],
        about: "Takes the device away with frames in its rings and in the application's hands, closes, and counts frames.",
        why: "A program that survives the loss of one device needs the memory for the others.",
        needs: &[Need::TwoWay, Need::CanVanish, Need::Rig(Power::Remove)],
        run: lost_device_frees,
    },
    Case {
        name: "faults.a_device_that_moves_away_is_gone",
        clauses: &["F3", "T9", "P1"],
        about: "Moves the device to another network namespace under a thread that sends, one that receives and the control \
                handle, and closes the port; the port at the other end lives on.",
        why: "Containers take the interfaces that they are given away from whoever had them.",
        needs: &[Need::TwoWay, Need::CanVanish, Need::Rig(Power::Move)],
        run: device_moves_under_load,
    },
    Case {
        name: "faults.a_renamed_device_goes_on",
        clauses: &["F3", "L2"],
        about: "Renames the device under load: that is no loss.",
        why: "Interfaces are renamed by the system itself, while programs run.",
        needs: &[Need::TwoWay, Need::Rig(Power::Rename)],
        run: renamed_goes_on,
    },
];

/// A stream of numbered frames: what the sending thread says of it.
#[derive(Default)]
struct Stream {
    accepted: AtomicU64,
    /// Calls that took nothing.
    refused: AtomicU64,
    end: AtomicBool,
}

impl Stream {
    /// Sends frames until it is told to end, or until that fails.
    fn start(
        mut tx: TxQueue,
        pool: Pool,
        to: MacAddr,
    ) -> Verdict<(Arc<Stream>, Worker<anyport::Result<()>>)> {
        let stream = Arc::new(Stream::default());
        let shared = stream.clone();
        let worker = Worker::start(move || {
            let (mut burst, mut next) = (Burst::with_capacity(16), 0);
            while !shared.end.load(Ordering::Relaxed) {
                while let Some(packet) = (!burst.is_full())
                    .then(|| pool.packet(&frames::numbered(to, next, 60)))
                    .flatten()
                {
                    let _ = burst.push(packet);
                    next += 1;
                }
                match tx.send(&mut burst)? {
                    0 => {
                        shared.refused.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                    }
                    sent => {
                        shared.accepted.fetch_add(sent as u64, Ordering::Relaxed);
                    }
                }
            }
            Ok(())
        })?;
        Ok((stream, worker))
    }
}

/// Checks that numbered frames are whole, in order, and none is there twice; the number after the last.
fn in_order(frames: &[Vec<u8>], to: MacAddr, mut next: u32) -> Verdict<u32> {
    for frame in frames {
        let number = frames::number(frame).ok_or("a frame that nobody sent came")?;
        ensure!(number >= next, "frame {number} came when {next} or a later one was due");
        ensure!(*frame == frames::numbered(to, number, 60), "frame {number} was changed");
        next = number + 1;
    }
    Ok(next)
}

fn link_under_load(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let to = b.mac();
    let (tx, pool) = (a.tx.remove(0), a.pool().clone());
    let (stream, sending) = Stream::start(tx, pool, to)?;
    let mut next = 0;
    let verdict = (0..3).try_for_each(|_| {
        next = in_order(&b.receive(500)?, to, next)?;
        ctx.wires().set_link(false)?;
        // 200 ms after the loss at the latest, nothing is accepted (T8).
        let noticed = Instant::now() + Duration::from_millis(200);
        eventually("link-down", || {
            next = in_order(&b.take()?, to, next)?;
            let down = !a.port().control().link()?.up;
            Ok((down && Instant::now() >= noticed).then_some(()))
        })?;
        let accepted = stream.accepted.load(Ordering::Relaxed);
        let refused = stream.refused.load(Ordering::Relaxed);
        eventually("further sends", || {
            Ok((stream.refused.load(Ordering::Relaxed) > refused + 100).then_some(()))
        })?;
        same!(stream.accepted.load(Ordering::Relaxed), accepted, "accepted while the link is down");
        ctx.wires().set_link(true)?;
        eventually("the stream to go on", || {
            Ok((stream.accepted.load(Ordering::Relaxed) > accepted).then_some(()))
        })
    });
    let verdict = verdict.and_then(|()| in_order(&b.receive(500)?, to, next).map(drop));
    stream.end.store(true, Ordering::Relaxed);
    verdict.and(Ok(sending.join()??))
}

fn lost_link_loses_what_it_may(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let before = ctx.wires().witness(End::A)?.tx_packets;
    let (to, tx, pool) = (b.mac(), a.tx.remove(0), a.pool().clone());
    let (stream, sending) = Stream::start(tx, pool, to)?;
    let accepted = || stream.accepted.load(Ordering::Relaxed);
    let mut may = 0;
    let verdict = (0..3).try_for_each(|_| {
        b.receive(500)?;
        let at_loss = accepted();
        ctx.wires().set_link(false)?;
        let window = Instant::now() + Duration::from_millis(200);
        eventually("the end of the 200 ms", || {
            b.take()?;
            Ok((Instant::now() >= window).then_some(()))
        })?;
        may += accepted() - at_loss;
        ctx.wires().set_link(true)?;
        let back = accepted();
        eventually("the stream to go on", || Ok((accepted() > back).then_some(())))
    });
    let verdict = verdict.and_then(|()| b.receive(500).map(drop));
    stream.end.store(true, Ordering::Relaxed);
    verdict.and(Ok(sending.join()??))?;
    // What is still in a ring leaves with the end.
    let counters = a.counters();
    a.close()?;
    let left = ctx.wires().witness(End::A)?.tx_packets - before;
    let said = counters.tx_packets.unwrap_or(0);
    ensure!(left <= said, "{said} frames are counted as sent, and {left} left");
    ensure!(said - left <= may, "{} frames were lost, of {may} that may have been", said - left);
    Ok(())
}

/// Brings the link back and passes frames both ways.
fn good_as_new(ctx: &Ctx, a: &mut Side, b: &mut Side) -> Verdict {
    ctx.settle(a, b)?;
    a.take()?;
    b.take()?;
    for _ in 0..2 {
        let there = frames::run(b.mac(), 50, 60);
        ensure!(a.pass_to(b, &there)? == there, "frames were lost or changed");
        let back = frames::run(a.mac(), 50, 60);
        ensure!(b.pass_to(a, &back)? == back, "frames were lost or changed");
    }
    Ok(())
}

fn link_flaps(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frames = frames::run(b.mac(), 4, 60);
    for _ in 0..20 {
        ctx.wires().set_link(false)?;
        // Whether it is taken or not: nothing may break.
        a.offer(&frames)?;
        b.take()?;
        ctx.wires().set_link(true)?;
        a.offer(&frames)?;
        b.take()?;
    }
    good_as_new(ctx, &mut a, &mut b)
}

fn settings_survive(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let sent: Vec<_> = [frames::STRANGER, frames::GROUP, MacAddr::BROADCAST, b.mac()]
        .into_iter()
        .flat_map(|to| frames::run(to, 3, 60))
        .collect();
    for promiscuous in [true, false] {
        b.port().control().set_promiscuous(promiscuous)?;
        for _ in 0..2 {
            ctx.wires().set_link(false)?;
            eventually("link-down", || Ok((!b.port().control().link()?.up).then_some(())))?;
            ctx.wires().set_link(true)?;
            good_as_new(ctx, &mut a, &mut b)?;
            let expected = if promiscuous { &sent[..] } else { &sent[3..] };
            let arrived = a.pass_to(&mut b, &sent)?;
            ensure!(arrived == expected, "promiscuous={promiscuous}: {} came", arrived.len());
        }
    }
    Ok(())
}

/// Receives, and waits in between, until that fails.
fn receive_until_gone(mut rx: RxQueue) -> Verdict<Worker<Error>> {
    Worker::start(move || {
        let mut burst = Burst::new();
        loop {
            burst.clear();
            match rx.wait(Duration::from_millis(5)).and_then(|_| rx.recv(&mut burst)) {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
}

/// Checks that an error says that the device is gone, and which.
fn says_gone(what: &str, error: &Error, side: &anyport::Port) -> Verdict {
    let Error::DeviceGone { device, .. } = error else {
        return Err(format!("{what} says: {error}").into());
    };
    same!(&**device, side.title(), "the device that {what} calls gone");
    Ok(())
}

fn device_goes_under_load(ctx: &Ctx) -> Verdict {
    goes_under_load(ctx, || ctx.wires().remove(End::A)).map(drop)
}

fn device_moves_under_load(ctx: &Ctx) -> Verdict {
    let mut b = goes_under_load(ctx, || ctx.wires().move_away(End::A))?;
    // A device that is moved is down; the one that stays has lost its link, and no more.
    let control = b.port().control();
    eventually("link-down at the other end", || Ok((!control.link()?.up).then_some(())))?;
    b.take()?;
    // That may take it 200 ms to notice (T8).
    eventually("a queue that takes nothing without a link", || {
        Ok((b.offer(&frames::run(frames::STRANGER, 3, 60))? == 0).then_some(()))
    })?;
    b.close()?;
    // By its name it is not to be had here.
    let error = refusal(ctx.open(End::A, ""), "opening a device of another namespace")?;
    let clear = matches!(error, Error::UnknownDevice { .. } | Error::DeviceGone { .. });
    ensure!(clear, "opening a device of another namespace says: {error}");
    Ok(())
}

/// Takes the device of end A away under load; the port at the other end.
fn goes_under_load(ctx: &Ctx, take_away: impl FnOnce() -> Verdict) -> Verdict<Side> {
    let (a, mut b) = ctx.pair()?;
    let to = b.mac();
    let (port, mut rx, mut tx, pool) = a.into_parts();
    let (_, sending) = Stream::start(tx.remove(0), pool.clone(), to)?;
    let receiving = receive_until_gone(rx.remove(0))?;
    b.receive(500)?;
    take_away()?;
    let error = refusal(sending.join()?, "sending on a device that is gone")?;
    says_gone("send", &error, &port)?;
    says_gone("recv", &receiving.join()?, &port)?;
    says_gone("link", &refusal(port.control().link(), "its link")?, &port)?;
    port.close()?;
    same!(pool.free(), pool.capacity(), "frames in the pool");
    Ok(b)
}

fn device_goes_while_waiting(ctx: &Ctx) -> Verdict {
    let (port, mut rx, _tx, _) = ctx.start(End::A, "")?.into_parts();
    let mut rx = rx.remove(0);
    let waiting = Worker::start(move || {
        // A change of the link may come first.
        for _ in 0..10 {
            rx.wait(Duration::from_secs(3600))?;
        }
        Ok(())
    })?;
    waiting.asleep()?;
    ctx.wires().remove(End::A)?;
    says_gone("wait", &refusal(waiting.join()?, "waiting for frames of it")?, &port)?;
    Ok(port.close()?)
}

fn device_goes_while_idle(ctx: &Ctx) -> Verdict {
    let (mut a, b) = ctx.pair()?;
    let frames = frames::run(b.mac(), 3, 60);
    let mut burst = a.burst(&frames)?;
    ctx.wires().remove(End::A)?;
    // Within a second (T9): a queue that is only asked for frames looks now and then.
    let error = eventually("recv to say that the device is gone", || {
        Ok(a.rx[0].recv(&mut Burst::new()).err())
    })?;
    says_gone("recv", &error, a.port())?;
    let error = eventually("send to say so", || Ok(a.tx[0].send(&mut burst).err()))?;
    says_gone("send", &error, a.port())?;
    same!(burst.len(), 3, "packets that the application still has");
    for _ in 0..3 {
        says_gone("recv", &refusal(a.rx[0].recv(&mut Burst::new()), "recv")?, a.port())?;
        says_gone("wait", &refusal(a.rx[0].wait(PATIENCE), "wait")?, a.port())?;
        says_gone("arm", &refusal(a.rx[0].arm(), "arm")?, a.port())?;
        says_gone("send", &refusal(a.tx[0].send(&mut burst), "send")?, a.port())?;
        says_gone("link", &refusal(a.port().control().link(), "its link")?, a.port())?;
    }
    // What was counted can still be read.
    let before = a.counters();
    a.port_mut().stop()?;
    same!(a.counters(), before, "counters after stop");
    refused!(a.rx[0].recv(&mut Burst::new()), Error::Closed, "recv after stop");
    a.close()
}

fn device_goes_while_stopped(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(256)?;
    let mut port = ctx.open(End::A, "")?;
    port.attach(&pool)?;
    drop(port.start()?);
    port.stop()?;
    ctx.wires().remove(End::A)?;
    for _ in 0..2 {
        let error = refusal(port.start(), "starting a device that is gone")?;
        says_gone("start", &error, &port)?;
        port.stop()?;
    }
    same!(pool.free(), pool.capacity(), "frames in the pool");
    port.close()?;
    // What is opened by that name now is not there, or is gone.
    let error = refusal(ctx.open(End::A, ""), "opening a device that is gone")?;
    let clear = matches!(error, Error::UnknownDevice { .. } | Error::DeviceGone { .. });
    ensure!(clear, "opening a device that is gone says: {error}");
    Ok(())
}

fn lost_device_frees(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let (to_a, to_b) = (a.mac(), b.mac());
    // In the receive ring, in the application's hands, and on their way out.
    b.send(&frames::run(to_a, 60, 60))?;
    let mut held = Burst::with_capacity(10);
    while !held.is_full() {
        a.rx[0].wait(PATIENCE)?;
        a.rx[0].recv(&mut held)?;
    }
    a.send(&frames::run(to_b, 60, 60))?;
    ctx.wires().remove(End::A)?;
    let mut burst = a.burst(&frames::run(to_b, 5, 60))?;
    eventually("send to say that the device is gone", || Ok(a.tx[0].send(&mut burst).err()))?;
    let (port, rx, tx, pool) = a.into_parts();
    port.close()?;
    // Until the loss was noticed (T9) some of the burst may have been accepted.
    let with_us = held.len() + burst.len();
    same!(pool.free(), pool.capacity() - with_us, "frames in the pool, with {with_us} held");
    let numbers: Vec<_> = held.iter().filter_map(|packet| frames::number(packet.data())).collect();
    ensure!(numbers == (0..10).collect::<Vec<_>>(), "the packets that are held have changed");
    drop((held, burst, rx, tx));
    same!(pool.free(), pool.capacity(), "frames in the pool");
    Ok(())
}

fn renamed_goes_on(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let to = b.mac();
    let (tx, pool) = (a.tx.remove(0), a.pool().clone());
    let (stream, sending) = Stream::start(tx, pool, to)?;
    let mut next = 0;
    let verdict = End::BOTH.into_iter().try_for_each(|end| {
        next = in_order(&b.receive(200)?, to, next)?;
        ctx.wires().rename(end)?;
        next = in_order(&b.receive(200)?, to, next)?;
        for side in [&a, &b] {
            let control = side.port().control();
            same!(control.link()?.up, true, "the link");
            ensure!(control.mac()?.is_unicast(), "no address");
        }
        Ok(())
    });
    stream.end.store(true, Ordering::Relaxed);
    sending.join()??;
    verdict?;
    b.restart()?;
    Ok(())
}
