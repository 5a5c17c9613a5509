//! T8 and T9: a link that is lost, a device that is lost.

use std::time::{Duration, Instant};

use anyport::capability::LinkLoss;
use anyport::{Burst, Error};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "transmit.a_lost_link_takes_nothing",
        clauses: &["T8"],
        about: "Takes the link down: from 200 ms later on no call of send accepts anything; when the link is back, sending \
                goes on by itself.",
        why: "Frames that are accepted into nothing are lost; a sender that has to be restarted after a pulled cable is \
              not a router.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Rig(Power::Cable)],
        run: lost_link_takes_nothing,
    },
    Case {
        name: "transmit.frames_in_a_ring_when_the_link_goes",
        clauses: &["T8", "S1"],
        about: "Fills part of the transmit ring, takes the link down and brings it up: the frames are sent then, or counted \
                as tx_dropped, as capability link_loss says.",
        why: "Frames that are neither sent nor counted make every count wrong.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Rig(Power::Cable), Need::Rig(Power::Pause)],
        run: in_a_ring_when_the_link_goes,
    },
    Case {
        name: "transmit.a_lost_device_says_so",
        clauses: &["T9"],
        about: "Takes the device away: within 1 s send, recv and wait say DeviceGone, and go on saying so; what was in the \
                burst is still there; close works.",
        why: "A deleted interface must become an error that the application can act on.",
        needs: &[Need::TwoWay, Need::CanVanish, Need::Rig(Power::Remove)],
        run: lost_device_says_so,
    },
    Case {
        name: "transmit.a_lost_device_is_seen_by_receiving_alone",
        clauses: &["T9"],
        about: "The same for a port that only polls recv and never waits nor sends.",
        why: "An empty queue and a queue whose device is gone look alike unless somebody looks.",
        needs: &[Need::CanVanish, Need::Rig(Power::Remove)],
        run: lost_device_seen_by_recv,
    },
];

fn lost_link_takes_nothing(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frame = frames::numbered(b.mac(), 1, 60);
    for round in 0..2 {
        ctx.wires().set_link(false)?;
        let lost = Instant::now();
        let mut refusals = 0;
        while refusals < 50 {
            let late = lost.elapsed() > Duration::from_millis(200);
            let accepted = a.offer(std::slice::from_ref(&frame))?;
            ensure!(accepted == 0 || !late, "accepted {:?} after the loss", lost.elapsed());
            ensure!(accepted == 0 || refusals == 0, "accepted again while the link is down");
            refusals += u32::from(late && accepted == 0);
            std::thread::sleep(Duration::from_millis(1));
        }
        ctx.wires().set_link(true)?;
        eventually("sending going on by itself", || {
            Ok((a.offer(std::slice::from_ref(&frame))? > 0).then_some(()))
        })?;
        b.port().control().wait_link_up(PATIENCE)?;
        // The first frames may meet a far end that is not ready yet.
        eventually("frames arriving again", || {
            a.offer(std::slice::from_ref(&frame))?;
            Ok((!b.take()?.is_empty()).then_some(()))
        })?;
        a.mark(&mut b, &mut Vec::new())?;
        let after = frames::run(b.mac(), 100, 60);
        ensure!(a.pass_to(&mut b, &after)? == after, "frames were lost after round {round}");
    }
    Ok(())
}

fn in_a_ring_when_the_link_goes(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let sent = frames::run(b.mac(), 20, 60);
    ctx.wires().pause(true)?;
    a.send(&sent)?;
    ctx.wires().set_link(false)?;
    // It is the link that holds them back now.
    ctx.wires().pause(false)?;
    b.hears_nothing()?;
    ctx.wires().set_link(true)?;
    b.port().control().wait_link_up(PATIENCE)?;
    let mut arrived = Vec::new();
    eventually("sending going on", || {
        let marker = frames::numbered(b.mac(), 999, 60);
        Ok((a.offer(&[marker])? > 0).then_some(()))
    })?;
    a.mark(&mut b, &mut arrived)?;
    arrived.pop();
    let counters = a.counters();
    match ctx.capability(End::A).link_loss {
        LinkLoss::Kept => {
            same!(arrived, sent, "what arrived when the link was back");
            same!(counters.tx_dropped.unwrap_or(0), 0, "frames counted as dropped");
        }
        _ => {
            ensure!(
                sent.ends_with(&arrived) || sent.starts_with(&arrived),
                "the order was changed"
            );
            let lost = (sent.len() - arrived.len()) as u64;
            same!(counters.tx_dropped, Some(lost), "frames counted as dropped");
        }
    }
    same!(counters.tx_packets, Some(arrived.len() as u64 + 2), "frames counted as sent");
    Ok(())
}

fn lost_device_says_so(ctx: &Ctx) -> Verdict {
    let (_a, mut b) = ctx.pair()?;
    let mut burst = b.burst(&frames::run(frames::GROUP, 3, 60))?;
    ctx.wires().remove(End::B)?;
    let lost = Instant::now();
    let bound = Duration::from_secs(1);
    let mut nothing = Burst::new();
    loop {
        // Only a call that began in time may not know it yet.
        let late = lost.elapsed() > bound;
        let results = [
            b.tx[0].send(&mut burst),
            b.rx[0].recv(&mut nothing),
            b.rx[0].wait(Duration::from_millis(1)).map(|_| 0),
        ];
        let known = results.iter().filter(|r| matches!(r, Err(Error::DeviceGone { .. }))).count();
        if known == results.len() {
            break;
        }
        ensure!(!late, "more than {bound:?} after the loss: {results:?}");
    }
    for _ in 0..3 {
        let before = burst.len();
        refused!(b.tx[0].send(&mut burst), Error::DeviceGone { .. }, "send");
        refused!(b.rx[0].recv(&mut nothing), Error::DeviceGone { .. }, "recv");
        refused!(b.rx[0].wait(PATIENCE), Error::DeviceGone { .. }, "wait");
        same!(burst.len(), before, "packets that are still the caller's");
    }
    let pool = b.pool().clone();
    drop((burst, nothing));
    b.close()?;
    same!(pool.free(), pool.capacity(), "frames that came back");
    let again = ctx.open(End::B, "");
    ensure!(again.is_err(), "a device that is gone was opened");
    Ok(())
}

fn lost_device_seen_by_recv(ctx: &Ctx) -> Verdict {
    let mut b = ctx.start(End::B, "")?;
    ctx.wires().remove(End::B)?;
    let lost = Instant::now();
    let mut burst = Burst::new();
    loop {
        let late = lost.elapsed() > Duration::from_secs(1);
        match b.rx[0].recv(&mut burst) {
            Ok(_) => ensure!(!late, "it is not noticed {:?} after the loss", lost.elapsed()),
            Err(Error::DeviceGone { .. }) => break,
            Err(other) => return Err(other.into()),
        }
    }
    b.close()
}
