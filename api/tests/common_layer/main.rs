//! The common layer over a driver that is under the test's control: what it hands down, what it refuses, what it puts
//! back. The conformance suite shows the same on real backends; here the driver can be made to misbehave.

mod captures;
mod driver;
mod packets;
mod ports;
mod waiting;
