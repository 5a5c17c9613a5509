//! The backend: what a spec's device and keys make it do.

use anyport::Result;
use anyport::config::{Schema, Table, schema_of};
use anyport::driver::{Backend, DeviceInfo, OpenRequest, PortDriver};
use anyport_netdev::{interface, open};

use crate::live::LivePort;

/// The backend `pcap`.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct Pcap;

/// The keys of a live port: none of its own so far.
#[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Options {}

impl Backend for Pcap {
    fn name(&self) -> &'static str {
        "pcap"
    }

    fn options(&self) -> Schema {
        schema_of::<Options>()
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        interface::all()
            .into_iter()
            .map(|name| DeviceInfo::new(format!("pcap:{name}"), "kernel interface through libpcap"))
            .collect()
    }

    fn lock_key(&self, device: &str, _: &Table) -> Result<Option<String>> {
        Ok(Some(open::lock_key(&open::find("pcap", device)?, device)?))
    }

    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        LivePort::open(request)
    }
}
