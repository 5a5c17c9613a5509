//! Closing frees the interface although a child is just starting (contract L2, L8). Alone in its process, for the child
//! has every descriptor that the process has.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyport::{Burst, Pool, Registry, RxQueue, TxQueue};
use anyport_netdev::testing::{in_namespace, ip, may_load_programs, run};

/// A pipe: to read from, to write to.
fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: fresh descriptors that nobody else owns.
    ends.map(|end| unsafe { File::from_raw_fd(end) }).into()
}

/// All that `ip` and `ethtool` show of a0.
fn shown() -> String {
    run("ip", "-d link show a0") + &run("ethtool", "-k a0")
}

/// How many answers the host's stack gives when it is asked who has a0's address.
fn answers(rx: &mut RxQueue, tx: &mut TxQueue, pool: &Pool) -> usize {
    let mut question = vec![0xff; 6];
    question.extend([2, 0, 0, 0, 0, 0xa, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xa]);
    question.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    let mut burst = Burst::new();
    burst.push(pool.packet(&question).unwrap()).unwrap();
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    rx.wait(Duration::from_millis(50)).unwrap();
    rx.recv(&mut burst).unwrap()
}

#[test]
fn a_closed_port_is_closed_although_a_child_still_has_its_descriptors() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let mut registry = Registry::new();
        registry.register(anyport_pcap::Pcap::default()).unwrap();
        let pool = Pool::builder().frames(256).frame_size(2048).build().unwrap();
        ip("addr add 192.0.2.1/24 dev a0");
        let mut asker = registry.open_with("pcap:a1,mac=02:00:00:00:00:0a", &pool).unwrap();
        let (mut rx, mut tx) = asker.start().unwrap().into_pair();
        let before = shown();
        let mut port = registry.open_with("pcap:a0,promiscuous=true", &pool).unwrap();
        let queues = port.start().unwrap();
        let during = shown();
        assert!(during.contains("promiscuity 1") && during.contains("allmulti 1"), "{during}");
        assert_eq!(answers(&mut rx, &mut tx, &pool), 0);
        let ((mut started, says), (waits, mut go_on)) = (pipe(), pipe());
        let mut command = Command::new("true");
        let (says_fd, waits_fd) = (says.as_raw_fd(), waits.as_raw_fd());
        // SAFETY: both calls may be made between fork and exec, on descriptors that are open until the child has ended.
        unsafe {
            command.pre_exec(move || {
                let mut byte = [1u8];
                libc::write(says_fd, byte.as_ptr().cast(), 1);
                // Its own end of that pipe would keep it from ending should the test fail.
                libc::alarm(20);
                libc::read(waits_fd, byte.as_mut_ptr().cast(), 1);
                Ok(())
            });
        }
        std::thread::scope(|scope| {
            let child = scope.spawn(|| command.status().unwrap());
            started.read_exact(&mut [0]).unwrap();
            // Here the child has all descriptors, and its program has not begun.
            drop(queues);
            port.close().unwrap();
            assert_eq!(shown(), before);
            assert_eq!(answers(&mut rx, &mut tx, &pool), 1, "the program is still attached");
            // What is left of its name is taken when the child has gone on; nobody is named as its holder.
            let busy = registry.open("pcap:a0").map(|_| ()).unwrap_err();
            assert!(matches!(busy, anyport::Error::Busy { pid: 0, .. }), "{busy}");
            go_on.write_all(&[1]).unwrap();
            assert!(child.join().unwrap().success());
            registry.open("pcap:a0").unwrap().close().unwrap();
        });
    });
}
