//! Processes that their parents left behind: made children of this program, found, and ended.

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long an orphan may take to end by itself.
const PARTING: Duration = Duration::from_secs(1);

static SUBREAPER: AtomicBool = AtomicBool::new(false);
/// The children that are owned by a [`Child`](super::Child): all others are orphans.
static OWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Whether [`become_subreaper`] was called.
pub(super) fn is_subreaper() -> bool {
    SUBREAPER.load(Ordering::Relaxed)
}

/// Makes processes whose parents have died children of this one, so that [`end_orphans`] can find them.
pub fn become_subreaper() -> Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes plain integers.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error()).context("prctl(PR_SET_CHILD_SUBREAPER)");
    }
    SUBREAPER.store(true, Ordering::Relaxed);
    Ok(())
}

/// Makes this process end when its parent does; for one that was started again by itself through a helper that
/// may have cleared the wish.
pub fn die_with_parent() -> Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes plain integers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
        return Err(io::Error::last_os_error()).context("prctl(PR_SET_PDEATHSIG)");
    }
    Ok(())
}

/// Ends processes that were left behind by children that are gone, and names them. One that is just ending (its
/// parent killed it and did not wait) gets a second to do so and is not named.
pub fn end_orphans() -> Vec<String> {
    let deadline = Instant::now() + PARTING;
    while !live_orphans().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut found = Vec::new();
    // Bounded: each round ends one generation of orphans, whose own children then become ours.
    for _ in 0..16 {
        let orphans = live_orphans();
        if orphans.is_empty() {
            break;
        }
        for (pid, name) in orphans {
            // SAFETY: plain integers; the process is our unreaped child, so the id is its.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            found.push(format!("{name} (process {pid})"));
        }
    }
    found
}

/// Children of ours that no [`Child`](super::Child) owns and that still run; those that have ended are reaped.
fn live_orphans() -> Vec<(i32, String)> {
    let mut live = Vec::new();
    for (pid, name, zombie) in children_of(std::process::id() as i32) {
        if owned().contains(&pid) {
            continue;
        }
        if zombie {
            // SAFETY: plain integers; it is our child and has ended, so this returns at once.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        } else {
            live.push((pid, name));
        }
    }
    live
}

/// The ids of the children that a [`Child`](super::Child) owns.
pub(super) fn owned() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    OWNED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The children of a process: id, name, whether it has ended and only waits to be reaped.
fn children_of(parent: i32) -> Vec<(i32, String, bool)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, state, ppid) = parse_stat(&stat)?;
        (ppid == parent).then(|| (pid, name.to_owned(), state == "Z"))
    })
    .collect()
}

/// Name, state and parent from a line of `/proc/PID/stat`; the name may itself hold spaces and brackets.
pub(super) fn parse_stat(stat: &str) -> Option<(&str, &str, i32)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    Some((name, fields.next()?, fields.next()?.parse().ok()?))
}
