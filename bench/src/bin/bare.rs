//! The bare AF_XDP programs by themselves, with their variants: what `anyport-bench-compare` measures anyport against.

#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use anyport_bench::bare::forward::Forwarder;
use anyport_bench::bare::receive::{Idle, Receiver};
use anyport_bench::bare::send::Sender;
use anyport_bench::bare::{Tuning, socket};
use anyport_bench::live;
use anyport_netdev::bpf::XdpMode;
use clap::{Parser, Subcommand, ValueEnum};

/// Send, receive or forward over bare AF_XDP rings, as fast as can be, until killed
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// End after so many seconds, and say how many frames it was
    #[arg(long, global = true)]
    seconds: Option<f64>,
    /// Frames that are handed over at once
    #[arg(long, global = true, default_value_t = 64)]
    batch: u32,
    /// Frames that one system call may send; 0 leaves it to the kernel
    #[arg(long, global = true, default_value_t = socket::RING)]
    budget: u32,
    /// Attach the program behind the driver
    #[arg(long, global = true)]
    generic: bool,
    /// What to do while there is nothing to receive
    #[arg(long, global = true, value_enum, default_value_t = Wait::Spin)]
    idle: Wait,
    /// Frames that a busy poll receives at once
    #[arg(long, global = true, default_value_t = 64)]
    busy_budget: u32,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send
    Send {
        /// Where
        interface: String,
        /// Different frames, a power of two
        #[arg(long, default_value_t = 64)]
        frames: u32,
        /// Frames a second at most; as many as go unless given
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Receive and count
    Receive {
        /// Where
        interface: String,
    },
    /// Let the kernel make frames that come in at the other end of a veth interface, which needs an XDP program
    Flood {
        /// Where they leave
        interface: String,
    },
    /// Forward, both ways
    Forward {
        /// One side
        one: String,
        /// The other
        other: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wait {
    Spin,
    Sleep,
    BusyPoll,
}

/// Frames of one call that makes some: setting up costs as much as many frames.
const FLOOD: u32 = 1 << 20;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (idle, busy_poll) = match arguments.idle {
        Wait::Spin => (Idle::Spin, None),
        Wait::Sleep => (Idle::Sleep, None),
        Wait::BusyPoll => (Idle::BusyPoll, Some(arguments.busy_budget)),
    };
    let mode = if arguments.generic { XdpMode::Generic } else { XdpMode::Native };
    let budget = (arguments.budget > 0).then_some(arguments.budget);
    let tuning = Tuning { mode, budget, busy_poll };
    let limit = arguments.seconds.map(Duration::from_secs_f64);
    let batch = arguments.batch;
    match &arguments.command {
        Command::Send { interface, frames, rate } => {
            let mut sender = Sender::new(interface, batch, *frames, &tuning)?;
            match rate {
                None => run(limit, || sender.step()),
                Some(rate) => run(limit, paced(*rate, || sender.step())),
            }
        }
        Command::Receive { interface } => {
            let mut receiver = Receiver::new(interface, batch, idle, &tuning)?;
            run(limit, || receiver.step());
        }
        Command::Flood { interface } => {
            let source = live::Source::new(interface)?;
            loop {
                source.send(FLOOD, batch).context("letting the kernel make frames")?;
            }
        }
        Command::Forward { one, other } => {
            let mut forwarder = Forwarder::new([one, other], batch, idle, &tuning)?;
            run(limit, || forwarder.step());
        }
    }
    Ok(())
}

/// Steps until the time is up; the clock is read now and then only.
fn run(limit: Option<Duration>, mut step: impl FnMut() -> u32) {
    let start = Instant::now();
    let mut frames = 0u64;
    while limit.is_none_or(|limit| start.elapsed() < limit) {
        for _ in 0..256 {
            frames += u64::from(step());
        }
    }
    let rate = frames as f64 / start.elapsed().as_secs_f64();
    println!("{frames} frames, {:.3} M/s", rate / 1e6);
}

/// Steps at a rate.
fn paced(rate: f64, mut step: impl FnMut() -> u32) -> impl FnMut() -> u32 {
    let start = Instant::now();
    let mut sent = 0u64;
    move || {
        if sent as f64 > start.elapsed().as_secs_f64() * rate {
            std::hint::spin_loop();
            return 0;
        }
        let now = step();
        sent += u64::from(now);
        now
    }
}
