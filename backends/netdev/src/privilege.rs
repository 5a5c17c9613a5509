//! What this thread may do, and what to say if it may not (contract F6).

use anyport::Error;

/// A capability (`capabilities(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Privilege {
    /// Changing interfaces: address, MTU, offload switches, programs.
    NetAdmin = 12,
    /// Packet sockets.
    NetRaw = 13,
    /// Locking memory beyond the limit.
    IpcLock = 14,
    /// Loading programs into the kernel (Linux 5.8).
    Bpf = 39,
}

impl Privilege {
    /// The name as `capabilities(7)` and `setcap` write it, the latter in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Privilege::NetAdmin => "CAP_NET_ADMIN",
            Privilege::NetRaw => "CAP_NET_RAW",
            Privilege::IpcLock => "CAP_IPC_LOCK",
            Privilege::Bpf => "CAP_BPF",
        }
    }

    /// Whether the calling thread has it. In a user namespace of its own it may have it there only, which is enough for that
    /// namespace's interfaces, but not for programs.
    pub fn held(self) -> bool {
        #[repr(C)]
        struct Header {
            version: u32,
            pid: libc::c_int,
        }
        const VERSION_3: u32 = 0x2008_0522;
        let mut header = Header { version: VERSION_3, pid: 0 };
        // Two times effective, permitted and inheritable, 32 bits each.
        let mut data = [[0u32; 3]; 2];
        // SAFETY: both are as version 3 demands.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut data) };
        let bit = self as usize;
        result == 0 && data[bit / 32][0] & 1 << (bit % 32) != 0
    }
}

/// The error of a process that was refused: it names those of the capabilities that are missing (all, if none is: a user
/// namespace, or a security module), and the command that grants them.
pub fn denied(device: &str, doing: &str, needed: &[Privilege]) -> Error {
    Error::Permission {
        device: device.into(),
        doing: doing.into(),
        needs: missing(needed),
        remedy: remedy(),
    }
}

/// Those of the capabilities that are missing, in words; all, if none is.
pub(crate) fn missing(needed: &[Privilege]) -> String {
    let missing = needed.iter().filter(|privilege| !privilege.held());
    let mut missing: Vec<&str> = missing.map(|privilege| privilege.name()).collect();
    if missing.is_empty() {
        missing = needed.iter().map(|privilege| privilege.name()).collect();
    }
    missing.join(" and ")
}

/// How to get every privilege that a port on an interface may need.
pub(crate) fn remedy() -> String {
    let program = std::env::current_exe()
        .map_or_else(|_| "PROGRAM".into(), |path| path.to_string_lossy().into_owned());
    format!(
        "run it with sudo, or once `sudo setcap cap_net_raw,cap_net_admin,cap_bpf+ep {}`",
        quoted(&program)
    )
}

/// For a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    match path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_shell() {
        for (path, text) in
            [("/a/b-c_1.2", "/a/b-c_1.2"), ("/a b/c", "'/a b/c'"), ("a'b", r"'a'\''b'")]
        {
            assert_eq!(quoted(path), text);
        }
    }
}
