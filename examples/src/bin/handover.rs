//! Lets a program that has no privilege have an interface: makes its AF_XDP sockets, and starts it with them as another user.
//!
//! It shows the privileged side of a handover: what takes privileges is done here, and what handles frames has none. The word
//! `SOCKETS` in the other program's arguments stands for the sockets.
//!
//! ```text
//! cargo run --release -p anyport-examples --bin handover -- eth1 1 65534 target/release/hello af_xdp:eth1,sockets=SOCKETS
//! ```

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use anyport_af_xdp::handover::{Handover, Options, pass};
use rustix::process::{Resource, Rlimit, setrlimit};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, queues, user, program, rest @ ..] = &arguments[..] else {
        bail!("usage: handover INTERFACE QUEUES USER-ID PROGRAM [ARGUMENT]...");
    };
    let queues: u32 = queues.parse().context("the number of queues")?;
    let user: u32 = user.parse().context("the user's number (`id -u NAME` tells it)")?;

    // From here on the interface's frames go to the sockets, until the end of this function.
    let handover = Handover::open(interface, &Options::default())?;
    let mut command = Command::new(program);
    let sockets = pass(&mut command, handover.sockets(queues)?);
    command.args(rest.iter().map(|argument| argument.replace("SOCKETS", &sockets)));
    command.uid(user).gid(user);
    // The other program's pool is locked in memory. If this process may not lift that limit, the other one says what it takes.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    // The sockets are the child's alone.
    drop(command);

    // Ctrl-C goes to both, and the child is to end in its own time.
    anyport_examples::wake_on_ctrl_c([])?;
    let status = child.wait()?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8)))
}
