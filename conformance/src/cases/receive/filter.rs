//! R5 and R6: which frames are for this port.

use anyport::MacAddr;

use crate::case::{Case, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.own_and_group_addresses_arrive_others_do_not",
        clauses: &["R6"],
        about: "Sends to the port's own address, to broadcast, to many group addresses, and to other unicast addresses that \
                differ in one bit; promiscuous mode is off, as it is at open.",
        why: "A port that hears everything makes the application work for its neighbours; one that hears no multicast \
              breaks ARP, IPv6 and routing protocols.",
        needs: &[Need::TwoWay],
        run: own_and_group,
    },
    Case {
        name: "receive.all_vlan_identifiers_arrive",
        clauses: &["R6"],
        about: "Sends a frame with each of the 4,096 VLAN identifiers to the port's own address, and some to others.",
        why: "A card's VLAN filter, left on by the kernel's driver, silently drops identifiers that nobody configured.",
        needs: &[Need::TwoWay],
        run: all_vlan_identifiers,
    },
    Case {
        name: "receive.promiscuous_gets_everything",
        clauses: &["R6"],
        about: "Opens the port with promiscuous=true and sends to all kinds of addresses.",
        why: "A bridge or a capture needs the frames of others.",
        needs: &[Need::TwoWay, Need::Promiscuous],
        run: promiscuous_gets_everything,
    },
    Case {
        name: "receive.the_switch_holds_from_its_return_on",
        clauses: &["R6"],
        about: "Switches promiscuous mode on and off 200 times; after each return sends one frame to another address.",
        why: "A switch that takes effect a moment later loses the first frames, or lets some through that must not pass.",
        needs: &[Need::TwoWay, Need::Promiscuous],
        run: the_switch_holds,
    },
    Case {
        name: "receive.the_switch_survives_stop_and_start",
        clauses: &["R6", "L5"],
        about: "Switches promiscuous mode while the port is stopped, and looks after start and after a restart.",
        why: "A mode that was set once and is lost with a restart is found out in the middle of the night.",
        needs: &[Need::TwoWay, Need::Promiscuous],
        run: the_switch_survives,
    },
    Case {
        name: "receive.filtered_frames_take_no_ring_space",
        clauses: &["R6"],
        about: "Sends four times as many frames to another address as the receive ring holds, then one to the port's own.",
        why: "Frames that are filtered after they took a place in the ring push out those that were meant for the port.",
        needs: &[Need::TwoWay, Need::Filters, Need::ExactDrops],
        run: filtered_take_no_space,
    },
    Case {
        name: "receive.own_frames_do_not_come_back",
        clauses: &["R5"],
        about: "A port sends to broadcast, to a group, to its own address and to the other end's, and then receives.",
        why: "A bridge that hears its own broadcasts forwards them for ever.",
        needs: &[Need::TwoWay],
        run: own_frames,
    },
    Case {
        name: "receive.own_frames_do_not_come_back_to_a_promiscuous_port",
        clauses: &["R5"],
        about: "The same with promiscuous mode on.",
        why: "The usual filter is by address, and a promiscuous port has none.",
        needs: &[Need::TwoWay, Need::Promiscuous],
        run: own_frames_promiscuous,
    },
    Case {
        name: "receive.own_frames_take_no_ring_space",
        clauses: &["R5", "R8"],
        about: "A port sends four times as many frames as its receive ring holds, and then receives one.",
        why: "Own frames that are filtered late push arriving ones out of the ring: a flood of one's own makes one deaf.",
        needs: &[Need::TwoWay, Need::ExactDrops],
        run: own_frames_take_no_space,
    },
];

/// Group addresses: everybody, the bridges' own, those of IPv4 and IPv6, of vendors, and odd ones.
const GROUPS: [[u8; 6]; 8] = [
    [0xff; 6],
    [0x01, 0x80, 0xc2, 0, 0, 0],
    [0x01, 0x80, 0xc2, 0, 0, 0x0e],
    [0x01, 0, 0x5e, 0, 0, 1],
    [0x33, 0x33, 0xff, 1, 2, 3],
    [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc],
    [0x03, 0xa, 0xb, 0xc, 0xd, 0xe],
    [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff],
];

/// Unicast addresses that are not `own`: each differs in one bit, and some in all.
fn foreign(own: MacAddr) -> Vec<MacAddr> {
    // The lowest bit of the first byte would make it a group's.
    let bits = (1..48).map(|bit| {
        let mut other = own.0;
        other[bit / 8] ^= 1 << (bit % 8);
        MacAddr(other)
    });
    bits.chain([MacAddr([0; 6]), MacAddr([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff])]).collect()
}

/// Frames to the own address, to groups and to others, mixed.
fn mixture(own: MacAddr) -> Vec<Vec<u8>> {
    let groups = GROUPS.map(MacAddr);
    let others = foreign(own);
    let wanted = [own].into_iter().chain(groups).cycle();
    let all = others.into_iter().zip(wanted).flat_map(|(one, other)| [one, other]);
    all.enumerate().map(|(number, to)| frames::numbered(to, number as u32, 60)).collect()
}

fn is_for(own: MacAddr, frame: &[u8]) -> bool {
    frame[0] & 1 == 1 || frame[..6] == own.0
}

fn own_and_group(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    ensure!(!b.port().control().promiscuous(), "promiscuous mode is on at open");
    let own = b.mac();
    let sent = mixture(own);
    let expected: Vec<_> = sent.iter().filter(|frame| is_for(own, frame)).cloned().collect();
    let arrived = a.pass_to(&mut b, &sent)?;
    let surplus: Vec<_> =
        arrived.iter().filter(|f| !expected.contains(f)).map(|f| &f[..6]).collect();
    ensure!(surplus.is_empty(), "frames to {surplus:02x?} came to {own}");
    let missing: Vec<_> =
        expected.iter().filter(|f| !arrived.contains(f)).map(|f| &f[..6]).collect();
    ensure!(missing.is_empty(), "frames to {missing:02x?} did not come to {own}");
    same!(arrived, expected, "what arrived, in order");
    let counters = b.counters();
    same!(counters.rx_dropped(), 0, "a filtered frame is no drop");
    if let Some(filtered) = counters.rx_filtered {
        same!(filtered, (sent.len() - expected.len()) as u64, "frames counted as filtered");
    }
    Ok(())
}

fn all_vlan_identifiers(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let tagged = |to, vid: u16| {
        // Priorities, too.
        let tci = vid | (vid % 8) << 13;
        frames::tagged(frames::numbered(to, vid.into(), 60), 0x8100, tci)
    };
    let own: Vec<_> = (0..4096).map(|vid| tagged(b.mac(), vid)).collect();
    let other = foreign(b.mac())[0];
    let others = (0..4096).step_by(64).map(|vid| tagged(other, vid));
    let groups = (0..4096).step_by(64).map(|vid| tagged(MacAddr::BROADCAST, vid));
    let wanted: Vec<_> = own.iter().cloned().chain(groups).collect();
    let sent: Vec<_> = others.chain(wanted.iter().cloned()).collect();
    let arrived = a.pass_to(&mut b, &sent)?;
    let missing: Vec<_> =
        own.iter().filter(|f| !arrived.contains(f)).filter_map(|f| frames::number(f)).collect();
    ensure!(missing.is_empty(), "these identifiers did not arrive: {missing:?}");
    ensure!(arrived == wanted, "{} frames arrived instead of {}", arrived.len(), wanted.len());
    Ok(())
}

fn promiscuous_gets_everything(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair_with("", "promiscuous=true")?;
    ensure!(b.port().control().promiscuous(), "promiscuous=true is not what control says");
    let sent = mixture(b.mac());
    let arrived = a.pass_to(&mut b, &sent)?;
    same!(arrived.len(), sent.len(), "frames that arrived");
    ensure!(arrived == sent, "what arrived is not what was sent");
    Ok(())
}

/// Whether a frame to another address passes now.
fn foreign_passes(a: &mut Side, b: &mut Side, number: u32) -> Verdict<bool> {
    let frame = frames::numbered(foreign(b.mac())[number as usize % 49], number, 60);
    let arrived = a.pass_to(b, std::slice::from_ref(&frame))?;
    ensure!(arrived.is_empty() || arrived == [frame], "something else arrived: {arrived:02x?}");
    Ok(!arrived.is_empty())
}

fn the_switch_holds(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let control = b.port().control();
    for round in 0..200 {
        for on in [true, false] {
            control.set_promiscuous(on)?;
            same!(control.promiscuous(), on, "what control says");
            let passes = foreign_passes(&mut a, &mut b, 2 * round + u32::from(on))?;
            same!(passes, on, "round {round}: whether the first frame after the switch passes");
        }
    }
    same!(b.counters().rx_dropped(), 0, "drops");
    Ok(())
}

fn the_switch_survives(ctx: &Ctx) -> Verdict {
    let mut port = ctx.open(End::B, "")?;
    let pool = ctx.pool(512)?;
    port.attach(&pool)?;
    port.control().set_promiscuous(true)?;
    let mut b = Side::start(port, pool)?;
    let mut a = ctx.start(End::A, "")?;
    ctx.settle(&a, &b)?;
    ensure!(foreign_passes(&mut a, &mut b, 1)?, "switched on before start, and it is not on");
    b.restart()?;
    ensure!(foreign_passes(&mut a, &mut b, 2)?, "it is off after a restart");
    b.port_mut().stop()?;
    b.port().control().set_promiscuous(false)?;
    b.restart()?;
    ensure!(!foreign_passes(&mut a, &mut b, 3)?, "switched off while stopped, and it is still on");
    Ok(())
}

/// A receive ring that is easily filled.
fn small_ring(ctx: &Ctx, end: End) -> u32 {
    let ring = ctx.capability(end).rx_ring;
    64.clamp(ring.min, ring.max)
}

fn filtered_take_no_space(ctx: &Ctx) -> Verdict {
    let ring = small_ring(ctx, End::B);
    let (mut a, mut b) = ctx.pair_with("", &format!("rx_ring={ring}"))?;
    let others = foreign(b.mac());
    let flood: Vec<_> = (0..4 * ring)
        .map(|number| frames::numbered(others[number as usize % others.len()], number, 60))
        .collect();
    let own = frames::numbered(b.mac(), 7, 60);
    // Nobody receives meanwhile.
    a.send(&flood)?;
    a.send(std::slice::from_ref(&own))?;
    let mut arrived = Vec::new();
    a.mark(&mut b, &mut arrived)?;
    same!(arrived, [own], "what arrived behind {} frames for others", flood.len());
    same!(b.counters().rx_dropped(), 0, "drops");
    Ok(())
}

fn hears_only_the_other(ctx: &Ctx, keys: &str) -> Verdict {
    let (mut a, mut b) = ctx.pair_with(keys, "")?;
    let to = [MacAddr::BROADCAST, frames::GROUP, a.mac(), b.mac(), frames::STRANGER];
    let sent: Vec<_> = (0..100).map(|n| frames::numbered(to[n as usize % 5], n, 60)).collect();
    let expected = sent.iter().filter(|frame| is_for(b.mac(), frame)).count();
    same!(a.pass_to(&mut b, &sent)?.len(), expected, "frames that arrived at the other end");
    let answers = frames::run(a.mac(), 10, 60);
    let heard = b.pass_to(&mut a, &answers)?;
    same!(heard, answers, "what the sender heard afterwards");
    Ok(())
}

fn own_frames(ctx: &Ctx) -> Verdict {
    hears_only_the_other(ctx, "")
}

fn own_frames_promiscuous(ctx: &Ctx) -> Verdict {
    hears_only_the_other(ctx, "promiscuous=true")
}

fn own_frames_take_no_space(ctx: &Ctx) -> Verdict {
    let ring = small_ring(ctx, End::A);
    let (mut a, mut b) = ctx.pair_with(&format!("rx_ring={ring},promiscuous=true"), "")?;
    for portion in 0..4 {
        let sent = frames::run(b.mac(), ring, 60);
        same!(a.pass_to(&mut b, &sent)?.len(), sent.len(), "portion {portion}");
    }
    let answers = frames::run(a.mac(), ring / 2, 60);
    b.send(&answers)?;
    same!(a.receive(answers.len())?, answers, "what arrived at the sender");
    same!(a.counters().rx_dropped(), 0, "the sender's drops");
    Ok(())
}
