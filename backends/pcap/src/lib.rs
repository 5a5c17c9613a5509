//! `pcap:IFACE`: a kernel network interface through libpcap, the path that works everywhere.

mod interface;
mod live;
mod socket;

pub use live::Pcap;
