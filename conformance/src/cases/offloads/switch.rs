//! Off, auto and required: who asks for nothing gets nothing, and who insists is told if it cannot be.

use anyport::packet::{ChecksumStatus, Checksums, L4Checksum, TxRequests};
use anyport::{Burst, Error};

use super::{ALL, TX_TIMESTAMP, device_can};
use crate::case::{Case, Failure, Need, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::Flow;
use crate::ip::Headers;
use crate::{ensure, frames, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "offloads.off_gives_nothing",
        clauses: &["O1", "O3", "O4", "O5"],
        about: "Receives IP frames, tagged and not, on a port with its defaults: no status, no stripped tag, no timestamp, \
                no hash; the frame as it was.",
        why: "What nobody asked for costs time, and a tag that is taken out unasked is lost on the way.",
        needs: &[Need::TwoWay],
        run: off_gives_nothing,
    },
    Case {
        name: "offloads.off_refuses_requests",
        clauses: &["O2", "O3", "O4", "T1"],
        about: "Offers packets that ask for a checksum, a tag and a timestamp to a port with its defaults: an error that \
                names the key, and nothing taken.",
        why: "A request that is ignored sends a frame with a wrong checksum or in the wrong network.",
        needs: &[Need::TwoWay],
        run: off_refuses_requests,
    },
    Case {
        name: "offloads.required_needs_the_device",
        clauses: &["O1", "O2", "O3", "O4", "O5", "L3"],
        about: "Opens the port with each offload `required`: that works if and only if the capability says so, and the \
                error names the key.",
        why: "Who requires the device to do it must not silently get software instead.",
        needs: &[],
        run: required_needs_the_device,
    },
    Case {
        name: "offloads.auto_is_always_possible",
        clauses: &["O1", "O2", "O3", "O4", "O5"],
        about: "Opens the port with each offload `auto`, one by one and all together; only transmit timestamps have no \
                software to fall back to.",
        why: "An application that uses an offload must run on every port.",
        needs: &[],
        run: auto_is_possible,
    },
];

fn off_gives_nothing(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let udp = Headers::UDP.frame(b.mac(), Flow::nth(1), &[7; 40]);
    let tagged = frames::tagged(udp.clone(), 0x8100, 0x2005);
    let v6 = Headers { v6: true, ..Headers::TCP }.frame(b.mac(), Flow::nth(2), &[7; 40]);
    for frame in [udp, tagged, v6] {
        a.send(std::slice::from_ref(&frame))?;
        let packet = b.receive_packet()?;
        same!(packet.data(), &frame[..], "the frame");
        same!(packet.vlan(), None, "the stripped tag");
        same!(packet.timestamp(), None, "the timestamp");
        same!(packet.rss_hash(), None, "the hash");
        let statuses = (packet.ip_checksum(), packet.l4_checksum());
        same!(statuses, (ChecksumStatus::Unknown, ChecksumStatus::Unknown), "the statuses");
    }
    same!(a.tx[0].take_timestamp()?, None, "transmit timestamps");
    Ok(())
}

fn off_refuses_requests(ctx: &Ctx) -> Verdict {
    let (mut a, mut b) = ctx.pair()?;
    let none = TxRequests::default();
    let ipv4 = Checksums { ipv4: true, ..Checksums::default() };
    let udp = Checksums { l4: L4Checksum::Udp, ..Checksums::default() };
    let asked = [
        (TxRequests { checksums: ipv4, ..none }, "tx_checksum"),
        (TxRequests { checksums: udp, ..none }, "tx_checksum"),
        (TxRequests { vlan: Some(0), ..none }, "vlan_insert"),
        (TxRequests { timestamp: true, ..none }, "tx_timestamp"),
    ];
    let frame = Headers::UDP.frame(b.mac(), Flow::nth(1), &[7; 40]);
    for (requests, key) in asked {
        let mut burst = Burst::with_capacity(1);
        let mut packet = a.packet(&frame)?;
        packet.set_requests(requests);
        let _ = burst.push(packet);
        let result = a.tx[0].send(&mut burst);
        refused!(result, Error::OffloadOff { field, .. } if field == key, "asking for {key}");
        same!((burst.len(), burst[0].data()), (1, &frame[..]), "what is still the caller's");
        // Without the request it goes.
        burst[0].set_requests(none);
        a.send_burst(0, &mut burst)?;
        same!(b.receive(1)?, std::slice::from_ref(&frame), "the frame without the request");
    }
    Ok(())
}

fn required_needs_the_device(ctx: &Ctx) -> Verdict {
    for offload in ALL {
        let key = offload.0;
        let opened = ctx.open(End::B, &format!("{key}=required"));
        match (device_can(ctx, End::B, offload), opened) {
            (true, Ok(port)) => port.close()?,
            (false, Err(Error::Unsupported { field, asked, .. })) => {
                same!((field.as_str(), asked.as_str()), (key, "required"), "what the error names");
            }
            (can, other) => {
                let result = other.map(drop);
                return Err(Failure(format!("{key}=required, the device can: {can}; {result:?}")));
            }
        }
        // Nothing was left open.
        ctx.open(End::B, "")?.close()?;
    }
    Ok(())
}

fn auto_is_possible(ctx: &Ctx) -> Verdict {
    let stamps = device_can(ctx, End::B, TX_TIMESTAMP);
    let mut all = String::new();
    for (key, _) in ALL {
        let keys = format!("{key}=auto");
        if key == TX_TIMESTAMP.0 && !stamps {
            let opened = ctx.open(End::B, &keys);
            refused!(opened, Error::Unsupported { field, .. } if field == key, "{keys}");
            continue;
        }
        ctx.start(End::B, &keys)?.close()?;
        all = format!("{all},{keys}");
    }
    let (mut a, mut b) = ctx.pair_with("", &all[1..])?;
    let sent = frames::run(b.mac(), 10, 60);
    ensure!(a.pass_to(&mut b, &sent)? == sent, "with all offloads on frames were changed or lost");
    Ok(())
}
