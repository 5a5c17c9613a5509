//! What can go wrong with a capture file, for people: which file, where in it, why.

use std::io;

/// An error in a capture file. Records are numbered from 1; record 0 stands for the file's header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no such file, no permission, a full disk.
    #[error("{file}: {doing}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was attempted.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// It would have to be emptied while this process reads it, or it is written twice.
    #[error(
        "{file} is in use by this program already: it would be emptied while it is read, or be written twice"
    )]
    InUse {
        /// The file.
        file: String,
    },
    /// There is not one byte in it.
    #[error("{file} is empty; a capture without frames has at least a header")]
    Empty {
        /// The file.
        file: String,
    },
    /// It is something else.
    #[error("{file} is neither a pcap nor a pcapng file: {reason}")]
    NotACapture {
        /// The file.
        file: String,
        /// What it begins with.
        reason: String,
    },
    /// Its frames are not Ethernet.
    #[error("{file}: {} is of link type {number} ({name}); only Ethernet (1) can be read", place(*record))]
    LinkType {
        /// The file.
        file: String,
        /// The first such record; 0 if the whole file is of that type.
        record: u64,
        /// The type's number in the registry at tcpdump.org.
        number: u32,
        /// Its name there, and a hint where there is one.
        name: &'static str,
    },
    /// It ends in the middle of a record; all before it were read.
    #[error("{file} is cut off: {} is not whole", place(*record))]
    Truncated {
        /// The file.
        file: String,
        /// The record that is not whole.
        record: u64,
    },
    /// It contradicts itself; all records before were read.
    #[error("{file} is corrupt at {}: {reason}", place(*record))]
    Corrupt {
        /// The file.
        file: String,
        /// The record that cannot be read, or before which something else cannot.
        record: u64,
        /// What is wrong.
        reason: String,
    },
    /// The format has no way to write this record; nothing of it was written.
    #[error("{file}: the record cannot be written: {reason}")]
    Unwritable {
        /// The file.
        file: String,
        /// Why, and what would help.
        reason: String,
    },
}

fn place(record: u64) -> String {
    match record {
        0 => "the file's header".into(),
        record => format!("record {record}"),
    }
}

/// An error that does not know yet in which file and where it is.
#[derive(Debug)]
pub(crate) enum Problem {
    Io(io::Error),
    Truncated,
    Corrupt(String),
    LinkType(u32),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl Problem {
    pub fn at(self, file: &str, record: u64) -> Error {
        let file = file.to_owned();
        match self {
            Problem::Io(source) => Error::Io { file, doing: "reading", source },
            Problem::Truncated => Error::Truncated { file, record },
            Problem::Corrupt(reason) => Error::Corrupt { file, record, reason },
            Problem::LinkType(number) => {
                Error::LinkType { file, record, number, name: crate::linktype::name(number) }
            }
        }
    }
}
