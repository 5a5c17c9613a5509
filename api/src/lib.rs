//! Vendor-neutral packet I/O: one API, backends chosen at run time, one contract.
//!
//! An application opens [`Port`]s through a [`Registry`]; a spec such as `pcap:eth0` or `loop:a.0` says what is
//! underneath. Frames live in a [`Pool`], are held as owned [`Packet`]s, and move in [`Burst`]s:
//!
//! ```text
//!  device ring ──► RxQueue::recv(&mut burst) ──► application ──► TxQueue::send(&mut burst) ──► device ring ──► pool
//! ```
//!
//! Every port keeps the same contract, whatever is under it: this crate's common layer enforces it once, above
//! the small [`driver`] interface that backends implement. "Contract R6" and the like in this documentation
//! cite its clauses.
//!
//! The library prints nothing, never exits the process, and starts no thread (one key, `capture=FILE`, starts
//! one to write the file).

pub mod burst;
pub mod capability;
pub mod capture;
pub mod config;
pub mod counters;
pub mod driver;
pub mod error;
pub mod mac;
pub mod offload;
pub mod packet;
pub mod pool;
pub mod port;
pub mod queue;
pub mod registry;
pub mod time;
pub mod wait;
pub mod workers;

pub use burst::Burst;
pub use capability::Capability;
pub use config::{PortConfig, Spec};
pub use counters::{Counters, PortCounters};
pub use driver::Backend;
pub use error::{Error, Refused, Result};
pub use mac::MacAddr;
pub use packet::Packet;
pub use pool::{Pool, PoolCache};
pub use port::{Control, Link, Port, Queues, Stats};
pub use queue::{RxQueue, TxQueue};
pub use registry::Registry;
pub use wait::{Armed, Wake, Waker, wait_any};
