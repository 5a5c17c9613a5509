//! `anyport reflect`: swaps addresses and sends back.

use std::sync::Arc;

use anyhow::{Result, ensure};
use anyport::{Burst, MacAddr};
use serde::Serialize;

use crate::args::RunArgs;
use crate::lane::{Change, Lane, Totals, work};
use crate::ports::{Opened, Wants, make_pool};
use crate::report::{Concerns, Details, Report};
use crate::run::live::{Live, Sample};
use crate::run::{Run, Signals, Worker, supervise};
use crate::text::number;

/// Swap addresses and send back
///
/// Source and destination MAC addresses are swapped, and so are the IPv4 or IPv6 addresses and the TCP or UDP ports of
/// unfragmented packets without options, as if the destination had answered; checksums stay right. Frames to group
/// addresses (broadcast, multicast) are not sent back, so that two reflectors cannot keep one alive between them. The port
/// is opened promiscuous unless its spec says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport reflect pcap:eth0
  anyport reflect pcap:eth0,promiscuous=false   only what is addressed to this port
  anyport reflect pcap:eth0 --mac-only

Totals (--json): packets and bytes sent back; `not_reflected` counts frames to group addresses.")]
pub struct Args {
    /// The port
    port: String,
    /// Swap the MAC addresses alone
    #[arg(long)]
    mac_only: bool,
    /// Common options; `--count` counts frames received.
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Serialize)]
struct Reflected {
    received: u64,
    not_reflected: u64,
}

impl Details for Reflected {
    fn lines(&self) -> Vec<String> {
        let (received, not) = (number(self.received), number(self.not_reflected));
        vec![format!("received {received}; not sent back (group addresses): {not}")]
    }
}

/// Reflects.
pub fn run(args: &Args) -> Result<()> {
    let signals = Signals::catch()?;
    let registry = args.run.ports.registry()?;
    let cores = args.run.cores.as_ref();
    let wants = Wants { promiscuous: true, ..Wants::default() };
    let mut opened = Opened::open(&registry, &args.port, wants, cores)?;
    opened.must_receive()?;
    opened.must_transmit()?;
    let pool = make_pool(&args.run.ports, &registry, &[&opened])?;
    let queues = opened.start(&pool)?;
    let (rx, tx) = (queues.rx, queues.tx);
    ensure!(
        rx.len() <= tx.len(),
        "{}: {} receive queues and only {} transmit queues; use queues=N",
        opened.name,
        rx.len(),
        tx.len()
    );
    let change: Change = if args.mac_only { reflect_macs } else { reflect_all };
    let workers = rx.into_iter().zip(tx).map(|(rx, tx)| {
        let lane = Lane::new(0, &opened.name, rx, tx, Some(change));
        Box::new(move |run: &Run| work(vec![lane], run)) as Worker<Vec<Totals>>
    });
    let run = Arc::new(Run::new(args.run.count));
    let (stats, live_run) = (opened.stats.clone(), run.clone());
    let live = Live::new(format!("reflect {}", opened.name), move || {
        let now = stats.read().port;
        let drops = now.rx_dropped() + now.tx_dropped.unwrap_or(0) + live_run.lost_so_far();
        Sample { packets: now.tx_packets.unwrap_or(0), bytes: now.tx_bytes.unwrap_or(0), drops }
    });
    let ended = supervise(&run, &signals, args.run.limits(), cores, workers.collect(), live);
    let (port, closed) = opened.close();
    let mut totals = Totals::default();
    ended.totals.iter().flatten().for_each(|lane| totals.add(lane));
    let bytes = port.counters.tx_bytes.unwrap_or(0) + port.counters.tx_dropped_bytes.unwrap_or(0);
    let details = Reflected { received: totals.received, not_reflected: totals.taken_out };
    let moved = (totals.sent, bytes);
    let mut report =
        Report::new("reflect", moved, run.traffic_time(), details, Concerns::Both, vec![port]);
    report.drop_also(totals.drops());
    report.finish(args.run.json, run.ended_by(), ended.elapsed, ended.error.or(closed.err()))
}

fn reflect_macs(burst: &mut Burst) {
    burst.retain(|packet| swap_macs(packet.data_mut()));
}

fn reflect_all(burst: &mut Burst) {
    burst.retain(|packet| {
        let swapped = swap_macs(packet.data_mut());
        if swapped {
            swap_addresses(packet.data_mut());
        }
        swapped
    });
}

/// Swaps the MAC addresses of a frame; false (and nothing is done) if the destination is a group.
fn swap_macs(frame: &mut [u8]) -> bool {
    let Some(macs) = frame.get_mut(..12) else { return false };
    if MacAddr::destination(macs).is_none_or(MacAddr::is_multicast) {
        return false;
    }
    swap_halves(macs);
    true
}

/// Swaps IP addresses, and ports behind them, where they are in plain sight. Sums do not change: the same words are
/// added in another order.
fn swap_addresses(frame: &mut [u8]) {
    let mut at = 12;
    // Up to two tags.
    for _ in 0..2 {
        if matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8])) {
            at += 4;
        }
    }
    let ethertype: Option<[u8; 2]> = frame.get(at..).and_then(|rest| rest.first_chunk()).copied();
    let Some(packet) = frame.get_mut(at + 2..) else { return };
    match ethertype {
        Some([0x08, 0x00]) if packet.len() >= 20 && packet[0] == 0x45 => {
            let (protocol, fragment) =
                (packet[9], u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff);
            swap_halves(&mut packet[12..20]);
            if fragment == 0 {
                swap_ports(&mut packet[20..], protocol);
            }
        }
        Some([0x86, 0xdd]) if packet.len() >= 40 && packet[0] >> 4 == 6 => {
            let protocol = packet[6];
            swap_halves(&mut packet[8..40]);
            swap_ports(&mut packet[40..], protocol);
        }
        _ => {}
    }
}

fn swap_ports(segment: &mut [u8], protocol: u8) {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    if matches!(protocol, TCP | UDP)
        && let Some(ports) = segment.get_mut(..4)
    {
        swap_halves(ports);
    }
}

fn swap_halves(bytes: &mut [u8]) {
    let (one, other) = bytes.split_at_mut(bytes.len() / 2);
    one.swap_with_slice(other);
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn reflected(frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        assert!(swap_macs(&mut frame));
        swap_addresses(&mut frame);
        frame
    }

    fn built(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Vec<u8> {
        let mut frame = Vec::new();
        builder.write(&mut frame, b"payload").unwrap();
        frame
    }

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// A frame from A to B comes back as a library builds the one from B to A, checksums included.
    #[test]
    fn comes_back_as_an_answer() {
        let four = |from, to, source, destination| {
            PacketBuilder::ethernet2(from, to).ipv4(source, destination, 64)
        };
        let there = built(four(A, B, [10, 0, 0, 1], [10, 0, 0, 2]).udp(1000, 2000));
        let back = built(four(B, A, [10, 0, 0, 2], [10, 0, 0, 1]).udp(2000, 1000));
        assert_eq!(reflected(&there), back);
        let six = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let there = built(PacketBuilder::ethernet2(A, B).ipv6(six(1), six(2), 64).udp(1000, 2000));
        let back = built(PacketBuilder::ethernet2(B, A).ipv6(six(2), six(1), 64).udp(2000, 1000));
        assert_eq!(reflected(&there), back);
        let tag = etherparse::VlanId::try_new(5).unwrap();
        let tagged = |from, to| PacketBuilder::ethernet2(from, to).single_vlan(tag);
        let there = built(tagged(A, B).ipv4([1; 4], [2; 4], 9).udp(1000, 2000));
        let back = built(tagged(B, A).ipv4([2; 4], [1; 4], 9).udp(2000, 1000));
        assert_eq!(reflected(&there), back);
    }

    #[test]
    fn fragments_keep_their_ports_and_others_only_swap_macs() {
        let whole = built(PacketBuilder::ethernet2(A, B).ipv4([1; 4], [2; 4], 9).udp(1000, 2000));
        let mut fragment = whole.clone();
        fragment[20] = 0x20; // more fragments
        let back = reflected(&fragment);
        assert_eq!((&back[26..30], &back[34..]), (&[2; 4][..], &fragment[34..]));
        let arp = [&B[..], &A, &[0x08, 0x06], &[7; 46]].concat();
        assert_eq!(reflected(&arp), [&A[..], &B, &[0x08, 0x06], &[7; 46]].concat());
        // Any cut is harmless.
        for length in 14..whole.len() {
            assert_eq!(reflected(&whole[..length]).len(), length);
        }
    }

    #[test]
    fn groups_are_left_alone() {
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let mut frame = [&group[..], &A, &[0; 48]].concat();
            let before = frame.clone();
            assert!(!swap_macs(&mut frame));
            assert_eq!(frame, before);
        }
        assert!(!swap_macs(&mut [2; 11]));
    }
}
