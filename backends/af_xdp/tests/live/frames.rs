//! The bytes of frames: tags that a kernel keeps beside them, frames of several segments (contract R3, M2).

use std::os::fd::OwnedFd;

use anyport::{Burst, Pool};
use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::{Assembler, Op, Reg};
use anyport_netdev::bpf::{Kind, Link, Program};
use anyport_netdev::testing::{in_namespace, ip, may_load_programs, run};

use crate::common::{End, frame, host_socket, number, open, registry};

/// Puts a tag beside every frame that leaves by `a1`, as the kernel does for a VLAN interface on a device that puts tags in.
fn tag_beside(protocol: u16, tag: u16) -> Link {
    /// `bpf_skb_vlan_push(skb, protocol, tag)`.
    const VLAN_PUSH: i32 = 18;
    /// `TCX_NEXT`.
    const NEXT: i32 = -1;
    let mut a = Assembler::new();
    a.op(Op::Mov, Reg::R2, protocol.to_be().into())
        .op(Op::Mov, Reg::R3, tag.into())
        .call(VLAN_PUSH)
        .exit(NEXT);
    let program = Program::load(Kind::Tc, "tag_beside", &a.finish().unwrap()).unwrap();
    program.attach_tcx_egress(Interface::open("a1").unwrap().index()).unwrap()
}

#[test]
fn a_tag_that_a_kernel_keeps_beside_a_frame_is_put_in() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        for promiscuous in [false, true] {
            for keys in ["", ",to_kernel=tcp"] {
                let mut end = open(&format!("af_xdp:a0,attach=native{keys}"));
                end.port.control().set_promiscuous(promiscuous).unwrap();
                let socket = host_socket(end.mac());
                for (protocol, tag) in [(0x8100, 7), (0x8100, 0xefff), (0x88a8, 0x3001)] {
                    let link = tag_beside(protocol, tag);
                    socket.send(b"tagged").unwrap();
                    let frames = end.receive(1);
                    assert_eq!(frames.len(), 1);
                    let [p0, p1] = u16::to_be_bytes(protocol);
                    let [t0, t1] = u16::to_be_bytes(tag);
                    assert_eq!(frames[0][..6], end.mac().0);
                    assert_eq!(frames[0][12..18], [p0, p1, t0, t1, 8, 0]);
                    assert!(frames[0].ends_with(b"tagged"));
                    assert_eq!(frames[0].len(), 14 + 4 + 28 + 6);
                    link.detach();
                }
                // The longest frame has room for it.
                let link = tag_beside(0x8100, 7);
                socket.send(&[5; 1472]).unwrap();
                let frames = end.receive(1);
                assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1518]);
                link.detach();
                socket.send(b"plain").unwrap();
                let frames = end.receive(1);
                assert_eq!(frames[0][12..14], [8, 0]);
                end.port.close().unwrap();
            }
        }
    });
}

#[test]
fn what_stays_with_the_kernel_has_its_tag_once() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let mut end = open("af_xdp:a0,attach=native,to_kernel=udp");
        let socket = host_socket(end.mac());
        let witness = packet_socket_at("a0");
        let _link = tag_beside(0x8100, 7);
        socket.send(b"tagged").unwrap();
        let (bytes, tag) = receive_with_tag(&witness);
        assert_eq!((&bytes[12..14], tag), (&[8, 0][..], Some(7)));
        assert_eq!(end.receive(0), Vec::<Vec<u8>>::new());
    });
}

#[test]
fn where_tags_would_be_lost_the_port_is_refused() {
    in_namespace(|| {
        let pool = Pool::builder().frames(64).build().unwrap();
        let opened = registry().open_with("af_xdp:a0,attach=generic", &pool);
        let refused = opened.unwrap_err().to_string();
        assert!(refused.contains("`ethtool -K a1 txvlan off"), "{refused}");
        drop(registry().open_with("af_xdp:a0,attach=generic,tags_in_frames=true", &pool).unwrap());
        run("ethtool", "-K a1 txvlan off tx-vlan-stag-hw-insert off");
        let mut end = open("af_xdp:a0,attach=generic");
        let socket = host_socket(end.mac());
        let _link = tag_beside(0x8100, 7);
        socket.send(b"tagged").unwrap();
        let frames = end.receive(1);
        assert_eq!(frames[0][12..18], [0x81, 0, 0, 7, 8, 0]);
    });
}

/// A socket that sees what the kernel gets from an interface.
fn packet_socket_at(name: &str) -> OwnedFd {
    use anyport_netdev::sys::{owned, set_number, set_option};
    use std::os::fd::AsRawFd;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let socket = owned(unsafe { libc::socket(libc::AF_PACKET, kind, 0) }).unwrap();
    set_number(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, 1).unwrap();
    let wait = libc::timeval { tv_sec: 20, tv_usec: 0 };
    // SAFETY: no addresses.
    unsafe { set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &wait) }.unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: Interface::open(name).unwrap().index() as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as is said.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    socket
}

/// The next UDP frame's bytes, and the tag beside it.
fn receive_with_tag(socket: &OwnedFd) -> (Vec<u8>, Option<u16>) {
    use std::os::fd::AsRawFd;
    for _ in 0..100 {
        let (mut bytes, mut control) = (vec![0u8; 2048], [0u64; 16]);
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: both buffers live, and are as long as is said.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
        assert!(length >= 0, "{}", std::io::Error::last_os_error());
        bytes.truncate(length as usize);
        let mut tag = None;
        // SAFETY: the kernel has filled in the control messages.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if !header.is_null() && (*header).cmsg_type == libc::PACKET_AUXDATA {
                let data = libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                if data.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    tag = Some(data.tp_vlan_tci);
                }
            }
        }
        if bytes.ends_with(b"tagged") {
            return (bytes, tag);
        }
    }
    panic!("the frame did not come");
}

#[test]
fn long_frames_take_several_segments_each_way() {
    in_namespace(|| {
        for name in ["a0", "a1"] {
            ip(&format!("link set {name} mtu 28654"));
        }
        // With frames larger than a page, a frame has several descriptors, too.
        for (attach, size) in [("native", 2048), ("generic", 2048), ("native", 32768)] {
            let end = |name: &str| {
                let keys = "max_segments=16,tags_in_frames=true";
                End::open(&registry(), &format!("af_xdp:{name},attach={attach},{keys}"), size)
            };
            let (mut a, mut b) = (end("a0"), end("a1"));
            let lengths = [60, 1792, 1793, 3584, 3585, 9014, 28667, 28668];
            let sent: Vec<Vec<u8>> = (0..64)
                .map(|at| {
                    let mut frame = frame(b.mac(), at, lengths[at as usize % 8]);
                    let rest = frame[18..].iter_mut().enumerate();
                    rest.for_each(|(i, byte)| *byte = (i * 7 + at as usize) as u8);
                    frame
                })
                .collect();
            a.send(sent.clone());
            let received = b.receive(sent.len());
            assert!(
                received == sent,
                "{attach} {size}: {} of {} frames",
                received.len(),
                sent.len()
            );
            let counters = a.counters();
            let bytes = 8 * lengths.iter().sum::<usize>() as u64;
            assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(64), Some(bytes)));
            assert_eq!(counters.tx_dropped, Some(0));
            // Segments go back one and all.
            for end in [a, b] {
                let End { port, rx, tx, pool } = end;
                port.close().unwrap();
                drop((rx, tx));
                assert_eq!(pool.free(), pool.capacity());
            }
        }
    });
}

#[test]
fn a_frame_of_segments_that_the_wire_refuses_is_counted_whole() {
    in_namespace(|| {
        for name in ["a0", "a1"] {
            ip(&format!("link set {name} mtu 3000"));
        }
        let segments = "max_segments=4,attach=native";
        let mut a = open(&format!("af_xdp:a0,{segments}"));
        // What is longer than 1514 bytes needs two frames of the pool.
        let pool = Pool::builder().frames(512).build().unwrap();
        let mut b = registry().open_with("af_xdp:a1,attach=native", &pool).unwrap();
        let refused = b.start().unwrap_err().to_string();
        assert!(refused.contains("max_segments"), "{refused}");
        b.close().unwrap();
        let mut b = open("af_xdp:a1,attach=native,max_frame=1514");
        a.send([frame(b.mac(), 1, 3000), frame(b.mac(), 2, 1514)]);
        let received = b.receive(1);
        assert_eq!(received.iter().map(|frame| number(frame)).collect::<Vec<_>>(), [2]);
        let counters = a.counters();
        assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(1), Some(1514)));
        assert_eq!((counters.tx_dropped, counters.tx_dropped_bytes), (Some(1), Some(3000)));
        let mut burst = Burst::new();
        assert_eq!(b.rx.recv(&mut burst).unwrap(), 0);
    });
}

#[test]
fn the_kernel_has_frames_as_long_as_the_pool_has() {
    in_namespace(|| {
        // So few that the kernel is given 16, which is not even one batch of refilling.
        let pool = Pool::builder().frames(64).build().unwrap();
        let mut a = open("af_xdp:a0");
        let mut b = End::over(&registry(), "af_xdp:a1", &pool);
        for round in 0..100 {
            let sent: Vec<_> = (0..3).map(|at| frame(b.mac(), round * 3 + at, 60)).collect();
            a.send(sent.clone());
            let mut received = Vec::new();
            let mut burst = Burst::new();
            while received.len() < sent.len() {
                let woken = b.rx.wait(std::time::Duration::from_secs(20)).unwrap();
                assert_eq!(woken, anyport::Wake::Ready, "round {round}: {:?}", b.counters());
                b.rx.recv(&mut burst).unwrap();
                received.extend(burst.drain().map(|packet| packet.data().to_vec()));
            }
            assert_eq!(received, sent);
        }
        assert_eq!(b.counters().rx_no_buffer, Some(0));
    });
}
