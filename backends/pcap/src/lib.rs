//! `pcap:IFACE`: a kernel network interface through libpcap, the path that works everywhere; and
//! `pcap:in=FILE,out=FILE`: capture files as ports.

mod backend;
mod batch;
mod live;
mod savefile;

pub use backend::Pcap;
