//! The backend's own keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Keys {
    /// Who moves frames: `auto`, `zero_copy`, `copy`.
    pub mode: Mode,
    /// Where the program runs: `auto`, `native`, `generic`.
    pub attach: Attach,
}
