//! What other users' journals say, for root.
//!
//! A program that was given the capabilities as a file's keeps its journal in `/run/user/UID/anyport`. If it is killed, root's
//! next port or listing has to know. But whoever owns that directory can write there what he likes, with or without the
//! capabilities, and root's process must not set an interface to what any user wants. So nothing is put back from there: it
//! is named, with the command that does it (contract L8); the user's own next port puts it back by itself.
//!
//! Trap: the directories are their owners': anything there may be a link, a pipe, endless, or exchanged at any moment. Each
//! step is by a descriptor, follows no link, and checks the owner of what it has opened.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Change, Entry, boot, file, same_boot};
use crate::interface::Interface;

/// No entry is longer.
const MOST: u64 = 64 << 10;

/// What other users' killed processes left changed of an interface that nobody has open, as far as it is still so: a user and
/// the changes. Only root sees any.
pub(crate) fn elsewhere(interface: &Interface) -> Vec<(u32, Vec<Change>)> {
    below(Path::new("/run/user"), interface)
}

fn below(users: &Path, interface: &Interface) -> Vec<(u32, Vec<Change>)> {
    let Ok(name) = interface.namespace().map(|namespace| file(namespace, interface.index())) else {
        return Vec::new();
    };
    // SAFETY: it takes nothing and cannot fail.
    let me = unsafe { libc::geteuid() };
    let mut found = Vec::new();
    for user in fs::read_dir(users).into_iter().flatten().flatten() {
        let uid = user.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        // One's own is no foreign one.
        let Some(uid) = uid.filter(|uid| *uid != me) else { continue };
        let Some(entry) = read(&user.path(), uid, &name) else { continue };
        let mut changes = entry.changes;
        changes.retain(|change| change.is_plain() && change.is_still_so(interface));
        if !changes.is_empty() {
            found.push((uid, changes));
        }
    }
    found.sort_by_key(|(uid, _)| *uid);
    found
}

fn read(user: &Path, uid: u32, name: &str) -> Option<Entry> {
    let directory = |path: &Path| open(path, libc::O_DIRECTORY, uid);
    let within = |parent: &File, name: &str| -> PathBuf {
        format!("/proc/self/fd/{}/{name}", parent.as_raw_fd()).into()
    };
    let own = directory(user)?;
    let journal = directory(&within(&own, "anyport"))?;
    // Opening a pipe would wait for its other end.
    let file = open(&within(&journal, name), libc::O_NONBLOCK, uid)?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text).ok()?;
    let entry: Entry = serde_json::from_slice(&text).ok()?;
    (same_boot(&entry.boot, &boot()) && entry.file() == name).then_some(entry)
}

/// Opens what is no link, belongs to that user and is not written by others.
fn open(path: &Path, flags: libc::c_int, uid: u32) -> Option<File> {
    let flags = flags | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let data = file.metadata().ok()?;
    (data.uid() == uid && data.mode() & 0o022 == 0).then_some(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::journal::Journal;
    use crate::settings::Setting;
    use crate::testing::{in_namespace, ip, privileged};

    const USER: u32 = 4711;

    #[test]
    fn what_other_users_left_is_named_and_nothing_else_is_believed() {
        in_namespace(|| {
            let place = tempfile::tempdir().unwrap();
            let (user, journal) = (place.path().join("4711"), place.path().join("4711/anyport"));
            fs::create_dir_all(&journal).unwrap();
            let a0 = Interface::open("a0").unwrap();
            let change = |setting, found: &str, given: &str| Change {
                setting,
                found: found.into(),
                given: vec![given.into()],
            };
            let mtu = change(Setting::Mtu, "1500", "4000");
            let evil = |text: &str| change(Setting::Feature(text.into()), "on", "off");
            let mut entry = Entry::new(&a0).unwrap();
            entry.changes = vec![
                mtu.clone(),
                // Not so any more; and what would be a command of its own, or clear the screen.
                change(Setting::Mac, "02:00:00:00:00:01", "02:00:00:00:00:02"),
                change(Setting::Mtu, "1500; reboot", "4000"),
                evil("x; reboot #"),
                evil("\u{1b}[2J"),
            ];
            Journal::in_directories(vec![journal.clone()]).write(&entry).unwrap();
            let file = journal.join(entry.file());
            let owned = [&user, &journal, &file].map(|path| chown(path, Some(USER), Some(USER)));
            if !privileged(owned.iter().all(Result::is_ok), "root, of several users") {
                return;
            }
            let look = || below(place.path(), &a0);
            assert_eq!(look(), []);
            ip("link set a0 mtu 4000");
            assert_eq!(look(), [(USER, vec![mtu.clone()])]);
            // Another user's file, or one that others could have written.
            for path in [&user, &journal, &file] {
                chown(path, Some(USER + 1), None).unwrap();
                assert_eq!(look(), [], "{}", path.display());
                chown(path, Some(USER), None).unwrap();
                let mode = fs::metadata(path).unwrap().mode();
                fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
                assert_eq!(look(), [], "{}", path.display());
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                // A link to what is right otherwise.
                let aside = place.path().join("aside");
                fs::rename(path, &aside).unwrap();
                symlink(&aside, path).unwrap();
                assert_eq!(look(), [], "{}", path.display());
                fs::remove_file(path).unwrap();
                fs::rename(&aside, path).unwrap();
                assert_eq!(look(), [(USER, vec![mtu.clone()])]);
            }
            // A pipe.
            fs::remove_file(&file).unwrap();
            let pipe = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
            // SAFETY: a terminated string.
            assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
            chown(&file, Some(USER), None).unwrap();
            assert_eq!(look(), []);
        });
    }
}
