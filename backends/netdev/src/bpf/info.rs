//! What the kernel tells of programs and links that others have loaded.
//!
//! Asking by number needs CAP_SYS_ADMIN, CAP_BPF is not enough: who may not ask learns nothing here, and has to say less.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::call;
use crate::sys::owned;

const PROGRAM_BY_ID: libc::c_long = 13;
const INFO_BY_FD: libc::c_long = 15;
const LINK_BY_ID: libc::c_long = 30;
const LINK_NEXT_ID: libc::c_long = 31;

/// More links than these are not looked through.
const MOST_LINKS: usize = 10_000;

/// The start of `struct bpf_prog_info`, with what is not used here as words.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    rest: [u32; 14],
    name: [u8; 16],
}

/// The start of `struct bpf_link_info`, for a link of an XDP program.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    interface: u32,
}

/// The name of a loaded program, if this thread may ask; it may be empty.
pub(crate) fn program_name(id: u32) -> Option<String> {
    let program = by_id(PROGRAM_BY_ID, id)?;
    let info: ProgramInfo = info(&program).ok()?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Some(String::from_utf8_lossy(&info.name[..end]).into_owned())
}

/// The number of the link that attaches a program to an interface at its ingress: `Some(None)` if there is none, `None` if this
/// thread may not ask.
pub(crate) fn xdp_link(program: u32, interface: u32) -> Option<Option<u32>> {
    const XDP: u32 = 6;
    let mut last = 0;
    for _ in 0..MOST_LINKS {
        // Where to begin, and the answer.
        let mut next = [last, 0, 0];
        match call(LINK_NEXT_ID, &mut next) {
            Ok(_) => last = next[1],
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Some(None),
            Err(_) => return None,
        }
        // It may have gone since.
        let Some(link) = by_id(LINK_BY_ID, last) else { continue };
        let found: io::Result<LinkInfo> = info(&link);
        if found.is_ok_and(|found| {
            found.kind == XDP && found.program == program && found.interface == interface
        }) {
            return Some(Some(last));
        }
    }
    None
}

fn by_id(command: libc::c_long, id: u32) -> Option<OwnedFd> {
    // The number, one that is not for this command, and flags.
    owned(call(command, &mut [id, 0, 0]).ok()?).ok()
}

/// The start of what the kernel tells of an object.
pub(super) fn info<T: Default>(of: &OwnedFd) -> io::Result<T> {
    #[repr(C)]
    struct Get {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = T::default();
    let length = size_of::<T>() as u32;
    let mut get =
        Get { fd: of.as_raw_fd() as u32, length, info: std::ptr::from_mut(&mut info) as u64 };
    call(INFO_BY_FD, &mut get)?;
    Ok(info)
}
