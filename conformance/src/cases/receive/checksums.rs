//! R3: checksums that a sending kernel left to a device which does not exist.

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::{self, Flow};
use crate::ip::{self, Headers};
use crate::{ensure, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.unfinished_checksums_are_finished",
        clauses: &["R3"],
        about: "Sends UDP and TCP over IPv4 and IPv6, tagged and not, whose checksum field holds the sum of the pseudo \
                header, to a port with finish_checksums=on.",
        why: "TCP does not survive a forwarder that passes such frames on: the receiver drops every one.",
        needs: &[Need::TwoWay],
        run: unfinished_are_finished,
    },
    Case {
        name: "receive.unfinished_checksums_stay_when_off",
        clauses: &["R3"],
        about: "Sends the same frames to a port with finish_checksums=off.",
        why: "A capture must show what was on the wire when it is told to.",
        needs: &[Need::TwoWay],
        run: unfinished_stay_when_off,
    },
    Case {
        name: "receive.unfinished_checksums_follow_the_link",
        clauses: &["R3"],
        about: "Sends the same frames to a port with its default, finish_checksums=auto: finished on a software link, left \
                alone elsewhere.",
        why: "On a wire between machines every checksum is the sender's, and a receiver that mends it hides damage.",
        needs: &[Need::TwoWay],
        run: unfinished_follow_the_link,
    },
    Case {
        name: "receive.finished_checksums_stay",
        clauses: &["R3"],
        about: "Sends right frames, among them ones whose right checksum equals the pseudo header's sum, and damaged ones, \
                to a port with finish_checksums=on.",
        why: "Mending what only looks unfinished damages good frames; mending damaged ones hides the damage.",
        needs: &[Need::TwoWay],
        run: finished_stay,
    },
    Case {
        name: "receive.unfinished_sctp_is_finished",
        clauses: &["R3"],
        about: "Sends SCTP packets whose checksum is 0, as a kernel leaves it, right ones, and damaged ones, to a port with \
                finish_checksums=on.",
        why: "SCTP does not survive a forwarder either, and its checksum is another.",
        needs: &[Need::TwoWay],
        run: sctp,
    },
    Case {
        name: "receive.what_has_no_checksum_stays",
        clauses: &["R3"],
        about: "Sends fragments, UDP without a checksum, other protocols, and IP packets that are cut off, to a port with \
                finish_checksums=on.",
        why: "A field that is no checksum, or covers bytes that are not there, must not be written to.",
        needs: &[Need::TwoWay],
        run: no_checksum_stays,
    },
];

/// Right frames of all kinds, each with how it is built.
fn right_frames(to: anyport::MacAddr) -> Vec<(Headers, Vec<u8>)> {
    let lengths = [2, 3, 18, 999, 1000, 1400];
    let all = ip::kinds().flat_map(|kind| lengths.map(|length| (kind, length)));
    all.enumerate()
        .map(|(at, (kind, length))| {
            let payload: Vec<u8> = (0..length).map(|i| (i * 7 + at) as u8).collect();
            (kind, kind.frame(to, Flow::nth(at as u16), &payload))
        })
        .collect()
}

/// Sends the frames of all kinds unfinished to a port with these keys; what arrived, and the right ones. The frames
/// are brought to 60 bytes before: padding is none of this case's business.
fn unfinished(ctx: &Ctx, keys: &str) -> Verdict<[Vec<Vec<u8>>; 3]> {
    let (mut a, mut b) = ctx.pair_with("", keys)?;
    let right = right_frames(b.mac());
    let sent: Vec<_> =
        right.iter().map(|(kind, frame)| frames::padded(kind.unfinished(frame.clone()))).collect();
    let right = right.into_iter().map(|(_, frame)| frames::padded(frame)).collect();
    let arrived = a.pass_to(&mut b, &sent)?;
    same!(arrived.len(), sent.len(), "frames that arrived");
    Ok([arrived, sent, right])
}

fn unfinished_are_finished(ctx: &Ctx) -> Verdict {
    let [arrived, _, right] = unfinished(ctx, "finish_checksums=on")?;
    for (found, right) in arrived.iter().zip(&right) {
        same!(found, right, "a frame whose checksum was unfinished");
    }
    Ok(())
}

fn unfinished_stay_when_off(ctx: &Ctx) -> Verdict {
    let [arrived, sent, _] = unfinished(ctx, "finish_checksums=off")?;
    ensure!(arrived == sent, "a frame was changed");
    Ok(())
}

fn unfinished_follow_the_link(ctx: &Ctx) -> Verdict {
    let [arrived, sent, right] = unfinished(ctx, "")?;
    let (expected, what) = match ctx.capability(End::B).software_link {
        true => (right, "finished"),
        false => (sent, "left alone"),
    };
    ensure!(arrived == expected, "an unfinished frame was not {what}, as auto means here");
    Ok(())
}

/// A frame whose pseudo header's sum and right checksum are both 0xffff: the number 0, which has another form.
fn of_ones(kind: Headers, to: anyport::MacAddr) -> Vec<u8> {
    let mut flow = Flow { from: [10, 1, 0, 0], ..Flow::nth(3) };
    let missing = 0xffff - kind.pseudo(&kind.frame(to, flow, &[1; 30]));
    flow.from[2..].copy_from_slice(&missing.to_be_bytes());
    kind.with_checksum(kind.frame(to, flow, &[1; 30]), 0xffff)
}

fn finished_stay(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("", "finish_checksums=on")?;
    let mut sent = Vec::new();
    for (kind, frame) in right_frames(b.mac()) {
        let pseudo = kind.pseudo(&frame);
        let colliding = kind.with_checksum(frame.clone(), pseudo);
        ensure!(ip::right(&colliding) == Some(true), "the case built a wrong frame");
        let damaged = [0x0100, 0x8001, 0xffff].map(|bits| {
            let mut damaged = frame.clone();
            let field = ip::get(&damaged, kind.field()) ^ bits;
            // The one value that cannot be told from an unfinished one is left out.
            ip::put(&mut damaged, kind.field(), if field == pseudo { field ^ 2 } else { field });
            damaged
        });
        sent.extend([frame, colliding]);
        sent.extend(damaged);
    }
    sent.extend([Headers::UDP, Headers::TCP].map(|kind| of_ones(kind, b.mac())));
    let sent: Vec<_> = sent.into_iter().map(frames::padded).collect();
    let arrived = a.pass_to(&mut b, &sent)?;
    same!(arrived.len(), sent.len(), "frames that arrived");
    for (found, frame) in arrived.iter().zip(&sent) {
        same!(found, frame, "a frame with a finished checksum");
    }
    Ok(())
}

fn sctp(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("", "finish_checksums=on")?;
    let field = Headers::UDP.l4() + 8;
    for length in [16, 100, 1000] {
        let right = ip::sctp(b.mac(), Flow::nth(1), &vec![0x77; length]);
        let (mut zero, mut damaged) = (right.clone(), right.clone());
        zero[field..field + 4].fill(0);
        damaged[field] ^= 0x40;
        let sent = [zero, right.clone(), damaged.clone()].map(frames::padded);
        let expected = [right.clone(), right, damaged].map(frames::padded);
        same!(a.pass_to(&mut b, &sent)?, expected, "SCTP with {length} bytes of chunks");
    }
    Ok(())
}

fn no_checksum_stays(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("", "finish_checksums=on")?;
    let (udp, tcp) = (Headers::UDP, Headers::TCP);
    let unfinished =
        |kind: Headers| kind.unfinished(kind.frame(b.mac(), Flow::nth(9), &[0x5a; 100]));
    let change = |mut frame: Vec<u8>, at: usize, value: u16| {
        ip::put(&mut frame, at, value);
        frame
    };
    let ip_at = udp.l3();
    let sent = vec![
        // Fragments: the first of several, one in the middle.
        change(unfinished(udp), ip_at + 6, 0x2000),
        change(unfinished(tcp), ip_at + 6, 0x2005),
        // No checksum at all.
        change(unfinished(udp), udp.field(), 0),
        // ICMP, with bytes where UDP has its checksum.
        change(unfinished(udp), ip_at + 8, 0x4001),
        // IP says that there is more than the frame holds; UDP says so; UDP says less than its header.
        change(unfinished(tcp), ip_at + 2, 500),
        change(unfinished(udp), udp.l4() + 4, 500),
        change(unfinished(udp), udp.l4() + 4, 7),
        // A header shorter than IP's least; not IP at all.
        change(unfinished(tcp), ip_at, 0x4400),
        change(unfinished(tcp), 12, 0x88b5),
        // Cut off in the middle of the headers.
        frames::padded(unfinished(tcp)[..40].to_vec()),
        frames::padded(unfinished(udp)[..20].to_vec()),
    ];
    let arrived = a.pass_to(&mut b, &sent)?;
    same!(arrived.len(), sent.len(), "frames that arrived");
    for (found, frame) in arrived.iter().zip(&sent) {
        same!(found, frame, "a frame that has no checksum to finish");
    }
    Ok(())
}
