//! S1: frames and bytes, to the last one.

use anyport::packet::TxRequests;

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "counters.exact_both_ways",
        clauses: &["S1"],
        about: "Passes 700 frames of all kinds of lengths one way and 300 the other, and adds up.",
        why: "Billing, alarms and tests go by these numbers.",
        needs: &[Need::TwoWay],
        run: exact_both_ways,
    },
    Case {
        name: "counters.padding_counts_and_fcs_does_not",
        clauses: &["S1", "T5"],
        about: "Sends frames of 14 to 61 bytes, also from a pool that is not attached, and compares the bytes counted at \
                both ends.",
        why: "Two ends of a wire that count differently are taken for loss.",
        needs: &[Need::TwoWay],
        run: padding_counts,
    },
    Case {
        name: "counters.tags_count",
        clauses: &["S1", "M2"],
        about: "Sends tagged frames of the maximum, and ones that the port inserts the tag into.",
        why: "Two ends of a wire that count differently are taken for loss.",
        needs: &[Need::TwoWay],
        run: tags_count,
    },
    Case {
        name: "counters.agree_with_a_witness",
        clauses: &["S1"],
        about: "Passes frames both ways and compares with what somebody who is not anyport counted at both ends.",
        why: "Numbers that differ from those of the kernel or the switch are worth nothing in an argument.",
        needs: &[Need::TwoWay, Need::Rig(Power::Witness)],
        run: agree_with_a_witness,
    },
    Case {
        name: "counters.refused_frames_do_not_count",
        clauses: &["S1", "T4"],
        about: "Offers frames that are too short and too long, and frames that are not taken from the burst.",
        why: "What was never accepted was never sent, and is no drop either.",
        needs: &[Need::TwoWay],
        run: refused_do_not_count,
    },
    Case {
        name: "counters.undelivered_frames_do_not_count",
        clauses: &["S1", "R10"],
        about: "Lets frames lie while it waits for them, and counts before and after it receives them.",
        why: "rx_packets is what the application got, not what lay somewhere.",
        needs: &[Need::TwoWay],
        run: undelivered_do_not_count,
    },
    Case {
        name: "counters.chains_count_once",
        clauses: &["S1"],
        about: "Passes frames of several segments.",
        why: "A jumbo frame is one frame, in however many pieces it lies.",
        needs: &[Need::TwoWay, Need::SetMaxFrame, Need::MaxFrame(5000), Need::Segments(4)],
        run: chains_count_once,
    },
];

/// Checks what both ends have counted of frames from one to the other, given as wire lengths.
fn counted(from: &Side, to: &Side, lengths: &[usize]) -> Verdict {
    let (sent, received) = (from.counters(), to.counters());
    let expected = (Some(lengths.len() as u64), Some(lengths.iter().sum::<usize>() as u64));
    same!((sent.tx_packets, sent.tx_bytes), expected, "tx_packets and tx_bytes");
    same!((received.rx_packets, received.rx_bytes), expected, "rx_packets and rx_bytes");
    same!((sent.tx_dropped, received.rx_dropped()), (Some(0), 0), "drops");
    Ok(())
}

/// The lengths of frames on the wire, and of a marker behind them.
fn on_the_wire(frames: &[Vec<u8>]) -> Vec<usize> {
    frames.iter().map(|frame| frame.len().max(60)).chain([60]).collect()
}

fn exact_both_ways(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let max = a.port().control().max_frame().min(b.port().control().max_frame());
    let of = |to, count: u32| -> Vec<_> {
        let length = |number: u32| 60 + number as usize * 7919 % (max - 59);
        (0..count).map(|number| frames::numbered(to, number, length(number))).collect()
    };
    let (there, back) = (of(b.mac(), 700), of(a.mac(), 300));
    ensure!(a.pass_to(&mut b, &there)? == there, "frames were lost or changed");
    counted(&a, &b, &on_the_wire(&there))?;
    counted(&b, &a, &[])?;
    ensure!(b.pass_to(&mut a, &back)? == back, "frames were lost or changed");
    counted(&a, &b, &on_the_wire(&there))?;
    counted(&b, &a, &on_the_wire(&back))
}

fn padding_counts(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let foreign = ctx.pool(64)?;
    let mut lengths = Vec::new();
    let mut arrived = Vec::new();
    for length in 14..=61 {
        let mut frame = frames::numbered(b.mac(), 1, 61);
        frame.truncate(length);
        for pool in [a.pool().clone(), foreign.clone()] {
            let mut burst = anyport::Burst::with_capacity(1);
            let _ = burst.push(pool.packet(&frame).ok_or("the pool is empty")?);
            a.send_burst(0, &mut burst)?;
            lengths.push(length.max(60));
        }
    }
    a.mark(&mut b, &mut arrived)?;
    lengths.push(60);
    same!(arrived.len(), lengths.len() - 1, "frames that arrived");
    counted(&a, &b, &lengths)
}

fn tags_count(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("vlan_insert=auto", "")?;
    let max = a.port().control().max_frame();
    let frame = frames::numbered(b.mac(), 1, max);
    let tagged = frames::tagged(frame.clone(), 0x8100, 9);
    let mut packet = a.packet(&frame)?;
    packet.set_requests(TxRequests { vlan: Some(9), ..TxRequests::default() });
    ensure!(a.tx[0].send_one(packet)?.is_none(), "the frame was not accepted");
    let arrived = a.pass_to(&mut b, std::slice::from_ref(&tagged))?;
    ensure!(arrived == [tagged.clone(), tagged], "the tags are not where they belong");
    counted(&a, &b, &[max + 4, max + 4, 60])
}

fn agree_with_a_witness(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let witness = || End::BOTH.map(|end| ctx.wires().witness(end));
    let [at_a, at_b] = witness();
    let (at_a, at_b) = (at_a?, at_b?);
    let max = a.port().control().max_frame().min(b.port().control().max_frame());
    let lengths = [60, 61, 100, 999, max];
    let of = |to, count: usize| -> Vec<_> {
        (0..count).map(|number| frames::numbered(to, number as u32, lengths[number % 5])).collect()
    };
    let (there, back) = (of(b.mac(), 400), of(a.mac(), 150));
    ensure!(a.pass_to(&mut b, &there)? == there, "frames were lost or changed");
    ensure!(b.pass_to(&mut a, &back)? == back, "frames were lost or changed");
    for (side, end, before) in [(&a, End::A, at_a), (&b, End::B, at_b)] {
        let (own, seen) = (side.counters(), ctx.wires().witness(end)?);
        let sent = (seen.tx_packets - before.tx_packets, seen.tx_bytes - before.tx_bytes);
        let received = (seen.rx_packets - before.rx_packets, seen.rx_bytes - before.rx_bytes);
        same!((own.tx_packets, own.tx_bytes), (Some(sent.0), Some(sent.1)), "sent at {end:?}");
        let got = (Some(received.0), Some(received.1));
        same!((own.rx_packets, own.rx_bytes), got, "received at {end:?}");
    }
    Ok(())
}

fn refused_do_not_count(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let (to, max) = (b.mac(), a.port().control().max_frame());
    let (short, long) = (to.0.to_vec(), frames::numbered(to, 0, max + 1));
    for _ in 0..10 {
        for frame in [&short, &long] {
            ensure!(a.offer(std::slice::from_ref(frame)).is_err(), "{} bytes", frame.len());
        }
    }
    counted(&a, &b, &[])?;
    let good = frames::numbered(to, 1, 100);
    // Two of five are accepted: send stops before the third.
    same!(a.offer(&[good.clone(), good.clone(), long, good.clone(), good])?, 2, "accepted");
    same!(a.tx[0].send(&mut anyport::Burst::new())?, 0, "accepted of an empty burst");
    let mut arrived = Vec::new();
    a.mark(&mut b, &mut arrived)?;
    counted(&a, &b, &[100, 100, 60])?;
    // Nowhere else either.
    let noted: Vec<_> = a.counters().iter().filter(|(_, value)| *value != 0).collect();
    same!(noted, [("tx_packets", 3), ("tx_bytes", 260)], "the sender's counters that are not 0");
    Ok(())
}

fn undelivered_do_not_count(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    a.send(&frames::run(b.mac(), 20, 90))?;
    same!(b.rx[0].wait(crate::PATIENCE)?, anyport::Wake::Ready, "why wait returned");
    same!(b.counters().rx_packets, Some(0), "rx_packets before recv");
    let mut burst = anyport::Burst::with_capacity(1);
    for count in 1..=20 {
        b.rx[0].wait(crate::PATIENCE)?;
        same!(b.rx[0].recv(&mut burst)?, 1, "frames that recv gave");
        burst.clear();
        let counters = b.counters();
        let expected = (Some(count), Some(90 * count));
        same!((counters.rx_packets, counters.rx_bytes), expected, "rx_packets and rx_bytes");
    }
    Ok(())
}

fn chains_count_once(ctx: &Ctx) -> Verdict {
    let keys = "max_frame=5000,max_segments=4";
    let pool = || -> Verdict<_> { Ok(anyport::Pool::builder().frames(512).build()?) };
    let mut a = ctx.start_with(End::A, keys, &pool()?)?;
    let mut b = ctx.start_with(End::B, keys, &pool()?)?;
    ctx.settle(&a, &b)?;
    let frames: Vec<_> = [5000, 60, 1793, 4000]
        .into_iter()
        .map(|length| frames::numbered(b.mac(), length as u32, length))
        .collect();
    ensure!(a.pass_to(&mut b, &frames)? == frames, "frames were lost or changed");
    counted(&a, &b, &on_the_wire(&frames))
}
