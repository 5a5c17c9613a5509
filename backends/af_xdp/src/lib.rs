//! `af_xdp:IFACE`: frames from a driver's receive path straight to a pool, and back, without the host's stack.
//!
//! | module | what it does |
//! |---|---|
//! | [`ring`] | the rings that are shared with the kernel |
//! | [`socket`] | the system calls of one AF_XDP socket |
//! | [`program`] | which frames go to the sockets |

mod program;
mod ring;
mod socket;
