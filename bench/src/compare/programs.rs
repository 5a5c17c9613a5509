//! The programs that are compared: how each is started, and how it ends.
//!
//! Traps:
//! - testpmd's AF_XDP driver attaches its program for good: it has to end by a signal that it catches, and what it left is
//!   removed from the interface afterwards.
//! - Two threads of DPDK's are pinned, one of which only waits; the one that works is put where the other programs run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::topology::ip;

/// How long a program may take to end after a signal.
const PATIENCE: Duration = Duration::from_secs(5);

/// A program to be started.
#[derive(Debug)]
pub struct Program {
    command: Command,
    /// Interfaces on which it may leave a program behind.
    leaves: Vec<String>,
}

impl Program {
    /// `anyport` with these arguments, which stand with spaces between them, on a core.
    ///
    /// # Errors
    /// It has not been built.
    pub fn anyport(core: usize, arguments: &str) -> Result<Program> {
        Ok(Program::on_core(
            core,
            &beside("anyport", "cargo build --release -p anyport-cli")?,
            arguments,
        ))
    }

    /// A bare AF_XDP program ([`crate::bare`]).
    ///
    /// # Errors
    /// It has not been built.
    pub fn bare(core: usize, arguments: &str) -> Result<Program> {
        let program = beside("anyport-bench-bare", "cargo build --release -p anyport-bench")?;
        Ok(Program::on_core(core, &program, arguments))
    }

    /// The bare libpcap loop: this program, with other arguments.
    ///
    /// # Errors
    /// The system's.
    pub fn inject(core: usize, interface: &str) -> Result<Program> {
        let program = std::env::current_exe()?;
        Ok(Program::on_core(core, &program, &format!("--inject {interface}")))
    }

    /// `dpdk-testpmd` with virtual devices, which work on a core.
    pub fn testpmd(core: usize, devices: &[&str], arguments: &str) -> Program {
        // Files of its own: several run at the same time.
        let interfaces =
            devices.iter().filter_map(|device| device.split_once("iface=").map(|(_, name)| name));
        let leaves: Vec<String> =
            interfaces.map(|name| name.split(',').next().unwrap_or(name).to_owned()).collect();
        let mut command = Command::new("dpdk-testpmd");
        command.args(["--no-huge", "-m", "256", "--no-pci"]);
        command.arg(format!("--file-prefix=compare{}{}", std::process::id(), leaves.concat()));
        command.arg(format!("--lcores=0@{},1@{core}", 1 - core));
        for device in devices {
            command.args(["--vdev", device]);
        }
        command.args(["--", "--auto-start", "--total-num-mbufs=16384", "--stats-period=60"]);
        command.args(arguments.split(' '));
        Program { command, leaves }
    }

    fn on_core(core: usize, program: &Path, arguments: &str) -> Program {
        let mut command = Command::new("taskset");
        command.args(["-c", &core.to_string()]).arg(program).args(arguments.split(' '));
        Program { command, leaves: Vec::new() }
    }

    /// Starts it.
    ///
    /// # Errors
    /// It is not there.
    pub fn start(mut self) -> Result<Running> {
        let command = self.command.stdin(Stdio::null()).stdout(Stdio::null());
        // What it says shows why a measurement fails.
        let command = match std::env::var_os("ANYPORT_BENCH_VERBOSE") {
            Some(_) => command.stderr(Stdio::inherit()),
            None => command.stderr(Stdio::null()),
        };
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Running { child, leaves: self.leaves })
    }
}

/// Whether DPDK's testpmd is there; why not, otherwise.
///
/// # Errors
/// Why it cannot be run.
pub fn has_testpmd() -> std::io::Result<()> {
    let mut command = Command::new("dpdk-testpmd");
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
}

/// A program beside this one.
fn beside(name: &str, build: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} is not there: `{build}`", path.display());
    Ok(path)
}

/// A program that runs, and ends with this value.
#[derive(Debug)]
pub struct Running {
    child: Child,
    leaves: Vec<String>,
}

impl Running {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended.
    ///
    /// # Errors
    /// With how it ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!(
                "a program of the comparison has ended ({status}); ANYPORT_BENCH_VERBOSE=1 shows what it says"
            ),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It fails, or does not end in time.
    pub fn finish(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "a program of the comparison has failed ({status})");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "a program of the comparison does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The time for which it has had a core.
    ///
    /// # Errors
    /// It has ended.
    pub fn core_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.id());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        // Behind the name, which may contain anything: state is field 3, utime 14, stime 15.
        let fields =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        let ticks = fields.and_then(|fields| {
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        });
        let ticks = ticks.with_context(|| format!("{path} is not as expected"))?;
        // SAFETY: no pointers.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
        Ok(Duration::from_millis(ticks * 1000 / per_second))
    }

    /// Of its threads that are there now, the times for which each has had a core, and has waited for one.
    pub fn threads(&self) -> Threads {
        let of = |entry: std::io::Result<std::fs::DirEntry>| -> Option<(u64, Turns)> {
            let path = entry.ok()?.path();
            let all = std::fs::read_to_string(path.join("schedstat")).ok()?;
            let mut times =
                all.split(' ').map_while(|word| word.parse().ok().map(Duration::from_nanos));
            let turns = Turns { ran: times.next()?, waited: times.next()? };
            Some((path.file_name()?.to_str()?.parse().ok()?, turns))
        };
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        Threads(threads.map_or_else(|_| HashMap::new(), |threads| threads.filter_map(of).collect()))
    }
}

/// How a thread's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turns {
    /// It had a core.
    pub ran: Duration,
    /// It wanted one, and others had it.
    pub waited: Duration,
}

impl Turns {
    /// The part of the time in which it wanted a core for which it had one.
    pub fn share(&self) -> f64 {
        let wanted = self.ran + self.waited;
        if wanted.is_zero() { 1.0 } else { self.ran.as_secs_f64() / wanted.as_secs_f64() }
    }
}

/// The threads of a program, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Threads(HashMap<u64, Turns>);

impl Threads {
    /// Since `before`, the times of the thread that has had a core for the longest time: the one that does the work.
    pub fn busiest_since(&self, before: &Threads) -> Turns {
        let since = |(thread, now): (&u64, &Turns)| {
            let before = before.0.get(thread).copied().unwrap_or_default();
            Turns {
                ran: now.ran.saturating_sub(before.ran),
                waited: now.waited.saturating_sub(before.waited),
            }
        };
        self.0.iter().map(since).max_by_key(|turns| turns.ran).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for interface in &self.leaves {
            let _ = ip(&format!("link set {interface} xdp off"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(ran: u64, waited: u64) -> Turns {
        Turns { ran: Duration::from_millis(ran), waited: Duration::from_millis(waited) }
    }

    #[test]
    fn the_busiest_thread_is_the_one_that_ran_most_in_between() {
        let before = Threads(HashMap::from([(1, turns(500, 0)), (2, turns(10, 5))]));
        let after =
            Threads(HashMap::from([(1, turns(510, 90)), (2, turns(40, 15)), (3, turns(20, 0))]));
        assert_eq!(after.busiest_since(&before), turns(30, 10));
        assert_eq!(after.busiest_since(&before).share(), 0.75);
        assert_eq!(before.busiest_since(&before).share(), 1.0);
    }
}
