//! Linux network interfaces, for backends that sit on one: what a packet socket and an AF_XDP socket need alike.
//!
//! | module | what it does |
//! |---|---|
//! | [`interface`] | the interface's own affairs by ioctl: address, MTU, flags |
//! | [`open`] | from a name to an interface; the key of its lock |
//! | [`watch`] | a descriptor that becomes readable when a link changes |
//! | [`membership`] | promiscuous and all-multicast reception by membership, which dies with the process |
//! | [`tcx`] | keeps received frames from the host's stack |
//! | [`error`] | system errors, with what they mean for a port |

pub mod error;
pub mod interface;
pub mod membership;
pub mod open;
mod sys;
pub mod tcx;
pub mod watch;

pub use interface::Interface;
pub use membership::Membership;
pub use watch::LinkWatch;
