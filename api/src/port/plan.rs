//! From a configuration and capabilities to what the queues do: checked whole before anything is applied
//! (contract L3).

use std::fmt::Display;
use std::sync::Arc;

use crate::capability::{Capability, DeviceOffloads, RingSizes};
use crate::config::{Offload, PortConfig, Switch};
use crate::driver::Setup;
use crate::error::{Error, Result};
use crate::mac::MacAddr;
use crate::offload::toeplitz::Toeplitz;
use crate::pool::Pool;
use crate::queue::{Mode, RxPlan, TxCell, TxPlan};

/// Refuses a backend whose capabilities contradict themselves.
pub(super) fn check_capability(device: &str, capability: &Capability) -> Result<()> {
    let least = capability.max_rx_queues >= 1
        && capability.max_tx_queues >= 1
        && capability.max_pools >= 1
        && capability.max_segments >= 1;
    let range = capability.min_max_frame..=capability.max_frame;
    // What is received goes to the port alone, or to the host as well.
    let least = least && (capability.exclusive || capability.shared);
    if least && range.contains(&capability.default_max_frame) && capability.min_max_frame >= 60 {
        return Ok(());
    }
    let reason = format!("the backend's capabilities contradict themselves: {capability:?}");
    Err(Error::Backend { device: device.into(), reason })
}

/// Refuses a device that says that its own address is a group's: registers that read all ones (contract F8).
pub(super) fn check_address(device: &str, mac: MacAddr) -> Result<()> {
    if mac.is_unicast() {
        return Ok(());
    }
    let reason = format!(
        "its address reads {mac}, which cannot be a device's own: it does not answer; was it taken away, or is it reset?"
    );
    Err(Error::Backend { device: device.into(), reason })
}

/// Refuses a change of what only opening can do: what the host goes on to see of an interface (contract R13).
pub(super) fn check_at_open_only(device: &str, now: &PortConfig, new: &PortConfig) -> Result<()> {
    let changed = [
        ("shared", now.shared != new.shared, new.shared.to_string()),
        ("takeover", now.takeover != new.takeover, new.takeover.to_string()),
        ("to_kernel", now.to_kernel != new.to_kernel, new.to_kernel.join(",")),
    ];
    match changed.into_iter().find(|(_, changed, _)| *changed) {
        None => Ok(()),
        Some((field, _, asked)) => Err(Error::Unsupported {
            device: device.into(),
            field: field.into(),
            asked,
            limit: "it can be chosen only when the port is opened".into(),
        }),
    }
}

/// Refuses a configuration beyond the capabilities, naming the first field that is.
pub(super) fn check(device: &str, capability: &Capability, config: &PortConfig) -> Result<()> {
    let refuse = |field: &str, asked: &dyn Display, limit: String| {
        let (device, field, asked) = (device.to_owned(), field.to_owned(), asked.to_string());
        Err(Error::Unsupported { device, field, asked, limit })
    };
    let queues = [
        ("rx_queues", config.rx_queue_count(), capability.max_rx_queues),
        ("tx_queues", config.tx_queue_count(), capability.max_tx_queues),
        ("max_segments", config.max_segments, capability.max_segments),
    ];
    for (field, asked, max) in queues {
        if !(1..=max).contains(&asked) {
            let field = match (field, config.queues) {
                ("max_segments", _) | (_, None) => field,
                _ => "queues",
            };
            return refuse(field, &asked, format!("1 to {max} are possible"));
        }
    }
    let rings = [
        ("rx_ring", config.rx_ring, capability.rx_ring),
        ("tx_ring", config.tx_ring, capability.tx_ring),
    ];
    for (field, asked, RingSizes { min, max, .. }) in rings {
        if let Some(asked) = asked.filter(|asked| !(min..=max).contains(asked)) {
            return refuse(field, &asked, format!("{min} to {max} frames are possible"));
        }
    }
    if let Some(asked) = config.max_frame {
        let (min, max) = (capability.min_max_frame, capability.max_frame);
        if !(min..=max).contains(&asked) {
            return refuse("max_frame", &asked, format!("{min} to {max} bytes are possible"));
        }
        if !capability.set_max_frame && asked != capability.default_max_frame {
            let now = capability.default_max_frame;
            return refuse("max_frame", &asked, format!("it is {now} bytes and cannot be changed"));
        }
    }
    if let Some(mac) = config.mac {
        mac.check_own()?;
        if !capability.set_mac {
            return refuse("mac", &mac, "its address cannot be changed".into());
        }
    }
    if config.shared && !capability.shared {
        let limit = "what it receives goes to the port or to the host's stack, never to both; with shared=false it is taken \
                     from the host, but for what to_kernel names";
        return refuse("shared", &true, limit.into());
    }
    if config.promiscuous && !capability.promiscuous {
        return refuse("promiscuous", &true, "it cannot be switched".into());
    }
    for (field, asked, device_can, software_can) in offloads(capability, config) {
        let limit = match (asked, device_can, software_can) {
            (Offload::Off, ..) | (Offload::Required, true, _) => continue,
            (Offload::Auto, device, software) if device || software => continue,
            (Offload::Required, ..) => {
                "the device cannot; `auto` does it in software where that is possible"
            }
            (Offload::Auto, ..) => "the device cannot, and there is no software fallback",
        };
        let asked = if asked == Offload::Auto { "auto" } else { "required" };
        return refuse(field, &asked, limit.into());
    }
    Ok(())
}

type Field = (&'static str, Offload, bool, bool);

/// Each offload: field, what is asked, whether the device can, whether software can.
fn offloads(capability: &Capability, config: &PortConfig) -> [Field; 7] {
    let can = &capability.offloads;
    [
        ("rx_checksum", config.rx_checksum, can.rx_checksum, true),
        ("tx_checksum", config.tx_checksum, can.tx_checksum, true),
        ("vlan_strip", config.vlan_strip, can.vlan_strip, true),
        ("vlan_insert", config.vlan_insert, can.vlan_insert, true),
        ("rx_timestamp", config.rx_timestamp, can.rx_timestamp, true),
        ("tx_timestamp", config.tx_timestamp, can.tx_timestamp, false),
        ("rss_hash", config.rss_hash, can.rss_hash, true),
    ]
}

/// A configuration that was checked, with every default filled in.
pub(super) struct Plan<'a> {
    pub setup: Setup<'a>,
    filter: bool,
    pad: bool,
    link_state: bool,
    transmits: bool,
    deferred_tx: bool,
    finish_checksums: bool,
    modes: [Mode; 7],
    toeplitz: Option<Arc<Toeplitz>>,
}

impl<'a> Plan<'a> {
    pub fn new(
        device: &str,
        capability: &Capability,
        config: &PortConfig,
        pools: &'a [Pool],
    ) -> Result<Plan<'a>> {
        let modes = offloads(capability, config).map(|(_, asked, device, _)| match asked {
            Offload::Off => Mode::Off,
            _ if device => Mode::Device,
            _ => Mode::Software,
        });
        let by_device = modes.map(|mode| mode == Mode::Device);
        let [
            rx_checksum,
            tx_checksum,
            vlan_strip,
            vlan_insert,
            rx_timestamp,
            tx_timestamp,
            rss_hash,
        ] = by_device;
        let max_frame = config.max_frame.unwrap_or(capability.default_max_frame);
        let mut setup = Setup::new(capability, pools);
        setup.rx_queues = config.rx_queue_count();
        setup.tx_queues = config.tx_queue_count();
        setup.rx_ring = config.rx_ring.unwrap_or(capability.rx_ring.default);
        setup.tx_ring = config.tx_ring.unwrap_or(capability.tx_ring.default);
        setup.max_frame = max_frame;
        setup.max_segments = config.max_segments;
        setup.rss_key = config.rss_key.0;
        setup.offloads = DeviceOffloads {
            rx_checksum,
            tx_checksum,
            vlan_strip,
            vlan_insert,
            rx_timestamp,
            tx_timestamp,
            rss_hash,
        };
        // One tag may come on top of the maximum (contract M2).
        let room = pools.first().map_or(0, Pool::room) * config.max_segments as usize;
        if capability.receives && max_frame + 4 > room {
            return Err(Error::Unsupported {
                device: device.into(),
                field: "max_frame".into(),
                asked: max_frame.to_string(),
                limit: format!(
                    "with its tag it takes {} bytes, and the pool's frames hold {room}; make the pool with a larger \
                     frame_size, or configure max_segments",
                    max_frame + 4
                ),
            });
        }
        Ok(Plan {
            setup,
            filter: !capability.filters,
            pad: !capability.pads,
            link_state: capability.link_state,
            transmits: capability.transmits,
            deferred_tx: capability.deferred_tx,
            finish_checksums: match config.finish_checksums {
                Switch::Auto => capability.software_link,
                Switch::On => true,
                Switch::Off => false,
            },
            toeplitz: (modes[6] == Mode::Software)
                .then(|| Arc::new(Toeplitz::new(&config.rss_key.0))),
            modes,
        })
    }

    pub fn rx(&self, queue: u16, tx: &[Arc<TxCell>]) -> RxPlan {
        let [rx_checksum, _, vlan_strip, _, rx_timestamp, _, rss_hash] = self.modes;
        RxPlan {
            queue,
            max_frame: self.setup.max_frame,
            max_segments: self.setup.max_segments,
            filter: self.filter,
            finish_checksums: self.finish_checksums,
            rx_checksum,
            vlan_strip,
            rx_timestamp,
            rss_hash,
            toeplitz: self.toeplitz.clone(),
            tx: tx.to_vec(),
            reclaim_tx: self.deferred_tx,
        }
    }

    pub fn tx(&self) -> TxPlan {
        let [_, tx_checksum, _, vlan_insert, _, tx_timestamp, _] = self.modes;
        TxPlan {
            max_frame: self.setup.max_frame,
            max_segments: self.setup.max_segments,
            pad: self.pad,
            link_state: self.link_state,
            transmits: self.transmits,
            tx_checksum,
            vlan_insert,
            tx_timestamp,
        }
    }
}
