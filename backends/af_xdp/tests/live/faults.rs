//! Interfaces that go away, packets that no kernel takes (contract T9, S1).

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyport::{Burst, Error};
use anyport_netdev::testing::{in_namespace, ip};

use crate::common::{End, frame, open, registry};

#[test]
fn an_interface_that_was_away_and_is_back_is_gone() {
    in_namespace(|| {
        let mut near = open("af_xdp:a0");
        let far = open("af_xdp:a1");
        // SAFETY: no pointers.
        let here = unsafe { libc::syscall(libc::SYS_gettid) };
        // A process with a namespace of its own sends it back.
        let script = format!("echo there; read x; ip link set a0 netns {here}; echo back");
        let mut other = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(other.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "there");
        ip(&format!("link set a0 netns {}", other.id()));
        other.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "back");
        assert!(other.wait().unwrap().success());
        ip("link set a0 up");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut burst = Burst::new();
        let is_gone = |result: Result<(), Error>| matches!(result, Err(Error::DeviceGone { .. }));
        loop {
            assert!(Instant::now() < deadline, "nobody says that it is gone");
            burst.push(near.pool.packet(&frame(far.mac(), 1, 60)).unwrap()).unwrap();
            let sent = is_gone(near.tx.send(&mut burst).map(drop));
            burst.clear();
            let waited = is_gone(near.rx.wait(Duration::from_millis(10)).map(drop));
            if sent && waited {
                break;
            }
        }
        let End { port, rx, tx, pool } = near;
        port.close().unwrap();
        drop((rx, tx));
        assert_eq!(pool.free(), pool.capacity());
        // What is opened anew works.
        let mut near = open("af_xdp:a0");
        near.send([frame(far.mac(), 2, 60)]);
    });
}

#[test]
fn a_packet_of_too_many_parts_is_counted_as_dropped() {
    in_namespace(|| {
        for name in ["a0", "a1"] {
            ip(&format!("link set {name} mtu 28000"));
        }
        // In frames of two pages, each segment crosses into the second one: two descriptors.
        let end =
            |name: &str| End::open(&registry(), &format!("af_xdp:{name},max_segments=16"), 8192);
        let (mut near, mut far) = (end("a0"), end("a1"));
        for (segments, passes) in [(8, true), (9, false), (16, false), (2, true)] {
            let before = (near.counters(), near.pool.free());
            let piece = |bytes: &[u8]| {
                let mut packet = near.pool.take().unwrap();
                packet.set_len(3000 + bytes.len()).unwrap();
                packet.shrink_head(3000).unwrap();
                packet.data_mut().copy_from_slice(bytes);
                packet
            };
            let mut packet = piece(&frame(far.mac(), segments, 1500));
            for _ in 1..segments {
                packet.append(piece(&[7; 1500])).unwrap();
            }
            let length = packet.len();
            let mut burst = Burst::new();
            burst.push(packet).unwrap();
            near.send_all(&mut burst);
            let arrived = far.receive(usize::from(passes));
            assert_eq!(arrived.len(), usize::from(passes), "{segments} segments");
            let now = near.counters();
            let dropped = now.tx_dropped.unwrap() - before.0.tx_dropped.unwrap();
            let bytes = now.tx_dropped_bytes.unwrap() - before.0.tx_dropped_bytes.unwrap();
            let lost = if passes { (0, 0) } else { (1, length as u64) };
            assert_eq!((dropped, bytes), lost, "{segments} segments");
            assert_eq!(near.tx.flush(Duration::from_secs(10)).unwrap(), 0);
            assert_eq!(near.pool.free(), before.1, "{segments} segments");
        }
    });
}
