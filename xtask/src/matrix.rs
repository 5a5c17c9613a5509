//! `cargo xtask matrix`: the README's capability and conformance matrix, from the reports of a run.
//!
//! The conformance steps leave a JSON report per rig under `target/reports`; the tool turns them into Markdown, which stands
//! in the README between two markers. The step `readme` of the tests fails when what stands there is not what the run
//! has shown, so the matrix is never typed and never old.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::proc;
use crate::workspace::Workspace;

/// The rigs that are columns of the matrix.
pub const RIGS: [&str; 5] =
    ["loop", "loop-offloads", "pcap-veth", "af_xdp-veth", "af_xdp-veth-generic"];

const BEGIN: &str = "<!-- matrix:begin -->";
const END: &str = "<!-- matrix:end -->";

/// Where the conformance step of a rig leaves its report; without an extension.
pub fn report(ws: &Workspace, rig: &str) -> Result<PathBuf> {
    Ok(ws.output_dir("reports")?.join(format!("conformance-{rig}")))
}

/// The rigs of which there is no report.
pub fn missing(ws: &Workspace) -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for rig in RIGS {
        if !report(ws, rig)?.with_extension("json").exists() {
            missing.push(rig);
        }
    }
    Ok(missing)
}

/// Writes the matrix into the README.
pub fn write(ws: &Workspace) -> Result<bool> {
    let path = ws.root.join("README.md");
    let readme = std::fs::read_to_string(&path).context("reading README.md")?;
    let new = replace(&readme, &render(ws)?)?;
    match new == readme {
        true => println!("the matrix in README.md is the run's already"),
        false => {
            std::fs::write(&path, new).context("writing README.md")?;
            println!("the matrix in README.md is the run's now");
        }
    }
    Ok(true)
}

/// Fails unless the README has the matrix of this run.
pub fn check(ws: &Workspace) -> Result<()> {
    let readme = std::fs::read_to_string(ws.root.join("README.md")).context("reading README.md")?;
    let new = replace(&readme, &render(ws)?)?;
    if let Some((old, new)) = readme.lines().zip(new.lines()).find(|(old, new)| old != new) {
        bail!(
            "README.md's matrix is not this run's (`cargo xtask matrix` writes it):\n  README {old}\n  run    {new}"
        );
    }
    ensure!(new == readme, "README.md's matrix is not this run's: `cargo xtask matrix` writes it");
    Ok(())
}

fn render(ws: &Workspace) -> Result<String> {
    let missing = missing(ws)?;
    ensure!(
        missing.is_empty(),
        "no report of {}: run `cargo xtask test {}` first",
        missing.join(", "),
        RIGS.map(|rig| format!("conformance-{rig}")).join(" ")
    );
    let anyport = ws.build_binary("anyport-cli", "anyport", true)?;
    let mut command = proc::command(anyport);
    command.args(["conformance", "--matrix"]);
    for rig in RIGS {
        command.arg(report(ws, rig)?.with_extension("json"));
    }
    proc::output(&mut command, Duration::from_secs(60))
}

/// The README with another matrix.
fn replace(readme: &str, matrix: &str) -> Result<String> {
    let (before, rest) =
        readme.split_once(BEGIN).context("README.md has no matrix:begin marker")?;
    let (_, after) = rest.split_once(END).context("README.md has no matrix:end marker")?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", matrix.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let readme = format!("# A\n{BEGIN}\nold\n{END}\nrest\n");
        let new = replace(&readme, "| a |\n").unwrap();
        assert_eq!(new, format!("# A\n{BEGIN}\n| a |\n{END}\nrest\n"));
        assert_eq!(replace(&new, "| a |").unwrap(), new);
        assert!(replace("# A", "x").is_err());
    }
}
