//! Benchmarks: instructions and time per packet
