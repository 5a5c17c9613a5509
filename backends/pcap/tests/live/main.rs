//! Live ports on the ends of a veth pair, each test in a network namespace of its own that goes with its thread.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

mod common;
mod exclusive;
mod life;
mod link;
mod loss;
mod open;
mod processes;
mod traffic;
