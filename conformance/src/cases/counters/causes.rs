//! S4: every drop has one named cause, and a frame is counted once.

use anyport::{Burst, Counters, Pool};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "counters.one_cause_for_a_full_ring",
        clauses: &["S4", "R8"],
        about: "Sends more than the smallest ring takes: sent less delivered is the sum over all causes.",
        why: "Who sees one lost frame in two counters looks for two faults.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: full_ring,
    },
    Case {
        name: "counters.one_cause_for_a_dry_pool",
        clauses: &["S4", "R7"],
        about: "Sends more than the pool has frames for: the same.",
        why: "The cause says what to do: more frames in the pool, or a larger ring.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: dry_pool,
    },
    Case {
        name: "counters.one_cause_for_long_frames",
        clauses: &["S4", "R4"],
        about: "Sends frames that are too long among others: they count under their name and no other.",
        why: "The cause says what to do: here, at the sender, and not in this program.",
        needs: &[Need::TwoWay, Need::ExactDrops, Need::SetMaxFrame, Need::MaxFrame(2200)],
        run: long_frames,
    },
    Case {
        name: "counters.filtered_is_no_drop",
        clauses: &["S4", "R6", "S2"],
        about: "Sends foreign frames among others: they are counted as filtered, all of them, or that counter is absent.",
        why: "Other people's frames are no loss of one's own.",
        needs: &[Need::TwoWay],
        run: filtered_is_no_drop,
    },
    Case {
        name: "counters.one_cause_for_all_at_once",
        clauses: &["S4", "R8"],
        about: "Everything at once: foreign and long frames through a ring and a pool that are too small.",
        why: "Causes meet in practice, and a frame with two of them is still one frame.",
        needs: &[Need::TwoWay, Need::ExactDrops, Need::SetMaxFrame, Need::MaxFrame(2200)],
        run: all_at_once,
    },
    Case {
        name: "counters.stop_is_the_cause_of_its_drops",
        clauses: &["S4", "L6", "S1"],
        about: "Stops a port whose frames are held back, twice: tx_dropped is what did not leave, tx_packets what did.",
        why: "As above, for the sending side.",
        needs: &[Need::TwoWay, Need::Rig(Power::Pause)],
        run: stop_is_the_cause,
    },
];

/// The causes for which frames were dropped on receive.
fn causes(counters: &Counters) -> Vec<(&'static str, u64)> {
    const CAUSES: [&str; 5] =
        ["rx_too_long", "rx_too_short", "rx_no_buffer", "rx_ring_full", "rx_errors"];
    counters.iter().filter(|(name, value)| CAUSES.contains(name) && *value != 0).collect()
}

/// Takes what is there, and frames after it to be sure that nothing is on its way; how many were delivered in all.
fn settle(a: &mut Side, b: &mut Side) -> Verdict<u64> {
    b.take()?;
    a.mark(b, &mut Vec::new())?;
    b.counters().rx_packets.ok_or_else(|| "rx_packets is absent".into())
}

fn full_ring(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(2048)?;
    overrun(ctx, &pool, &ctx.pool(2048)?)?;
    // And with one pool for both ends, whose frames may change hands.
    overrun(ctx, &pool, &pool)
}

/// Sends more than the smallest ring takes.
fn overrun(ctx: &Ctx, pool_a: &Pool, pool_b: &Pool) -> Verdict {
    let ring = ctx.capability(End::B).rx_ring.min;
    let mut a = ctx.start_with(End::A, "", pool_a)?;
    let mut b = ctx.start_with(End::B, &format!("rx_ring={ring}"), pool_b)?;
    ctx.settle(&a, &b)?;
    let frames = frames::run(b.mac(), 800, 60);
    for round in 1..=3 {
        a.send(&frames)?;
        let delivered = settle(&mut a, &mut b)?;
        let (counters, sent) = (b.counters(), round * 801);
        let lost = sent - delivered;
        ensure!(lost > 0, "800 frames found room in a ring of the smallest size");
        same!(causes(&counters), [("rx_ring_full", lost)], "causes of {lost} lost frames");
        same!(counters.rx_dropped(), lost, "their sum");
        same!(a.counters().tx_dropped, Some(0), "the sender's drops");
    }
    Ok(())
}

fn dry_pool(ctx: &Ctx) -> Verdict {
    let ring = ctx.capability(End::B).rx_ring;
    let size = ring.max.min(1024);
    // Frames for the ring, where it holds some while empty, and a few for the application.
    let pool = ctx.pool(size + 64)?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, &format!("rx_ring={size}"), &pool)?;
    ctx.settle(&a, &b)?;
    let total = pool.capacity() + 500;
    let frames = frames::run(b.mac(), total as u32, 60);
    let mut held = Burst::with_capacity(total);
    for chunk in frames.chunks(16) {
        a.send(chunk)?;
        b.rx[0].recv(&mut held)?;
    }
    b.rx[0].recv(&mut held)?;
    ensure!(held.len() <= pool.capacity(), "more frames are held than the pool has");
    held.clear();
    let delivered = settle(&mut a, &mut b)?;
    let (counters, lost) = (b.counters(), total as u64 + 1 - delivered);
    ensure!(lost > 0, "no frame was lost for lack of a pool frame");
    same!(counters.rx_dropped(), lost, "the sum over all causes of {lost} lost frames");
    let dry = counters.rx_no_buffer;
    ensure!(dry > Some(0), "none counts as lost for lack of a pool frame: {:?}", causes(&counters));
    Ok(())
}

/// A sender for longer frames than the receiver takes.
fn unequal(ctx: &Ctx, keys: &str) -> Verdict<(Side, Side, usize)> {
    let max = ctx.capability(End::B).default_max_frame;
    let pool = ctx.pool_for(1024, max + 600)?;
    let a = ctx.start_with(End::A, &format!("max_frame={}", max + 600), &pool)?;
    let b = ctx.start(End::B, keys)?;
    ctx.settle(&a, &b)?;
    Ok((a, b, max))
}

fn long_frames(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, max) = unequal(ctx, "")?;
    let good = frames::run(b.mac(), 30, max);
    for round in 1..=3 {
        let mixed: Vec<_> = good
            .iter()
            .flat_map(|frame| [frame.clone(), frames::numbered(b.mac(), 9, max + 1 + round % 4)])
            .collect();
        ensure!(a.pass_to(&mut b, &mixed)? == good, "other frames than the good ones came");
        let lost = 30 * round as u64;
        same!(causes(&b.counters()), [("rx_too_long", lost)], "causes of {lost} lost frames");
    }
    Ok(())
}

fn filtered_is_no_drop(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let good = frames::run(b.mac(), 50, 60);
    let foreign = frames::run(frames::STRANGER, 50, 60);
    let mixed: Vec<_> =
        good.iter().zip(&foreign).flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
    ensure!(a.pass_to(&mut b, &mixed)? == good, "other frames than the good ones came");
    let counters = b.counters();
    same!(causes(&counters), [], "causes of drops");
    same!(counters.rx_filtered.unwrap_or(50), 50, "rx_filtered");
    same!((counters.rx_packets, counters.rx_bytes), (Some(51), Some(51 * 60)), "received");
    Ok(())
}

fn all_at_once(ctx: &Ctx) -> Verdict {
    // Room for some of each kind.
    let sizes = ctx.capability(End::B).rx_ring;
    let ring = 8.clamp(sizes.min, sizes.max);
    let (mut a, mut b, max) = unequal(ctx, &format!("rx_ring={ring}"))?;
    let to = b.mac();
    let mut held = Burst::with_capacity(200);
    let mut sent = 0;
    for number in 0..300 {
        let good = frames::numbered(to, number, 60 + number as usize);
        let long = frames::numbered(to, number, max + 1);
        a.send(&[good.clone(), long, frames::numbered(frames::STRANGER, number, 60), good])?;
        sent += 3;
        if number % 7 == 0 {
            b.rx[0].recv(&mut held)?;
        }
    }
    held.clear();
    let delivered = settle(&mut a, &mut b)?;
    let (counters, lost) = (b.counters(), sent + 1 - delivered);
    let causes = causes(&counters);
    same!(counters.rx_dropped(), lost, "the sum over all causes ({causes:?})");
    let names: Vec<_> = causes.iter().map(|(name, _)| *name).collect();
    same!(names, ["rx_too_long", "rx_ring_full"], "the causes");
    // A foreign frame that found the ring full was filtered before or after that: it is no drop.
    same!(counters.rx_filtered.unwrap_or(300), 300, "rx_filtered");
    Ok(())
}

fn stop_is_the_cause(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for round in 1..=2u64 {
        let good = frames::run(b.mac(), 9, 200);
        ensure!(a.pass_to(&mut b, &good)? == good, "frames were lost or changed");
        ctx.wires().pause(true)?;
        a.send(&frames::run(b.mac(), 5, 100))?;
        a.port_mut().stop()?;
        ctx.wires().pause(false)?;
        let counters = a.counters();
        let dropped = (counters.tx_dropped, counters.tx_dropped_bytes);
        same!(dropped, (Some(5 * round), Some(500 * round)), "tx_dropped and its bytes");
        let sent = (counters.tx_packets, counters.tx_bytes);
        same!(sent, (Some(10 * round), Some(1860 * round)), "tx_packets and tx_bytes");
        a.restart()?;
        ctx.settle(&a, &b)?;
    }
    same!(b.counters().rx_packets, Some(20), "frames that arrived");
    Ok(())
}
