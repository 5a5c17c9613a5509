//! Reading and writing pcap and pcapng files, packet by packet.
//!
//! A leaf crate: the common layer's capture, the pcap backend's file ports and the command-line tool use it, and it knows
//! nothing of them. Only Ethernet is read and written, and time is nanoseconds since the Unix epoch throughout.
//!
//! ```
//! use anyport_capfile::{Format, Reader, Record, Writer};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = &folder.path().join("a.pcapng");
//! let mut writer = Writer::create(path, Format::Pcapng, "eth0").unwrap();
//! let frame = [0xff; 60];
//! writer.write(&Record { timestamp_ns: Some(1), original_len: 60, data: &frame, direction: None }).unwrap();
//! writer.finish().unwrap();
//!
//! let mut reader = Reader::open(path).unwrap();
//! while let Some(record) = reader.next_record().unwrap() {
//!     assert_eq!((record.timestamp_ns, record.data), (Some(1), &frame[..]));
//! }
//! ```
//!
//! # How it is built
//! Reading the fields of headers and blocks is the `pcap-parser` crate's business. Around it stands what a file from
//! anywhere needs: where a record begins and ends is decided here, from lengths that are checked before anything is
//! allocated or parsed, so memory is bounded whatever the file says, blocks of unknown kinds of any size are passed
//! over, and a broken file is an error that names the record.
//!
//! Writing takes three headers and two kinds of records, which are laid out here: the library's serializer takes five
//! allocations a record (measured: 153 ns for a frame of 60 bytes, 381 ns for one of 1,514) and brings `futures` along. The tests hold
//! every byte equal to what it writes.
//!
//! # Traps
//! - A file that ends in the middle of a record is [`Error::Truncated`], after all whole records were read: a crash or a
//!   full disk leaves such files, and who reads one must learn that something is missing.
//! - A record may be shorter than its frame was ([`Record::original_len`]): it was cut when it was captured.
//! - Frame check sequences are taken off where the file says that it has them.
//! - A simple packet block has no time. One that is written without a time has 0, the beginning of 1970, in the file. Times before 1970 read as 0, beyond 2554 as `u64::MAX`.

mod claim;
mod error;
mod input;
mod linktype;
mod pcapng;
mod reader;
mod writer;

pub use error::Error;
pub use reader::Reader;
pub use writer::{Target, Writer};

/// The kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The format of 1998, with one interface and no directions.
    Pcap,
    /// The block format (draft-ietf-opsawg-pcapng).
    Pcapng,
}

impl Format {
    /// The format that a file's name tells: `.pcap` or `.pcapng`, in upper or lower case.
    pub fn of_name(path: &std::path::Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?;
        [("pcap", Format::Pcap), ("pcapng", Format::Pcapng)]
            .into_iter()
            .find_map(|(name, format)| extension.eq_ignore_ascii_case(name).then_some(format))
    }
}

/// How fine the times of a pcap file, or of a pcapng interface, are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Microseconds or coarser.
    Micro,
    /// Finer than that.
    Nano,
}

/// Which way a frame went, where the file says so (pcapng only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the interface.
    Received,
    /// Out of it.
    Sent,
}

/// One frame of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When, in nanoseconds since the Unix epoch, if that is known. 0 is a time like any other.
    pub timestamp_ns: Option<u64>,
    /// The frame's length in bytes without frame check sequence; more than the data's if the capture was cut short.
    pub original_len: usize,
    /// The frame from the destination address on, as far as it was captured.
    pub data: &'a [u8],
    /// Which way it went.
    pub direction: Option<Direction>,
}

/// The longest frame that is read or written: what the tools that read these files take.
pub const MAX_FRAME: usize = 262_144;
