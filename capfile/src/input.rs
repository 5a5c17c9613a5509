//! A bounded window over the bytes of a file.
//!
//! Callers ask for as many bytes as they have checked to be reasonable. The buffer grows only with what has really
//! arrived, so a length that lies costs nothing.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};

/// How much is read at once, if it is there.
const CHUNK: usize = 64 << 10;

pub(crate) struct Input {
    source: Source,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

pub(crate) enum Source {
    File(File),
    Other(Box<dyn Read + Send>),
}

impl Input {
    pub fn new(source: Source) -> Input {
        Input { source, buffer: vec![0; CHUNK], start: 0, end: 0 }
    }

    /// Starts again at the first byte.
    pub fn rewind(&mut self) -> io::Result<()> {
        match &mut self.source {
            Source::File(file) => file.rewind()?,
            Source::Other(_) => return Err(ErrorKind::NotSeekable.into()),
        }
        (self.start, self.end) = (0, 0);
        Ok(())
    }

    /// What is there.
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Reads until at least `wanted` bytes are there; whether they are, which fails only at the end of the file.
    pub fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.end - self.start < wanted {
            if self.start + wanted > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() + CHUNK, 0);
            }
            let space = &mut self.buffer[self.end..];
            let result = match &mut self.source {
                Source::File(file) => file.read(space),
                Source::Other(source) => source.read(space),
            };
            match result {
                Ok(0) => return Ok(false),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Drops bytes that are there.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Drops bytes whether they are there yet or not; whether the file had that many.
    pub fn skip(&mut self, mut count: usize) -> io::Result<bool> {
        loop {
            let now = count.min(self.end - self.start);
            self.consume(now);
            count -= now;
            if count == 0 || !self.fill(1)? {
                return Ok(count == 0);
            }
        }
    }
}
