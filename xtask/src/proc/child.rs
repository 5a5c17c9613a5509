//! One running child: its group, its output, its end.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::orphans::{is_subreaper, owned};
use super::signals::{check_interrupted, wake_descriptor};
use super::{describe, tail};

/// How long a process group gets between the polite signal and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How long output is still awaited once the child itself has ended (a grandchild may hold the pipe).
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What is kept of each captured stream; older bytes are dropped.
const KEEP: usize = 8 << 20;

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
            let wake = if interruptible { wake_descriptor() } else { -1 };
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
        } else if !is_subreaper() {
            self.signal_group(libc::SIGKILL);
        }
        // What a subreaper's child leaves in its group is left to `end_orphans`, which names it.
        let pid = self.inner.id() as i32;
        drop(self.inner.wait());
        owned().remove(&pid);
    }
}
