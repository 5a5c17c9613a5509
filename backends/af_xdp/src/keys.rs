//! The backend's own keys.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::handed::Descriptors;

/// Who moves a frame between the device and the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// The device itself where its driver can do that, else the kernel by copying.
    #[default]
    Auto,
    /// The device itself, or the port does not start.
    ZeroCopy,
    /// The kernel, by copying.
    Copy,
}

/// Where the program runs that hands frames to the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Attach {
    /// In the driver where it can do that, else behind it.
    #[default]
    Auto,
    /// In the driver, or the port does not start.
    Native,
    /// Behind the driver, where every interface has it.
    Generic,
}

/// Keys of `af_xdp:` specs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Keys {
    /// Who moves frames: `auto`, `zero_copy`, `copy`.
    pub mode: Mode,
    /// Where the program runs: `auto`, `native`, `generic`.
    pub attach: Attach,
    /// Above 0 the port's own calls do the driver's work, so that one core does both, and the driver leaves it to them if the
    /// interface's `napi_defer_hard_irqs` and `gro_flush_timeout` are set. The number is the microseconds of `SO_BUSY_POLL`, for
    /// which a call that waits would look for frames; the port's calls do not wait, and make one round each.
    pub busy_poll: u32,
    /// Frames that the driver handles in one such round.
    pub busy_poll_budget: u16,
    /// Every sender's kernel leaves VLAN tags in the frames: for interfaces where that cannot be found out.
    pub tags_in_frames: bool,
    /// A map of AF_XDP sockets that somebody's program hands frames to: its path in a BPF file system, or the number of an open
    /// descriptor.
    #[serde(deserialize_with = "anyport::config::path")]
    pub map: Option<PathBuf>,
    /// The numbers of open descriptors of AF_XDP sockets, one per queue, that are to be used: `5+6`.
    #[schemars(with = "Option<String>")]
    pub sockets: Option<Descriptors>,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys {
            mode: Mode::Auto,
            attach: Attach::Auto,
            busy_poll: 0,
            busy_poll_budget: 64,
            tags_in_frames: false,
            map: None,
            sockets: None,
        }
    }
}
