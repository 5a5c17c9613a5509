//! Child processes that never outlive this program.
//!
//! Every child leads its own process group, so that it is stopped together with what it started, and is killed
//! by the kernel if this program dies first (`PR_SET_PDEATHSIG`). SIGINT and SIGTERM are caught: every wait in
//! here then returns [`Interrupted`], the callers unwind, and the `Drop` of each [`Child`] stops its group.
//! All waits are bounded.
//!
//! Traps: the kernel ties `PR_SET_PDEATHSIG` to the *thread* that forked, so children are started from the main
//! thread only. A process that leaves its group (a daemon) escapes the group's signals; [`become_subreaper`]
//! makes such orphans children of this program, and [`end_orphans`] finds and ends them.

mod child;
mod orphans;
mod signals;
#[cfg(test)]
mod tests;

use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use child::{Child, Stream};
pub use orphans::{become_subreaper, die_with_parent, end_orphans};
pub use signals::{Interrupted, catch_signals, check_interrupted};

/// A command whose executable is looked for in the system directories too (`ethtool` and `ip` live in
/// `/usr/sbin`, which an ordinary user's PATH does not hold), with output in one language.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path()).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// PATH with the system directories added.
pub fn search_path() -> String {
    let mut path = std::env::var("PATH").unwrap_or_default();
    for dir in ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        if !path.split(':').any(|d| d == dir) {
            path.push(':');
            path.push_str(dir);
        }
    }
    path
}

/// Whether a program is found on the search path.
pub fn have(program: &str) -> bool {
    search_path().split(':').any(|dir| std::path::Path::new(dir).join(program).is_file())
}

/// A command as a user would type it.
pub fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    let words: Vec<String> = std::iter::once(program)
        .chain(command.get_args())
        .map(|w| {
            let w = w.to_string_lossy();
            if w.is_empty() || w.contains(|c: char| c.is_whitespace() || "'\"$&|;<>()*".contains(c))
            {
                format!("'{w}'")
            } else {
                w.into_owned()
            }
        })
        .collect();
    words.join(" ")
}

/// What a finished command gave.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, if that was kept.
    pub stdout: String,
    /// Its standard error, if that was kept.
    pub stderr: String,
}

/// Runs a command to its end, at most `limit`.
pub fn run_with(
    command: &mut Command,
    limit: Duration,
    stdout: Stream,
    stderr: Stream,
) -> Result<Output> {
    let mut child = Child::spawn(command, stdout, stderr)?;
    let status = child.wait(limit)?;
    Ok(Output { status, stdout: child.stdout(), stderr: child.stderr() })
}

/// Runs a command whose output goes where ours goes; says whether it succeeded.
pub fn run(command: &mut Command, limit: Duration) -> Result<bool> {
    Ok(run_with(command, limit, Stream::Inherit, Stream::Inherit)?.status.success())
}

/// Runs a command quietly; gives its output whatever its exit status.
pub fn capture(command: &mut Command, limit: Duration) -> Result<Output> {
    run_with(command, limit, Stream::Keep, Stream::Keep)
}

/// Runs a command quietly and gives its standard output; an exit status other than 0 is an error.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let out = capture(command, limit)?;
    if !out.status.success() {
        let said = if out.stderr.trim().is_empty() { &out.stdout } else { &out.stderr };
        bail!("`{}` failed ({}): {}", describe(command), out.status, tail(said));
    }
    Ok(out.stdout)
}

/// The last lines of a program's output, where the reason of a failure usually is.
fn tail(text: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Asks `ready` again and again (every 10 ms: for what the kernel tells nobody about) until it gives a value.
pub fn poll_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        check_interrupted()?;
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
