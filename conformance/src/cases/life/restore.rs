//! L8: close, drop and panic leave the device as it was found.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use anyport::{Error, MacAddr, Port};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::own::Worker;
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.address_is_set_back",
        clauses: &["L8", "M1"],
        about: "Sets the MAC address by key and at run time, closes or drops the port, and opens it again.",
        why: "A machine whose address changes for good falls out of its network.",
        needs: &[Need::SetMac],
        run: address_is_set_back,
    },
    Case {
        name: "life.max_frame_is_set_back",
        clauses: &["L8", "M2"],
        about: "Changes the maximum frame, closes or drops the port, and opens it again.",
        why: "An MTU that stays changed breaks the host's own connections later.",
        needs: &[Need::SetMaxFrame],
        run: max_frame_is_set_back,
    },
    Case {
        name: "life.promiscuous_mode_is_switched_off",
        clauses: &["L8", "R6"],
        about: "Switches promiscuous mode on, closes or drops the port, and opens it again.",
        why: "An interface that stays promiscuous costs its host every foreign frame.",
        needs: &[Need::TwoWay, Need::Promiscuous],
        run: promiscuous_is_off,
    },
    Case {
        name: "life.settings_as_found",
        clauses: &["L8"],
        about: "Changes all that can be changed, passes traffic, closes or drops, and compares the device from outside.",
        why: "What a port leaves behind is somebody else's riddle.",
        needs: &[Need::TwoWay, Need::Rig(Power::Settings)],
        run: settings_as_found,
    },
    Case {
        name: "life.panic_gives_the_device_back",
        clauses: &["L8", "L2"],
        about: "A thread that has the port and everything changed panics; another one of its threads waits for frames.",
        why: "A bug in an application must not need a reboot.",
        needs: &[],
        run: panic_gives_back,
    },
    Case {
        name: "life.close_while_the_link_is_down",
        clauses: &["L8"],
        about: "Closes both ports while their link is down, opens and starts them again, and brings the link up.",
        why: "Programs are restarted just when the network is broken.",
        needs: &[Need::TwoWay, Need::LinkState, Need::Rig(Power::Cable)],
        run: close_while_down,
    },
];

const OTHER: MacAddr = MacAddr([2, 0, 0, 0x11, 0x22, 0x33]);

/// The two ways to give a port up.
fn give_up(round: usize, port: Port) -> Verdict {
    match round % 2 {
        0 => port.close()?,
        _ => drop(port),
    }
    Ok(())
}

fn address_is_set_back(ctx: &Ctx) -> Verdict {
    let found = ctx.open(End::A, "")?.control().mac()?;
    for round in 0..6 {
        let keys = if round < 2 { format!("mac={OTHER}") } else { String::new() };
        let side = ctx.start(End::A, &keys)?;
        if round >= 2 {
            side.port().control().set_mac(OTHER)?;
        }
        if round >= 4 {
            // The last one set is not the one to go back to.
            side.port().control().set_mac(MacAddr([2, 0, 0, 0x44, 0x55, 0x66]))?;
        }
        ensure!(side.port().control().mac()? != found, "round {round}: the address was not set");
        give_up(round, side.into_parts().0)?;
        let now = ctx.open(End::A, "")?.control().mac()?;
        same!(now, found, "round {round}: the address after that");
    }
    Ok(())
}

fn max_frame_is_set_back(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    let found = capability.default_max_frame;
    for (round, other) in [capability.min_max_frame, 1000, 1400, 1600].into_iter().enumerate() {
        if !(capability.min_max_frame..=capability.max_frame).contains(&other) {
            continue;
        }
        let side = ctx.start(End::A, &format!("max_frame={other}"))?;
        same!(side.port().control().max_frame(), other, "the maximum frame in force");
        give_up(round, side.into_parts().0)?;
        let port = ctx.open(End::A, "")?;
        same!(port.capability().default_max_frame, found, "the device's own maximum frame");
        same!(port.control().max_frame(), found, "the maximum frame in force after that");
    }
    Ok(())
}

fn promiscuous_is_off(ctx: &Ctx) -> Verdict {
    let mut a = ctx.start(End::A, "")?;
    let foreign = frames::run(frames::STRANGER, 5, 60);
    for round in 0..4 {
        let keys = if round < 2 { "promiscuous=true" } else { "" };
        let mut b = ctx.start(End::B, keys)?;
        b.port().control().set_promiscuous(true)?;
        ctx.settle(&a, &b)?;
        ensure!(a.pass_to(&mut b, &foreign)? == foreign, "promiscuous mode is not on");
        give_up(round, b.into_parts().0)?;
        let mut b = ctx.start(End::B, "")?;
        ctx.settle(&a, &b)?;
        same!(b.port().control().promiscuous(), false, "promiscuous mode after that");
        same!(a.pass_to(&mut b, &foreign)?.len(), 0, "foreign frames that came after that");
    }
    Ok(())
}

/// A started port with all that it can change changed.
fn changed(ctx: &Ctx, end: End) -> Verdict<Side> {
    let capability = ctx.capability(end);
    let mut keys = Vec::new();
    if capability.set_max_frame {
        keys.push(format!("max_frame={}", capability.default_max_frame - 100));
    }
    let side = ctx.start(end, &keys.join(","))?;
    let control = side.port().control();
    if capability.set_mac {
        control.set_mac(OTHER)?;
    }
    if capability.promiscuous {
        control.set_promiscuous(true)?;
    }
    Ok(side)
}

fn settings_as_found(ctx: &Ctx) -> Verdict {
    let untouched = End::BOTH.map(|end| ctx.wires().settings(end));
    let mut a = ctx.start(End::A, "")?;
    // On a pair that is one device to the kernel, what runs at one end may take features from the other.
    let found = ctx.wires().settings(End::B)?;
    for round in 0..2 {
        let mut b = changed(ctx, End::B)?;
        let capability = ctx.capability(End::B);
        if capability.set_mac || capability.set_max_frame {
            ensure!(ctx.wires().settings(End::B)? != found, "no setting of the device has changed");
        }
        ctx.settle(&a, &b)?;
        let to = b.port().control().mac()?;
        let frames = frames::run(to, 20, 60);
        ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost or changed");
        give_up(round, b.into_parts().0)?;
        same!(ctx.wires().settings(End::B)?, found, "round {round}: settings after that");
    }
    a.close()?;
    for (end, untouched) in End::BOTH.into_iter().zip(untouched) {
        same!(ctx.wires().settings(end)?, untouched?, "settings at end {end:?} with both closed");
    }
    Ok(())
}

fn panic_gives_back(ctx: &Ctx) -> Verdict {
    let found = ctx.open(End::A, "")?.control().mac()?;
    let settings = ctx.wires().settings(End::A).ok();
    let mut side = changed(ctx, End::A)?;
    let mut rx = side.rx.remove(0);
    let waiting = Worker::start(move || rx.wait(Duration::from_secs(3600)))?;
    waiting.asleep()?;
    let packet = side.packet(&[0; 60])?;
    let pool = side.pool().clone();
    let panicking = Worker::start(move || {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _held = (side, packet);
            // As a panic unwinds, without its message on the suite's terminal.
            resume_unwind(Box::new("the application's bug"));
        }));
        unwound.is_err()
    })?;
    ensure!(panicking.join()?, "the thread did not panic");
    crate::refused!(waiting.join()?, Error::Closed, "the wait in another thread");
    same!(pool.free(), pool.capacity(), "frames in the pool");
    same!(ctx.wires().settings(End::A).ok(), settings, "the device's settings");
    let side = ctx.start(End::A, "")?;
    same!(side.mac(), found, "the address");
    side.close()
}

fn close_while_down(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frames = frames::run(b.mac(), 20, 60);
    for round in 0..2 {
        ensure!(a.pass_to(&mut b, &frames)? == frames, "round {round}: frames were lost");
        ctx.wires().set_link(false)?;
        give_up(round, a.into_parts().0)?;
        give_up(round, b.into_parts().0)?;
        (a, b) = (ctx.start(End::A, "")?, ctx.start(End::B, "")?);
        for side in [&a, &b] {
            same!(side.port().control().link()?.up, false, "the link of a port opened meanwhile");
        }
        ctx.wires().set_link(true)?;
        ctx.settle(&a, &b)?;
    }
    ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost or changed");
    Ok(())
}
