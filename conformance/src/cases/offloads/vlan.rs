//! O3: tags are taken out of received frames and put into sent ones.

use anyport::packet::{ChecksumStatus, TxRequests};
use anyport::{Error, Packet, Pool, Refused};

use super::{VLAN_INSERT, VLAN_STRIP, each_way};
use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End, PATIENCE};
use crate::frames::{self, Flow, tagged};
use crate::ip::Headers;
use crate::side::Side;
use crate::{ensure, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "offloads.vlan_tags_are_stripped",
        clauses: &["O3"],
        about: "Sends frames with one and two tags of both types, with priorities, with identifier 0, short and of the \
                greatest length: the outermost 802.1Q tag is in the packet, not in the frame; any other stays.",
        why: "The tag is how an application knows which network a frame is of.",
        needs: &[Need::TwoWay],
        run: are_stripped,
    },
    Case {
        name: "offloads.vlan_tags_are_inserted",
        clauses: &["O3"],
        about: "Asks for tags with all kinds of control words, in frames that have none, one, or one of the other type.",
        why: "A tag in the wrong place, or over the frame's own, sends it into another network.",
        needs: &[Need::TwoWay],
        run: are_inserted,
    },
    Case {
        name: "offloads.vlan_tag_in_a_short_frame",
        clauses: &["O3", "T5"],
        about: "Asks for a tag in frames of 14 to 60 bytes: 60 bytes or more go out, zeros behind the frame.",
        why: "Padding that is done before the tag, or after it and wrongly, leaks or cuts.",
        needs: &[Need::TwoWay],
        run: in_a_short_frame,
    },
    Case {
        name: "offloads.vlan_tag_in_a_full_frame",
        clauses: &["O3", "M2"],
        about: "Asks for a tag in frames of just the maximum, which must pass, and in longer or already tagged ones, which \
                must not.",
        why: "The tag of a full-size frame is where MTU mistakes show.",
        needs: &[Need::TwoWay],
        run: in_a_full_frame,
    },
    Case {
        name: "offloads.vlan_tag_without_head_room",
        clauses: &["O3", "T7"],
        about: "Asks for tags in packets of a pool that leaves no room before the frame, in chains, and in packets of a \
                foreign pool.",
        why: "A tag takes four bytes in front; where there are none the frame must be moved, not refused.",
        needs: &[Need::TwoWay],
        run: without_head_room,
    },
    Case {
        name: "offloads.vlan_tag_with_an_empty_pool",
        clauses: &["O3", "S1", "S4", "T2"],
        about: "As above, with no frame in the pool to move the frame into: the packet is not taken and goes when there is one, \
                or it is counted as tx_dropped by the port that lost it.",
        why: "A frame that was accepted and is counted nowhere, or at the receiver, is looked for on the wrong machine.",
        needs: &[Need::TwoWay],
        run: with_an_empty_pool,
    },
    Case {
        name: "offloads.vlan_both_ends",
        clauses: &["O3"],
        about: "One end inserts what the other strips: all 4,096 identifiers, and lengths up to the maximum.",
        why: "An application that sees neither must not notice that there are tags at all.",
        needs: &[Need::TwoWay],
        run: both_ends,
    },
    Case {
        name: "offloads.vlan_strip_with_other_offloads",
        clauses: &["O3", "O1", "O5"],
        about: "Strips tags with checksum status and hash on: they are those of the frame inside.",
        why: "Offloads that are right alone and wrong together are found by customers.",
        needs: &[Need::TwoWay],
        run: with_others,
    },
];

fn are_stripped(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::B, VLAN_STRIP, |keys, _| {
        let (mut a, mut b) = ctx.pair_with("", keys)?;
        let max = b.port().control().max_frame();
        for length in [60, 500, max] {
            let plain = frames::numbered(b.mac(), length as u32, length);
            let short = frames::numbered(b.mac(), 1, length.min(max - 4));
            // What is sent, the tag in the packet, the frame.
            let expected = [
                (plain.clone(), None, plain.clone()),
                (tagged(plain.clone(), 0x8100, 5), Some(5), plain.clone()),
                (tagged(plain.clone(), 0x8100, 0), Some(0), plain.clone()),
                (tagged(plain.clone(), 0x8100, 0xe000), Some(0xe000), plain.clone()),
                (tagged(plain.clone(), 0x8100, 0xffff), Some(0xffff), plain),
                (tagged(short.clone(), 0x88a8, 5), None, tagged(short.clone(), 0x88a8, 5)),
            ];
            for (sent, tci, frame) in expected {
                expect(&mut a, &mut b, &sent, tci, &frame)?;
            }
            let shorter = frames::numbered(b.mac(), 2, length.min(max - 8));
            // Two tags: only the outermost, and only if it is one of 802.1Q.
            let inner = tagged(shorter.clone(), 0x8100, 6);
            expect(&mut a, &mut b, &tagged(inner.clone(), 0x8100, 5), Some(5), &inner)?;
            let other = tagged(inner, 0x88a8, 5);
            expect(&mut a, &mut b, &other, None, &other)?;
            let inner = tagged(shorter, 0x88a8, 6);
            expect(&mut a, &mut b, &tagged(inner.clone(), 0x8100, 5), Some(5), &inner)?;
        }
        Ok(())
    })
}

/// Sends a frame and looks at the packet that comes.
fn expect(a: &mut Side, b: &mut Side, sent: &[u8], tci: Option<u16>, frame: &[u8]) -> Verdict {
    a.send(&[sent.to_vec()])?;
    let packet = b.receive_packet()?;
    same!(packet.vlan(), tci, "the stripped tag of {:02x?}", &sent[12..20]);
    same!(packet.data(), frame, "the frame of {:02x?}", &sent[12..20]);
    Ok(())
}

/// A packet that asks for a tag.
fn asking(a: &Side, frame: &[u8], tci: u16) -> Verdict<Packet> {
    let mut packet = a.packet(frame)?;
    packet.set_requests(TxRequests { vlan: Some(tci), ..TxRequests::default() });
    Ok(packet)
}

/// Sends a frame with a tag inserted; what must arrive.
fn insert(a: &mut Side, b: &mut Side, frame: &[u8], tci: u16) -> Verdict {
    let packet = asking(a, frame, tci)?;
    ensure!(a.tx[0].send_one(packet)?.is_none(), "a packet was not accepted");
    let expected = frames::padded(tagged(frame.to_vec(), 0x8100, tci));
    same!(b.receive(1)?, [expected], "tag {tci:#06x} in a frame of {} bytes", frame.len());
    Ok(())
}

fn are_inserted(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, VLAN_INSERT, |keys, _| {
        let (mut a, mut b) = ctx.pair_with(keys, "")?;
        for tci in [0, 5, 0x0fff, 0x6005, 0xe000, 0xffff] {
            let plain = frames::numbered(b.mac(), tci.into(), 100);
            insert(&mut a, &mut b, &plain, tci)?;
            insert(&mut a, &mut b, &tagged(plain.clone(), 0x8100, 6), tci)?;
            insert(&mut a, &mut b, &tagged(plain.clone(), 0x88a8, 6), tci)?;
            // One that does not ask, in between.
            same!(a.pass_to(&mut b, std::slice::from_ref(&plain))?, [plain], "no tag asked for");
        }
        Ok(())
    })
}

fn in_a_short_frame(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, VLAN_INSERT, |keys, _| {
        let (mut a, mut b) = ctx.pair_with(keys, "")?;
        for length in 14..=64 {
            let mut frame = frames::numbered(b.mac(), length as u32, length.max(18));
            frame.truncate(length);
            insert(&mut a, &mut b, &frame, 0x2005)?;
        }
        Ok(())
    })
}

fn in_a_full_frame(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, VLAN_INSERT, |keys, _| {
        let (mut a, mut b) = ctx.pair_with(keys, "")?;
        let max = a.port().control().max_frame();
        let plain = |length| frames::numbered(b.mac(), length as u32, length);
        let fitting = [plain(max), plain(max - 1), tagged(plain(max - 4), 0x8100, 6)];
        let too_long = [
            plain(max + 1),
            // With the inserted one it would be a second tag on top of the maximum.
            tagged(plain(max), 0x8100, 6),
            tagged(plain(max - 3), 0x8100, 6),
        ];
        for frame in &fitting {
            insert(&mut a, &mut b, frame, 7)?;
        }
        for frame in &too_long {
            let packet = asking(&a, frame, 7)?;
            let result = a.tx[0].send_one(packet);
            let length = frame.len();
            refused!(result, Refused { error: Error::FrameTooLong { .. }, packet } if packet.data() == &frame[..],
                "a tag in {length} bytes");
            insert(&mut a, &mut b, &fitting[0], 8)?;
        }
        Ok(())
    })
}

/// A pool whose frames leave no room in front.
fn tight(ctx: &Ctx, frames: u32) -> Verdict<Pool> {
    let longest = ctx.capability(End::A).default_max_frame + 4;
    let size = u32::try_from(longest.next_power_of_two().clamp(512, 32768)).unwrap_or(2048);
    Ok(Pool::builder().frames(frames).frame_size(size).headroom(0).build()?)
}

fn without_head_room(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, VLAN_INSERT, |keys, _| {
        let (own, foreign) = (tight(ctx, 256)?, tight(ctx, 64)?);
        let mut a = ctx.start_with(End::A, keys, &own)?;
        let mut b = ctx.start(End::B, "")?;
        ctx.settle(&a, &b)?;
        let max = a.port().control().max_frame();
        for (number, length) in [20, 60, 1000, max].into_iter().enumerate() {
            let frame = frames::numbered(b.mac(), number as u32, length);
            let none = "a pool has no frame";
            let mut chain = own.packet(&frame[..15]).ok_or(none)?;
            let rest = own.packet(&frame[15..]).ok_or(none)?;
            chain.append(rest).map_err(|_| "a chain in one pool was refused")?;
            let packets = [own.packet(&frame), foreign.packet(&frame), Some(chain)];
            for (shape, packet) in packets.into_iter().enumerate() {
                let mut packet = packet.ok_or(none)?;
                packet.set_requests(TxRequests { vlan: Some(9), ..TxRequests::default() });
                ensure!(a.tx[0].send_one(packet)?.is_none(), "shape {shape} was not accepted");
                let expected = frames::padded(tagged(frame.clone(), 0x8100, 9));
                same!(b.receive(1)?, [expected], "{length} bytes in shape {shape}");
            }
        }
        Ok(())
    })
}

fn with_an_empty_pool(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, VLAN_INSERT, |keys, _| {
        let own = tight(ctx, 64)?;
        let mut a = ctx.start_with(End::A, keys, &own)?;
        let mut b = ctx.start(End::B, "")?;
        ctx.settle(&a, &b)?;
        for number in 0..20 {
            // What the queue's cache has it would use.
            a.tx[0].flush(PATIENCE)?;
            let frame = frames::numbered(b.mac(), number, 100);
            let packet = asking(&a, &frame, 9)?;
            let held: Vec<Packet> = std::iter::from_fn(|| own.take()).collect();
            let left = a.tx[0].send_one(packet)?;
            drop(held);
            if let Some(packet) = left {
                same!(packet.data(), &frame[..], "a packet that was not taken");
                ensure!(a.tx[0].send_one(packet)?.is_none(), "not taken with frames in the pool");
            }
        }
        let mut arrived = Vec::new();
        a.mark(&mut b, &mut arrived)?;
        let (lost, theirs) = (a.counters().tx_dropped.unwrap_or(0), b.counters().rx_dropped());
        same!(
            (arrived.len() as u64 + lost, theirs),
            (20, 0),
            "accepted frames, the receiver's losses"
        );
        let tagged = arrived.iter().all(|frame| frame[12..16] == [0x81, 0, 0, 9]);
        ensure!(tagged, "frames arrived without the tag");
        Ok(())
    })
}

fn both_ends(ctx: &Ctx) -> Verdict {
    each_way(ctx, End::A, VLAN_INSERT, |insert, _| {
        each_way(ctx, End::B, VLAN_STRIP, |strip, _| {
            let (mut a, mut b) = ctx.pair_with(insert, strip)?;
            let max = a.port().control().max_frame();
            let lengths = [60, 61, 300, max - 1, max];
            for vid in 0..4096u16 {
                let tci = vid | (vid % 16) << 12;
                let length = lengths[usize::from(vid) % lengths.len()];
                let frame = frames::numbered(b.mac(), vid.into(), length);
                let packet = asking(&a, &frame, tci)?;
                ensure!(a.tx[0].send_one(packet)?.is_none(), "tag {tci:#06x} was not accepted");
                let packet = b.receive_packet()?;
                same!(packet.vlan(), Some(tci), "the tag");
                ensure!(packet.data() == frame, "tag {tci:#06x}: the frame was changed");
            }
            Ok(())
        })
    })
}

fn with_others(ctx: &Ctx) -> Verdict {
    let keys = "vlan_strip=auto,rx_checksum=auto,rss_hash=auto,rx_timestamp=auto";
    let (mut a, mut b) = ctx.pair_with("", &format!("{keys},finish_checksums=off"))?;
    for number in 0..50 {
        let frame = Headers::UDP.frame(b.mac(), Flow::nth(number), &[number as u8; 33]);
        let mut broken = frame.clone();
        broken[50] ^= 1;
        let mut hashes = Vec::new();
        for (frame, bad) in [(frame, ChecksumStatus::Good), (broken, ChecksumStatus::Bad)] {
            for sent in [frame.clone(), tagged(frame.clone(), 0x8100, number)] {
                a.send(std::slice::from_ref(&sent))?;
                let packet = b.receive_packet()?;
                let tag = (sent.len() > frame.len()).then_some(number);
                same!((packet.vlan(), packet.data()), (tag, &frame[..]), "tag and frame");
                let fits = [bad, ChecksumStatus::Unknown].contains(&packet.l4_checksum());
                ensure!(fits, "the status {:?} of a frame that is {bad:?}", packet.l4_checksum());
                hashes.push(packet.rss_hash());
            }
        }
        let one = hashes[0].is_some() && hashes.iter().all(|hash| *hash == hashes[0]);
        ensure!(one, "hashes with and without a tag: {hashes:x?}");
    }
    Ok(())
}
