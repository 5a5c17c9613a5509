//! L2: one opener per device.

use std::sync::{Arc, Barrier};

use anyport::{Error, Port};

use crate::case::{Case, Need, Power, Verdict, refusal, tells};
use crate::ctx::{Ctx, End};
use crate::own::Worker;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.second_opener_is_refused",
        clauses: &["L2"],
        about: "Opens a device that this process has open already, stopped and started.",
        why: "Two programs on one device take each other's frames, and neither notices.",
        needs: &[],
        run: second_opener,
    },
    Case {
        name: "life.first_opener_is_not_disturbed",
        clauses: &["L2"],
        about: "Sends 300 frames while others try to open both ends, with other settings.",
        why: "A mistyped command must not take the traffic of a running program down.",
        needs: &[Need::TwoWay],
        run: first_is_undisturbed,
    },
    Case {
        name: "life.lock_ends_with_close_and_drop",
        clauses: &["L2", "L10"],
        about: "Closes and drops ports whose queues and handles live on, and opens the device again.",
        why: "A device that stays locked needs a restart of the program.",
        needs: &[],
        run: lock_ends,
    },
    Case {
        name: "life.one_of_many_openers_wins",
        clauses: &["L2"],
        about: "Opens a device from eight threads at the same moment.",
        why: "Services start side by side at boot.",
        needs: &[],
        run: one_wins,
    },
    Case {
        name: "life.busy_by_any_name",
        clauses: &["L2"],
        about: "Opens a device that is open by its other names and through the other backends that could drive it.",
        why: "Two backends on one device are as bad as two programs.",
        needs: &[Need::Rig(Power::Alias)],
        run: by_any_name,
    },
    Case {
        name: "life.busy_after_a_rename",
        clauses: &["L2"],
        about: "Renames a device that is open, and opens it by its new name.",
        why: "Interfaces are renamed at boot, while programs start.",
        needs: &[Need::Rig(Power::Rename)],
        run: after_a_rename,
    },
    Case {
        name: "life.busy_across_processes",
        clauses: &["L2"],
        about: "Opens a device that another process holds, and lets another process open one that this one holds.",
        why: "Who wants the device back has to know which process to end.",
        needs: &[Need::Rig(Power::Processes)],
        run: across_processes,
    },
];

/// Checks that a device cannot be opened by a spec, because process `pid` has it.
fn busy(ctx: &Ctx, spec: &str, pid: u32) -> Verdict {
    let error = refusal(ctx.registry().open(spec), &format!("opening {spec} again"))?;
    let Error::Busy { device, pid: holder } = &error else { return Err(error.into()) };
    let title = spec.parse::<anyport::Spec>()?.title();
    same!((&**device, *holder), (&*title, pid), "device and holder that the error names");
    tells(&error, &[&title, &pid.to_string()])
}

fn second_opener(ctx: &Ctx) -> Verdict {
    let spec = ctx.spec(End::A);
    let port = ctx.open(End::A, "")?;
    busy(ctx, &spec, std::process::id())?;
    port.close()?;
    let mut side = ctx.start(End::A, "")?;
    busy(ctx, &spec, std::process::id())?;
    side.port_mut().stop()?;
    // Stopped is not closed.
    busy(ctx, &spec, std::process::id())?;
    side.close()
}

fn first_is_undisturbed(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let (mac, max) = (b.mac(), b.port().control().max_frame());
    let settings = End::BOTH.map(|end| ctx.wires().settings(end).ok());
    let mut arrived = Vec::new();
    let all = frames::run(mac, 300, 60);
    for chunk in all.chunks(15) {
        arrived.extend(a.pass_to(&mut b, chunk)?);
        for end in End::BOTH {
            for keys in ["", "max_segments=1", "rx_queues=1,promiscuous=true"] {
                busy(ctx, &ctx.spec_with(end, keys), std::process::id())?;
            }
        }
    }
    ensure!(arrived == all, "{} of {} frames arrived, or changed", arrived.len(), all.len());
    let control = b.port().control();
    same!((control.mac()?, control.max_frame()), (mac, max), "address and maximum frame");
    same!(control.promiscuous(), false, "promiscuous mode");
    same!(End::BOTH.map(|end| ctx.wires().settings(end).ok()), settings, "the devices' settings");
    Ok(())
}

fn lock_ends(ctx: &Ctx) -> Verdict {
    let mut kept = Vec::new();
    for round in 0..4 {
        let (port, rx, tx, _) = ctx.start(End::A, "")?.into_parts();
        let (control, stats) = (port.control(), port.stats());
        match round % 2 {
            0 => port.close()?,
            _ => drop(port),
        }
        kept.push((rx, tx, control, stats));
    }
    ctx.start(End::A, "")?.close()?;
    drop(kept);
    Ok(())
}

fn one_wins(ctx: &Ctx) -> Verdict {
    const OPENERS: usize = 8;
    for _ in 0..10 {
        let gate = Arc::new(Barrier::new(OPENERS));
        let openers: Vec<Worker<anyport::Result<Port>>> = (0..OPENERS)
            .map(|_| {
                let (registry, spec, gate) =
                    (ctx.registry().clone(), ctx.spec(End::A), gate.clone());
                Worker::start(move || {
                    gate.wait();
                    registry.open(&spec)
                })
            })
            .collect::<Verdict<_>>()?;
        let results: Vec<_> = openers.into_iter().map(Worker::join).collect::<Verdict<_>>()?;
        same!(results.iter().filter(|result| result.is_ok()).count(), 1, "threads that opened it");
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            let own = std::process::id();
            ensure!(matches!(error, Error::Busy { pid, .. } if *pid == own), "a loser: {error}");
        }
    }
    Ok(())
}

fn by_any_name(ctx: &Ctx) -> Verdict {
    let port = ctx.open(End::A, "")?;
    let aliases = ctx.wires().aliases(End::A)?;
    ensure!(!aliases.is_empty(), "the rig has no other name for the device");
    for alias in &aliases {
        busy(ctx, alias, std::process::id())?;
    }
    port.close()?;
    for alias in &aliases {
        let port = ctx.registry().open(alias)?;
        busy(ctx, &ctx.spec(End::A), std::process::id())?;
        port.close()?;
    }
    Ok(())
}

fn after_a_rename(ctx: &Ctx) -> Verdict {
    let port = ctx.open(End::A, "")?;
    let before = ctx.spec(End::A);
    ctx.wires().rename(End::A)?;
    ensure!(ctx.spec(End::A) != before, "the rig did not rename the device");
    busy(ctx, &ctx.spec(End::A), std::process::id())?;
    port.close()?;
    Ok(ctx.open(End::A, "")?.close()?)
}

fn across_processes(ctx: &Ctx) -> Verdict {
    let spec = ctx.spec(End::A);
    let holder = ctx.helper(&["hold", &spec])?;
    holder.ready()?;
    busy(ctx, &spec, holder.pid())?;
    holder.finish()?;
    let port = ctx.open(End::A, "")?;
    let said = ctx.helper(&["open", &spec])?.line()?;
    let own = std::process::id().to_string();
    ensure!(said.starts_with("error") && said.contains(&own), "the other process said: {said}");
    port.close()?;
    same!(ctx.helper(&["open", &spec])?.line()?, "opened", "what the other process said then");
    Ok(())
}
