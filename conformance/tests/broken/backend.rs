//! The backend `loop` with one fault: everything is passed on to the real one, but for what the fault spoils.
//!
//! Faults sit where a backend's author makes them: in the driver, below the common layer. What the common layer does
//! for every backend cannot be spoilt from here.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyport::config::{Schema, Table};
use anyport::driver::{
    Backend, DeviceInfo, DriverQueues, OpenRequest, PortDriver, RxDriver, Setup, TxDriver,
};
use anyport::mac::MacFilter;
use anyport::wait::EventFd;
use anyport::{Burst, Capability, Counters, Error, Link, MacAddr, Packet, PortCounters, Result};
use anyport_loopback::Loopback;

use super::Fault;
use super::rx::BrokenRx;
use super::tx::BrokenTx;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The backend.
pub struct Broken {
    fault: Fault,
    /// What the faults that forget to tidy up leave behind at a device.
    left_behind: Arc<Mutex<HashMap<String, LeftBehind>>>,
}

#[derive(Default, Clone)]
struct LeftBehind {
    mac: Option<MacAddr>,
    promiscuous: bool,
    counters: Vec<Counters>,
}

impl Broken {
    pub fn new(fault: Fault) -> Broken {
        Broken { fault, left_behind: Arc::default() }
    }

    fn open_inner(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        match (Loopback::default().open(request), self.fault) {
            (Err(Error::UnknownDevice { .. }), Fault::TakesAnyDevice) => {
                let request = OpenRequest::new("any.0", request.options, request.config);
                Loopback::default().open(&request)
            }
            (Err(Error::InvalidValue { .. }), Fault::TakesAnyValue) => {
                let options = Table::new();
                let request = OpenRequest::new(request.device, &options, request.config);
                Loopback::default().open(&request)
            }
            (Err(Error::Busy { .. }), Fault::OpensTwice) => {
                let device = format!("again-{}", request.device);
                let request = OpenRequest::new(&device, request.options, request.config);
                Loopback::default().open(&request)
            }
            (opened, _) => opened,
        }
    }
}

impl Backend for Broken {
    fn name(&self) -> &'static str {
        "loop"
    }
    fn options(&self) -> Schema {
        Loopback::default().options()
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        Loopback::default().devices()
    }
    fn lock_key(&self, device: &str, options: &Table) -> Result<Option<String>> {
        match self.fault {
            Fault::OpensTwice | Fault::TakesAnyDevice => Ok(None),
            _ => Loopback::default().lock_key(device, options),
        }
    }
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        let mut inner = self.open_inner(request)?;
        match self.fault {
            Fault::LeaksDescriptor => std::mem::forget(std::fs::File::open("/dev/null")),
            Fault::LeaksThread => _ = std::thread::spawn(std::thread::park),
            Fault::LeaksMemory => std::mem::forget(vec![1_u8; 64 << 10]),
            _ => {}
        }
        let found = match self.fault {
            Fault::KeepsSettings | Fault::KeepsCounters => {
                lock(&self.left_behind).get(request.device).cloned().unwrap_or_default()
            }
            _ => LeftBehind::default(),
        };
        if let Some(mac) = found.mac {
            inner.set_mac(mac)?;
        }
        if found.promiscuous {
            inner.set_promiscuous(true)?;
        }
        let shared = Arc::new(Shared::new(self.fault, inner.mac()));
        Ok(Box::new(BrokenPort {
            shared,
            device: request.device.to_owned(),
            left_behind: self.left_behind.clone(),
            now: found,
            found_mac: inner.mac(),
            told_mac: None,
            last: PortCounters::default(),
            starts: 0,
            inner: Some(inner),
        }))
    }
}

/// What the port and its queues share.
pub struct Shared {
    pub fault: Fault,
    /// For faults that filter by themselves.
    pub filter: MacFilter,
    /// A switch of the filter that comes late, and after how many calls.
    pub late: Mutex<Option<(bool, u32)>>,
    /// Frames that come out of each receive queue without having come in there.
    pub extra: [Mutex<VecDeque<Packet>>; 16],
    /// Bytes of a frame that comes out first after the next start.
    pub ghost: Mutex<Option<Vec<u8>>>,
    /// When queue 0 had something last.
    pub busy: Mutex<Option<Instant>>,
    /// The link was down once.
    pub was_down: AtomicBool,
    pub max_frame: AtomicUsize,
}

impl Shared {
    fn new(fault: Fault, mac: MacAddr) -> Shared {
        Shared {
            fault,
            filter: MacFilter::new(mac),
            late: Mutex::default(),
            extra: Default::default(),
            ghost: Mutex::default(),
            busy: Mutex::default(),
            was_down: AtomicBool::new(false),
            max_frame: AtomicUsize::new(1514),
        }
    }
}

struct BrokenPort {
    shared: Arc<Shared>,
    device: String,
    left_behind: Arc<Mutex<HashMap<String, LeftBehind>>>,
    now: LeftBehind,
    found_mac: MacAddr,
    /// An address that was not really set.
    told_mac: Option<MacAddr>,
    last: PortCounters,
    starts: u32,
    /// `None` only while it is dropped.
    inner: Option<Box<dyn PortDriver>>,
}

impl BrokenPort {
    fn inner(&mut self) -> &mut dyn PortDriver {
        &mut **self.inner.as_mut().expect("it goes only with the port")
    }
}

impl PortDriver for BrokenPort {
    fn capability(&self) -> Capability {
        let mut capability = self.inner.as_ref().expect("as above").capability();
        match self.shared.fault {
            Fault::PadsNot => capability.pads = true,
            Fault::DeclaresMoreQueues => capability.max_rx_queues = 64,
            _ => {}
        }
        capability
    }

    fn mac(&self) -> MacAddr {
        self.told_mac.unwrap_or(self.inner.as_ref().expect("as above").mac())
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        let fault = self.shared.fault;
        self.starts += 1;
        self.shared.max_frame.store(setup.max_frame, Relaxed);
        self.shared.filter.set_own(self.mac());
        match fault {
            Fault::IgnoresFilter | Fault::FiltersInRecv | Fault::SwitchesLate => {
                self.inner().set_promiscuous(true)?;
            }
            Fault::ForgetsSwitchAtStart => self.inner().set_promiscuous(false)?,
            Fault::ForgetsAddressAtStart => {
                let found = self.found_mac;
                self.inner().set_mac(found)?;
            }
            Fault::DeclaresMoreQueues if setup.rx_queues > 16 => {
                let reason = "the device has 16 queues".into();
                return Err(Error::Backend { device: self.device.clone(), reason });
            }
            Fault::InventsAtStart => {
                *lock(&self.shared.ghost) = Some([&self.mac().0[..], &[0; 54]].concat());
            }
            _ => {}
        }
        let queues = self.inner().start(setup)?;
        let dead = fault == Fault::DiesAtRestart && self.starts > 1;
        let count = queues.rx.len();
        let rx = queues.rx.into_iter().enumerate().map(|(queue, inner)| {
            let rx = BrokenRx {
                inner,
                shared: self.shared.clone(),
                queue,
                queues: count,
                dead,
                fresh: true,
                seen: 0,
                looks: 0,
                never: EventFd::new().expect("a descriptor"),
                pool: setup.pools[0].clone(),
            };
            Box::new(rx) as Box<dyn RxDriver>
        });
        let rx = rx.collect();
        let tx = queues.tx.into_iter().map(|inner| {
            let shared = self.shared.clone();
            let late = Burst::with_capacity(1);
            Box::new(BrokenTx { inner, shared, seen: 0, full: false, late }) as Box<dyn TxDriver>
        });
        let tx = tx.collect();
        Ok(DriverQueues { rx, tx })
    }

    fn stop(&mut self) -> Result<()> {
        self.shared.extra.iter().for_each(|extra| lock(extra).clear());
        self.inner().stop()
    }

    fn link(&mut self) -> Result<Link> {
        match (self.inner().link(), self.shared.fault) {
            (Ok(_), Fault::LinkIsAlwaysUp) => Ok(Link::new(true)),
            (Err(Error::DeviceGone { .. }), Fault::HidesLoss) => Ok(Link::new(true)),
            (link, _) => link,
        }
    }

    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        self.now.mac = Some(mac);
        self.shared.filter.set_own(mac);
        if self.shared.fault == Fault::SetsNoAddress {
            self.told_mac = Some(mac);
            return Ok(());
        }
        self.inner().set_mac(mac)
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        self.now.promiscuous = on;
        match self.shared.fault {
            Fault::IgnoresFilter | Fault::IgnoresSwitch => Ok(()),
            Fault::FiltersInRecv => {
                self.shared.filter.set_promiscuous(on);
                Ok(())
            }
            Fault::SwitchesLate => {
                *lock(&self.shared.late) = Some((on, 5));
                Ok(())
            }
            _ => self.inner().set_promiscuous(on),
        }
    }

    fn set_max_frame(&mut self, bytes: usize) -> Result<()> {
        self.inner().set_max_frame(bytes)
    }

    fn counters(&mut self) -> PortCounters {
        let mut all = self.inner().counters();
        let real = all.clone();
        for (number, queue) in all.rx_queues.iter_mut().enumerate() {
            let last = self.last.rx_queues.get(number).copied().unwrap_or_default();
            let before = self.now.counters.get(number).copied().unwrap_or_default();
            match self.shared.fault {
                Fault::ForgetsDryPool => queue.rx_no_buffer = Some(0),
                Fault::ForgetsFullRing => queue.rx_ring_full = Some(0),
                Fault::CountsDryPoolTwice => {
                    queue.rx_errors = Some(
                        queue.rx_errors.unwrap_or_default()
                            + queue.rx_no_buffer.unwrap_or_default(),
                    );
                }
                Fault::CountsFullRingTwice => {
                    queue.rx_errors = Some(
                        queue.rx_errors.unwrap_or_default()
                            + queue.rx_ring_full.unwrap_or_default(),
                    );
                }
                Fault::CountsFilteredAsErrors => queue.rx_errors = queue.rx_filtered,
                Fault::HidesZeroes => queue.rx_ring_full = queue.rx_ring_full.filter(|n| *n != 0),
                Fault::ClearsCountersOnRead => {
                    queue.rx_ring_full =
                        queue.rx_ring_full.map(|n| n - last.rx_ring_full.unwrap_or(0));
                    queue.rx_filtered =
                        queue.rx_filtered.map(|n| n - last.rx_filtered.unwrap_or(0));
                }
                Fault::KeepsCounters => queue.add(&before),
                _ => {}
            }
        }
        self.last = real;
        all
    }
}

impl Drop for BrokenPort {
    fn drop(&mut self) {
        match self.shared.fault {
            Fault::KeepsSettings | Fault::KeepsCounters => {
                let mut left = self.now.clone();
                let counters = self.counters().rx_queues;
                if self.shared.fault == Fault::KeepsCounters {
                    left = LeftBehind { counters, ..LeftBehind::default() };
                }
                lock(&self.left_behind).insert(self.device.clone(), left);
            }
            Fault::StaysOpen => std::mem::forget(self.inner.take()),
            _ => {}
        }
    }
}
