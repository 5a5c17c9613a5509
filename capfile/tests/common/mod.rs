//! Files made by hand, in either byte order, and reading them.

#![allow(dead_code, reason = "every test binary has its own copy and uses a part")]

use std::io::{self, Cursor, Read};

use anyport_capfile::{Direction, Error, Reader, Record};

/// A record that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub timestamp_ns: Option<u64>,
    pub original_len: usize,
    pub data: Vec<u8>,
    pub direction: Option<Direction>,
}

impl Owned {
    pub fn new(timestamp_ns: u64, data: &[u8]) -> Owned {
        Owned {
            timestamp_ns: Some(timestamp_ns),
            original_len: data.len(),
            data: data.to_vec(),
            direction: None,
        }
    }

    pub fn record(&self) -> Record<'_> {
        Record {
            timestamp_ns: self.timestamp_ns,
            original_len: self.original_len,
            data: &self.data,
            direction: self.direction,
        }
    }
}

/// All records, and how the file ended.
pub fn drain(reader: Result<Reader, Error>) -> (Vec<Owned>, Result<(), Error>) {
    let mut records = Vec::new();
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return (records, Err(error)),
    };
    loop {
        match reader.next_record() {
            Ok(None) => return (records, Ok(())),
            Err(error) => return (records, Err(error)),
            Ok(Some(record)) => records.push(Owned {
                timestamp_ns: record.timestamp_ns,
                original_len: record.original_len,
                data: record.data.to_vec(),
                direction: record.direction,
            }),
        }
    }
}

pub fn read(bytes: &[u8]) -> (Vec<Owned>, Result<(), Error>) {
    drain(Reader::new(Cursor::new(bytes.to_vec()), "test"))
}

/// All records of a file that has nothing wrong with it.
pub fn read_whole(bytes: &[u8]) -> Vec<Owned> {
    let (records, end) = read(bytes);
    end.unwrap();
    records
}

/// The error of a file, and how many records came before it.
pub fn read_broken(bytes: &[u8]) -> (usize, String) {
    let (records, end) = read(bytes);
    (records.len(), end.unwrap_err().to_string())
}

/// Gives few bytes at a time, and a signal in between.
pub struct Dribble {
    pub bytes: Cursor<Vec<u8>>,
    pub most: usize,
    pub calls: usize,
}

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buffer.len().min(self.most);
        self.bytes.read(&mut buffer[..most])
    }
}

/// Lays out numbers in one byte order.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub big: bool,
}

pub const ORDERS: [Order; 2] = [Order { big: false }, Order { big: true }];

impl Order {
    pub fn u16(self, value: u16) -> [u8; 2] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub fn u32(self, value: u32) -> [u8; 4] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub fn u64(self, value: u64) -> [u8; 8] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    /// A pcap file's header.
    pub fn pcap(self, nano: bool, network: u32) -> Vec<u8> {
        let magic = if nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut all = self.u32(magic).to_vec();
        all.extend(self.u16(2));
        all.extend(self.u16(4));
        for word in [0, 0, 65535, network] {
            all.extend(self.u32(word));
        }
        all
    }

    pub fn pcap_record(self, seconds: u32, rest: u32, original: u32, data: &[u8]) -> Vec<u8> {
        let words = [seconds, rest, data.len() as u32, original].map(|word| self.u32(word));
        [&words.concat(), data].concat()
    }

    pub fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = self.u32(body.len() as u32 + 12);
        [&self.u32(kind)[..], &length, &body, &length].concat()
    }

    pub fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut all = [self.u16(code), self.u16(value.len() as u16)].concat();
        all.extend(value);
        all.resize(all.len().next_multiple_of(4), 0);
        all
    }

    pub fn section(self) -> Vec<u8> {
        let mut body = self.u32(0x1a2b_3c4d).to_vec();
        body.extend(self.u16(1));
        body.extend(self.u16(0));
        body.extend(self.u64(u64::MAX));
        self.block(0x0a0d_0d0a, &body)
    }

    pub fn interface(self, link: u16, snap: u32, options: &[Vec<u8>]) -> Vec<u8> {
        let mut body = [self.u16(link), [0; 2]].concat();
        body.extend(self.u32(snap));
        options.iter().for_each(|option| body.extend(option));
        if !options.is_empty() {
            body.extend([0; 4]);
        }
        self.block(1, &body)
    }

    pub fn packet(self, interface: u32, units: u64, data: &[u8], options: &[Vec<u8>]) -> Vec<u8> {
        let length = data.len() as u32;
        let words = [interface, (units >> 32) as u32, units as u32, length, length];
        let mut body = words.map(|word| self.u32(word)).concat();
        body.extend(data);
        body.resize(body.len().next_multiple_of(4), 0);
        options.iter().for_each(|option| body.extend(option));
        self.block(6, &body)
    }
}

/// A frame that tells which it is.
pub fn frame(number: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| number.wrapping_mul(31).wrapping_add(at as u8)).collect()
}
