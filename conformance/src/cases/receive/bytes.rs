//! R1 to R3: any number at once, in order, and every byte.

use std::collections::HashSet;

use anyport::{Burst, Wake};

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::Flow;
use crate::own::sleeps;
use crate::side::woken;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.never_blocks_and_adds_to_the_burst",
        clauses: &["R1"],
        about: "Calls recv with nothing there, 1,000 times, and looks whether the thread slept; with more there than the burst \
                has room for; with a full burst.",
        why: "A receive call that blocks or overwrites the burst breaks every poll loop.",
        needs: &[Need::TwoWay],
        run: never_blocks_and_adds,
    },
    Case {
        name: "receive.order_and_bytes",
        clauses: &["R2", "R3"],
        about: "Sends 2,000 numbered frames of all kinds of lengths and compares every byte and the order.",
        why: "Reordered, doubled or changed frames break every protocol above.",
        needs: &[Need::TwoWay],
        run: order_and_bytes,
    },
    Case {
        name: "receive.bursts_of_any_size",
        clauses: &["R1", "R2"],
        about: "Receives frames into a burst with one place, one by one, and into one with 512 places.",
        why: "A port that hands over at least a batch of its own size writes past small bursts, or loses what does not fit.",
        needs: &[Need::TwoWay],
        run: bursts_of_any_size,
    },
    Case {
        name: "receive.order_under_load",
        clauses: &["R2"],
        about: "One thread sends 20,000 numbered frames as fast as they are accepted while another receives.",
        why: "A ring whose two sides race delivers a frame twice, or an old frame in place of a new one.",
        needs: &[Need::TwoWay, Need::Rig(Power::Direct)],
        run: order_under_load,
    },
    Case {
        name: "receive.every_length",
        clauses: &["R3"],
        about: "Sends a frame of every length from 60 bytes to the maximum, and a tagged one 4 bytes longer.",
        why: "Lengths around a device's buffer or descriptor sizes are where bytes get lost, or the FCS shows.",
        needs: &[Need::TwoWay],
        run: every_length,
    },
    Case {
        name: "receive.vlan_tags_stay",
        clauses: &["R3"],
        about: "Sends frames with one and two tags, of both types, with priorities and VLAN identifier 0, short and long.",
        why: "Kernels and cards take the outer tag out of the frame and keep it beside it; who does not put it back loses \
              it, or puts back the wrong type.",
        needs: &[Need::TwoWay],
        run: vlan_tags_stay,
    },
    Case {
        name: "receive.padding_is_there_and_the_fcs_is_not",
        clauses: &["R3"],
        about: "Sends frames of 60 bytes whose IP packet is shorter, the rest filled with a pattern.",
        why: "A capture or a bridge that cuts frames at the IP length, or adds four bytes of FCS, changes what it forwards.",
        needs: &[Need::TwoWay],
        run: padding_is_there,
    },
];

fn never_blocks_and_adds(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let mut burst = Burst::with_capacity(4);
    let slept = sleeps()?;
    for _ in 0..1000 {
        same!(b.rx[0].recv(&mut burst)?, 0, "recv with nothing there");
    }
    // A lock that another thread holds may cost a few.
    let slept = sleeps()? - slept;
    ensure!(slept < 100, "in 1,000 calls with nothing there, recv slept {slept} times");
    let frames = frames::run(b.mac(), 10, 60);
    a.send(&frames)?;
    let mut all = Vec::new();
    while all.len() < frames.len() {
        // Receives into what room there is; a full burst takes nothing.
        woken(&mut b.rx[0])?;
        let before = burst.len();
        let added = b.rx[0].recv(&mut burst)?;
        same!(burst.len(), before + added, "the burst's length, and what recv said that it added");
        if burst.is_full() {
            same!(b.rx[0].recv(&mut burst)?, 0, "recv into a full burst");
        }
        // One stays in, so that the next call has to add behind it.
        let last = all.len() + burst.len() == frames.len();
        while burst.len() > usize::from(!last) {
            all.extend(burst.pop_front().map(|packet| packet.data().to_vec()));
        }
    }
    ensure!(all == frames, "what was received is not what was sent");
    Ok(())
}

fn order_and_bytes(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let max =
        ctx.capability(End::B).default_max_frame.min(ctx.capability(End::A).default_max_frame);
    let length = |number: u32| 60 + number as usize * 7919 % (max - 59);
    let frames: Vec<_> =
        (0..2000).map(|number| frames::numbered(b.mac(), number, length(number))).collect();
    let arrived = a.pass_to(&mut b, &frames)?;
    same!(arrived.len(), frames.len(), "frames that arrived");
    ensure!(arrived == frames, "a frame was changed or out of order");
    same!(b.counters().rx_dropped(), 0, "drops");
    Ok(())
}

fn bursts_of_any_size(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for places in [1, 512] {
        let frames = frames::run(b.mac(), 40, 60);
        a.send(&frames)?;
        let mut burst = Burst::with_capacity(places);
        let mut all = Vec::new();
        while all.len() < frames.len() {
            same!(woken(&mut b.rx[0])?, Wake::Ready, "wait for {places} at once");
            let added = b.rx[0].recv(&mut burst)?;
            same!(burst.len(), added, "what recv said that it added to an empty burst");
            all.extend(burst.drain().map(|packet| packet.data().to_vec()));
        }
        ensure!(all == frames, "what came into {places} places is not what was sent");
        same!(b.rx[0].recv(&mut burst)?, 0, "recv after all had come");
    }
    Ok(())
}

fn order_under_load(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let sent = frames::run(b.mac(), 20_000, 60);
    let arrived = a.pour_to(&mut b, &sent)?;
    let mut next = 0;
    for frame in &arrived {
        let number = frames::number(frame).ok_or("a frame that was never sent")?;
        ensure!(number >= next, "frame {number} came after frame {}", next.saturating_sub(1));
        ensure!(sent.get(number as usize) == Some(frame), "frame {number} was changed");
        next = number + 1;
    }
    if ctx.capability(End::B).exact_drops {
        let counted = b.counters().rx_dropped();
        same!(arrived.len() as u64 + counted, sent.len() as u64, "delivered + counted as dropped");
    }
    Ok(())
}

fn every_length(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let max = a.port().control().max_frame().min(b.port().control().max_frame());
    let mut sent: Vec<_> =
        (60..=max).map(|length| frames::numbered(b.mac(), length as u32, length)).collect();
    sent.push(frames::tagged(sent[sent.len() - 1].clone(), 0x8100, 5));
    let arrived = a.pass_to(&mut b, &sent)?;
    for (found, frame) in arrived.iter().zip(&sent) {
        let length = frame.len();
        ensure!(found == frame, "the frame of {length} bytes came as {} others", found.len());
    }
    same!(arrived.len(), sent.len(), "frames that arrived");
    Ok(())
}

fn vlan_tags_stay(ctx: &Ctx) -> Verdict {
    const TAGS: [&[(u16, u16)]; 9] = [
        &[(0x8100, 5)],
        &[(0x88a8, 5)],
        // A tag that carries only a priority; one with all bits set.
        &[(0x8100, 0)],
        &[(0x8100, 0xa000)],
        &[(0x8100, 0xffff)],
        &[(0x88a8, 0xffff)],
        // The innermost first.
        &[(0x8100, 6), (0x88a8, 5)],
        &[(0x8100, 6), (0x8100, 5)],
        &[(0x88a8, 6), (0x8100, 5)],
    ];
    let (mut a, mut b) = ctx.pair()?;
    let max = a.port().control().max_frame().min(b.port().control().max_frame());
    let mut sent = Vec::new();
    for (at, tags) in TAGS.iter().enumerate() {
        for length in [56, 60, 900, max - 8] {
            let frame = frames::numbered(b.mac(), (at * 10_000 + length) as u32, length);
            sent.push(
                tags.iter().fold(frame, |frame, (tpid, tci)| frames::tagged(frame, *tpid, *tci)),
            );
        }
    }
    // Each beside an untagged one, which must not get its neighbour's tag.
    let plain = frames::run(b.mac(), sent.len() as u32, 60);
    let sent: Vec<_> = sent.into_iter().zip(plain).flat_map(|(one, other)| [one, other]).collect();
    let arrived = a.pass_to(&mut b, &sent)?;
    same!(arrived.len(), sent.len(), "frames that arrived");
    let kinds: HashSet<_> = arrived
        .iter()
        .zip(&sent)
        .filter(|(found, frame)| found != frame)
        .map(|(_, frame)| &frame[12..20])
        .collect();
    ensure!(kinds.is_empty(), "frames that begin like these were changed: {kinds:02x?}");
    Ok(())
}

fn padding_is_there(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let sent: Vec<Vec<u8>> = (0..18u8)
        .map(|payload| {
            let mut frame =
                frames::udp(b.mac(), Flow::nth(payload.into()), &vec![0xaa; payload.into()]);
            // Not zeros: whoever pads anew is found out.
            frame.extend((frame.len()..60).map(|at| 0x80 | at as u8));
            frame
        })
        .collect();
    let arrived = a.pass_to(&mut b, &sent)?;
    same!(arrived, sent, "frames of 60 bytes with padding");
    Ok(())
}
