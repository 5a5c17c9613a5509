//! The XDP program that somebody has attached to an interface, with what takes it away.
//!
//! An interface takes one program. One that is there is never replaced: what it is, and the command, are for people.
//!
//! Traps:
//! - `ip link set ... xdp off` takes away a program that was attached by netlink. One that was attached by a link (`bpf(2)`)
//!   goes with the link: with the process that holds it, or with the file that pins it.
//! - The number of the program, and where it runs, anybody may know; its name and its link only with CAP_SYS_ADMIN.

use std::fmt;
use std::io;

use crate::bpf::info;
use crate::links::text;
use crate::netlink::{Netlink, attribute, attributes, read};

const IFLA_XDP: u16 = 43;
const ATTACHED: u16 = 2;
const PROGRAM: u16 = 4;
const DRIVER_PROGRAM: u16 = 5;
const GENERIC_PROGRAM: u16 = 6;
const HARDWARE_PROGRAM: u16 = 7;

/// Several programs, each where it is.
const SEVERAL: u8 = 4;

/// Where an attached program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
    /// On the card.
    Hardware,
}

/// How a program was attached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum By {
    /// By netlink: it stays until somebody takes it away.
    Netlink,
    /// By a link.
    Link {
        /// Its number.
        link: Option<u32>,
        /// A process that holds it, and its name. `None` if it is pinned, or held by a process that cannot be looked into.
        holder: Option<(u32, String)>,
    },
    /// This thread may not know.
    Unknown,
}

/// An attached program.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct XdpAttached {
    /// The interface's name when it was asked.
    pub interface: String,
    /// Where it runs.
    pub place: Place,
    /// Its number.
    pub program: u32,
    /// Its name, if this thread may know it.
    pub name: Option<String>,
    /// How it was attached.
    pub by: By,
}

impl XdpAttached {
    /// The command that takes it away.
    pub fn remedy(&self) -> String {
        let word = match self.place {
            Place::Native => "xdpdrv",
            Place::Generic => "xdpgeneric",
            Place::Hardware => "xdpoffload",
        };
        let off = format!("`ip link set dev {} {word} off`", self.interface);
        match &self.by {
            By::Netlink => format!("{off} takes it away"),
            By::Link { holder: Some((pid, name)), .. } => {
                format!("it goes when process {pid} ({name}) ends: `kill {pid}`")
            }
            By::Link { link: Some(link), holder: None } => {
                format!(
                    "`bpftool link detach id {link}` takes it away (`bpftool link show id {link}` tells whose it is)"
                )
            }
            By::Link { link: None, holder: None } | By::Unknown => {
                format!(
                    "{off} takes it away if it was attached so, else it goes with a link that `bpftool link show` lists"
                )
            }
        }
    }
}

/// What and where: `XDP program 57 "drop_all" (in the driver)`.
impl fmt::Display for XdpAttached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XDP program {}", self.program)?;
        if let Some(name) = self.name.as_ref().filter(|name| !name.is_empty()) {
            write!(f, " \"{name}\"")?;
        }
        f.write_str(match self.place {
            Place::Native => " (in the driver",
            Place::Generic => " (behind the driver: generic mode",
            Place::Hardware => " (on the card",
        })?;
        f.write_str(match self.by {
            By::Netlink => ", attached by netlink)",
            By::Link { .. } => ", attached by a link)",
            By::Unknown => ")",
        })
    }
}

/// The program that is attached to the interface of that index in the calling thread's network namespace, the first of them if
/// there are several; `None` if there is none.
///
/// It looks through the open files of all processes for whoever holds a link, so it is for errors and listings.
///
/// # Errors
/// `ENODEV` if there is no such interface; the system's.
pub fn xdp_attached(interface: u32) -> io::Result<Option<XdpAttached>> {
    const HEADER: usize = 16;
    const EXT_MASK_SKIP_STATS: u32 = 1 << 3;
    let mut request = vec![0; HEADER];
    request[4..8].copy_from_slice(&interface.to_ne_bytes());
    request.extend(attribute(libc::IFLA_EXT_MASK, &EXT_MASK_SKIP_STATS.to_ne_bytes()));
    let (mut found, mut name) = (None, String::new());
    Netlink::open()?.ask(libc::RTM_GETLINK, &request, |_, body| {
        for (kind, content) in attributes(body.get(HEADER..).unwrap_or_default()) {
            match kind {
                IFLA_XDP => found = place(content),
                libc::IFLA_IFNAME => name = text(content),
                _ => {}
            }
        }
    })?;
    Ok(found.map(|(place, program)| XdpAttached {
        interface: name,
        place,
        program,
        name: info::program_name(program),
        by: attached_by(program, interface),
    }))
}

/// Where the first program is, and its number.
fn place(nest: &[u8]) -> Option<(Place, u32)> {
    let find = |wanted| attributes(nest).find(|(kind, _)| *kind == wanted).map(|(_, found)| found);
    let number = |wanted| find(wanted).and_then(read::<u32>);
    let several = [
        (Place::Native, DRIVER_PROGRAM),
        (Place::Generic, GENERIC_PROGRAM),
        (Place::Hardware, HARDWARE_PROGRAM),
    ];
    match find(ATTACHED).and_then(read::<u8>)? {
        1 => Some((Place::Native, number(PROGRAM)?)),
        2 => Some((Place::Generic, number(PROGRAM)?)),
        3 => Some((Place::Hardware, number(PROGRAM)?)),
        SEVERAL => several.into_iter().find_map(|(place, kind)| Some((place, number(kind)?))),
        _ => None,
    }
}

fn attached_by(program: u32, interface: u32) -> By {
    let holder = holder(program, interface);
    match info::xdp_link(program, interface) {
        Some(None) => By::Netlink,
        Some(link) => By::Link { link, holder },
        None if holder.is_some() => By::Link { link: None, holder },
        None => By::Unknown,
    }
}

/// The process that has a link of the program open, as far as this one may look into others.
fn holder(program: u32, interface: u32) -> Option<(u32, String)> {
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| {
            let kind = std::fs::read_link(file.path());
            if !kind.is_ok_and(|kind| kind.to_string_lossy().contains("bpf_link")) {
                return false;
            }
            let number = file.file_name();
            let path = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
            let Ok(about) = std::fs::read_to_string(path) else { return false };
            let says = |key: &str, value: &str| {
                about.lines().any(|line| {
                    line.split_once(':')
                        .is_some_and(|(found, rest)| found == key && rest.trim() == value)
                })
            };
            says("link_type", "xdp")
                && says("prog_id", &program.to_string())
                && says("ifindex", &interface.to_string())
        })
    };
    let pid = pids.into_iter().find(holds)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interface;
    use crate::bpf::asm::Assembler;
    use crate::bpf::{Kind, Program, XdpMode};
    use crate::testing::{in_namespace, ip, may_load_programs};

    const XDP_PASS: i32 = 2;

    fn pass(name: &str) -> Program {
        let mut code = Assembler::new();
        code.exit(XDP_PASS);
        Program::load(Kind::Xdp, name, &code.finish().unwrap()).unwrap()
    }

    #[test]
    fn a_program_that_is_attached_is_found_with_its_holder() {
        in_namespace(|| {
            if !may_load_programs() {
                return;
            }
            let index = Interface::open("a0").unwrap().index();
            assert_eq!(xdp_attached(index).unwrap(), None);
            for (mode, place, shown) in [
                (XdpMode::Native, Place::Native, "(in the driver, attached by a link)"),
                (
                    XdpMode::Generic,
                    Place::Generic,
                    "(behind the driver: generic mode, attached by a link)",
                ),
            ] {
                let link = pass("foreign").attach_xdp(index, mode).unwrap();
                let found = xdp_attached(index).unwrap().unwrap();
                assert_eq!((found.place, found.name.as_deref()), (place, Some("foreign")));
                let By::Link { link: Some(number), holder: Some((pid, _)) } = &found.by else {
                    panic!("{found:?}")
                };
                assert!(*number > 0);
                assert_eq!(*pid, std::process::id());
                let text = format!("XDP program {} \"foreign\" {shown}", found.program);
                assert_eq!(found.to_string(), text);
                assert!(found.remedy().ends_with(&format!("`kill {pid}`")), "{}", found.remedy());
                // A link that is only dropped goes a moment later.
                link.detach();
            }
            assert_eq!(xdp_attached(index).unwrap(), None);
            let gone = xdp_attached(0x7fff_fff0).unwrap_err();
            assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
        });
    }

    #[test]
    fn a_program_that_netlink_has_attached_goes_by_the_command_that_is_named() {
        in_namespace(|| {
            if !may_load_programs() {
                return;
            }
            let index = Interface::open("a0").unwrap().index();
            for (mode, place, word) in
                [(1 << 2, Place::Native, "xdpdrv"), (1 << 1, Place::Generic, "xdpgeneric")]
            {
                crate::testing::attach_by_netlink(&pass("old_way"), index, mode);
                let found = xdp_attached(index).unwrap().unwrap();
                assert_eq!((found.place, &found.by), (place, &By::Netlink));
                let command = format!("ip link set dev a0 {word} off");
                assert_eq!(found.remedy(), format!("`{command}` takes it away"));
                ip(command.strip_prefix("ip ").unwrap());
                assert_eq!(xdp_attached(index).unwrap(), None);
            }
        });
    }

    #[test]
    fn several_programs_and_what_is_cut_off() {
        let mut nest = attribute(ATTACHED, &[SEVERAL]);
        nest.extend(attribute(HARDWARE_PROGRAM, &9u32.to_ne_bytes()));
        nest.extend(attribute(GENERIC_PROGRAM, &8u32.to_ne_bytes()));
        assert_eq!(place(&nest), Some((Place::Generic, 8)));
        assert_eq!(place(&nest[..8]), None);
        assert_eq!(place(&attribute(ATTACHED, &[1])), None);
        assert_eq!(place(&attribute(ATTACHED, &[0])), None);
        assert_eq!(place(&[]), None);
    }
}
