//! `anyport schema`: the JSON schema of a configuration file, for editors and checkers.

use anyhow::Result;

use crate::text::print_json;

/// Print the JSON schema of a configuration file
///
/// A configuration file is TOML: `[pool]` says how the pool is made, `[ports.NAME]` what stands behind a name. The schema
/// holds the keys of all backends of this program, with their descriptions.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport schema > anyport.schema.json
  anyport schema | jq '.properties.ports.additionalProperties.oneOf[].title'

A configuration file:
  [pool]
  frames = 8192

  [ports.wan]
  backend = \"pcap\"
  device = \"eth0\"
  to_kernel = [\"arp\", \"tcp:22\"]")]
pub struct Args {}

/// Prints it.
pub fn run(_: &Args) -> Result<()> {
    print_json(&anyport_backends::registry().schema())
}
