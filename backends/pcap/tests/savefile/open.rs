//! What is opened, and what is refused.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use super::*;

#[test]
fn what_cannot_be_received_is_refused_at_open() {
    let folder = Folder::new();
    std::fs::write(folder.path("empty.pcap"), b"").unwrap();
    std::fs::write(folder.path("text.pcap"), b"no capture at all").unwrap();
    std::fs::write(folder.path("short.pcap"), [0xd4, 0xc3, 0xb2, 0xa1, 2, 0]).unwrap();
    capture(&folder.path("sll.pcap"), &[]);
    let mut bytes = std::fs::read(folder.path("sll.pcap")).unwrap();
    bytes[20] = 113;
    std::fs::write(folder.path("sll.pcap"), bytes).unwrap();
    let fifo = CString::new(folder.path("fifo").as_os_str().as_bytes()).unwrap();
    // SAFETY: a terminated string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    for (name, what) in [
        ("none.pcap", "No such file"),
        ("empty.pcap", "is empty"),
        ("text.pcap", "neither a pcap nor a pcapng file"),
        ("short.pcap", "cut off: the file's header"),
        ("sll.pcap", "link type 113 (Linux cooked"),
        ("", "no regular file"),
        ("fifo", "no regular file"),
    ] {
        says(refused(&folder.spec(&format!("in=@{name}"))), &[name, what]);
        // And `out` is not touched.
        says(refused(&folder.spec(&format!("in=@{name},out=@out.pcap"))), &[what]);
        assert!(!folder.path("out.pcap").exists());
    }
}

#[test]
fn opening_changes_no_file() {
    let folder = Folder::new();
    let path = folder.path("b.pcap");
    std::fs::write(&path, b"dear").unwrap();
    let unchanged = || assert_eq!(std::fs::read(&path).unwrap(), b"dear");
    assert!(registry().open(&folder.spec("out=@b.pcap,queues=2")).is_err());
    unchanged();
    registry().open(&folder.spec("out=@b.pcap")).unwrap().close().unwrap();
    unchanged();
    // A file that was not there is not there again.
    registry().open(&folder.spec("out=@new.pcap")).unwrap().close().unwrap();
    assert!(!folder.path("new.pcap").exists());
    // The first start empties it, once.
    let end = open(&folder.spec("out=@b.pcap"), pool(64));
    assert_eq!(read(&path), []);
    drop(end);
    assert_eq!(read(&path), []);
    // A link to nowhere makes the file that it names.
    std::os::unix::fs::symlink(folder.path("target.pcap"), folder.path("link.pcap")).unwrap();
    drop(open(&folder.spec("out=@link.pcap"), pool(64)));
    assert_eq!(read(&folder.path("target.pcap")), []);
}

#[test]
fn one_file_is_not_read_and_written_at_once() {
    let folder = Folder::new();
    let path = folder.path("a.pcap");
    numbered(&path, 5);
    std::os::unix::fs::symlink(&path, folder.path("link.pcap")).unwrap();
    std::fs::hard_link(&path, folder.path("hard.pcapng")).unwrap();
    for keys in
        ["in=@a.pcap,out=@a.pcap", "in=@a.pcap,out=@link.pcap", "in=@hard.pcapng,out=@a.pcap"]
    {
        says(refused(&folder.spec(keys)), &["`in` and `out` are the same file"]);
    }
    says(refused(&folder.spec("in=@a.pcap,capture=@link.pcap")), &["`in` and `capture`"]);
    std::fs::write(folder.path("b.pcap"), b"").unwrap();
    says(refused(&folder.spec("out=@b.pcap,capture=@b.pcap")), &["`out` and `capture`"]);
    assert_eq!(read(&path).len(), 5);
    // Two ports may read one file (contract L2).
    let mut ends = [0, 1].map(|_| open(&folder.spec("in=@a.pcap"), pool(64)));
    ends.iter_mut().for_each(|end| assert_eq!(end.receive().0.len(), 5));
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    numbered(&folder.path("a.pcap"), 1);
    for (keys, parts) in [
        ("", &["neither an interface", "in=a.pcap"][..]),
        ("loops=2", &["neither an interface"]),
        ("eth0,in=@a.pcap", &["`in` is for capture files", "`eth0` is an interface"]),
        ("lo,loops=2", &["`loops` is for capture files"]),
        ("in=@a.pcap,format=pcap", &["`format`", "`out`", "not given"]),
        ("out=@b.pcap,timing=asap", &["`timing`", "`in`", "not given"]),
        ("out=@b.pcap,loops=2", &["`loops`", "`in`", "not given"]),
        ("in=@a.pcap,timing=fast", &["timing", "`fast`", "asap", "original"]),
        ("in=@a.pcap,loops=-1", &["loops", "`-1`"]),
        ("in=@a.pcap,speed=1", &["unknown key `speed`", "timing"]),
        ("out=@b.cap", &["b.cap", "format=pcap"]),
        ("out=@b,format=cap", &["format", "`cap`", "pcapng"]),
        ("in=@a.pcap,promiscuous=true", &["promiscuous", "cannot be switched"]),
        ("in=@a.pcap,mac=02:00:00:00:00:01", &["mac", "cannot be changed"]),
        ("in=@a.pcap,queues=2", &["queues", "1 to 1"]),
        ("in=@a.pcap,max_frame=70000", &["max_frame", "65535"]),
        ("out=@none/b.pcap", &["none/b.pcap", "No such file"]),
        ("out=@,format=pcap", &["Is a directory"]),
    ] {
        says(refused(&folder.spec(keys)), parts);
    }
    // Of an unknown key they say what there is for files, and for an interface what there is for interfaces.
    let files = refused(&folder.spec("in=@a.pcap,speed=1"));
    says(&files, &["unknown key `speed`; accepted are: format, in, loops, out, timing, capture, "]);
    let interface = refused("pcap:lo,speed=1");
    says(&interface, &["pcap:lo: unknown key `speed`; accepted are: capture, ", "to_kernel"]);
    for key in [" in,", " out,", " loops,", " timing,", " format,"] {
        assert!(!interface.contains(key), "{key} {interface}");
    }
    let fifo = CString::new(folder.path("fifo.pcap").as_os_str().as_bytes()).unwrap();
    // SAFETY: a terminated string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    says(refused(&folder.spec("out=@fifo.pcap")), &["fifo.pcap", "is a pipe"]);
}

#[test]
fn a_name_may_look_like_a_number() {
    for (name, spec) in [("5", "pcap:in=5"), ("true", "pcap:in=true,out=7,format=pcap")] {
        let error = registry().open(spec).unwrap_err();
        // There is none of that name here: that is what is said, not that it is a number.
        says(error, &[name, "No such file"]);
    }
    assert!(!std::path::Path::new("7").exists());
}
