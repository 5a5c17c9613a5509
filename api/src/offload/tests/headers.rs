//! The parser, against etherparse and against how the frame was built.

use proptest::prelude::*;

use super::super::parse::{Headers, Network, Transport};
use super::{Built, Ip, Recipe, recipe};

fn expected(recipe: &Recipe, built: &Built) -> Headers {
    let (transport, protocol) = match (recipe.transport, &recipe.ip) {
        (super::Transport::Tcp { .. }, _) => (Transport::Tcp, 6),
        (super::Transport::Udp, _) => (Transport::Udp, 17),
        (super::Transport::Sctp, _) => (Transport::Sctp, 132),
        (super::Transport::Icmp, Ip::V4 { .. }) => (Transport::Other, 1),
        (super::Transport::Icmp, Ip::V6 { .. }) => (Transport::Other, 58),
    };
    let (ethertype, network) = match recipe.ip {
        Ip::V4 { options, .. } => (0x0800, Network::Ipv4 { header_len: 20 + options }),
        Ip::V6 { .. } => (0x86dd, Network::Ipv6),
    };
    Headers {
        vlan_tags: recipe.tags.len() as u8,
        ethertype,
        l3_offset: built.l3,
        network,
        fragment: false,
        rerouted: false,
        protocol,
        transport,
        l4_offset: built.l4,
        l4_len: built.end - built.l4,
    }
}

proptest! {
    #[test]
    fn headers_are_where_they_were_put(recipe in recipe()) {
        let built = recipe.build();
        prop_assert_eq!(Headers::parse(&built.frame), Some(expected(&recipe, &built)));
        // The first segment of a chain is enough if it has the headers.
        let first = &built.frame[..built.frame.len().min(built.l4 + 20)];
        let headers = Headers::parse_first(first, built.frame.len());
        prop_assert_eq!(headers, Some(expected(&recipe, &built)));
    }

    #[test]
    fn headers_are_where_etherparse_finds_them(recipe in recipe()) {
        use etherparse::{NetSlice, SlicedPacket, TransportSlice};
        let built = recipe.build();
        let headers = Headers::parse(&built.frame).unwrap();
        let oracle = SlicedPacket::from_ethernet(&built.frame).unwrap();
        let offset = |slice: &[u8]| slice.as_ptr() as usize - built.frame.as_ptr() as usize;
        let payload = match oracle.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                prop_assert_eq!(offset(ip.header().slice()), headers.l3_offset);
                ip.payload()
            }
            NetSlice::Ipv6(ip) => {
                prop_assert_eq!(offset(ip.header().slice()), headers.l3_offset);
                ip.payload()
            }
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(offset(payload.payload), headers.l4_offset);
        prop_assert_eq!(payload.payload.len(), headers.l4_len);
        prop_assert_eq!(payload.ip_number.0, headers.protocol);
        prop_assert_eq!(payload.fragmented, headers.fragment);
        let transport = match oracle.transport {
            Some(TransportSlice::Tcp(_)) => Transport::Tcp,
            Some(TransportSlice::Udp(_)) => Transport::Udp,
            _ if headers.protocol == 132 => Transport::Sctp,
            _ => Transport::Other,
        };
        prop_assert_eq!(headers.transport, transport);
    }

    /// Cut short anywhere, a frame has no transport; damaged anywhere, ours finds no transport where etherparse
    /// finds none.
    #[test]
    fn what_etherparse_refuses_is_unusable(
        recipe in recipe(),
        at in 0..100usize,
        value in any::<u8>(),
        cut_short in any::<bool>(),
    ) {
        use etherparse::{SlicedPacket, TransportSlice};
        let mut built = recipe.build();
        if cut_short {
            built.frame.truncate(at.min(built.end - 1));
            if let Some(headers) = Headers::parse(&built.frame) {
                prop_assert_eq!(headers.transport, Transport::Unusable);
            }
        } else {
            let at = at.min(built.frame.len() - 1);
            built.frame[at] = value;
            let Some(headers) = Headers::parse(&built.frame) else { return Ok(()) };
            let oracle = SlicedPacket::from_ethernet(&built.frame).ok().and_then(|p| p.transport);
            match (headers.transport, oracle) {
                // A third tag (etherparse knows it, we do not), MACsec likewise, lengths of UDP that disagree,
                // and segments shorter than etherparse asks for.
                (Transport::Unusable | Transport::Other, _) => {}
                (Transport::Tcp, Some(TransportSlice::Tcp(_))) => {}
                // The data offset is no business of a checksum's.
                (Transport::Tcp, None) => {
                    let doff = built.frame[headers.l4_offset + 12] >> 4;
                    prop_assert!(doff < 5 || usize::from(doff) * 4 > headers.l4_len);
                }
                (Transport::Udp, Some(TransportSlice::Udp(udp))) => {
                    prop_assert_eq!(usize::from(udp.length()), headers.l4_len);
                }
                (Transport::Sctp, None) => {}
                (ours, oracle) => prop_assert!(false, "{:?} {:?}", ours, oracle),
            }
        }
    }
}

/// Untagged IPv4 UDP with 20 bytes of payload.
fn plain(ip: Ip) -> (Recipe, Built) {
    let recipe = Recipe {
        tags: vec![],
        ip,
        transport: super::Transport::Udp,
        ports: [0x10, 0, 0x20, 0],
        payload: vec![7; 20],
        padding: vec![],
    };
    let built = recipe.build();
    (recipe, built)
}

fn v4() -> Built {
    plain(Ip::V4 { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], options: 0 }).1
}

fn v6(extensions: &[u8]) -> Built {
    let extensions = extensions.to_vec();
    plain(Ip::V6 { source: [1; 16], destination: [2; 16], extensions }).1
}

#[test]
fn fragments_have_no_transport() {
    for (flags, fragment) in
        [(0x4000u16, false), (0x8000, false), (0x2000, true), (0x0001, true), (0x1fff, true)]
    {
        let mut built = v4();
        built.frame[20..22].copy_from_slice(&flags.to_be_bytes());
        let headers = Headers::parse(&built.frame).unwrap();
        assert_eq!(headers.fragment, fragment, "{flags:04x}");
        assert_eq!(headers.transport == Transport::Unusable, fragment, "{flags:04x}");
        assert_eq!(headers.protocol, 17);
    }
    // IPv6: offset in units of eight, two reserved bits, more fragments.
    for (field, fragment) in [(0u16, false), (6, false), (1, true), (8, true), (0xfff8, true)] {
        let mut built = v6(&[44]);
        built.frame[14 + 40 + 2..][..2].copy_from_slice(&field.to_be_bytes());
        let headers = Headers::parse(&built.frame).unwrap();
        assert_eq!(headers.fragment, fragment, "{field:04x}");
        assert_eq!(headers.transport == Transport::Unusable, fragment, "{field:04x}");
        assert_eq!(headers.protocol, 17);
    }
}

#[test]
fn lengths_that_cannot_be_leave_no_transport() {
    let transport = |built: &Built| Headers::parse(&built.frame).unwrap().transport;
    let set = |mut built: Built, at: usize, value: u16| {
        built.frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
        built
    };
    // IPv4: 20 + 8 + 20 bytes.
    for (total, ok) in [(0, false), (19, false), (27, false), (47, false), (48, true), (49, false)]
    {
        assert_eq!(transport(&set(v4(), 16, total)) == Transport::Udp, ok, "total {total}");
    }
    for (len, ok) in [(0, false), (7, false), (8, true), (27, true), (28, true), (29, false)] {
        assert_eq!(transport(&set(v4(), 38, len)) == Transport::Udp, ok, "udp {len}");
        assert_eq!(transport(&set(v6(&[]), 58, len)) == Transport::Udp, ok, "udp/ipv6 {len}");
    }
    for (payload, ok) in [(0, false), (7, false), (27, false), (28, true), (29, false)] {
        assert_eq!(
            transport(&set(v6(&[]), 18, payload)) == Transport::Udp,
            ok,
            "payload {payload}"
        );
    }
    // A header longer than the frame, shorter than a header, of another version.
    for version in [0x44, 0x65, 0x05] {
        let mut built = v4();
        built.frame[14] = version;
        let headers = Headers::parse(&built.frame).unwrap();
        assert_eq!((headers.network, headers.transport), (Network::Other, Transport::Unusable));
    }
    assert_eq!(Headers::parse(&[0; 13]), None);
    assert!(Headers::parse(&[0; 14]).is_some());
    let mut tagged = [0; 18];
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(Headers::parse(&tagged[..17]), None);
    assert_eq!(Headers::parse(&tagged).unwrap().l3_offset, 18);
    // A third tag is not looked behind.
    let mut deep = [0; 40];
    for at in [12, 16, 20] {
        deep[at..at + 2].copy_from_slice(&[0x81, 0]);
    }
    let headers = Headers::parse(&deep).unwrap();
    assert_eq!((headers.vlan_tags, headers.ethertype, headers.l3_offset), (2, 0x8100, 22));
}

#[test]
fn the_walk_through_extensions_is_bounded() {
    let built = v6(&[60; 8]);
    assert_eq!(Headers::parse(&built.frame).unwrap().transport, Transport::Udp);
    let built = v6(&[60; 9]);
    assert_eq!(Headers::parse(&built.frame).unwrap().transport, Transport::Unusable);
}

#[test]
fn padding_is_no_header() {
    // The packet ends before its fragment header, which padding happens to look like.
    let mut built = v6(&[44]);
    built.frame[18..20].copy_from_slice(&[0, 0]);
    built.frame[14 + 40 + 3] = 1;
    let headers = Headers::parse(&built.frame).unwrap();
    assert_eq!((headers.fragment, headers.protocol), (false, 44));
    assert_eq!(headers.transport, Transport::Unusable);
}

#[test]
fn changed_addresses_are_noticed() {
    let rerouted = |built: &Built| Headers::parse(&built.frame).unwrap().rerouted;
    let mut routed = v6(&[43]);
    assert!(!rerouted(&routed));
    routed.frame[54 + 3] = 1;
    assert!(rerouted(&routed));
    let options = |bytes: [u8; 14]| {
        let mut built = v6(&[60]);
        built.frame[56..70].copy_from_slice(&bytes);
        rerouted(&built)
    };
    assert!(!options([1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert!(options([0, 0xc9, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert!(options([1, 2, 0, 0, 0xc9, 8, 0, 0, 0, 0, 0, 0, 0, 0]));
    // Inside another option it is none.
    assert!(!options([1, 12, 0xc9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    // Too many options to tell.
    assert!(options([0; 14]));
}
