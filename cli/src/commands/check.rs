//! `anyport check`: whether specs and a configuration file are right, without opening anything.

use anyhow::{Result, bail};

use crate::ports::PortArgs;
use crate::text::{print, say};

/// Check specs and a configuration file without opening anything
///
/// Backends, keys and values are checked, of the PORTs given and of every port and the pool in the configuration file. Whether
/// a device is there, and can do what is asked, shows only when it is opened.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  anyport check pcap:eth0,rx_ring=4096
  anyport check --config ports.toml")]
pub struct Args {
    /// Specs, or names from the configuration file
    #[arg(value_name = "PORT", required_unless_present = "config")]
    port: Vec<String>,
    /// Ports and pool.
    #[command(flatten)]
    ports: PortArgs,
}

/// What is wrong with a port, which many errors begin by naming: once.
fn about(name: &str, error: &str) -> String {
    let named = error.split_once(": ").filter(|(device, _)| name.starts_with(device));
    let reason = named.map_or(error, |(_, reason)| reason);
    format!("{}: {reason}", name.trim_end_matches(':'))
}

/// Checks.
pub fn run(args: &Args) -> Result<()> {
    let registry = args.ports.registry()?;
    let configured = registry.file().into_iter().flat_map(|file| file.names()).map(str::to_owned);
    let mut all: Vec<String> = configured.collect();
    for port in &args.port {
        if !all.contains(port) {
            all.push(port.clone());
        }
    }
    args.ports.pool(registry.file()).check()?;
    let mut wrong = 0;
    let mut text = String::new();
    for name in &all {
        let checked = registry.resolve(name).and_then(|spec| {
            registry.check(&spec)?;
            Ok(spec)
        });
        match checked {
            Ok(spec) if spec.to_string() == *name => text += &format!("{name}: right\n"),
            Ok(spec) => text += &format!("{name}: right, {spec}\n"),
            Err(error) => {
                wrong += 1;
                say(&about(name, &error.to_string()));
            }
        }
    }
    print(&text)?;
    if wrong > 0 {
        bail!("{wrong} of {} ports are wrong", all.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_once() {
        for (name, error, said) in [
            ("pcap:", "pcap: it names nothing", "pcap: it names nothing"),
            ("pcap:e0,zz=1", "pcap:e0: unknown key `zz`", "pcap:e0,zz=1: unknown key `zz`"),
            ("lan", "loop:a.0: no: never", "lan: loop:a.0: no: never"),
            ("x:y", "unknown backend `x`", "x:y: unknown backend `x`"),
        ] {
            assert_eq!(about(name, error), said);
        }
    }
}
