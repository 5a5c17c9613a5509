//! M2: the maximum frame, to the byte, both ways.

use anyport::packet::TxRequests;
use anyport::{Error, MacAddr, Refused};

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::side::Side;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "control.default_maximum_to_the_byte",
        clauses: &["M2", "T4"],
        about: "Sends frames of the default maximum both ways, untagged and with either tag, and ones that are one byte \
                longer.",
        why: "Full-size frames are most of the bytes of any transfer.",
        needs: &[Need::TwoWay],
        run: default_maximum,
    },
    Case {
        name: "control.changed_maximum_to_the_byte",
        clauses: &["M2", "T4"],
        about: "The same for smaller and larger maxima, set when opening and while stopped.",
        why: "A maximum that is off by the tag or the FCS loses just the frames that fill it.",
        needs: &[Need::TwoWay, Need::SetMaxFrame],
        run: changed_maximum,
    },
    Case {
        name: "control.largest_maximum_to_the_byte",
        clauses: &["M2", "L3"],
        about: "The same for the least and the largest maximum frame that both ports declare.",
        why: "A declared capability is a promise, and its edge is where promises break.",
        needs: &[Need::TwoWay, Need::SetMaxFrame],
        run: largest_maximum,
    },
    Case {
        name: "control.jumbo_frames_over_pools_of_any_frame_size",
        clauses: &["M2", "R3", "T4"],
        about: "The same for 9,014 bytes (an MTU of 9,000), with pools whose frames hold a fifth, a half, or all of that, \
                and other ones at the other end.",
        why: "Who asks for jumbo frames has a pool already, and its frames are of the size that they are.",
        needs: &[Need::TwoWay, Need::SetMaxFrame, Need::MaxFrame(9014), Need::Segments(6)],
        run: jumbo,
    },
    Case {
        name: "control.inserted_tag_counts_after_inserting",
        clauses: &["M2", "O3"],
        about: "Lets the port insert a tag into frames of the maximum and one byte more.",
        why: "Whether the application or the port puts the tag in must make no difference on the wire.",
        needs: &[Need::TwoWay],
        run: inserted_tag,
    },
    Case {
        name: "control.a_pool_too_small_for_the_maximum",
        clauses: &["M2", "L3"],
        about: "Starts ports whose pools' frames are one byte too small for the maximum frame with a tag, and just large \
                enough.",
        why: "Where it would start all the same, full-size frames were lost later, one by one.",
        needs: &[Need::TwoWay],
        run: pool_too_small,
    },
];

/// What passes to `to` with a maximum of `max`.
fn fitting(to: MacAddr, max: usize) -> Vec<Vec<u8>> {
    let of = |length| frames::numbered(to, length as u32, length);
    vec![
        of(max - 1),
        of(max),
        frames::tagged(of(max - 4), 0x8100, 5),
        frames::tagged(of(max), 0x8100, 0xefff),
        frames::tagged(of(max - 4), 0x88a8, 5),
        // Two tags, of which one may add to the maximum.
        frames::tagged(frames::tagged(of(max - 4), 0x8100, 5), 0x8100, 6),
        frames::tagged(frames::tagged(of(max - 8), 0x8100, 5), 0x88a8, 6),
    ]
}

/// What does not.
fn too_long(to: MacAddr, max: usize) -> Vec<Vec<u8>> {
    let of = |length| frames::numbered(to, length as u32, length);
    vec![
        of(max + 1),
        of(max + 4),
        frames::tagged(of(max + 1), 0x8100, 5),
        frames::tagged(of(max - 3), 0x88a8, 5),
        frames::tagged(of(max), 0x88a8, 5),
        frames::tagged(frames::tagged(of(max), 0x8100, 5), 0x8100, 6),
    ]
}

/// Checks a maximum frame in one direction.
fn to_the_byte(from: &mut Side, to: &mut Side, max: usize) -> Verdict {
    let mac = to.port().control().mac()?;
    let sent = fitting(mac, max);
    let arrived = from.pass_to(to, &sent)?;
    let fitting: Vec<_> = sent.into_iter().map(frames::padded).collect();
    let lengths = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
    same!(lengths(&arrived), lengths(&fitting), "lengths that passed with a maximum of {max}");
    ensure!(arrived == fitting, "a frame was changed");
    for frame in too_long(mac, max) {
        let length = frame.len();
        let tag = frames::tag(&frame);
        refused!(from.offer(&[frame]),
            Error::FrameTooLong { length: named, max: limit } if (named, limit) == (length, max),
            "sending {length} bytes (tag {tag:04x?}) with a maximum of {max}");
    }
    // The queue goes on working.
    let one = frames::run(mac, 1, 60);
    ensure!(from.pass_to(to, &one)? == one, "nothing passes after frames that were too long");
    same!(to.counters().rx_too_long, Some(0), "frames counted as too long");
    Ok(())
}

fn default_maximum(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let [of_a, of_b] = End::BOTH.map(|end| ctx.capability(end).default_max_frame);
    same!(a.port().control().max_frame(), of_a, "the maximum in force");
    same!(of_a, of_b, "the default maximum of both ends: the case needs the same");
    to_the_byte(&mut a, &mut b, of_a)?;
    to_the_byte(&mut b, &mut a, of_a)
}

/// Both ends with that maximum, opened with it.
fn with_maximum(ctx: &Ctx, max: usize) -> Verdict<(Side, Side)> {
    let segments = ctx.capability(End::A).max_segments.min(ctx.capability(End::B).max_segments);
    let keys = format!("max_frame={max},max_segments={segments}");
    let pools = [ctx.pool_for(256, max)?, ctx.pool_for(256, max)?];
    let a = ctx.start_with(End::A, &keys, &pools[0])?;
    let b = ctx.start_with(End::B, &keys, &pools[1])?;
    ctx.settle(&a, &b)?;
    Ok((a, b))
}

/// The least and the largest maximum of both ends.
fn range(ctx: &Ctx) -> (usize, usize) {
    let [a, b] = End::BOTH.map(|end| ctx.capability(end));
    (a.min_max_frame.max(b.min_max_frame), a.max_frame.min(b.max_frame))
}

fn changed_maximum(ctx: &Ctx) -> Verdict {
    let (least, most) = range(ctx);
    let maxima: Vec<usize> =
        [600, 1000, 1514, 1600].into_iter().filter(|max| (least..=most).contains(max)).collect();
    let first = *maxima.first().ok_or("no maximum to change to")?;
    let (mut a, mut b) = with_maximum(ctx, first)?;
    for max in maxima {
        for side in [&mut a, &mut b] {
            side.port_mut().stop()?;
            let mut config = side.port().config();
            config.max_frame = Some(max);
            side.port_mut().configure(config)?;
            let queues = side.port_mut().start()?;
            (side.rx, side.tx) = (queues.rx, queues.tx);
            same!(side.port().control().max_frame(), max, "the maximum in force");
        }
        ctx.settle(&a, &b)?;
        to_the_byte(&mut a, &mut b, max)?;
        to_the_byte(&mut b, &mut a, max)?;
    }
    Ok(())
}

fn largest_maximum(ctx: &Ctx) -> Verdict {
    let (least, most) = range(ctx);
    for max in [least, most] {
        let (mut a, mut b) = with_maximum(ctx, max)?;
        to_the_byte(&mut a, &mut b, max)?;
        to_the_byte(&mut b, &mut a, max)?;
    }
    Ok(())
}

fn jumbo(ctx: &Ctx) -> Verdict {
    let most = ctx.capability(End::A).max_segments.min(ctx.capability(End::B).max_segments);
    let keys = format!("max_frame=9014,max_segments={most}");
    for sizes in [[2048, 2048], [4096, 2048], [2048, 16384], [16384, 4096]] {
        let pool = |size| anyport::Pool::builder().frames(1024).frame_size(size).build();
        let mut a = ctx.start_with(End::A, &keys, &pool(sizes[0])?)?;
        let mut b = ctx.start_with(End::B, &keys, &pool(sizes[1])?)?;
        ctx.settle(&a, &b)?;
        to_the_byte(&mut a, &mut b, 9014)?;
        to_the_byte(&mut b, &mut a, 9014)?;
        // In any order with short ones, and with nothing of a frame in the next.
        let lengths = [9014, 60, 1793, 9013, 3841, 100, 7000, 1792];
        let mixed: Vec<_> = (0..64)
            .map(|n| frames::numbered(b.mac(), n, lengths[n as usize % lengths.len()]))
            .collect();
        ensure!(a.pass_to(&mut b, &mixed)? == mixed, "frames were lost or changed ({sizes:?})");
        for side in [&mut a, &mut b] {
            side.port_mut().stop()?;
            same!(side.pool().free(), side.pool().capacity(), "frames in the pool ({sizes:?})");
        }
    }
    Ok(())
}

fn inserted_tag(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("vlan_insert=auto", "")?;
    let max = a.port().control().max_frame();
    let tagged = |frame: &[u8]| frames::tagged(frame.to_vec(), 0x8100, 0x6123);
    let plain = frames::numbered(b.mac(), 1, max);
    let requests = TxRequests { vlan: Some(0x6123), ..TxRequests::default() };
    // The tag that is put in is the outermost one; one that is there counts as the frame's.
    let inside = tagged(&frames::numbered(b.mac(), 2, max - 4));
    for frame in [&plain, &inside] {
        let mut packet = a.packet(frame)?;
        packet.set_requests(requests);
        same!(a.tx[0].send_one(packet)?.is_none(), true, "a frame of {} was accepted", frame.len());
        ensure!(b.receive(1)? == [tagged(frame)], "the tag is not where it belongs");
    }
    let longer = frames::numbered(b.mac(), 3, max + 1);
    for frame in [longer, tagged(&plain)] {
        let mut packet = a.packet(&frame)?;
        packet.set_requests(requests);
        let length = frame.len() + 4;
        refused!(a.tx[0].send_one(packet), Refused { error: Error::FrameTooLong { length: named, .. }, .. } if named == length,
            "a frame of {} and its tag", frame.len());
    }
    let one = frames::run(b.mac(), 1, max);
    ensure!(a.pass_to(&mut b, &one)? == one, "nothing passes after frames that were too long");
    Ok(())
}

fn pool_too_small(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::B);
    let max = capability.default_max_frame;
    // The head room that leaves just so much of a frame.
    let size = (max + 4 + 64).next_power_of_two();
    let pool = |room: usize| -> Verdict<anyport::Pool> {
        let headroom = u16::try_from(size - room).map_err(|_| "such a pool cannot be made")?;
        let builder = anyport::Pool::builder().frames(256).headroom(headroom);
        Ok(builder.frame_size(u32::try_from(size).map_err(|_| "too large")?).build()?)
    };
    let mut port = ctx.open(End::B, "")?;
    port.attach(&pool(max + 3)?)?;
    refused!(port.start(), Error::Unsupported { field, .. } if field == "max_frame",
        "a pool that is one byte too small");
    port.close()?;
    let mut a = ctx.start(End::A, "")?;
    let mut b = ctx.start_with(End::B, "", &pool(max + 4)?)?;
    ctx.settle(&a, &b)?;
    to_the_byte(&mut a, &mut b, max)
}
