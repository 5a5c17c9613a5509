//! F1, F6: processes that die at a bad moment, and those that may not.

use std::time::Duration;

use anyport::{Error, Port};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, eventually};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "faults.kill_9_of_a_holder",
        clauses: &["F1", "L8", "L2"],
        about: "Kills a process that holds a started port; opens the device, compares its settings, passes traffic.",
        why: "Processes are killed for lack of memory, by impatient people, and by debuggers.",
        needs: &[Need::TwoWay, Need::Rig(Power::Processes)],
        run: kill_a_holder,
    },
    Case {
        name: "faults.kill_9_under_load",
        clauses: &["F1", "L8", "R2"],
        about: "Kills a process in the middle of sending without a pause; looks at every frame that came, and takes over.",
        why: "A frame that is half one and half the other, or a ring that nobody empties, outlives the sender.",
        needs: &[Need::TwoWay, Need::Rig(Power::Processes)],
        run: kill_under_load,
    },
    Case {
        name: "faults.kill_9_of_a_receiver",
        clauses: &["F1", "L8"],
        about: "Kills a process whose receive ring is full and nobody empties it; the sender goes on, and another takes over.",
        why: "As above, for the other direction: the sender must not notice.",
        needs: &[Need::TwoWay, Need::Rig(Power::Processes)],
        run: kill_a_receiver,
    },
    Case {
        name: "faults.kill_9_at_any_moment",
        clauses: &["F1", "L8"],
        about: "Kills processes 0 to 60 ms after they were started: while they open, start, hold, or have done nothing yet.",
        why: "Between two steps of opening a device there is always a state in which nobody wants to leave it.",
        needs: &[Need::TwoWay, Need::Rig(Power::Processes)],
        run: kill_at_any_moment,
    },
    Case {
        name: "faults.kill_9_with_settings_changed",
        clauses: &["F1", "L8", "M1", "M2"],
        about: "Kills a process that had changed address and maximum frame; the next open puts back what was found.",
        why: "An interface with somebody else's address, after a crash, is found by nobody for days.",
        needs: &[
            Need::SetMac,
            Need::SetMaxFrame,
            Need::Rig(Power::Processes),
            Need::Rig(Power::Settings),
        ],
        run: kill_with_settings_changed,
    },
    Case {
        name: "faults.kill_9_leaves_what_others_changed",
        clauses: &["F1", "L8"],
        about: "As above, but somebody else sets the interface after the crash; the next open leaves that alone.",
        why: "What an administrator has set since is not ours to put back.",
        needs: &[
            Need::SetMac,
            Need::SetMaxFrame,
            Need::Rig(Power::Processes),
            Need::Rig(Power::Settings),
        ],
        run: kill_and_set_otherwise,
    },
    Case {
        name: "faults.no_privilege_is_explained",
        clauses: &["F6"],
        about: "Opens and starts a port in a process without privileges: the error names the capability and the command that \
                grants it.",
        why: "It is the first thing that goes wrong for nearly everybody.",
        needs: &[Need::Rig(Power::Processes)],
        run: no_privilege,
    },
];

/// Opens an end that a dead process held; a bounded number of attempts is allowed (L8).
fn open_again(ctx: &Ctx, end: End) -> Verdict<Port> {
    eventually("opening the device again", || match ctx.open(end, "") {
        Ok(port) => Ok(Some(port)),
        Err(Error::Busy { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    })
}

fn start_again(ctx: &Ctx, end: End) -> Verdict<Side> {
    let (mut port, pool) = (open_again(ctx, end)?, ctx.pool(4096)?);
    port.attach(&pool)?;
    Side::start(port, pool)
}

/// The other end, started, and the device's settings then: on a pair that is one device to the kernel, what runs at one end may
/// take features from the other.
fn other_end(ctx: &Ctx) -> Verdict<(Side, Option<String>)> {
    let b = ctx.start(End::B, "")?;
    Ok((b, ctx.wires().settings(End::A).ok()))
}

/// Takes over from a dead process: settings and traffic are as if it had never been.
fn take_over(ctx: &Ctx, settings: &Option<String>, other: &mut Side) -> Verdict {
    let mut side = start_again(ctx, End::A)?;
    ctx.settle(&side, other)?;
    other.take()?;
    let there = frames::run(other.mac(), 20, 80);
    // What the dead process had sent may still come, before what is sent now.
    let mut arrived = side.pass_to(other, &there)?;
    arrived.retain(|frame| frame.len() != 60);
    ensure!(arrived == there, "frames were lost or changed");
    let back = frames::run(side.mac(), 20, 80);
    ensure!(
        other.pass_to(&mut side, &back)? == back,
        "frames were lost or changed on their way back"
    );
    side.close()?;
    same!(ctx.wires().settings(End::A).ok(), *settings, "the device's settings");
    Ok(())
}

fn kill_a_holder(ctx: &Ctx) -> Verdict {
    let (mut b, settings) = other_end(ctx)?;
    for keys in ["", "promiscuous=true"] {
        let keys = if ctx.capability(End::A).promiscuous { keys } else { "" };
        let holder = ctx.helper(&["hold", &ctx.spec_with(End::A, keys)])?;
        holder.ready()?;
        holder.kill()?;
        open_again(ctx, End::A)?.close()?;
        same!(ctx.wires().settings(End::A).ok(), settings, "the device's settings");
        take_over(ctx, &settings, &mut b)?;
    }
    Ok(())
}

fn kill_under_load(ctx: &Ctx) -> Verdict {
    let (mut b, settings) = other_end(ctx)?;
    let to = b.mac();
    for _ in 0..3 {
        let flood = ctx.helper(&["flood", &ctx.spec(End::A), &to.to_string()])?;
        flood.ready()?;
        let mut arrived = b.receive(2000)?;
        flood.kill()?;
        arrived.extend(b.take()?);
        let mut next = 0;
        for frame in &arrived {
            let number = frames::number(frame).ok_or("a frame that nobody sent came")?;
            ensure!(number >= next, "frame {number} came after frame {}", next - 1);
            ensure!(*frame == frames::numbered(to, number, 60), "frame {number} was changed");
            next = number + 1;
        }
        take_over(ctx, &settings, &mut b)?;
    }
    Ok(())
}

fn kill_a_receiver(ctx: &Ctx) -> Verdict {
    let mac = ctx.open(End::A, "")?.control().mac()?;
    let (mut b, settings) = other_end(ctx)?;
    for _ in 0..2 {
        let holder = ctx.helper(&["hold", &ctx.spec(End::A)])?;
        holder.ready()?;
        b.port().control().wait_link_up(crate::PATIENCE)?;
        for _ in 0..10 {
            b.send(&frames::run(mac, 500, 60))?;
        }
        holder.kill()?;
        b.send(&frames::run(mac, 100, 60))?;
        take_over(ctx, &settings, &mut b)?;
    }
    same!(b.counters().tx_dropped, Some(0), "the sender's drops");
    Ok(())
}

fn kill_at_any_moment(ctx: &Ctx) -> Verdict {
    let (mut b, settings) = other_end(ctx)?;
    let to = b.mac().to_string();
    for moment in [0, 1, 3, 5, 8, 12, 20, 30, 60] {
        let flood = ctx.helper(&["flood", &ctx.spec(End::A), &to])?;
        // Any moment will do; they differ from run to run, and all must do.
        std::thread::sleep(Duration::from_millis(moment));
        flood.kill()?;
        open_again(ctx, End::A)?.close()?;
        same!(ctx.wires().settings(End::A).ok(), settings, "settings after {moment} ms");
    }
    take_over(ctx, &settings, &mut b)
}

/// Kills a process that has changed all that can be changed for good.
fn kill_a_changer(ctx: &Ctx) -> Verdict {
    let max = ctx.capability(End::A).default_max_frame - 100;
    let keys = format!("mac=02:00:00:11:22:33,max_frame={max}");
    let before = ctx.wires().settings(End::A)?;
    let holder = ctx.helper(&["hold", &ctx.spec_with(End::A, &keys)])?;
    holder.ready()?;
    ensure!(ctx.wires().settings(End::A)? != before, "no setting of the device has changed");
    holder.kill()
}

fn kill_with_settings_changed(ctx: &Ctx) -> Verdict {
    let before = ctx.wires().settings(End::A)?;
    let found = ctx.open(End::A, "")?.control().mac()?;
    for _ in 0..2 {
        kill_a_changer(ctx)?;
        let port = open_again(ctx, End::A)?;
        same!(port.control().mac()?, found, "the address when opened again");
        let max = ctx.capability(End::A).default_max_frame;
        same!(port.capability().default_max_frame, max, "the device's own maximum frame");
        port.close()?;
        same!(ctx.wires().settings(End::A)?, before, "the device's settings");
    }
    // And without a crash nothing is put back that nobody left behind.
    open_again(ctx, End::A)?.close()?;
    same!(ctx.wires().settings(End::A)?, before, "the device's settings");
    Ok(())
}

fn kill_and_set_otherwise(ctx: &Ctx) -> Verdict {
    kill_a_changer(ctx)?;
    ctx.wires().reset(End::A)?;
    let set = ctx.wires().settings(End::A)?;
    open_again(ctx, End::A)?.close()?;
    same!(ctx.wires().settings(End::A)?, set, "settings that somebody made after the crash");
    Ok(())
}

fn no_privilege(ctx: &Ctx) -> Verdict {
    let settings = ctx.wires().settings(End::A).ok();
    let said = ctx.helper(&["bare", &ctx.spec(End::A)])?.line()?;
    ensure!(said.starts_with("error"), "without privileges the other process said: {said}");
    ensure!(
        said.contains(&ctx.parsed(End::A).title()),
        "the error does not name the device: {said}"
    );
    ensure!(said.contains("CAP_"), "the error does not name the capability: {said}");
    let command = said.contains("setcap ") || said.contains("sudo ");
    ensure!(command, "the error does not say by which command to get it: {said}");
    same!(ctx.wires().settings(End::A).ok(), settings, "the device's settings");
    // Nothing was left behind.
    ctx.start(End::A, "")?.close()
}
