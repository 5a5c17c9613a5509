//! Reading and writing pcap and pcapng files, packet by packet
