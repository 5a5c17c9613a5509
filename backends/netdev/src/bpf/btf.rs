//! Functions of the kernel that programs may call, by name: where they are in the kernel's description of its own types (BTF).
//!
//! The file is a header, a list of types of several lengths, and their names; a function's number is its place in the list.
//! Sources: `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`.

use std::io;
use std::path::Path;

/// A function of the running kernel that programs may call (a kfunc).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function(pub(super) u32);

impl Function {
    /// Looks a function up in the running kernel; `None` if it has none of that name, or does not describe itself
    /// (CONFIG_DEBUG_INFO_BTF).
    ///
    /// # Errors
    /// The system's, from reading the description.
    pub fn find(name: &str) -> io::Result<Option<Function>> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        match std::fs::read(path) {
            Ok(description) => Ok(find(&description, name).map(Function)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

const MAGIC: u16 = 0xeb9f;
const FUNCTION: u32 = 12;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// How many bytes stand behind a type's three words, by its kind and its number of members.
fn length_of(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, names for types, qualifiers, functions, floats, tags of types.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays; structures and unions; enumerations of 32 bits; prototypes; sections; enumerations of 64 bits.
        3 => 12,
        4 | 5 => 12 * members,
        6 => 8 * members,
        13 => 8 * members,
        15 => 12 * members,
        19 => 12 * members,
        _ => return None,
    })
}

/// The number of a function; `None` also if the description is not one that this code understands.
fn find(description: &[u8], name: &str) -> Option<u32> {
    let magic = u16::from_ne_bytes(description.get(..2)?.try_into().ok()?);
    if magic != MAGIC {
        return None;
    }
    let header = word(description, 4)? as usize;
    let part = |offset: u32, length: u32| {
        let from = header.checked_add(offset as usize)?;
        description.get(from..from.checked_add(length as usize)?)
    };
    let types = part(word(description, 8)?, word(description, 12)?)?;
    let names = part(word(description, 16)?, word(description, 20)?)?;
    let (mut at, mut number) = (0, 1);
    while at < types.len() {
        let (name_at, info) = (word(types, at)? as usize, word(types, at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let called = || names.get(name_at..)?.strip_prefix(name.as_bytes())?.first();
        if kind == FUNCTION && called() == Some(&0) {
            return Some(number);
        }
        at += 12 + length_of(kind, members)?;
        number += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A description with an integer, a structure of two members, a prototype and two functions.
    fn description() -> Vec<u8> {
        let names = b"\0int\0pair\0first\0first_of\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([1, 1 << 24, 4, 32]);
        types.extend([5, 4 << 24 | 2, 8, 0, 1, 0, 0, 1, 32]);
        types.extend([0, 13 << 24 | 1, 1, 0, 1]);
        types.extend([16, FUNCTION << 24, 3]);
        types.extend([10, FUNCTION << 24, 3]);
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut all = MAGIC.to_ne_bytes().to_vec();
        all.extend([1, 0]);
        for value in [24, 0, types.len(), types.len(), names.len()] {
            all.extend((value as u32).to_ne_bytes());
        }
        [all, types, names.to_vec()].concat()
    }

    #[test]
    fn a_function_is_found_by_its_whole_name() {
        let all = description();
        assert_eq!(find(&all, "first_of"), Some(4));
        assert_eq!(find(&all, "first"), Some(5));
        for name in ["pair", "firs", "first_off", ""] {
            assert_eq!(find(&all, name), None, "{name}");
        }
    }

    #[test]
    fn what_is_cut_short_has_no_functions() {
        let all = description();
        for length in 0..all.len() {
            assert_eq!(find(&all[..length], "first"), None);
        }
        for at in 0..all.len() {
            let mut broken = all.clone();
            broken[at] ^= 0xff;
            // Whatever it finds: it looks nowhere else.
            let _ = find(&broken, "first");
        }
    }
}
