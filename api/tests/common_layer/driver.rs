//! The driver under the tests' control, and a bench with it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use anyport::config::Table;
use anyport::driver::{
    Backend, DeviceInfo, DeviceLock, DriverQueues, OpenRequest, Outstanding, PortDriver, RxDriver,
    Setup, TxDriver,
};
use anyport::packet::Timestamp;
use anyport::wait::EventFd;
use anyport::{
    Burst, Capability, Error, Link, MacAddr, Pool, PoolCache, Port, PortConfig, PortCounters,
    Registry, Result, RxQueue, TxQueue,
};

/// What the test and the driver share.
#[derive(Default)]
pub struct Device {
    /// What the device has counted.
    pub counted: PortCounters,
    pub capability: Capability,
    /// To be received.
    pub arriving: VecDeque<Vec<u8>>,
    /// When the next frames arrived, by the device's own clock.
    pub stamps: VecDeque<Timestamp>,
    /// What the driver took over.
    pub taken: Vec<Vec<u8>>,
    /// How many packets the driver still takes.
    pub room: usize,
    pub link_up: bool,
    pub gone: bool,
    pub ended: bool,
    pub mac: MacAddr,
    pub log: Vec<String>,
    pub fail: Option<&'static str>,
    /// It has no descriptor to sleep on.
    pub polled: bool,
    pub outstanding: usize,
    /// A receive queue's next call ends when something comes out of it.
    pub hold: Option<std::sync::mpsc::Receiver<()>>,
    /// Whether the device was locked when its driver was dropped.
    pub locked_to_the_end: Option<bool>,
    /// How often a receive queue was armed: once before each sleep.
    pub arms: u32,
    /// It is gone, but only who asks for the link is told.
    pub silently_gone: bool,
    /// How often a transmit queue was given packets.
    pub sends: u32,
    /// How often a transmit queue asked for the carrier.
    pub looks: u128,
    /// How often a receive queue asked for the link.
    pub rx_looks: u32,
    /// Readable when the link changes; drained by whoever asks for it.
    pub events: Option<Arc<EventFd>>,
    /// What happens while a receive queue is being armed.
    pub on_arm: Option<fn(&mut Device)>,
}

impl Device {
    /// Changes the link, and tells who watches it.
    pub fn set_link(&mut self, up: bool) {
        self.link_up = up;
        self.events.iter().for_each(|events| events.signal());
    }
}

pub type Shared = Arc<Mutex<Device>>;

pub struct Mock(pub Shared, pub Arc<EventFd>);

pub const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

impl Backend for Mock {
    fn name(&self) -> &'static str {
        "mock"
    }
    fn options(&self) -> anyport::config::Schema {
        anyport::config::schema_of::<PortConfig>()
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        vec![DeviceInfo::new("mock:", "a mock")]
    }
    fn lock_key(&self, device: &str, _: &Table) -> Result<Option<String>> {
        Ok(Some(key(device)))
    }
    fn open(&self, request: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        Ok(Box::new(MockPort(self.0.clone(), self.1.clone(), key(request.device))))
    }
}

/// What the lock of a device is called.
pub fn key(device: &str) -> String {
    format!("mock-{}-{device}", std::process::id())
}

pub struct MockPort(pub Shared, pub Arc<EventFd>, String);

impl Drop for MockPort {
    fn drop(&mut self) {
        let locked = DeviceLock::holder(&self.2).is_some();
        self.0.lock().unwrap().locked_to_the_end = Some(locked);
    }
}

impl MockPort {
    fn note(&self, text: String) -> Result<()> {
        let mut device = self.0.lock().unwrap();
        let failing = device.fail.is_some_and(|prefix| text.starts_with(prefix));
        device.log.push(text);
        match failing {
            true => Err(Error::Backend { device: "mock:".into(), reason: "it fails".into() }),
            false => Ok(()),
        }
    }
}

impl PortDriver for MockPort {
    fn capability(&self) -> Capability {
        self.0.lock().unwrap().capability.clone()
    }
    fn mac(&self) -> MacAddr {
        self.0.lock().unwrap().mac
    }
    fn start(&mut self, setup: &Setup<'_>) -> Result<DriverQueues> {
        self.note("start".into())?;
        let rx = |_| Box::new(MockRx(self.0.clone(), self.1.clone())) as Box<dyn RxDriver>;
        let tx = |_| Box::new(MockTx(self.0.clone(), Vec::new())) as Box<dyn TxDriver>;
        let (rx_queues, tx_queues) = (0..setup.rx_queues, 0..setup.tx_queues);
        Ok(DriverQueues { rx: rx_queues.map(rx).collect(), tx: tx_queues.map(tx).collect() })
    }
    fn stop(&mut self) -> Result<()> {
        self.note("stop".into())
    }
    fn link(&mut self) -> Result<Link> {
        if self.0.lock().unwrap().fail == Some("link") {
            return Err(gone());
        }
        Ok(Link::new(self.0.lock().unwrap().link_up))
    }
    fn set_mac(&mut self, mac: MacAddr) -> Result<()> {
        self.note(format!("mac {mac}"))?;
        self.0.lock().unwrap().mac = mac;
        Ok(())
    }
    fn set_promiscuous(&mut self, on: bool) -> Result<()> {
        self.note(format!("promiscuous {on}"))
    }
    fn set_max_frame(&mut self, bytes: usize) -> Result<()> {
        self.note(format!("max_frame {bytes}"))
    }
    fn counters(&mut self) -> PortCounters {
        self.0.lock().unwrap().counted.clone()
    }
}

pub fn gone() -> Error {
    Error::DeviceGone { device: "mock:".into(), reason: "pulled out".into() }
}

pub struct MockRx(pub Shared, pub Arc<EventFd>);

impl RxDriver for MockRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
        let hold = self.0.lock().unwrap().hold.take();
        hold.into_iter().for_each(|hold| hold.recv().unwrap());
        let mut device = self.0.lock().unwrap();
        while !burst.is_full() {
            let Some(frame) = device.arriving.pop_front() else { break };
            // Longer than a pool frame: a chain.
            let packet = match frame.len() > pool.pool().room() {
                true => pool.pool().packet(&frame),
                false => pool.take().inspect(|_| ()).map(|mut packet| {
                    packet.fill(&frame).unwrap();
                    packet
                }),
            };
            if let Some(mut packet) = packet {
                if let Some(stamp) = device.stamps.pop_front() {
                    packet.set_timestamp(stamp);
                }
                burst.push(packet).unwrap();
            }
        }
        match device.gone {
            true => Err(gone()),
            false if device.ended && device.arriving.is_empty() => Err(Error::Ended),
            false => Ok(()),
        }
    }
    fn arm(&mut self) -> Result<()> {
        self.1.drain();
        let mut device = self.0.lock().unwrap();
        device.arms += 1;
        if let Some(happens) = device.on_arm.take() {
            happens(&mut device);
        }
        Ok(())
    }
    fn descriptor(&self) -> Option<RawFd> {
        let polled = self.0.lock().unwrap().polled;
        (!polled).then(|| self.1.as_raw_fd())
    }
    fn event_descriptor(&self) -> Option<RawFd> {
        self.0.lock().unwrap().events.as_ref().map(|events| events.as_raw_fd())
    }
    fn link_up(&mut self) -> Result<bool> {
        let mut device = self.0.lock().unwrap();
        device.rx_looks += 1;
        device.events.iter().for_each(|events| events.drain());
        if device.gone || device.silently_gone { Err(gone()) } else { Ok(device.link_up) }
    }
}

pub struct MockTx(pub Shared, pub Vec<anyport::Packet>);

impl TxDriver for MockTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        let mut device = self.0.lock().unwrap();
        if device.gone {
            return Err(gone());
        }
        device.sends += 1;
        for _ in 0..count.min(device.room) {
            let packet = burst.pop_front().unwrap();
            device.taken.push(packet.segments().flatten().copied().collect());
            device.room -= 1;
            match device.capability.deferred_tx {
                true => self.1.push(packet),
                false => pools[0].give(packet),
            }
        }
        Ok(())
    }
    fn reclaim(&mut self, pools: &mut [PoolCache]) -> Result<Outstanding> {
        let left = self.0.lock().unwrap().outstanding;
        while self.1.len() > left {
            pools[0].give(self.1.remove(0));
        }
        let bytes = self.1.iter().map(|packet| packet.len() as u64).sum();
        Ok(Outstanding { packets: self.1.len(), bytes })
    }
    fn link_up(&mut self) -> Result<bool> {
        let mut device = self.0.lock().unwrap();
        device.looks += 1;
        Ok(device.link_up)
    }
}

pub struct Bench {
    pub device: Shared,
    pub event: Arc<EventFd>,
    pub registry: Registry,
    pub pool: Pool,
}

impl Bench {
    pub fn new(capability: impl FnOnce(&mut Capability)) -> Bench {
        let mut device = Device { link_up: true, room: usize::MAX, mac: OWN, ..Device::default() };
        capability(&mut device.capability);
        let device = Arc::new(Mutex::new(device));
        let event = Arc::new(EventFd::new().unwrap());
        let mut registry = Registry::new();
        registry.register(Mock(device.clone(), event.clone())).unwrap();
        Bench { device, event, registry, pool: Pool::builder().frames(512).build().unwrap() }
    }

    pub fn open(&self, keys: &str) -> (Port, RxQueue, TxQueue) {
        // One device per thread: tests run side by side.
        let spec = format!("mock:{:?}{keys}", std::thread::current().id());
        let mut port = self.registry.open_with(&spec, &self.pool).unwrap();
        let (rx, tx) = port.start().unwrap().into_pair();
        (port, rx, tx)
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Device) -> T) -> T {
        change(&mut self.device.lock().unwrap())
    }

    pub fn set_link(&self, up: bool) {
        self.with(|device| device.set_link(up));
    }

    pub fn arrive(&self, frame: Vec<u8>) {
        self.with(|device| device.arriving.push_back(frame));
        self.event.signal();
    }
}

pub fn frame(length: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend([0x88, 0xb5]);
    frame.extend((0..).map(|i: u32| i as u8).take(length.saturating_sub(14)));
    frame.truncate(length);
    frame
}

pub fn tagged(length: usize) -> Vec<u8> {
    let mut frame = frame(length);
    frame[12..14].copy_from_slice(&[0x81, 0x00]);
    frame
}

pub fn burst_of(pool: &Pool, frames: &[Vec<u8>]) -> Burst {
    let mut burst = Burst::new();
    for frame in frames {
        burst.push(pool.packet(frame).unwrap()).unwrap();
    }
    burst
}
