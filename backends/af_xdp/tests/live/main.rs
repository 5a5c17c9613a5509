//! Ports on the ends of a veth pair, each test in a network namespace of its own that goes with its thread.

mod busy_poll;
mod common;
mod faults;
mod frames;
mod pressure;
mod queues;
