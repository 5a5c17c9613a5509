//! Clocks that are cheap enough for the fast path.

/// Milliseconds of `CLOCK_MONOTONIC_COARSE`: a few nanoseconds to read, a few milliseconds fine. Good for "at most
/// once per 50 ms", not for measuring.
#[inline]
pub fn coarse_ms() -> u64 {
    let now = read(libc::CLOCK_MONOTONIC_COARSE);
    now / 1_000_000
}

/// Nanoseconds since the Unix epoch.
#[inline]
pub fn realtime_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline]
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

#[inline]
fn read(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a valid place for the answer.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
