//! A host of its own: answers ARP requests and pings for one IPv4 address, at the port's own MAC address.
//!
//! It shows how to change frames in place with a parser of your choice, and how a packet asks for a checksum: the port
//! is configured with `tx_checksum=auto`, so a device that can fills it in, and the common layer does it otherwise.
//!
//! ```text
//! cargo run --release -p anyport-examples --bin ping -- pcap:eth1 10.0.0.2
//! ```
//!
//! The host's own stack does not answer behind its back: a port is exclusive. Fragments are not put together, so only
//! pings that fit one frame are answered.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use anyport::config::Offload;
use anyport::packet::{Checksums, L4Checksum, TxRequests};
use anyport::{Burst, MacAddr, Packet, Pool, Port, Registry, Result, RxQueue, TxQueue, Wake};
use etherparse::{ArpOperation, Icmpv4Header, Icmpv4Type, NetSlice, SlicedPacket, TransportSlice};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (spec, ip) = arguments.next().zip(arguments.next()).context("usage: ping PORT ADDRESS")?;
    let ip = ip.parse().context("the address must be an IPv4 address")?;
    let pool = Pool::builder().build()?;
    let mut port = open(&anyport_backends::registry(), &spec, &pool)?;
    let mac = port.control().mac()?;
    let (rx, tx) = port.start()?.into_pair();
    anyport_examples::wake_on_ctrl_c([rx.waker()])?;
    println!("{ip} is at {mac}, on {}", port.title());
    let answered = respond(rx, tx, mac, ip)?;
    println!("{answered} requests answered");
    port.close()?;
    Ok(())
}

/// Opens a port that fills in checksums for packets that ask for it.
pub fn open(registry: &Registry, spec: &str, pool: &Pool) -> Result<Port> {
    let mut port = registry.open_with(spec, pool)?;
    let mut config = port.config();
    config.tx_checksum = Offload::Auto;
    port.configure(config)?;
    Ok(port)
}

/// Answers until the queue's waker is called, or its input has ended; how many answers were sent.
pub fn respond(mut rx: RxQueue, mut tx: TxQueue, mac: MacAddr, ip: Ipv4Addr) -> Result<u64> {
    let (mut burst, mut answered) = (Burst::new(), 0);
    loop {
        match rx.wait(Duration::from_secs(60))? {
            Wake::Ready => {}
            Wake::Waker | Wake::Ended => return Ok(answered),
            _ => continue,
        }
        rx.recv(&mut burst)?;
        // Requests become their own answers; everything else goes back to the pool.
        burst.retain(|packet| answer(packet, mac, ip).is_some());
        answered += tx.send(&mut burst)? as u64;
        burst.clear();
    }
}

/// What differs in an answer, but for the addresses of the Ethernet header.
enum Answer {
    /// The whole ARP packet.
    Arp([u8; 28]),
    /// Where the ICMP header starts, and its bytes.
    Echo(usize, [u8; 8]),
}

/// Makes a request the answer to it, in place; `None` for everything that is no request to this host.
fn answer(packet: &mut Packet, mac: MacAddr, own: Ipv4Addr) -> Option<()> {
    let answer = find_answer(packet.data(), mac, own)?;
    let frame = packet.data_mut();
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&mac.0);
    match answer {
        Answer::Arp(bytes) => frame[ETHERNET..][..28].copy_from_slice(&bytes),
        Answer::Echo(at, bytes) => {
            frame[at..][..8].copy_from_slice(&bytes);
            let (source, destination) = frame[ETHERNET + 12..][..8].split_at_mut(4);
            source.swap_with_slice(destination);
            frame[ETHERNET + 8] = 64; // its own time to live, which the header's checksum covers
            let checksums = Checksums { ipv4: true, l4: L4Checksum::None };
            packet.set_requests(TxRequests { checksums, ..TxRequests::default() });
        }
    }
    Some(())
}

fn find_answer(frame: &[u8], mac: MacAddr, own: Ipv4Addr) -> Option<Answer> {
    let request = SlicedPacket::from_ethernet(frame).ok()?;
    if !request.link_exts.is_empty() {
        return None; // a VLAN that this host is no member of
    }
    match (&request.net?, &request.transport) {
        (NetSlice::Arp(arp), _) => {
            let mut arp = arp.to_packet().try_eth_ipv4().ok()?;
            if arp.operation != ArpOperation::REQUEST || arp.target_ipv4 != own.octets() {
                return None;
            }
            arp.operation = ArpOperation::REPLY;
            (arp.target_mac, arp.target_ipv4) = (arp.sender_mac, arp.sender_ipv4);
            (arp.sender_mac, arp.sender_ipv4) = (mac.0, own.octets());
            Some(Answer::Arp(arp.to_bytes()))
        }
        (NetSlice::Ipv4(ip), Some(TransportSlice::Icmpv4(icmp))) => {
            let kind = icmp.icmp_type();
            let intact = kind.calc_checksum(icmp.payload()) == icmp.checksum();
            match kind {
                Icmpv4Type::EchoRequest(echo)
                    if intact && ip.header().destination_addr() == own =>
                {
                    let at = ETHERNET + ip.header().slice().len();
                    let reply =
                        Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(echo), icmp.payload());
                    Some(Answer::Echo(at, *reply.to_bytes().first_chunk()?))
                }
                _ => None,
            }
        }
        _ => None,
    }
}
