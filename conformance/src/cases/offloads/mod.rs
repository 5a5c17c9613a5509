//! O, offloads: done right by whoever does them, and not at all when they are off.

mod hash;
mod receive_checksum;
mod switch;
mod timestamp;
mod transmit_checksum;
mod vlan;

use anyport::capability::DeviceOffloads;

use crate::case::{Case, Verdict};
use crate::ctx::{Ctx, End};

pub(super) const CASES: &[&[Case]] = &[
    switch::CASES,
    receive_checksum::CASES,
    transmit_checksum::CASES,
    vlan::CASES,
    timestamp::CASES,
    hash::CASES,
];

/// An offload: the key that configures it, and the capability that says that the device can.
type Offload = (&'static str, fn(&DeviceOffloads) -> bool);

const RX_CHECKSUM: Offload = ("rx_checksum", |can| can.rx_checksum);
const TX_CHECKSUM: Offload = ("tx_checksum", |can| can.tx_checksum);
const VLAN_STRIP: Offload = ("vlan_strip", |can| can.vlan_strip);
const VLAN_INSERT: Offload = ("vlan_insert", |can| can.vlan_insert);
const RX_TIMESTAMP: Offload = ("rx_timestamp", |can| can.rx_timestamp);
const TX_TIMESTAMP: Offload = ("tx_timestamp", |can| can.tx_timestamp);
const RSS_HASH: Offload = ("rss_hash", |can| can.rss_hash);

const ALL: [Offload; 7] =
    [RX_CHECKSUM, TX_CHECKSUM, VLAN_STRIP, VLAN_INSERT, RX_TIMESTAMP, TX_TIMESTAMP, RSS_HASH];

/// Whether the device of an end does it.
fn device_can(ctx: &Ctx, end: End, (_, can): Offload) -> bool {
    can(&ctx.capability(end).offloads)
}

/// Runs a check in each way in which the offload is done at an end: with `auto`, and with `required` where the device can.
/// The check gets the keys, and whether it is done in software.
fn each_way(
    ctx: &Ctx,
    end: End,
    offload: Offload,
    check: impl Fn(&str, bool) -> Verdict,
) -> Verdict {
    let by_device = device_can(ctx, end, offload);
    check(&format!("{}=auto", offload.0), !by_device)?;
    if by_device {
        check(&format!("{}=required", offload.0), false)?;
    }
    Ok(())
}
