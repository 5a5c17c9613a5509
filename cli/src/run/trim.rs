//! Start-up code does not stay in memory: a program that forwards for days, on a small machine perhaps, needs little of what
//! read its arguments and configuration.
//!
//! The pages of code and constants that are mapped now are let go; those that are needed come back, one fault each, from the
//! page cache. The same happens to any program under memory pressure.
//!
//! Trap: not everything that cannot be written to is as it is in the file: the dynamic linker writes relocations before it
//! takes the permission away. So only mappings of which the kernel says that no page was ever written are touched.

/// Lets pages of code and constants go. Where `/proc` cannot be read, nothing happens.
pub fn let_code_go() {
    let Ok(text) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, length) in clean_mappings(&text) {
        // SAFETY: the range was mapped a moment ago, and nothing is unloaded here. It is backed by a file, private, not
        // writable and was never written to: what is dropped is read from the file again.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of the mappings that are exactly as they are in their files, in the format of `/proc/PID/smaps`.
fn clean_mappings(text: &str) -> Vec<(usize, usize)> {
    let mut clean = Vec::new();
    let mut current = None;
    for line in text.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !first.ends_with(':') {
            current = from_file(first, rest);
        } else if first == "Anonymous:" && rest.trim() == "0 kB" {
            clean.extend(current.take());
        }
    }
    clean
}

/// Start and length of a private mapping of a file that cannot be written to.
fn from_file(addresses: &str, rest: &str) -> Option<(usize, usize)> {
    let (start, end) = addresses.split_once('-')?;
    let mut fields = rest.split_whitespace();
    let (permissions, path) = (fields.next()?, fields.nth(3)?);
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (matches!(permissions, "r-xp" | "r--p") && path.starts_with('/'))
        .then(|| (start, end.saturating_sub(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_its_file_is_let_go() {
        let mapping = |permissions: &str, path: &str, anonymous: &str| {
            format!(
                "7f0000001000-7f0000003000 {permissions} 00001000 fe:00 123   {path}\nSize:    8 kB\n\
                 Private_Dirty:    0 kB\nAnonymous:    {anonymous} kB\nVmFlags: rd ex mr\n"
            )
        };
        let found =
            |permissions, path, anonymous| clean_mappings(&mapping(permissions, path, anonymous));
        let whole = vec![(0x7f00_0000_1000, 0x2000)];
        assert_eq!(found("r-xp", "/usr/lib/libc.so.6", "0"), whole);
        assert_eq!(found("r--p", "/usr/lib/libc.so.6", "0"), whole);
        for (permissions, path, anonymous) in [
            ("r--p", "/usr/lib/libc.so.6", "4"),
            ("rw-p", "/usr/lib/libc.so.6", "0"),
            ("rwxp", "/tmp/code", "0"),
            ("r--s", "/tmp/shared", "0"),
            ("r-xp", "[vdso]", "0"),
            ("r-xp", "", "0"),
        ] {
            assert_eq!(found(permissions, path, anonymous), [], "{permissions} {path} {anonymous}");
        }
        let two =
            mapping("r-xp", "/a", "0") + &mapping("r--p", "/a", "8") + &mapping("r--p", "/b", "0");
        assert_eq!(clean_mappings(&two).len(), 2);
        assert_eq!(clean_mappings("garbage\n\nAnonymous: 0 kB"), []);
    }

    #[test]
    fn the_program_goes_on() {
        for _ in 0..3 {
            let_code_go();
            assert_eq!(crate::text::number(1234), "1,234");
        }
    }
}
