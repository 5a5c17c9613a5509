//! More frames than one core can send: each frame of a plain sender becomes several in the kernel.
//!
//! ```text
//!   sender ── d0 ═══ d1 ─ program: clone, clone, ... ── to0 ═══ the interface under load
//! ```
//!
//! A sender's system calls cost more than what is measured behind it, so on two cores it, and not the forwarder, would set
//! the rate. The copies share the frame's bytes; all else on their way is as for any frame.

use anyhow::{Context, Result};
use anyport_netdev::Interface;
use anyport_netdev::bpf::asm::{Assembler, Op, Reg};
use anyport_netdev::bpf::{Kind, Link, Program};

/// `bpf_clone_redirect(skb, interface, flags)`: a copy goes out of that interface.
const CLONE_REDIRECT: i32 = 13;

/// `TC_ACT_SHOT`: the frame's way ends.
const SHOT: i32 = 2;

/// Makes several frames of each that comes in at an interface, as long as it lives.
#[derive(Debug)]
pub struct Multiplier {
    _link: Link,
}

impl Multiplier {
    /// Each frame that comes in at interface `from` goes out of interface `to`, `copies` times, and nowhere else.
    ///
    /// # Errors
    /// There is no such interface; a kernel before Linux 6.6; no CAP_BPF and CAP_NET_ADMIN.
    pub fn attach(from: &str, to: &str, copies: usize) -> Result<Multiplier> {
        let to = Interface::open(to).with_context(|| format!("opening {to}"))?.index();
        let code = program(to, copies).context("assembling the multiplier")?;
        let program =
            Program::load(Kind::Tc, "multiplier", &code).context("loading the multiplier")?;
        let at = Interface::open(from).with_context(|| format!("opening {from}"))?.index();
        let link = program
            .attach_tcx_first(at)
            .with_context(|| format!("attaching to {from} (needs Linux 6.6)"))?;
        Ok(Multiplier { _link: link })
    }
}

/// The bare libpcap loop: `pcap_inject` of one 60-byte frame, nothing else, until it is killed.
///
/// # Errors
/// libpcap's.
pub fn inject(interface: &str) -> Result<()> {
    let mut capture = pcap::Capture::from_device(interface)?.immediate_mode(true).open()?;
    let frame = crate::bare::frame();
    loop {
        // A full queue is part of the load, not an error.
        let _ = capture.sendpacket(frame);
    }
}

fn program(interface: u32, copies: usize) -> Option<Vec<u64>> {
    let mut code = Assembler::new();
    code.op_reg(Op::Mov, Reg::R6, Reg::R1);
    for _ in 0..copies {
        code.op_reg(Op::Mov, Reg::R1, Reg::R6)
            .op(Op::Mov, Reg::R2, interface as i32)
            .op(Op::Mov, Reg::R3, 0)
            .call(CLONE_REDIRECT);
    }
    code.exit(SHOT);
    code.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_copy_is_four_instructions() {
        assert_eq!(program(7, 1).unwrap().len() + 4 * 7, program(7, 8).unwrap().len());
    }
}
