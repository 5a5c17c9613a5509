//! What the tool puts into frames and reads from them: no ports, no threads, only bytes and numbers.

pub mod clock;
pub mod describe;
pub mod frame;
pub mod latency;
pub mod stamp;
pub mod streams;
