//! From a table of keys to a typed struct, with errors that name the key and what is accepted.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde_path_to_error::Segment;

use super::Table;
use super::spec::scalar;
use crate::error::Error;

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
/// `#[serde(default)]`. What a value should have been is told by the schema; a type of your own whose values are texts
/// tells it itself, by the error of its `Deserialize`.
///
/// # Errors
/// [`Error::InvalidValue`] with the key, its value and what was expected.
pub fn from_table<T: DeserializeOwned + JsonSchema>(
    context: &str,
    table: &Table,
) -> crate::error::Result<T> {
    let value = toml::Value::Table(table.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let said = error.inner().message().trim();
        // Of a list, or a table within, it is the key that counts.
        let key = match error.path().iter().next() {
            Some(Segment::Map { key }) => key.clone(),
            _ => error.path().to_string(),
        };
        match table.get(&key) {
            Some(value) => Error::InvalidValue {
                context: context.into(),
                value: shown(value),
                expected: expected::<T>(&key, value, said),
                key,
            },
            None => Error::Config { context: context.into(), reason: said.into() },
        }
    })
}

/// Reads an optional path, for `#[serde(deserialize_with = "anyport::config::path")]`. A spec has no quotes, so a file that
/// is called `2024` or `true` comes as a number or a truth value: it is a name all the same.
///
/// # Errors
/// For what is no text, number or truth value, and for an empty text.
pub fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    struct Name;
    impl Visitor<'_> for Name {
        type Value = Option<PathBuf>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                "" => Err(E::custom("expected the name of a file")),
                text => Ok(Some(text.into())),
            }
        }

        fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string().into()))
        }

        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string().into()))
        }

        fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
            Ok(Some(value.to_string().into()))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Name)
}

/// The value as it was given. A text that would be something else without its quotes keeps them.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if scalar(text).is_str() => text.clone(),
        other => other.to_string(),
    }
}

/// What a key takes, in words: those of the value's type if it has some, or else what the schema says. `said` is the
/// error's own text.
fn expected<T: JsonSchema>(key: &str, value: &toml::Value, said: &str) -> String {
    // What serde says where nobody says it better.
    let serdes = ["invalid type: ", "invalid value: ", "unknown variant `", "data did not match"];
    if !serdes.iter().any(|words| said.starts_with(words)) {
        return said.into();
    }
    let schema = schema_of::<T>();
    let of_key = schema.get("properties").and_then(|properties| properties.get(key));
    match of_key.and_then(|schema| describe(schema, value)) {
        Some(words) => format!("expected {words}"),
        None => said.into(),
    }
}

/// What a schema accepts, in words, for somebody who gave that value.
fn describe(schema: &serde_json::Value, value: &toml::Value) -> Option<String> {
    let mut names = Vec::new();
    collect_names(schema, &mut names);
    if !names.is_empty() {
        return Some(any_of(&names));
    }
    // An optional key is of its type or null.
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    if let Some(words) = alternatives.clone().find_map(|schema| describe(schema, value)) {
        return Some(words);
    }
    let types = schema["type"].as_array().map_or(std::slice::from_ref(&schema["type"]), |all| all);
    types.iter().filter_map(|kind| kind.as_str()).find_map(|kind| match kind {
        "boolean" => Some("true or false".into()),
        "integer" => Some(whole_number(schema, value)),
        "number" => Some("a number".into()),
        "array" => Some(r#"a list: `a,b` in a spec, `["a", "b"]` in a file"#.into()),
        "string" => Some(text(schema, value)),
        _ => None,
    })
}

/// The names among which a schema lets choose.
fn collect_names<'a>(schema: &'a serde_json::Value, names: &mut Vec<&'a str>) {
    names.extend(schema["const"].as_str());
    names.extend(schema["enum"].as_array().into_iter().flatten().filter_map(|name| name.as_str()));
    for alternatives in ["oneOf", "anyOf"] {
        for schema in schema[alternatives].as_array().into_iter().flatten() {
            collect_names(schema, names);
        }
    }
}

fn any_of(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// The range is told to somebody who gave a number: within it, what the device takes may be less.
fn whole_number(schema: &serde_json::Value, value: &toml::Value) -> String {
    let greatest = schema["maximum"].as_i64().or(match schema["format"].as_str() {
        Some("uint8") => Some(i64::from(u8::MAX)),
        Some("uint16") => Some(i64::from(u16::MAX)),
        Some("uint32") => Some(i64::from(u32::MAX)),
        _ => None,
    });
    match (schema["minimum"].as_i64(), greatest) {
        (Some(least), Some(greatest)) if value.is_integer() => {
            format!("a whole number from {least} to {greatest}")
        }
        (Some(least), None) if value.is_integer() => format!("a whole number, {least} or more"),
        _ => "a whole number".into(),
    }
}

fn text(schema: &serde_json::Value, value: &toml::Value) -> String {
    match (schema["examples"][0].as_str(), value) {
        (Some(example), _) => format!("a text such as `{example}`"),
        // A spec has no quotes, so it takes what looks like a number for one.
        (None, toml::Value::Integer(_) | toml::Value::Boolean(_)) => {
            format!("a text: \"{value}\" in a file; in a spec, if it is a path, ./{value}")
        }
        _ => "a text".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;
    use std::path::PathBuf;

    use super::*;
    use crate::config::PortConfig;

    fn said<T: DeserializeOwned + JsonSchema + std::fmt::Debug>(text: &str) -> String {
        let table: Table = toml::from_str(text).unwrap();
        from_table::<T>("mock:x", &table).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_value_is_answered_in_words() {
        for (text, words) in [
            (r#"rx_ring = "lots""#, "`rx_ring` cannot be `lots`: expected a whole number"),
            // Quotes that change what it is are shown.
            (r#"rx_ring = "1024""#, r#"`rx_ring` cannot be `"1024"`: expected a whole number"#),
            ("rx_ring = 1.5", "`rx_ring` cannot be `1.5`: expected a whole number"),
            (
                "rx_ring = -1",
                "`rx_ring` cannot be `-1`: expected a whole number from 0 to 4294967295",
            ),
            (
                "rx_queues = 70000",
                "`rx_queues` cannot be `70000`: expected a whole number from 0 to 65535",
            ),
            ("max_frame = -1", "`max_frame` cannot be `-1`: expected a whole number, 0 or more"),
            (r#"shared = "yes""#, "`shared` cannot be `yes`: expected true or false"),
            (r#"shared = "true""#, r#"`shared` cannot be `"true"`: expected true or false"#),
            ("shared = 1", "`shared` cannot be `1`: expected true or false"),
            (
                r#"rx_checksum = "yes""#,
                "`rx_checksum` cannot be `yes`: expected `off`, `auto` or `required`",
            ),
            (
                "rx_checksum = true",
                "`rx_checksum` cannot be `true`: expected `off`, `auto` or `required`",
            ),
            (
                "finish_checksums = 1",
                "`finish_checksums` cannot be `1`: expected `auto`, `on` or `off`",
            ),
            ("mac = 5", "`mac` cannot be `5`: expected a text such as `02:00:00:00:00:01`"),
            ("rss_key = 5", "`rss_key` cannot be `5`: expected a text such as `symmetric`"),
            ("capture = [1]", "`capture` cannot be `[1]`: expected a text"),
            (
                "to_kernel = 7",
                r#"`to_kernel` cannot be `7`: expected a list: `a,b` in a spec, `["a", "b"]` in a file"#,
            ),
            (
                r#"to_kernel = ["arp", 7]"#,
                r#"`to_kernel` cannot be `["arp", 7]`: expected a list: `a,b` in a spec, `["a", "b"]` in a file"#,
            ),
        ] {
            assert_eq!(said::<PortConfig>(text), format!("mock:x: {words}"));
        }
    }

    #[test]
    fn a_path_may_look_like_a_number() {
        let paths = ["5", "2024", "-7", "007", "0", "true", "9223372036854775807", "1e3", "a.pcap"];
        for name in paths {
            let spec: crate::config::Spec = format!("mock:x,capture={name}").parse().unwrap();
            let config: PortConfig = from_table("mock:x", &spec.options).unwrap();
            assert_eq!(config.capture, Some(PathBuf::from(name)));
        }
        assert_eq!(from_table::<PortConfig>("mock:x", &Table::new()).unwrap().capture, None);
    }

    #[test]
    fn what_a_type_says_itself_stays() {
        let mac = said::<PortConfig>(r#"mac = "02:00""#);
        assert!(mac.starts_with("mock:x: `mac` cannot be `02:00`: "), "{mac}");
        assert!(mac.contains("02:00:00:00:00:01") && !mac.contains("expected a text"), "{mac}");
        assert_eq!(
            said::<PortConfig>(r#"rss_key = "abc""#),
            "mock:x: `rss_key` cannot be `abc`: 80 hexadecimal digits, `default` or `symmetric`"
        );
    }

    #[test]
    fn keys_of_a_backend_are_answered_alike() {
        #[derive(Debug, Default, serde::Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[allow(dead_code, reason = "they are only read")]
        enum Pace {
            #[default]
            Asap,
            Original,
        }
        #[derive(Debug, Default, serde::Deserialize, JsonSchema)]
        #[serde(default)]
        #[allow(dead_code, reason = "they are only read")]
        struct Keys {
            ttl: Option<NonZeroU8>,
            pace: Option<Pace>,
            rate: f64,
            shift: i64,
            file: Option<PathBuf>,
        }
        for (text, words) in [
            ("ttl = 0", "`ttl` cannot be `0`: expected a whole number from 1 to 255"),
            (r#"ttl = "a""#, "`ttl` cannot be `a`: expected a whole number"),
            ("pace = 1", "`pace` cannot be `1`: expected `asap` or `original`"),
            (r#"pace = "slow""#, "`pace` cannot be `slow`: expected `asap` or `original`"),
            (r#"rate = "fast""#, "`rate` cannot be `fast`: expected a number"),
            (r#"shift = "far""#, "`shift` cannot be `far`: expected a whole number"),
            ("file = [1]", "`file` cannot be `[1]`: expected a text"),
            (
                "file = 5",
                r#"`file` cannot be `5`: expected a text: "5" in a file; in a spec, if it is a path, ./5"#,
            ),
        ] {
            assert_eq!(said::<Keys>(text), format!("mock:x: {words}"));
        }
    }
}
