//! R4: what is longer than the port's maximum is dropped and counted, never cut short.

use anyport::Pool;

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::side::{Side, bytes};
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.longer_than_the_maximum_is_counted",
        clauses: &["R4", "M2"],
        about: "A sender with a larger maximum sends frames of 1 and 4 bytes more than the receiver's maximum, among others \
                of just the maximum.",
        why: "A frame that is cut short looks like a whole one to everything above.",
        needs: &[Need::TwoWay, Need::SetMaxFrame, Need::MaxFrame(2200)],
        run: longer_is_counted,
    },
    Case {
        name: "receive.much_longer_is_never_cut",
        clauses: &["R4", "M2"],
        about: "The same with frames of 5 bytes to twice the maximum more, tagged ones among them: the frames between them \
                arrive, and nothing else.",
        why: "A long frame may take several buffers of a device; the first of them looks like a frame.",
        needs: &[Need::TwoWay, Need::SetMaxFrame, Need::MaxFrame(3600)],
        run: |ctx| much_longer(ctx)?.never_cut(),
    },
    Case {
        name: "receive.much_longer_is_counted",
        clauses: &["R4", "M2"],
        about: "The same once more: those that get to the receiver's device are counted. A link may refuse what its far end \
                is not made for (veth does); then it was never received, and only the rig can tell.",
        why: "What is dropped for its length and not counted is looked for on the wire.",
        needs: &[
            Need::TwoWay,
            Need::SetMaxFrame,
            Need::MaxFrame(3600),
            Need::Rig(Power::LongFrames),
        ],
        run: |ctx| much_longer(ctx)?.counted(ctx),
    },
    Case {
        name: "receive.chains_arrive_whole",
        clauses: &["R4", "R3"],
        about: "Both ports take 5,000 bytes in up to four pool frames: lengths around the pool frames' size arrive whole, \
                as many segments as they need.",
        why: "A segment that is lost, doubled or out of place changes the frame where nobody looks.",
        needs: &[Need::TwoWay, Need::SetMaxFrame, Need::MaxFrame(5000), Need::Segments(4)],
        run: chains_arrive_whole,
    },
    Case {
        name: "receive.chains_beyond_the_maximum_are_never_cut",
        clauses: &["R4"],
        about: "A sender sends chains of three pool frames to a port that takes the default maximum in one: the frames \
                between them arrive, and nothing else.",
        why: "A port that delivers a chain's first segment alone cuts the frame.",
        needs: &[Need::TwoWay, Need::SetMaxFrame, Need::MaxFrame(5000), Need::Segments(4)],
        run: |ctx| chains_beyond_the_maximum(ctx)?.never_cut(),
    },
    Case {
        name: "receive.chains_beyond_the_maximum_are_counted",
        clauses: &["R4"],
        about: "The same once more: those that get to the receiver's device are counted.",
        why: "A chain's segments may be dropped one by one; it is one frame that is missing.",
        needs: &[
            Need::TwoWay,
            Need::SetMaxFrame,
            Need::MaxFrame(5000),
            Need::Segments(4),
            Need::Rig(Power::LongFrames),
        ],
        run: |ctx| chains_beyond_the_maximum(ctx)?.counted(ctx),
    },
];

/// A sender for frames longer than the default, a receiver with the default.
fn unequal(ctx: &Ctx, longest: usize) -> Verdict<(Side, Side)> {
    let pool = ctx.pool_for(512, longest)?;
    let a = ctx.start_with(End::A, &format!("max_frame={longest}"), &pool)?;
    let b = ctx.start(End::B, "")?;
    ctx.settle(&a, &b)?;
    Ok((a, b))
}

fn longer_is_counted(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = unequal(ctx, ctx.capability(End::B).default_max_frame + 600)?;
    let max = b.port().control().max_frame();
    let (to, length) = (b.mac(), |number, length| frames::numbered(b.mac(), number, length));
    let longer = [
        length(1, max + 1),
        length(2, max + 4),
        // Only one tag of the other type may add to the maximum.
        frames::tagged(length(3, max), 0x88a8, 5),
        frames::tagged(length(4, max - 3), 0x88a8, 5),
    ];
    let mut sent = Vec::new();
    for (number, frame) in (100..).zip(&longer) {
        let good = frames::numbered(to, number, max);
        sent.extend([good.clone(), frame.clone(), frames::tagged(good, 0x8100, 5), frame.clone()]);
    }
    let expected: Vec<_> = sent.iter().filter(|frame| !longer.contains(frame)).cloned().collect();
    let arrived = a.pass_to(&mut b, &sent)?;
    let lengths: Vec<usize> = arrived.iter().map(Vec::len).collect();
    ensure!(
        arrived == expected,
        "with a maximum of {max}, these lengths were delivered: {lengths:?}"
    );
    same!(b.counters().rx_too_long, Some(8), "frames counted as too long");
    same!(b.counters().rx_dropped(), 8, "frames counted as dropped, by whatever cause");
    Ok(())
}

/// Frames that are too long for the receiver among others that are not, about to be sent.
struct Mixed {
    a: Side,
    b: Side,
    longer: Vec<Vec<u8>>,
    good: Vec<Vec<u8>>,
}

impl Mixed {
    /// The good ones arrive, and nothing else.
    fn never_cut(&mut self) -> Verdict {
        let pairs = self.longer.iter().zip(&self.good);
        let sent: Vec<_> = pairs.flat_map(|(long, good)| [long.clone(), good.clone()]).collect();
        let arrived = self.a.pass_to(&mut self.b, &sent)?;
        let lengths: Vec<usize> = arrived.iter().map(Vec::len).collect();
        let max = self.b.port().control().max_frame();
        ensure!(
            arrived == self.good,
            "with a maximum of {max}, these lengths were delivered: {lengths:?}"
        );
        Ok(())
    }

    /// Besides, those that came out of the wire are counted.
    fn counted(&mut self, ctx: &Ctx) -> Verdict {
        let before = ctx.wires().came_out(End::B)?;
        self.never_cut()?;
        let after = ctx.wires().came_out(End::B)?;
        let reached = match before.zip(after) {
            // The good ones and a marker came out, too.
            Some((before, after)) => after - before - self.good.len() as u64 - 1,
            None => self.longer.len() as u64,
        };
        same!(self.b.counters().rx_too_long, Some(reached), "frames counted as too long");
        Ok(())
    }
}

fn much_longer(ctx: &Ctx) -> Verdict<Mixed> {
    let default = ctx.capability(End::B).default_max_frame;
    let (a, b) = unequal(ctx, 2 * default + 100)?;
    let to = b.mac();
    let longer: Vec<_> = [default + 5, default + 100, 2 * default - 1, 2 * default + 96]
        .into_iter()
        .flat_map(|length| {
            let frame = frames::numbered(to, length as u32, length);
            let tagged = frames::tagged(frames::numbered(to, 7, length - 4), 0x8100, 5);
            [frame, tagged]
        })
        .collect();
    let good = frames::run(to, 8, default);
    Ok(Mixed { a, b, longer, good })
}

/// A pool of frames that hold 1,792 bytes.
fn small_pool() -> Verdict<Pool> {
    Ok(Pool::builder().frames(2048).frame_size(2048).build()?)
}

fn chains_arrive_whole(ctx: &Ctx) -> Verdict {
    let keys = "max_frame=5000,max_segments=4";
    let (one, other) = (small_pool()?, small_pool()?);
    let mut a = ctx.start_with(End::A, keys, &one)?;
    let mut b = ctx.start_with(End::B, keys, &other)?;
    ctx.settle(&a, &b)?;
    let room = other.room();
    let lengths = [60, room - 1, room, room + 1, 2 * room - 1, 2 * room, 2 * room + 1, 4999, 5000];
    let sent = lengths.map(|length| frames::numbered(b.mac(), length as u32, length));
    for frame in &sent {
        a.send(std::slice::from_ref(frame))?;
        let packet = b.receive_packet()?;
        ensure!(bytes(&packet) == *frame, "the frame of {} bytes was changed", frame.len());
        same!(packet.len(), frame.len(), "what the packet says of its length");
        ensure!(packet.segment_count() <= 4, "{} segments", packet.segment_count());
    }
    same!(a.pass_to(&mut b, &sent)?.len(), sent.len(), "frames that arrived in a burst");
    drop((a, b));
    same!((one.free(), other.free()), (2048, 2048), "frames that came back to the pools");
    Ok(())
}

fn chains_beyond_the_maximum(ctx: &Ctx) -> Verdict<Mixed> {
    let a = ctx.start_with(End::A, "max_frame=5000,max_segments=4", &small_pool()?)?;
    let b = ctx.start(End::B, "")?;
    ctx.settle(&a, &b)?;
    let long = frames::numbered(b.mac(), 1, 5000);
    let good = frames::numbered(b.mac(), 2, 60);
    Ok(Mixed { a, b, longer: vec![long; 2], good: vec![good; 2] })
}
