//! The backend: what a spec's device and keys make it do.

use anyport::config::{Schema, Table, from_table, schema_of};
use anyport::driver::{Backend, DeviceInfo, OpenRequest, PortDriver};
use anyport::{Error, Result};
use anyport_netdev::{ToKernel, devices, open};

use crate::live::LivePort;
use crate::savefile::{FileKeys, SavePort};

/// The backend `pcap`: an interface (`pcap:eth0`), or capture files (`pcap:in=a.pcap,out=b.pcapng`).
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct Pcap;

/// What a spec names.
enum Target {
    Interface,
    Files(FileKeys),
}

impl Target {
    fn of(device: &str, options: &Table) -> Result<Target> {
        let context = match device {
            "" => "pcap".to_owned(),
            device => format!("pcap:{device}"),
        };
        let keys: FileKeys = from_table(&context, options)?;
        let given = options.keys().next();
        let reason = match (device, given) {
            ("", _) if keys.names_a_file() => return Ok(Target::Files(keys)),
            ("", _) => "it names neither an interface (pcap:eth0) nor capture files \
                        (pcap:in=a.pcap,out=b.pcap)"
                .to_owned(),
            (_, None) => return Ok(Target::Interface),
            (_, Some(key)) => format!(
                "`{key}` is for capture files (pcap:in=a.pcap,out=b.pcap), and `{device}` is an interface: \
                 one or the other"
            ),
        };
        Err(Error::Config { context, reason })
    }
}

impl Backend for Pcap {
    fn name(&self) -> &'static str {
        "pcap"
    }

    fn options(&self) -> Schema {
        schema_of::<FileKeys>()
    }

    fn options_for(&self, device: &str) -> Schema {
        // An interface has no keys of its own.
        if device.is_empty() { self.options() } else { Schema::default() }
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        let files = DeviceInfo::new(
            "pcap:in=FILE,out=FILE",
            "capture files (pcap, pcapng): received from, sent to, or both",
        );
        let mut all = devices::devices("pcap", "kernel interface through libpcap");
        all.push(files);
        all
    }

    fn check(&self, request: &OpenRequest<'_>) -> Result<()> {
        match Target::of(request.device, request.options)? {
            Target::Interface => {
                let title = format!("pcap:{}", request.device);
                ToKernel::parse(&title, &request.config.to_kernel).map(drop)
            }
            Target::Files(keys) => keys.check(&keys.title()),
        }
    }

    fn lock_key(&self, device: &str, options: &Table) -> Result<Option<String>> {
        match Target::of(device, options)? {
            Target::Interface => Ok(Some(open::lock_key(&open::find("pcap", device)?, device)?)),
            // Files are exempt (contract L2).
            Target::Files(_) => Ok(None),
        }
    }

    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        match Target::of(request.device, request.options)? {
            Target::Interface => LivePort::open(request),
            Target::Files(keys) => {
                Ok(Box::new(SavePort::open(keys, request.config.capture.as_deref())?))
            }
        }
    }
}
