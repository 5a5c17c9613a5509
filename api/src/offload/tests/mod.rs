//! Tests of the offloads against etherparse, against naive implementations, and with frames from a kernel.

mod checksum;
mod finish;
mod headers;
mod tag;
mod toeplitz;

use proptest::prelude::*;

/// What a generated frame is made of; [`Recipe::build`] is written without the code under test.
#[derive(Debug, Clone)]
struct Recipe {
    tags: Vec<(u16, u16)>,
    ip: Ip,
    transport: Transport,
    ports: [u8; 4],
    payload: Vec<u8>,
    padding: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Ip {
    V4 { source: [u8; 4], destination: [u8; 4], options: usize },
    V6 { source: [u8; 16], destination: [u8; 16], extensions: Vec<u8> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp { options: usize },
    Udp,
    Sctp,
    Icmp,
}

/// A frame and where its parts are.
#[derive(Debug, Clone)]
struct Built {
    frame: Vec<u8>,
    l3: usize,
    l4: usize,
    end: usize,
    /// The transport's checksum field.
    field: usize,
}

impl Recipe {
    /// The frame with right checksums.
    fn build(&self) -> Built {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (tpid, tci) in &self.tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        let (protocol, mut segment, field) = self.segment();
        let l3 = frame.len() + 2;
        match &self.ip {
            Ip::V4 { source, destination, options } => {
                frame.extend([0x08, 0x00, 0x45 + (options / 4) as u8, 0]);
                let total = (20 + options + segment.len()) as u16;
                frame.extend(total.to_be_bytes());
                frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
                frame.extend(source.iter().chain(destination));
                frame.extend(std::iter::repeat_n(1, *options));
                let header = naive_checksum(&frame[l3..]);
                frame[l3 + 10..l3 + 12].copy_from_slice(&header.to_be_bytes());
            }
            Ip::V6 { source, destination, extensions } => {
                let extension_len: usize =
                    extensions.iter().map(|kind| extension(*kind).len()).sum();
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(((extension_len + segment.len()) as u16).to_be_bytes());
                frame.extend([extensions.first().copied().unwrap_or(protocol), 64]);
                frame.extend(source.iter().chain(destination));
                for (i, kind) in extensions.iter().enumerate() {
                    let mut header = extension(*kind);
                    header[0] = extensions.get(i + 1).copied().unwrap_or(protocol);
                    frame.extend(header);
                }
            }
        }
        if let Some(checksum) = self.l4_checksum(protocol, &segment) {
            segment[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        let l4 = frame.len();
        frame.extend(segment);
        let end = frame.len();
        frame.extend(&self.padding);
        Built { frame, l3, l4, end, field: l4 + field }
    }

    /// Protocol, header and payload with a checksum field of 0, and where the field is.
    fn segment(&self) -> (u8, Vec<u8>, usize) {
        let mut segment = self.ports.to_vec();
        let (protocol, field) = match self.transport {
            Transport::Tcp { options } => {
                segment.extend([1, 2, 3, 4, 5, 6, 7, 8, (20 + options) as u8 / 4 * 16, 0x18]);
                segment.extend([0xff, 0xff, 0, 0, 0, 0]);
                segment.extend(std::iter::repeat_n(1, options));
                (6, 16)
            }
            Transport::Udp => {
                segment.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                segment.extend([0, 0]);
                (17, 6)
            }
            Transport::Sctp => {
                segment.extend([0; 8]);
                (132, 8)
            }
            Transport::Icmp => {
                segment = vec![8, 0, 0, 0, 0, 1, 0, 1];
                (if matches!(self.ip, Ip::V4 { .. }) { 1 } else { 58 }, 2)
            }
        };
        segment.extend(&self.payload);
        (protocol, segment, field)
    }

    fn l4_checksum(&self, protocol: u8, segment: &[u8]) -> Option<u16> {
        if !self.has_l4_checksum() {
            return None;
        }
        let sum = naive_sum(&[self.pseudo(protocol, segment.len()), segment.to_vec()].concat());
        Some(match !sum {
            0 if self.transport == Transport::Udp => 0xffff,
            checksum => checksum,
        })
    }

    fn has_l4_checksum(&self) -> bool {
        matches!(self.transport, Transport::Tcp { .. } | Transport::Udp)
    }

    fn pseudo(&self, protocol: u8, len: usize) -> Vec<u8> {
        match &self.ip {
            Ip::V4 { source, destination, .. } => {
                let len = (len as u16).to_be_bytes();
                [&source[..], destination, &[0, protocol], &len].concat()
            }
            Ip::V6 { source, destination, .. } => {
                let len = (len as u32).to_be_bytes();
                [&source[..], destination, &len, &[0, 0, 0, protocol]].concat()
            }
        }
    }

    /// The folded sum of the pseudo header: what a kernel leaves in the field.
    fn pseudo_sum(&self) -> u16 {
        let (protocol, segment, _) = self.segment();
        naive_sum(&self.pseudo(protocol, segment.len()))
    }
}

/// An extension header; its first byte is to be set.
fn extension(kind: u8) -> Vec<u8> {
    match kind {
        // Authentication: counted in units of four, less two.
        51 => [&[0, 4][..], &[0; 22]].concat(),
        // A fragment header of a packet that is whole.
        44 => vec![0, 0, 0, 0, 9, 9, 9, 9],
        // A routing header with no segments left.
        43 => [&[0, 2, 0, 0][..], &[0; 20]].concat(),
        // Options: PadN.
        _ => [&[0, 1, 1, 12][..], &[0; 12]].concat(),
    }
}

/// The folded sum, by the book: words in 64 bits.
fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for word in bytes.chunks(2) {
        sum += u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn naive_checksum(bytes: &[u8]) -> u16 {
    !naive_sum(bytes)
}

fn ip() -> impl Strategy<Value = Ip> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>(), 0..=10usize).prop_map(
            |(source, destination, words)| { Ip::V4 { source, destination, options: words * 4 } }
        ),
        (
            any::<[u8; 16]>(),
            any::<[u8; 16]>(),
            // In the order of RFC 8200, each at most once.
            proptest::sample::subsequence(vec![0u8, 60, 43, 44, 51], 0..=3),
        )
            .prop_map(|(source, destination, extensions)| {
                Ip::V6 { source, destination, extensions }
            }),
    ]
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let tag = (prop_oneof![Just(0x8100u16), Just(0x88a8)], any::<u16>());
    let transport = prop_oneof![
        3 => (0..=10usize).prop_map(|words| Transport::Tcp { options: words * 4 }),
        3 => Just(Transport::Udp),
        1 => Just(Transport::Sctp),
        1 => Just(Transport::Icmp),
    ];
    let bytes = |range| proptest::collection::vec(any::<u8>(), range);
    let payload = prop_oneof![2 => bytes(0..80), 1 => bytes(1400..1500)];
    (
        proptest::collection::vec(tag, 0..=2),
        ip(),
        transport,
        any::<[u8; 4]>(),
        payload,
        bytes(0..30),
    )
        .prop_map(|(tags, ip, transport, ports, payload, padding)| Recipe {
            tags,
            ip,
            transport,
            ports,
            payload,
            padding,
        })
}

/// Cuts a frame into pieces behind its first `at` bytes.
fn cut(frame: &[u8], mut at: usize, piece: usize) -> Vec<&[u8]> {
    let mut segments = Vec::new();
    let mut rest = frame;
    while rest.len() > at {
        let (segment, behind) = rest.split_at(at);
        segments.push(segment);
        (rest, at) = (behind, piece);
    }
    segments.push(rest);
    segments
}

/// Everything that takes a frame, on these bytes: none may panic.
fn exercise(bytes: &[u8], cut_at: usize, piece: usize) {
    use super::{checksum::*, crc32c, parse::Headers, sum, toeplitz, tunnel, vlan};
    let segments = cut(bytes, cut_at, piece);
    let iter = || segments.iter().copied();
    for frame in [bytes, segments[0]] {
        if let Some(headers) = Headers::parse_first(frame, bytes.len()) {
            assert!(headers.l4_offset + headers.l4_len <= bytes.len());
            tunnel::inner(frame, &headers);
        }
        verify(frame);
        toeplitz::rss_hash(frame, &toeplitz::DEFAULT_KEY);
        toeplitz::Toeplitz::default().hash_frame(frame);
        toeplitz::Toeplitz::default().hash(frame);
        vlan::outer_tci(frame);
        vlan::is_tagged(frame);
        sum::checksum(frame);
        let mut crc = crc32c::Crc32c::default();
        crc.add(frame);
        crc.finish();
        let mut copy = frame.to_vec();
        finish(&mut copy);
        vlan::strip(&mut copy);
        vlan::insert(&mut copy, 1);
    }
    verify_segments(iter());
    let mut copy = bytes.to_vec();
    if let Some(patch) = finish_segments(iter()) {
        patch.apply(&mut copy);
        patch.apply(&mut []);
    }
    for (ipv4, l4) in [(true, FillL4::None), (false, FillL4::Tcp), (true, FillL4::Udp)] {
        let request = Fill { ipv4, l4 };
        let _ = fill(&mut copy, request);
        if let Ok(filled) = fill_segments(iter(), request) {
            filled.apply(&mut copy);
            filled.apply(&mut []);
        }
    }
    verify_segments(std::iter::empty());
    assert_eq!(finish_segments(std::iter::empty()), None);
}

proptest! {
    #[test]
    fn nothing_panics_on_noise(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ethertype in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x8100), any::<u16>()],
        version in prop_oneof![Just(0x45u8), Just(0x60), Just(0x4f), any::<u8>()],
        cut_at in 0..200usize,
        piece in 1..50usize,
    ) {
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            bytes[14] = version;
        }
        exercise(&bytes, cut_at, piece);
    }

    #[test]
    fn nothing_panics_on_damaged_frames(
        recipe in recipe(),
        damage in proptest::collection::vec((0..120usize, any::<u8>()), 0..4),
        len in 0..300usize,
        cut_at in 0..120usize,
        piece in 1..400usize,
    ) {
        let mut frame = recipe.build().frame;
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        exercise(&frame, cut_at, piece);
        frame.truncate(len);
        exercise(&frame, cut_at, piece);
    }
}
