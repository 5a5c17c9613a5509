//! Configuration: the keys that every port takes, and how specs and files become them.
//!
//! A port is named by a spec, `backend:device[,key=value]...`, or by a name from a configuration file; both end
//! as the same [`Spec`], so both take the same keys. Keys are checked before anything is opened (contract L1).
//!
//! Traps: a value may hold commas (`to_kernel=arp,tcp:22`): a part without `=` belongs to the value before
//! it. A device may hold colons (`igb:0000:01:00.0`): only the first one separates.

mod file;
mod keys;
mod port;
mod spec;

pub use file::ConfigFile;
pub use keys::{from_table, path, schema_of};
pub use port::{Offload, PortConfig, RssKey, Switch};
pub use spec::Spec;

/// Keys and values, as they stand in a spec or a file.
pub type Table = toml::Table;

/// The JSON schema of a set of keys ([`schemars::Schema`]).
pub type Schema = schemars::Schema;
