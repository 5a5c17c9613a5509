//! F8: devices that lie. They are the suite's own ([`hostile`](crate::hostile)), so these cases are about the common layer,
//! which every port has above it, and about what it offers to backends for checking what a device says.

use std::time::{Duration, Instant};

use anyport::{Burst, Error, Pool, Port, Registry};

use crate::case::{Case, Verdict};
use crate::ctx::{Ctx, PATIENCE};
use crate::hostile::{self, Hostile, LENGTHS, Lie, OWN, SEGMENTS};
use crate::side::{bytes, woken};
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "faults.a_device_lies_about_lengths",
        clauses: &["F8", "R4", "S4"],
        about: "A device reports frames of 0 to 65,535 bytes, in one piece and in many: what is no frame of this port is \
                dropped and counted, the rest is delivered to the byte.",
        why: "A length that is believed is a read beyond the frame, in every program at once.",
        needs: &[],
        run: lengths,
    },
    Case {
        name: "faults.a_device_lies_about_pieces",
        clauses: &["F8", "R4"],
        about: "A device delivers frames of 100 bytes in up to 100 pieces to ports that take one or two: they come in no more, \
                and whole.",
        why: "An application that was not configured for chains looks at the first piece only.",
        needs: &[],
        run: pieces,
    },
    Case {
        name: "faults.a_device_lies_about_places",
        clauses: &["F8"],
        about: "Takes 20,000 descriptors with random frame numbers, offsets and lengths back into a pool: those outside are \
                refused, those inside lie within their frame, and no other frame is touched.",
        why: "Backends take frames back by what a device wrote; this is the one place that has to be right.",
        needs: &[],
        run: places,
    },
    Case {
        name: "faults.registers_of_all_ones",
        clauses: &["F8", "S3"],
        about: "A device whose counters, speed and backlog read all ones, as those of a card that was pulled out do: reading \
                them is no panic and no overflow, and stop and close work.",
        why: "Reading statistics must not be what brings a program down.",
        needs: &[],
        run: all_ones,
    },
    Case {
        name: "faults.an_address_of_all_ones",
        clauses: &["F8", "M1"],
        about: "Opens a device whose address reads ff:ff:ff:ff:ff:ff: an error that says so, and nothing left open.",
        why: "A port that believes broadcast to be its own address filters wrongly and sends worse.",
        needs: &[],
        run: address_of_ones,
    },
    Case {
        name: "faults.a_device_that_takes_nothing",
        clauses: &["F8", "T3", "L6"],
        about: "A device that never has room: send accepts none, flush and stop end, the packets stay the caller's.",
        why: "A stuck device must not take the program with it.",
        needs: &[],
        run: takes_nothing,
    },
    Case {
        name: "faults.a_device_that_only_fails",
        clauses: &["F8", "L10"],
        about: "A device all of whose calls fail, one that makes too few queues, one whose descriptor does not exist: errors, \
                no frame lost, close works, and the device can be opened again.",
        why: "What a driver cannot do must come out as an error, whatever it was.",
        needs: &[],
        run: only_fails,
    },
];

/// A device with a lie, and a pool of 256 frames that hold 1,792 bytes.
fn device(ctx: &Ctx, lie: Lie) -> Verdict<(Registry, String, Pool)> {
    let mut registry = Registry::new();
    registry.register(Hostile(lie))?;
    // Suites of the same process do not meet: the thread is part of the name.
    let name = format!("hostile:{:?}-{}", std::thread::current().id(), ctx.unique());
    Ok((registry, name, Pool::builder().frames(256).frame_size(2048).build()?))
}

fn lengths(ctx: &Ctx) -> Verdict {
    for segments in [1, 2] {
        let (registry, name, pool) = device(ctx, Lie::Lengths)?;
        let mut port = registry.open_with(&format!("{name},max_segments={segments}"), &pool)?;
        let mut rx = port.start()?.into_pair().0;
        let mut burst = Burst::new();
        same!(woken(&mut rx)?, anyport::Wake::Ready, "what a wait says");
        let mut found = Vec::new();
        while rx.recv(&mut burst)? > 0 {
            for packet in burst.drain() {
                let expected = hostile::frame(packet.len());
                ensure!(bytes(&packet) == expected, "{} bytes were changed", packet.len());
                same!(packet.segment_count(), 1, "segments of {} bytes", packet.len());
                found.push(packet.len());
            }
        }
        found.sort_unstable();
        same!(found, [14, 59, 60, 1514], "lengths that were delivered");
        let counters = port.stats().read().port;
        same!(counters.rx_too_short, Some(3), "frames counted as too short");
        let rest = (LENGTHS.len() - 4 - 3) as u64;
        same!(counters.rx_too_long, Some(rest), "frames counted as too long");
        drop(rx);
        port.close()?;
        same!(pool.free(), 256, "frames that came back");
    }
    Ok(())
}

fn pieces(ctx: &Ctx) -> Verdict {
    for segments in [1, 2] {
        let (registry, name, pool) = device(ctx, Lie::Segments)?;
        let mut port = registry.open_with(&format!("{name},max_segments={segments}"), &pool)?;
        let mut rx = port.start()?.into_pair().0;
        let mut burst = Burst::new();
        rx.recv(&mut burst)?;
        same!(burst.len(), SEGMENTS.len(), "frames that were delivered");
        for packet in &burst {
            let count = packet.segment_count();
            ensure!(count <= segments, "{count} segments where {segments} are configured");
            ensure!(bytes(packet) == hostile::frame(100), "a frame in pieces was changed");
        }
        drop((burst, rx, port));
        same!(pool.free(), 256, "frames that came back");
    }
    Ok(())
}

fn places(_: &Ctx) -> Verdict {
    const FRAMES: u32 = 64;
    let pool = Pool::builder().frames(FRAMES).frame_size(2048).build()?;
    // Every second frame is held and must not be touched.
    let mut all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    for packet in &mut all {
        packet.fill(&[0xa5; 1792])?;
    }
    let held: Vec<_> = (0..FRAMES / 2).filter_map(|_| all.pop()).collect();
    let region = pool.region();
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        number
    };
    let one = region.lend(all.pop().ok_or("the pool is empty")?).map_err(|_| "not lent")?;
    // SAFETY: the frame was lent just now, nobody writes to it, and all but the last of these give nothing.
    let packet = unsafe {
        let limits = [
            (FRAMES, 0, 0),
            (u32::MAX, 0, 0),
            (one, 1, 2048),
            (one, 0, 2049),
            (one, 2049, 0),
            (one, usize::MAX, 1),
            (one, 1, usize::MAX),
        ];
        for (index, offset, length) in limits {
            let taken = region.take_back(index, offset, length);
            ensure!(taken.is_none(), "frame {index} of {FRAMES}, {length} bytes at {offset}");
        }
        region.take_back(one, 0, 2048)
    };
    all.push(packet.ok_or("a whole frame was refused")?);
    let (mut inside, mut refused) = (0, 0);
    for round in 0..20_000 {
        let packet = all.pop().ok_or("a frame was lost")?;
        let index = region.lend(packet).map_err(|_| "a frame could not be lent")?;
        let wild = |value: u64| match round % 3 {
            0 => value as usize,
            1 => value as usize % 5000,
            _ => value as usize % 1000,
        };
        let (offset, length) = (wild(random()), wild(random()));
        let lie = index.wrapping_add(FRAMES * (random() as u32 % 2 * (1 + random() as u32 % 1000)));
        let legal = lie == index && offset.checked_add(length).is_some_and(|end| end <= 2048);
        // SAFETY: the frame was lent just now, nobody writes to it, and it is taken back once: a number outside the
        // pool gives nothing, and then it is taken back below.
        let taken = unsafe { region.take_back(lie, offset, length) };
        same!(taken.is_some(), legal, "frame {lie} of {FRAMES}, {length} bytes at {offset}");
        let packet = match taken {
            Some(mut packet) => {
                inside += 1;
                same!((packet.len(), packet.headroom()), (length, offset), "length and place");
                packet.data_mut().fill(round as u8);
                packet
            }
            None => {
                refused += 1;
                // SAFETY: as above; what the lie said was not taken.
                unsafe { region.take_back(index, 256, 0) }.ok_or("a good frame was refused")?
            }
        };
        all.push(packet);
    }
    ensure!(inside > 1000 && refused > 1000, "{inside} inside and {refused} outside");
    let untouched = held.iter().all(|packet| packet.data() == [0xa5; 1792]);
    ensure!(untouched, "a frame that was not lent was written to");
    drop((all, held));
    same!(pool.free(), FRAMES as usize, "frames that came back");
    Ok(())
}

fn all_ones(ctx: &Ctx) -> Verdict {
    for lie in [Lie::Counters, Lie::Link, Lie::Outstanding] {
        let (registry, name, pool) = device(ctx, lie)?;
        let mut port = registry.open_with(&format!("{name},queues=2"), &pool)?;
        let (control, stats) = (port.control(), port.stats());
        // Stop waits a second for what remains.
        let rounds = if lie == Lie::Outstanding { 1 } else { 2 };
        for _ in 0..rounds {
            let mut queues = port.start()?;
            let mut burst = Burst::new();
            for number in 0..10 {
                let frame = frames::numbered(OWN, number, 60);
                let _ = burst.push(pool.packet(&frame).ok_or("the pool is empty")?);
            }
            same!(queues.tx[0].send(&mut burst)?, 10, "packets that were accepted");
            let left = queues.tx[0].flush(Duration::from_millis(1))?;
            same!(left > 0, lie == Lie::Outstanding, "whether any are said to remain");
            ensure!(control.link()?.up, "the link is down");
            stats.read();
            port.stop()?;
        }
        let counters = stats.read().port;
        let accounted =
            counters.tx_packets.unwrap_or(0).saturating_add(counters.tx_dropped.unwrap_or(0));
        ensure!(lie == Lie::Counters || accounted == rounds * 10, "sent and dropped: {counters:?}");
        port.close()?;
        stats.read();
        same!(pool.free(), 256, "frames that came back");
    }
    Ok(())
}

fn address_of_ones(ctx: &Ctx) -> Verdict {
    let (registry, name, _) = device(ctx, Lie::Address)?;
    for _ in 0..2 {
        // The second time it would be busy, had the first left it open.
        match registry.open(&name) {
            Err(error @ Error::Backend { .. }) => {
                let text = error.to_string();
                ensure!(text.contains("ff:ff:ff:ff:ff:ff"), "the error does not say it: {text}");
            }
            other => return Err(format!("instead of an error: {:?}", other.map(drop)).into()),
        }
    }
    Ok(())
}

fn takes_nothing(ctx: &Ctx) -> Verdict {
    let (registry, name, pool) = device(ctx, Lie::Room)?;
    let mut port = registry.open_with(&name, &pool)?;
    let mut tx = port.start()?.into_pair().1;
    let frame = frames::numbered(OWN, 1, 60);
    let mut burst = Burst::new();
    let _ = burst.push(pool.packet(&frame).ok_or("the pool is empty")?);
    for _ in 0..1000 {
        same!(tx.send(&mut burst)?, 0, "packets that were accepted");
    }
    same!(burst[0].data(), &frame[..], "the packet that is still the caller's");
    same!(tx.flush(Duration::from_millis(1))?, 0, "what remains");
    let start = Instant::now();
    port.stop()?;
    ensure!(start.elapsed() < PATIENCE, "stop took {:?}", start.elapsed());
    drop(burst);
    same!(pool.free(), 256, "frames that came back");
    same!(port.stats().read().port.tx_packets, Some(0), "frames counted as sent");
    Ok(())
}

/// Opens and closes again, which works only if nothing was left open.
fn reopens(registry: &Registry, name: &str) -> Verdict {
    Ok(registry.open(name)?.close()?)
}

fn only_fails(ctx: &Ctx) -> Verdict {
    let (registry, name, pool) = device(ctx, Lie::Calls)?;
    let mut port = registry.open_with(&name, &pool)?;
    let (mut rx, mut tx) = port.start()?.into_pair();
    let mut burst = Burst::new();
    let _ = burst.push(pool.packet(&frames::numbered(OWN, 1, 60)).ok_or("the pool is empty")?);
    for _ in 0..10 {
        refused!(tx.send(&mut burst), Error::Backend { .. }, "send");
        refused!(rx.recv(&mut Burst::new()), Error::Backend { .. }, "recv");
        refused!(rx.wait(PATIENCE), Error::Backend { .. }, "wait");
        refused!(rx.arm(), Error::Backend { .. }, "arm");
        refused!(tx.flush(PATIENCE), Error::Backend { .. }, "flush");
    }
    same!(burst.len(), 1, "packets that are still the caller's");
    drop(burst);
    port.close()?;
    refused!(rx.recv(&mut Burst::new()), Error::Closed, "recv after close");
    reopens(&registry, &name)?;
    same!(pool.free(), 256, "frames that came back");

    let (registry, name, pool) = device(ctx, Lie::Queues)?;
    let mut port: Port = registry.open_with(&name, &pool)?;
    for _ in 0..3 {
        refused!(port.start(), Error::Backend { .. }, "starting with too few queues");
    }
    port.close()?;
    reopens(&registry, &name)?;

    let (registry, name, pool) = device(ctx, Lie::Descriptor)?;
    let mut port = registry.open_with(&name, &pool)?;
    let mut rx = port.start()?.into_pair().0;
    refused!(rx.wait(PATIENCE), Error::Os { .. }, "waiting on a descriptor that is not there");
    refused!(rx.arm(), Error::Os { .. }, "arming it");
    same!(rx.recv(&mut Burst::new())?, 0, "receiving without it");
    port.close()?;
    reopens(&registry, &name)
}
