//! The common layer over a driver that is under the test's control: what it hands down, what it refuses, what it puts
//! back. The conformance suite shows the same on real backends; here the driver can be made to misbehave.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyport::config::Table;
use anyport::driver::{
    Backend, DeviceInfo, DriverQueues, OpenRequest, Outstanding, PortDriver, RxDriver, Setup,
    TxDriver,
};
use anyport::packet::{Checksums, L4Checksum, TxRequests};
use anyport::wait::EventFd;
use anyport::{
    Armed, Burst, Capability, Error, Link, MacAddr, Pool, PoolCache, Port, PortConfig,
    PortCounters, Registry, Result, RxQueue, TxQueue, Wake, wait_any,
};

/// What the test and the driver share.
#[derive(Default)]
struct Device {
    /// What the device has counted.
    counted: PortCounters,
    capability: Capability,
    /// To be received.
    arriving: VecDeque<Vec<u8>>,
    /// What the driver took over.
    taken: Vec<Vec<u8>>,
    /// How many packets the driver still takes.
    room: usize,
    link_up: bool,
    gone: bool,
    ended: bool,
    mac: MacAddr,
    log: Vec<String>,
    fail: Option<&'static str>,
    /// It has no descriptor to sleep on.
    polled: bool,
    outstanding: usize,
    /// How often a transmit queue asked for the carrier.
    looks: u128,
}

type Shared = Arc<Mutex<Device>>;

struct Mock(Shared, Arc<EventFd>);

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

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
        Ok(Some(format!("mock-{}-{device}", std::process::id())))
    }
    fn open(&self, _: &OpenRequest<'_>) -> Result<Box<dyn PortDriver>> {
        Ok(Box::new(MockPort(self.0.clone(), self.1.clone())))
    }
}

struct MockPort(Shared, Arc<EventFd>);

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

fn gone() -> Error {
    Error::DeviceGone { device: "mock:".into(), reason: "pulled out".into() }
}

struct MockRx(Shared, Arc<EventFd>);

impl RxDriver for MockRx {
    fn recv(&mut self, burst: &mut Burst, pool: &mut PoolCache) -> Result<()> {
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
            if let Some(packet) = packet {
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
        Ok(())
    }
    fn descriptor(&self) -> Option<RawFd> {
        let polled = self.0.lock().unwrap().polled;
        (!polled).then(|| self.1.as_raw_fd())
    }
    fn link_up(&mut self) -> Result<bool> {
        let device = self.0.lock().unwrap();
        if device.gone { Err(gone()) } else { Ok(device.link_up) }
    }
}

struct MockTx(Shared, Vec<anyport::Packet>);

impl TxDriver for MockTx {
    fn send(&mut self, burst: &mut Burst, count: usize, pools: &mut [PoolCache]) -> Result<()> {
        let mut device = self.0.lock().unwrap();
        if device.gone {
            return Err(gone());
        }
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

struct Bench {
    device: Shared,
    event: Arc<EventFd>,
    registry: Registry,
    pool: Pool,
}

impl Bench {
    fn new(capability: impl FnOnce(&mut Capability)) -> Bench {
        let mut device = Device { link_up: true, room: usize::MAX, mac: OWN, ..Device::default() };
        capability(&mut device.capability);
        let device = Arc::new(Mutex::new(device));
        let event = Arc::new(EventFd::new().unwrap());
        let mut registry = Registry::new();
        registry.register(Mock(device.clone(), event.clone())).unwrap();
        Bench { device, event, registry, pool: Pool::builder().frames(512).build().unwrap() }
    }

    fn open(&self, keys: &str) -> (Port, RxQueue, TxQueue) {
        // One device per thread: tests run side by side.
        let spec = format!("mock:{:?}{keys}", std::thread::current().id());
        let mut port = self.registry.open_with(&spec, &self.pool).unwrap();
        let (rx, tx) = port.start().unwrap().into_pair();
        (port, rx, tx)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Device) -> T) -> T {
        change(&mut self.device.lock().unwrap())
    }

    fn arrive(&self, frame: Vec<u8>) {
        self.with(|device| device.arriving.push_back(frame));
        self.event.signal();
    }
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend([0x88, 0xb5]);
    frame.extend((0..).map(|i: u32| i as u8).take(length.saturating_sub(14)));
    frame.truncate(length);
    frame
}

fn tagged(length: usize) -> Vec<u8> {
    let mut frame = frame(length);
    frame[12..14].copy_from_slice(&[0x81, 0x00]);
    frame
}

fn burst_of(pool: &Pool, frames: &[Vec<u8>]) -> Burst {
    let mut burst = Burst::new();
    for frame in frames {
        burst.push(pool.packet(frame).unwrap()).unwrap();
    }
    burst
}

#[test]
fn what_is_not_taken_stays_unchanged() {
    let bench = Bench::new(|_| {});
    let (port, _rx, mut tx) = bench.open("");
    let frames = [frame(14), frame(59), frame(1514), frame(20), frame(60)];
    let mut burst = burst_of(&bench.pool, &frames);
    bench.with(|device| device.room = 2);
    assert_eq!(tx.send(&mut burst).unwrap(), 2);
    let left: Vec<&[u8]> = burst.iter().map(|packet| packet.data()).collect();
    assert_eq!(left, frames[2..].iter().map(Vec::as_slice).collect::<Vec<_>>());
    let padded = bench.with(|device| device.taken.clone());
    assert_eq!(padded[0], [&frames[0][..], &[0; 46]].concat());
    assert_eq!(padded[1], [&frames[1][..], &[0; 1]].concat());
    let counters = port.stats().read().port;
    assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(2), Some(120)));
    bench.with(|device| device.room = usize::MAX);
    assert_eq!(tx.send(&mut burst).unwrap(), 3);
    let counters = port.stats().read().port;
    assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(5), Some(120 + 1514 + 60 + 60)));
}

#[test]
fn lengths_are_checked_first_or_stopped_before() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open("");
    let cases = [
        (frame(0), false),
        (frame(13), false),
        (frame(14), true),
        (frame(1514), true),
        (frame(1515), false),
        (tagged(1518), true),
        (tagged(1519), false),
        (frame(1518), false),
    ];
    for (frame, good) in cases {
        let length = frame.len();
        let mut burst = burst_of(&bench.pool, std::slice::from_ref(&frame));
        match tx.send(&mut burst) {
            Ok(1) if good => assert!(burst.is_empty()),
            Err(Error::FrameTooShort { length: said }) if !good && length < 14 => {
                assert_eq!(said, length)
            }
            Err(Error::FrameTooLong { length: said, max: 1514 }) if !good && length > 14 => {
                assert_eq!(said, length);
            }
            other => panic!("{length} bytes: {other:?}"),
        }
        // Behind a good one it stays in the burst, and the queue goes on working.
        let mut burst = burst_of(&bench.pool, &[self::frame(64), frame]);
        assert_eq!(tx.send(&mut burst).unwrap(), if good { 2 } else { 1 });
        assert_eq!(burst.len(), usize::from(!good));
    }
}

#[test]
fn received_frames_are_checked_and_counted_by_cause() {
    let bench = Bench::new(|capability| capability.max_segments = 2);
    let (port, mut rx, _tx) = bench.open(",max_segments=2");
    let mut foreign = frame(60);
    foreign[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let mut own = frame(60);
    own[..6].copy_from_slice(&OWN.0);
    for frame in
        [frame(13), frame(1514), frame(1515), tagged(1518), tagged(1519), foreign, own, frame(4000)]
    {
        bench.arrive(frame);
    }
    let mut burst = Burst::new();
    assert_eq!(rx.recv(&mut burst).unwrap(), 3);
    assert_eq!(burst.iter().map(|packet| packet.len()).collect::<Vec<_>>(), [1514, 1518, 60]);
    let counters = port.stats().read().port;
    assert_eq!((counters.rx_packets, counters.rx_bytes), (Some(3), Some(1514 + 1518 + 60)));
    assert_eq!((counters.rx_too_long, counters.rx_too_short), (Some(3), Some(1)));
    assert_eq!((counters.rx_filtered, counters.rx_dropped()), (Some(1), 4));
    assert_eq!(counters.rx_ring_full, None, "nobody keeps it");
    burst.clear();
    drop(rx);
    drop(port);
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn a_chain_the_port_was_not_configured_for_arrives_linear_or_not_at_all() {
    let bench = Bench::new(|capability| {
        capability.max_segments = 4;
        (capability.max_frame, capability.default_max_frame) = (9600, 1514);
        capability.set_max_frame = true;
    });
    let (_port, mut rx, _tx) = bench.open("");
    let mut burst = Burst::new();
    bench.arrive(frame(1500));
    bench.arrive(frame(5000));
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    drop((_port, rx));
    // 5000 bytes take three segments of 1792.
    let (_port, mut rx, mut tx) = bench.open(",max_segments=3,max_frame=5000");
    bench.arrive(frame(5000));
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    assert_eq!((burst[1].segment_count(), burst[1].len()), (3, 5000));
    burst.pop_front();
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!(bench.with(|device| device.taken.pop()).unwrap(), frame(5000));
}

#[test]
fn foreign_packets_are_copied_and_the_originals_go_home() {
    let bench = Bench::new(|_| {});
    let (port, _rx, mut tx) = bench.open("");
    let foreign = Pool::builder().frames(8).frame_size(512).build().unwrap();
    let mut burst = burst_of(&foreign, &[frame(60), frame(600), frame(30)]);
    assert_eq!(burst[1].segment_count(), 3);
    bench.with(|device| device.room = 2);
    assert_eq!(tx.send(&mut burst).unwrap(), 2);
    assert_eq!((burst.len(), burst[0].len()), (1, 30), "no padding is left on what stays");
    assert_eq!(foreign.free(), 7);
    bench.with(|device| device.room = 1);
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!((foreign.free(), port.stats().read().port.tx_copied), (8, Some(3)));
    assert_eq!(bench.with(|device| device.taken[1].clone()), frame(600));
    assert_eq!(bench.with(|device| device.taken[2].len()), 60);
}

#[test]
fn requests_need_the_offload() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open("");
    let checksums = Checksums { ipv4: false, l4: L4Checksum::Udp };
    for (requests, field) in [
        (TxRequests { vlan: Some(5), ..TxRequests::default() }, "vlan_insert"),
        (TxRequests { checksums, ..TxRequests::default() }, "tx_checksum"),
        (TxRequests { timestamp: true, ..TxRequests::default() }, "tx_timestamp"),
    ] {
        let mut burst = burst_of(&bench.pool, &[frame(60)]);
        burst[0].set_requests(requests);
        match tx.send(&mut burst) {
            Err(Error::OffloadOff { field: said, .. }) => assert_eq!(said, field),
            other => panic!("{field}: {other:?}"),
        }
        assert_eq!(burst.len(), 1);
    }
}

#[test]
fn checksums_are_filled_in_software_and_taken_out_again_if_not_sent() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open(",tx_checksum=auto,vlan_insert=auto");
    // UDP over IPv4 with nothing but zeros for addresses, ports and checksums; 4 bytes of payload.
    let mut original = frame(46);
    original[12..34].fill(0);
    original[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    original[16..18].copy_from_slice(&[0, 32]);
    original[22..24].copy_from_slice(&[64, 17]);
    original[34..42].copy_from_slice(&[0, 0, 0, 0, 0, 12, 0xbe, 0xef]);
    let checksums = Checksums { ipv4: true, l4: L4Checksum::Udp };
    for vlan in [None, Some(5)] {
        let mut burst = burst_of(&bench.pool, std::slice::from_ref(&original));
        burst[0].set_requests(TxRequests { checksums, vlan, timestamp: false });
        bench.with(|device| device.room = 0);
        assert_eq!(tx.send(&mut burst).unwrap(), 0);
        assert_eq!(burst[0].data(), &original[..], "it was not sent, so it is not changed");
        bench.with(|device| device.room = 1);
        assert_eq!(tx.send(&mut burst).unwrap(), 1);
        let sent = bench.with(|device| device.taken.pop()).unwrap();
        let at = if vlan.is_some() { 4 } else { 0 };
        assert_ne!(sent[24 + at..26 + at], [0, 0]);
        assert_ne!(sent[40 + at..42 + at], [0xbe, 0xef]);
    }
}

#[test]
fn a_tag_finds_room_where_the_pool_has_none_in_front() {
    let mut bench = Bench::new(|_| {});
    bench.pool = Pool::builder().frames(64).headroom(0).build().unwrap();
    let (_port, _rx, mut tx) = bench.open(",vlan_insert=auto");
    let mut burst = burst_of(&bench.pool, &[frame(100)]);
    burst[0].set_requests(TxRequests { vlan: Some(5), ..TxRequests::default() });
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    let sent = bench.with(|device| device.taken.pop()).unwrap();
    assert_eq!((sent.len(), &sent[12..16]), (104, &[0x81, 0, 0, 5][..]));
    assert_eq!(sent[16..], frame(100)[12..]);
}

#[test]
fn tags_are_inserted_in_software_and_taken_out_again_if_not_sent() {
    let bench = Bench::new(|_| {});
    let (_port, _rx, mut tx) = bench.open(",vlan_insert=auto");
    let frames = [frame(1514), tagged(1518), frame(20)];
    for (at, original) in frames.iter().enumerate() {
        let mut burst = burst_of(&bench.pool, std::slice::from_ref(original));
        burst[0].set_requests(TxRequests { vlan: Some(0x6005), ..TxRequests::default() });
        bench.with(|device| device.room = 0);
        if at == 1 {
            // A second tag on top of the allowed one is too much (contract M2).
            assert!(matches!(
                tx.send(&mut burst),
                Err(Error::FrameTooLong { length: 1522, max: 1514 })
            ));
            continue;
        }
        assert_eq!(tx.send(&mut burst).unwrap(), 0);
        assert_eq!(burst[0].data(), &original[..]);
        bench.with(|device| device.room = 1);
        assert_eq!(tx.send(&mut burst).unwrap(), 1);
        let mut expected = [&original[..12], &[0x81, 0, 0x60, 0x05], &original[12..]].concat();
        expected.resize(expected.len().max(60), 0);
        assert_eq!(bench.with(|device| device.taken.pop()).unwrap(), expected);
    }
}

#[test]
fn configuration_is_applied_whole_or_not_at_all() {
    let bench = Bench::new(|capability| {
        (capability.set_mac, capability.promiscuous, capability.filters) = (true, true, true);
        (capability.set_max_frame, capability.max_frame) = (true, 9000);
    });
    let mut port = bench.registry.open("mock:config").unwrap();
    let mut config = PortConfig::default();
    config.mac = Some(MacAddr([2; 6]));
    let mut refused = config.clone();
    refused.rx_queues = 2;
    let error = port.configure(refused).unwrap_err().to_string();
    assert!(
        error.contains("rx_queues") && error.contains("= 2") && error.contains("1 to 1"),
        "{error}"
    );
    assert_eq!(bench.with(|device| device.log.clone()), [""; 0], "nothing was applied");
    bench.with(|device| device.fail = Some("promiscuous true"));
    (config.max_frame, config.promiscuous) = (Some(4000), true);
    assert!(port.configure(config.clone()).is_err());
    assert_eq!(bench.with(|device| device.mac), OWN, "put back");
    assert_eq!(port.config(), PortConfig::default());
    bench.with(|device| device.fail = None);
    port.configure(config).unwrap();
    assert_eq!(
        (port.control().mac().unwrap(), port.control().max_frame()),
        (MacAddr([2; 6]), 4000)
    );
    port.configure(PortConfig::default()).unwrap();
    assert_eq!((port.control().mac().unwrap(), port.control().max_frame()), (OWN, 1514));
    assert!(port.control().set_mac(MacAddr::BROADCAST).is_err());
}

#[test]
fn states_are_kept() {
    let bench = Bench::new(|_| {});
    let mut port = bench.registry.open("mock:states").unwrap();
    assert!(matches!(port.start(), Err(Error::State { hint: "attach a pool first", .. })));
    match bench.registry.open("mock:states") {
        Err(Error::Busy { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    port.attach(&bench.pool).unwrap();
    port.attach(&bench.pool).unwrap();
    assert!(matches!(
        port.attach(&Pool::builder().frames(1).build().unwrap()),
        Err(Error::Unsupported { .. })
    ));
    let (mut rx, mut tx) = port.start().unwrap().into_pair();
    assert!(matches!(port.start(), Err(Error::State { .. })));
    assert!(matches!(port.configure(PortConfig::default()), Err(Error::State { .. })));
    assert!(matches!(port.attach(&bench.pool), Err(Error::State { .. })));
    port.stop().unwrap();
    port.stop().unwrap();
    let mut burst = burst_of(&bench.pool, &[frame(60)]);
    assert!(matches!(rx.recv(&mut burst), Err(Error::Closed)));
    assert!(matches!(tx.send(&mut burst), Err(Error::Closed)));
    assert!(matches!(rx.wait(Duration::from_secs(9)), Err(Error::Closed)));
    assert!(matches!(
        (rx.arm(), tx.flush(Duration::ZERO)),
        (Err(Error::Closed), Err(Error::Closed))
    ));
    let (control, stats) = (port.control(), port.stats());
    let (_rx, mut tx) = port.start().unwrap().into_pair();
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    port.close().unwrap();
    assert!(matches!(control.link(), Err(Error::Closed)));
    assert_eq!(stats.read().port.tx_packets, Some(1));
    assert_eq!(bench.with(|device| device.log.clone()), ["start", "stop", "start", "stop"]);
    bench.registry.open("mock:states").unwrap();
}

#[test]
fn stop_wakes_the_waiting_and_ends_calls() {
    let bench = Bench::new(|_| {});
    let (mut port, mut rx, mut tx) = bench.open("");
    let pool = bench.pool.clone();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || rx.wait(Duration::from_secs(60)));
        let sending = scope.spawn(move || {
            let mut sent = 0u64;
            loop {
                let mut burst = burst_of(&pool, &[frame(60)]);
                match tx.send(&mut burst) {
                    Ok(count) => sent += count as u64,
                    Err(error) => return (sent, error),
                }
            }
        });
        while bench.with(|device| device.taken.len()) < 100 {
            std::thread::yield_now();
        }
        let start = Instant::now();
        port.stop().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
        let (sent, error) = sending.join().unwrap();
        assert!(matches!(error, Error::Closed));
        assert_eq!(port.stats().read().port.tx_packets, Some(sent));
        assert!(start.elapsed() < Duration::from_secs(30));
    });
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn a_waker_does_not_hide_that_the_port_was_stopped() {
    let bench = Bench::new(|_| {});
    let (mut port, mut rx, _tx) = bench.open("");
    port.stop().unwrap();
    rx.waker().wake();
    for _ in 0..2 {
        assert!(matches!(rx.wait(Duration::ZERO), Err(Error::Closed)));
        assert!(matches!(rx.arm(), Err(Error::Closed)));
    }
}

#[test]
fn the_devices_counters_are_there_before_the_first_start_and_after_close() {
    let bench = Bench::new(|_| {});
    // Of as many queues as it could have, as a device with registers does.
    bench.with(|device| {
        let mut queue = anyport::Counters::default();
        queue.rx_ring_full = Some(3);
        device.counted.rx_queues = vec![queue; 4];
        device.counted.port.rx_errors = Some(5);
    });
    let names =
        |counters: &PortCounters| counters.port.iter().map(|(name, _)| name).collect::<Vec<_>>();
    let spec = format!("mock:{:?}", std::thread::current().id());
    let mut port = bench.registry.open_with(&spec, &bench.pool).unwrap();
    let stats = port.stats();
    let fresh = stats.read();
    assert_eq!((fresh.port.rx_errors, fresh.port.rx_packets), (Some(5), Some(0)));
    let queues = port.start().unwrap();
    assert_eq!(names(&stats.read()), names(&fresh));
    assert_eq!(stats.read().port.rx_ring_full, Some(12), "of queues that were never started, too");
    port.stop().unwrap();
    let stopped = stats.read();
    drop((port, queues));
    assert_eq!(stats.read(), stopped, "after close");
}

#[test]
fn stop_counts_what_was_not_sent() {
    let bench = Bench::new(|capability| capability.deferred_tx = true);
    let (mut port, mut rx, mut tx) = bench.open("");
    let mut burst = burst_of(&bench.pool, &[frame(60), frame(70), frame(80)]);
    bench.with(|device| device.outstanding = 3);
    assert_eq!(tx.send(&mut burst).unwrap(), 3);
    assert_eq!(bench.pool.free(), 509);
    bench.with(|device| device.outstanding = 2);
    // Completed frames are back after the next call on the port, of whichever queue (contract T6).
    assert_eq!(rx.recv(&mut burst).unwrap(), 0);
    assert_eq!((bench.pool.free(), tx.flush(Duration::ZERO).unwrap()), (510, 2));
    port.stop().unwrap();
    let counters = port.stats().read().port;
    assert_eq!((counters.tx_packets, counters.tx_bytes), (Some(1), Some(60)));
    assert_eq!((counters.tx_dropped, counters.tx_dropped_bytes), (Some(2), Some(150)));
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn the_link_is_looked_at_and_reported() {
    let bench = Bench::new(|capability| capability.link_state = true);
    let (port, mut rx, mut tx) = bench.open("");
    let mut burst = burst_of(&bench.pool, &[frame(60)]);
    bench.with(|device| device.link_up = false);
    assert_eq!(rx.wait(Duration::from_secs(9)).unwrap(), Wake::LinkDown);
    let deadline = Instant::now() + Duration::from_secs(5);
    while tx.send(&mut burst).unwrap() > 0 {
        assert!(Instant::now() < deadline, "frames are accepted without a carrier");
        burst.push(bench.pool.packet(&frame(60)).unwrap()).unwrap();
    }
    assert!(port.control().wait_link_up(Duration::from_millis(1)).is_err());
    bench.with(|device| device.link_up = true);
    assert_eq!(rx.wait(Duration::from_secs(9)).unwrap(), Wake::LinkUp);
    port.control().wait_link_up(Duration::from_secs(9)).unwrap();
    while tx.send(&mut burst).unwrap() == 0 {
        assert!(Instant::now() < deadline, "the link is back");
    }
}

#[test]
fn the_carrier_is_not_looked_at_for_every_burst() {
    let bench = Bench::new(|capability| capability.link_state = true);
    let (_port, _rx, mut tx) = bench.open("");
    let start = Instant::now();
    for _ in 0..20_000 {
        let mut burst = burst_of(&bench.pool, &[frame(60)]);
        assert_eq!(tx.send(&mut burst).unwrap(), 1);
    }
    let took = start.elapsed().as_millis();
    // The clock that is asked is coarse: one look more than fits.
    let (looks, most) = (bench.with(|device| device.looks), took / 50 + 2);
    assert!(looks >= 1 && looks <= most, "{looks} looks in {took} ms");
}

#[test]
fn waiting_ends_for_frames_wakers_and_nothing_else() {
    let bench = Bench::new(|_| {});
    let (_port, mut rx, _tx) = bench.open("");
    let mut burst = Burst::new();
    assert_eq!(rx.wait(Duration::ZERO).unwrap(), Wake::Timeout);
    // A frame that nobody gets is no reason to return.
    let mut foreign = frame(60);
    foreign[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    bench.arrive(foreign);
    assert_eq!(rx.wait(Duration::from_millis(20)).unwrap(), Wake::Timeout);
    bench.arrive(frame(60));
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Ready);
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Ready, "until it is received");
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    let waker = rx.waker();
    waker.wake();
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Waker);
    assert_eq!(rx.wait(Duration::ZERO).unwrap(), Wake::Timeout);
    std::thread::scope(|scope| {
        scope.spawn(|| bench.arrive(frame(61)));
        assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Ready);
    });
    // As a loop of the application's own does it.
    assert_eq!(rx.arm().unwrap(), Armed::Ready);
    rx.recv(&mut burst).unwrap();
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    bench.arrive(frame(62));
    let mut poll = libc::pollfd { fd: rx.descriptor(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as is said.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 60_000) }, 1);
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
}

#[test]
fn a_device_that_goes_delivers_its_last_frames_and_says_so() {
    let bench = Bench::new(|capability| capability.can_vanish = true);
    let (port, mut rx, mut tx) = bench.open("");
    let mut burst = burst_of(&bench.pool, &[frame(60)]);
    bench.arrive(frame(60));
    bench.with(|device| device.gone = true);
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    for _ in 0..2 {
        assert!(rx.recv(&mut burst).unwrap_err().is_gone());
        assert!(rx.wait(Duration::from_secs(60)).unwrap_err().is_gone());
        assert!(tx.send(&mut burst).unwrap_err().is_gone());
    }
    assert_eq!(burst.len(), 2);
    port.close().unwrap();
}

#[test]
fn an_input_ends_after_its_last_frame() {
    let bench = Bench::new(|capability| capability.can_end = true);
    let (_port, mut rx, _tx) = bench.open("");
    bench.arrive(frame(60));
    bench.with(|device| device.ended = true);
    let mut burst = Burst::new();
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Ready);
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    assert!(rx.recv(&mut burst).unwrap_err().is_ended());
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Ended);
}

#[test]
fn specs_are_checked_before_anything_is_opened() {
    let bench = Bench::new(|_| {});
    let error = |spec: &str| bench.registry.open(spec).unwrap_err().to_string();
    assert_eq!(error("mok:x"), "unknown backend `mok`; this program has: mock");
    let unknown = error("mock:x,rx_quues=1");
    assert!(
        unknown.contains("unknown key `rx_quues`") && unknown.contains("rx_queues"),
        "{unknown}"
    );
    let value = error("mock:x,rx_checksum=maybe");
    assert!(
        value.contains("`rx_checksum` cannot be `maybe`") && value.contains("`auto`"),
        "{value}"
    );
    assert!(error("mock:x,rx_queues=-1").contains("`rx_queues` cannot be `-1`"));
    assert!(error("mock:x,rx_queues=0").contains("1 to 1 are possible"));
    assert!(error("mock:x,mac=01:00:5e:00:00:01").contains("group address"));
    assert!(error("mock:x,tx_timestamp=auto").contains("no software fallback"));
    assert!(error("mock:x,rss_key=abc").contains("80 hexadecimal digits"));
    assert_eq!(bench.with(|device| device.log.clone()), [""; 0]);
    drop(bench.registry.open("mock:x").unwrap());
}

#[test]
fn taps_see_what_was_received_and_accepted() {
    use anyport::capture::Direction;
    let bench = Bench::new(|_| {});
    let (port, mut rx, mut tx) = bench.open("");
    let mut tap = port.control().tap(1 << 16);
    bench.arrive(frame(80));
    let mut burst = Burst::new();
    rx.recv(&mut burst).unwrap();
    burst.clear();
    let mut burst = burst_of(&bench.pool, &[frame(20), frame(90)]);
    bench.with(|device| device.room = 1);
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    let seen: Vec<(Direction, usize)> =
        std::iter::from_fn(|| tap.next(Duration::ZERO).map(|c| (c.direction, c.frame.len())))
            .collect();
    assert_eq!(seen, [(Direction::Received, 80), (Direction::Sent, 60)]);
    assert_eq!(burst[0].len(), 90);
    drop(tap);
    bench.with(|device| device.room = 1);
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!(port.stats().read().port.capture_dropped, Some(0));
}

#[test]
fn a_capture_goes_to_a_file_or_the_port_is_not_opened() {
    let bench = Bench::new(|_| {});
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("both.pcapng");
    let (port, mut rx, mut tx) = bench.open(&format!(",capture={}", path.display()));
    bench.arrive(frame(80));
    let mut burst = Burst::new();
    rx.recv(&mut burst).unwrap();
    assert_eq!(tx.send(&mut burst).unwrap(), 1);
    assert_eq!(port.stats().read().port.capture_dropped, Some(0));
    port.close().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let found = bytes.windows(80).filter(|window| *window == frame(80)).count();
    assert_eq!(found, 2, "received and sent");

    // A reader that goes away, as a full disk would: the port goes on, and closing it tells.
    let fifo = directory.path().join("fifo");
    let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: a terminated string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    use std::os::unix::fs::OpenOptionsExt;
    let reader =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    let (port, mut rx, _) = bench.open(&format!(",capture={}", fifo.display()));
    drop(reader);
    for _ in 0..3 {
        bench.arrive(frame(80));
        burst.clear();
        assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    }
    let stats = port.stats();
    let error = port.close().unwrap_err().to_string();
    assert!(error.contains("fifo: writing the capture: Broken pipe"), "{error}");
    assert_eq!(stats.read().port.capture_dropped, Some(3));

    let error = bench.registry.open("mock:full,capture=/dev/full").unwrap_err().to_string();
    assert!(error.contains("/dev/full: creating the capture file: No space left"), "{error}");
    burst.clear();
    assert_eq!(bench.pool.free(), 512);
}

#[test]
fn a_device_without_a_descriptor_is_waited_for_in_every_way() {
    let bench = Bench::new(|_| {});
    bench.with(|device| device.polled = true);
    let (_port, mut rx, _tx) = bench.open("");
    let arrive = || bench.with(|device| device.arriving.push_back(frame(60)));
    let mut burst = Burst::new();
    // In a loop of the application's own. Nobody signals: the device has no way to.
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    arrive();
    let mut fd = libc::pollfd { fd: rx.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one element, a local.
    assert_eq!(unsafe { libc::poll(&mut fd, 1, 60_000) }, 1);
    assert_eq!((rx.arm().unwrap(), rx.recv(&mut burst).unwrap()), (Armed::Ready, 1));
    // By the calls that wait: well before their time is over.
    let patience = Duration::from_secs(60);
    for several in [false, true] {
        let started = Instant::now();
        let mut wakes = [Wake::Timeout];
        std::thread::scope(|scope| {
            scope.spawn(arrive);
            match several {
                false => wakes[0] = rx.wait(patience).unwrap(),
                true => assert_eq!(wait_any(&mut [&mut rx], &mut wakes, patience).unwrap(), 1),
            }
        });
        assert_eq!((wakes[0], rx.recv(&mut burst).unwrap()), (Wake::Ready, 1));
        assert!(started.elapsed() < patience);
    }
    assert_eq!(rx.wait(Duration::from_millis(3)).unwrap(), Wake::Timeout);
    assert_eq!(wait_any(&mut [&mut rx], &mut [Wake::Ready], Duration::from_millis(3)).unwrap(), 0);
}

#[test]
fn waiting_on_several_queues_reports_every_event() {
    let bench = Bench::new(|capability| {
        capability.link_state = true;
        capability.max_rx_queues = 2;
    });
    let spec = format!("mock:{:?},rx_queues=2", std::thread::current().id());
    let mut port = bench.registry.open_with(&spec, &bench.pool).unwrap();
    let [mut one, mut two] = <[RxQueue; 2]>::try_from(port.start().unwrap().rx).unwrap();
    let patience = Duration::from_secs(60);
    for (up, wake) in [(false, Wake::LinkDown), (true, Wake::LinkUp)] {
        bench.with(|device| device.link_up = up);
        let mut wakes = [Wake::Timeout; 2];
        assert_eq!(wait_any(&mut [&mut one, &mut two], &mut wakes, patience).unwrap(), 2);
        assert_eq!(wakes, [wake; 2]);
    }
    // Wherever in the call a waker strikes.
    let waker = two.waker();
    for round in 0..2000 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..round % 100).for_each(|_| std::hint::spin_loop());
                waker.wake();
            });
            let mut wakes = [Wake::Timeout; 2];
            assert_eq!(wait_any(&mut [&mut one, &mut two], &mut wakes, patience).unwrap(), 1);
            assert_eq!(wakes, [Wake::Timeout, Wake::Waker]);
        });
    }
}

#[test]
fn what_the_host_sees_is_chosen_at_open() {
    let bench = Bench::new(|_| {});
    let spec = format!("mock:{:?},shared=true,to_kernel=arp", std::thread::current().id());
    let mut port = bench.registry.open(&spec).unwrap();
    let config = port.config();
    assert!(config.shared && config.to_kernel == ["arp"]);
    let refused = |port: &mut Port, said: &str, change: fn(&mut PortConfig)| {
        let mut other = port.config();
        change(&mut other);
        let error = port.configure(other).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("when the port is opened"), "{error}");
    };
    refused(&mut port, "`shared` = false", |config| config.shared = false);
    refused(&mut port, "`takeover` = true", |config| config.takeover = true);
    refused(&mut port, "`to_kernel` = tcp:22", |config| config.to_kernel = vec!["tcp:22".into()]);
    assert_eq!(port.config(), config);
    port.configure(config).unwrap();
}

#[test]
fn controls_of_a_closed_port_say_so() {
    for filters in [false, true] {
        let bench = Bench::new(|capability| {
            (capability.filters, capability.promiscuous, capability.set_mac) =
                (filters, true, true);
        });
        let (port, _rx, _tx) = bench.open("");
        let control = port.control();
        control.set_promiscuous(true).unwrap();
        port.close().unwrap();
        assert!(control.set_promiscuous(false).unwrap_err().is_closed());
        assert!(control.set_mac(OWN).unwrap_err().is_closed());
        assert!(control.mac().unwrap_err().is_closed() && control.link().unwrap_err().is_closed());
        assert!(control.promiscuous(), "what was refused changed nothing");
    }
}

#[test]
fn a_device_lost_while_it_starts_is_stopped_again() {
    let bench = Bench::new(|_| {});
    let (mut port, ..) = bench.open("");
    port.stop().unwrap();
    bench.with(|device| {
        device.log.clear();
        device.fail = Some("link");
    });
    assert!(port.start().unwrap_err().is_gone());
    assert_eq!(bench.with(|device| device.log.clone()), ["start", "stop"]);
    bench.with(|device| device.fail = None);
    port.start().unwrap();
}

#[test]
fn a_taps_reader_finds_the_end_after_close() {
    let bench = Bench::new(|_| {});
    let (port, _rx, mut tx) = bench.open("");
    let mut tap = port.control().tap(1 << 16);
    tx.send(&mut burst_of(&bench.pool, &[frame(60)])).unwrap();
    assert!(!tap.is_finished());
    port.close().unwrap();
    assert_eq!(tap.next(Duration::ZERO).unwrap().frame, frame(60));
    assert!(tap.next(Duration::from_secs(60)).is_none() && tap.is_finished());
}

#[test]
fn what_was_armed_stays_armed_through_empty_polls() {
    let bench = Bench::new(|_| {});
    let (_port, mut rx, _tx) = bench.open("");
    assert_eq!(rx.arm().unwrap(), anyport::wait::Armed::Armed);
    let mut burst = Burst::new();
    for _ in 0..1000 {
        assert_eq!(rx.recv(&mut burst).unwrap(), 0);
    }
    bench.arrive(frame(60));
    let mut fd = libc::pollfd { fd: rx.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as is said; it belongs to the queue, which lives on.
    assert_eq!(unsafe { libc::poll(&mut fd, 1, 10_000) }, 1);
}

#[test]
fn a_refused_configuration_leaves_an_old_capture_alone() {
    let bench = Bench::new(|capability| capability.set_mac = true);
    let (mut port, ..) = bench.open("");
    port.stop().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.pcapng");
    std::fs::write(&path, "old").unwrap();
    bench.with(|device| device.fail = Some("mac"));
    let mut config = port.config();
    (config.mac, config.capture) = (Some(MacAddr([2, 0, 0, 0, 0, 7])), Some(path.clone()));
    port.configure(config).unwrap_err();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    bench.with(|device| device.fail = None);
    let mut config = port.config();
    (config.mac, config.capture) = (Some(MacAddr([2, 0, 0, 0, 0, 7])), Some(dir.path().into()));
    port.configure(config).unwrap_err();
    assert_eq!(bench.with(|device| device.mac), OWN, "put back");
}
