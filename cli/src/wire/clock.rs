//! The clock that stamps are read from, and how a receiver knows that it is its own.
//!
//! Stamps are nanoseconds of `CLOCK_MONOTONIC`: it never jumps, and all processes of one boot share it. Another host, or
//! another boot, counts from elsewhere; so may a time namespace. A 16-bit identity of the clock goes with each stamp:
//! where it differs from one's own, the difference of two times means nothing and is not taken.

use std::sync::OnceLock;

/// Nanoseconds of this host's monotonic clock.
#[inline]
pub fn now() -> u64 {
    anyport::time::monotonic_ns()
}

/// The identity of this process's clock; 0 where it cannot be told.
pub fn identity() -> u16 {
    static IDENTITY: OnceLock<u16> = OnceLock::new();
    *IDENTITY.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // Absent in kernels without time namespaces.
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        let offset = offsets.lines().find(|line| line.starts_with("monotonic"));
        identify(boot.trim(), offset.unwrap_or_default())
    })
}

fn identify(boot: &str, offset: &str) -> u16 {
    if boot.is_empty() {
        return 0;
    }
    let offset: Vec<&str> = offset.split_whitespace().skip(1).filter(|part| *part != "0").collect();
    let text = boot.bytes().chain(offset.join(" ").into_bytes());
    // FNV-1a, folded: the same in every build, which the standard library's hashes do not promise.
    let hash = text.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let folded = (hash ^ hash >> 16 ^ hash >> 32 ^ hash >> 48) as u16;
    folded.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_and_time_namespaces_differ() {
        let plain =
            identify("4e5f3f6e-8a1d-4b57-9d43-2e6b0f6a5a11", "monotonic           0         0");
        assert_eq!(plain, identify("4e5f3f6e-8a1d-4b57-9d43-2e6b0f6a5a11", ""));
        assert_ne!(plain, identify("4e5f3f6e-8a1d-4b57-9d43-2e6b0f6a5a11", "monotonic 86400 0"));
        assert_ne!(plain, identify("4e5f3f6e-8a1d-4b57-9d43-2e6b0f6a5a12", ""));
        assert_ne!(plain, 0);
        assert_eq!(identify("", "monotonic 1 0"), 0);
    }
}
