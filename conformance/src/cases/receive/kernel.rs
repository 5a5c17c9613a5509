//! R3 and R4 with a kernel at the other end: what it leaves to devices.

use std::io::{ErrorKind, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};

use anyport::MacAddr;

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End, eventually};
use crate::frames;
use crate::ip::{self, Headers};
use crate::rig::Host;
use crate::side::{Side, bytes};
use crate::{ensure, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "receive.a_kernels_datagrams_are_right",
        clauses: &["R3"],
        about: "A socket of the host's sends UDP datagrams of many lengths; the port, with its default, delivers frames \
                with right checksums.",
        why: "Without this every reply that an application builds on what it received, and every frame that it \
              forwards, is thrown away at its destination.",
        needs: &[Need::Rig(Power::Host)],
        run: datagrams_are_right,
    },
    Case {
        name: "receive.a_kernels_datagrams_are_unfinished_when_asked",
        clauses: &["R3"],
        about: "The same with finish_checksums=off on a software link: the field holds the pseudo header's sum.",
        why: "It shows that the kernel does leave checksums unfinished here, so that the case before means something.",
        needs: &[Need::Rig(Power::Host), Need::SoftwareLink],
        run: datagrams_are_unfinished,
    },
    Case {
        name: "receive.a_kernels_tcp_is_right",
        clauses: &["R3"],
        about: "A TCP connection of the host's: the port answers its SYN, the host completes the handshake and sends \
                segments of odd and even lengths, all with right checksums.",
        why: "TCP does not get over a forwarder that passes unfinished checksums on.",
        needs: &[Need::TwoWay, Need::Rig(Power::Host)],
        run: tcp_is_right,
    },
    Case {
        name: "receive.a_kernels_tags_are_in_the_frame",
        clauses: &["R3", "M2", "O3"],
        about: "A socket of the host's sends datagrams, short ones and ones that fill the maximum frame, whose VLAN tag the kernel \
                leaves to the device: untagged ones in between, both types, all bits. The port delivers the tag in its place, \
                and with vlan_strip=auto it says it.",
        why: "On a software link there is no device to put the tag in: who reads only the bytes puts traffic of all VLANs into one.",
        needs: &[Need::Rig(Power::Host), Need::Rig(Power::Tags)],
        run: tags_are_in_the_frame,
    },
    Case {
        name: "receive.uncut_segments_are_counted_or_whole",
        clauses: &["R4"],
        about: "A socket of the host's sends 4,000 bytes that a device is to cut into datagrams of 1,000 (UDP_SEGMENT): \
                they come as four whole frames, or as one that is dropped and counted; the next datagram arrives.",
        why: "The first 1,514 bytes of a 4,000-byte frame look like a frame and are none.",
        needs: &[Need::Rig(Power::Host)],
        run: uncut_segments,
    },
];

/// An address for the host to send to, and a port that has it.
fn hosted(ctx: &Ctx, keys: &str) -> Verdict<(Side, Host)> {
    let b = ctx.start(End::B, keys)?;
    b.port().control().wait_link_up(crate::PATIENCE)?;
    let host = ctx.wires().host(End::A, b.mac())?;
    Ok((b, host))
}

fn socket(host: &Host) -> Verdict<UdpSocket> {
    let socket = UdpSocket::bind((host.address, 0))?;
    socket.connect((host.peer, 7777))?;
    Ok(socket)
}

/// The next frame of UDP or TCP that the host sent to the peer's port 7777: ARP and the like is not meant.
fn next_from_host(b: &mut Side, queue: &mut Vec<Vec<u8>>) -> Verdict<Vec<u8>> {
    loop {
        if queue.is_empty() {
            queue.extend(b.receive(1)?);
        }
        let frame = queue.remove(0);
        let (ip, l4) = (Headers::UDP.l3(), Headers::UDP.l4());
        let meant = frame[12..14] == [8, 0] && matches!(frame[ip + 9], 6 | 17);
        if meant && ip::get(&frame, l4 + 2) == 7777 {
            return Ok(frame);
        }
    }
}

/// The datagrams that arrive when the host sends some of each of these lengths.
fn datagrams(ctx: &Ctx, keys: &str) -> Verdict<Vec<Vec<u8>>> {
    let (mut b, host) = hosted(ctx, keys)?;
    let socket = socket(&host)?;
    let mut queue = Vec::new();
    let mut frames = Vec::new();
    for length in [18, 19, 20, 511, 512, 1000, 1001, 1471, 1472] {
        let payload: Vec<u8> = (0..length).map(|at| (at * 13) as u8).collect();
        socket.send(&payload)?;
        let frame = next_from_host(&mut b, &mut queue)?;
        same!(frame.len(), 42 + length, "the frame's length");
        ensure!(frame[42..] == payload, "the payload of {length} bytes was changed");
        frames.push(frame);
    }
    Ok(frames)
}

fn datagrams_are_right(ctx: &Ctx) -> Verdict {
    for frame in datagrams(ctx, "")? {
        same!(
            ip::right(&frame),
            Some(true),
            "whether the checksums of {} bytes are right",
            frame.len()
        );
    }
    Ok(())
}

/// A tag: its type, and what is in it.
type Tag = (u16, u16);

/// A frame without its outermost tag, and the tag.
fn untag(mut frame: Vec<u8>) -> (Option<Tag>, Vec<u8>) {
    let tpid = frames::tag(&frame);
    let tag = tpid.map(|tpid| (tpid, ip::get(&frame, 14)));
    if tag.is_some() {
        frame.drain(12..16);
    }
    (tag, frame)
}

/// The next datagram of the host's to the peer's port 7777, its tag, and the tag that was stripped from it.
fn next_tagged(b: &mut Side) -> Verdict<(Option<Tag>, Option<u16>, Vec<u8>)> {
    loop {
        let packet = b.receive_packet()?;
        let (tag, frame) = untag(bytes(&packet));
        let udp = frame[12..14] == [8, 0] && frame[Headers::UDP.l3() + 9] == 17;
        if udp && ip::get(&frame, Headers::UDP.l4() + 2) == 7777 {
            return Ok((tag, packet.vlan(), frame));
        }
    }
}

fn tags_are_in_the_frame(ctx: &Ctx) -> Verdict {
    let tags = [None, Some((0x8100, 7)), Some((0x88a8, 0x3001)), None, Some((0x8100, 0xefff))];
    for keys in ["", "vlan_strip=auto"] {
        let (mut b, host) = hosted(ctx, keys)?;
        let socket = socket(&host)?;
        for tag in tags {
            ctx.wires().tag_beside(End::A, tag)?;
            // One tag may come on top of the maximum, and only that of the first type.
            let most = if tag.is_some_and(|(tpid, _)| tpid != 0x8100) { 1468 } else { 1472 };
            for length in [18, 19, 700, most] {
                let payload: Vec<u8> = (0..length).map(|at| (at * 13) as u8).collect();
                socket.send(&payload)?;
                let (found, stripped, frame) = next_tagged(&mut b)?;
                let expected = match (tag, keys) {
                    (Some((0x8100, tci)), "vlan_strip=auto") => (None, Some(tci)),
                    (tag, _) => (tag, None),
                };
                same!(
                    (found, stripped),
                    expected,
                    "tag and stripped tag of {length} bytes ({keys})"
                );
                ensure!(
                    frame.len() == 42 + length && frame[42..] == payload,
                    "{length} bytes changed"
                );
                same!(ip::right(&frame), Some(true), "whether {length} bytes' checksums are right");
            }
        }
        ctx.wires().tag_beside(End::A, None)?;
        same!(b.counters().rx_too_long, Some(0), "frames counted as too long");
        b.close()?;
    }
    Ok(())
}

fn datagrams_are_unfinished(ctx: &Ctx) -> Verdict {
    for frame in datagrams(ctx, "finish_checksums=off")? {
        let field = ip::get(&frame, Headers::UDP.field());
        same!(field, Headers::UDP.pseudo(&frame), "the checksum field of {} bytes", frame.len());
    }
    Ok(())
}

/// A connection attempt that does not wait for its answer.
fn connecting(host: &Host) -> Verdict<TcpStream> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    // The host shall forget the connection with the stream. Otherwise it says goodbye again and again, for minutes, to
    // later cases whose ports have the same addresses.
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is as long as is said.
    let result = unsafe {
        let size = size_of_val(&linger) as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 7777u16.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(host.peer).to_be() },
        sin_zero: [0; 8],
    };
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as is said.
    let result = unsafe { libc::connect(fd, (&raw const address).cast(), size) };
    let error = std::io::Error::last_os_error();
    match (result, error.raw_os_error()) {
        (0, _) | (_, Some(libc::EINPROGRESS)) => Ok(stream),
        _ => Err(error.into()),
    }
}

/// The answer to a SYN.
fn syn_ack(from: MacAddr, syn: &[u8]) -> Verdict<Vec<u8>> {
    let (ip_at, tcp_at) = (Headers::TCP.l3(), Headers::TCP.l4());
    let four = |at: usize| <[u8; 4]>::try_from(&syn[at..at + 4]).map_err(|_| "four bytes");
    let sequence = u32::from_be_bytes(four(tcp_at + 4)?);
    let to = syn[6..12].try_into().map_err(|_| "six bytes")?;
    let builder = etherparse::PacketBuilder::ethernet2(from.0, to)
        .ipv4(four(ip_at + 16)?, four(ip_at + 12)?, 64)
        .tcp(ip::get(syn, tcp_at + 2), ip::get(syn, tcp_at), 1_000_000, 65_000)
        .syn()
        .ack(sequence.wrapping_add(1))
        // Otherwise the host cuts what it sends into pieces of 536 bytes.
        .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)])
        .map_err(|error| error.to_string())?;
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).map_err(|error| error.to_string())?;
    Ok(frame)
}

fn tcp_is_right(ctx: &Ctx) -> Verdict {
    let (mut b, host) = hosted(ctx, "")?;
    let mut stream = connecting(&host)?;
    let mut queue = Vec::new();
    let syn = next_from_host(&mut b, &mut queue)?;
    same!(ip::right(&syn), Some(true), "whether the SYN's checksums are right");
    let answer = syn_ack(b.mac(), &syn)?;
    b.send(&[answer])?;
    // The third packet of the handshake says that the host took the answer.
    loop {
        let ack = next_from_host(&mut b, &mut queue)?;
        same!(ip::right(&ack), Some(true), "whether the ACK's checksums are right");
        const SYN: u8 = 2;
        if ack[Headers::TCP.l4() + 13] & SYN == 0 {
            break;
        }
    }
    stream.set_nodelay(true)?;
    // Few enough bytes for the first window; nobody acknowledges them.
    for length in [1, 2, 701, 1000] {
        let payload: Vec<u8> = (0..length).map(|at| (at * 13 + 1) as u8).collect();
        eventually("the connection taking bytes", || match stream.write(&payload) {
            Ok(count) => Ok((count == payload.len()).then_some(())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        // An earlier segment may come again, if this takes long: nobody acknowledges.
        loop {
            let segment = next_from_host(&mut b, &mut queue)?;
            same!(ip::right(&segment), Some(true), "whether {length} bytes' checksums are right");
            if segment.ends_with(&payload) {
                break;
            }
        }
    }
    Ok(())
}

fn uncut_segments(ctx: &Ctx) -> Verdict {
    const UDP_SEGMENT: libc::c_int = 103;
    let (mut b, host) = hosted(ctx, "")?;
    let socket = socket(&host)?;
    let size: libc::c_int = 1000;
    let length = size_of_val(&size) as libc::socklen_t;
    let set = |size: libc::c_int| {
        // SAFETY: the value is as long as is said.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                UDP_SEGMENT,
                (&raw const size).cast(),
                length,
            )
        };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    set(size)?;
    let payload: Vec<u8> = (0..4000).map(|at| (at * 13) as u8).collect();
    socket.send(&payload)?;
    set(0)?;
    socket.send(b"the next datagram")?;
    let mut queue = Vec::new();
    let mut pieces = Vec::new();
    loop {
        let frame = next_from_host(&mut b, &mut queue)?;
        same!(ip::right(&frame), Some(true), "whether a frame of {} bytes is whole", frame.len());
        match &frame[42..] {
            rest if rest.starts_with(b"the next datagram") => break,
            rest => pieces.extend(rest.to_vec()),
        }
    }
    let outcome = (pieces.len(), b.counters().rx_too_long);
    ensure!(
        (outcome == (0, Some(1))) || (outcome == (4000, Some(0)) && pieces == payload),
        "bytes delivered and frames counted as too long: {outcome:?}, not one uncut frame and not four cut ones"
    );
    Ok(())
}
