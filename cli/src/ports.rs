//! From what stands on the command line to opened ports with queues: configuration file, defaults of the tool, one pool
//! for all ports of a command.
//!
//! The tool's defaults differ from the library's where its commands would be useless otherwise: what only looks or passes
//! on is promiscuous, and shared where it only looks. What a spec or a file says is never overruled.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use anyport::config::ConfigFile;
use anyport::pool::PoolConfig;
use anyport::{Counters, Pool, Port, PortCounters, Queues, Registry, Spec, Stats};
use serde::Serialize;

use crate::values::Cores;

/// Where port names and the pool come from.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Ports")]
pub struct PortArgs {
    /// Take ports by name, and the pool, from a configuration file (see `anyport schema`).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Frames in the pool that the ports share [default: enough for their rings, at least 4096].
    #[arg(long, value_name = "N")]
    pub pool_frames: Option<u32>,
    /// Bytes of a pool frame, a power of two [default: enough for the ports' maximum frame].
    #[arg(long, value_name = "BYTES")]
    pub frame_size: Option<u32>,
}

impl PortArgs {
    /// The built-in backends, and the names of the configuration file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn registry(&self) -> Result<Registry> {
        let mut registry = anyport_backends::registry();
        if let Some(file) = &self.config {
            registry.use_file(ConfigFile::read(file)?);
        }
        Ok(registry)
    }
}

impl PortArgs {
    /// The pool that the options, or else the file, ask for, as far as that can be said without ports.
    pub fn pool(&self, file: Option<&ConfigFile>) -> PoolConfig {
        self.with_options(file.map_or_else(PoolConfig::default, |file| file.pool().clone()))
    }

    fn with_options(&self, mut config: PoolConfig) -> PoolConfig {
        config.frames = self.pool_frames.unwrap_or(config.frames);
        config.frame_size = self.frame_size.unwrap_or(config.frame_size);
        config
    }
}

/// What a command wants of a port where the spec says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wants {
    /// Everything, not only what is addressed to the port.
    pub promiscuous: bool,
    /// What it receives goes to the host, too.
    pub shared: bool,
    /// Receive timestamps.
    pub timestamps: bool,
    /// Frames that are longer than a packet, as chains.
    pub chains: bool,
}

/// An opened port.
pub struct Opened {
    /// How it was called: the spec, without the tool's own additions.
    pub name: String,
    /// The port.
    pub port: Port,
    /// Its counters, also after it is closed.
    pub stats: Stats,
}

impl Opened {
    /// Opens a port by spec or by name. Several cores ask for as many queues, if the spec names no number and the port
    /// has them.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn open(
        registry: &Registry,
        text: &str,
        wants: Wants,
        cores: Option<&Cores>,
    ) -> Result<Opened> {
        let asked = registry.resolve(text)?;
        let mut spec = asked.clone();
        if wants.shared && !asked.options.contains_key("shared") {
            spec = spec.with("shared", true);
        }
        if let Some(cores) = cores {
            cores.check()?;
        }
        if wants.timestamps && !asked.options.contains_key("rx_timestamp") {
            spec = spec.with("rx_timestamp", "auto");
        }
        let port = registry.open_spec(spec)?;
        let mut opened = Opened { name: asked.to_string(), stats: port.stats(), port };
        opened.apply_defaults(&asked, wants, cores)?;
        Ok(opened)
    }

    /// Defaults that depend on what the port can do.
    fn apply_defaults(&mut self, asked: &Spec, wants: Wants, cores: Option<&Cores>) -> Result<()> {
        let capability = self.port.capability();
        let mut config = self.port.config();
        let silent = |key: &&str| !asked.options.contains_key(*key);
        if wants.promiscuous && capability.promiscuous && silent(&"promiscuous") {
            config.promiscuous = true;
        }
        if wants.chains && silent(&"max_segments") {
            config.max_segments = capability.max_segments;
        }
        if let Some(Cores(cores)) = cores
            && ["queues", "rx_queues", "tx_queues"].iter().all(silent)
        {
            let most = capability.max_rx_queues.min(capability.max_tx_queues);
            if usize::from(most) < cores.len() {
                let (name, wanted) = (&self.name, cores.len());
                tracing::warn!(
                    "{name} has {most} queues, and {wanted} cores were named: some have nothing to do"
                );
            }
            config.queues = Some(u16::try_from(cores.len()).unwrap_or(u16::MAX).min(most));
        }
        self.port.configure(config)?;
        Ok(())
    }

    /// Attaches the pool and starts the port.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn start(&mut self, pool: &Pool) -> Result<Queues> {
        self.port.attach(pool)?;
        let queues = self.port.start()?;
        if let Ok(link) = self.port.control().link()
            && !link.up
        {
            tracing::warn!("{}: the link is down; nothing passes until it is up", self.name);
        }
        tracing::info!("{}: started", self.name);
        Ok(queues)
    }

    /// The longest frame that the port takes, in bytes without FCS.
    pub fn max_frame(&self) -> usize {
        self.port.control().max_frame()
    }

    /// Refuses a port that does not receive.
    ///
    /// # Errors
    /// If it does not.
    pub fn must_receive(&self) -> Result<()> {
        let receives = self.port.capability().receives;
        if receives {
            Ok(())
        } else {
            bail!("{} only transmits: it cannot be received from", self.name)
        }
    }

    /// Refuses a port that does not transmit.
    ///
    /// # Errors
    /// If it does not.
    pub fn must_transmit(&self) -> Result<()> {
        let transmits = self.port.capability().transmits;
        if transmits { Ok(()) } else { bail!("{} only receives: it cannot be sent to", self.name) }
    }

    /// Stops the port and gives the device back; what it counted, and whether that went well.
    pub fn close(self) -> (PortReport, Result<()>) {
        let closed = self.port.close().with_context(|| format!("closing {}", self.name));
        (PortReport::new(self.name, self.stats.read()), closed)
    }
}

/// A port's counters, for the report.
#[derive(Debug, Serialize)]
pub struct PortReport {
    /// The port's spec.
    pub port: String,
    /// What it counted.
    pub counters: Counters,
    /// The same by receive queue, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rx_queues: Vec<Counters>,
    /// The same by transmit queue, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tx_queues: Vec<Counters>,
}

impl PortReport {
    fn new(port: String, all: PortCounters) -> PortReport {
        let several = |queues: Vec<Counters>| if queues.len() > 1 { queues } else { Vec::new() };
        let (rx_queues, tx_queues) = (several(all.rx_queues), several(all.tx_queues));
        PortReport { port, counters: all.port, rx_queues, tx_queues }
    }

    /// What would help against a loss that the port's user can do something about.
    pub fn advice(&self) -> Option<String> {
        let lost = self.counters.rx_ring_full.filter(|frames| *frames > 0)?;
        (!self.port.contains("rx_ring=")).then(|| {
            let (port, lost) = (&self.port, crate::text::number(lost));
            format!("{port}: {lost} frames found the receive ring full; `rx_ring=4096` in its spec holds longer bursts")
        })
    }
}

/// Makes the pool that the ports of a command share: as options and configuration file say, else large enough for
/// their rings and their longest frame.
///
/// # Errors
/// What is wrong with the sizes, or no memory.
pub fn make_pool(args: &PortArgs, registry: &Registry, ports: &[&Opened]) -> Result<Pool> {
    let config = match registry.file() {
        Some(file) => file.pool().clone(),
        None => PoolConfig::for_ports(ports.iter().map(|opened| &opened.port)),
    };
    Ok(args.with_options(config).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport::config::Offload;

    fn open(text: &str, wants: Wants, cores: Option<&Cores>) -> Opened {
        Opened::open(&PortArgs::default().registry().unwrap(), text, wants, cores).unwrap()
    }

    #[test]
    fn defaults_never_overrule_the_spec() {
        let wants = Wants { promiscuous: true, shared: true, timestamps: true, chains: true };
        let opened = open("loop:defaults.0", wants, Some(&Cores(vec![0, 1])));
        let config = opened.port.config();
        assert!(config.promiscuous && config.shared && config.queues == Some(2));
        assert_eq!((config.rx_timestamp, opened.name.as_str()), (Offload::Auto, "loop:defaults.0"));
        drop(opened);
        let text = "loop:defaults.0,promiscuous=false,shared=false,queues=1,rx_timestamp=off";
        let config = open(text, wants, Some(&Cores(vec![0, 1]))).port.config();
        assert!(!config.promiscuous && !config.shared && config.queues == Some(1));
        assert_eq!(config.rx_timestamp, Offload::Off);
    }

    #[test]
    fn the_pool_fits_the_ports() {
        let registry = PortArgs::default().registry().unwrap();
        let small = open("loop:fits.0", Wants::default(), None);
        let large = open("loop:fits.1,max_frame=9014,rx_ring=8192", Wants::default(), None);
        let pool = make_pool(&PortArgs::default(), &registry, &[&small]).unwrap();
        assert_eq!((pool.capacity(), pool.frame_size()), (4096, 2048));
        let pool = make_pool(&PortArgs::default(), &registry, &[&small, &large]).unwrap();
        assert_eq!((pool.capacity(), pool.frame_size()), (32768, 16384));
        let args = PortArgs { pool_frames: Some(100), frame_size: Some(512), config: None };
        let pool = make_pool(&args, &registry, &[&large]).unwrap();
        assert_eq!((pool.capacity(), pool.frame_size()), (100, 512));
    }
}
