//! The program at the interface's ingress: which frames go to the sockets.
//!
//! ```text
//!   named by to_kernel ──────────────► the kernel's stack (XDP_PASS)
//!   not the port's by its address ───► dropped
//!   its queue has a socket ──────────► the socket
//!   its queue has none ──────────────► the kernel's stack (XDP_PASS)
//! ```
//!
//! It is assembled and loaded in this process, and attached by a link, which goes with the process: nothing stays attached,
//! also after `kill -9` (contract L8). A change of the filter puts another program in its place, at one instant (contract R6).

use std::io;

use anyport::MacAddr;
use anyport_netdev::ToKernel;
use anyport_netdev::bpf::asm::{Assembler, Cond, Op, Reg, Width};
use anyport_netdev::bpf::{Kind, Program, Sockets};
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

/// `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// `bpf_redirect_map(map, key, flags)`: the lower bits of the flags are what becomes of a frame whose key is not there.
const REDIRECT_MAP: i32 = 51;

impl Filter {
    /// Loads the program that hands frames to `sockets`.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN; `E2BIG` if `to_kernel` names too much.
    pub fn load(&self, sockets: &Sockets) -> io::Result<Program> {
        let code = self.assemble(sockets).ok_or(io::Error::from_raw_os_error(libc::E2BIG))?;
        Program::load(Kind::Xdp, "anyport", &code)
    }

    fn assemble(&self, sockets: &Sockets) -> Option<Vec<u64>> {
        let mut a = Assembler::new();
        let (owners, dropped) = (Owners { kernel: a.label(), port: a.label() }, a.label());
        a.op_reg(Op::Mov, Reg::R6, Reg::R1);
        if !self.to_kernel.is_empty() {
            self.to_kernel.classify(&mut a, LoadBytes::Xdp, owners);
            a.place(owners.port);
        }
        if !self.promiscuous {
            // Group addresses and the port's own; a frame without a whole header is nobody's.
            let ours = a.label();
            let [a0, a1, a2, a3, a4, a5] = self.mac.0;
            a.load(Width::Word, Reg::R2, Reg::R6, DATA)
                .load(Width::Word, Reg::R3, Reg::R6, DATA_END)
                .op_reg(Op::Mov, Reg::R4, Reg::R2)
                .op(Op::Add, Reg::R4, 14)
                .jump_if_reg(Cond::Gt, Reg::R4, Reg::R3, dropped)
                .load(Width::Byte, Reg::R5, Reg::R2, 0)
                .jump_if(Cond::Set, Reg::R5, 1, ours)
                .load(Width::Word, Reg::R5, Reg::R2, 0)
                .jump_if(Cond::Ne, Reg::R5, u32::from_ne_bytes([a0, a1, a2, a3]), dropped)
                .load(Width::Half, Reg::R5, Reg::R2, 4)
                .jump_if(Cond::Ne, Reg::R5, u16::from_ne_bytes([a4, a5]).into(), dropped)
                .place(ours);
        }
        a.load_map(Reg::R1, sockets)
            .load(Width::Word, Reg::R2, Reg::R6, RX_QUEUE)
            .op(Op::Mov, Reg::R3, XDP_PASS)
            .call(REDIRECT_MAP)
            .exit_with_r0();
        // The verifier refuses what can never be reached.
        if !self.to_kernel.is_empty() {
            a.place(owners.kernel).exit(XDP_PASS);
        }
        if !self.promiscuous {
            a.place(dropped).exit(XDP_DROP);
        }
        a.finish()
    }
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
            filter.load(&sockets).unwrap().test_run(frame).unwrap() as i32
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
