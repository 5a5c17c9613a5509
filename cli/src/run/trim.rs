//! Start-up code does not stay in memory: a program that forwards for days needs little of what read its arguments and
//! configuration, and its memory is counted with the pool's.
//!
//! The pages of code that are mapped now are let go; those that are needed come back, one fault each, from the page cache.
//! Only pages that are executable and not writable are: they hold what is in the file, nothing else. (Not so the read-only
//! data: relocations were written into it.) The same happens to any program under memory pressure.

/// Lets code pages go. Where `/proc` cannot be read, nothing happens.
pub fn let_code_go() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: the range was mapped a moment ago, and mappings of code are not removed here (nothing is unloaded). Private,
        // never written to, backed by a file: what is dropped is read from the file again.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of a mapping, if it is code from a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (permissions, path) = (fields.next()?, fields.nth(3)?);
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (permissions == "r-xp" && path.starts_with('/')).then(|| (start, end.saturating_sub(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_let_go() {
        let line = "7f0000001000-7f0000003000 r-xp 00001000 fe:00 123   /usr/lib/libc.so.6";
        assert_eq!(code(line), Some((0x7f00_0000_1000, 0x2000)));
        for other in [
            "7f0000001000-7f0000003000 r--p 00001000 fe:00 123   /usr/lib/libc.so.6",
            "7f0000001000-7f0000003000 rwxp 00001000 fe:00 123   /tmp/code",
            "7ffd00001000-7ffd00003000 r-xp 00000000 00:00 0     [vdso]",
            "7f0000001000-7f0000003000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on() {
        for _ in 0..3 {
            let_code_go();
            assert_eq!(crate::text::number(1234), "1,234");
        }
    }
}
