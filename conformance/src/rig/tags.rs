//! VLAN tags that a sending kernel keeps beside the frame.
//!
//! That is what a kernel does for a VLAN interface on a device that puts tags in (`ethtool -k`: `tx-vlan-offload`), and what a
//! veth pair hands on as it is. Here a program at the interface's egress leaves the tag with the frame, by the kernel function that
//! VLAN interfaces use, so that neither they nor a bridge's VLANs have to be there.

use std::io;

use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::{Assembler, Op, Reg};
use anyport_netdev::bpf::{Kind, Link, Program};

/// `bpf_skb_vlan_push(skb, protocol, tag)`.
const VLAN_PUSH: i32 = 18;

/// `TCX_NEXT`.
const NEXT: i32 = -1;

/// Whether such programs can be loaded here: Linux 6.6, CAP_BPF and CAP_NET_ADMIN.
pub(super) fn possible() -> bool {
    program(0x8100, 0).is_ok()
}

fn program(tpid: u16, tci: u16) -> io::Result<Program> {
    let mut a = Assembler::new();
    a.op(Op::Mov, Reg::R2, tpid.to_be().into())
        .op(Op::Mov, Reg::R3, tci.into())
        .call(VLAN_PUSH)
        .exit(NEXT);
    let code = a.finish().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
    Program::load(Kind::Tc, "conformance", &code)
}

/// Leaves a tag with every frame that goes out by an interface, until what it gives is dropped.
///
/// # Errors
/// The system's.
pub(super) fn leave_beside(interface: &str, tpid: u16, tci: u16) -> io::Result<Link> {
    program(tpid, tci)?.attach_tcx_egress(Interface::open(interface)?.index())
}
