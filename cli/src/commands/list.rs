//! `anyport list`: devices, who could drive each, and what stands in the way.

use anyhow::Result;
use anyport::driver::DeviceInfo;
use serde::Serialize;

use crate::text::{print, print_json};

/// List devices, the spec that opens each, and what stands in the way
///
/// Devices of all backends are shown. Where one cannot be opened now, the line below it says why, with the command that
/// mends it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport list
  anyport list --json | jq -r '.devices[] | select(.obstacle == null) | .spec'")]
pub struct Args {
    /// Print one JSON object: `devices`, each with `spec`, `description` and `obstacle`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct List {
    devices: Vec<DeviceInfo>,
}

/// Lists.
pub fn run(args: &Args) -> Result<()> {
    let devices = anyport_backends::registry().devices();
    if args.json {
        return print_json(&List { devices });
    }
    let width = devices.iter().map(|device| device.spec.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for DeviceInfo { spec, description, obstacle, .. } in &devices {
        text += &format!("{spec:width$}  {description}\n");
        if let Some(obstacle) = obstacle {
            text += &format!("{:width$}  not now: {obstacle}\n", "");
        }
    }
    print(&text)
}
