//! Running the tool: a command to its end, or in the background; network namespaces of one's own.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far longer than anything here takes; it only ends what hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The tool with arguments, split at spaces.
pub fn anyport(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anyport"));
    command.args(arguments.split(' ').filter(|part| !part.is_empty()));
    // Ports say on standard error that they have started.
    command.env("RUST_LOG", "warn,anyport=info");
    command
}

/// What a command left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as exactly one JSON object; the command must have succeeded.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self.object()
    }

    /// Standard output as exactly one JSON object.
    #[track_caller]
    pub fn object(&self) -> Value {
        let value: Value = serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.text(), self.stderr));
        assert!(value.is_object(), "{value}");
        value
    }

    /// The command failed as it should, with such words on standard error.
    #[track_caller]
    pub fn failed_with(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{}{}", self.text(), self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// A command in the background; killed when it goes out of scope.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    lines: Receiver<String>,
    stderr: String,
}

/// Starts a command in the background.
pub fn start(mut command: Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdout = child.stdout.take().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let stdout = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        bytes
    });
    Running { child, stdout: Some(stdout), lines, stderr: String::new() }
}

impl Running {
    /// Waits for a line on standard error that has that text.
    #[track_caller]
    pub fn wait_line(mut self, text: &str) -> Running {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no `{text}` in: {}", self.stderr));
            self.stderr += &line;
            self.stderr.push('\n');
            if line.contains(text) {
                return self;
            }
        }
    }

    /// Waits until so many ports have started.
    #[track_caller]
    pub fn wait_started(mut self, ports: usize) -> Running {
        let deadline = Instant::now() + LIMIT;
        let mut started = 0;
        while started < ports {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("it has not started: {}", self.stderr));
            started += usize::from(line.ends_with(": started"));
            self.stderr += &line;
            self.stderr.push('\n');
        }
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: no pointers; the child has not been waited for, so the number is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Ends it as Ctrl-C does.
    #[track_caller]
    pub fn interrupt(self) -> Finished {
        self.signal(libc::SIGINT);
        self.finish()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                panic!("it does not end: {}", self.stderr);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let stdout = self.stdout.take().map(|thread| thread.join().unwrap()).unwrap_or_default();
        let mut stderr = std::mem::take(&mut self.stderr);
        // The sender goes with the pipe's end.
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            stderr += &line;
            stderr.push('\n');
        }
        Finished { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the tool to its end.
#[track_caller]
pub fn run(arguments: &str) -> Finished {
    start(anyport(arguments)).finish()
}

/// A number in a report.
#[track_caller]
pub fn number(report: &Value, pointer: &str) -> u64 {
    let value = report.pointer(pointer).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {report:#}"))
}

/// Runs a test on a thread with network and mount namespaces of its own, where the processes that it starts are, too. Veth
/// pairs `a0`=`a1` and `b0`=`b1` are there and up. Without the privilege the test is skipped, and says so.
pub fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no pointers; it changes this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
                assert!(
                    std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_none(),
                    "root is required"
                );
                eprintln!("skipped: it needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE, "");
            ip("link set lo up");
            for (one, other) in [("a0", "a1"), ("b0", "b1")] {
                ip(&format!("link add {one} type veth peer name {other}"));
                for end in [one, other] {
                    // No router solicitations among what is counted.
                    ip(&format!("link set {end} addrgenmode none"));
                    ip(&format!("link set {end} up"));
                }
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Mounts in this thread's namespace.
pub fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, options: &str) {
    let text = |text: &str| std::ffi::CString::new(text).unwrap();
    let (source, target, kind, options) = (text(source), text(target), text(kind), text(options));
    // SAFETY: all are strings that live on; the namespace is this thread's own.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
}

#[track_caller]
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the kernel received on an interface: frames and bytes.
pub fn kernel_received(interface: &str) -> (u64, u64) {
    let links: Value = serde_json::from_str(&ip(&format!("-s -j link show {interface}"))).unwrap();
    let rx = &links[0]["stats64"]["rx"];
    (rx["packets"].as_u64().unwrap(), rx["bytes"].as_u64().unwrap())
}
