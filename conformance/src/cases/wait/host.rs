//! R13: whether the host's stack sees what a port has delivered.

use std::net::UdpSocket;

use anyport::MacAddr;

use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::frames::Flow;
use crate::ip::{self, Headers};
use crate::rig::Host;
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "host.does_not_answer_what_the_port_gets",
        clauses: &["R13"],
        about: "Sends a datagram to a closed UDP port, a SYN to a closed TCP port, a ping and an ARP request to a host \
                address behind an exclusive port: the port gets them all, and no answer comes.",
        why: "A host that answers as well resets the application's connections and calls its ports unreachable.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: does_not_answer,
    },
    Case {
        name: "host.answers_on_a_shared_port",
        clauses: &["R13"],
        about: "The same with shared=true: the port gets them all, and the host answers each.",
        why: "Watching an interface must not take it away; and it shows that the host of the case before would have \
              answered.",
        needs: &[Need::TwoWay, Need::Shared, Need::Rig(Power::Host)],
        run: answers_when_shared,
    },
    Case {
        name: "host.sockets_get_nothing_from_an_exclusive_port",
        clauses: &["R13"],
        about: "A UDP socket of the host's is bound to where datagrams go that an exclusive port gets.",
        why: "Traffic that is handled twice is answered twice.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: sockets_get_nothing,
    },
    Case {
        name: "host.sockets_get_all_from_a_shared_port",
        clauses: &["R13"],
        about: "The same with shared=true: both get each datagram, byte for byte.",
        why: "A sniffer that swallows what it sees is no sniffer.",
        needs: &[Need::TwoWay, Need::Shared, Need::Rig(Power::Host)],
        run: sockets_get_all,
    },
    Case {
        name: "host.answers_while_the_port_is_stopped",
        clauses: &["R13", "L4", "L8"],
        about: "Asks the host before an exclusive port at its interface is started, while it is, and after it was stopped, \
                twice over: the host answers whenever the port is stopped, and only then.",
        why: "A program that opens a port to read what it can do must not cut the machine off; nor one that pauses.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: answers_while_stopped,
    },
    Case {
        name: "host.has_its_interface_back_after_close",
        clauses: &["R13", "L8"],
        about: "An exclusive port is closed, and a datagram sent to the host: its socket gets it.",
        why: "A program that ends and leaves the interface dumb takes the machine off the network.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: back_after_close,
    },
];

/// A UDP port of the host's.
pub(super) const SOCKET: u16 = 4711;

/// Ports at both ends, the second with these keys, and a host behind the second that believes the first to be its peer.
pub(super) fn hosted(ctx: &Ctx, keys: &str) -> Verdict<(Side, Side, Host)> {
    let (a, b) = ctx.pair_with("", keys)?;
    let host = ctx.wires().host(End::B, a.mac())?;
    Ok((a, b, host))
}

pub(super) fn flow(host: &Host, to_port: u16) -> Flow {
    Flow { from: host.peer.octets(), to: host.address.octets(), from_port: 5555, to_port }
}

/// What any host would answer: each to something that is not there, or to everybody.
pub(super) fn provocations(host: &Host, to: MacAddr) -> Vec<Vec<u8>> {
    let udp = Headers::UDP.frame(to, flow(host, 9), b"is anybody there");
    let mut syn = Headers::TCP.frame(to, flow(host, 9), b"");
    let flags = Headers::TCP.l4() + 13;
    // SYN, one bit more than before: the checksum one-complement less.
    syn[flags] |= 2;
    let field = Headers::TCP.field();
    let less = u32::from(ip::get(&syn, field)) + 0xffff - 2;
    ip::put(&mut syn, field, (less % 0xffff) as u16);
    let mut ping = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(frames::STRANGER.0, to.0)
        .ipv4(host.peer.octets(), host.address.octets(), 64)
        .icmpv4_echo_request(7, 1);
    // Writing into a vector cannot fail.
    let _ = builder.write(&mut ping, b"ping");
    [udp, syn, ping, arp_request(host)].map(frames::padded).into()
}

fn arp_request(host: &Host) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &frames::STRANGER.0[..], &[8, 6]].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(frames::STRANGER.0);
    frame.extend(host.peer.octets());
    frame.extend([0; 6]);
    frame.extend(host.address.octets());
    frame
}

/// What a host sent, in a word.
pub(super) fn kind(frame: &[u8]) -> &'static str {
    match (&frame[12..14], frame[Headers::UDP.l3() + 9], frame[Headers::UDP.l4()]) {
        ([8, 6], ..) => "an ARP answer",
        ([8, 0], 1, 3) => "ICMP unreachable",
        ([8, 0], 1, 0) => "an ICMP echo reply",
        ([8, 0], 6, _) if frame[Headers::TCP.l4() + 13] & 4 != 0 => "a TCP reset",
        _ => "something else",
    }
}

/// Sends what a host would answer; what the port at the host got, and what the sender heard.
fn provoke(ctx: &Ctx, keys: &str) -> Verdict<[Vec<Vec<u8>>; 3]> {
    let (mut a, mut b, host) = hosted(ctx, keys)?;
    // The answers go to the host's idea of its peer, or to who asked.
    a.port().control().set_promiscuous(true)?;
    let sent = provocations(&host, b.mac());
    let got = a.pass_to(&mut b, &sent)?;
    let mut heard = Vec::new();
    b.mark(&mut a, &mut heard)?;
    Ok([sent, got, heard])
}

fn does_not_answer(ctx: &Ctx) -> Verdict {
    let [sent, got, heard] = provoke(ctx, "")?;
    ensure!(got == sent, "the port got {} of {} frames", got.len(), sent.len());
    let heard: Vec<_> = heard.iter().map(|frame| kind(frame)).collect();
    ensure!(heard.is_empty(), "the host behind an exclusive port sent {heard:?}");
    Ok(())
}

fn answers_when_shared(ctx: &Ctx) -> Verdict {
    let [sent, got, heard] = provoke(ctx, "shared=true")?;
    ensure!(got == sent, "the port got {} of {} frames", got.len(), sent.len());
    let mut heard: Vec<_> = heard.iter().map(|frame| kind(frame)).collect();
    heard.sort_unstable();
    let all = ["ICMP unreachable", "a TCP reset", "an ARP answer", "an ICMP echo reply"];
    same!(heard, all, "what the host answered");
    Ok(())
}

/// Sends ten datagrams to a socket of the host's, which must get so many of them.
fn to_a_socket(ctx: &Ctx, keys: &str, expected: usize) -> Verdict {
    let (mut a, mut b, host) = hosted(ctx, keys)?;
    let socket = UdpSocket::bind((host.address, SOCKET))?;
    let payloads: Vec<Vec<u8>> = (0..10u8).map(|number| vec![number; 30]).collect();
    let datagram = |payload: &Vec<u8>| Headers::UDP.frame(b.mac(), flow(&host, SOCKET), payload);
    let sent: Vec<_> = payloads.iter().map(datagram).collect();
    let got = a.pass_to(&mut b, &sent)?;
    ensure!(got == sent, "the port got {} of {} datagrams", got.len(), sent.len());
    let received = received(&socket, expected)?;
    ensure!(received == payloads[..expected], "the socket got {} datagrams", received.len());
    Ok(())
}

/// What a socket has received: so many are waited for, more must not be there.
pub(super) fn received(socket: &UdpSocket, expected: usize) -> Verdict<Vec<Vec<u8>>> {
    socket.set_read_timeout(Some(crate::PATIENCE))?;
    let mut all = Vec::new();
    let mut buffer = [0; 2000];
    loop {
        socket.set_nonblocking(all.len() >= expected)?;
        match socket.recv(&mut buffer) {
            Ok(length) => all.push(buffer[..length].to_vec()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(all),
            Err(error) => return Err(error.into()),
        }
    }
}

fn sockets_get_nothing(ctx: &Ctx) -> Verdict {
    to_a_socket(ctx, "", 0)
}

fn sockets_get_all(ctx: &Ctx) -> Verdict {
    to_a_socket(ctx, "shared=true", 10)
}

fn back_after_close(ctx: &Ctx) -> Verdict {
    let (mut a, b, host) = hosted(ctx, "")?;
    let socket = UdpSocket::bind((host.address, SOCKET))?;
    socket.set_read_timeout(Some(crate::PATIENCE))?;
    let to = b.mac();
    b.close()?;
    a.send(&[Headers::UDP.frame(to, flow(&host, SOCKET), b"welcome back")])?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    same!(&buffer[..length], b"welcome back", "what the host's socket got");
    Ok(())
}

fn answers_while_stopped(ctx: &Ctx) -> Verdict {
    let mut a = ctx.start(End::A, "")?;
    a.port().control().set_promiscuous(true)?;
    let pool = ctx.pool(1024)?;
    let mut port = ctx.open(End::B, "")?;
    port.attach(&pool)?;
    let to = port.control().mac()?;
    let host = ctx.wires().host(End::B, a.mac())?;
    let sent = provocations(&host, to);
    let answers = |a: &mut Side| -> Verdict<Vec<&str>> {
        a.send(&sent)?;
        let heard = a.receive(sent.len())?;
        let mut kinds: Vec<_> = heard.iter().map(|frame| kind(frame)).collect();
        kinds.sort_unstable();
        Ok(kinds)
    };
    let all = ["ICMP unreachable", "a TCP reset", "an ARP answer", "an ICMP echo reply"];
    same!(answers(&mut a)?, all, "what the host answered before the first start");
    let mut b = Side::start(port, pool)?;
    ctx.settle(&a, &b)?;
    for round in 0..2 {
        ensure!(a.pass_to(&mut b, &sent)? == sent, "round {round}: the port missed a frame");
        let mut heard = Vec::new();
        b.mark(&mut a, &mut heard)?;
        same!(heard.len(), 0, "answers while the port is started, round {round}");
        b.port_mut().stop()?;
        same!(answers(&mut a)?, all, "what the host answered after stop, round {round}");
        b.restart()?;
    }
    Ok(())
}
