//! F4, F5, F8: too much for pool or ring, and devices that lie.

use std::time::{Duration, Instant};

use anyport::Burst;

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "faults.a_pool_dry_again_and_again_under_load",
        clauses: &["F4", "R7", "R8"],
        about: "An application keeps what it receives until its pool is dry, lets go of it, and so on, while frames keep coming.",
        why: "Whoever queues packets runs out of them sooner or later, and must neither lose count nor reception.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: pool_dry_under_load,
    },
    Case {
        name: "faults.a_ring_full_for_ten_seconds",
        clauses: &["F5", "R8", "T3"],
        about: "Nobody receives for ten seconds while the other end goes on sending; then somebody does.",
        why: "An application that hangs for a while must not take the sender with it, nor find a dead port afterwards.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: ring_full_for_ten_seconds,
    },
    Case {
        name: "faults.a_lying_devices_frames_are_refused",
        clauses: &["F8"],
        about: "What a device reports of a frame that it was lent (number, place, length) is wrong in every way that fits the types.",
        why: "A broken device or hostile hypervisor must not make the processor touch memory outside the frame.",
        needs: &[],
        run: lying_device,
    },
];

fn pool_dry_under_load(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(128)?;
    let (mut a, mut b) = (ctx.start(End::A, "")?, ctx.start_with(End::B, "", &pool)?);
    ctx.settle(&a, &b)?;
    let frames = frames::run(b.mac(), 32, 60);
    let (mut sent, mut got, mut held) = (0, 0, Vec::new());
    for round in 1..=60 {
        a.send(&frames)?;
        sent += frames.len();
        let mut burst = Burst::new();
        got += b.rx[0].recv(&mut burst)?;
        held.push(burst);
        if round % 12 == 0 {
            held.clear();
        }
    }
    let mut arrived = Vec::new();
    a.mark(&mut b, &mut arrived)?;
    got += arrived.len();
    let counted = b.counters();
    ensure!(counted.rx_dropped() > 0, "a pool of 128 frames was to run dry");
    same!(got as u64 + counted.rx_dropped(), sent as u64, "delivered and counted as dropped");
    same!(counted.rx_packets, Some(got as u64 + 1), "rx_packets, the last frame included");
    // All is back: what comes now is delivered whole.
    let after = a.pass_to(&mut b, &frames)?;
    ensure!(after == frames, "frames after the pool had room again");
    same!(b.counters().rx_dropped(), counted.rx_dropped(), "drops after the pool had room again");
    Ok(())
}

fn ring_full_for_ten_seconds(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frames = frames::run(b.mac(), 32, 60);
    let mut sent = 0;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        a.send(&frames)?;
        sent += frames.len();
        // The clause is about ten seconds, not about a rate.
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut got = b.take()?.len();
    let mut arrived = Vec::new();
    a.mark(&mut b, &mut arrived)?;
    got += arrived.len();
    let counted = b.counters();
    ensure!(counted.rx_dropped() > 0, "{sent} frames were to fill the ring");
    same!(got as u64 + counted.rx_dropped(), sent as u64, "delivered and counted as dropped");
    same!(a.counters().tx_packets, Some(sent as u64 + 1), "tx_packets, the last frame included");
    let after = a.pass_to(&mut b, &frames)?;
    ensure!(after == frames, "frames after the ring had room again");
    Ok(())
}

fn lying_device(ctx: &Ctx) -> Verdict {
    let pool = ctx.pool(64)?;
    let (region, size) = (pool.region(), pool.frame_size());
    let packet = pool.take().ok_or("a fresh pool has no frame")?;
    let index = region.lend(packet).map_err(|_| "a fresh packet cannot be lent")?;
    let lies = [
        (64, 0, 60),
        (u32::MAX, 0, 60),
        (index, 0, size + 1),
        (index, size, 1),
        (index, 256, size - 255),
        (index, usize::MAX, 1),
        (index, 1, usize::MAX),
    ];
    for (index, offset, length) in lies {
        // SAFETY: each of these is refused, so no packet is made; the frame stays lent.
        let taken = unsafe { region.take_back(index, offset, length) };
        ensure!(taken.is_none(), "frame {index}, {length} bytes at {offset} was believed");
    }
    // SAFETY: lent above, taken back once, and nobody else has it.
    let packet = unsafe { region.take_back(index, size - 60, 60) };
    let packet = packet.ok_or("the truth was refused")?;
    same!((packet.len(), packet.tailroom()), (60, 0), "length and tail room");
    drop(packet);
    same!(pool.free(), 64, "free frames");
    Ok(())
}
