//! What a port changed of its interface, written down before it is changed (contract L8).
//!
//! A process that ends in order puts everything back. One that is killed cannot; what only it knew, the address, MTU and
//! offload switches that it found, is in a file then, and the next opener of the interface, or a listing of devices, puts
//! them back: see [`crate::settings`].
//!
//! ```text
//!  /run/anyport/interface-NAMESPACE-INDEX.json       or, for those who may not write there,
//!  $XDG_RUNTIME_DIR/anyport/...                      both are empty after the machine is restarted
//! ```
//!
//! - A file is for one interface. It is named by the kernel's number of the network namespace, which is never used again, and
//!   the interface's index; inside stands the identity of the boot, in case the directory outlives it.
//! - It is written beside its place and renamed, so it is there whole or not at all.
//! - A setting is put back only if it still has a value that the killed process gave it: what somebody else changed since is
//!   left alone.
//! - Only files that no other user could have written are believed.
//! - The file of an interface that is not in its namespace stays, also if a port had it open when it went: it may be in
//!   another one just now, and come back, or be looked for there ([`away`]). One that was deleted cannot be told from that.
//! - When a port opens, or devices are listed, the files of network namespaces that are gone for certain are removed. For certain means: the inode
//!   number that the namespace had is that of another one in which the opener is ([`Namespaces`]). A namespace that is only
//!   held by a descriptor of some process keeps its files, and so does one of which nothing is known: a file too many costs
//!   some hundred bytes until the machine is restarted, one too few an interface that stays changed. Parts of files that a
//!   killed process did not get to rename are removed as well.
//! - What other users' processes wrote is not believed, but it is looked at: see [`elsewhere`].
//!
//! Trap: whoever reads or writes an interface's file must hold the lock on that interface, or else a living port would have
//! its own settings put back. Only in a namespace that is gone there is nobody to hold it.

mod away;
mod elsewhere;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::interface::Interface;
use crate::links::link;
use crate::namespaces::Namespaces;
use crate::settings::Setting;

use away::Identity;
pub(crate) use away::Moved;
pub(crate) use elsewhere::elsewhere;

/// One setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub setting: Setting,
    /// What it was before.
    pub found: String,
    /// What it may have been given since.
    pub given: Vec<String>,
}

impl Change {
    /// Whether all of it is what such settings are made of, so that it can be shown and be part of a command.
    fn is_plain(&self) -> bool {
        let is_value = |value: &str| match &self.setting {
            Setting::Mac => value.parse::<anyport::MacAddr>().is_ok(),
            Setting::Mtu => value.parse::<u32>().is_ok(),
            Setting::Feature(_) => matches!(value, "on" | "off"),
        };
        let is_name = match &self.setting {
            Setting::Feature(name) => {
                name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                    && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            }
            _ => true,
        };
        is_name && is_value(&self.found) && self.given.iter().all(|given| is_value(given))
    }

    /// Whether it has a value that it was given, and not the one that was found.
    pub fn is_still_so(&self, interface: &Interface) -> bool {
        let now = self.setting.read(interface);
        now.is_ok_and(|now| now != self.found && self.given.contains(&now))
    }
}

/// All that was changed of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    boot: String,
    namespace: u64,
    /// The namespace's inode number, which another one may have once it is gone; where that is not known, it stays.
    #[serde(default)]
    inode: Option<u64>,
    /// What it is known by in another namespace.
    #[serde(default)]
    identity: Option<Identity>,
    pub index: u32,
    /// Its name then, for messages.
    pub name: String,
    /// The process that changed it.
    pub pid: u32,
    pub changes: Vec<Change>,
}

impl Entry {
    /// An entry without changes.
    pub fn new(interface: &Interface) -> io::Result<Entry> {
        let namespace = interface.namespace()?;
        Ok(Entry {
            boot: boot(),
            namespace,
            inode: Namespaces::of_this_thread().inode_of(namespace),
            identity: Some(Identity::of(&link(interface.index())?)),
            index: interface.index(),
            name: interface.name()?,
            pid: std::process::id(),
            changes: Vec::new(),
        })
    }

    fn file(&self) -> String {
        file(self.namespace, self.index)
    }

    #[cfg(test)]
    pub fn namespace(&self) -> u64 {
        self.namespace
    }

    #[cfg(test)]
    pub fn inode(&self) -> Option<u64> {
        self.inode
    }

    /// The same in another namespace.
    #[cfg(test)]
    pub fn in_namespace(&self, namespace: u64, inode: Option<u64>) -> Entry {
        Entry { namespace, inode, ..self.clone() }
    }
}

fn file(namespace: u64, index: u32) -> String {
    format!("interface-{namespace}-{index}.json")
}

/// This boot's identity; empty where `/proc` does not show it, which is no reason not to open a port.
fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Whether two identities are of one boot; it is believed where one is not known, for an entry that is thrown away
/// wrongly is lost.
fn same_boot(a: &str, b: &str) -> bool {
    a == b || a.is_empty() || b.is_empty()
}

/// Where entries are.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    /// In the order in which writing is tried.
    directories: Vec<PathBuf>,
}

impl Default for Journal {
    fn default() -> Journal {
        let mut directories = vec![PathBuf::from("/run/anyport")];
        let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        directories.extend(own.filter(|path| path.is_absolute()).map(|path| path.join("anyport")));
        Journal { directories }
    }
}

impl Journal {
    #[cfg(test)]
    pub fn in_directories(directories: Vec<PathBuf>) -> Journal {
        Journal { directories }
    }

    /// Whether there is a directory that can be written.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_writable(&self) -> bool {
        self.directories.iter().any(|directory| {
            let probe = directory.join(format!(".probe.{}", std::process::id()));
            let written = prepare(directory).and_then(|()| fs::write(&probe, ""));
            let _ = fs::remove_file(&probe);
            written.is_ok()
        })
    }

    /// Writes an entry, whole or not at all, in the first directory that can be written; an older one of the same interface
    /// is replaced.
    ///
    /// # Errors
    /// Why the last directory could not be written, with its name.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for directory in &self.directories {
            result = write(directory, entry).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Removes an interface's entry from everywhere.
    pub fn remove(&self, entry: &Entry) {
        for directory in &self.directories {
            // It is in one of them at most, and a file that cannot be removed is read again: what it says is done by then.
            let _ = fs::remove_file(directory.join(entry.file()));
        }
    }

    /// The entry of that interface, if there is one.
    pub fn read(&self, interface: &Interface) -> io::Result<Option<Entry>> {
        let name = file(interface.namespace()?, interface.index());
        let boot = boot();
        Ok(self.directories.iter().find_map(|directory| read(directory, &name, &boot)))
    }

    /// All entries of that network namespace; those of earlier boots are removed.
    #[cfg(test)]
    pub fn all(&self, namespace: u64) -> io::Result<Vec<Entry>> {
        let mut entries = self.of_all_namespaces();
        entries.retain(|entry: &Entry| entry.namespace == namespace);
        Ok(entries)
    }

    /// Removes the entries of network namespaces that are gone for certain, by what the opener's namespaces prove.
    pub fn forget_gone(&self, here: &Namespaces) {
        self.directories.iter().for_each(|directory| sweep(directory));
        for entry in self.of_all_namespaces() {
            if entry.inode.is_some_and(|inode| here.prove_gone(entry.namespace, inode)) {
                self.remove(&entry);
            }
        }
    }

    fn of_all_namespaces(&self) -> Vec<Entry> {
        let boot = boot();
        let mut entries = Vec::new();
        for directory in &self.directories {
            let Ok(files) = fs::read_dir(directory) else { continue };
            let names = files.flatten().filter_map(|file| file.file_name().into_string().ok());
            for name in
                names.filter(|name| name.starts_with("interface-") && name.ends_with(".json"))
            {
                entries.extend(read(directory, &name, &boot));
            }
        }
        entries
    }
}

/// Removes what a process that is no more was just writing. A process that is not seen may be in another process namespace:
/// so only what has been there for longer than anything is written counts.
fn sweep(directory: &Path) {
    const WRITTEN_BY_THEN: Duration = Duration::from_secs(60);
    if !is_ours(directory) {
        return;
    }
    for file in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = file.file_name();
        let writer = name.to_str().and_then(writer_of_part);
        let dead = writer.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        let age = || file.metadata().ok()?.modified().ok()?.elapsed().ok();
        if dead && age().is_some_and(|age| age > WRITTEN_BY_THEN) {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// The process that writes a part file of that name.
fn writer_of_part(name: &str) -> Option<u32> {
    let (_, pid) = name.strip_prefix(".interface-")?.rsplit_once(".json.")?;
    pid.parse().ok()
}

/// Whether nobody else could have put files there.
fn is_ours(directory: &Path) -> bool {
    // SAFETY: it takes nothing and cannot fail.
    let me = unsafe { libc::geteuid() };
    fs::symlink_metadata(directory).is_ok_and(|data| {
        data.is_dir() && data.mode() & 0o022 == 0 && (data.uid() == me || data.uid() == 0)
    })
}

/// Makes the directory, and refuses one where others may write.
fn prepare(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if !is_ours(directory) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "other users may write there, too; `chmod go-w` it",
        ));
    }
    Ok(())
}

fn write(directory: &Path, entry: &Entry) -> io::Result<()> {
    prepare(directory)?;
    let part = directory.join(format!(".{}.{}", entry.file(), std::process::id()));
    let result = fs::write(&part, serde_json::to_vec(entry)?)
        .and_then(|()| fs::rename(&part, directory.join(entry.file())));
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}

/// An entry that can be believed and is of this boot. What cannot be read, or is older, is removed.
fn read(directory: &Path, name: &str, boot: &str) -> Option<Entry> {
    if !is_ours(directory) {
        return None;
    }
    let path = directory.join(name);
    let text = fs::read(&path).ok()?;
    let entry = serde_json::from_slice::<Entry>(&text);
    if let Err(error) = &entry {
        tracing::warn!("{} cannot be read ({error}); it is removed", path.display());
    }
    let entry = entry.ok().filter(|entry| same_boot(&entry.boot, boot) && entry.file() == name);
    if entry.is_none() {
        let _ = fs::remove_file(&path);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(namespace: u64, index: u32) -> Entry {
        let change = Change {
            setting: Setting::Mtu,
            found: "1500".into(),
            given: vec!["4000".into(), "9000".into()],
        };
        Entry {
            boot: boot(),
            namespace,
            inode: None,
            identity: None,
            index,
            name: "a0".into(),
            pid: 7,
            changes: vec![change],
        }
    }

    #[test]
    fn what_is_written_is_read_and_a_later_entry_replaces_it() {
        let place = tempfile::tempdir().unwrap();
        let journal = Journal::in_directories(vec![place.path().join("anyport")]);
        assert_eq!(journal.all(3).unwrap(), []);
        journal.write(&entry(3, 5)).unwrap();
        journal.write(&entry(4, 5)).unwrap();
        let mut later = entry(3, 5);
        later.changes[0].given.push("68".into());
        journal.write(&later).unwrap();
        assert_eq!(journal.all(3).unwrap(), [later.clone()]);
        journal.remove(&later);
        assert_eq!((journal.all(3).unwrap(), journal.all(4).unwrap()), (vec![], vec![entry(4, 5)]));
        assert_eq!(fs::read_dir(place.path().join("anyport")).unwrap().count(), 1);
    }

    #[test]
    fn the_second_directory_is_taken_where_the_first_cannot_be_written() {
        let place = tempfile::tempdir().unwrap();
        // Root may write anywhere, but not below a file.
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let (bad, good) = (file.join("anyport"), place.path().join("own"));
        let journal = Journal::in_directories(vec![bad.clone(), good.clone()]);
        journal.write(&entry(3, 5)).unwrap();
        assert!(good.join("interface-3-5.json").exists());
        assert_eq!(journal.all(3).unwrap(), [entry(3, 5)]);
        let error = Journal::in_directories(vec![bad.clone()]).write(&entry(3, 5)).unwrap_err();
        assert!(error.to_string().contains(&*bad.to_string_lossy()), "{error}");
    }

    #[test]
    fn what_is_broken_or_of_another_boot_is_no_entry_and_goes() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("anyport");
        let journal = Journal::in_directories(vec![directory.clone()]);
        journal.write(&entry(3, 5)).unwrap();
        let whole = fs::read(directory.join("interface-3-5.json")).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(directory.join("interface-3-5.json"), &whole[..cut]).unwrap();
            assert_eq!(journal.all(3).unwrap(), []);
            assert!(!directory.join("interface-3-5.json").exists());
        }
        let mut old = entry(3, 6);
        old.boot = "earlier".into();
        journal.write(&old).unwrap();
        // A copy under another interface's name.
        fs::write(directory.join("interface-3-9.json"), &whole).unwrap();
        assert_eq!(journal.all(3).unwrap(), []);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn parts_of_dead_processes_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("anyport");
        let journal = Journal::in_directories(vec![directory.clone()]);
        journal.write(&entry(3, 5)).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (dead, alive) = (child.id(), std::process::id());
        child.wait().unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        for (name, old_enough) in [
            (format!(".interface-3-5.json.{dead}"), true),
            (format!(".interface-3-6.json.{dead}"), false),
            (format!(".interface-3-7.json.{alive}"), true),
            (".interface-3-7.json.x".into(), true),
            (format!("something.{dead}"), true),
        ] {
            let file = fs::File::create(directory.join(name)).unwrap();
            if old_enough {
                file.set_modified(old).unwrap();
            }
        }
        journal.forget_gone(&Namespaces::default());
        assert!(!directory.join(format!(".interface-3-5.json.{dead}")).exists());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 5);
        assert_eq!(journal.all(3).unwrap(), [entry(3, 5)]);
    }

    #[test]
    fn an_entry_stays_where_the_boot_is_not_known() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("anyport");
        let journal = Journal::in_directories(vec![directory.clone()]);
        let known = entry(3, 5);
        journal.write(&known).unwrap();
        assert_eq!(read(&directory, &known.file(), ""), Some(known));
        let mut unknown = entry(3, 6);
        unknown.boot.clear();
        journal.write(&unknown).unwrap();
        assert_eq!(read(&directory, &unknown.file(), &boot()), Some(unknown));
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("anyport");
        let journal = Journal::in_directories(vec![directory.clone()]);
        journal.write(&entry(3, 5)).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(journal.all(3).unwrap(), []);
        assert!(journal.write(&entry(3, 5)).unwrap_err().to_string().contains("chmod go-w"));
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(journal.all(3).unwrap(), [entry(3, 5)]);
    }
}
