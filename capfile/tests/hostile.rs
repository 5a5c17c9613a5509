//! Files that are cut off, broken, or made to do harm: an error that says where, never a panic, never much memory.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyport_capfile::{Error, Reader};
use common::*;
use proptest::prelude::*;

/// Keeps the largest single allocation of each thread's.
struct Largest;

thread_local! {
    static LARGEST: AtomicUsize = const { AtomicUsize::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.fetch_max(layout.size(), Ordering::Relaxed));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

/// A small file of each kind, with the offsets at which whole records have been read, and where the header ends.
fn samples() -> Vec<(Vec<u8>, Vec<usize>)> {
    let mut samples = Vec::new();
    for order in ORDERS {
        let (mut file, mut ends) = (order.pcap(order.big, 1), Vec::new());
        for number in 0..3 {
            let length = 14 + number;
            file.extend(order.pcap_record(1, 2, length, &frame(number as u8, length as usize)));
            ends.push(file.len());
        }
        samples.push((file, ends));

        let (mut file, mut ends) = (order.section(), Vec::new());
        file.extend(order.interface(1, 0, &[order.option(9, &[9]), order.option(2, b"eth0")]));
        for number in 0..3 {
            let options = [order.option(2, &order.u32(1)), order.option(0, &[])];
            file.extend(order.packet(0, 5, &frame(number, 14 + number as usize), &options));
            ends.push(file.len());
            file.extend(order.block(0x77, &[1; 9]));
        }
        file.extend(order.block(3, &[&order.u32(3)[..], &[1, 2, 3]].concat()));
        ends.push(file.len());
        samples.push((file, ends));
    }
    samples
}

#[test]
fn a_file_cut_off_anywhere_gives_its_whole_records() {
    for (file, ends) in samples() {
        assert_eq!(read_whole(&file).len(), ends.len());
        let whole = read_whole(&file);
        for length in 0..file.len() {
            let (records, end) = read(&file[..length]);
            let expected = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(records, whole[..expected], "cut at {length}");
            match end {
                Ok(()) => {}
                Err(Error::Empty { .. }) => assert_eq!(length, 0),
                Err(Error::NotACapture { .. }) => assert!(length < 4),
                Err(Error::Truncated { record, file }) => {
                    assert_eq!(file, "test");
                    assert!(record == expected as u64 + 1 || (record == 0 && expected == 0));
                }
                Err(other) => panic!("cut at {length}: {other}"),
            }
        }
    }
}

#[test]
fn the_end_between_records_is_clean_and_within_one_is_not() {
    let (file, ends) = samples().swap_remove(0);
    for end in ends {
        assert!(read(&file[..end]).1.is_ok());
        assert!(matches!(read(&file[..end - 1]).1, Err(Error::Truncated { .. })));
        assert!(
            end == file.len() || matches!(read(&file[..end + 1]).1, Err(Error::Truncated { .. }))
        );
    }
}

#[test]
fn what_is_no_capture_says_what_it_is() {
    let says = |bytes: &[u8], what: &str| {
        let error = Reader::new(Cursor::new(bytes.to_vec()), "x.pcap").unwrap_err().to_string();
        assert!(error.contains("x.pcap") && error.contains(what), "{error}");
    };
    says(b"", "is empty");
    says(b"abc", "only 3 bytes");
    says(b"#!/bin/sh", "bytes 23 21 2f 62");
    says(&[0x1f, 0x8b, 8, 0], "gzip");
    says(&[0x28, 0xb5, 0x2f, 0xfd], "zstd");
    let mut old = ORDERS[0].pcap(false, 1);
    old[6] = 2;
    says(&old, "version 2.2");
    let mut new = ORDERS[0].section();
    new[12] = 2;
    says(&new, "version 2.0");
    let mut order = ORDERS[0].section();
    order[8] = 9;
    says(&order, "byte order");

    let folder = tempfile::tempdir().unwrap();
    let error = Reader::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("directory"), "{error}");
    let error = Reader::open(&folder.path().join("none.pcap")).unwrap_err().to_string();
    assert!(error.contains("none.pcap: opening: No such file"), "{error}");
}

#[test]
fn an_error_is_the_end() {
    let order = ORDERS[0];
    let mut file = order.pcap(false, 1);
    file.extend(order.pcap_record(1, 2, 14, &frame(1, 14)));
    file.extend([&[0; 8][..], &order.u32(0x7fff_ffff), &[0; 100]].concat());
    let mut reader = Reader::new(Cursor::new(file), "x").unwrap();
    assert!(reader.next_record().unwrap().is_some());
    let error = reader.next_record().unwrap_err().to_string();
    assert!(error.contains("corrupt at record 2: a frame of 2147483647 bytes"), "{error}");
    for _ in 0..3 {
        assert!(reader.next_record().is_err());
    }
}

#[test]
fn lengths_that_lie_take_no_memory() {
    for order in ORDERS {
        let start = [order.section(), order.interface(1, 0, &[])].concat();
        let packet = order.packet(0, 0, &frame(1, 60), &[]);
        for lie in [0, 1, 8, 11, 13, 64, 0x7fff_fffc, 0xffff_fff0, 0xffff_fffc, 0xffff_ffff] {
            let lie = order.u32(lie);
            let mut files = Vec::new();
            // Each length of a packet block, of a section, of a simple packet, of an unknown block, of an option.
            for at in [4, 20, 24, packet.len() - 4] {
                let mut broken = packet.clone();
                broken[at..at + 4].copy_from_slice(&lie);
                files.push([start.clone(), broken, vec![0; 100]].concat());
            }
            for kind in [1, 2, 3, 6, 0x0a0d_0d0a, 0x99] {
                let head = [order.u32(kind), lie, order.u32(0x1a2b_3c4d)].concat();
                files.push([start.clone(), head, vec![1; 100]].concat());
            }
            let options = [order.option(2, b"x"), [&order.u16(9)[..], &lie[..2]].concat()];
            files.push([order.section(), order.interface(1, 0, &options), packet.clone()].concat());
            let mut broken = order.pcap_record(0, 0, 60, &frame(1, 60));
            broken[8..12].copy_from_slice(&lie);
            files.push([order.pcap(true, 1), broken].concat());
            for file in files {
                LARGEST.with(|largest| largest.store(0, Ordering::Relaxed));
                let (records, _) = read(&file);
                let largest = LARGEST.with(|largest| largest.load(Ordering::Relaxed));
                assert!(records.len() <= 2, "{} records", records.len());
                assert!(largest < 200 << 10, "{largest} bytes at once");
            }
        }
    }
}

#[test]
fn a_block_of_nothing_but_options_or_interfaces_takes_bounded_memory() {
    let order = ORDERS[0];
    // The largest block with the smallest options, and one 4 bytes larger.
    let block = |options: usize| {
        let options = vec![order.option(7, &[]); options];
        [order.section(), order.interface(1, 0, &[]), order.packet(0, 0, &[], &options)].concat()
    };
    let most = (2 * 262_144 - 32) / 4;
    LARGEST.with(|largest| largest.store(0, Ordering::Relaxed));
    let file = block(most);
    LARGEST.with(|largest| largest.store(0, Ordering::Relaxed));
    assert_eq!(read(&file).0.len(), 1);
    let largest = LARGEST.with(|largest| largest.load(Ordering::Relaxed));
    assert!(largest <= 8 << 20, "{largest} bytes at once");
    let (records, error) = read_broken(&block(most + 1));
    assert_eq!((records, error.contains("524288 are the most")), (0, true), "{error}");

    let interfaces = vec![order.interface(1, 0, &[]); 65536].concat();
    let mut file = [order.section(), interfaces, order.packet(65535, 0, &[1], &[])].concat();
    assert_eq!(read_whole(&file).len(), 1);
    file.extend(order.interface(1, 0, &[]));
    let (records, error) = read_broken(&file);
    assert_eq!((records, error.contains("more than 65536 interfaces")), (1, true), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Each ends, in an error or not, and gives no more records than there is room for.
    #[test]
    fn garbage_does_no_harm(kind in 0..4usize, garbage in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (file, ends) = &samples()[kind];
        let start = file.len().min(ends[0] - 20);
        let (records, _) = read(&[&file[..start], &garbage].concat());
        prop_assert!(records.len() <= (garbage.len() + start) / 16);
        let (records, _) = read(&[&file[..4], &garbage].concat());
        prop_assert!(records.len() <= garbage.len() / 16);
    }

    #[test]
    fn flipped_bytes_do_no_harm(
        kind in 0..4usize,
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1..=255u8), 1..6),
    ) {
        let (mut file, _) = samples().swap_remove(kind);
        for (at, flip) in flips {
            let at = at.index(file.len());
            file[at] ^= flip;
        }
        let (records, _) = read(&file);
        prop_assert!(records.len() <= file.len() / 16);
    }
}
