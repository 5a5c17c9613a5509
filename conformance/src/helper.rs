//! A second process: what holds a device, dies, or lacks a privilege on behalf of a case.
//!
//! The program that runs the suite starts itself again with the arguments that [`HelperCommand`] adds, and hands control
//! to [`main`]. The two talk in lines:
//!
//! ```text
//!   hold SPEC        opens and starts, says `ready` or `error TEXT`; holds until standard input ends
//!   open SPEC        opens, says `opened` or `error TEXT`, ends
//!   bare SPEC        gives up every privilege, opens and starts, says `started` or `error TEXT`, ends
//!   flood SPEC MAC   as hold, and sends numbered frames to MAC without end
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyport::{Burst, MacAddr, Pool, Registry};

use crate::case::{Failure, Verdict};
use crate::ctx::PATIENCE;
use crate::frames;

/// How to start the helper: a program and the arguments by which it knows that it is the helper.
#[derive(Debug, Clone)]
pub struct HelperCommand {
    /// The program.
    pub program: PathBuf,
    /// Arguments before the helper's own.
    pub arguments: Vec<String>,
}

/// A running helper. It is killed and reaped when dropped.
pub struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Helper {
    pub(crate) fn start(command: &HelperCommand, arguments: &[&str]) -> Verdict<Helper> {
        let mut child = Command::new(&command.program)
            .args(&command.arguments)
            .args(arguments)
            // Ctrl-C at a terminal is for the suite; the helper ends with its standard input.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("starting {}: {error}", command.program.display()))?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        let (said, lines) = channel();
        // It ends with the pipe, that is with the child.
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Helper { child, input, lines })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// If it says nothing in time.
    pub fn line(&self) -> Verdict<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.map_err(|error| Failure(format!("the helper process said nothing: {error}")))
    }

    /// Waits until it holds its device.
    ///
    /// # Errors
    /// If it cannot.
    pub fn ready(&self) -> Verdict {
        match self.line()?.as_str() {
            "ready" => Ok(()),
            other => Err(Failure(format!("the helper process said: {other}"))),
        }
    }

    /// `kill -9`, and waits for its end.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(mut self) -> Verdict {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets it close its device and end.
    ///
    /// # Errors
    /// If it ends with an error.
    pub fn finish(mut self) -> Verdict {
        drop(self.input.take());
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(Failure(format!("the helper process ended with {status}"))),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // After `finish` or `kill` there is nothing left to kill, and that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The helper's side: the arguments after those of [`HelperCommand`].
pub fn main(registry: &Registry, arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["hold", spec] => hold(registry, spec, None),
        ["flood", spec, mac] => match mac.parse() {
            Ok(mac) => hold(registry, spec, Some(mac)),
            Err(error) => Err(Failure(error.to_string())),
        },
        ["open", spec] => open(registry, spec),
        ["bare", spec] => give_up_privileges().and_then(|()| start(registry, spec)),
        _ => Err(Failure("the helper is for the suite's own use".into())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(error)) => {
            say(&format!("error {}", error.replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    // Nobody to tell if the suite has gone.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn open(registry: &Registry, spec: &str) -> Verdict {
    let port = registry.open(spec)?;
    say("opened");
    Ok(port.close()?)
}

fn start(registry: &Registry, spec: &str) -> Verdict {
    let pool = Pool::builder().frames(64).build()?;
    let mut port = registry.open_with(spec, &pool)?;
    drop(port.start()?);
    say("started");
    Ok(port.close()?)
}

fn hold(registry: &Registry, spec: &str, flood: Option<MacAddr>) -> Verdict {
    // Asked before anything can take long: a suite that is gone by then must not pass for the parent.
    let parent = std::os::unix::process::parent_id();
    let pool = Pool::builder().frames(1024).build()?;
    let mut port = registry.open_with(spec, &pool)?;
    let queues = port.start()?;
    say("ready");
    let Some(to) = flood else {
        std::io::stdin().read_to_end(&mut Vec::new())?;
        drop(queues);
        return Ok(port.close()?);
    };
    let (_, mut tx) = queues.into_pair();
    let mut burst = Burst::new();
    for number in 0.. {
        let packet = pool.packet(&frames::numbered(to, number, 60));
        let dry = packet.is_none();
        // There is room: it is sent as soon as it is full.
        packet.into_iter().for_each(|packet| drop(burst.push(packet)));
        // Also with the pool dry: only sending brings frames back from the device.
        if burst.is_full() || dry {
            tx.send(&mut burst)?;
            // Until it is killed: a flood that the suite forgets ends with the suite's own process.
            if std::os::unix::process::parent_id() != parent {
                break;
            }
        }
    }
    Ok(())
}

/// Empties this thread's capability sets, and keeps them from coming back.
fn give_up_privileges() -> Verdict {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: capset(2) takes a header of two words and, for version 3, two records of three words each.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}
