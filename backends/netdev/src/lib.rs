//! Linux network interfaces, for backends that sit on one: what a packet socket and an AF_XDP socket need alike.
//!
//! | module | what it does |
//! |---|---|
//! | [`open`] | from a name to an interface; the key of its lock |
//! | [`interface`] | the interface's own affairs: address, MTU, flags |
//! | [`ethtool`] | driver, carrier, speed, offload switches |
//! | [`links`] | kind, limits, and which interface sits on which |
//! | [`settings`] | what a port changes, written down first and put back at close, or after a `kill -9` |
//! | [`takeover`] | what the host needs the interface for |
//! | [`to_kernel`] | what stays with the host's stack all the same: the words, and the programs made of them |
//! | [`tcx`] | keeps received frames from the host's stack |
//! | [`bpf`] | the assembler and the loader under these |
//! | [`packet_socket`] | filters, memberships and counters of packet sockets |
//! | [`queueing`] | whether frames stand in the interface's queue |
//! | [`segments`] | segments that nobody cut, and what mends it |
//! | [`vlans`] | receiving all VLAN identifiers in spite of a card's filter |
//! | [`watch`] | a descriptor that becomes readable when a link changes |
//! | [`xdp_attached`] | the XDP program that somebody has attached, and what takes it away |
//! | [`xdp_features`] | what the driver can do with XDP |
//! | [`devices`] | a listing |
//! | [`privilege`], [`error`], [`sys`] | what this thread may do; system errors, with what they mean for a port; system calls |
//!
//! A backend's `open` goes like this, the lock held by then:
//!
//! ```no_run
//! # fn open(device: &str, config: &anyport::PortConfig) -> anyport::Result<()> {
//! use anyport_netdev::{Settings, Silencer, ToKernel, open, takeover};
//!
//! let title = format!("mine:{device}");
//! let to_kernel = ToKernel::parse(&title, &config.to_kernel)?;
//! let interface = open::find("mine", device)?;
//! if !config.shared {
//!     takeover::check(&interface, &title, config.takeover, true)?;
//! }
//! let settings = Settings::open(interface, &title)?;
//! open::check_ethernet(&title, settings.info())?;
//! let silencer = Silencer::prepare(&to_kernel);
//! # Ok(())
//! # }
//! ```
//!
//! None of this changes the interface. Its `start` attaches the silencer and switches off what puts frames together
//! ([`Settings::switch_off`]), its `stop` undoes both.

pub mod bpf;
pub mod devices;
pub mod error;
pub mod ethtool;
pub mod interface;
mod journal;
pub mod links;
mod namespaces;
mod netlink;
pub mod open;
pub mod packet_socket;
pub mod privilege;
pub mod queueing;
pub mod segments;
pub mod settings;
pub mod sys;
pub mod takeover;
pub mod tcx;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod to_kernel;
pub mod vlans;
pub mod watch;
pub mod xdp_attached;
pub mod xdp_features;

pub use interface::{Ask, Interface};
pub use links::LinkInfo;
pub use packet_socket::Membership;
pub use queueing::Queueing;
pub use settings::Settings;
pub use tcx::Silencer;
pub use to_kernel::ToKernel;
pub use watch::LinkWatch;
pub use xdp_attached::XdpAttached;
pub use xdp_features::XdpFeatures;
