//! O2: transmit checksums are right on the wire.

use anyport::packet::{Checksums, L4Checksum, TxRequests};
use anyport::{Error, Packet, Pool};

use super::{TX_CHECKSUM, VLAN_INSERT, each_way};
use crate::case::{Case, Failure, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::{self, Flow};
use crate::ip::{self, Headers};
use crate::side::{Side, bytes};
use crate::{ensure, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "offloads.transmit_checksums_are_right",
        clauses: &["O2"],
        about: "Sends UDP and TCP over both versions of IP, tagged and not, of odd and even lengths, with garbage in the \
                checksum fields, and asks for the IPv4 header's, the transport's, or both.",
        why: "A frame with a wrong checksum is thrown away by its receiver, far from who could find out why.",
        needs: &[Need::TwoWay],
        run: are_right,
    },
    Case {
        name: "offloads.transmit_checksum_of_zero",
        clauses: &["O2"],
        about: "Sends datagrams whose UDP checksum comes to 0, which must go out as 0xffff, and TCP segments whose checksum \
                comes to 0.",
        why: "A 0 in a UDP header says that there is no checksum; over IPv6 the datagram is dropped.",
        needs: &[Need::TwoWay],
        run: of_zero,
    },
    Case {
        name: "offloads.only_what_was_asked_for",
        clauses: &["O2"],
        about: "Sends frames with wrong checksums that ask for none, or for one of two.",
        why: "A tester that sends wrong checksums on purpose must be able to.",
        needs: &[Need::TwoWay],
        run: only_what_was_asked_for,
    },
    Case {
        name: "offloads.transmit_checksums_with_a_tag",
        clauses: &["O2", "O3"],
        about: "Asks for checksums and a tag at once, by the device and in software, in all ways in which the two can be mixed.",
        why: "A tag moves what the checksum code looks at.",
        needs: &[Need::TwoWay],
        run: with_a_tag,
    },
    Case {
        name: "offloads.transmit_checksums_of_other_shapes",
        clauses: &["O2", "T7"],
        about: "Asks for checksums of packets of a foreign pool and of chains that are cut in header and payload.",
        why: "Each way through the transmit path has to fill them in.",
        needs: &[Need::TwoWay],
        run: other_shapes,
    },
    Case {
        name: "offloads.checksums_that_do_not_fit_the_frame",
        clauses: &["O2", "T1"],
        about: "Asks for a UDP checksum of a TCP segment, of a fragment, of what is no IP, and so on: an error, or the frame \
                as it was.",
        why: "A checksum written to where none belongs damages the frame.",
        needs: &[Need::TwoWay],
        run: do_not_fit,
    },
    Case {
        name: "offloads.an_unaccepted_packet_is_unchanged",
        clauses: &["O2", "O3", "T1"],
        about: "Offers packets that ask for checksums and a tag to a full queue: what is not accepted has not got them.",
        why: "An application that gets a packet back and sends it elsewhere must not send it with two tags.",
        needs: &[Need::TwoWay, Need::Rig(Power::Pause)],
        run: unaccepted_is_unchanged,
    },
];

/// The request for everything that a frame of this kind has.
fn all_of(kind: &Headers) -> TxRequests {
    let l4 = if kind.tcp { L4Checksum::Tcp } else { L4Checksum::Udp };
    let checksums = Checksums { ipv4: !kind.v6, l4 };
    TxRequests { checksums, ..TxRequests::default() }
}

/// The frame with garbage where its checksums are.
fn garbage(kind: &Headers, mut frame: Vec<u8>) -> Vec<u8> {
    ip::put(&mut frame, kind.field(), 0xbeef);
    if !kind.v6 {
        ip::put(&mut frame, kind.l3() + 10, 0xcafe);
    }
    frame
}

/// Sends a packet alone and gives what arrives.
fn pass(a: &mut Side, b: &mut Side, packet: Packet) -> Verdict<Vec<u8>> {
    ensure!(a.tx[0].send_one(packet)?.is_none(), "a packet was not accepted");
    Ok(bytes(&b.receive_packet()?))
}

/// Runs a check on a pair whose first end does transmit checksums, in each way; the second changes nothing.
fn with_pair(ctx: &Ctx, check: impl Fn(&mut Side, &mut Side) -> Verdict) -> Verdict {
    each_way(ctx, End::A, TX_CHECKSUM, |keys, _| {
        let (mut a, mut b) = ctx.pair_with(keys, "finish_checksums=off")?;
        check(&mut a, &mut b)
    })
}

fn are_right(ctx: &Ctx) -> Verdict {
    with_pair(ctx, |a, b| {
        for (number, kind) in ip::kinds().enumerate() {
            for length in [0, 1, 2, 17, 18, 19, 500, 501, 1400] {
                let payload: Vec<u8> = (0..length).map(|at| (at * 11 + number) as u8).collect();
                let right = kind.frame(b.mac(), Flow::nth(number as u16), &payload);
                let both = all_of(&kind);
                let l4 = Checksums { ipv4: false, ..both.checksums };
                let ipv4 = Checksums { l4: L4Checksum::None, ..both.checksums };
                for checksums in [both.checksums, l4, ipv4] {
                    let mut sent = garbage(&kind, right.clone());
                    // What is not asked for has to be right already.
                    if !checksums.ipv4 {
                        sent[kind.l3()..kind.l4()].copy_from_slice(&right[kind.l3()..kind.l4()]);
                    }
                    if checksums.l4 == L4Checksum::None {
                        ip::put(&mut sent, kind.field(), ip::get(&right, kind.field()));
                    }
                    let mut packet = a.packet(&sent)?;
                    packet.set_requests(TxRequests { checksums, ..both });
                    let found = pass(a, b, packet)?;
                    let what = format_args!("{kind:?}, {length} bytes, {checksums:?}");
                    same!(found, frames::padded(right.clone()), "{what}");
                }
            }
        }
        Ok(())
    })
}

fn of_zero(ctx: &Ctx) -> Verdict {
    with_pair(ctx, |a, b| {
        for kind in ip::kinds() {
            let frame = kind.frame(b.mac(), Flow::nth(5), &[0x33; 20]);
            let right = kind.with_checksum(frame, 0xffff);
            let mut packet = a.packet(&garbage(&kind, right.clone()))?;
            packet.set_requests(all_of(&kind));
            let found = pass(a, b, packet)?;
            same!(ip::right(&found), Some(true), "whether {kind:?} is right");
            if !kind.tcp {
                same!(ip::get(&found, kind.field()), 0xffff, "the checksum of {kind:?}");
            }
        }
        Ok(())
    })
}

fn only_what_was_asked_for(ctx: &Ctx) -> Verdict {
    with_pair(ctx, |a, b| {
        for kind in ip::kinds() {
            let right = kind.frame(b.mac(), Flow::nth(5), &[0x33; 21]);
            let wrong = garbage(&kind, right.clone());
            same!(pass(a, b, a.packet(&wrong)?)?, frames::padded(wrong.clone()), "asking for none");
            if kind.v6 {
                continue;
            }
            let mut packet = a.packet(&wrong)?;
            let checksums = Checksums { ipv4: true, l4: L4Checksum::None };
            packet.set_requests(TxRequests { checksums, ..TxRequests::default() });
            let mut expected = right.clone();
            ip::put(&mut expected, kind.field(), 0xbeef);
            same!(pass(a, b, packet)?, frames::padded(expected), "asking for the header's alone");
            let mut packet = a.packet(&wrong)?;
            let checksums = Checksums { ipv4: false, ..all_of(&kind).checksums };
            packet.set_requests(TxRequests { checksums, ..TxRequests::default() });
            let mut expected = right;
            ip::put(&mut expected, kind.l3() + 10, 0xcafe);
            same!(
                pass(a, b, packet)?,
                frames::padded(expected),
                "asking for the transport's alone"
            );
        }
        Ok(())
    })
}

fn with_a_tag(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, TX_CHECKSUM, |checksums, _| {
        each_way(ctx, End::A, VLAN_INSERT, |tags, _| {
            let keys = format!("{checksums},{tags}");
            let (mut a, mut b) = ctx.pair_with(&keys, "finish_checksums=off")?;
            for (number, kind) in ip::kinds().enumerate() {
                for length in [3, 18, 501] {
                    let right = kind.frame(b.mac(), Flow::nth(number as u16), &vec![7; length]);
                    let mut packet = a.packet(&garbage(&kind, right.clone()))?;
                    packet.set_requests(TxRequests { vlan: Some(0x6009), ..all_of(&kind) });
                    let expected = frames::padded(frames::tagged(right, 0x8100, 0x6009));
                    same!(pass(&mut a, &mut b, packet)?, expected, "{kind:?}, {length} bytes");
                }
            }
            Ok(())
        })
    })
}

/// A chain of the frame's bytes up to a place, and from there on.
fn chain(pool: &Pool, frame: &[u8], at: usize) -> Verdict<Packet> {
    let none = "the pool has no frame";
    let mut packet = pool.packet(&frame[..at]).ok_or(none)?;
    let rest = pool.packet(&frame[at..]).ok_or(none)?;
    packet.append(rest).map_err(|_| "a chain in one pool was refused")?;
    Ok(packet)
}

fn other_shapes(ctx: &Ctx) -> Verdict {
    with_pair(ctx, |a, b| {
        let foreign = Pool::builder().frames(64).build()?;
        for kind in [Headers::UDP, Headers::TCP] {
            let payload: Vec<u8> = (0..333).map(|at| at as u8).collect();
            let right = kind.frame(b.mac(), Flow::nth(8), &payload);
            let wrong = garbage(&kind, right.clone());
            let cuts = [20, kind.l4(), kind.l4() + 4, kind.field() + 1, 100, 101];
            let mut packets = vec![foreign.packet(&wrong).ok_or("the pool is empty")?];
            for at in cuts {
                packets.push(chain(a.pool(), &wrong, at)?);
                packets.push(chain(&foreign, &wrong, at)?);
            }
            for (shape, mut packet) in packets.into_iter().enumerate() {
                packet.set_requests(all_of(&kind));
                same!(pass(a, b, packet)?, right, "{kind:?} in shape {shape}");
            }
        }
        Ok(())
    })
}

fn do_not_fit(ctx: &Ctx) -> Verdict {
    with_pair(ctx, |a, b| {
        let (udp, tcp) = (Headers::UDP, Headers::TCP);
        let datagram = garbage(&udp, udp.frame(b.mac(), Flow::nth(1), &[7; 50]));
        let segment = garbage(&tcp, tcp.frame(b.mac(), Flow::nth(1), &[7; 50]));
        let mut fragment = datagram.clone();
        ip::put(&mut fragment, udp.l3() + 6, 0x2001);
        let mut cut = segment.clone();
        ip::put(&mut cut, tcp.l3() + 2, 1000);
        let other = frames::numbered(b.mac(), 7, 100);
        let l4 = |l4| Checksums { ipv4: false, l4 };
        let asked = [
            (segment.clone(), l4(L4Checksum::Udp)),
            (datagram, l4(L4Checksum::Tcp)),
            (fragment, l4(L4Checksum::Udp)),
            (cut, l4(L4Checksum::Tcp)),
            (other.clone(), l4(L4Checksum::Udp)),
            (other, Checksums { ipv4: true, l4: L4Checksum::None }),
            (frames::padded(segment[..30].to_vec()), l4(L4Checksum::Tcp)),
        ];
        for (frame, checksums) in asked {
            let mut burst = a.burst(std::slice::from_ref(&frame))?;
            burst[0].set_requests(TxRequests { checksums, ..TxRequests::default() });
            match a.tx[0].send(&mut burst) {
                Ok(1) => same!(b.receive(1)?, std::slice::from_ref(&frame), "what arrived"),
                Err(Error::Unsendable { .. }) => {
                    same!(burst.len(), 1, "packets after the error");
                    same!(burst[0].data(), &frame[..], "the packet after the error");
                }
                other => return Err(Failure(format!("{checksums:?}: {other:?}"))),
            }
            // The queue goes on.
            let good = frames::run(b.mac(), 1, 60);
            same!(a.pass_to(b, &good)?, good, "the frame after that");
        }
        Ok(())
    })
}

fn unaccepted_is_unchanged(ctx: &Ctx) -> Verdict {
    with_pair_and_tags(ctx, |a, b| {
        ctx.wires().pause(true)?;
        let filler = frames::numbered(b.mac(), 1, 60);
        for _ in 0..1000 {
            a.offer(std::slice::from_ref(&filler))?;
        }
        let kind = Headers::UDP;
        let right = kind.frame(b.mac(), Flow::nth(1), b"odd");
        let wrong = garbage(&kind, right.clone());
        let mut burst = a.burst(&[wrong.clone(), wrong.clone()])?;
        let requests = TxRequests { vlan: Some(9), ..all_of(&kind) };
        burst.iter_mut().for_each(|packet| packet.set_requests(requests));
        for _ in 0..3 {
            same!(a.tx[0].send(&mut burst)?, 0, "what a full queue accepts");
            for packet in &burst {
                same!(packet.data(), &wrong[..], "the bytes of a packet that was not accepted");
                same!(packet.requests(), requests, "what it asks for");
            }
        }
        ctx.wires().pause(false)?;
        a.send_burst(0, &mut burst)?;
        let mut arrived = Vec::new();
        a.mark(b, &mut arrived)?;
        let expected = frames::padded(frames::tagged(right, 0x8100, 9));
        same!(
            &arrived[arrived.len() - 2..],
            [expected.clone(), expected],
            "what arrived in the end"
        );
        Ok(())
    })
}

/// As [`with_pair`], with tags inserted, too, and a small transmit ring.
fn with_pair_and_tags(ctx: &Ctx, check: impl Fn(&mut Side, &mut Side) -> Verdict) -> Verdict {
    each_way(ctx, End::A, TX_CHECKSUM, |keys, _| {
        let ring = 16.clamp(ctx.capability(End::A).tx_ring.min, ctx.capability(End::A).tx_ring.max);
        let keys = format!("{keys},vlan_insert=auto,tx_ring={ring}");
        let (mut a, mut b) = ctx.pair_with(&keys, "finish_checksums=off")?;
        check(&mut a, &mut b)
    })
}
