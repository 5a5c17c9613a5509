//! Network namespaces for tests of backends: each test makes its own, which goes with the test's thread.
//!
//! ```text
//!  thread: unshare(CLONE_NEWNET)     a0 ◄── veth ──► a1     both up, no IPv6 addresses
//! ```
//!
//! Nothing of the machine's own network is touched. Without the privilege a test is skipped and says so; with
//! `ANYPORT_REQUIRE_PRIVILEGED` set that is a failure.

#![allow(clippy::print_stderr, reason = "a test says why it was skipped")]

pub mod end;

use std::os::fd::AsRawFd;
use std::process::{Command, Output};

use crate::bpf::{Kind, Program};
use crate::netlink::{Netlink, attribute};
use crate::privilege::Privilege;

/// Whether a test that needs privileges has them; `what` it needs is said if not.
///
/// # Panics
/// If it has not, and `ANYPORT_REQUIRE_PRIVILEGED` is set.
pub fn privileged(held: bool, what: &str) -> bool {
    if !held {
        assert!(std::env::var_os("ANYPORT_REQUIRE_PRIVILEGED").is_none(), "required: {what}");
        eprintln!("skipped: it needs {what}");
    }
    held
}

/// Runs a test in a namespace of its own with a veth pair `a0`, `a1`.
///
/// # Panics
/// If the test does.
pub fn in_namespace(test: impl FnOnce() + Send) {
    let in_thread = || {
        // SAFETY: no pointers; it changes this thread alone.
        let done = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        if !privileged(done, "root: CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF") {
            return;
        }
        ip("link set lo up");
        ip("link add a0 type veth peer name a1");
        for end in ["a0", "a1"] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        test();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(in_thread).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Whether programs can be loaded, which a user namespace does not allow; said if not.
///
/// # Panics
/// As [`privileged`]; if the kernel refuses the program for another reason than privilege.
pub fn may_load_programs() -> bool {
    let code = crate::to_kernel::ToKernel::default().tcx_program();
    let loaded = code.and_then(|code| Program::load(Kind::Tc, "anyport_test", &code));
    if let Err(error) = &loaded
        && error.raw_os_error() != Some(libc::EPERM)
    {
        panic!("the simplest program cannot be loaded: {error}");
    }
    privileged(loaded.is_ok(), "CAP_BPF and CAP_NET_ADMIN of the machine itself")
}

/// Whether a journal can be kept; said if not.
///
/// # Panics
/// As [`privileged`].
pub fn may_keep_a_journal() -> bool {
    let written = crate::journal::Journal::default().is_writable();
    privileged(written, "/run/anyport, or XDG_RUNTIME_DIR set to a directory of its own")
}

/// Takes all capabilities from the calling thread, but for those that are named.
///
/// # Panics
/// If the kernel refuses.
pub fn keep_only(kept: &[Privilege]) {
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [[0u32; 3]; 2];
    for privilege in kept {
        let bit = *privilege as usize;
        data[bit / 32][0] |= 1 << (bit % 32);
        data[bit / 32][1] |= 1 << (bit % 32);
    }
    // SAFETY: both are as version 3 of the call demands; it changes this thread alone.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(result, 0, "giving up capabilities");
}

/// Attaches an XDP program the old way, by netlink, with `XDP_FLAGS_*`.
///
/// # Panics
/// If the kernel refuses.
pub fn attach_by_netlink(program: &Program, interface: u32, flags: u32) {
    const IFLA_XDP: u16 = 43;
    const FD: u16 = 1;
    const FLAGS: u16 = 3;
    let mut request = vec![0; 16];
    request[4..8].copy_from_slice(&interface.to_ne_bytes());
    let mut nest = attribute(FD, &program.as_raw_fd().to_ne_bytes());
    nest.extend(attribute(FLAGS, &flags.to_ne_bytes()));
    request.extend(attribute(IFLA_XDP | libc::NLA_F_NESTED as u16, &nest));
    let mut netlink = Netlink::open().expect("a netlink socket");
    netlink.order(libc::RTM_SETLINK, &request).expect("attaching by netlink");
}

/// Runs `ip` in the calling thread's namespace.
///
/// # Panics
/// If it fails.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a command in the calling thread's namespace; what it wrote to its standard output.
///
/// # Panics
/// If it fails.
pub fn run(program: &str, arguments: &str) -> String {
    let output = try_run(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same for a command that may fail.
///
/// # Panics
/// If the program is not there.
pub fn try_run(program: &str, arguments: &str) -> Output {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    match Command::new(program).args(&arguments).output() {
        Ok(output) => output,
        Err(error) => panic!("{program}: {error}"),
    }
}
