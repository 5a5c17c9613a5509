//! The program at the interface's ingress: which frames go to the sockets.
//!
//! ```text
//!   its queue has no socket ─────────► the kernel's stack (XDP_PASS)
//!   named by to_kernel ──────────────► the kernel's stack (XDP_PASS)
//!   not the port's by its address ───► dropped
//!   the rest ────────────────────────► its queue's socket, with its VLAN tag in its bytes
//! ```
//!
//! It is assembled and loaded in this process, and attached by a link, which goes with the process: nothing stays attached,
//! also after `kill -9` (contract L8). A change of the filter puts another program in its place, at one instant (contract R6).
//!
//! Trap: a frame that goes on to the stack must not be changed on the way: the kernel has its tag beside it already.

use std::io;

use anyport::MacAddr;
use anyport_netdev::ToKernel;
use anyport_netdev::bpf::asm::{Assembler, Cond, Label, Op, Reg, Width};
use anyport_netdev::bpf::btf::Function;
use anyport_netdev::bpf::{Program, Sockets, XdpOptions};
use anyport_netdev::to_kernel::{LoadBytes, Owners};

/// What the program lets through to the port.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// The port's address.
    pub mac: MacAddr,
    /// Everything passes, whatever its address.
    pub promiscuous: bool,
    /// What goes to the host's stack instead.
    pub to_kernel: ToKernel,
}

/// What the program needs of the place where it is attached.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    /// Frames may lie in several buffers. Drivers limit the MTU, of a veth's other end, too, for a program that cannot have it.
    pub segments: bool,
    /// Tags are beside the frames, and the driver says which: the interface, and the function that asks it.
    pub tags: Option<(u32, Function)>,
}

/// The program's name, as `bpftool` shows it.
pub(crate) const NAME: &str = "anyport";

/// `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// `bpf_map_lookup_elem(map, key)`.
const MAP_LOOKUP: i32 = 1;

/// `bpf_xdp_adjust_head(context, delta)`.
const ADJUST_HEAD: i32 = 44;

/// `bpf_redirect_map(map, key, flags)`: the lower bits of the flags are what becomes of a frame whose key is not there.
const REDIRECT_MAP: i32 = 51;

/// Where on the stack numbers are.
const NUMBER: i16 = -4;
const PROTOCOL: i16 = -4;
const TAG: i16 = -2;

impl Filter {
    /// Loads the program that hands frames to `sockets`.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN; `E2BIG` if `to_kernel` names too much; `EINVAL` if the kernel does not know
    /// what the place needs.
    pub fn load(&self, sockets: &Sockets, place: &Place) -> io::Result<Program> {
        let code =
            self.assemble(sockets, place).ok_or(io::Error::from_raw_os_error(libc::E2BIG))?;
        let bound_to = place.tags.map(|(interface, _)| interface);
        let options = XdpOptions { segments: place.segments, bound_to };
        Program::load_xdp(NAME, &code, options)
    }

    fn assemble(&self, sockets: &Sockets, place: &Place) -> Option<Vec<u64>> {
        let mut a = Assembler::new();
        let (owners, dropped) = (Owners { kernel: a.label(), port: a.label() }, a.label());
        a.op_reg(Op::Mov, Reg::R6, Reg::R1);
        if place.tags.is_some() {
            // Further down it is too late to find out.
            a.load(Width::Word, Reg::R2, Reg::R6, RX_QUEUE)
                .store(Width::Word, Reg::R10, NUMBER, Reg::R2)
                .load_map(Reg::R1, sockets)
                .op_reg(Op::Mov, Reg::R2, Reg::R10)
                .op(Op::Add, Reg::R2, NUMBER.into())
                .call(MAP_LOOKUP)
                .jump_if_null(Reg::R0, owners.kernel);
        }
        if !self.to_kernel.is_empty() {
            self.to_kernel.classify(&mut a, LoadBytes::Xdp, owners);
            a.place(owners.port);
        }
        if !self.promiscuous {
            self.drop_others(&mut a, dropped);
        }
        if let Some((_, function)) = place.tags {
            put_tag_in(&mut a, function, dropped);
        }
        a.load_map(Reg::R1, sockets)
            .load(Width::Word, Reg::R2, Reg::R6, RX_QUEUE)
            .op(Op::Mov, Reg::R3, XDP_PASS)
            .call(REDIRECT_MAP)
            .exit_with_r0();
        // The verifier refuses what can never be reached.
        if place.tags.is_some() || !self.to_kernel.is_empty() {
            a.place(owners.kernel).exit(XDP_PASS);
        }
        if place.tags.is_some() || !self.promiscuous {
            a.place(dropped).exit(XDP_DROP);
        }
        a.finish()
    }

    /// Drops what is neither for a group nor for the port; a frame without a whole header is nobody's.
    fn drop_others(&self, a: &mut Assembler, dropped: Label) {
        let ours = a.label();
        let [a0, a1, a2, a3, a4, a5] = self.mac.0;
        with_bytes(a, 14, dropped);
        a.load(Width::Byte, Reg::R5, Reg::R2, 0)
            .jump_if(Cond::Set, Reg::R5, 1, ours)
            .load(Width::Word, Reg::R5, Reg::R2, 0)
            .jump_if(Cond::Ne, Reg::R5, u32::from_ne_bytes([a0, a1, a2, a3]), dropped)
            .load(Width::Half, Reg::R5, Reg::R2, 4)
            .jump_if(Cond::Ne, Reg::R5, u16::from_ne_bytes([a4, a5]).into(), dropped)
            .place(ours);
    }
}

/// Points `R2` to the frame's first byte; goes to `short` if it has fewer than so many at once.
fn with_bytes(a: &mut Assembler, count: i32, short: Label) {
    a.load(Width::Word, Reg::R2, Reg::R6, DATA)
        .load(Width::Word, Reg::R3, Reg::R6, DATA_END)
        .op_reg(Op::Mov, Reg::R4, Reg::R2)
        .op(Op::Add, Reg::R4, count)
        .jump_if_reg(Cond::Gt, Reg::R4, Reg::R3, short);
}

/// Asks the driver for a tag beside the frame, and puts it where it was on the wire: behind the two addresses, which move to the
/// front (contract R3).
fn put_tag_in(a: &mut Assembler, ask: Function, dropped: Label) {
    let none = a.label();
    // int bpf_xdp_metadata_rx_vlan_tag(context, __be16 *protocol, u16 *tag)
    a.store_value(Width::Word, Reg::R10, PROTOCOL, 0)
        .op_reg(Op::Mov, Reg::R1, Reg::R6)
        .op_reg(Op::Mov, Reg::R2, Reg::R10)
        .op(Op::Add, Reg::R2, PROTOCOL.into())
        .op_reg(Op::Mov, Reg::R3, Reg::R10)
        .op(Op::Add, Reg::R3, TAG.into())
        .call_function(ask)
        .jump_if(Cond::Ne, Reg::R0, 0, none)
        .op_reg(Op::Mov, Reg::R1, Reg::R6)
        .op(Op::Mov, Reg::R2, -4)
        .call(ADJUST_HEAD)
        .jump_if(Cond::Ne, Reg::R0, 0, dropped);
    with_bytes(a, 18, dropped);
    for at in [0, 4, 8] {
        a.load(Width::Word, Reg::R4, Reg::R2, at + 4).store(Width::Word, Reg::R2, at, Reg::R4);
    }
    a.load(Width::Half, Reg::R4, Reg::R10, PROTOCOL)
        .store(Width::Half, Reg::R2, 12, Reg::R4)
        .load(Width::Half, Reg::R4, Reg::R10, TAG)
        .to_network_order(Reg::R4)
        .store(Width::Half, Reg::R2, 14, Reg::R4)
        .place(none);
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport_netdev::privilege::Privilege;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    fn filter(promiscuous: bool, to_kernel: &[&str]) -> Filter {
        let words: Vec<String> = to_kernel.iter().map(|word| (*word).to_owned()).collect();
        Filter { mac: OWN, promiscuous, to_kernel: ToKernel::parse("af_xdp:x", &words).unwrap() }
    }

    fn frame(to: [u8; 6], ethertype: u16) -> Vec<u8> {
        let mut frame = [&to[..], &[2, 0, 0, 0, 0, 9], &ethertype.to_be_bytes()].concat();
        frame.resize(60, 0);
        frame
    }

    /// In a test run the map is empty, so the port's frames pass, too; what tells them from the kernel's is checked on veth.
    #[test]
    fn frames_to_others_are_dropped_unless_promiscuous() {
        if !(Privilege::Bpf.held() && Privilege::NetAdmin.held()) {
            let required = std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_some();
            assert!(!required, "root is required");
            return;
        }
        let sockets = Sockets::new(4).unwrap();
        let verdict = |filter: &Filter, frame: &[u8]| {
            filter.load(&sockets, &Place::default()).unwrap().test_run(frame).unwrap() as i32
        };
        for (to, plain) in [
            (OWN.0, XDP_PASS),
            ([0xff; 6], XDP_PASS),
            ([1, 0, 0x5e, 0, 0, 1], XDP_PASS),
            ([2, 0, 0, 0, 0, 8], XDP_DROP),
            ([2, 0, 1, 0, 0, 7], XDP_DROP),
        ] {
            assert_eq!(verdict(&filter(false, &[]), &frame(to, 0x0800)), plain, "{to:?}");
            assert_eq!(verdict(&filter(true, &[]), &frame(to, 0x0800)), XDP_PASS);
            // What is the kernel's is its own whatever the address.
            assert_eq!(verdict(&filter(false, &["arp"]), &frame(to, 0x0806)), XDP_PASS);
            assert_eq!(verdict(&filter(false, &["arp"]), &frame(to, 0x0800)), plain);
        }
    }
}
