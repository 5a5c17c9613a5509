//! Which files this process reads and writes: a file must not be emptied under its reader.
//!
//! `dump pcap:in=a.pcap -w a.pcap` and the like would destroy the very capture that is looked at. So a file that is read here,
//! under whatever name, is not opened for writing here, nor one that waits to be emptied for reading. Other processes are
//! their users' affair.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// Device and inode.
type Key = (u64, u64);

#[derive(Debug, Clone, Copy, Default)]
struct Users {
    readers: usize,
    writers: usize,
    /// Writers that have not emptied it yet.
    waiting: usize,
}

static FILES: Mutex<BTreeMap<Key, Users>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Reads,
    /// Will empty it.
    Waits,
    Writes,
}

/// The use of a file, until it is dropped. Only regular files count.
#[derive(Debug)]
pub(crate) struct Claim {
    key: Option<Key>,
    kind: Use,
}

impl Claim {
    pub fn to_read(file: &File, name: &str) -> Result<Claim, Error> {
        Claim::new(file, name, Use::Reads, |users| users.waiting == 0)
    }

    /// For a file that is emptied when [`begin`](Claim::begin) is called.
    pub fn to_write(file: &File, name: &str) -> Result<Claim, Error> {
        Claim::new(file, name, Use::Waits, |users| {
            users.readers + users.writers + users.waiting == 0
        })
    }

    fn new(file: &File, name: &str, kind: Use, free: fn(&Users) -> bool) -> Result<Claim, Error> {
        let Some(found) = file.metadata().ok().filter(std::fs::Metadata::is_file) else {
            return Ok(Claim { key: None, kind });
        };
        let key = (found.dev(), found.ino());
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        let users = files.entry(key).or_default();
        if !free(users) {
            return Err(Error::InUse { file: name.to_owned() });
        }
        *users.of(kind) += 1;
        Ok(Claim { key: Some(key), kind })
    }

    /// The file is about to be emptied; from then on it may be read, to look at what is written.
    pub fn begin(&mut self) {
        if let (Some(key), Use::Waits) = (self.key, self.kind) {
            let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
            let users = files.entry(key).or_default();
            users.waiting = users.waiting.saturating_sub(1);
            users.writers += 1;
        }
        self.kind = Use::Writes;
    }
}

impl Users {
    fn of(&mut self, kind: Use) -> &mut usize {
        match kind {
            Use::Reads => &mut self.readers,
            Use::Waits => &mut self.waiting,
            Use::Writes => &mut self.writers,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(users) = files.get_mut(&key) {
            let count = users.of(self.kind);
            *count = count.saturating_sub(1);
            if users.readers + users.writers + users.waiting == 0 {
                files.remove(&key);
            }
        }
    }
}
