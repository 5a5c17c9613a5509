//! R13: what stays with the host although a port is exclusive, and which interfaces are not taken unasked.

use std::net::UdpSocket;

use anyport::Error;

use super::host::{SOCKET, flow, hosted, kind, provocations, received};
use crate::case::{Case, Need, Power, Verdict};
use crate::ctx::{Ctx, End};
use crate::ip::{self, Headers};
use crate::side::Side;
use crate::{ensure, refused, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "host.what_is_named_stays_with_it",
        clauses: &["R13"],
        about: "With to_kernel= in 13 variants, sends a datagram, a SYN, a ping and an ARP request to a host behind the port: \
                each is answered by the host or delivered by the port, as is named, and never both or neither.",
        why: "Who takes an interface over a remote login wants to keep ARP and SSH, and nothing to be answered twice.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: named_stays,
    },
    Case {
        name: "host.sockets_get_what_is_named",
        clauses: &["R13"],
        about: "Datagrams to a named UDP port go to the host's socket, each once and whole, and not to the port; those to \
                other ports the other way round.",
        why: "A name server and a packet application can share an interface if each gets its own.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: sockets_get_named,
    },
    Case {
        name: "host.fragments_have_one_owner",
        clauses: &["R13"],
        about: "The fragments of a datagram to a named UDP port all go to the port, since only the first has a UDP header; with \
                all of UDP named they all stay with the host.",
        why: "A datagram whose fragments are dealt out arrives nowhere.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: fragments_have_one_owner,
    },
    Case {
        name: "host.names_that_are_none_are_refused",
        clauses: &["R13", "L1"],
        about: "Opens the port with to_kernel= and words that it does not know: an error with the word and what is accepted.",
        why: "A mistyped `tpc:22` must not cut off the login that it was to keep.",
        needs: &[Need::Exclusive, Need::Rig(Power::Host)],
        run: bad_names,
    },
    Case {
        name: "host.default_route_is_not_taken_unasked",
        clauses: &["R13"],
        about: "Opens an interface that carries the host's default route: refused, with a text that says so and how to go \
                on; with takeover=true it opens, and with shared=true, where there is that.",
        why: "An application that is started on the wrong interface takes the machine off the network.",
        needs: &[Need::TwoWay, Need::Exclusive, Need::Rig(Power::Host)],
        run: default_route,
    },
];

/// What is named, and which of datagram, SYN, ping and ARP request stay with the host.
const NAMED: [(&str, [bool; 4]); 13] = [
    ("arp", [false, false, false, true]),
    ("icmp", [false, false, true, false]),
    ("tcp", [false, true, false, false]),
    ("udp", [true, false, false, false]),
    ("ip", [true, true, true, false]),
    ("ip6", [false; 4]),
    ("udp:9", [true, false, false, false]),
    ("tcp:9", [false, true, false, false]),
    // The source port; other ports.
    ("udp:5555", [true, false, false, false]),
    ("udp:10,tcp:8,sctp:9", [false; 4]),
    ("proto:1", [false, false, true, false]),
    ("ether:0x0806", [false, false, false, true]),
    ("arp,udp:9,icmp", [true, false, true, true]),
];

/// What a host answers to each of them.
const ANSWERS: [&str; 4] =
    ["ICMP unreachable", "a TCP reset", "an ICMP echo reply", "an ARP answer"];

fn named_stays(ctx: &Ctx) -> Verdict {
    let (mut a, b, host) = hosted(ctx, "")?;
    a.port().control().set_promiscuous(true)?;
    b.close()?;
    for (words, stays) in NAMED {
        let mut b = ctx.start(End::B, &format!("to_kernel={words}"))?;
        ctx.settle(&a, &b)?;
        let sent = provocations(&host, b.mac());
        let got = a.pass_to(&mut b, &sent)?;
        let mut heard = Vec::new();
        b.mark(&mut a, &mut heard)?;
        let mut heard: Vec<&str> = heard.iter().map(|frame| kind(frame)).collect();
        let mut answers: Vec<&str> = ANSWERS
            .iter()
            .zip(stays)
            .filter(|(_, stays)| *stays)
            .map(|(answer, _)| *answer)
            .collect();
        heard.sort_unstable();
        answers.sort_unstable();
        same!(heard, answers, "what the host answered with to_kernel={words}");
        let rest: Vec<_> = sent
            .into_iter()
            .zip(stays)
            .filter(|(_, stays)| !stays)
            .map(|(frame, _)| frame)
            .collect();
        same!(got, rest, "what the port got with to_kernel={words}");
        same!(b.counters().rx_dropped(), 0, "drops with to_kernel={words}");
        b.close()?;
    }
    Ok(())
}

fn sockets_get_named(ctx: &Ctx) -> Verdict {
    let (mut a, mut b, host) = hosted(ctx, &format!("to_kernel={SOCKET_WORD}"))?;
    let named = UdpSocket::bind((host.address, SOCKET))?;
    let other = UdpSocket::bind((host.address, SOCKET + 1))?;
    let payloads: Vec<Vec<u8>> = (0..10u8).map(|number| vec![number; 30]).collect();
    let datagrams = |port| -> Vec<Vec<u8>> {
        payloads
            .iter()
            .map(|payload| Headers::UDP.frame(b.mac(), flow(&host, port), payload))
            .collect()
    };
    let (to_named, to_other) = (datagrams(SOCKET), datagrams(SOCKET + 1));
    let sent: Vec<_> =
        to_named.into_iter().zip(to_other.clone()).flat_map(|(one, other)| [one, other]).collect();
    same!(a.pass_to(&mut b, &sent)?, to_other, "what the port got");
    same!(received(&named, 10)?, payloads, "what the socket of the named port got");
    same!(received(&other, 0)?.len(), 0, "what the socket of the other port got");
    Ok(())
}

/// The word for [`SOCKET`].
const SOCKET_WORD: &str = "udp:4711";

fn fragments_have_one_owner(ctx: &Ctx) -> Verdict {
    let (mut a, b, host) = hosted(ctx, "")?;
    b.close()?;
    for (words, at_port) in [(SOCKET_WORD, true), ("udp", false), ("ip", false), ("tcp", true)] {
        let mut b = ctx.start(End::B, &format!("to_kernel={words}"))?;
        ctx.settle(&a, &b)?;
        let whole = Headers::UDP.frame(b.mac(), flow(&host, SOCKET), &[7; 400]);
        let fragments = fragments(&whole);
        let expected = if at_port { fragments.clone() } else { Vec::new() };
        same!(a.pass_to(&mut b, &fragments)?, expected, "fragments at the port, to_kernel={words}");
    }
    Ok(())
}

/// A datagram in two fragments, the second with bytes where a UDP header would have the named port.
fn fragments(whole: &[u8]) -> Vec<Vec<u8>> {
    let (l3, l4) = (Headers::UDP.l3(), Headers::UDP.l4());
    let part = |range: std::ops::Range<usize>, field: u16| {
        let mut frame = [&whole[..l4], &whole[range]].concat();
        let length = (frame.len() - l3) as u16;
        ip::put(&mut frame, l3 + 2, length);
        ip::put(&mut frame, l3 + 6, field);
        ip::put(&mut frame, l3 + 10, 0);
        let sum = ip::sum(&frame[l3..l4]);
        ip::put(&mut frame, l3 + 10, !sum);
        frame
    };
    const MORE: u16 = 0x2000;
    let mut second = part(l4 + 200..whole.len(), 200 / 8);
    ip::put(&mut second, l4 + 2, SOCKET);
    vec![part(l4..l4 + 200, MORE), second]
}

fn bad_names(ctx: &Ctx) -> Verdict {
    for bad in
        ["tpc:22", "tcp:70000", "tcp:", "udp:0x16", "proto:256", "ether:88f7", "arp,nonsense"]
    {
        let word = bad.rsplit(',').next().unwrap_or(bad);
        match ctx.open(End::B, &format!("to_kernel={bad}")) {
            Err(Error::InvalidValue { key, value, expected, .. }) => {
                same!((key.as_str(), value.as_str()), ("to_kernel", word), "what the error names");
                ensure!(expected.contains("tcp:PORT"), "the error does not list: {expected}");
            }
            other => return Err(format!("to_kernel={bad}: {:?}", other.map(drop)).into()),
        }
    }
    // Nothing was left open.
    Ok(ctx.open(End::B, "to_kernel=arp,tcp:22")?.close()?)
}

fn passes(a: &mut Side, b: &mut Side) -> Verdict {
    let sent = crate::frames::run(b.mac(), 10, 60);
    same!(a.pass_to(b, &sent)?, sent, "what arrived");
    Ok(())
}

fn default_route(ctx: &Ctx) -> Verdict {
    let mut a = ctx.start(End::A, "")?;
    ctx.wires().host(End::B, a.mac())?;
    ctx.open(End::B, "")?.close()?;
    ctx.wires().default_route(End::B)?;
    let shared = ctx.capability(End::B).shared;
    for keys in ["", "to_kernel=arp"] {
        let error = match ctx.open(End::B, keys) {
            Err(error @ Error::NeedsTakeover { .. }) => error.to_string(),
            other => return Err(format!("instead of a refusal: {:?}", other.map(drop)).into()),
        };
        for (word, meant) in
            [("default route", true), ("takeover=true", true), ("shared=true", shared)]
        {
            same!(error.contains(word), meant, "whether the error says `{word}`: {error}");
        }
    }
    for keys in ["takeover=true", "shared=true"].into_iter().take(1 + usize::from(shared)) {
        let mut b = ctx.start(End::B, keys)?;
        ctx.settle(&a, &b)?;
        passes(&mut a, &mut b)?;
        b.close()?;
    }
    // Nothing was taken meanwhile.
    refused!(ctx.open(End::B, ""), Error::NeedsTakeover { .. }, "opening it once more");
    Ok(())
}
