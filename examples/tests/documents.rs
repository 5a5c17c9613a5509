//! The documents against the code: the README's program, the examples' size, and every link.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn documents() -> Vec<PathBuf> {
    let mut all = files(&root().join("docs"), "md");
    all.push(root().join("README.md"));
    all
}

#[test]
fn hello_is_the_program_of_the_readme() {
    let readme = read(root().join("README.md"));
    let shown = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let program = read(root().join("examples/src/bin/hello.rs"));
    let program: String =
        program.lines().filter(|line| !line.starts_with("//!")).map(|l| format!("{l}\n")).collect();
    assert_eq!(program.trim_start(), shown);
}

#[test]
fn examples_are_short_and_say_how_to_run_them() {
    let programs = files(&root().join("examples/src/bin"), "rs");
    let library = read(root().join("examples/src/lib.rs"));
    assert_eq!(programs.len(), 8);
    for path in programs {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = read(&path);
        assert!(text.starts_with("//! "), "{name} does not begin with what it is for");
        assert!(text.lines().count() < 150, "{name} has {} lines", text.lines().count());
        let command = format!("cargo run --release -p anyport-examples --bin {name} -- ");
        assert!(text.contains(&command), "{name} does not say how to run it");
        assert!(library.contains(&format!("//! | `{name}` | ")), "{name} is not in the overview");
    }
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = read(&document);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            // Web pages, and places in the same document.
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let path = document.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(path.exists(), "{}: {target} is not there", document.display());
            links += 1;
        }
    }
    assert_ne!(links, 0);
}

#[test]
fn every_document_is_in_the_list() {
    let folder = root().join("docs");
    let list = read(folder.join("README.md"));
    for document in files(&folder, "md") {
        let name = document.strip_prefix(&folder).unwrap().display().to_string();
        assert!(name == "README.md" || list.contains(&format!("]({name})")), "{name}");
    }
}

#[test]
fn clauses_have_unique_identifiers_in_order() {
    let contract = read(root().join("docs/contract.md"));
    let found: Vec<&str> = contract
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split_once("**").map(|(clause, _)| clause))
        .collect();
    let sections = [
        ("L", 10),
        ("R", 14),
        ("T", 9),
        ("S", 4),
        ("M", 3),
        ("Q", 2),
        ("O", 5),
        ("P", 5),
        ("F", 8),
    ];
    let wanted: Vec<String> = sections
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")))
        .collect();
    assert_eq!(found, wanted);
}

/// The rows of the tables of keys in the configuration guide: key, default, as they stand in it. A row without a meaning
/// behind the default is of another table.
fn documented_keys() -> Vec<(String, String)> {
    let guide = read(root().join("docs/guide/configuration.md"));
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (key, default) = (cells.next()?.strip_suffix('`')?, cells.next()?);
        cells.next().map(|_| (key.to_owned(), default.to_owned()))
    };
    guide.lines().filter_map(row).collect()
}

/// The keys of a schema with the defaults of the struct behind it.
fn keys(schema: &serde_json::Value, defaults: &serde_json::Value) -> Vec<(String, String)> {
    let key = |key: &String| {
        let default = match &defaults[key] {
            serde_json::Value::Null => "–".into(),
            serde_json::Value::Array(list) if list.is_empty() => "–".into(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (key.clone(), default)
    };
    schema["properties"].as_object().into_iter().flat_map(|keys| keys.keys()).map(key).collect()
}

#[test]
fn every_key_is_documented_with_its_default() {
    use anyport::config::schema_of;
    let mut defaults = serde_json::to_value(anyport::PortConfig::default()).unwrap();
    // Written as its 80 digits, and more readable by its name.
    defaults["rss_key"] = "default".into();
    let mut wanted = keys(&schema_of::<anyport::PortConfig>().to_value(), &defaults);
    let pool = serde_json::to_value(anyport::pool::PoolConfig::default()).unwrap();
    wanted.extend(keys(&schema_of::<anyport::pool::PoolConfig>().to_value(), &pool));
    for backend in anyport_backends::registry().backends() {
        let schema = backend.options().to_value();
        // A backend says its defaults in the schema.
        let defaults: serde_json::Map<_, _> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, about)| (key.clone(), about["default"].clone()))
            .collect();
        wanted.extend(keys(&schema, &defaults.into()));
    }
    let mut documented = documented_keys();
    // The table of an offload's values is not of keys.
    wanted.sort();
    documented.sort();
    assert_eq!(documented, wanted);
}

#[test]
fn configuration_files_and_dependencies_in_documents_are_right() {
    let registry = anyport_backends::registry();
    let (mut ports, mut crates) = (0, 0);
    for document in documents() {
        for block in read(&document).split("```toml\n").skip(1) {
            let text = block.split("```").next().unwrap();
            if text.starts_with("[dependencies]") {
                for line in text.lines().filter(|line| line.contains(" = ")) {
                    let (name, rest) = line.split_once(" = ").unwrap();
                    let folder =
                        rest.split('"').nth(1).unwrap().strip_prefix("../anyport/").unwrap();
                    let manifest = read(root().join(folder).join("Cargo.toml"));
                    assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{line}");
                    crates += 1;
                }
                continue;
            }
            let file = anyport::config::ConfigFile::parse("guide", text).unwrap();
            for name in file.names() {
                registry.check(file.port(name).unwrap()).unwrap();
                ports += 1;
            }
        }
    }
    assert_eq!((ports, crates), (2, 7));
}

/// Specs in blocks of text are what a reader copies: their backends, keys and values are there.
#[test]
fn specs_in_documents_are_accepted() {
    let registry = anyport_backends::registry();
    let names: Vec<_> = registry.backends().map(|backend| format!("{}:", backend.name())).collect();
    let mut specs = 0;
    for document in documents() {
        let text = read(&document);
        let blocks =
            text.split("```text\n").skip(1).map(|block| block.split("```").next().unwrap());
        for word in blocks.flat_map(str::split_whitespace) {
            if names.iter().any(|name| word.starts_with(name)) {
                let checked = word.parse().and_then(|spec| registry.check(&spec));
                assert!(checked.is_ok(), "{}: {word}: {checked:?}", document.display());
                specs += 1;
            }
        }
    }
    assert_ne!(specs, 0);
}

#[test]
fn the_backend_guide_shows_the_code_that_is_there() {
    let code = read(root().join("examples/src/bin/backend.rs"))
        + &read(root().join("examples/tests/udp.rs"));
    let guide = read(root().join("docs/guide/writing-a-backend.md"));
    let shown: Vec<&str> =
        guide.split("```rs\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(shown.len(), 7);
    for block in shown {
        assert!(code.contains(block), "it is not in the example:\n{block}");
    }
}
