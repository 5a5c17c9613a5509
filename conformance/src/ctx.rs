//! What a case is given: two ends of something, and the means to open ports on them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyport::{Capability, Pool, Port, Registry, Spec};

use crate::case::{Failure, Verdict};
use crate::helper::{Helper, HelperCommand};
use crate::rig::Wires;
use crate::side::Side;

/// How long a case waits for what must happen. Nothing that holds takes anywhere near that long; it only bounds what
/// does not.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The first.
    A,
    /// The second.
    B,
}

impl End {
    /// Both.
    pub const BOTH: [End; 2] = [End::A, End::B];

    /// The one at the other end.
    pub fn other(self) -> End {
        match self {
            End::A => End::B,
            End::B => End::A,
        }
    }

    /// 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A case's surroundings: the wires, fresh for it, and ports on their ends.
pub struct Ctx {
    registry: Registry,
    wires: Box<dyn Wires>,
    capabilities: [Capability; 2],
    helper: Option<HelperCommand>,
    /// Numbers for whatever has to differ.
    next: AtomicUsize,
}

impl Ctx {
    pub(crate) fn new(
        registry: Registry,
        wires: Box<dyn Wires>,
        capabilities: [Capability; 2],
        helper: Option<HelperCommand>,
    ) -> Ctx {
        Ctx { registry, wires, capabilities, helper, next: AtomicUsize::new(1) }
    }

    /// What lies between the ends.
    pub fn wires(&self) -> &dyn Wires {
        &*self.wires
    }

    /// The backends.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What the port of an end can do.
    pub fn capability(&self, end: End) -> &Capability {
        &self.capabilities[end.index()]
    }

    /// The spec of an end, without further keys.
    pub fn spec(&self, end: End) -> String {
        self.wires.spec(end)
    }

    /// The spec of an end with more keys (`key=value,key=value`).
    pub fn spec_with(&self, end: End, keys: &str) -> String {
        let spec = self.spec(end);
        match keys {
            "" => spec,
            _ => format!("{spec},{keys}"),
        }
    }

    /// A number that no other call gives.
    pub fn unique(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A pool whose frames hold the port's default maximum frame with a tag.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn pool(&self, frames: u32) -> Verdict<Pool> {
        let longest = self.capabilities.iter().map(|c| c.default_max_frame).max().unwrap_or(1514);
        self.pool_for(frames, longest)
    }

    /// A pool whose frames hold a frame of that length with a tag.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn pool_for(&self, frames: u32, longest: usize) -> Verdict<Pool> {
        let size = (longest + 4 + usize::from(anyport::pool::DEFAULT_HEADROOM)).next_power_of_two();
        let size = u32::try_from(size.clamp(2048, 32768)).unwrap_or(2048);
        Ok(Pool::builder().frames(frames).frame_size(size).build()?)
    }

    /// Opens an end, stopped, with no pool attached. A device that was closed a moment ago may need a moment
    /// (contract L8 allows a bounded retry); `Busy` and the like are the case's to judge.
    ///
    /// # Errors
    /// Those of [`Registry::open`].
    pub fn open(&self, end: End, keys: &str) -> anyport::Result<Port> {
        self.registry.open(&self.spec_with(end, keys))
    }

    /// Opens and starts an end with a pool of its own (4096 frames).
    ///
    /// # Errors
    /// If that does not work.
    pub fn start(&self, end: End, keys: &str) -> Verdict<Side> {
        let pool = self.pool(4096)?;
        self.start_with(end, keys, &pool)
    }

    /// Opens and starts an end over a given pool.
    ///
    /// # Errors
    /// If that does not work.
    pub fn start_with(&self, end: End, keys: &str, pool: &Pool) -> Verdict<Side> {
        let mut port = self.open(end, keys)?;
        port.attach(pool)?;
        Side::start(port, pool.clone())
    }

    /// Both ends started, each with a pool of its own, and the link up.
    ///
    /// # Errors
    /// If that does not work.
    pub fn pair(&self) -> Verdict<(Side, Side)> {
        self.pair_with("", "")
    }

    /// As [`pair`](Ctx::pair), with keys for each end.
    ///
    /// # Errors
    /// If that does not work.
    pub fn pair_with(&self, keys_a: &str, keys_b: &str) -> Verdict<(Side, Side)> {
        let (a, b) = (self.start(End::A, keys_a)?, self.start(End::B, keys_b)?);
        self.settle(&a, &b)?;
        Ok((a, b))
    }

    /// Waits until frames pass between two started ends.
    ///
    /// # Errors
    /// If the link does not come up.
    pub fn settle(&self, a: &Side, b: &Side) -> Verdict {
        for side in [a, b] {
            side.port().control().wait_link_up(PATIENCE)?;
        }
        Ok(())
    }

    /// Starts the helper program (needs [`Power::Processes`](crate::Power::Processes)).
    ///
    /// # Errors
    /// If there is none or it does not start.
    pub fn helper(&self, arguments: &[&str]) -> Verdict<Helper> {
        let command = self.helper.as_ref().ok_or("there is no helper program")?;
        Helper::start(command, arguments)
    }

    /// A spec of this registry for an error message to name.
    pub fn parsed(&self, end: End) -> Spec {
        self.spec(end).parse().unwrap_or_else(|_| Spec::new("", ""))
    }
}

/// Tries until it succeeds, at most [`PATIENCE`] long.
///
/// # Errors
/// What the last try said.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Verdict<Option<T>>) -> Verdict<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(Failure(format!("{what} did not happen within {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
