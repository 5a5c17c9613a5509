//! Frames both ways: bytes, tags, lengths, addresses (contract R3 to R6, M2).

use std::collections::BTreeSet;

use anyport::MacAddr;
use anyport_netdev::testing::{in_namespace, ip, run};

use crate::common::{frame, open, open_with, tagged, warnings};

#[test]
fn frames_pass_both_ways_exactly() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let to_a = a.port.control().mac().unwrap();
        let to_b = b.port.control().mac().unwrap();
        for length in [60, 61, 1000, 1513, 1514] {
            let frames: Vec<_> = (0..300).map(|n| frame(to_b, n, length)).collect();
            a.send(frames.clone());
            assert_eq!(b.receive(300), frames);
        }
        let frames: Vec<_> = (0..300).map(|n| frame(to_a, n, 64)).collect();
        b.send(frames.clone());
        assert_eq!(a.receive(300), frames);
        let (sent, received) = (a.port.stats().read().port, b.port.stats().read().port);
        assert_eq!((sent.tx_packets, received.rx_packets), (Some(1500), Some(1500)));
        assert_eq!(
            (sent.tx_bytes, received.rx_bytes, received.rx_dropped()),
            (received.rx_bytes, sent.tx_bytes, 0)
        );
        assert_eq!(a.port.stats().read().port.rx_packets, Some(300), "none of its own");
    });
}

#[test]
fn tags_stay_whatever_their_identifier() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let to = b.mac();
        let short = |tpid, tci| tagged(frame(to, 7, 60), tpid, tci);
        // All identifiers, reserved ones included, and all priorities.
        let frames: Vec<_> = (0..=u16::MAX).step_by(13).map(|tci| short(0x8100, tci)).collect();
        for some in frames.chunks(256) {
            a.send(some.to_vec());
            assert_eq!(b.receive(some.len()), some);
        }
        let frames = [
            tagged(frame(to, 7, 80), 0x88a8, 0x2005),
            tagged(tagged(frame(to, 7, 90), 0x8100, 6), 0x88a8, 5),
            tagged(tagged(frame(to, 7, 90), 0x8100, 6), 0x8100, 5),
            tagged(frame(to, 7, 1518), 0x8100, 0xefff),
        ];
        a.send(frames.clone());
        assert_eq!(b.receive(4), frames);
        assert_eq!(b.counters().rx_dropped(), 0);
    });
}

#[test]
fn promiscuous_mode_governs_what_is_sent_after_the_switch() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let foreign = MacAddr([2, 9, 9, 9, 9, 9]);
        let group = MacAddr([1, 0, 0x5e, 1, 2, 3]);
        // Differs from its own in the last byte, and in the first.
        let mut near = [b.mac(); 2];
        near[0].0[5] ^= 1;
        near[1].0[0] ^= 4;
        let others = |number| {
            let plain = frame(foreign, number, 60);
            [
                plain.clone(),
                tagged(plain, 0x8100, 5),
                frame(near[0], number, 60),
                frame(near[1], number, 60),
            ]
        };
        let ours = |number, to| {
            let all = [group, MacAddr::BROADCAST, to];
            all.map(|to| tagged(frame(to, number, 64), 0x8100, 9))
                .into_iter()
                .chain(all.map(|to| frame(to, number, 60)))
        };
        let to = b.mac();
        let flags = || {
            let shown = run("ip", "-d -j link show a1");
            let at = shown.find("\"flags\":").unwrap();
            let end = shown[at..].find(']').unwrap();
            let promiscuity =
                shown.split("\"promiscuity\":").nth(1).unwrap().chars().next().unwrap();
            (shown[at..at + end].to_owned(), promiscuity)
        };
        let before = flags();
        assert_eq!(before.1, '0');
        for round in 0..3 {
            a.send(others(round).into_iter().chain(ours(round, to)));
            assert_eq!(b.receive(6), ours(round, to).collect::<Vec<_>>());
            b.port.control().set_promiscuous(true).unwrap();
            assert_eq!(flags(), (before.0.clone(), '1'), "a membership, no flag");
            a.send(others(round).into_iter().chain(ours(round, to)));
            assert_eq!(
                b.receive(10),
                others(round).into_iter().chain(ours(round, to)).collect::<Vec<_>>()
            );
            b.port.control().set_promiscuous(false).unwrap();
            assert_eq!(flags(), before);
        }
        // Not taken by anybody is no drop, and how many were filtered the kernel does not say.
        assert_eq!((b.counters().rx_dropped(), b.counters().rx_filtered), (0, None));
    });
}

#[test]
fn a_set_address_is_the_one_that_is_received() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1"));
        let (old, new) = (b.mac(), MacAddr([2, 0, 0, 0, 0, 0x77]));
        b.port.control().set_mac(new).unwrap();
        a.send([frame(old, 1, 60), frame(new, 2, 60)]);
        assert_eq!(b.receive(1), [frame(new, 2, 60)]);
        b.port.stop().unwrap();
        let (rx, tx) = b.port.start().unwrap().into_pair();
        (b.rx, b.tx) = (rx, tx);
        a.send([frame(old, 3, 60), frame(new, 4, 60)]);
        assert_eq!(b.receive(1), [frame(new, 4, 60)]);
    });
}

#[test]
fn frames_that_are_filtered_take_no_room_in_the_ring() {
    in_namespace(|| {
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1,rx_ring=16"));
        let (to, foreign) = (b.mac(), MacAddr([2, 9, 9, 9, 9, 9]));
        // Own transmissions, and others' unicast frames, tagged or not; all while nobody receives.
        let frames = (0..1000).map(|n| frame(foreign, n, 60));
        a.send(frames.clone().chain(frames.map(|frame| tagged(frame, 0x8100, 5))));
        b.send((0..1000).map(|n| frame(foreign, n, 60)));
        a.send((0..16).map(|n| frame(to, n, 60)));
        assert_eq!(b.receive(16), (0..16).map(|n| frame(to, n, 60)).collect::<Vec<_>>());
        assert_eq!(b.counters().rx_ring_full, Some(0));
    });
}

#[test]
fn longer_frames_are_dropped_and_counted_and_said_once() {
    in_namespace(|| {
        // The link passes more than the receiver takes.
        ip("link set a0 mtu 3000");
        ip("link set a1 mtu 3000");
        let (mut a, mut b) = (open("pcap:a0"), open("pcap:a1,max_frame=1514"));
        ip("link set a1 mtu 3000");
        let to = b.mac();
        let long = |n| {
            [
                frame(to, n, 1515),
                frame(to, n, 1600),
                tagged(frame(to, n, 1519), 0x8100, 5),
                frame(to, n, 3014),
            ]
        };
        let (arrived, said) = warnings(|| {
            a.send((0..20).flat_map(|n| [frame(to, n, 1514)].into_iter().chain(long(n))));
            b.receive(20)
        });
        assert_eq!(arrived, (0..20).map(|n| frame(to, n, 1514)).collect::<Vec<_>>());
        assert_eq!(b.counters().rx_too_long, Some(80));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("`ethtool -K a0 tso off gso off`"), "{said:?}");
        // Each once: what was dropped as too long is not also missing elsewhere.
        assert_eq!(b.counters().rx_dropped(), 80);
    });
}

#[test]
fn large_frames_come_in_chains() {
    in_namespace(|| {
        let keys = "max_frame=9014,max_segments=16,rx_ring=64";
        let mut a = open_with(&format!("pcap:a0,{keys}"), 2048);
        let mut b = open_with(&format!("pcap:a1,{keys}"), 2048);
        let to = b.mac();
        let frames: Vec<_> = [60, 1792, 1793, 9014].map(|length| frame(to, 3, length)).into();
        a.send(frames.clone());
        let mut burst = anyport::Burst::new();
        let mut arrived = Vec::new();
        while arrived.len() < 4 {
            assert_eq!(b.rx.wait(std::time::Duration::from_secs(5)).unwrap(), anyport::Wake::Ready);
            b.rx.recv(&mut burst).unwrap();
            arrived
                .extend(burst.drain().map(|packet| packet.segments().collect::<Vec<_>>().concat()));
        }
        assert_eq!(arrived, frames);
        assert_eq!(b.pool.free(), b.pool.capacity());
    });
}

#[test]
fn what_the_kernel_at_the_other_end_sends_arrives() {
    in_namespace(|| {
        let mut b = open("pcap:a1");
        ip("addr add 192.0.2.1/24 dev a0");
        let _ = std::net::UdpSocket::bind("192.0.2.1:0").unwrap().send_to(b"x", "192.0.2.9:9");
        let frames = b.receive(1);
        let types: BTreeSet<&[u8]> = frames.iter().map(|frame| &frame[12..14]).collect();
        assert_eq!(types, BTreeSet::from([&[0x08, 0x06][..]]), "{frames:?}");
    });
}
