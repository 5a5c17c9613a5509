//! R, receive: what comes out of a port is what was sent to it, whole, once, in order.

use anyport::Burst;

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.never_blocks_and_adds_to_the_burst",
        clauses: &["R1"],
        about: "Calls recv with nothing there, with more there than the burst has room for, and with a full burst.",
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
];

fn never_blocks_and_adds(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let mut burst = Burst::with_capacity(4);
    same!(b.rx[0].recv(&mut burst)?, 0, "recv with nothing there");
    let frames = frames::run(b.mac(), 10, 60);
    a.send(&frames)?;
    let mut all = Vec::new();
    while all.len() < frames.len() {
        // Receives into what room there is; a full burst takes nothing.
        b.rx[0].wait(crate::PATIENCE)?;
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
