//! `af_xdp:IFACE`: frames from a driver's receive path straight to a pool, and back, without the host's stack.
//!
//! | module | what it does |
//! |---|---|
//! | `backend`, `keys` | from a spec to a port |
//! | `handed` | what another process has made for this one |
//! | [`handover`] | for the process that makes it |
//! | `preflight` | what can be known before a port starts |
//! | `locked` | the limit of locked memory |
//! | `port` | opening, settings, counters |
//! | `started` | starting |
//! | `closing` | stopping, and what shows that the kernel has let go of the memory |
//! | `tags` | VLAN tags stay in the frame |
//! | `rx`, `tx` | one queue each way |
//! | `device` | what all queues of a port share |
//! | `program` | which frames go to the sockets |
//! | `socket` | the system calls of one AF_XDP socket |
//! | `ring` | the rings that are shared with the kernel |

mod backend;
mod closing;
mod device;
mod handed;
pub mod handover;
mod keys;
mod locked;
mod port;
mod preflight;
mod program;
mod ring;
mod rx;
mod socket;
mod started;
mod tags;
mod tx;

pub use backend::AfXdp;
