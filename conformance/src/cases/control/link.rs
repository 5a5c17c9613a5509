//! M3: link state, speed, duplex.

use std::time::Duration;

use anyport::Error;

use crate::case::{Case, Need, Power, Verdict, refusal, tells};
use crate::ctx::{Ctx, End, PATIENCE, eventually};
use crate::own::Worker;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "control.link_is_noticed",
        clauses: &["M3", "T8"],
        about: "Takes the link down and up, three times, and asks both ends.",
        why: "Failover begins with knowing that the link is gone.",
        needs: &[Need::LinkState, Need::Rig(Power::Cable)],
        run: link_is_noticed,
    },
    Case {
        name: "control.link_of_a_stopped_port",
        clauses: &["M3"],
        about: "The same for ports that are open and not started.",
        why: "Whether a cable is plugged in is asked before a port is put to use.",
        needs: &[Need::LinkState, Need::Rig(Power::Cable)],
        run: link_when_stopped,
    },
    Case {
        name: "control.waiting_for_the_link",
        clauses: &["M3"],
        about: "Waits for a link that is up, one that stays down, and one that comes up while a thread waits.",
        why: "A program that starts at boot starts before the link is there.",
        needs: &[Need::LinkState, Need::Rig(Power::Cable)],
        run: waiting_for_the_link,
    },
    Case {
        name: "control.start_waits_for_the_link",
        clauses: &["M3", "L5"],
        about: "Stops and starts a port whose link is up, five times: it is up when start returns, and frames pass at once.",
        why: "Many cards lose their link when they start; what is sent meanwhile is lost, or waits.",
        needs: &[Need::TwoWay, Need::LinkState],
        run: start_waits,
    },
    Case {
        name: "control.link_is_the_devices",
        clauses: &["M3"],
        about: "Compares state, speed and duplex with what the device says to others, up and down.",
        why: "Who divides a rate by the link's speed must not divide by a guess.",
        needs: &[Need::LinkState, Need::Rig(Power::Settings), Need::Rig(Power::Cable)],
        run: link_is_the_devices,
    },
    Case {
        name: "control.speed_is_known_or_absent",
        clauses: &["M3", "S2"],
        about: "Reads speed and duplex of both ends, repeatedly, with traffic in between.",
        why: "Drivers say \"unknown\" by all ones or by 0; shown to people, that is 4,294,967,295 Mbit/s.",
        needs: &[Need::TwoWay],
        run: speed_is_sane,
    },
];

fn both_are(ctx: &Ctx, controls: &[anyport::Control; 2], up: bool) -> Verdict {
    for (end, control) in End::BOTH.into_iter().zip(controls) {
        eventually(&format!("up={up} at end {end:?}"), || {
            Ok((control.link()?.up == up).then_some(()))
        })?;
        ensure!(ctx.capability(end).link_state, "the case needs the link's state");
    }
    Ok(())
}

fn link_is_noticed(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let controls = [a.port().control(), b.port().control()];
    let frames = frames::run(b.mac(), 5, 60);
    for _ in 0..3 {
        both_are(ctx, &controls, true)?;
        ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost while the link was up");
        ctx.wires().set_link(false)?;
        both_are(ctx, &controls, false)?;
        ctx.wires().set_link(true)?;
        ctx.settle(&a, &b)?;
        // Whatever the ends have to say about it (an error is no part of that).
        a.take()?;
        b.take()?;
    }
    Ok(())
}

fn link_when_stopped(ctx: &Ctx) -> Verdict {
    let (a, b) = (ctx.open(End::A, "")?, ctx.open(End::B, "")?);
    let controls = [a.control(), b.control()];
    for up in [true, false, true, false, true] {
        ctx.wires().set_link(up)?;
        both_are(ctx, &controls, up)?;
    }
    Ok(())
}

fn start_waits(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for round in 0..5 {
        let restarted = if round % 2 == 0 { &mut a } else { &mut b };
        restarted.port_mut().stop()?;
        let queues = restarted.port_mut().start()?;
        (restarted.rx, restarted.tx) = (queues.rx, queues.tx);
        for side in [&a, &b] {
            same!(side.port().control().link()?.up, true, "round {round}: the link after start");
        }
        let frames = frames::run(b.mac(), 20, 60);
        same!(a.offer(&frames)?, 20, "round {round}: frames accepted after start");
        ensure!(b.receive(20)? == frames, "round {round}: frames were lost or changed");
    }
    Ok(())
}

fn waiting_for_the_link(ctx: &Ctx) -> Verdict {
    let port = ctx.open(End::A, "")?;
    let control = port.control();
    same!(control.wait_link_up(Duration::ZERO)?.up, true, "the link, which is up");
    ctx.wires().set_link(false)?;
    eventually("link-down", || Ok((!control.link()?.up).then_some(())))?;
    for timeout in [Duration::ZERO, Duration::from_millis(30)] {
        let error = refusal(control.wait_link_up(timeout), "a link that is down")?;
        let Error::Timeout { device, timeout: named, .. } = &error else {
            return Err(error.into());
        };
        same!((&**device, *named), (port.title(), timeout), "what the error names");
        tells(&error, &["link"])?;
    }
    let theirs = control.clone();
    let waiting = Worker::start(move || theirs.wait_link_up(PATIENCE))?;
    waiting.asleep()?;
    ctx.wires().set_link(true)?;
    same!(waiting.join()??.up, true, "the link that came up");
    Ok(())
}

fn link_is_the_devices(ctx: &Ctx) -> Verdict {
    let (a, b) = (ctx.open(End::A, "")?, ctx.open(End::B, "")?);
    for up in [true, false, true] {
        ctx.wires().set_link(up)?;
        both_are(ctx, &[a.control(), b.control()], up)?;
        for (end, port) in End::BOTH.into_iter().zip([&a, &b]) {
            same!(port.control().link()?, ctx.wires().link(end)?, "the link at end {end:?}");
        }
    }
    Ok(())
}

fn speed_is_sane(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let controls = [a.port().control(), b.port().control()];
    let read = || -> Verdict<Vec<_>> {
        let links = controls.iter().map(|control| Ok(control.link()?));
        let links: Vec<anyport::Link> = links.collect::<Verdict<_>>()?;
        Ok(links.iter().map(|link| (link.speed_mbps, link.full_duplex)).collect())
    };
    let first = read()?;
    for (speed, _) in &first {
        let sane = speed.is_none_or(|speed| (1..=10_000_000).contains(&speed));
        ensure!(sane, "a link of {speed:?} Mbit/s");
    }
    for _ in 0..5 {
        let frames = frames::run(b.mac(), 20, 60);
        ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost");
        same!(read()?, first, "speed and duplex of a link that has not changed");
    }
    Ok(())
}
