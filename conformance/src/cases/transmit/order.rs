//! T1 and T2: from the front of the burst, in order, and at once.

use anyport::packet::TxRequests;
use anyport::{Burst, Error, Packet, Pool, Refused};

use crate::case::{Case, Need, Verdict};
use crate::ctx::Ctx;
use crate::side::bytes;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "transmit.an_error_takes_nothing",
        clauses: &["T1"],
        about: "Offers bursts whose first packet cannot be sent, each for another reason: an error, and the burst is as it \
                was; without that packet the rest goes.",
        why: "Packets that vanish with an error are lost without a trace, and their frames leak.",
        needs: &[Need::TwoWay],
        run: error_takes_nothing,
    },
    Case {
        name: "transmit.arrives_without_another_call",
        clauses: &["T2"],
        about: "Sends bursts of 1 to 256 frames, each with as many calls as it takes, and then does nothing with the sending \
                port: the other end gets every frame.",
        why: "A frame that waits for the next send to be pushed out is late by as long as the application is idle.",
        needs: &[Need::TwoWay],
        run: without_another_call,
    },
    Case {
        name: "transmit.order_in_a_mixed_burst",
        clauses: &["T1", "T2"],
        about: "Sends bursts of short and long frames, chains, packets of a foreign pool and ones that ask for a tag, in all \
                orders.",
        why: "What needs more work than the rest must not overtake it, nor be overtaken.",
        needs: &[Need::TwoWay],
        run: order_in_a_mixed_burst,
    },
    Case {
        name: "transmit.single_packets_and_empty_bursts",
        clauses: &["T1"],
        about: "Sends nothing, and packets one at a time with send_one.",
        why: "The simplest call must keep the same rules.",
        needs: &[Need::TwoWay],
        run: single_packets,
    },
];

fn error_takes_nothing(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let max = a.port().control().max_frame();
    let good = frames::run(b.mac(), 5, 60);
    let bad = [frames::numbered(b.mac(), 9, 60)[..13].to_vec(), Vec::new()];
    let long = frames::tagged(frames::numbered(b.mac(), 9, max), 0x88a8, 5);
    for (number, bad) in bad.into_iter().chain([long, good[0].clone()]).enumerate() {
        let mut burst = a.burst(&[std::slice::from_ref(&bad), &good[..]].concat())?;
        if number == 3 {
            burst[0].set_requests(TxRequests { vlan: Some(5), ..TxRequests::default() });
        }
        burst.iter_mut().zip(100..).for_each(|(packet, mark)| packet.set_mark(mark));
        for _ in 0..3 {
            match number {
                0 | 1 => {
                    refused!(a.tx[0].send(&mut burst), Error::FrameTooShort { .. }, "too short")
                }
                2 => refused!(a.tx[0].send(&mut burst), Error::FrameTooLong { .. }, "too long"),
                _ => refused!(a.tx[0].send(&mut burst), Error::OffloadOff { .. }, "offload off"),
            }
        }
        let left: Vec<_> = burst.iter().map(|p| (bytes(p), p.mark())).collect();
        let before: Vec<_> =
            [bad].into_iter().chain(good.iter().cloned()).zip((100..).map(Some)).collect();
        ensure!(left == before, "the burst was changed by error {number}");
        drop(burst.pop_front());
        a.send_burst(0, &mut burst)?;
        let mut arrived = Vec::new();
        a.mark(&mut b, &mut arrived)?;
        same!(arrived, good, "what arrived after error {number}");
    }
    same!(a.counters().tx_packets, Some(4 * 6), "frames counted as sent");
    same!(a.counters().tx_dropped.unwrap_or(0), 0, "frames counted as dropped");
    Ok(())
}

fn without_another_call(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for size in [1, 2, 31, 32, 33, 64, 65, 256] {
        let sent = frames::run(b.mac(), size, 60);
        let mut burst = a.burst(&sent)?;
        // One call is enough for what fits; there is no call after the last frame was accepted.
        a.send_burst(0, &mut burst)?;
        let arrived = b.receive(sent.len())?;
        ensure!(arrived == sent, "of a burst of {size} something else arrived");
    }
    Ok(())
}

/// A packet of one of five kinds, and the frame that it becomes.
fn packet_of_kind(
    kind: usize,
    frame: Vec<u8>,
    own: &Pool,
    foreign: &Pool,
) -> Verdict<(Packet, Vec<u8>)> {
    let frame = frame[..[60, 1400, 20, 300, 60][kind]].to_vec();
    // The longer ones are chains there.
    let pool = if matches!(kind, 1 | 3) { foreign } else { own };
    let mut packet = pool.packet(&frame).ok_or("a pool has no frame")?;
    if kind != 4 {
        return Ok((packet, frames::padded(frame)));
    }
    packet.set_requests(TxRequests { vlan: Some(7), ..TxRequests::default() });
    Ok((packet, frames::tagged(frame, 0x8100, 7)))
}

fn order_in_a_mixed_burst(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("vlan_insert=auto", "")?;
    let foreign = Pool::builder().frames(64).frame_size(512).build()?;
    // Every kind comes behind every other one.
    for start in 0..5 {
        for step in 1..=4 {
            let mut burst = Burst::with_capacity(6);
            let mut expected = Vec::new();
            for at in 0..6 {
                let frame = frames::numbered(b.mac(), (start * 100 + step * 10 + at) as u32, 1400);
                let kind = (start + at * step) % 5;
                let (packet, frame) = packet_of_kind(kind, frame, a.pool(), &foreign)?;
                let _ = burst.push(packet);
                expected.push(frame);
            }
            a.send_burst(0, &mut burst)?;
            same!(b.receive(expected.len())?, expected, "what arrived of a mixed burst");
        }
    }
    a.tx[0].flush(crate::PATIENCE)?;
    same!(foreign.free(), 64, "frames of the foreign pool that came back");
    Ok(())
}

fn single_packets(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let mut empty = Burst::new();
    same!(a.tx[0].send(&mut empty)?, 0, "what sending an empty burst says");
    let sent = frames::run(b.mac(), 20, 60);
    for frame in &sent {
        let mut packet = Some(a.packet(frame)?);
        while let Some(left) = packet.take() {
            packet = a.tx[0].send_one(left)?;
        }
    }
    let mut short = a.packet(&sent[0][..13])?;
    short.set_mark(7);
    refused!(a.tx[0].send_one(short), Refused { error: Error::FrameTooShort { length: 13 }, packet }
        if packet.data() == &sent[0][..13] && packet.mark() == Some(7), "13 bytes alone");
    let mut arrived = Vec::new();
    a.mark(&mut b, &mut arrived)?;
    same!(arrived, sent, "what arrived");
    Ok(())
}
