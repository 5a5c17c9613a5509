//! The limit of locked memory, which the kernel has for a user, and says as `ENOBUFS`.
//!
//! Every registration of a pool's memory counts, so a pool under two started ports counts twice; CAP_IPC_LOCK lifts the limit. What
//! this process has registered is known, so that it can be said before the kernel is asked; what the user's other processes have
//! is not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyport::pool::PoolConfig;
use anyport::{Error, Pool, Result};
use anyport_netdev::error::explain;
use anyport_netdev::privilege::Privilege;

use crate::preflight::unsupported;
use crate::socket::Socket;

/// How long what a closed socket had registered may stay charged.
const SETTLE: Duration = Duration::from_secs(1);

/// A limit of locked memory that a pool of the default size exceeds.
pub(crate) fn too_much() -> Option<String> {
    let config = PoolConfig::default();
    let bytes = u64::from(config.frames) * u64::from(config.frame_size);
    limit().filter(|limit| bytes > *limit)?;
    Some(format!("a pool of the default size has {} KiB: {}", bytes / 1024, limit_words(bytes, 0)))
}

/// Bytes of pools that started ports of this process have registered.
static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// One registration of a pool's memory, for as long as its port is started.
#[derive(Debug)]
pub(crate) struct Registration(u64);

impl Registration {
    /// Before the kernel is asked to take a pool's memory.
    ///
    /// The kernel charges all registrations of a user to the limit of locked memory, one for each started port, unless the
    /// process has CAP_IPC_LOCK (`xdp_umem_account_pages`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it cannot.
    pub fn new(title: &str, pool: &Pool) -> Result<Registration> {
        let bytes = pool.region().len() as u64;
        let before = REGISTERED.fetch_add(bytes, Ordering::Relaxed);
        let registration = Registration(bytes);
        match limit() {
            Some(limit) if before + bytes > limit => Err(over_limit(title, bytes, before)),
            _ => Ok(registration),
        }
    }

    /// Makes the pool's memory the socket's.
    ///
    /// What was registered before is charged until a moment after its socket was closed, so within the limit it is tried again
    /// for a while.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if other processes of the user leave too little; the system's.
    ///
    /// # Safety
    /// As of [`Socket::register`].
    pub unsafe fn register(
        &self,
        title: &str,
        socket: &Socket,
        pool: &Pool,
        chunk: usize,
    ) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            // SAFETY: the caller vouches for it.
            let registered = unsafe { socket.register(pool.region(), chunk) };
            let Err(error) = registered else { return Ok(()) };
            match error.raw_os_error() {
                Some(libc::ENOBUFS) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Some(libc::ENOBUFS) => {
                    let all = REGISTERED.load(Ordering::Relaxed);
                    return Err(over_limit(title, self.0, all.saturating_sub(self.0)));
                }
                Some(libc::ENOMEM) => {
                    let reason = "the kernel has no memory to register the pool with; a smaller pool takes less";
                    return Err(Error::Backend { device: title.into(), reason: reason.into() });
                }
                _ => return Err(explain(title, "registering the pool's memory", error)),
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        REGISTERED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Bytes of memory that may be locked, if that is limited.
fn limit() -> Option<u64> {
    if Privilege::IpcLock.held() {
        return None;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is where it is to be written.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}

fn over_limit(title: &str, bytes: u64, before: u64) -> Error {
    let limit = limit_words(bytes, before);
    unsupported(title, "pool", &format!("{} KiB", kib(bytes)), limit)
}

/// What the limit of locked memory is, and what lifts it, for so many bytes beside those that this process has locked before.
fn limit_words(bytes: u64, before: u64) -> String {
    let limit = limit().unwrap_or_default();
    let (least, others) = match before + bytes > limit {
        true => (before + bytes, format!("and {} KiB are locked", kib(before))),
        // What others have locked is not to be known.
        false => (limit + bytes, "and the rest is locked by the user's other processes, or".into()),
    };
    format!(
        "a user may lock {} KiB of memory (RLIMIT_MEMLOCK), each started port locks its whole pool, {others} by other ports of \
         this process; `sudo prlimit --memlock={} --pid $$` in the shell that starts the program, or LimitMEMLOCK={}K in its \
         systemd unit, allows it, CAP_IPC_LOCK lifts the limit, and a smaller pool needs less",
        kib(limit),
        kib(least) * 1024,
        kib(least),
    )
}
