//! From a table of keys to a typed struct, with errors that name the key and what is accepted.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::Table;
use crate::error::{Error, Result};

/// The JSON schema of a struct of keys.
pub fn schema_of<T: JsonSchema>() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>()
}

/// The names of the keys in a schema, sorted.
pub(crate) fn names(schema: &schemars::Schema) -> Vec<String> {
    let properties = schema.get("properties").and_then(|value| value.as_object());
    let mut names: Vec<String> =
        properties.into_iter().flatten().map(|(name, _)| name.clone()).collect();
    names.sort();
    names
}

/// Reads a table of keys into a struct; `context` (the spec, or the path in a file) goes into the errors.
///
/// Backends use it for their own keys: derive `Deserialize`, `JsonSchema` and `Default`, with
/// `#[serde(default)]`.
///
/// # Errors
/// [`Error::InvalidValue`] with the key, its value and what was expected.
pub fn from_table<T: DeserializeOwned>(context: &str, table: &Table) -> Result<T> {
    let value = toml::Value::Table(table.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let key = error.path().to_string();
        let expected = error.inner().message().trim().to_owned();
        let shown = |value: &toml::Value| match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match table.get(&key) {
            Some(value) => {
                Error::InvalidValue { context: context.into(), value: shown(value), key, expected }
            }
            None => Error::Config { context: context.into(), reason: expected },
        }
    })
}
