//! Specs: `backend:device[,key=value]...`.

use std::fmt;
use std::str::FromStr;

use super::{PortConfig, Table, from_table, keys, schema_of};
use crate::driver::Backend;
use crate::error::{Error, Result};

/// One port, named: the backend, the device, and keys for both the common layer and the backend.
///
/// ```
/// let spec: anyport::Spec = "pcap:eth0,rx_ring=1024,to_kernel=arp,tcp:22".parse().unwrap();
/// assert_eq!((spec.backend.as_str(), spec.device.as_str()), ("pcap", "eth0"));
/// assert_eq!(spec.options["rx_ring"].as_integer(), Some(1024));
/// assert_eq!(spec.options["to_kernel"].as_str(), Some("arp,tcp:22"));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The backend's name.
    pub backend: String,
    /// The device, in the backend's own words; may be empty where keys say it all.
    pub device: String,
    /// All keys.
    pub options: Table,
}

impl Spec {
    /// A spec without keys.
    pub fn new(backend: impl Into<String>, device: impl Into<String>) -> Spec {
        Spec { backend: backend.into(), device: device.into(), options: Table::new() }
    }

    /// The same with one more key; an existing one is replaced.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<toml::Value>) -> Spec {
        self.options.insert(key.to_owned(), value.into());
        self
    }

    /// How the device is called in messages: `backend:device`, or the whole spec where only keys name it.
    pub fn title(&self) -> String {
        match self.device.as_str() {
            "" => self.to_string(),
            device => format!("{}:{device}", self.backend),
        }
    }

    /// Separates the common keys from the backend's and reads the former.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] for a key of neither, [`Error::InvalidValue`] for a common key's bad value.
    pub(crate) fn resolve(&self, backend: &dyn Backend) -> Result<(PortConfig, Table)> {
        let common = keys::names(&schema_of::<PortConfig>());
        let own = keys::names(&backend.options());
        let (mut config, mut options) = (Table::new(), Table::new());
        for (key, value) in &self.options {
            let into = if common.contains(key) {
                &mut config
            } else if own.contains(key) {
                &mut options
            } else {
                let own = keys::names(&backend.options_for(&self.device));
                let accepted = own.into_iter().chain(common).collect();
                return Err(Error::UnknownKey {
                    context: self.title(),
                    key: key.clone(),
                    accepted,
                });
            };
            into.insert(key.clone(), value.clone());
        }
        Ok((from_table(&self.title(), &config)?, options))
    }
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Spec> {
        let error = |reason: &str| Error::Config {
            context: format!("`{text}`"),
            reason: format!("{reason}; a port is named backend:device[,key=value]..."),
        };
        let (backend, rest) =
            text.split_once(':').ok_or_else(|| error("no colon after a backend"))?;
        if backend.is_empty() {
            return Err(error("no backend before the colon"));
        }
        let mut spec = Spec::new(backend, "");
        let mut last: Option<(String, String)> = None;
        for (index, part) in rest.split(',').enumerate() {
            match (part.split_once('='), &mut last) {
                (Some((key, value)), _) if !key.is_empty() => {
                    let former = last.replace((key.trim().to_owned(), value.to_owned()));
                    spec.take(former).map_err(|key| error(&format!("`{key}` stands twice")))?;
                }
                (None, Some((_, value))) => {
                    value.push(',');
                    value.push_str(part);
                }
                (None, None) if index == 0 => spec.device = part.to_owned(),
                _ => return Err(error(&format!("`{part}` is not key=value"))),
            }
        }
        spec.take(last).map_err(|key| error(&format!("`{key}` stands twice")))?;
        Ok(spec)
    }
}

impl Spec {
    fn take(&mut self, pair: Option<(String, String)>) -> Result<(), String> {
        let Some((key, value)) = pair else { return Ok(()) };
        match self.options.insert(key.clone(), scalar(&value)) {
            None => Ok(()),
            Some(_) => Err(key),
        }
    }
}

/// Numbers and booleans as such, everything else as text.
pub(super) fn scalar(text: &str) -> toml::Value {
    if let Ok(number) = text.parse::<i64>() {
        // A sign or leading zeros may be part of a name: only what prints the same is a number.
        if number.to_string() == text {
            return toml::Value::Integer(number);
        }
    }
    match text {
        "true" => toml::Value::Boolean(true),
        "false" => toml::Value::Boolean(false),
        _ => toml::Value::String(text.to_owned()),
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.backend, self.device)?;
        for (index, (key, value)) in self.options.iter().enumerate() {
            let separator = if index == 0 && self.device.is_empty() { "" } else { "," };
            let shown = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(list) => {
                    let texts =
                        list.iter().map(|v| v.as_str().map_or(v.to_string(), str::to_owned));
                    texts.collect::<Vec<_>>().join(",")
                }
                other => other.to_string(),
            };
            write!(f, "{separator}{key}={shown}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_may_hold_colons_or_be_absent() {
        let spec: Spec = "igb:0000:01:00.0,queues=2".parse().unwrap();
        assert_eq!(spec.device, "0000:01:00.0");
        assert_eq!(spec.options["queues"].as_integer(), Some(2));
        let spec: Spec = "pcap:in=a.pcap,out=b.pcap".parse().unwrap();
        assert_eq!((spec.device.as_str(), spec.options.len()), ("", 2));
        assert_eq!(spec.to_string(), "pcap:in=a.pcap,out=b.pcap");
        assert_eq!(spec.title(), "pcap:in=a.pcap,out=b.pcap");
        assert_eq!("pcap:eth0,queues=2".parse::<Spec>().unwrap().title(), "pcap:eth0");
    }

    #[test]
    fn values_keep_their_kind() {
        let spec: Spec = "x:d,a=1,b=true,c=007,d=1.5,e=".parse().unwrap();
        assert_eq!(spec.options["a"].as_integer(), Some(1));
        assert_eq!(spec.options["b"].as_bool(), Some(true));
        for (key, text) in [("c", "007"), ("d", "1.5"), ("e", "")] {
            assert_eq!(spec.options[key].as_str(), Some(text));
        }
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        for bad in ["eth0", ":eth0", "", "x:d,a=1,a=2", "x:d,=1", "x:d,a=1,=1", "x:d,e"] {
            let error = bad.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains("backend:device[,key=value]..."), "{bad}: {error}");
        }
    }
}
