//! `to_kernel=arp,tcp:22`: what stays with the host's stack although a port is exclusive (contract R13).
//!
//! | word | frames |
//! |---|---|
//! | `arp` | ARP |
//! | `ip`, `ip6` | everything of IPv4, of IPv6 |
//! | `icmp`, `igmp` | ICMP, IGMP over IPv4 |
//! | `icmp6` | ICMPv6 (neighbour discovery, too: IPv6 needs it as IPv4 needs `arp`) |
//! | `tcp`, `udp`, `sctp` | that protocol over IPv4 and IPv6 |
//! | `tcp:PORT`, `udp:PORT`, `sctp:PORT` | the same with that port, as source or as destination |
//! | `proto:NUMBER` | an IP protocol by its number: `proto:112` is VRRP |
//! | `lldp` | LLDP |
//! | `ether:0xNUMBER` | an EtherType: `ether:0x88f7` is PTP |
//!
//! What is named goes to the host's stack and not to the port; everything else goes to the port and not to the stack. So a
//! frame has one owner, and nobody answers twice.
//!
//! - Up to two VLAN tags (802.1Q, 802.1ad) are looked behind; the words hold whatever the tag.
//! - IPv6 extension headers are looked behind, up to eight.
//! - A fragmented datagram has its ports in one fragment only. So that all its fragments go the same way, it is judged by its
//!   protocol alone: a word with a port never names it, `udp` or `ip` do.
//! - A header that is cut short, or that no stack would accept, is not named by words that would have to look into it:
//!   such a frame goes to the port.
//! - With `shared=true` everything goes to both, and the words are only checked.

use std::io;

use anyport::{Error, MacAddr, Result};

use crate::bpf::asm::{Assembler, Cond, Label, Op, Reg, Width};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IPv6 extension headers that are looked behind.
const EXTENSION_HEADERS: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// The most words that are taken: a program has its limits, too.
const MOST: usize = 256;

/// What is accepted, for errors.
const ACCEPTED: &str = "accepted are arp, ip, ip6, icmp, icmp6, igmp, tcp, udp, sctp, tcp:PORT, udp:PORT, sctp:PORT, \
                        proto:NUMBER, lldp, ether:0xNUMBER";

/// One word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    EtherType(u16),
    /// An IP protocol, over either or over one version (4, 6).
    Protocol(u8, Option<u8>),
    Port(u8, u16),
}

/// The frames that stay with the host's stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToKernel {
    rules: Vec<Rule>,
}

/// Whose a frame is: where the program that tells goes on.
#[derive(Debug, Clone, Copy)]
pub struct Owners {
    /// The host's stack.
    pub kernel: Label,
    /// The port.
    pub port: Label,
}

/// The kernel's helper by which a program reads bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum LoadBytes {
    /// `bpf_skb_load_bytes`: socket filters and tc programs.
    Skb = 26,
    /// `bpf_xdp_load_bytes` (Linux 5.18).
    Xdp = 189,
}

impl ToKernel {
    /// Reads the words; `context` is how errors call the port.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] with the first word that is not accepted, and all that are.
    pub fn parse(context: &str, words: &[String]) -> Result<ToKernel> {
        let refuse = |value: &str, expected: &str| Error::InvalidValue {
            context: context.into(),
            key: "to_kernel".into(),
            value: value.into(),
            expected: expected.into(),
        };
        if words.len() > MOST {
            return Err(refuse(&words.join(","), &format!("at most {MOST} words are accepted")));
        }
        let mut rules = Vec::new();
        for word in words {
            let rule = rule(word).map_err(|why| {
                let why =
                    if why.is_empty() { ACCEPTED.into() } else { format!("{why}; {ACCEPTED}") };
                refuse(word, &why)
            })?;
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        Ok(ToKernel { rules })
    }

    /// Whether nothing stays with the host's stack.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The program for an interface's ingress: the kernel's frames go on to whatever else is attached there and then to the
    /// stack, the others end here.
    ///
    /// # Errors
    /// `E2BIG` if there are so many words that a jump would be too long.
    pub fn tcx_program(&self) -> io::Result<Vec<u64>> {
        const NEXT: i32 = -1;
        const DROP: i32 = 2;
        let mut a = Assembler::new();
        // The verifier refuses what can never be reached.
        if self.is_empty() {
            a.exit(DROP);
            return assemble(a);
        }
        let owners = Owners { kernel: a.label(), port: a.label() };
        a.op_reg(Op::Mov, Reg::R6, Reg::R1);
        self.classify(&mut a, LoadBytes::Skb, owners);
        a.place(owners.port).exit(DROP).place(owners.kernel).exit(NEXT);
        assemble(a)
    }

    /// The filter for a packet socket: the first `snap` bytes of frames that are this port's by address (contract R6) and
    /// not the kernel's.
    ///
    /// # Errors
    /// `E2BIG` if there are so many words that a jump would be too long.
    pub fn socket_program(
        &self,
        own: MacAddr,
        promiscuous: bool,
        snap: u32,
    ) -> io::Result<Vec<u64>> {
        let mut a = Assembler::new();
        if promiscuous && self.is_empty() {
            a.exit(snap as i32);
            return assemble(a);
        }
        let owners = Owners { kernel: a.label(), port: a.label() };
        a.op_reg(Op::Mov, Reg::R6, Reg::R1);
        if !promiscuous {
            let ours = a.label();
            let [a0, a1, a2, a3, a4, a5] = own.0;
            load_bytes(&mut a, LoadBytes::Skb, None, 0, 6, owners.kernel);
            a.load(Width::Byte, Reg::R8, Reg::R10, BUFFER);
            a.jump_if(Cond::Set, Reg::R8, 1, ours);
            a.load(Width::Word, Reg::R8, Reg::R10, BUFFER);
            a.jump_if(Cond::Ne, Reg::R8, u32::from_ne_bytes([a0, a1, a2, a3]), owners.kernel);
            a.load(Width::Half, Reg::R8, Reg::R10, BUFFER + 4);
            a.jump_if(Cond::Ne, Reg::R8, half([a4, a5]), owners.kernel);
            a.place(ours);
        }
        self.classify(&mut a, LoadBytes::Skb, owners);
        a.place(owners.port).exit(snap as i32).place(owners.kernel).exit(0);
        assemble(a)
    }

    /// Appends the part that tells whose a frame is: for programs of any kind that have their context in `R6` and read
    /// frames by `load`, with offset 0 at the Ethernet header. It uses all other registers and 16 bytes of the stack, and
    /// leaves by one of the labels, which the caller places behind it. If nothing is named, it leaves for the port only.
    pub fn classify(&self, a: &mut Assembler, load: LoadBytes, owners: Owners) {
        if self.is_empty() {
            a.jump(owners.port);
            return;
        }
        let Owners { kernel, port } = owners;
        // R7 is the offset in the frame, R8 the EtherType and later the protocol, R9 whether it is a fragment.
        let get = |a: &mut Assembler, at: i32, bytes: i32| {
            load_bytes(a, load, Some(Reg::R7), at, bytes, port);
        };
        a.op(Op::Mov, Reg::R7, 12).op(Op::Mov, Reg::R9, 0);
        let network = a.label();
        for tags in 0..=2 {
            get(a, 0, 2);
            a.load(Width::Half, Reg::R8, Reg::R10, BUFFER);
            if tags < 2 {
                let tag = a.label();
                a.jump_if(Cond::Eq, Reg::R8, half(ETHERTYPE_VLAN.to_be_bytes()), tag);
                a.jump_if(Cond::Ne, Reg::R8, half(ETHERTYPE_QINQ.to_be_bytes()), network);
                a.place(tag).op(Op::Add, Reg::R7, 4);
            }
        }
        a.place(network).op(Op::Add, Reg::R7, 2);
        for rule in &self.rules {
            if let Rule::EtherType(number) = rule {
                a.jump_if(Cond::Eq, Reg::R8, half(number.to_be_bytes()), kernel);
            }
        }
        let (transport, ipv4, ipv6) = (a.label(), a.label(), a.label());
        a.jump_if(Cond::Eq, Reg::R8, half(ETHERTYPE_IPV4.to_be_bytes()), ipv4);
        a.jump_if(Cond::Eq, Reg::R8, half(ETHERTYPE_IPV6.to_be_bytes()), ipv6);
        a.jump(port);

        a.place(ipv4);
        get(a, 0, 10);
        let whole = a.label();
        a.load(Width::Half, Reg::R9, Reg::R10, BUFFER + 6);
        // More fragments, or not the first: 1 in R9, else 0.
        a.op(Op::And, Reg::R9, half([0x3f, 0xff]) as i32);
        a.jump_if(Cond::Eq, Reg::R9, 0, whole).op(Op::Mov, Reg::R9, 1).place(whole);
        a.load(Width::Byte, Reg::R8, Reg::R10, BUFFER);
        // The version must be 4, and the header at least five words.
        a.jump_if(Cond::Lt, Reg::R8, 0x45, port);
        a.op_reg(Op::Mov, Reg::R0, Reg::R8).op(Op::And, Reg::R0, 0xf0);
        a.jump_if(Cond::Ne, Reg::R0, 0x40, port);
        a.op(Op::And, Reg::R8, 0x0f).op(Op::Shl, Reg::R8, 2).op_reg(Op::Add, Reg::R7, Reg::R8);
        a.load(Width::Byte, Reg::R8, Reg::R10, BUFFER + 9);
        self.protocols(a, 4, kernel);
        a.jump(transport);

        a.place(ipv6);
        get(a, 0, 7);
        a.load(Width::Byte, Reg::R0, Reg::R10, BUFFER).op(Op::And, Reg::R0, 0xf0);
        a.jump_if(Cond::Ne, Reg::R0, 0x60, port);
        a.load(Width::Byte, Reg::R8, Reg::R10, BUFFER + 6).op(Op::Add, Reg::R7, 40);
        let upper = a.label();
        for _ in 0..EXTENSION_HEADERS {
            let (options, authentication, next) = (a.label(), a.label(), a.label());
            for header in [HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY] {
                a.jump_if(Cond::Eq, Reg::R8, u32::from(header), options);
            }
            a.jump_if(Cond::Eq, Reg::R8, u32::from(AUTHENTICATION), authentication);
            a.jump_if(Cond::Ne, Reg::R8, u32::from(FRAGMENT), upper);
            get(a, 0, 4);
            a.op(Op::Add, Reg::R7, 8).load(Width::Byte, Reg::R8, Reg::R10, BUFFER);
            a.load(Width::Half, Reg::R9, Reg::R10, BUFFER + 2);
            // All fragments have this next header in common, so nothing behind it is looked at.
            a.op(Op::And, Reg::R9, half([0xff, 0xf9]) as i32);
            a.jump_if(Cond::Ne, Reg::R9, 0, upper).jump(next);
            // Lengths in eight bytes, less the first eight; in four bytes, less the first eight.
            for (label, shift) in [(options, 3), (authentication, 2)] {
                a.place(label);
                get(a, 0, 2);
                a.load(Width::Byte, Reg::R8, Reg::R10, BUFFER + 1).op(Op::Shl, Reg::R8, shift);
                a.op(Op::Add, Reg::R8, 8).op_reg(Op::Add, Reg::R7, Reg::R8);
                a.load(Width::Byte, Reg::R8, Reg::R10, BUFFER).jump(next);
            }
            a.place(next);
        }
        a.place(upper);
        self.protocols(a, 6, kernel);

        a.place(transport);
        a.jump_if(Cond::Ne, Reg::R9, 0, port);
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_SCTP] {
            let ports: Vec<u16> = self.ports(protocol as u8).collect();
            if ports.is_empty() {
                continue;
            }
            let other = a.label();
            a.jump_if(Cond::Ne, Reg::R8, protocol as u32, other);
            get(a, 0, 4);
            for at in [0, 2] {
                a.load(Width::Half, Reg::R0, Reg::R10, BUFFER + at);
                for number in &ports {
                    a.jump_if(Cond::Eq, Reg::R0, half(number.to_be_bytes()), kernel);
                }
            }
            a.jump(port).place(other);
        }
        a.jump(port);
    }

    /// Jumps for the protocol in R8.
    fn protocols(&self, a: &mut Assembler, version: u8, kernel: Label) {
        for rule in &self.rules {
            match rule {
                Rule::Protocol(number, only) if only.is_none_or(|only| only == version) => {
                    a.jump_if(Cond::Eq, Reg::R8, u32::from(*number), kernel);
                }
                _ => {}
            }
        }
    }

    fn ports(&self, wanted: u8) -> impl Iterator<Item = u16> {
        self.rules.iter().filter_map(move |rule| match rule {
            Rule::Port(protocol, port) if *protocol == wanted => Some(*port),
            _ => None,
        })
    }
}

/// Where bytes of the frame are read to, from the stack's end.
const BUFFER: i16 = -16;

/// Two bytes in network order, as a load in the processor's order sees them.
fn half(bytes: [u8; 2]) -> u32 {
    u32::from(u16::from_ne_bytes(bytes))
}

/// Reads bytes of the frame to the buffer, or jumps to `short` if there are not so many.
fn load_bytes(
    a: &mut Assembler,
    load: LoadBytes,
    base: Option<Reg>,
    at: i32,
    bytes: i32,
    short: Label,
) {
    a.op_reg(Op::Mov, Reg::R1, Reg::R6);
    match base {
        Some(base) => a.op_reg(Op::Mov, Reg::R2, base).op(Op::Add, Reg::R2, at),
        None => a.op(Op::Mov, Reg::R2, at),
    };
    a.op_reg(Op::Mov, Reg::R3, Reg::R10).op(Op::Add, Reg::R3, i32::from(BUFFER));
    a.op(Op::Mov, Reg::R4, bytes).call(load as i32);
    a.jump_if(Cond::Ne, Reg::R0, 0, short);
}

/// The finished program.
///
/// # Errors
/// `E2BIG` if there are so many words that a jump would be too long.
fn assemble(a: Assembler) -> io::Result<Vec<u64>> {
    a.finish().ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))
}

/// One word; why not, or nothing more than that it is unknown.
fn rule(word: &str) -> Result<Rule, &'static str> {
    let protocol = |number: libc::c_int| number as u8;
    let (tcp, udp, sctp) =
        (protocol(libc::IPPROTO_TCP), protocol(libc::IPPROTO_UDP), protocol(libc::IPPROTO_SCTP));
    let port = |number: &str| match number.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("a port is a number from 1 to 65535"),
    };
    Ok(match word.split_once(':') {
        None => match word {
            "arp" => Rule::EtherType(0x0806),
            "ip" => Rule::EtherType(ETHERTYPE_IPV4),
            "ip6" => Rule::EtherType(ETHERTYPE_IPV6),
            "lldp" => Rule::EtherType(0x88cc),
            "icmp" => Rule::Protocol(protocol(libc::IPPROTO_ICMP), Some(4)),
            "igmp" => Rule::Protocol(protocol(libc::IPPROTO_IGMP), Some(4)),
            "icmp6" => Rule::Protocol(protocol(libc::IPPROTO_ICMPV6), Some(6)),
            "tcp" => Rule::Protocol(tcp, None),
            "udp" => Rule::Protocol(udp, None),
            "sctp" => Rule::Protocol(sctp, None),
            _ => return Err(""),
        },
        Some(("tcp", number)) => Rule::Port(tcp, port(number)?),
        Some(("udp", number)) => Rule::Port(udp, port(number)?),
        Some(("sctp", number)) => Rule::Port(sctp, port(number)?),
        Some(("proto", number)) => match number.parse::<u8>() {
            Ok(HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY) => {
                return Err("an IPv6 extension header is looked behind; name the protocol");
            }
            Ok(number) => Rule::Protocol(number, None),
            Err(_) => return Err("an IP protocol is a number from 1 to 255"),
        },
        Some(("ether", number)) => {
            let hex = number.strip_prefix("0x").and_then(|hex| u16::from_str_radix(hex, 16).ok());
            match hex {
                Some(ETHERTYPE_VLAN | ETHERTYPE_QINQ) => {
                    return Err("VLAN tags are looked behind; name what is inside");
                }
                Some(number @ 0x0600..) => Rule::EtherType(number),
                _ => return Err("an EtherType is a number from 0x0600 to 0xffff"),
            }
        }
        Some(_) => return Err(""),
    })
}

#[cfg(test)]
mod tests;
