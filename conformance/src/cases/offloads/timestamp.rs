//! O4: timestamps say when, by which clock, and who took them.

use anyport::packet::{Clock, Timestamp, TimestampSource, TxRequests};
use anyport::time::{monotonic_ns, realtime_ns};

use super::{RX_TIMESTAMP, TX_TIMESTAMP, each_way};
use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End, eventually};
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "offloads.receive_timestamps_are_of_now",
        clauses: &["O4"],
        about: "Receives 500 frames: each has a timestamp with source and clock, between the moments before it was sent and \
                after it was received, and none before its predecessor's.",
        why: "A timestamp of another clock, or in microseconds, makes every latency wrong.",
        needs: &[Need::TwoWay],
        run: receive_of_now,
    },
    Case {
        name: "offloads.receive_timestamps_are_of_arrival",
        clauses: &["O4"],
        about: "Lets frames wait in the ring before they are received.",
        why: "A device's or kernel's timestamp that is taken when the application comes round measures the application.",
        needs: &[Need::TwoWay],
        run: receive_of_arrival,
    },
    Case {
        name: "offloads.transmit_timestamps",
        clauses: &["O4"],
        about: "Sends frames of which every third asks for a transmit timestamp: each of those, and no other, gets one with \
                its mark, in order.",
        why: "A timestamp that cannot be matched to its frame is noise.",
        needs: &[Need::TwoWay, Need::TxTimestamp],
        run: transmit,
    },
];

/// The clock now; `None` for a device's own.
fn now(clock: Clock) -> Option<u64> {
    match clock {
        Clock::RealTime => Some(realtime_ns()),
        Clock::Monotonic => Some(monotonic_ns()),
        Clock::Device => None,
    }
}

/// Who can have taken it: software if the device cannot.
fn plausible(stamp: Timestamp, software: bool) -> Verdict {
    if software {
        let expected = (TimestampSource::Software, Clock::RealTime);
        same!((stamp.source, stamp.clock), expected, "source and clock of a software timestamp");
    } else if stamp.source == TimestampSource::Kernel {
        ensure!(stamp.clock != Clock::Device, "a kernel's timestamp by a device's clock");
    }
    Ok(())
}

fn receive_of_now(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, RX_TIMESTAMP, |keys, software| {
        let (mut a, mut b) = ctx.pair_with("", keys)?;
        let mut last = None;
        for number in 0..500 {
            let before = [Clock::RealTime, Clock::Monotonic, Clock::Device].map(now);
            a.send(&[frames::numbered(b.mac(), number, 60)])?;
            let packet = b.receive_packet()?;
            let stamp = packet.timestamp().ok_or("a frame has no timestamp")?;
            plausible(stamp, software)?;
            let (ns, clock) = (stamp.ns, stamp.clock);
            if let (Some(before), Some(after)) = (before[clock as usize], now(clock)) {
                ensure!((before..=after).contains(&ns), "{ns} is not in {before}..={after}");
            }
            let (last_ns, last_clock) = last.unwrap_or((0, clock));
            same!(clock, last_clock, "the clock of frame {number}");
            ensure!(ns >= last_ns, "frame {number}: {ns} comes after {last_ns}");
            last = Some((ns, clock));
        }
        Ok(())
    })
}

fn receive_of_arrival(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, RX_TIMESTAMP, |keys, software| {
        let (mut a, mut b) = ctx.pair_with("", keys)?;
        let sent = frames::run(b.mac(), 20, 60);
        a.send(&sent)?;
        // Long enough to be told apart from what a call takes.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let fetched = [Clock::RealTime, Clock::Monotonic, Clock::Device].map(now);
        let mut stamps = Vec::new();
        while stamps.len() < sent.len() {
            stamps.extend(b.receive_packets()?.iter().filter_map(|packet| packet.timestamp()));
        }
        let ordered = stamps.is_sorted_by_key(|stamp| stamp.ns);
        ensure!(ordered, "the timestamps go back: {stamps:?}");
        let before =
            |stamp: &Timestamp| fetched[stamp.clock as usize].is_none_or(|at| stamp.ns < at);
        let kinds = [TimestampSource::Hardware, TimestampSource::Kernel];
        for stamp in &stamps {
            plausible(*stamp, software)?;
            let taken_below = kinds.contains(&stamp.source);
            ensure!(!taken_below || before(stamp), "{stamp:?} was taken when it was fetched");
        }
        Ok(())
    })
}

fn transmit(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, TX_TIMESTAMP, |keys, _| {
        let (mut a, mut b) = ctx.pair_with(keys, "")?;
        let before = [Clock::RealTime, Clock::Monotonic, Clock::Device].map(now);
        let sent = frames::run(b.mac(), 300, 60);
        for (chunk, number) in sent.chunks(30).zip((0..).step_by(30)) {
            let mut burst = a.burst(chunk)?;
            for (packet, number) in burst.iter_mut().zip(number..) {
                packet.set_mark(1000 + number);
                let timestamp = number % 3 == 0;
                packet.set_requests(TxRequests { timestamp, ..TxRequests::default() });
            }
            a.send_burst(0, &mut burst)?;
            same!(b.receive(chunk.len())?, chunk, "what arrived");
        }
        let mut last = 0;
        for number in (0..300).step_by(3) {
            let stamp = eventually("a transmit timestamp", || Ok(a.tx[0].take_timestamp()?))?;
            same!(stamp.mark, 1000 + number, "the mark");
            let clock = stamp.at.clock;
            if let (Some(before), Some(after)) = (before[clock as usize], now(clock)) {
                ensure!((before..=after).contains(&stamp.at.ns), "{stamp:?} is not of now");
            }
            ensure!(stamp.at.ns >= last, "{stamp:?} comes after {last}");
            last = stamp.at.ns;
        }
        same!(a.tx[0].take_timestamp()?, None, "timestamps that nobody asked for");
        Ok(())
    })
}
