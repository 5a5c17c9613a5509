//! L4 and L5: what a port may do in which state, and that starting again is starting.

use anyport::Error;

use crate::case::{Case, Need, Power, Verdict, refusal, tells};
use crate::ctx::{Ctx, End};
use crate::side::Side;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.opens_stopped",
        clauses: &["L4", "L7"],
        about: "Sends frames to a port that is open and not started, starts it, and sends one more.",
        why: "A program that sets things up between open and start gets no frame before it is ready.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: opens_stopped,
    },
    Case {
        name: "life.open_changes_nothing",
        clauses: &["L4", "L8"],
        about: "Opens, starts, stops and closes a device without any key and compares its settings, offload switches \
                included, with what was before; while it is started, all but those that starting may change.",
        why: "Looking at a device must not reconfigure it; the host may be using it with shared=true.",
        needs: &[Need::Rig(crate::Power::Settings)],
        run: open_changes_nothing,
    },
    Case {
        name: "life.start_needs_a_pool",
        clauses: &["L4"],
        about: "Starts a port that has no pool, then attaches one and starts it.",
        why: "The error says what is missing, and the port is as good as before.",
        needs: &[],
        run: start_needs_a_pool,
    },
    Case {
        name: "life.started_port_is_not_reconfigured",
        clauses: &["L4"],
        about: "Configures, attaches to and starts a started port, and passes frames all the while.",
        why: "Queues in use cannot be exchanged underneath their threads.",
        needs: &[Need::TwoWay],
        run: started_is_not_reconfigured,
    },
    Case {
        name: "life.stop_when_stopped",
        clauses: &["L4", "L5"],
        about: "Stops a port before it was started, and twice after.",
        why: "Code that cleans up does not want to know how far it got.",
        needs: &[],
        run: stop_when_stopped,
    },
    Case {
        name: "life.restart_passes_and_counts_on",
        clauses: &["L5", "S3"],
        about: "Stops and starts both ends in turn, ten times, with frames both ways in between; adds up the counters.",
        why: "A program reconfigures by stop and start; its statistics must not begin anew.",
        needs: &[Need::TwoWay],
        run: restart_passes,
    },
    Case {
        name: "life.restart_with_other_settings",
        clauses: &["L4", "L5", "R6"],
        about: "Stops, configures promiscuous mode, starts, and sees foreign frames; then back again.",
        why: "What is configured while stopped has to be in force after the start.",
        needs: &[Need::TwoWay, Need::Promiscuous],
        run: restart_with_other_settings,
    },
    Case {
        name: "life.restart_with_other_queues",
        clauses: &["L5", "Q1", "S3"],
        about: "Starts with two queues, one, and two, passes frames each time, and compares the counters.",
        why: "Scaling up and down must not lose a queue's count or its frames.",
        needs: &[Need::TwoWay, Need::Queues(2)],
        run: restart_with_other_queues,
    },
];

fn opens_stopped(ctx: &Ctx) -> Verdict {
    let mut a = ctx.start(End::A, "")?;
    let pool = ctx.pool(1024)?;
    let mut port = ctx.open(End::B, "")?;
    port.attach(&pool)?;
    let to = port.control().mac()?;
    a.send(&frames::run(to, 20, 60))?;
    let mut b = Side::start(port, pool)?;
    ctx.settle(&a, &b)?;
    let frames = frames::run(to, 3, 100);
    let arrived = a.pass_to(&mut b, &frames)?;
    ensure!(arrived == frames, "{} frames came, 3 were sent after the start", arrived.len());
    same!(b.counters().rx_dropped(), 0, "drops");
    Ok(())
}

fn open_changes_nothing(ctx: &Ctx) -> Verdict {
    let before = ctx.wires().settings(End::A)?;
    let pool = ctx.pool(64)?;
    let mut port = ctx.open(End::A, "")?;
    same!(ctx.wires().settings(End::A)?, before, "settings of the open device");
    port.attach(&pool)?;
    let mut side = Side::start(port, pool)?;
    // All multicast is delivered (R6), which a kernel may show; and what puts segments together may be off (R2).
    let started = ctx.wires().settings(End::A)?;
    for setting in ["address", "mtu", "flags", "promiscuity", "qdisc"] {
        let of = |all: &str| {
            all.split(' ').find(|one| one.split('=').next() == Some(setting)).map(str::to_owned)
        };
        same!(of(&started), of(&before), "a setting of the started device");
    }
    side.port_mut().stop()?;
    same!(ctx.wires().settings(End::A)?, before, "settings of the stopped device");
    side.restart()?;
    side.close()?;
    same!(ctx.wires().settings(End::A)?, before, "settings of the closed device");
    Ok(())
}

fn start_needs_a_pool(ctx: &Ctx) -> Verdict {
    let mut port = ctx.open(End::A, "")?;
    let error = refusal(port.start(), "a start without a pool")?;
    ensure!(matches!(error, Error::State { operation: "start", .. }), "no pool: {error}");
    tells(&error, &[port.title(), "attach a pool"])?;
    port.attach(&ctx.pool(64)?)?;
    let queues = port.start()?;
    same!((queues.rx.len(), queues.tx.len()), (1, 1), "queues");
    Ok(())
}

fn started_is_not_reconfigured(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let config = b.port().config();
    let mut other = config.clone();
    other.max_segments = ctx.capability(End::B).max_segments;
    let pool = ctx.pool(64)?;
    for wanted in [other, config.clone()] {
        let error = refusal(b.port_mut().configure(wanted), "a configuration while started")?;
        ensure!(matches!(error, Error::State { state: "started", .. }), "configure: {error}");
        tells(&error, &[b.port().title(), "stop it first"])?;
        refused!(b.port_mut().attach(&pool), Error::State { .. }, "attaching while started");
        refused!(b.port_mut().start(), Error::State { .. }, "starting twice");
        let frames = frames::run(b.mac(), 20, 60);
        ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost or changed");
    }
    same!(b.port().config(), config, "the configuration in force");
    same!(b.port().pools().len(), 1, "attached pools");
    Ok(())
}

fn stop_when_stopped(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(64)?;
    let mut port = ctx.open(End::A, "")?;
    port.stop()?;
    port.attach(&pool)?;
    for _ in 0..2 {
        let queues = port.start()?;
        port.stop()?;
        port.stop()?;
        drop(queues);
    }
    // Stopped, so everything is allowed again.
    port.configure(port.config())?;
    port.attach(&pool)?;
    drop(port.start()?);
    Ok(port.close()?)
}

fn restart_passes(ctx: &Ctx) -> Verdict {
    const ROUNDS: u64 = 10;
    let (mut a, mut b) = ctx.pair()?;
    for round in 0..ROUNDS {
        let there = frames::run(b.mac(), 19, 60);
        ensure!(a.pass_to(&mut b, &there)? == there, "round {round}: frames were lost or changed");
        let back = frames::run(a.mac(), 19, 100);
        ensure!(b.pass_to(&mut a, &back)? == back, "round {round}: frames were lost or changed");
        match round % 2 {
            0 => a.restart()?,
            _ => b.restart()?,
        }
    }
    // 19 frames and a marker of 60 bytes a round each way.
    for (side, rx, tx) in [(&a, 1960, 1200), (&b, 1200, 1960)] {
        let counters = side.counters();
        same!(counters.rx_packets, Some(ROUNDS * 20), "rx_packets");
        same!(counters.tx_packets, Some(ROUNDS * 20), "tx_packets");
        same!(counters.rx_bytes, Some(ROUNDS * rx), "rx_bytes");
        same!(counters.tx_bytes, Some(ROUNDS * tx), "tx_bytes");
        same!((counters.rx_dropped(), counters.tx_dropped), (0, Some(0)), "drops");
    }
    Ok(())
}

fn restart_with_other_settings(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for promiscuous in [true, false, true] {
        b.port_mut().stop()?;
        let mut config = b.port().config();
        config.promiscuous = promiscuous;
        b.port_mut().configure(config)?;
        b.restart()?;
        let foreign = frames::run(frames::STRANGER, 5, 60);
        let expected = if promiscuous { foreign.clone() } else { Vec::new() };
        ensure!(a.pass_to(&mut b, &foreign)? == expected, "promiscuous={promiscuous} is not kept");
    }
    Ok(())
}

fn restart_with_other_queues(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("queues=2", "queues=2")?;
    for (round, queues) in [2u16, 1, 2].into_iter().enumerate() {
        for side in [&mut a, &mut b] {
            side.port_mut().stop()?;
            let mut config = side.port().config();
            config.queues = Some(queues);
            side.port_mut().configure(config)?;
            side.restart()?;
            same!((side.rx.len(), side.tx.len()), (queues.into(), queues.into()), "queues");
        }
        // What is not IP has no flow: it goes to one queue, the first.
        let frames = frames::run(b.mac(), 49, 60);
        ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost or changed");
        let (sent, received) = (a.counters().tx_packets, b.counters().rx_packets);
        let expected = Some(50 * (round as u64 + 1));
        same!((sent, received), (expected, expected), "tx_packets and rx_packets");
    }
    let all = b.port().stats().read();
    let sum: u64 = all.rx_queues.iter().filter_map(|queue| queue.rx_packets).sum();
    same!((sum, all.rx_queues.len()), (150, 2), "the sum over the queues, and their number");
    Ok(())
}
