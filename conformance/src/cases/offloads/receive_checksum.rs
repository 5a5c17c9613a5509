//! O1: the status of received checksums is never wrong.

use anyport::packet::ChecksumStatus::{self, Bad, Good, Unknown};

use super::{RX_CHECKSUM, each_way};
use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::{self, Flow};
use crate::ip::{self, Headers};
use crate::side::Side;
use crate::{ensure, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "offloads.receive_checksum_good_and_bad",
        clauses: &["O1"],
        about: "Sends UDP and TCP over both versions of IP, tagged and not, right and damaged in header, transport header, \
                payload or checksum.",
        why: "An application that trusts a `good` which is not throws its own check away.",
        needs: &[Need::TwoWay],
        run: good_and_bad,
    },
    Case {
        name: "offloads.receive_checksum_unknown",
        clauses: &["O1"],
        about: "Sends fragments, UDP without a checksum, other protocols, truncated packets and frames that are no IP.",
        why: "There is nothing to be said of them, and a guess is wrong half of the time.",
        needs: &[Need::TwoWay],
        run: unknown,
    },
    Case {
        name: "offloads.receive_checksum_is_never_wrong",
        clauses: &["O1"],
        about: "Sends 2,000 frames with random bytes changed, cut off or added, and compares each status with what \
                etherparse says.",
        why: "The odd frame is the one that an attacker sends.",
        needs: &[Need::TwoWay],
        run: never_wrong,
    },
];

/// What became of frames: the bytes, and the two statuses.
type Judged = (Vec<u8>, ChecksumStatus, ChecksumStatus);

/// Passes frames to a port that leaves unfinished checksums as they are.
fn judged(a: &mut Side, b: &mut Side, sent: &[Vec<u8>]) -> Verdict<Vec<Judged>> {
    let mut judged = Vec::with_capacity(sent.len());
    for chunk in sent.chunks(16) {
        a.send(chunk)?;
        let until = judged.len() + chunk.len();
        while judged.len() < until {
            let burst = b.receive_packets()?;
            judged.extend(burst.iter().map(|packet| {
                (packet.data().to_vec(), packet.ip_checksum(), packet.l4_checksum())
            }));
        }
    }
    let same = judged.iter().map(|(frame, ..)| frame).eq(sent);
    ensure!(same, "a frame was changed or lost");
    Ok(judged)
}

/// Passes frames and compares the statuses with what is expected; a device may always say `Unknown`.
fn expect(ctx: &Ctx, frames: impl Fn(&Side) -> Vec<Judged>) -> Verdict {
    each_way(ctx, End::B, RX_CHECKSUM, |keys, software| {
        let (mut a, mut b) = ctx.pair_with("", &format!("{keys},finish_checksums=off"))?;
        let expected = frames(&b);
        let sent: Vec<_> = expected.iter().map(|(frame, ..)| frame.clone()).collect();
        for (found, expected) in judged(&mut a, &mut b, &sent)?.iter().zip(&expected) {
            let pairs = [(found.1, expected.1, "header"), (found.2, expected.2, "transport")];
            for (found, status, which) in pairs {
                let fits = found == status || (!software && found == Unknown);
                ensure!(fits, "{which} of {:02x?}: {found:?}, not {status:?}", expected.0);
            }
        }
        Ok(())
    })
}

fn good_and_bad(ctx: &Ctx) -> Verdict {
    expect(ctx, |b| {
        let mut all = Vec::new();
        for (number, kind) in ip::kinds().enumerate() {
            let ip = if kind.v6 { Unknown } else { Good };
            for length in [0, 1, 18, 19, 1000] {
                let payload: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
                let frame = kind.frame(b.mac(), Flow::nth(number as u16), &payload);
                let change = |at: usize| {
                    let mut frame = frame.clone();
                    frame[at] ^= 0x10;
                    frames::padded(frame)
                };
                all.push((frames::padded(frame.clone()), ip, Good));
                // A port, the checksum, the last byte of what is covered.
                let places = [kind.l4(), kind.field(), kind.field() + 1, frame.len() - 1];
                all.extend(places.map(|at| (change(at), ip, Bad)));
                if !kind.v6 {
                    // The time to live is in the header alone; an address in both.
                    all.push((change(kind.l3() + 8), Bad, Good));
                    all.push((change(kind.l3() + 10), Bad, Good));
                    all.push((change(kind.l3() + 15), Bad, Bad));
                }
            }
        }
        all
    })
}

/// The frame with a right header checksum again, after its header was changed.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    let at = Headers::UDP.l3();
    ip::put(&mut frame, at + 10, 0);
    let sum = ip::sum(&frame[at..at + 20]);
    ip::put(&mut frame, at + 10, !sum);
    frame
}

fn unknown(ctx: &Ctx) -> Verdict {
    expect(ctx, |b| {
        let udp = Headers::UDP.frame(b.mac(), Flow::nth(1), &[7; 100]);
        let tcp = Headers::TCP.frame(b.mac(), Flow::nth(1), &[7; 100]);
        let change = |frame: &[u8], at: usize, value: u16| {
            let mut frame = frame.to_vec();
            ip::put(&mut frame, at, value);
            frame
        };
        let l3 = Headers::UDP.l3();
        vec![
            (frames::numbered(b.mac(), 1, 100), Unknown, Unknown),
            // Fragments: the first, one in the middle, the last.
            (mended(change(&udp, l3 + 6, 0x2000)), Good, Unknown),
            (mended(change(&tcp, l3 + 6, 0x2003)), Good, Unknown),
            (mended(change(&udp, l3 + 6, 0x0003)), Good, Unknown),
            (change(&udp, Headers::UDP.field(), 0), Good, Unknown),
            // ICMP, and a protocol that nobody has.
            (mended(change(&udp, l3 + 8, 0x4001)), Good, Unknown),
            (mended(change(&udp, l3 + 8, 0x40fe)), Good, Unknown),
            // More than the frame holds; a header that cannot be.
            (mended(change(&tcp, l3 + 2, 1000)), Good, Unknown),
            (change(&udp, Headers::UDP.l4() + 4, 1000), Good, Unknown),
            (change(&udp, l3, 0x4400), Unknown, Unknown),
            (change(&udp, l3, 0x5500), Unknown, Unknown),
            // The header is all that is left of it.
            (frames::padded(udp[..30].to_vec()), Bad, Unknown),
            (change(&tcp, 12, 0x88b5), Unknown, Unknown),
        ]
        .into_iter()
        // Cut off behind ten bytes of header and padded, it is not the header it was.
        .map(|(frame, ip, l4)| match frame.len() {
            60 => (
                frame.clone(),
                ip::judge(&frame).0.map_or(Unknown, |ok| if ok { Good } else { Bad }),
                l4,
            ),
            _ => (frame, ip, l4),
        })
        .collect()
    })
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        // Xorshift: good enough to pick places.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// A right frame with something done to it.
fn mutation(numbers: &mut Numbers, kinds: &[Headers], b: &Side) -> Vec<u8> {
    let kind = kinds[numbers.next(kinds.len())];
    let payload: Vec<u8> = (0..numbers.next(200)).map(|_| numbers.next(256) as u8).collect();
    let mut frame = kind.frame(b.mac(), Flow::nth(numbers.next(1000) as u16), &payload);
    // The headers are where it matters.
    let end = frame.len().min(kind.l4() + 20);
    match numbers.next(6) {
        0 => {}
        1 => frame.truncate(14 + numbers.next(frame.len() - 14)),
        2 => frame.extend((0..numbers.next(40)).map(|at| at as u8)),
        3 => {
            let at = 12 + numbers.next(end - 13);
            ip::put(&mut frame, at, numbers.next(65536) as u16);
        }
        _ => {
            for _ in 0..=numbers.next(3) {
                let at = 12 + numbers.next(end - 12);
                frame[at] ^= 1 << numbers.next(8);
            }
        }
    }
    frames::padded(frame)
}

fn never_wrong(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, RX_CHECKSUM, |keys, _| {
        let (mut a, mut b) = ctx.pair_with("", &format!("{keys},finish_checksums=off"))?;
        let kinds: Vec<Headers> = ip::kinds().collect();
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let sent: Vec<_> = (0..2000).map(|_| mutation(&mut numbers, &kinds, &b)).collect();
        let mut said = [0; 3];
        for (frame, ip, l4) in judged(&mut a, &mut b, &sent)? {
            let oracle = ip::judge(&frame);
            for (status, right, which) in [(ip, oracle.0, "header"), (l4, oracle.1, "transport")] {
                let wrong = matches!((status, right), (Good, Some(false)) | (Bad, Some(true)));
                ensure!(!wrong, "{which} of {frame:02x?}: {status:?}");
                said[status as usize] += 1;
            }
        }
        same!(said.iter().sum::<i32>(), 4000, "statuses");
        Ok(())
    })
}
