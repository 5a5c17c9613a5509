//! One line of text for a frame: what `dump` prints without a file.

use std::fmt::Write;

use anyport::MacAddr;
use etherparse::{ArpPacketSlice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::stamp;
use super::streams::run_name;

/// Describes a frame of `length` bytes, of which the first ones are given.
pub fn describe(frame: &[u8], length: usize) -> String {
    let mut text = String::new();
    if let (Some(destination), Some(source)) =
        (MacAddr::destination(frame), frame.get(6..).and_then(MacAddr::destination))
    {
        text = format!("{source} > {destination}, ");
    }
    match LaxSlicedPacket::from_ethernet(frame) {
        Ok(packet) => layers(&mut text, &packet),
        Err(_) => text += "no Ethernet header, ",
    }
    if let Some((flow, stamp)) = stamp::find(frame, length) {
        let run = run_name(stamp.run);
        let _ = write!(text, "gen run {run} flow {flow} number {}, ", stamp.sequence);
    }
    let _ = write!(text, "{length} bytes");
    text
}

fn layers(text: &mut String, packet: &LaxSlicedPacket<'_>) {
    for tag in packet.link_exts.iter() {
        if let LaxLinkExtSlice::Vlan(tag) = tag {
            let _ = write!(text, "vlan {}, ", tag.vlan_identifier().value());
        }
    }
    let ends = |source: &str, destination: &str| match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            format!(
                "{source}:{} > {destination}:{} TCP, ",
                tcp.source_port(),
                tcp.destination_port()
            )
        }
        Some(TransportSlice::Udp(udp)) => {
            format!(
                "{source}:{} > {destination}:{} UDP, ",
                udp.source_port(),
                udp.destination_port()
            )
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let (kind, code) = (icmp.type_u8(), icmp.code_u8());
            format!("{source} > {destination} ICMP type {kind} code {code}, ")
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (kind, code) = (icmp.type_u8(), icmp.code_u8());
            format!("{source} > {destination} ICMPv6 type {kind} code {code}, ")
        }
        Some(TransportSlice::Igmp(_)) => format!("{source} > {destination} IGMP, "),
        None => format!("{source} > {destination}, "),
    };
    match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            *text += "IPv4 ";
            *text +=
                &ends(&header.source_addr().to_string(), &header.destination_addr().to_string());
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let bracketed = |address: std::net::Ipv6Addr| format!("[{address}]");
            *text += "IPv6 ";
            *text += &ends(&bracketed(header.source_addr()), &bracketed(header.destination_addr()));
        }
        Some(LaxNetSlice::Arp(arp)) => *text += &address_resolution(arp),
        None => {
            if let Some(payload) = packet.ether_payload() {
                let _ = write!(text, "type 0x{:04x}, ", payload.ether_type.0);
            }
        }
    }
}

fn address_resolution(arp: &ArpPacketSlice<'_>) -> String {
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => std::net::Ipv4Addr::from(bytes).to_string(),
        Err(_) => "?".to_owned(),
    };
    let (sender, target) =
        (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()));
    match arp.operation().0 {
        1 => format!("ARP who has {target}, tell {sender}, "),
        2 => format!("ARP {sender} is here, tell {target}, "),
        other => format!("ARP operation {other}, "),
    }
}

/// The time of day (UTC) of nanoseconds since the Unix epoch.
pub fn time_of_day(ns: u64) -> String {
    let (seconds, fraction) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{fraction:09}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{DEFAULT_DESTINATION, Template};
    use crate::wire::stamp::Stamp;
    use etherparse::{PacketBuilder, VlanId};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const MACS: &str = "02:00:00:00:00:01 > 02:00:00:00:00:02";

    #[test]
    fn what_is_known_is_said() {
        let mut frame = vec![0; 60];
        let stamp = Stamp { run: 0xabc, clock: 1, sequence: 7, time: 0 };
        Template::new(DEFAULT_DESTINATION, MacAddr(A), 60).write(&mut frame, 1024, stamp);
        let ip = "IPv4 198.18.0.1:1024 > 198.19.0.1:9 UDP";
        let expected = format!("{MACS}, {ip}, gen run 000abc flow 1024 number 7, 60 bytes");
        assert_eq!(describe(&frame, 60), expected);
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B)
            .single_vlan(VlanId::try_new(5).unwrap())
            .ipv6([0; 16], [0; 16], 1)
            .tcp(1, 2, 3, 4);
        builder.write(&mut frame, &[]).unwrap();
        let length = frame.len();
        let expected = format!("{MACS}, vlan 5, IPv6 [::]:1 > [::]:2 TCP, {length} bytes");
        assert_eq!(describe(&frame, length), expected);
        let arp =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
        let frame = [&B[..], &A, &[0x08, 0x06], &arp].concat();
        assert_eq!(
            describe(&frame, 60),
            format!("{MACS}, ARP who has 10.0.0.2, tell 10.0.0.1, 60 bytes")
        );
        let frame = [&B[..], &A, &[0x88, 0xb5], &[0; 46]].concat();
        assert_eq!(describe(&frame, 60), format!("{MACS}, type 0x88b5, 60 bytes"));
    }

    #[test]
    fn any_bytes_are_described() {
        let mut state = 1u64;
        for length in 0..200 {
            let frame: Vec<u8> = (0..length)
                .map(|at| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // Often enough something that looks like IP.
                    [0x08, 0x00, 0x45, 0x06, 0x11, 0x60, (state >> 56) as u8]
                        [(state >> 40) as usize % 7 * usize::from(at > 11)]
                })
                .collect();
            assert!(describe(&frame, length).ends_with(&format!("{length} bytes")));
        }
    }

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(time_of_day(1_700_000_000_000_000_005), "22:13:20.000000005");
        assert_eq!(time_of_day(0), "00:00:00.000000000");
    }
}
