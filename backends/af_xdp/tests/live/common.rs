//! What the tests open.

use std::net::UdpSocket;

use anyport::{MacAddr, Registry};
pub use anyport_netdev::testing::end::{End, frame, number};
use anyport_netdev::testing::ip;

pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register(anyport_af_xdp::AfXdp::default()).unwrap();
    registry
}

pub fn open(spec: &str) -> End {
    End::open(&registry(), spec, 2048)
}

/// A socket of the host's on interface `a1`, connected to what is behind `a0` with that address.
pub fn host_socket(at_a0: MacAddr) -> UdpSocket {
    ip("address replace 10.9.0.1/24 dev a1");
    ip(&format!("neigh replace 10.9.0.2 lladdr {at_a0} dev a1 nud permanent"));
    let socket = UdpSocket::bind("10.9.0.1:7777").unwrap();
    socket.connect("10.9.0.2:7777").unwrap();
    socket
}
