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

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a process group gets between the polite signal and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How long output is still awaited once the child itself has ended (a grandchild may hold the pipe).
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long an orphan may take to end by itself.
const PARTING: Duration = Duration::from_secs(1);
/// What is kept of each captured stream; older bytes are dropped.
const KEEP: usize = 8 << 20;

static CAUGHT: AtomicI32 = AtomicI32::new(0);
static SUBREAPER: AtomicBool = AtomicBool::new(false);
static WAKE_READ: AtomicI32 = AtomicI32::new(-1);
static WAKE_WRITE: AtomicI32 = AtomicI32::new(-1);
/// The children that are owned by a [`Child`]: all others are orphans.
static OWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A SIGINT or SIGTERM arrived; the value is the signal's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted(pub i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0 == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
        write!(f, "interrupted by {name}")
    }
}

impl std::error::Error for Interrupted {}

extern "C" fn on_signal(signal: libc::c_int) {
    let _ = CAUGHT.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    let fd = WAKE_WRITE.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe; the buffer is one live byte. A full pipe (EAGAIN) already wakes.
    unsafe { libc::write(fd, [1u8].as_ptr().cast(), 1) };
}

/// Catches SIGINT, SIGTERM and SIGHUP for the rest of the process.
pub fn catch_signals() -> Result<()> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` is room for the two descriptors that pipe2 writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error()).context("pipe2");
    }
    // Both ends stay open for the life of the process: the handler may run at any time.
    WAKE_READ.store(ends[0], Ordering::Relaxed);
    WAKE_WRITE.store(ends[1], Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a zeroed sigaction is valid (no flags, empty mask); the handler is async-signal-safe.
        let rc = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if rc != 0 {
            return Err(io::Error::last_os_error()).context("sigaction");
        }
    }
    Ok(())
}

/// Fails with [`Interrupted`] once a signal has arrived.
pub fn check_interrupted() -> Result<()> {
    match CAUGHT.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Interrupted(signal).into()),
    }
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

/// Children of ours that no [`Child`] owns and that still run; those that have ended are reaped.
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

fn owned() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
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
fn parse_stat(stat: &str) -> Option<(&str, &str, i32)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    Some((name, fields.next()?, fields.next()?.parse().ok()?))
}

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

/// What happens to one output stream of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The child writes where this program writes.
    Inherit,
    /// Kept, to be read with [`Child::stdout`] or [`Child::stderr`].
    Keep,
    /// Kept, and also passed on to this program's standard output as it comes.
    Tee,
}

/// One captured stream.
#[derive(Default)]
struct Pipe {
    fd: Option<OwnedFd>,
    kept: Vec<u8>,
    tee: bool,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>, tee: bool) -> Result<Self> {
        if let Some(fd) = &fd {
            // SAFETY: F_SETFL on a descriptor that we own.
            if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
                return Err(io::Error::last_os_error()).context("fcntl(O_NONBLOCK)");
            }
        }
        Ok(Self { fd, kept: Vec::new(), tee })
    }

    /// Takes what is there; forgets the descriptor at the end of the stream.
    fn pump(&mut self) -> Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let mut file = std::fs::File::from(fd.try_clone().context("dup")?);
        let mut chunk = [0u8; 16 << 10];
        // Bounded, so that a flood of output cannot starve the deadline.
        for _ in 0..64 {
            match file.read(&mut chunk) {
                Ok(0) => {
                    self.fd = None;
                    break;
                }
                Ok(n) => {
                    if self.tee {
                        drop(io::stdout().write_all(&chunk[..n]));
                        drop(io::stdout().flush());
                    }
                    self.kept.extend_from_slice(&chunk[..n]);
                    if self.kept.len() > KEEP {
                        self.kept.drain(..self.kept.len() - KEEP / 2);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("reading a child's output"),
            }
        }
        Ok(())
    }
}

/// A running child; stopped with its whole process group when dropped.
pub struct Child {
    inner: std::process::Child,
    pidfd: OwnedFd,
    what: String,
    stdout: Pipe,
    stderr: Pipe,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts a command. `stdout` and `stderr` say what happens to its output.
    pub fn spawn(command: &mut Command, stdout: Stream, stderr: Stream) -> Result<Self> {
        check_interrupted()?;
        let what = describe(command);
        let stdio = |s| if s == Stream::Inherit { Stdio::inherit() } else { Stdio::piped() };
        command.stdout(stdio(stdout)).stderr(stdio(stderr)).process_group(0);
        let parent = std::process::id() as i32;
        // SAFETY: the closure runs between fork and exec and calls only async-signal-safe functions.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before the prctl.
                if libc::getppid() != parent {
                    libc::_exit(127);
                }
                Ok(())
            })
        };
        crate::term::flush();
        let mut inner = command.spawn().with_context(|| {
            format!("cannot start `{what}` (is {:?} installed?)", command.get_program())
        })?;
        let pid = inner.id() as i32;
        owned().insert(pid);
        // SAFETY: pidfd_open takes plain integers; the child is not reaped yet, so the id is its.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd;
        if fd < 0 {
            let error = io::Error::last_os_error();
            drop(inner.kill());
            drop(inner.wait());
            owned().remove(&pid);
            return Err(error).context("pidfd_open (Linux 5.3 or later is needed)");
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let out = Pipe::new(inner.stdout.take().map(Into::into), stdout == Stream::Tee)?;
        let err = Pipe::new(inner.stderr.take().map(Into::into), stderr == Stream::Tee)?;
        Ok(Self { inner, pidfd, what, stdout: out, stderr: err, status: None })
    }

    /// Process id.
    #[cfg(test)]
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// What it has written to a kept standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.kept).into_owned()
    }

    /// What it has written to a kept standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.kept).into_owned()
    }

    /// Waits for the end, at most `limit`; output is taken meanwhile. An error if it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        if !self.pump_until(deadline, true, |_| false)? {
            bail!("`{}` did not end within {} s{}", self.what, limit.as_secs(), self.last_words());
        }
        self.status.context("child without a status")
    }

    #[cfg(test)]
    /// Waits until `ready` holds of what the child has written so far (it is asked again whenever something
    /// arrives). An error if the child ends first or `limit` passes.
    pub fn wait_until(&mut self, limit: Duration, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        if self.pump_until(deadline, true, &ready)? {
            if ready(self) {
                return Ok(());
            }
            bail!("`{}` ended too early{}", self.what, self.last_words());
        }
        bail!("`{}` was not ready within {} s{}", self.what, limit.as_secs(), self.last_words());
    }

    /// Takes output for a while or until the child has ended; says whether it has ended.
    pub fn pump_for(&mut self, time: Duration) -> Result<bool> {
        self.pump_until(Instant::now() + time, true, |_| false)
    }

    /// Sends a signal to the child alone (its group is signalled by [`Child::stop`]).
    pub fn signal(&self, signal: i32) {
        if self.status.is_none() {
            // SAFETY: kill(2) has no memory effects; the child is not reaped, so the id is its.
            unsafe { libc::kill(self.inner.id() as i32, signal) };
        }
    }

    /// Ends the whole group: `signal`, then SIGKILL after a grace period. Never fails, never hangs.
    pub fn stop(&mut self, signal: i32) -> Option<ExitStatus> {
        self.signal_group(signal);
        if !self.pump_until(Instant::now() + GRACE, false, |_| false).unwrap_or(false) {
            self.signal_group(libc::SIGKILL);
            drop(self.pump_until(Instant::now() + GRACE, false, |_| false));
        }
        // Members of the group that outlived its leader.
        self.signal_group(libc::SIGKILL);
        self.status
    }

    fn signal_group(&self, signal: i32) {
        // SAFETY: kill(2) has no memory effects. The group's id cannot have been taken by others: the leader is
        // not reaped before `drop` (see `pump_until`), which pins the id.
        unsafe { libc::kill(-(self.inner.id() as i32), signal) };
    }

    fn last_words(&self) -> String {
        let text = if self.stderr.kept.is_empty() { self.stdout() } else { self.stderr() };
        if text.trim().is_empty() { String::new() } else { format!("; it said:\n{}", tail(&text)) }
    }

    /// Takes output until the child has ended (true), `done` holds (true) or the deadline passes (false).
    fn pump_until(
        &mut self,
        mut deadline: Instant,
        interruptible: bool,
        done: impl Fn(&Self) -> bool,
    ) -> Result<bool> {
        loop {
            if interruptible {
                check_interrupted()?;
            }
            self.stdout.pump()?;
            self.stderr.pump()?;
            if done(self) {
                return Ok(true);
            }
            let open = self.stdout.fd.is_some() || self.stderr.fd.is_some();
            if self.status.is_some() && !open {
                return Ok(true);
            }
            let fd = |pipe: &Pipe| pipe.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let wake = if interruptible { WAKE_READ.load(Ordering::Relaxed) } else { -1 };
            let child = if self.status.is_some() { -1 } else { self.pidfd.as_raw_fd() };
            let mut fds = [poll(child), poll(fd(&self.stdout)), poll(fd(&self.stderr)), poll(wake)];
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the last wait does not end just before the deadline; 0 looks once.
            let ms = left.as_nanos().div_ceil(1_000_000).min(60_000) as i32;
            // SAFETY: `fds` is live and its length is passed; negative descriptors are ignored by poll(2).
            let rc = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, ms) };
            if rc < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return Err(io::Error::last_os_error()).context("poll");
            }
            if rc > 0 && fds[0].revents != 0 {
                self.status = Some(self.peek_status()?);
                deadline = deadline.min(Instant::now() + LAST_WORDS);
            }
            if rc == 0 && left.is_zero() {
                return Ok(self.status.is_some());
            }
        }
    }

    /// The exit status of a child that has ended, without reaping it: its id, which is also the group's id,
    /// must not be given to another process while the group may still be signalled.
    fn peek_status(&self) -> Result<ExitStatus> {
        use std::os::unix::process::ExitStatusExt;
        // SAFETY: a zeroed siginfo_t is valid, and waitid fills it; the fields read are those of SIGCHLD.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT;
            if libc::waitid(libc::P_PID, self.inner.id(), &mut info, flags) != 0 {
                return Err(io::Error::last_os_error()).context("waitid");
            }
            let status = info.si_status();
            let raw = if info.si_code == libc::CLD_EXITED { status << 8 } else { status };
            Ok(ExitStatus::from_raw(raw))
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.stop(libc::SIGTERM);
        } else if !SUBREAPER.load(Ordering::Relaxed) {
            self.signal_group(libc::SIGKILL);
        }
        // What a subreaper's child leaves in its group is left to `end_orphans`, which names it.
        let pid = self.inner.id() as i32;
        drop(self.inner.wait());
        owned().remove(&pid);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const LONG: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Command {
        let mut c = command("sh");
        c.arg("-c").arg(script);
        c
    }

    fn alive(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        parse_stat(&stat).is_some_and(|(_, state, _)| state != "Z" && state != "X")
    }

    fn gone(pid: i32) {
        let check = || Ok((!alive(pid)).then_some(()));
        poll_for("end of a process", LONG, check).expect("the process must end");
    }

    #[test]
    fn output_and_status_are_reported() {
        let out = capture(&mut sh("echo out; echo err >&2; exit 3"), LONG).unwrap();
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(out.status.code(), Some(3));
        let error = output(&mut sh("echo bad thing >&2; exit 1"), LONG).unwrap_err().to_string();
        assert!(error.contains("bad thing") && error.contains("sh -c"), "{error}");
        let error = output(&mut sh("seq 100; exit 1"), LONG).unwrap_err().to_string();
        assert!(error.ends_with("\n99\n100") && !error.contains("88"), "only the end: {error}");
        let out = capture(&mut sh("kill -9 $$"), LONG).unwrap();
        assert_eq!(out.status.signal(), Some(9));
    }

    #[test]
    fn more_output_than_a_pipe_holds_does_not_block() {
        let out = capture(&mut sh("head -c 1000000 /dev/zero"), LONG).unwrap();
        assert_eq!(out.stdout.len(), 1_000_000);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = capture(&mut command("no-such-program-anywhere"), LONG).err().unwrap();
        assert!(error.to_string().contains("no-such-program-anywhere"), "{error}");
        assert!(!have("no-such-program-anywhere"));
        assert!(have("sh"));
    }

    #[test]
    fn the_limit_ends_the_whole_group() {
        // The grandchild's id comes first; the shell then waits for it for ever.
        let mut child =
            Child::spawn(&mut sh("sleep 1000 & echo $!; wait"), Stream::Keep, Stream::Keep)
                .unwrap();
        child.wait_until(LONG, |c| c.stdout().ends_with('\n')).unwrap();
        let grandchild: i32 = child.stdout().trim().parse().unwrap();
        let own = child.id() as i32;
        assert!(alive(grandchild) && alive(own));
        let error = child.wait(Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
        drop(child);
        gone(own);
        gone(grandchild);
    }

    #[test]
    fn a_grandchild_that_outlives_its_parent_dies_with_the_handle() {
        let mut child = Child::spawn(
            &mut sh("sleep 1000 >/dev/null 2>&1 & echo $!"),
            Stream::Keep,
            Stream::Keep,
        )
        .unwrap();
        assert!(child.wait(LONG).unwrap().success());
        let grandchild: i32 = child.stdout().trim().parse().unwrap();
        assert!(alive(grandchild));
        drop(child);
        gone(grandchild);
    }

    #[test]
    fn stop_gives_the_status_of_a_clean_end() {
        let mut child = Child::spawn(
            &mut sh("trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.05; done"),
            Stream::Keep,
            Stream::Keep,
        )
        .unwrap();
        child.wait_until(LONG, |c| c.stdout().contains("ready")).unwrap();
        assert_eq!(child.stop(libc::SIGINT).unwrap().code(), Some(7));
        assert!(child.stdout().contains("bye"));
    }

    #[test]
    fn a_look_without_waiting_notices_the_end() {
        let mut child = Child::spawn(&mut sh("exit 5"), Stream::Keep, Stream::Keep).unwrap();
        let look = || Ok(child.pump_for(Duration::ZERO)?.then_some(()));
        poll_for("the end to be noticed", LONG, look).unwrap();
        assert_eq!(child.wait(LONG).unwrap().code(), Some(5));
    }

    #[test]
    fn waiting_for_a_line_notices_an_early_end() {
        let mut child = Child::spawn(&mut sh("echo other"), Stream::Keep, Stream::Keep).unwrap();
        let error = child.wait_until(LONG, |c| c.stdout().contains("ready")).unwrap_err();
        assert!(error.to_string().contains("ended too early"), "{error}");
    }

    #[test]
    fn stat_lines_with_odd_names_are_read() {
        assert_eq!(parse_stat("7 (a) b) (c) S 42 1 1"), Some(("a) b) (c", "S", 42)));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut c = command("ping");
        c.args(["-c", "1", "a b", ""]);
        assert_eq!(describe(&c), "ping -c 1 'a b' ''");
    }

    /// Runs one test of this file in a process of its own, with a variable that tells it to play its part:
    /// orphans and signal handlers belong to a process, and the other tests share this one.
    fn this_test_alone(test: &str) -> Command {
        let mut c = command(std::env::current_exe().unwrap());
        c.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("XTASK_TEST_ALONE", test);
        c
    }

    fn alone() -> bool {
        std::env::var_os("XTASK_TEST_ALONE").is_some()
    }

    #[test]
    fn orphans_are_found_and_ended() {
        if alone() {
            become_subreaper().unwrap();
            // One sleep stays in the group of its parent, two leave it.
            let script = "sleep 1000 >/dev/null 2>&1 & \
                          setsid sh -c 'sleep 1001 >/dev/null 2>&1 & \
                          echo started; exec sleep 1002 >/dev/null 2>&1' &";
            let mut child = Child::spawn(&mut sh(script), Stream::Keep, Stream::Keep).unwrap();
            child.wait_until(LONG, |c| c.stdout().contains("started")).unwrap();
            assert!(child.wait(LONG).unwrap().success());
            drop(child);
            let kept = Child::spawn(&mut sh("sleep 1003; :"), Stream::Keep, Stream::Keep).unwrap();
            let names = end_orphans();
            assert_eq!(names.len(), 3, "{names:?}");
            assert!(alive(kept.id() as i32), "a child that is still owned is no orphan");
            drop(kept);
            assert_eq!(end_orphans(), Vec::<String>::new());
            println!("orphans: done");
        } else {
            let out =
                output(&mut this_test_alone("proc::tests::orphans_are_found_and_ended"), LONG);
            assert!(out.unwrap().contains("orphans: done"));
        }
    }

    #[test]
    fn a_signal_ends_a_wait_and_the_children() {
        if alone() {
            catch_signals().unwrap();
            let mut child =
                Child::spawn(&mut sh("exec sleep 1000"), Stream::Keep, Stream::Keep).unwrap();
            println!("child {}", child.id());
            let error = child.wait(LONG * 10).unwrap_err();
            let signal = error.downcast_ref::<Interrupted>().copied();
            assert_eq!(signal, Some(Interrupted(libc::SIGTERM)));
            drop(child);
            println!("signal: done");
        } else {
            let mut test = Child::spawn(
                &mut this_test_alone("proc::tests::a_signal_ends_a_wait_and_the_children"),
                Stream::Keep,
                Stream::Keep,
            )
            .unwrap();
            // libtest writes "test NAME ... " in front of the first line.
            let id = |c: &Child| {
                let text = c.stdout();
                let (_, rest) = text.split_once("child ")?;
                rest.split_once('\n')?.0.trim().parse::<i32>().ok()
            };
            test.wait_until(LONG, |c| id(c).is_some()).unwrap();
            let sleep = id(&test).unwrap();
            assert!(alive(sleep));
            test.signal(libc::SIGTERM);
            assert!(test.wait(LONG).unwrap().success(), "{}{}", test.stdout(), test.stderr());
            assert!(test.stdout().contains("signal: done"));
            gone(sleep);
        }
    }
}
