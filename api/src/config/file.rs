//! The configuration file: named ports, and the pool that they share.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{PortConfig, Spec, Table, schema_of};
use crate::driver::Backend;
use crate::error::{Error, Result};
use crate::pool::PoolConfig;

/// A configuration file:
///
/// ```
/// let file = anyport::config::ConfigFile::parse("example.toml", r#"
///     [pool]
///     frames = 8192
///
///     [ports.wan]
///     backend = "pcap"
///     device = "eth0"
///     to_kernel = ["arp", "tcp:22"]
/// "#).unwrap();
/// assert_eq!(file.port("wan").unwrap().to_string(), "pcap:eth0,to_kernel=arp,tcp:22");
/// ```
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    name: String,
    pool: PoolConfig,
    ports: BTreeMap<String, Spec>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    pool: PoolConfig,
    #[serde(default)]
    #[schemars(skip)]
    ports: BTreeMap<String, RawPort>,
}

#[derive(Deserialize)]
struct RawPort {
    backend: String,
    #[serde(default)]
    device: String,
    #[serde(flatten)]
    options: Table,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Os`] if it cannot be read, [`Error::Config`] with the path in it and the reason otherwise.
    pub fn read(path: impl AsRef<Path>) -> Result<ConfigFile> {
        let name = path.as_ref().display().to_string();
        let text = std::fs::read_to_string(path.as_ref())
            .map_err(|source| Error::os(&name, "reading the configuration", source))?;
        ConfigFile::parse(&name, &text)
    }

    /// Reads a file's text; `name` goes into the errors.
    ///
    /// # Errors
    /// As [`read`](ConfigFile::read).
    pub fn parse(name: &str, text: &str) -> Result<ConfigFile> {
        let error = |reason: String| Error::Config { context: name.to_owned(), reason };
        let raw = toml::Deserializer::parse(text).map_err(|e| error(e.to_string()))?;
        let raw: Raw = serde_path_to_error::deserialize(raw)
            .map_err(|e| error(format!("{}: {}", e.path(), e.inner().message())))?;
        let port =
            |raw: RawPort| Spec { backend: raw.backend, device: raw.device, options: raw.options };
        Ok(ConfigFile {
            name: name.to_owned(),
            pool: raw.pool,
            ports: raw.ports.into_iter().map(|(name, raw)| (name, port(raw))).collect(),
        })
    }

    /// The port of that name.
    ///
    /// # Errors
    /// [`Error::Config`] that lists the names there are.
    pub fn port(&self, name: &str) -> Result<&Spec> {
        self.ports.get(name).ok_or_else(|| {
            let known = self.ports.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::Config {
                context: self.name.clone(),
                reason: format!("no port `{name}`; it has: {known}"),
            }
        })
    }

    /// The names of all ports.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.ports.keys().map(String::as_str)
    }

    /// How the ports' common pool is to be made.
    pub fn pool(&self) -> &PoolConfig {
        &self.pool
    }

    /// The JSON schema of such a file, for the backends given.
    pub fn schema<'a>(backends: impl IntoIterator<Item = &'a dyn Backend>) -> serde_json::Value {
        let common = schema_of::<PortConfig>();
        let properties = |schema: &schemars::Schema| {
            schema.get("properties").and_then(|p| p.as_object()).cloned().unwrap_or_default()
        };
        let ports: Vec<serde_json::Value> = backends
            .into_iter()
            .map(|backend| {
                let mut all = properties(&common);
                all.extend(properties(&backend.options()));
                all.insert("backend".into(), serde_json::json!({ "const": backend.name() }));
                all.insert("device".into(), serde_json::json!({ "type": "string" }));
                serde_json::json!({
                    "type": "object",
                    "title": backend.name(),
                    "properties": all,
                    "required": ["backend"],
                    "additionalProperties": false,
                })
            })
            .collect();
        let mut schema = serde_json::to_value(schema_of::<Raw>()).unwrap_or_default();
        schema["title"] = "anyport configuration".into();
        schema["properties"]["ports"] = serde_json::json!({
            "type": "object",
            "description": "The ports by name.",
            "additionalProperties": { "oneOf": ports },
        });
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_file_path_and_names() {
        let text = |text| ConfigFile::parse("a.toml", text).unwrap_err().to_string();
        assert!(
            text("[ports.x]\ndevice = 'eth0'").contains("a.toml: ports.x: missing field `backend`")
        );
        assert!(text("[pool]\nframes = 'many'").contains("pool.frames"));
        assert!(text("[pol]").contains("unknown field `pol`"));
        assert!(text("= 1").starts_with("a.toml: "));
        let file =
            ConfigFile::parse("a.toml", "[ports.x]\nbackend='pcap'\n[ports.y]\nbackend='loop'")
                .unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(file.port("z").unwrap_err().to_string(), "a.toml: no port `z`; it has: x, y");
    }
}
