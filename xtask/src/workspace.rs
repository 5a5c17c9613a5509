//! The workspace: where things are, and cargo as a child process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::proc::{self, Stream};

/// A cold build on a slow machine; anything longer hangs.
pub const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// The workspace's folders.
pub struct Workspace {
    /// The folder of the root Cargo.toml.
    pub root: PathBuf,
    /// The folder for everything that is built or reported.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let mut metadata = proc::command(cargo_program());
        metadata.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]);
        metadata.arg(manifest);
        Self::parse(&proc::output(&mut metadata, Duration::from_secs(120))?)
    }

    fn parse(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json).context("cargo metadata")?;
        let text = |key: &str| {
            value[key].as_str().map(PathBuf::from).with_context(|| format!("no {key} in metadata"))
        };
        Ok(Self { root: text("workspace_root")?, target: text("target_directory")? })
    }

    /// A cargo command in the workspace.
    pub fn cargo(&self, args: &[&str]) -> Command {
        let mut command = proc::command(cargo_program());
        command.current_dir(&self.root).args(args);
        // `cargo run` sets these for this program; they are not for the programs that it builds.
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&key);
            }
        }
        if !crate::term::colours() {
            command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
        }
        command
    }

    /// Makes a folder under the target folder.
    pub fn output_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Builds a binary and says where cargo put it.
    pub fn build_binary(&self, package: &str, binary: &str, release: bool) -> Result<PathBuf> {
        let mut build = self.cargo(&["build", "--package", package, "--bin", binary]);
        build.arg("--message-format=json-render-diagnostics");
        if release {
            build.arg("--release");
        }
        let out = proc::run_with(&mut build, BUILD_LIMIT, Stream::Keep, Stream::Inherit)?;
        if !out.status.success() {
            bail!("{} does not build", binary);
        }
        executable(&out.stdout, binary).with_context(|| format!("cargo built no binary {binary}"))
    }
}

/// The path of a binary in cargo's machine-readable messages.
fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|m| {
        let wanted = m["reason"] == "compiler-artifact" && m["target"]["name"] == binary;
        if wanted { m["executable"].as_str().map(PathBuf::from) } else { None }
    })
}

/// The cargo that runs this program, so that a toolchain override stays in force.
fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_knows_itself() {
        let ws = Workspace::find().unwrap();
        assert!(ws.root.join("xtask/Cargo.toml").exists());
    }

    #[test]
    fn executables_are_found_in_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"anyport"},"executable":null}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"anyport"},"executable":"/t/anyport"}"#,
            "\n",
        );
        assert_eq!(executable(messages, "anyport"), Some(PathBuf::from("/t/anyport")));
        assert_eq!(executable(messages, "other"), None);
    }
}
