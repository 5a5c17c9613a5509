//! The backend: what a spec's device and keys make it do.

use anyport::config::{Schema, Table, from_table, schema_of};
use anyport::driver::{Backend, DeviceInfo, OpenRequest, PortDriver};
use anyport::{Error, Result};
use anyport_netdev::devices::Listing;
use anyport_netdev::{ToKernel, open};

use crate::keys::Keys;
use crate::port::XdpPort;
use crate::preflight;

/// The backend `af_xdp`: an interface through AF_XDP sockets (`af_xdp:eth0`).
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct AfXdp;

impl Backend for AfXdp {
    fn name(&self) -> &'static str {
        "af_xdp"
    }

    fn options(&self) -> Schema {
        schema_of::<Keys>()
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        Listing {
            backend: "af_xdp",
            by: "kernel interface through AF_XDP sockets",
            shares: false,
            needs: &preflight::PRIVILEGES,
            permitted: preflight::permitted,
            more: preflight::listed,
        }
        .devices()
    }

    fn check(&self, request: &OpenRequest<'_>) -> Result<()> {
        let title = format!("af_xdp:{}", request.device);
        from_table::<Keys>(&title, request.options)?;
        ToKernel::parse(&title, &request.config.to_kernel).map(drop)?;
        match request.config.shared {
            false => Ok(()),
            true => Err(Error::Unsupported {
                device: title,
                field: "shared".into(),
                asked: "true".into(),
                limit: "a frame goes to an AF_XDP socket or to the host's stack, never to both; `pcap:` can be shared, and \
                        to_kernel= names what is to stay with the stack"
                    .into(),
            }),
        }
    }

    fn lock_key(&self, device: &str, _: &Table) -> Result<Option<String>> {
        Ok(Some(open::lock_key(&open::find("af_xdp", device)?, device)?))
    }

    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let keys = from_table(&format!("af_xdp:{}", request.device), request.options)?;
        Ok(Box::new(XdpPort::open(keys, request)?))
    }
}
