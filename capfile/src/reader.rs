//! Reading: which format it is, and pcap itself.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use pcap_parser::{PcapHeader, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};

use crate::claim::Claim;
use crate::error::{Error, Problem};
use crate::input::{Input, Source};
use crate::linktype::ETHERNET;
use crate::pcapng::Section;
use crate::{Direction, Format, MAX_FRAME, Record, Resolution};

/// Reads a capture file from its beginning to its end.
pub struct Reader {
    input: Input,
    name: String,
    kind: Kind,
    /// Records read so far.
    records: u64,
    /// The record that was handed out last, still in the input.
    last: Option<Found>,
    failed: bool,
    /// For as long as a file is read.
    claim: Option<Claim>,
}

enum Kind {
    Pcap(Header),
    Pcapng(Section),
}

/// What matters of a pcap file's header.
struct Header {
    big_endian: bool,
    nano: bool,
    fcs: usize,
}

/// Where a record's frame lies in the input, and the rest of it.
pub(crate) struct Found {
    /// Bytes from the beginning of the record or block to the next.
    pub size: usize,
    pub frame: Range<usize>,
    pub original_len: usize,
    pub timestamp_ns: Option<u64>,
    pub direction: Option<Direction>,
}

impl Found {
    /// Sets the frame's place and length, less the frame check sequence.
    pub fn set_frame(&mut self, start: usize, captured: usize, original: usize, fcs: usize) {
        // Some writers leave the original length 0.
        self.original_len = original.max(captured).saturating_sub(fcs);
        self.frame = start..start + captured.min(self.original_len);
    }
}

/// Four bytes of a header.
pub(crate) fn word(data: &[u8], at: usize, big_endian: bool) -> u32 {
    let bytes = data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}

impl Reader {
    /// Opens a file. `-` is a file of that name.
    ///
    /// # Errors
    /// [`Error::Io`], and what the file's header tells: [`Error::Empty`], [`Error::NotACapture`], [`Error::LinkType`],
    /// [`Error::Truncated`], [`Error::Corrupt`].
    pub fn open(path: &Path) -> Result<Reader, Error> {
        let name = path.display().to_string();
        let failed = |doing| {
            let file = name.clone();
            move |source| Error::Io { file, doing, source }
        };
        let file = File::open(path).map_err(failed("opening"))?;
        if file.metadata().map_err(failed("opening"))?.is_dir() {
            return Err(failed("opening")(std::io::ErrorKind::IsADirectory.into()));
        }
        let claim = Claim::to_read(&file, &name)?;
        let mut reader = Reader::start(Source::File(file), name.clone())?;
        reader.claim = Some(claim);
        Ok(reader)
    }

    /// Reads from anything; `name` stands for it in errors. It need not be buffered.
    ///
    /// # Errors
    /// As [`open`](Reader::open).
    pub fn new(input: impl Read + Send + 'static, name: &str) -> Result<Reader, Error> {
        Reader::start(Source::Other(Box::new(input)), name.to_owned())
    }

    fn start(source: Source, name: String) -> Result<Reader, Error> {
        let mut input = Input::new(source);
        let kind = Kind::open(&mut input, &name)?;
        Ok(Reader { input, name, kind, records: 0, last: None, failed: false, claim: None })
    }

    /// Starts again with the first record.
    ///
    /// # Errors
    /// As [`open`](Reader::open); [`Error::Io`] for what cannot be read twice: a pipe, or anything that was not opened by
    /// path.
    pub fn rewind(&mut self) -> Result<(), Error> {
        self.input.rewind().map_err(|source| Error::Io {
            file: self.name.clone(),
            doing: "reading again",
            source,
        })?;
        self.kind = Kind::open(&mut self.input, &self.name)?;
        (self.records, self.last, self.failed) = (0, None, false);
        Ok(())
    }

    /// The file's format.
    pub fn format(&self) -> Format {
        match self.kind {
            Kind::Pcap(_) => Format::Pcap,
            Kind::Pcapng(_) => Format::Pcapng,
        }
    }

    /// How fine the times are; in a pcapng file, those of the interface of the record that was read last
    /// ([`Resolution::Micro`], the format's default, before the first).
    pub fn resolution(&self) -> Resolution {
        match &self.kind {
            Kind::Pcap(header) if header.nano => Resolution::Nano,
            Kind::Pcap(_) => Resolution::Micro,
            Kind::Pcapng(section) => section.resolution(),
        }
    }

    /// The next record; `None` at the end of a file that ends after a whole record.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Truncated`], [`Error::Corrupt`], [`Error::LinkType`]. Nothing can be read after an
    /// error.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, Error> {
        if let Some(last) = self.last.take() {
            self.input.consume(last.size);
        }
        let found = if self.failed {
            Err(Problem::Corrupt("nothing can be read after an error".into()))
        } else {
            match &mut self.kind {
                Kind::Pcap(header) => header.next(&mut self.input),
                Kind::Pcapng(section) => section.next(&mut self.input),
            }
        };
        match found {
            Ok(found) => {
                self.records += u64::from(found.is_some());
                self.last = found;
                Ok(self.current())
            }
            Err(problem) => {
                self.failed = true;
                Err(problem.at(&self.name, self.records + 1))
            }
        }
    }

    /// The record that [`next_record`](Reader::next_record) returned last, once more; `None` before the first, at the end,
    /// and after an error.
    pub fn current(&self) -> Option<Record<'_>> {
        self.last.as_ref().map(|found| Record {
            timestamp_ns: found.timestamp_ns,
            original_len: found.original_len,
            data: &self.input.data()[found.frame.clone()],
            direction: found.direction,
        })
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("name", &self.name).field("records", &self.records).finish()
    }
}

impl Kind {
    fn open(input: &mut Input, name: &str) -> Result<Kind, Error> {
        let here = |problem: Problem| problem.at(name, 0);
        let whole = input.fill(4).map_err(|error| here(error.into()))?;
        match input.data() {
            [] => Err(Error::Empty { file: name.to_owned() }),
            [0x0a, 0x0d, 0x0d, 0x0a, ..] => Ok(Kind::Pcapng(Section::open(input).map_err(here)?)),
            [0xa1, 0xb2, 0xc3, 0xd4, ..]
            | [0xa1, 0xb2, 0x3c, 0x4d, ..]
            | [0xd4, 0xc3, 0xb2, 0xa1, ..]
            | [0x4d, 0x3c, 0xb2, 0xa1, ..] => Ok(Kind::Pcap(Header::open(input).map_err(here)?)),
            other => {
                let reason = strange(other, whole);
                Err(Error::NotACapture { file: name.to_owned(), reason })
            }
        }
    }
}

/// What a file that is no capture begins with.
fn strange(data: &[u8], whole: bool) -> String {
    match data {
        _ if !whole => format!("it has only {} bytes", data.len()),
        [0x1f, 0x8b, ..] => "it is compressed (gzip); decompress it first".into(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed (zstd); decompress it first".into(),
        [0x04, 0x22, 0x4d, 0x18, ..] => "it is compressed (lz4); decompress it first".into(),
        _ => format!(
            "it begins with the bytes {:02x} {:02x} {:02x} {:02x}",
            data[0], data[1], data[2], data[3]
        ),
    }
}

impl Header {
    fn open(input: &mut Input) -> Result<Header, Problem> {
        if !input.fill(24)? {
            return Err(Problem::Truncated);
        }
        let Ok((_, header)) = parse_pcap_header(&input.data()[..24]) else {
            return Err(Problem::Corrupt("the header cannot be read".into()));
        };
        let PcapHeader { version_major: major, version_minor: minor, .. } = header;
        if major != 2 || minor < 4 {
            let reason = format!("version {major}.{minor}; only 2.4 (of 1998) is known");
            return Err(Problem::Corrupt(reason));
        }
        // The upper six bits say how many 16-bit words of each frame are its check sequence.
        let network = header.network.0 as u32;
        let fcs = if network & (1 << 26) != 0 { (network >> 28) as usize * 2 } else { 0 };
        let link = network & 0x03ff_ffff;
        if link != ETHERNET {
            return Err(Problem::LinkType(link));
        }
        input.consume(24);
        Ok(Header {
            big_endian: header.is_bigendian(),
            nano: header.is_nanosecond_precision(),
            fcs,
        })
    }

    fn next(&self, input: &mut Input) -> Result<Option<Found>, Problem> {
        if !input.fill(16)? {
            return if input.data().is_empty() { Ok(None) } else { Err(Problem::Truncated) };
        }
        let captured = word(input.data(), 8, self.big_endian) as usize;
        if captured > MAX_FRAME {
            let reason = format!("a frame of {captured} bytes; {MAX_FRAME} are the most");
            return Err(Problem::Corrupt(reason));
        }
        let size = 16 + captured;
        if !input.fill(size)? {
            return Err(Problem::Truncated);
        }
        let parse = if self.big_endian { parse_pcap_frame_be } else { parse_pcap_frame };
        let Ok((_, record)) = parse(&input.data()[..size]) else {
            return Err(Problem::Corrupt("its header cannot be read".into()));
        };
        let unit = if self.nano { 1 } else { 1000 };
        let mut found = Found {
            size,
            frame: 0..0,
            original_len: 0,
            // Both are 32-bit numbers: it cannot overflow, whatever they are.
            timestamp_ns: Some(
                u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_usec) * unit,
            ),
            direction: None,
        };
        found.set_frame(16, captured, record.origlen as usize, self.fcs);
        Ok(Some(found))
    }
}
