//! What the formats allow, in files made by hand, and what this crate writes.

mod common;

use anyport_capfile::{Direction, Format, MAX_FRAME, Reader, Record, Resolution, Writer};
use common::*;
use proptest::prelude::*;

#[test]
fn pcap_in_all_four_kinds() {
    for order in ORDERS {
        for nano in [false, true] {
            let mut file = order.pcap(nano, 1);
            file.extend(order.pcap_record(1_700_000_000, 999_999, 60, &frame(1, 60)));
            file.extend(order.pcap_record(u32::MAX, 7, 100, &frame(2, 61)));
            let unit = if nano { 1 } else { 1000 };
            let second = 1_000_000_000;
            let mut expected = vec![
                Owned::new(1_700_000_000 * second + 999_999 * unit, &frame(1, 60)),
                Owned::new(u64::from(u32::MAX) * second + 7 * unit, &frame(2, 61)),
            ];
            expected[1].original_len = 100;
            assert_eq!(read_whole(&file), expected, "{order:?} {nano}");
            let reader = Reader::new(std::io::Cursor::new(file), "x").unwrap();
            let resolution = if nano { Resolution::Nano } else { Resolution::Micro };
            assert_eq!((reader.format(), reader.resolution()), (Format::Pcap, resolution));
        }
    }
}

#[test]
fn pcapng_units_and_offsets_of_time() {
    /// The two options, a packet's units, and its time.
    type Case = (&'static [u8], Option<i64>, u64, u64, Resolution);
    let cases: [Case; 10] = [
        (&[], None, 5_000_001, 5_000_001_000, Resolution::Micro),
        (&[6], None, 5_000_001, 5_000_001_000, Resolution::Micro),
        (&[9], None, u64::MAX, u64::MAX, Resolution::Nano),
        (&[3], Some(10), 1, 10_001_000_000, Resolution::Micro),
        (&[12], None, 5_000_999, 5_000, Resolution::Nano),
        (&[0], Some(-5), 7, 2_000_000_000, Resolution::Micro),
        // Powers of two, as some hardware writes them.
        (&[0x80 | 32], None, 3 << 31, 1_500_000_000, Resolution::Nano),
        (&[0x80 | 10], None, 1 << 9, 500_000_000, Resolution::Micro),
        // Nonsense is harmless: no unit that can be counted, a time before 1970.
        (&[127], Some(1), 1 << 40, 1_000_000_000, Resolution::Nano),
        (&[9], Some(i64::MIN), 5, 0, Resolution::Nano),
    ];
    for order in ORDERS {
        for (resolution, offset, units, ns, fine) in cases {
            let mut options = Vec::new();
            if !resolution.is_empty() {
                options.push(order.option(9, resolution));
            }
            if let Some(offset) = offset {
                options.push(order.option(14, &order.u64(offset as u64)));
            }
            let file = [
                order.section(),
                order.interface(1, 0, &options),
                order.packet(0, units, &frame(1, 14), &[]),
            ]
            .concat();
            let mut reader = Reader::new(std::io::Cursor::new(file), "x").unwrap();
            let record = reader.next_record().unwrap().unwrap();
            assert_eq!(record.timestamp_ns, Some(ns), "{order:?} {resolution:?} {offset:?}");
            assert_eq!((reader.format(), reader.resolution()), (Format::Pcapng, fine));
        }
    }
    // Beyond what 64 bits of nanoseconds hold.
    let order = ORDERS[0];
    let seconds = order.option(9, &[0]);
    let file =
        [order.section(), order.interface(1, 0, &[seconds]), order.packet(0, 1 << 60, &[1], &[])];
    assert_eq!(read_whole(&file.concat())[0].timestamp_ns, Some(u64::MAX));
}

#[test]
fn pcapng_sections_interfaces_and_other_blocks() {
    let [little, big] = ORDERS;
    let file = [
        little.section(),
        // Statistics, a name resolution, a custom block that is larger than any buffer.
        little.block(5, &[0; 12]),
        little.block(0xbad, &vec![7; 3 * MAX_FRAME]),
        little.interface(1, 0, &[little.option(9, &[9])]),
        little.interface(1, 0, &[little.option(9, &[3])]),
        little.packet(1, 5, &frame(1, 60), &[]),
        little.block(4, &[]),
        little.packet(0, 5, &frame(2, 61), &[]),
        // A section of the other byte order has interfaces of its own.
        big.section(),
        big.interface(1, 0, &[]),
        big.packet(0, 5, &frame(3, 62), &[]),
        big.block(0x8000_0001, &[1, 2, 3]),
    ]
    .concat();
    let expected = [
        Owned::new(5_000_000, &frame(1, 60)),
        Owned::new(5, &frame(2, 61)),
        Owned::new(5_000, &frame(3, 62)),
    ];
    assert_eq!(read_whole(&file), expected);
    let gone = [file, big.packet(1, 5, &frame(3, 62), &[])].concat();
    let (records, error) = read_broken(&gone);
    assert_eq!(
        (records, error.contains("record 4: a packet of interface 1")),
        (3, true),
        "{error}"
    );
}

#[test]
fn pcapng_directions_and_options() {
    for order in ORDERS {
        let flags = |flags: u32| order.option(2, &order.u32(flags));
        let end = order.option(0, &[]);
        let comment = order.option(1, b"not \xff UTF-8");
        let packet = |number, options: &[Vec<u8>]| order.packet(0, 0, &frame(number, 60), options);
        let file = [
            order.section(),
            order.interface(1, 0, &[]),
            packet(1, &[flags(1), end.clone()]),
            packet(2, &[comment, flags(2)]),
            packet(3, &[flags(0), end.clone()]),
            packet(4, &[end, flags(1)]),
            packet(5, &[order.option(2, &[1])]),
        ];
        let directions: Vec<_> =
            read_whole(&file.concat()).into_iter().map(|record| record.direction).collect();
        let (received, sent) = (Some(Direction::Received), Some(Direction::Sent));
        assert_eq!(directions, [received, sent, None, None, None], "{order:?}");
    }
}

#[test]
fn pcapng_simple_and_obsolete_packets() {
    for order in ORDERS {
        let simple =
            |original: u32, data: &[u8]| order.block(3, &[&order.u32(original)[..], data].concat());
        let obsolete = [
            &order.u16(1)[..],
            &order.u16(0xffff),
            &order.u32(0),
            &order.u32(77),
            &order.u32(13),
            &order.u32(13),
            &frame(3, 13),
            &[0; 3],
            &order.option(2, &order.u32(2)),
        ];
        let file = [
            order.section(),
            order.interface(1, 16, &[]),
            order.interface(1, 16, &[order.option(9, &[9])]),
            // The padding is not the frame's, and the interface cuts at 16.
            simple(15, &frame(1, 15)),
            simple(1000, &frame(2, 16)),
            order.block(2, &obsolete.concat()),
        ];
        let mut expected = [
            Owned::new(0, &frame(1, 15)),
            Owned::new(0, &frame(2, 16)),
            Owned::new(77, &frame(3, 13)),
        ];
        // Only these have no time; 0 is one.
        (expected[0].timestamp_ns, expected[1].timestamp_ns) = (None, None);
        expected[1].original_len = 1000;
        expected[2].direction = Some(Direction::Sent);
        assert_eq!(read_whole(&file.concat()), expected, "{order:?}");
        // A frame that does not fit its block.
        let file = [order.section(), order.interface(1, 0, &[]), simple(17, &frame(2, 16))];
        let (records, error) = read_broken(&file.concat());
        assert_eq!(
            (records, error.contains("record 1: a frame of 17 bytes")),
            (0, true),
            "{error}"
        );
    }
}

#[test]
fn frame_check_sequences_are_not_part_of_frames() {
    for order in ORDERS {
        // Two 16-bit words of them, and the bit that says so.
        let mut file = order.pcap(true, 1 | 1 << 26 | 2 << 28);
        file.extend(order.pcap_record(0, 1, 64, &frame(1, 64)));
        file.extend(order.pcap_record(0, 2, 64, &frame(1, 62)));
        file.extend(order.pcap_record(0, 3, 64, &frame(1, 40)));
        file.extend(order.pcap_record(0, 4, 2, &frame(1, 2)));
        let lengths: Vec<_> = read_whole(&file)
            .into_iter()
            .map(|record| {
                (record.data == frame(1, record.data.len()), record.data.len(), record.original_len)
            })
            .collect();
        assert_eq!(lengths, [(true, 60, 60), (true, 60, 60), (true, 40, 60), (true, 0, 0)]);

        for (length, flags) in [(4, 0), (32, 0), (0, 4 << 5)] {
            let file = [
                order.section(),
                order.interface(1, 0, &[order.option(13, &[length])]),
                order.packet(0, 0, &frame(1, 64), &[order.option(2, &order.u32(flags))]),
            ];
            let record = &read_whole(&file.concat())[0];
            assert_eq!(
                (record.original_len, &record.data),
                (60, &frame(1, 60)),
                "{length} {flags}"
            );
        }
    }
}

#[test]
fn only_ethernet_is_read() {
    let order = ORDERS[1];
    let error = read_broken(&order.pcap(false, 113)).1;
    assert!(error.contains("the file's header is of link type 113 (Linux cooked"), "{error}");
    // A pcapng file may have such an interface as long as no packet of it appears.
    let mut file = [
        order.section(),
        order.interface(1, 0, &[]),
        order.interface(127, 0, &[]),
        order.packet(0, 0, &frame(1, 60), &[]),
    ]
    .concat();
    assert_eq!(read_whole(&file).len(), 1);
    file.extend(order.packet(1, 0, &frame(2, 60), &[]));
    let (records, error) = read_broken(&file);
    assert_eq!(records, 1);
    assert!(error.contains("record 2 is of link type 127 (IEEE 802.11 with radiotap"), "{error}");
}

#[test]
fn a_file_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let order = ORDERS[1];
    // Larger than what is read at once; the section's byte order and interfaces begin anew.
    let mut file = [order.section(), order.interface(1, 0, &[])].concat();
    for number in 0..100 {
        file.extend(order.packet(0, 1, &frame(number, 1000), &[]));
    }
    std::fs::write(&path, &file).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    for stop_after in [0, 1, 99, 100] {
        assert_eq!(reader.current(), None);
        for number in 0..stop_after {
            let record = reader.next_record().unwrap().unwrap();
            assert_eq!(record.data, frame(number, 1000));
            assert_eq!(reader.current().unwrap().data, frame(number, 1000));
        }
        if stop_after == 100 {
            assert_eq!(reader.next_record().unwrap(), None);
            assert_eq!(reader.current(), None);
            assert_eq!(reader.next_record().unwrap(), None);
        }
        reader.rewind().unwrap();
    }
    std::fs::write(&path, &file[..file.len() - 1]).unwrap();
    for _ in 0..2 {
        for _ in 0..99 {
            assert!(reader.next_record().unwrap().is_some());
        }
        let error = reader.next_record().unwrap_err().to_string();
        assert!(error.contains("record 100 is not whole"), "{error}");
        assert_eq!(reader.current(), None);
        reader.rewind().unwrap();
    }
    std::fs::write(&path, b"").unwrap();
    assert!(reader.rewind().unwrap_err().to_string().contains("is empty"));
    let mut reader = Reader::new(std::io::Cursor::new(file), "x").unwrap();
    assert!(reader.rewind().unwrap_err().to_string().contains("x: reading again"));
}

#[test]
fn names_tell_formats() {
    let of = |name: &str| Format::of_name(name.as_ref());
    assert_eq!(of("a/b.pcap"), Some(Format::Pcap));
    assert_eq!(of("b.c.PcapNG"), Some(Format::Pcapng));
    assert_eq!([of("pcap"), of("a.cap"), of("a.pcap.gz"), of("")], [None; 4]);
}

#[test]
fn what_a_format_cannot_hold_is_refused_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("a.pcap", Format::Pcap), ("a.pcapng", Format::Pcapng)] {
        let path = folder.path().join(name);
        let mut writer = Writer::create(&path, format, "x").unwrap();
        let big = vec![0; MAX_FRAME + 1];
        let record = |time, original_len, data| Record {
            timestamp_ns: Some(time),
            original_len,
            data,
            direction: None,
        };
        writer.write(&record(0, MAX_FRAME, &big[1..])).unwrap();
        let error = writer.write(&record(0, MAX_FRAME, &big)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("262145 bytes"), "{error}");
        assert!(writer.write(&record(0, 1 << 33, &[1])).is_err());
        let late = writer.write(&record(u64::MAX, 3, &[1, 2, 3]));
        assert_eq!(late.is_ok(), format == Format::Pcapng);
        // An original length below the data's is mended.
        writer.write(&record(1, 0, &[1, 2, 3])).unwrap();
        writer.finish().unwrap();
        let (records, end) = drain(Reader::open(&path));
        end.unwrap();
        assert_eq!(records.len(), 2 + usize::from(format == Format::Pcapng));
        assert_eq!(records.last(), Some(&Owned::new(1, &[1, 2, 3])));
    }
}

fn records() -> impl Strategy<Value = Vec<Owned>> {
    let direction =
        prop_oneof![Just(None), Just(Some(Direction::Received)), Just(Some(Direction::Sent))];
    let data = prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => (0..70_000usize).prop_map(|length| frame(1, length)),
    ];
    let record = (0..u64::from(u32::MAX) * 1_000_000_000, 0..100usize, data, direction).prop_map(
        |(time, cut, data, direction)| Owned {
            timestamp_ns: Some(time),
            original_len: data.len() + cut,
            data,
            direction,
        },
    );
    proptest::collection::vec(record, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        records in records(),
        pcapng in any::<bool>(),
        name in ".{0,300}",
        most in 1..5000usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let format = if pcapng { Format::Pcapng } else { Format::Pcap };
        let mut writer = Writer::create(&path, format, &name).unwrap();
        for (number, record) in records.iter().enumerate() {
            writer.write(&record.record()).unwrap();
            if number % 7 == 3 {
                writer.flush().unwrap();
                prop_assert_eq!(writer.records(), number as u64 + 1);
            }
        }
        writer.finish().unwrap();
        let mut expected = records;
        if !pcapng {
            expected.iter_mut().for_each(|record| record.direction = None);
        }
        let bytes = std::io::Cursor::new(std::fs::read(&path).unwrap());
        let (read, end) = drain(Reader::new(Dribble { bytes, most, calls: 0 }, "test"));
        end.unwrap();
        prop_assert_eq!(&read, &expected);
        let (read, end) = drain(Reader::open(&path));
        end.unwrap();
        prop_assert_eq!(&read, &expected);
    }
}
