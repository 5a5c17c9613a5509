//! `pcap:IFACE`: a kernel network interface through libpcap, the path that works everywhere.

mod backend;
mod batch;
mod live;

pub use backend::Pcap;
