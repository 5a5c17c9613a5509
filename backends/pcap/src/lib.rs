//! The kernel path through libpcap, and capture files as ports
