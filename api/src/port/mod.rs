//! Ports: one opened device, its states, and what its handles share.
//!
//! ```text
//!            open                 start ──► queues
//!   spec ───────────► stopped ◄───────────► started ──► close / drop: the device as it was found
//!                     configure, attach     stop
//! ```
//!
//! The [`Port`] owns the state; [`Control`] and [`Stats`] are handles for other threads (contract Q2); queues are
//! handed out by `start` and answer `Closed` after `stop` (contract L4, L6).
//!
//! Trap: locks are taken in the order state, changing, driver, cells; a queue's gate comes last.

mod control;
mod lock;
mod plan;
mod sizing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use control::{Control, Link, Stats};
pub use lock::DeviceLock;

use crate::capability::Capability;
use crate::capture::{CaptureFile, Captures};
use crate::config::{PortConfig, Spec};
use crate::counters::PortCounters;
use crate::driver::PortDriver;
use crate::error::{Error, Result};
use crate::mac::{MacAddr, MacFilter};
use crate::pool::Pool;
use crate::queue::{RxCell, RxCore, RxCounts, RxQueue, TxCell, TxCore, TxCounts, TxQueue};

/// How long `stop` waits for calls in progress, and for the device to send what was accepted (contract L6).
const STOP_BOUND: Duration = Duration::from_secs(1);

/// One opened device.
///
/// Dropping it stops it and leaves the device as it was found; [`close`](Port::close) does the same and reports
/// what went wrong.
pub struct Port {
    shared: Arc<PortShared>,
    pools: Vec<Pool>,
    capture: Option<CaptureFile>,
}

/// The queues of a started port, in order.
#[derive(Debug)]
pub struct Queues {
    /// Receive queues.
    pub rx: Vec<RxQueue>,
    /// Transmit queues.
    pub tx: Vec<TxQueue>,
}

impl Queues {
    /// The first receive and the first transmit queue; the others are dropped.
    ///
    /// A port always has at least one of each.
    pub fn into_pair(mut self) -> (RxQueue, TxQueue) {
        (self.rx.swap_remove(0), self.tx.swap_remove(0))
    }
}

/// Where the port is in its life (contract L4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Stopped,
    Started,
    Closed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Started => "started",
            State::Closed => "closed",
        }
    }
}

/// What the port and its handles share.
pub(crate) struct PortShared {
    title: String,
    spec: Spec,
    capability: Capability,
    filter: MacFilter,
    /// The device's address at open.
    original_mac: MacAddr,
    state: Mutex<State>,
    /// What the device had counted when it was closed.
    final_counters: Mutex<PortCounters>,
    /// `None` once closed.
    driver: Mutex<Option<Box<dyn PortDriver>>>,
    config: Mutex<PortConfig>,
    /// Held while the device, the filter and `config` are changed, which is one step to others who change them.
    changing: Mutex<()>,
    cells: Mutex<Cells>,
    /// Why the device is gone, once it is.
    gone: Mutex<Option<String>>,
    captures: Captures,
    /// Given back at close, after the driver: handles that live longer do not keep the device (contract L10). The queues'
    /// drivers are under it, too: one whose owner is still in a call when `close` gives up keeps the device locked.
    lock: Mutex<Option<Arc<DeviceLock>>>,
}

/// The queues of a started port, and the counters of all that there ever were.
#[derive(Default)]
struct Cells {
    rx: Vec<Arc<RxCell>>,
    tx: Vec<Arc<TxCell>>,
    rx_counts: Vec<Arc<RxCounts>>,
    tx_counts: Vec<Arc<TxCounts>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PortShared {
    pub fn title(&self) -> &str {
        &self.title
    }

    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    pub fn filter(&self) -> &MacFilter {
        &self.filter
    }

    pub fn defers_tx(&self) -> bool {
        self.capability.deferred_tx
    }

    /// Notes the loss of the device, so that all queues say the same, and wakes their owners (contract T9).
    #[cold]
    pub fn remember(&self, error: Error) -> Error {
        if let Error::DeviceGone { reason, .. } = &error {
            lock(&self.gone).get_or_insert_with(|| reason.clone());
            for cell in &lock(&self.cells).rx {
                cell.signal.signal();
            }
        }
        error
    }

    /// The error of a device that is gone.
    #[cold]
    pub fn gone(&self) -> Error {
        let reason = lock(&self.gone).clone().unwrap_or_else(|| "it went away".into());
        Error::DeviceGone { device: self.title.clone(), reason }
    }

    /// Runs a call on the driver.
    fn with_driver<T>(&self, call: impl FnOnce(&mut dyn PortDriver) -> Result<T>) -> Result<T> {
        let mut driver = lock(&self.driver);
        let result = call(driver.as_deref_mut().ok_or(Error::Closed)?);
        drop(driver);
        result.map_err(|error| self.remember(error))
    }

    #[inline]
    pub fn is_tapped(&self) -> bool {
        self.captures.any()
    }

    /// Whether the port was closed, without waiting for one that is being stopped.
    pub fn is_closed(&self) -> bool {
        self.state.try_lock().is_ok_and(|state| *state == State::Closed)
    }

    pub fn captures(&self) -> &Captures {
        &self.captures
    }

    fn wrong_state(&self, operation: &'static str, state: State, hint: &'static str) -> Error {
        Error::State { device: self.title.clone(), operation, state: state.name(), hint }
    }
}

impl Port {
    /// Wraps an opened driver: checks the configuration against the capabilities and applies it, or leaves nothing
    /// open. Trap: parameters are dropped last to first, and the lock must outlive the driver.
    pub(crate) fn new(
        spec: Spec,
        config: PortConfig,
        device_lock: Option<DeviceLock>,
        driver: Box<dyn PortDriver>,
    ) -> Result<Port> {
        let capability = driver.capability();
        plan::check_capability(&spec.title(), &capability)?;
        plan::check_address(&spec.title(), driver.mac())?;
        let shared = PortShared {
            title: spec.title(),
            spec,
            filter: MacFilter::new(driver.mac()),
            original_mac: driver.mac(),
            state: Mutex::new(State::Stopped),
            final_counters: Mutex::default(),
            driver: Mutex::new(Some(driver)),
            config: Mutex::new(PortConfig::default()),
            cells: Mutex::default(),
            gone: Mutex::default(),
            captures: Captures::default(),
            changing: Mutex::default(),
            capability,
            lock: Mutex::new(device_lock.map(Arc::new)),
        };
        let mut port = Port { shared: Arc::new(shared), pools: Vec::new(), capture: None };
        port.set_config(config)?;
        Ok(port)
    }

    /// How the port is called in messages: `backend:device`.
    pub fn title(&self) -> &str {
        &self.shared.title
    }

    /// The spec that the port was opened by.
    pub fn spec(&self) -> &Spec {
        &self.shared.spec
    }

    /// Limits and abilities (contract L3).
    pub fn capability(&self) -> &Capability {
        &self.shared.capability
    }

    /// The configuration in force.
    pub fn config(&self) -> PortConfig {
        lock(&self.shared.config).clone()
    }

    /// Replaces the configuration of a stopped port, whole or not at all (contract L3).
    ///
    /// `shared`, `takeover` and `to_kernel` matter at open only; changing them here is refused.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with field, value and limit; [`Error::State`] while started (contract L4).
    pub fn configure(&mut self, config: PortConfig) -> Result<()> {
        let shared = &self.shared;
        let state = *lock(&shared.state);
        if state != State::Stopped {
            return Err(shared.wrong_state("configure", state, "stop it first"));
        }
        plan::check_at_open_only(&shared.title, &lock(&shared.config), &config)?;
        self.set_config(config)
    }

    fn set_config(&mut self, config: PortConfig) -> Result<()> {
        let shared = self.shared.clone();
        let _changing = lock(&shared.changing);
        plan::check(&shared.title, &shared.capability, &config)?;
        // The device's own settings can fail half way, and are put back then; the capture file comes last, because creating
        // it empties what was there.
        let before = lock(&shared.config).clone();
        let put_back = |driver: &mut dyn PortDriver| {
            // The first error is the one to report.
            let _ = self.apply(driver, &config, &before);
        };
        shared.with_driver(|driver| {
            self.apply(driver, &before, &config).inspect_err(|_| put_back(driver))
        })?;
        let old = self.capture.as_ref().map(CaptureFile::path);
        let capture = match config.capture.as_deref() {
            wanted if wanted == old => None,
            None => Some(None),
            Some(path) => match CaptureFile::create(path, &shared.title) {
                Ok(file) => Some(Some(file)),
                Err(error) => {
                    let _ = shared.with_driver(|driver| {
                        put_back(driver);
                        Ok(())
                    });
                    return Err(error);
                }
            },
        };
        *lock(&shared.config) = config;
        match capture {
            Some(capture) => self.set_capture(capture),
            None => Ok(()),
        }
    }

    /// Brings the device from one configuration to another.
    fn apply(&self, driver: &mut dyn PortDriver, from: &PortConfig, to: &PortConfig) -> Result<()> {
        let capability = &self.shared.capability;
        if from.mac != to.mac {
            let mac = to.mac.unwrap_or(self.shared.original_mac);
            mac.check_own()?;
            driver.set_mac(mac)?;
            self.shared.filter.set_own(mac);
        }
        if from.max_frame != to.max_frame && capability.set_max_frame {
            driver.set_max_frame(to.max_frame.unwrap_or(capability.default_max_frame))?;
        }
        if from.promiscuous != to.promiscuous {
            if capability.filters {
                driver.set_promiscuous(to.promiscuous)?;
            }
            self.shared.filter.set_promiscuous(to.promiscuous);
        }
        Ok(())
    }

    /// Replaces the capture to a file; the old one's error, if it had one.
    fn set_capture(&mut self, capture: Option<CaptureFile>) -> Result<()> {
        let captures = &self.shared.captures;
        let old = std::mem::replace(&mut self.capture, capture);
        if let Some(new) = &self.capture {
            captures.add(new.tap());
        }
        match old {
            Some(old) => {
                let tap = old.tap();
                // It counts what it cannot write until it has ended.
                let result = old.finish();
                captures.remove(&tap);
                result
            }
            None => Ok(()),
        }
    }

    /// Attaches a pool: frames are received into the first one, and packets of all of them are sent without a copy
    /// where the backend can (contract T7). Attaching one twice changes nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] beyond `max_pools`, [`Error::State`] while started.
    pub fn attach(&mut self, pool: &Pool) -> Result<()> {
        let shared = &self.shared;
        let state = *lock(&shared.state);
        if state != State::Stopped {
            return Err(shared.wrong_state("attach a pool", state, "stop it first"));
        }
        if self.pools.contains(pool) {
            return Ok(());
        }
        let max = shared.capability.max_pools;
        if self.pools.len() >= max {
            return Err(Error::Unsupported {
                device: shared.title.clone(),
                field: "pools".into(),
                asked: (self.pools.len() + 1).to_string(),
                limit: format!("it takes {max}"),
            });
        }
        self.pools.push(pool.clone());
        Ok(())
    }

    /// The attached pools.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Starts the port and hands out its queues (contract L4).
    ///
    /// # Errors
    /// [`Error::State`] if it is started already or no pool is attached; [`Error::Unsupported`] if a maximum frame does
    /// not fit the pool's frames; whatever the device says.
    pub fn start(&mut self) -> Result<Queues> {
        let shared = &self.shared;
        let mut state = lock(&shared.state);
        if *state != State::Stopped {
            return Err(shared.wrong_state("start", *state, "stop it first"));
        }
        let hint = "attach a pool first";
        let pool = self.pools.first().ok_or_else(|| shared.wrong_state("start", *state, hint))?;
        let config = lock(&shared.config).clone();
        let plan = plan::Plan::new(&shared.title, &shared.capability, &config, &self.pools)?;
        let queues = shared.with_driver(|driver| driver.start(&plan.setup))?;
        let link_up = match shared.with_driver(|driver| driver.link()) {
            Ok(link) => link.up,
            // Lost between the two: a port that says that it is stopped must not go on receiving.
            Err(error) => {
                drop(queues);
                let _ = shared.with_driver(|driver| driver.stop());
                return Err(error);
            }
        };
        let wanted = (plan.setup.rx_queues as usize, plan.setup.tx_queues as usize);
        if (queues.rx.len(), queues.tx.len()) != wanted {
            let made = (queues.rx.len(), queues.tx.len());
            drop(queues);
            let _ = shared.with_driver(|driver| driver.stop());
            let reason = format!("the backend made {made:?} queues instead of {wanted:?}");
            return Err(Error::Backend { device: shared.title.clone(), reason });
        }
        let device_lock = lock(&shared.lock).clone();
        let mut cells = lock(&shared.cells);
        let tx: Vec<Arc<TxCell>> = queues
            .tx
            .into_iter()
            .enumerate()
            .map(|(index, driver)| {
                let caches = self.pools.iter().map(|pool| plan.setup.queue_cache(pool));
                let counts = nth(&mut cells.tx_counts, index);
                let core = TxCore::new(driver, caches.collect(), plan.tx(), counts, link_up)
                    .under(device_lock.clone());
                TxCell::new(shared.clone(), core)
            })
            .collect();
        let rx: Result<Vec<Arc<RxCell>>> = queues
            .rx
            .into_iter()
            .enumerate()
            .map(|(index, driver)| {
                let cache = plan.setup.queue_cache(pool);
                let counts = nth(&mut cells.rx_counts, index);
                let core = RxCore::new(driver, cache, plan.rx(index as u16, &tx), counts, link_up)
                    .under(device_lock.clone());
                RxCell::new(shared.clone(), core)
            })
            .collect();
        let rx = match rx {
            Ok(rx) => rx,
            Err(error) => {
                drop((tx, cells));
                let _ = shared.with_driver(|driver| driver.stop());
                return Err(error);
            }
        };
        let handles = Queues {
            rx: rx.iter().cloned().map(RxQueue::new).collect(),
            tx: (0..tx.len()).map(|index| TxQueue::new(&tx, index)).collect(),
        };
        (cells.rx, cells.tx) = (rx, tx);
        *state = State::Started;
        Ok(handles)
    }

    /// Stops the port (contract L6): waits for calls in progress and wakes the waiting, lets the device send what was
    /// accepted (both for at most 1 s), discards what was received and not delivered. A stopped port stays stopped.
    ///
    /// # Errors
    /// [`Error::Timeout`] if a call in progress did not end; the port is still started then, and stop can be
    /// called again. Whatever the device says; the port is stopped then.
    pub fn stop(&mut self) -> Result<()> {
        let shared = &self.shared;
        let mut state = lock(&shared.state);
        if *state != State::Started {
            return Ok(());
        }
        let (rx, tx) = {
            let cells = lock(&shared.cells);
            (cells.rx.clone(), cells.tx.clone())
        };
        rx.iter().for_each(|cell| cell.core.start_closing());
        tx.iter().for_each(|cell| cell.core.start_closing());
        rx.iter().for_each(|cell| cell.signal.signal());
        let deadline = Instant::now() + STOP_BOUND;
        let closed = rx.iter().all(|cell| cell.core.close(deadline))
            && tx.iter().all(|cell| cell.core.close(deadline));
        if !closed {
            let what = "the end of a call in progress on a queue";
            let device = shared.title.clone();
            return Err(Error::Timeout { device, what, timeout: STOP_BOUND });
        }
        let deadline = Instant::now() + STOP_BOUND;
        for cell in &tx {
            if let Some(core) = cell.core.take() {
                core.drain(deadline);
            }
        }
        for cell in &rx {
            drop(cell.take_core());
        }
        {
            let mut cells = lock(&shared.cells);
            cells.rx.clear();
            cells.tx.clear();
        }
        *state = State::Stopped;
        drop(state);
        match shared.with_driver(|driver| driver.stop()) {
            // A device that is gone has nothing to stop (T9: close still works).
            Err(error) if error.is_gone() => Ok(()),
            other => other,
        }
    }

    /// Stops the port and gives the device back (contract L8).
    ///
    /// # Errors
    /// What stop or the port's capture file reports; the device is given back all the same.
    pub fn close(mut self) -> Result<()> {
        self.shut()
    }

    fn shut(&mut self) -> Result<()> {
        let stopped = self.stop();
        self.give_up_calls();
        let captured = self.set_capture(None);
        *lock(&self.shared.state) = State::Closed;
        // Whoever reads a tap reads what is there, and then its end.
        self.shared.captures.close();
        if let Some(mut driver) = lock(&self.shared.driver).take() {
            *lock(&self.shared.final_counters) = driver.counters();
        }
        drop(lock(&self.shared.lock).take());
        stopped.and(captured)
    }

    /// After a stop that gave up: takes back the queues whose owners are in no call. The others are left to their owners,
    /// who drop them with their next call or with their handle; a call that never ends does not keep the port's half alive.
    fn give_up_calls(&self) {
        let (rx, tx) = {
            let mut cells = lock(&self.shared.cells);
            (std::mem::take(&mut cells.rx), std::mem::take(&mut cells.tx))
        };
        let now = Instant::now();
        for cell in tx.iter().filter(|cell| cell.core.close(now)) {
            if let Some(core) = cell.core.take() {
                core.drain(now);
            }
        }
        for cell in rx.iter().filter(|cell| cell.core.close(now)) {
            drop(cell.take_core());
        }
    }

    /// A handle for link, address and modes, for any thread.
    pub fn control(&self) -> Control {
        Control::new(self.shared.clone())
    }

    /// A handle for the counters, for any thread.
    pub fn stats(&self) -> Stats {
        Stats::new(self.shared.clone())
    }
}

/// The counters of queue `index`, made when it is first started.
fn nth<T: Default>(counts: &mut Vec<Arc<T>>, index: usize) -> Arc<T> {
    if counts.len() <= index {
        counts.resize_with(index + 1, Arc::default);
    }
    counts[index].clone()
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!("closing {}: {error}", self.shared.title);
        }
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = *lock(&self.shared.state);
        f.debug_struct("Port")
            .field("spec", &self.spec().to_string())
            .field("state", &state)
            .finish()
    }
}
