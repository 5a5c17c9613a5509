//! The configuration file: named ports, and the pool that they share.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{PortConfig, Spec, Table, from_table, keys, schema_of};
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
    #[schemars(with = "PoolConfig")]
    pool: Table,
    #[serde(default)]
    #[schemars(skip)]
    ports: BTreeMap<String, Table>,
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
        let raw: Raw = serde_path_to_error::deserialize(raw).map_err(|e| {
            let (path, said) = (e.path(), e.inner().message());
            error(match said.starts_with("invalid type: ") {
                // The file is made of tables.
                true => format!(
                    "{path}: expected a table: `[{path}]` and its keys on lines of their own"
                ),
                false => format!("{path}: {said}"),
            })
        })?;
        let ports = raw.ports.into_iter().map(|(port, keys)| {
            let spec = spec(&format!("{name}: ports.{port}"), keys)?;
            Ok((port, spec))
        });
        Ok(ConfigFile {
            name: name.to_owned(),
            pool: pool(&format!("{name}: pool"), &raw.pool)?,
            ports: ports.collect::<Result<_>>()?,
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

/// The spec of a port: backend, device, and the keys that are the port's.
fn spec(context: &str, mut keys: Table) -> Result<Spec> {
    let mut take = |key: &str| match keys.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Error::InvalidValue {
            context: context.into(),
            key: key.into(),
            value: other.to_string(),
            expected: "expected a text, in quotes".into(),
        }),
    };
    let (backend, device) = (take("backend")?, take("device")?.unwrap_or_default());
    let backend = backend.ok_or_else(|| Error::Config {
        context: context.into(),
        reason: "the key `backend` is missing".into(),
    })?;
    Ok(Spec { backend, device, options: keys })
}

/// Reads the keys of the pool.
fn pool(context: &str, table: &Table) -> Result<PoolConfig> {
    let accepted = keys::names(&schema_of::<PoolConfig>());
    match table.keys().find(|key| !accepted.contains(key)) {
        Some(key) => Err(Error::UnknownKey { context: context.into(), key: key.clone(), accepted }),
        None => from_table(context, table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_file_path_and_names() {
        let text = |text| ConfigFile::parse("a.toml", text).unwrap_err().to_string();
        assert!(
            text("[ports.x]\ndevice = 'eth0'")
                .contains("a.toml: ports.x: the key `backend` is missing")
        );
        assert_eq!(
            text("[ports.x]\nbackend='pcap'\ndevice = 5"),
            "a.toml: ports.x: `device` cannot be `5`: expected a text, in quotes"
        );
        for (given, path) in
            [("pool = 5", "pool"), ("ports = 5", "ports"), ("ports.x = 5", "ports.x")]
        {
            assert_eq!(
                text(given),
                format!(
                    "a.toml: {path}: expected a table: `[{path}]` and its keys on lines of their own"
                )
            );
        }
        assert_eq!(
            text("[pool]\nframes = 'many'"),
            "a.toml: pool: `frames` cannot be `many`: expected a whole number"
        );
        assert_eq!(
            text("[pool]\nhuge_pages = 2"),
            "a.toml: pool: `huge_pages` cannot be `2`: expected `auto`, `required` or `off`"
        );
        assert_eq!(
            text("[pool]\nframe = 1"),
            "a.toml: pool: unknown key `frame`; accepted are: frame_size, frames, headroom, huge_pages, numa_node"
        );
        assert!(text("[pol]").contains("unknown field `pol`"));
        assert!(text("= 1").starts_with("a.toml: "));
        let file =
            ConfigFile::parse("a.toml", "[ports.x]\nbackend='pcap'\n[ports.y]\nbackend='loop'")
                .unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(file.port("z").unwrap_err().to_string(), "a.toml: no port `z`; it has: x, y");
    }
}
