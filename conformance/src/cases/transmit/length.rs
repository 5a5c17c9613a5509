//! T4 and T5: too short, too long, and short enough to be padded.

use anyport::{Error, Packet, Pool};

use crate::case::{Case, Failure, Need, Verdict};
use crate::ctx::Ctx;
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "transmit.lengths_at_the_front_of_a_burst",
        clauses: &["T4", "M2"],
        about: "Offers frames of 0, 13, 14, 59, 60, maximum and maximum + 1 bytes, tagged and not, each at the front: the \
                error says what is wrong, and the frame behind it goes.",
        why: "One frame of a wrong length must not stop a queue, nor be sent cut or with garbage.",
        needs: &[Need::TwoWay],
        run: at_the_front,
    },
    Case {
        name: "transmit.lengths_in_the_middle_of_a_burst",
        clauses: &["T4", "T1"],
        about: "The same lengths between two good frames: send stops before a bad one, and says so at the next call.",
        why: "An error about a frame in the middle would leave open what became of those before it.",
        needs: &[Need::TwoWay],
        run: in_the_middle,
    },
    Case {
        name: "transmit.the_queue_goes_on_after_bad_lengths",
        clauses: &["T4"],
        about: "Offers 500 frames that are too short or too long, with a good one after each.",
        why: "A single oversized frame that wedges a queue for ever is the oldest fault there is.",
        needs: &[Need::TwoWay],
        run: goes_on,
    },
    Case {
        name: "transmit.short_frames_are_padded_with_zeros",
        clauses: &["T5"],
        about: "Fills all frames of a pool with 0xff, then sends frames of 14 to 60 bytes from it: they arrive with zeros up \
                to 60, and count as 60.",
        why: "Padding with what was in the buffer sends other people's data over the wire.",
        needs: &[Need::TwoWay],
        run: padded_with_zeros,
    },
    Case {
        name: "transmit.short_frames_of_other_shapes_are_padded",
        clauses: &["T5", "T7"],
        about: "The same with packets of a foreign pool and with chains of two segments.",
        why: "Each way through the transmit path pads, or one of them leaks.",
        needs: &[Need::TwoWay],
        run: other_shapes_are_padded,
    },
    Case {
        name: "transmit.short_chains_are_padded",
        clauses: &["T5"],
        about: "Sends chains of two segments that are shorter than 60 bytes on a port that takes chains as they are.",
        why: "Padding goes behind the last segment, and there are other people's bytes there, too.",
        needs: &[Need::TwoWay, Need::Segments(2)],
        run: short_chains_are_padded,
    },
    Case {
        name: "transmit.chains_cut_anywhere_arrive_whole",
        clauses: &["T2", "T4"],
        about: "Sends one frame as chains of two segments that are cut at every place of its headers.",
        why: "Code that looks at the headers of a chain's first segment reads beyond it, or sends it wrong.",
        needs: &[Need::TwoWay],
        run: cut_anywhere,
    },
];

/// A frame and what is to be said of it.
struct Length {
    frame: Vec<u8>,
    good: bool,
}

fn lengths(a: &Side, b: &Side) -> Vec<Length> {
    let max = a.port().control().max_frame();
    let plain = |length: usize| {
        let mut frame = frames::numbered(b.mac(), length as u32, length.max(18));
        frame.truncate(length);
        frame
    };
    let tagged = |tpid, length: usize| frames::tagged(plain(length - 4), tpid, 5);
    let lengths = [
        (plain(0), false),
        (plain(1), false),
        (plain(13), false),
        (plain(14), true),
        (plain(59), true),
        (plain(60), true),
        (plain(max), true),
        (plain(max + 1), false),
        (plain(max + 4), false),
        // One tag of 802.1Q may add four bytes, and nothing else.
        (tagged(0x8100, max + 4), true),
        (tagged(0x8100, max + 5), false),
        (tagged(0x88a8, max), true),
        (tagged(0x88a8, max + 1), false),
        (frames::tagged(tagged(0x8100, max + 1), 0x88a8, 6), false),
        (frames::tagged(tagged(0x8100, max), 0x8100, 6), true),
        (frames::tagged(tagged(0x8100, max + 1), 0x8100, 6), false),
    ];
    lengths.map(|(frame, good)| Length { frame, good }).into()
}

/// Whether the result is the error that belongs to a frame.
fn is_refusal(result: anyport::Result<usize>, frame: &[u8], max: usize) -> Verdict {
    match result {
        Err(Error::FrameTooShort { length }) if frame.len() < 14 && length == frame.len() => Ok(()),
        Err(Error::FrameTooLong { length, max: said })
            if frame.len() > max && (length, said) == (frame.len(), max) =>
        {
            Ok(())
        }
        other => Err(Failure(format!("{} bytes, with a maximum of {max}: {other:?}", frame.len()))),
    }
}

/// Packets from a pool whose frames hold anything that is offered.
fn roomy(ctx: &Ctx) -> Verdict<(Side, Side)> {
    let longest = ctx.capability(crate::End::A).default_max_frame + 100;
    let pool = ctx.pool_for(512, longest)?;
    let a = ctx.start_with(crate::End::A, "", &pool)?;
    let b = ctx.start(crate::End::B, "")?;
    ctx.settle(&a, &b)?;
    Ok((a, b))
}

fn at_the_front(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = roomy(ctx)?;
    let max = a.port().control().max_frame();
    let behind = frames::numbered(b.mac(), 77, 60);
    for Length { frame, good } in lengths(&a, &b) {
        let mut burst = a.burst(&[frame.clone(), behind.clone()])?;
        let mut expected = vec![behind.clone()];
        if good {
            expected.insert(0, frames::padded(frame));
        } else {
            is_refusal(a.tx[0].send(&mut burst), &frame, max)?;
            same!(burst.len(), 2, "packets after the error");
            drop(burst.pop_front());
        }
        a.send_burst(0, &mut burst)?;
        let mut arrived = Vec::new();
        a.mark(&mut b, &mut arrived)?;
        same!(arrived, expected, "what arrived");
    }
    Ok(())
}

fn in_the_middle(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = roomy(ctx)?;
    let max = a.port().control().max_frame();
    let around = frames::run(b.mac(), 2, 60);
    for Length { frame, good } in lengths(&a, &b) {
        let mut burst = a.burst(&[around[0].clone(), frame.clone(), around[1].clone()])?;
        let mut expected = around.clone();
        if good {
            expected.insert(1, frames::padded(frame));
        } else {
            same!(a.tx[0].send(&mut burst)?, 1, "packets accepted before {} bytes", frame.len());
            same!(burst.len(), 2, "packets left");
            is_refusal(a.tx[0].send(&mut burst), &frame, max)?;
            drop(burst.pop_front());
        }
        a.send_burst(0, &mut burst)?;
        let mut arrived = Vec::new();
        a.mark(&mut b, &mut arrived)?;
        same!(arrived, expected, "what arrived");
    }
    Ok(())
}

fn goes_on(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = roomy(ctx)?;
    let max = a.port().control().max_frame();
    for number in 0..500 {
        let length =
            if number % 2 == 0 { max + 1 + number as usize % 90 } else { number as usize % 14 };
        let mut bad = frames::numbered(b.mac(), number, length.max(18));
        bad.truncate(length);
        let good = frames::numbered(b.mac(), number, 60);
        let mut burst = a.burst(&[bad.clone(), good.clone()])?;
        is_refusal(a.tx[0].send(&mut burst), &bad, max)?;
        drop(burst.pop_front());
        a.send_burst(0, &mut burst)?;
        same!(b.receive(1)?, [good], "the frame after {length} bytes");
    }
    same!(a.counters().tx_packets, Some(500), "frames counted as sent");
    Ok(())
}

/// Leaves 0xff in every byte of a pool's frames that can be reached.
fn soil(pool: &Pool) -> Verdict {
    let all: Vec<Packet> = std::iter::from_fn(|| pool.take())
        .map(|mut packet| {
            let room = pool.room();
            packet.set_len(room)?;
            packet.data_mut().fill(0xff);
            Ok(packet)
        })
        .collect::<anyport::Result<_>>()?;
    // Those in caches cannot be reached now; they were the first time.
    ensure!(all.len() * 2 > pool.capacity(), "{} frames of the pool can be taken", all.len());
    Ok(())
}

fn padded_with_zeros(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    for round in 0..3 {
        // What is in caches comes to light, too.
        a.tx[0].flush(crate::PATIENCE)?;
        b.tx[0].flush(crate::PATIENCE)?;
        soil(a.pool())?;
        soil(b.pool())?;
        for length in 14..=60 {
            let mut frame = frames::numbered(b.mac(), length as u32, length.max(18));
            frame.truncate(length);
            a.send(std::slice::from_ref(&frame))?;
            let arrived = b.receive(1)?;
            same!(arrived, [frames::padded(frame)], "{length} bytes in round {round}");
        }
    }
    let counters = (a.counters(), b.counters());
    same!(counters.0.tx_bytes, Some(3 * 47 * 60), "bytes counted as sent");
    same!(counters.1.rx_bytes, Some(3 * 47 * 60), "bytes counted as received");
    Ok(())
}

/// A chain of the frame's bytes up to a place, and from there on.
fn chain(pool: &Pool, frame: &[u8], at: usize) -> Verdict<Packet> {
    let none = "the pool has no frame";
    let mut packet = pool.packet(&frame[..at]).ok_or(none)?;
    let rest = pool.packet(&frame[at..]).ok_or(none)?;
    packet.append(rest).map_err(|_| "a chain in one pool was refused")?;
    Ok(packet)
}

fn short_chains_are_padded(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("max_segments=2", "")?;
    soil(a.pool())?;
    for length in 16..=60 {
        let frame = frames::numbered(b.mac(), length as u32, length.max(18))[..length].to_vec();
        for at in [1, 14, length - 1] {
            let packet = chain(a.pool(), &frame, at)?;
            let left = a.tx[0].send_one(packet)?;
            ensure!(left.is_none(), "{length} bytes cut at {at} were not accepted");
            let arrived = b.receive(1)?;
            same!(arrived, [frames::padded(frame.clone())], "{length} bytes cut at {at}");
        }
    }
    Ok(())
}

fn other_shapes_are_padded(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let foreign = Pool::builder().frames(64).build()?;
    soil(a.pool())?;
    soil(&foreign)?;
    for length in 14..=60 {
        let mut frame = frames::numbered(b.mac(), length as u32, length.max(18));
        frame.truncate(length);
        let packets = [
            foreign.packet(&frame).ok_or("the pool has no frame")?,
            chain(a.pool(), &frame, length / 2)?,
            chain(&foreign, &frame, length - 1)?,
        ];
        for (shape, packet) in packets.into_iter().enumerate() {
            let left = a.tx[0].send_one(packet)?;
            ensure!(left.is_none(), "{length} bytes in shape {shape} were not accepted");
            let arrived = b.receive(1)?;
            same!(arrived, [frames::padded(frame.clone())], "{length} bytes in shape {shape}");
        }
    }
    Ok(())
}

fn cut_anywhere(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let frame = frames::udp(b.mac(), frames::Flow::nth(3), &[0x5a; 200]);
    for at in 0..=50 {
        let packet = chain(a.pool(), &frame, at)?;
        same!(packet.len(), frame.len(), "the chain's length");
        ensure!(a.tx[0].send_one(packet)?.is_none(), "a chain cut at {at} was not accepted");
        same!(b.receive(1)?, std::slice::from_ref(&frame), "the frame that was cut at {at}");
    }
    Ok(())
}
