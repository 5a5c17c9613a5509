//! Writing: whole records only.
//!
//! Records gather in a buffer and go to the system together, so what is in the file is readable at any time: a crash
//! costs what was not flushed, and what a full disk cut off in the middle of a record is cut back to the last whole one,
//! so that a full disk costs only what did not fit.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::claim::Claim;
use crate::error::Error;
use crate::linktype::ETHERNET;
use crate::{Direction, Format, MAX_FRAME, Record};

/// When the buffer goes to the system by itself.
const BUFFER: usize = 64 << 10;

/// Writes a capture file: Ethernet, nanoseconds. Dropping it writes what is buffered, but only
/// [`finish`](Writer::finish) tells how that went.
pub struct Writer {
    output: Output,
    name: String,
    format: Format,
    buffer: Vec<u8>,
    /// Where each record in the buffer ends.
    ends: Vec<usize>,
    /// Records with the system.
    records: u64,
    /// Bytes with the system.
    bytes: u64,
    /// Part of a record is in the output and cannot be taken back.
    broken: bool,
    claim: Option<Claim>,
}

/// A file that is to be written to: what is in it stays in it until [`Writer::start_on`]. As long as it lives, this process
/// neither reads the file nor writes to it otherwise.
#[derive(Debug)]
pub struct Target {
    file: File,
    name: String,
    claim: Claim,
}

impl Target {
    /// A file that is open for writing; `name` stands for it in errors.
    ///
    /// # Errors
    /// [`Error::InUse`].
    pub fn new(file: File, name: &str) -> Result<Target, Error> {
        let claim = Claim::to_write(&file, name)?;
        Ok(Target { file, name: name.to_owned(), claim })
    }
}

enum Output {
    File(File),
    Other(Box<dyn Write + Send>),
}

impl Writer {
    /// Creates or empties a file; `interface` is what the frames' interface is called in a pcapng file.
    ///
    /// # Errors
    /// [`Error::Io`], a full disk included: the header is written at once. [`Error::InUse`] for a file that this process
    /// reads or writes already, which is left as it is.
    pub fn create(path: &Path, format: Format, interface: &str) -> Result<Writer, Error> {
        let name = path.display().to_string();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file =
            file.map_err(|source| Error::Io { file: name.clone(), doing: "creating", source })?;
        Writer::start_on(Target::new(file, &name)?, format, interface)
    }

    /// Empties a file, and writes to it.
    ///
    /// # Errors
    /// As [`create`](Writer::create).
    pub fn start_on(target: Target, format: Format, interface: &str) -> Result<Writer, Error> {
        let Target { mut file, name, mut claim } = target;
        claim.begin();
        // What has no length, a terminal for instance, has nothing to empty.
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if regular {
            file.set_len(0).and_then(|()| file.rewind()).map_err(|source| Error::Io {
                file: name.clone(),
                doing: "emptying",
                source,
            })?;
        }
        let mut writer = Writer::start(Output::File(file), name, format, interface)?;
        writer.claim = Some(claim);
        Ok(writer)
    }

    /// Writes to anything; `name` stands for it in errors. It need not be buffered.
    ///
    /// # Errors
    /// As [`create`](Writer::create).
    pub fn new(
        output: impl Write + Send + 'static,
        name: &str,
        format: Format,
        interface: &str,
    ) -> Result<Writer, Error> {
        Writer::start(Output::Other(Box::new(output)), name.to_owned(), format, interface)
    }

    fn start(
        output: Output,
        name: String,
        format: Format,
        interface: &str,
    ) -> Result<Writer, Error> {
        let mut writer = Writer {
            output,
            name,
            format,
            buffer: header(format, interface),
            ends: Vec::new(),
            records: 0,
            bytes: 0,
            broken: false,
            claim: None,
        };
        writer.flush()?;
        Ok(writer)
    }

    /// Adds a record; it reaches the system with the next [`flush`](Writer::flush), or earlier.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for a record that the format cannot hold; nothing of it was written then, and the writer
    /// goes on. [`Error::Io`] as [`flush`](Writer::flush).
    pub fn write(&mut self, record: &Record<'_>) -> Result<(), Error> {
        self.check(record)?;
        let (captured, original) =
            (record.data.len() as u32, record.original_len.max(record.data.len()) as u32);
        match self.format {
            Format::Pcap => pcap_record(&mut self.buffer, record, captured, original),
            Format::Pcapng => packet_block(&mut self.buffer, record, captured, original),
        }
        self.ends.push(self.buffer.len());
        if self.buffer.len() < BUFFER { Ok(()) } else { self.flush() }
    }

    fn check(&self, record: &Record<'_>) -> Result<(), Error> {
        let (length, original) = (record.data.len(), record.original_len);
        let seconds = time(record) / 1_000_000_000;
        let reason = if length > MAX_FRAME {
            format!("a frame of {length} bytes; {MAX_FRAME} are the most")
        } else if u32::try_from(original).is_err() {
            format!("a frame that was {original} bytes long")
        } else if self.format == Format::Pcap && u32::try_from(seconds).is_err() {
            format!("{seconds} seconds after 1970 are too many for pcap; write pcapng")
        } else {
            return Ok(());
        };
        Err(Error::Unwritable { file: self.name.clone(), reason })
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// [`Error::Io`], with the disk full for instance. Of the records since the last flush those that were not written whole
    /// are lost then ([`records`](Writer::records) tells how many are not); a regular file was cut back to its last whole
    /// record, and writing may go on when there is room again. What cannot be cut back, a pipe for instance, takes no more.
    pub fn flush(&mut self) -> Result<(), Error> {
        let (written, result) = match &mut self.output {
            _ if self.broken => (0, Err(std::io::Error::other("an earlier write failed half way"))),
            Output::File(file) => write_out(file, &self.buffer),
            Output::Other(output) => write_out(output, &self.buffer),
        };
        let whole = self.ends.partition_point(|end| *end <= written);
        let kept = match whole {
            // All of it is more than records: the header.
            _ if result.is_ok() => written,
            0 => 0,
            _ => self.ends[whole - 1],
        };
        self.records += whole as u64;
        self.bytes += kept as u64;
        self.buffer.clear();
        self.ends.clear();
        result.map_err(|source| {
            if written > kept && !self.broken {
                self.broken = !self.cut_back();
            }
            Error::Io { file: self.name.clone(), doing: "writing", source }
        })
    }

    /// Takes the beginning of a record that could not be written out of the file again.
    fn cut_back(&mut self) -> bool {
        match &mut self.output {
            Output::File(file) => {
                file.set_len(self.bytes).is_ok() && file.seek(SeekFrom::Start(self.bytes)).is_ok()
            }
            Output::Other(_) => false,
        }
    }

    /// How many records are with the system.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Writes what is buffered and ends the file.
    ///
    /// # Errors
    /// As [`flush`](Writer::flush).
    pub fn finish(mut self) -> Result<(), Error> {
        self.flush()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            let _ = self.flush();
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("name", &self.name).field("records", &self.records).finish()
    }
}

/// Writes it all, and how much of it was written.
fn write_out(output: &mut impl Write, mut rest: &[u8]) -> (usize, std::io::Result<()>) {
    let all = rest.len();
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => return (all - rest.len(), Err(std::io::ErrorKind::WriteZero.into())),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return (all - rest.len(), Err(error)),
        }
    }
    (all, output.flush())
}

/// What stands before the first record.
fn header(format: Format, interface: &str) -> Vec<u8> {
    let mut header = Vec::with_capacity(BUFFER);
    match format {
        // Nanoseconds, version 2.4, no time zone, no accuracy.
        Format::Pcap => {
            words(&mut header, &[0xa1b2_3c4d, 2 | 4 << 16, 0, 0, MAX_FRAME as u32, ETHERNET])
        }
        Format::Pcapng => {
            // Byte order, version 1.0, a section of unknown length.
            let section = [0x1a2b_3c4d, 1, u32::MAX, u32::MAX];
            block(&mut header, 0x0a0d_0d0a, &section, &[(4, b"anyport")]);
            let mut end = interface.len().min(255);
            while !interface.is_char_boundary(end) {
                end -= 1;
            }
            // The name, and nanoseconds.
            let options = [(2, &interface.as_bytes()[..end]), (9, &[9])];
            block(&mut header, 1, &[ETHERNET, MAX_FRAME as u32], &options);
        }
    }
    header
}

/// A block of words, and options of up to 255 bytes.
fn block(buffer: &mut Vec<u8>, kind: u32, body: &[u32], options: &[(u32, &[u8])]) {
    let padded: usize = options.iter().map(|(_, value)| 4 + value.len().next_multiple_of(4)).sum();
    let length = (12 + body.len() * 4 + padded + 4) as u32;
    words(buffer, &[kind, length]);
    words(buffer, body);
    for (code, value) in options {
        words(buffer, &[code | (value.len() as u32) << 16]);
        buffer.extend_from_slice(value);
        pad(buffer, value.len());
    }
    // The option that ends them.
    words(buffer, &[0, length]);
}

/// Little-endian.
fn words(buffer: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| buffer.extend_from_slice(&word.to_le_bytes()));
}

/// Brings what is `length` bytes long to whole words.
fn pad(buffer: &mut Vec<u8>, length: usize) {
    buffer.extend_from_slice(&[0; 3][..length.next_multiple_of(4) - length]);
}

/// What stands in the file: both kinds of records have a time.
fn time(record: &Record<'_>) -> u64 {
    record.timestamp_ns.unwrap_or(0)
}

fn pcap_record(buffer: &mut Vec<u8>, record: &Record<'_>, captured: u32, original: u32) {
    let (seconds, rest) = (time(record) / 1_000_000_000, time(record) % 1_000_000_000);
    words(buffer, &[seconds as u32, rest as u32, captured, original]);
    buffer.extend_from_slice(record.data);
}

/// An enhanced packet block, with its direction where that is known.
fn packet_block(buffer: &mut Vec<u8>, record: &Record<'_>, captured: u32, original: u32) {
    let flags = record.direction.map(|direction| match direction {
        Direction::Received => 1,
        Direction::Sent => 2,
    });
    let length = 32 + captured.next_multiple_of(4) + if flags.is_some() { 12 } else { 0 };
    let (high, low) = ((time(record) >> 32) as u32, time(record) as u32);
    words(buffer, &[6, length, 0, high, low, captured, original]);
    buffer.extend_from_slice(record.data);
    pad(buffer, record.data.len());
    if let Some(flags) = flags {
        // Option 2 of 4 bytes, and the one that ends them.
        words(buffer, &[2 | 4 << 16, flags, 0]);
    }
    words(buffer, &[length]);
}

/// The library writes the same.
#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use pcap_parser::{
        EnhancedPacketBlock, InterfaceDescriptionBlock, LegacyPcapBlock, Linktype, OptionCode,
        PcapHeader, PcapNGOption, SectionHeaderBlock, ToVec,
    };

    use super::*;

    fn option(code: u16, value: &[u8]) -> PcapNGOption<'_> {
        PcapNGOption {
            code: OptionCode(code),
            len: value.len() as u16,
            value: Cow::Borrowed(value),
        }
    }

    #[test]
    fn headers() {
        let mut legacy = PcapHeader::new();
        legacy.magic_number = 0xa1b2_3c4d;
        legacy.snaplen = MAX_FRAME as u32;
        assert_eq!(header(Format::Pcap, "eth0"), legacy.to_vec().unwrap());

        for name in ["eth0", "eth10", "loop:a.0"] {
            let mut section = SectionHeaderBlock {
                block_type: 0,
                block_len1: 0,
                bom: 0,
                major_version: 1,
                minor_version: 0,
                section_len: -1,
                // The library takes values with their padding.
                options: vec![PcapNGOption { len: 7, ..option(4, b"anyport\0") }],
                block_len2: 0,
            };
            let padded = [name.as_bytes(), &[0; 3]].concat();
            let padded = &padded[..name.len().next_multiple_of(4)];
            let mut interface = InterfaceDescriptionBlock {
                block_type: 0,
                block_len1: 0,
                linktype: Linktype(1),
                reserved: 0,
                snaplen: MAX_FRAME as u32,
                options: vec![
                    PcapNGOption { len: name.len() as u16, ..option(2, padded) },
                    PcapNGOption { len: 1, ..option(9, &[9, 0, 0, 0]) },
                    // Only so that the library does not add an offset of 0.
                    option(14, &[0; 8]),
                ],
                block_len2: 0,
                if_tsresol: 9,
                if_tsoffset: 0,
            };
            let mut ours = header(Format::Pcapng, name);
            let start = ours.len() - 8;
            assert_eq!(ours[start..], [&[0; 4][..], &ours[ours.len() - 4..]].concat());
            // The same with the offset.
            ours.splice(start..start, [14, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let section = section.to_vec().unwrap();
            let description = interface.to_vec().unwrap();
            let length = (description.len() as u32).to_le_bytes();
            ours[section.len() + 4..][..4].copy_from_slice(&length);
            let end = ours.len();
            ours[end - 4..].copy_from_slice(&length);
            assert_eq!(ours, [section, description].concat(), "{name}");
        }
    }

    #[test]
    fn records() {
        for length in 0..70 {
            let data: Vec<u8> = (0..length).collect();
            let (captured, original) = (data.len() as u32, data.len() as u32 + 5);
            for (direction, flags) in [
                (None, None),
                (Some(Direction::Received), Some([1, 0, 0, 0])),
                (Some(Direction::Sent), Some([2, 0, 0, 0])),
            ] {
                let record = Record {
                    timestamp_ns: Some(0x0123_4567_89ab_cdef),
                    original_len: original as usize,
                    data: &data,
                    direction,
                };
                let mut block = EnhancedPacketBlock {
                    block_type: 0,
                    block_len1: 0,
                    if_id: 0,
                    ts_high: 0x0123_4567,
                    ts_low: 0x89ab_cdef,
                    caplen: captured,
                    origlen: original,
                    data: &data,
                    options: flags.iter().map(|flags| option(2, flags)).collect(),
                    block_len2: 0,
                };
                let mut ours = Vec::new();
                packet_block(&mut ours, &record, captured, original);
                assert_eq!(ours, block.to_vec().unwrap(), "{length} {direction:?}");
                let mut legacy = LegacyPcapBlock {
                    ts_sec: (time(&record) / 1_000_000_000) as u32,
                    ts_usec: (time(&record) % 1_000_000_000) as u32,
                    caplen: captured,
                    origlen: original,
                    data: &data,
                };
                ours.clear();
                pcap_record(&mut ours, &record, captured, original);
                assert_eq!(ours, legacy.to_vec().unwrap());
            }
        }
    }
}
