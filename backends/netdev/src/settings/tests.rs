use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;
use crate::testing::{in_namespace, run};

fn journal(place: &tempfile::TempDir) -> Journal {
    Journal::in_directories(vec![place.path().join("anyport")])
}

fn open(journal: &Journal) -> Settings {
    Settings::with(Interface::open("a0").unwrap(), "test:a0", journal.clone()).unwrap()
}

/// Address, MTU, and whether received frames are put together (GRO).
fn state() -> (String, usize, bool) {
    let a0 = Interface::open("a0").unwrap();
    let [gro] = a0.features(["rx-gro"]).unwrap();
    (a0.mac().unwrap().to_string(), a0.mtu().unwrap(), gro.unwrap().active)
}

fn change(settings: &mut Settings) {
    settings.set_mac("02:00:00:00:00:77".parse().unwrap()).unwrap();
    settings.set_mac("02:00:00:00:00:78".parse().unwrap()).unwrap();
    settings.set_mtu(4000).unwrap();
    settings.switch_off(["rx-gro", "tx-udp_tnl-segmentation", "no-such-switch"]).unwrap();
    assert_eq!(state(), ("02:00:00:00:00:78".into(), 4000, false));
}

/// An interface that was changed by a port: the journal and where it is, the port's settings, and what it was like before.
fn changed() -> (tempfile::TempDir, Journal, Settings, (String, usize, bool)) {
    let (place, before) = (tempfile::tempdir().unwrap(), state());
    let journal = journal(&place);
    let mut settings = open(&journal);
    change(&mut settings);
    (place, journal, settings, before)
}

#[test]
fn what_was_changed_is_put_back_and_nothing_stays_written() {
    in_namespace(|| {
        run("ethtool", "-K a0 gro on");
        let (_place, journal, settings, before) = changed();
        let entry = journal.read(settings.interface()).unwrap().unwrap();
        assert_eq!((entry.changes.len(), entry.changes[0].found.as_str()), (4, before.0.as_str()));
        drop(settings);
        assert_eq!(state(), before);
        assert_eq!(journal.read(&Interface::open("a0").unwrap()).unwrap(), None);
    });
}

#[test]
fn switches_go_back_at_stop_and_the_rest_at_close() {
    in_namespace(|| {
        run("ethtool", "-K a0 gro on");
        let (place, before) = (tempfile::tempdir().unwrap(), state());
        let journal = journal(&place);
        let mut settings = open(&journal);
        for _ in 0..2 {
            change(&mut settings);
            settings.switch_back();
            assert_eq!(state(), ("02:00:00:00:00:78".into(), 4000, true));
            let entry = journal.read(settings.interface()).unwrap().unwrap();
            assert_eq!(entry.changes.len(), 2, "{entry:?}");
        }
        drop(settings);
        assert_eq!(
            (state(), journal.read(&Interface::open("a0").unwrap()).unwrap()),
            (before, None)
        );
    });
}

#[test]
fn the_next_opener_puts_back_what_a_killed_one_left() {
    in_namespace(|| {
        run("ethtool", "-K a0 gro on");
        let (_place, journal, settings, before) = changed();
        std::mem::forget(settings);
        let settings = open(&journal);
        assert_eq!(state(), before);
        assert_eq!((settings.mac().to_string(), settings.mtu()), (before.0, before.1));
        assert_eq!(journal.read(settings.interface()).unwrap(), None);
    });
}

#[test]
fn a_listing_puts_it_back_too_but_not_while_somebody_has_it_open() {
    in_namespace(|| {
        let (_place, journal, settings, before) = changed();
        let a0 = Interface::open("a0").unwrap();
        let lock = DeviceLock::take(&lock_key(&a0, "a0").unwrap(), "test:a0").unwrap();
        assert_eq!(recover_from(&journal, &a0, "test:a0"), None);
        assert_eq!(state().1, 4000);
        std::mem::forget(settings);
        drop(lock);
        assert_eq!(recover_from(&journal, &a0, "test:a0"), None);
        assert_eq!((state(), journal.read(&a0).unwrap()), (before, None));
    });
}

#[test]
fn what_somebody_else_changed_since_is_left_alone() {
    in_namespace(|| {
        let (_place, _journal, settings, before) = changed();
        run("ip", "link set a0 mtu 2000");
        drop(settings);
        assert_eq!(state(), (before.0, 2000, before.2));
    });
}

#[test]
fn an_interface_that_went_away_stays_written_down() {
    in_namespace(|| {
        let place = tempfile::tempdir().unwrap();
        let journal = journal(&place);
        let mut settings = open(&journal);
        change(&mut settings);
        let namespace = settings.interface().namespace().unwrap();
        let written = journal.all(namespace).unwrap();
        assert_eq!(written.len(), 1);
        run("ip", "link del a0");
        assert!(settings.set_mtu(3000).unwrap_err().is_gone());
        settings.switch_back();
        drop(settings);
        // Nobody can tell that it was deleted.
        assert_eq!(journal.all(namespace).unwrap(), written);
    });
}

#[test]
fn one_that_was_moved_while_it_was_open_is_named_where_it_is_and_put_back_when_it_returns() {
    in_namespace(|| {
        run("ethtool", "-K a0 gro on");
        let (_place, journal, settings, before) = changed();
        // SAFETY: it takes nothing and cannot fail.
        let thread = || unsafe { libc::syscall(libc::SYS_gettid) };
        let home = thread();
        let (go, gone) = std::sync::mpsc::channel();
        let (there, arrived) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let (journal, before) = (&journal, &before);
            let other = scope.spawn(move || {
                // SAFETY: no pointers; it changes this thread alone.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
                go.send(thread()).unwrap();
                arrived.recv().unwrap();
                let a0 = Interface::open("a0").unwrap();
                let named = recover_from(journal, &a0, "test:a0").unwrap();
                assert!(
                    named.contains(&format!("`ip link set a0 address {}`", before.0)),
                    "{named}"
                );
                assert!(named.contains("`ip link set a0 mtu 1500`, `ethtool -K a0 "), "{named}");
                run("ip", "link set a0 mtu 1500");
                let named = recover_from(journal, &a0, "test:a0").unwrap();
                assert!(!named.contains("mtu") && named.contains("address"), "{named}");
                // Another one of that name.
                run("ip", "link set a0 name b0");
                assert_eq!(recover_from(journal, &a0, "test:b0"), None);
                run("ip", "link set b0 name a0");
                run("ip", &format!("link set a0 netns {home}"));
            });
            run("ip", &format!("link set a0 netns {}", gone.recv().unwrap()));
            drop(settings);
            there.send(()).unwrap();
            other.join().unwrap();
        });
        drop(open(&journal));
        assert_eq!(state(), before);
        assert_eq!(journal.read(&Interface::open("a0").unwrap()).unwrap(), None);
    });
}

#[test]
fn one_that_returns_with_another_index_is_named() {
    in_namespace(|| {
        let (_place, journal, settings, before) = changed();
        let index = settings.interface().index();
        // SAFETY: it takes nothing and cannot fail.
        let thread = || unsafe { libc::syscall(libc::SYS_gettid) };
        let home = thread();
        let (go, gone) = std::sync::mpsc::channel();
        let (there, arrived) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let other = scope.spawn(move || {
                // SAFETY: no pointers; it changes this thread alone.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
                go.send(thread()).unwrap();
                arrived.recv().unwrap();
                run("ip", &format!("link set a0 netns {home}"));
            });
            run("ip", &format!("link set a0 netns {}", gone.recv().unwrap()));
            drop(settings);
            run("ip", &format!("link add x0 index {index} type veth peer name x1"));
            there.send(()).unwrap();
            other.join().unwrap();
        });
        let a0 = Interface::open("a0").unwrap();
        assert_ne!(a0.index(), index);
        let named = recover_from(&journal, &a0, "test:a0").unwrap();
        assert!(named.contains(&format!("`ip link set a0 address {}`", before.0)), "{named}");
        // Whoever has its index now is not meant.
        assert_eq!(recover_from(&journal, &Interface::open("x0").unwrap(), "test:x0"), None);
    });
}

#[test]
fn what_cannot_be_put_back_stays_written_and_is_named() {
    in_namespace(|| {
        let place = tempfile::tempdir().unwrap();
        let journal = journal(&place);
        let a0 = Interface::open("a0").unwrap();
        let mut settings = open(&journal);
        settings.set_mtu(4000).unwrap();
        std::mem::forget(settings);
        // The found value is one that the device does not take.
        let mut entry = journal.read(&a0).unwrap().unwrap();
        entry.changes[0].found = "67".into();
        journal.write(&entry).unwrap();
        let words = recover_from(&journal, &a0, "test:a0").unwrap();
        assert!(words.contains("`ip link set a0 mtu 67` puts it back"), "{words}");
        assert_eq!((journal.read(&a0).unwrap(), a0.mtu().unwrap()), (Some(entry.clone()), 4000));
        // And it is not forgotten by the next one's own changes.
        let mut settings = open(&journal);
        settings.set_mtu(5000).unwrap();
        let changed = journal.read(&a0).unwrap().unwrap().changes;
        assert_eq!(
            (changed[0].found.as_str(), &changed[0].given[..]),
            ("67", &["4000".into(), "5000".into()][..])
        );
        drop(settings);
        assert_eq!(journal.read(&a0).unwrap().unwrap().changes.len(), 1);
    });
}

#[test]
fn refusals_say_what_would_help() {
    in_namespace(|| {
        let place = tempfile::tempdir().unwrap();
        let mut settings = open(&journal(&place));
        let error = settings.set_mtu(70_000).unwrap_err().to_string();
        assert!(error.contains("`max_frame` = 70014") && error.contains("MTU of 70000"), "{error}");
        run("ip", "link add ifb0 type ifb");
        let mac = "02:00:00:00:00:77".parse().unwrap();
        let ifb0 = Interface::open("ifb0").unwrap();
        let mut ifb = Settings::with(ifb0, "test:ifb0", journal(&place)).unwrap();
        let error = ifb.set_mac(mac).unwrap_err().to_string();
        assert!(error.contains("`mac` = 02:00:00:00:00:77") && error.contains("kind"), "{error}");
        // A driver that has none here.
        let busy = address_limit("eth0", &io::Error::from_raw_os_error(libc::EBUSY)).unwrap();
        assert!(busy.contains("`ip link set eth0 down`"), "{busy}");
    });
}

#[test]
fn limits_are_the_devices_own() {
    in_namespace(|| {
        let place = tempfile::tempdir().unwrap();
        let settings = open(&journal(&place));
        assert_eq!(
            (settings.mtu_range(60_000), settings.mtu_range(65_535)),
            ((68, 60_000), (68, 65_535))
        );
        // A limit below what it has now does not hold.
        assert_eq!(settings.mtu_range(1000).1, 1500);
    });
}

/// The entry of an interface in a namespace of its own that was left changed there, and what holds the namespace: a
/// descriptor, and nothing else.
fn left_changed(journal: &Journal) -> Option<(Entry, std::fs::File)> {
    let mut left = None;
    in_namespace(|| {
        let mut settings = open(journal);
        settings.set_mtu(4000).unwrap();
        let entry = journal.read(settings.interface()).unwrap().unwrap();
        // As if killed: its descriptors are closed, and nothing is put back.
        settings.entry.changes.clear();
        left = Some((entry, std::fs::File::open("/proc/thread-self/ns/net").unwrap()));
    });
    left
}

#[test]
fn a_namespace_that_only_a_descriptor_of_another_process_holds_keeps_its_entries() {
    let place = tempfile::tempdir().unwrap();
    let journal = journal(&place);
    // Not without privilege, which has been said.
    let Some((entry, namespace)) = left_changed(&journal) else { return };
    let mut holder = Command::new("sleep").arg("600").stdin(namespace).spawn().unwrap();
    let result = std::panic::catch_unwind(|| {
        for _ in 0..20 {
            in_namespace(|| drop(open(&journal)));
        }
        assert_eq!(journal.all(entry.namespace()).unwrap(), [entry]);
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    result.unwrap();
}

#[test]
fn entries_of_a_namespace_that_is_gone_go_when_another_one_has_its_number() {
    in_namespace(|| {
        let place = tempfile::tempdir().unwrap();
        let journal = journal(&place);
        let a1 = Settings::with(Interface::open("a1").unwrap(), "test:a1", journal.clone());
        let mut a1 = a1.unwrap();
        a1.set_mtu(4000).unwrap();
        let living = journal.read(a1.interface()).unwrap().unwrap();
        // The number of this network namespace, and that of a namespace of another kind.
        let uts = std::fs::metadata("/proc/thread-self/ns/uts").unwrap().ino();
        let gone = [
            living.in_namespace(u64::MAX, living.inode()),
            living.in_namespace(u64::MAX - 1, Some(uts)),
        ];
        // Of these nothing is known.
        let kept = [living.in_namespace(5, None), living.in_namespace(6, Some(1))];
        for entry in gone.iter().chain(&kept) {
            journal.write(entry).unwrap();
        }
        drop(open(&journal));
        for entry in &gone {
            assert_eq!(journal.all(entry.namespace()).unwrap(), []);
        }
        for entry in kept.iter().chain([&living]) {
            assert_eq!(journal.all(entry.namespace()).unwrap(), std::slice::from_ref(entry));
        }
    });
}
