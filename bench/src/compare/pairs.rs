//! What is compared with what. On two cores: what sends or forwards is on core 1, what receives or makes the load on core 0.
//!
//! A veth pair's receiving end works on the sender's core, so it is the sender's core that sets the rate.

use anyhow::Result;

use super::counters::Counter;
use super::programs::Program;
use super::rate::Setup;
use super::rounds::Pair;

/// All pairs.
pub const PAIRS: &[Pair] = &[
    Pair {
        name: "pcap-gen",
        what: "gen to a veth pair over libpcap",
        peer: "bare pcap_inject",
        needs_dpdk: false,
        goal: 0.95,
        target: None,
        ours: || gen_alone("pcap:g0"),
        theirs: || sender(Program::inject(1, "g0")?),
    },
    Pair {
        name: "pcap-fwd",
        what: "fwd across two veth pairs over libpcap",
        peer: "testpmd net_pcap",
        needs_dpdk: true,
        goal: 1.2,
        target: None,
        // net_pcap's buffer of 2 MiB holds 13,000 frames of this size: about as many places here, so that a moment off the
        // core costs both the same.
        ours: || {
            pcap_forwarder(Program::anyport(1, "fwd pcap:f0,rx_ring=8192 pcap:f1,rx_ring=8192")?)
        },
        theirs: || {
            let devices = ["net_pcap0,iface=f0", "net_pcap1,iface=f1"];
            pcap_forwarder(Program::testpmd(1, &devices, "--forward-mode=io"))
        },
    },
    Pair {
        name: "xdp-gen",
        what: "gen to a veth pair over AF_XDP",
        peer: "bare rings",
        needs_dpdk: false,
        goal: 1.0,
        target: None,
        ours: || gen_alone("af_xdp:g0"),
        theirs: || sender(Program::bare(1, "send g0 --batch 256")?),
    },
    Pair {
        name: "xdp-sink-bare",
        what: "gen to sink over AF_XDP",
        peer: "bare rings",
        needs_dpdk: false,
        goal: 0.95,
        target: None,
        ours: gen_to_sink,
        theirs: || pair(Program::bare(0, "receive s0")?, Program::bare(1, "send g0")?),
    },
    Pair {
        name: "xdp-sink-testpmd",
        what: "gen to sink over AF_XDP",
        peer: "testpmd txonly to rxonly, net_af_xdp",
        needs_dpdk: true,
        goal: 1.3,
        target: Some(1.5),
        ours: gen_to_sink,
        theirs: || testpmd_pair("net_af_xdp0,iface=s0", "net_af_xdp0,iface=g0"),
    },
    Pair {
        // The driver's preferred busy polling, which it has unless told otherwise, costs it a third on veth interfaces.
        name: "xdp-sink-testpmd-tuned",
        what: "gen to sink over AF_XDP",
        peer: "testpmd with busy_budget=0",
        needs_dpdk: true,
        goal: 1.0,
        target: None,
        ours: gen_to_sink,
        theirs: || {
            let (rx, tx) =
                ("net_af_xdp0,iface=s0,busy_budget=0", "net_af_xdp0,iface=g0,busy_budget=0");
            testpmd_pair(rx, tx)
        },
    },
    Pair {
        name: "xdp-fwd-bare",
        what: "fwd across two veth pairs over AF_XDP",
        peer: "bare rings",
        needs_dpdk: false,
        goal: 0.95,
        target: None,
        ours: || forwarder(anyport_forwarder()?),
        theirs: || forwarder(bare_forwarder()?),
    },
    Pair {
        name: "xdp-fwd-testpmd",
        what: "fwd across two veth pairs over AF_XDP",
        peer: "testpmd io, net_af_xdp",
        needs_dpdk: true,
        goal: 1.3,
        target: Some(1.5),
        ours: || forwarder(anyport_forwarder()?),
        theirs: || {
            let devices = ["net_af_xdp0,iface=f0", "net_af_xdp1,iface=f1"];
            forwarder(Program::testpmd(1, &devices, "--forward-mode=io"))
        },
    },
];

/// `anyport fwd` between the forwarders' interfaces, on AF_XDP.
///
/// # Errors
/// It has not been built.
pub fn anyport_forwarder() -> Result<Program> {
    Program::anyport(1, "fwd af_xdp:f0 af_xdp:f1")
}

/// The bare forwarder there.
///
/// # Errors
/// As above.
pub fn bare_forwarder() -> Result<Program> {
    Program::bare(1, "forward f0 f1")
}

/// More load for the forwarders on AF_XDP than any can forward: frames that the kernel makes.
///
/// # Errors
/// It has not been built.
pub fn flood() -> Result<Program> {
    Program::bare(0, "flood h0")
}

fn gen_alone(port: &str) -> Result<Setup> {
    sender(Program::anyport(1, &format!("gen {port} --size 60 --rate max"))?)
}

fn gen_to_sink() -> Result<Setup> {
    let sink = Program::anyport(0, "sink af_xdp:s0")?;
    pair(sink, Program::anyport(1, "gen af_xdp:g0 --size 60 --rate max")?)
}

/// testpmd receiving on one device, and another one sending on the other.
fn testpmd_pair(rx: &str, tx: &str) -> Result<Setup> {
    let receiver = Program::testpmd(0, &[rx], "--forward-mode=rxonly");
    pair(receiver, Program::testpmd(1, &[tx], "--forward-mode=txonly --txpkts=60"))
}

/// One sender, and the kernel at the other end.
fn sender(program: Program) -> Result<Setup> {
    Ok(Setup {
        programs: vec![program],
        measured: 0,
        arrived: Counter::Received("s0"),
        offered: None,
    })
}

fn pair(receiver: Program, sender: Program) -> Result<Setup> {
    let programs = vec![receiver, sender];
    Ok(Setup { programs, measured: 1, arrived: Counter::Redirected("s0"), offered: None })
}

/// A forwarder under more load than it can forward, made by libpcap.
fn pcap_forwarder(program: Program) -> Result<Setup> {
    under(program, Program::inject(0, "d0")?)
}

/// The same, made by the kernel.
fn forwarder(program: Program) -> Result<Setup> {
    under(program, flood()?)
}

fn under(program: Program, load: Program) -> Result<Setup> {
    Ok(Setup {
        programs: vec![program, load],
        measured: 0,
        arrived: Counter::Received("s1"),
        offered: Some(Counter::Received("f0")),
    })
}
