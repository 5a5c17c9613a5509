//! Sending and receiving allocate nothing, whatever a port is configured for: counted by the allocator itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use anyport::packet::{Checksums, L4Checksum, TxRequests};
use anyport::{Burst, Pool, Port, Registry, RxQueue, TxQueue};
use anyport_loopback::{Cable, Faults};

/// The system's allocator, which counts what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Not there any more while a thread ends.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call is passed on as it is to the system's allocator; counting touches a number of this thread's alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread asked for memory in a call.
fn asked_in(call: impl FnOnce()) -> u64 {
    let before = ASKED.get();
    call();
    ASKED.get() - before
}

struct End {
    _port: Port,
    rx: Vec<RxQueue>,
    tx: Vec<TxQueue>,
}

fn open(spec: &str, pool: &Pool) -> End {
    let mut registry = Registry::new();
    registry.register(anyport_loopback::Loopback::default()).unwrap();
    let mut port = registry.open_with(&format!("{spec},promiscuous=true"), pool).unwrap();
    let queues = port.start().unwrap();
    End { _port: port, rx: queues.rx, tx: queues.tx }
}

fn pool(headroom: u16) -> Pool {
    Pool::builder().frames(1024).headroom(headroom).build().unwrap()
}

/// A UDP frame of a flow, its checksums left to whoever sends it.
fn flow(number: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0]);
    frame.extend(number.to_be_bytes());
    frame.extend([0x10, 0, 0x20, 0, 0, 26, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// Sends bursts of 64 frames in 50 flows, made by `packet`, and receives them on all queues: `rounds` times, counted.
fn traffic(a: &mut End, b: &mut End, packet: impl Fn(u16) -> anyport::Packet) -> u64 {
    let (mut burst, mut received) = (Burst::new(), 0);
    let mut asked = 0;
    for round in 0..30u16 {
        for number in 0..64 {
            burst.push(packet((round + number) % 50)).unwrap();
        }
        let (queue, mut sent) = (usize::from(round) % a.tx.len(), 0);
        asked += asked_in(|| sent = a.tx[queue].send(&mut burst).unwrap());
        assert_eq!(sent, 64);
        for rx in &mut b.rx {
            let mut got = 1;
            while got > 0 {
                asked += asked_in(|| got = rx.recv(&mut burst).unwrap());
                received += got;
                asked += asked_in(|| burst.clear());
            }
        }
        while let Ok(Some(_)) = a.tx[0].take_timestamp() {}
        asked += asked_in(|| assert_eq!(a.tx[0].flush(Duration::ZERO).unwrap(), 0));
    }
    assert_eq!(received, 30 * 64);
    asked
}

#[test]
fn the_count_counts() {
    assert_eq!(asked_in(|| drop(Vec::<u8>::with_capacity(7))), 1);
    assert_eq!(asked_in(|| drop(Vec::<u8>::new())), 0);
}

#[test]
fn bursts_through_one_queue_or_several_allocate_nothing() {
    for (number, queues) in [1, 2, 4].into_iter().enumerate() {
        // Handed over, and copied.
        let (one, other) = (pool(128), pool(128));
        for (pools, ends) in [("shared", [&one, &one]), ("own", [&one, &other])] {
            let spec = |end: usize| format!("loop:alloc-{pools}{number}.{end},queues={queues}");
            let (mut a, mut b) = (open(&spec(0), ends[0]), open(&spec(1), ends[1]));
            let asked =
                traffic(&mut a, &mut b, |flow_number| one.packet(&flow(flow_number)).unwrap());
            assert_eq!(asked, 0, "{queues} queues, {pools} pools");
        }
    }
}

#[test]
fn offloads_allocate_nothing() {
    let keys = "tx_checksum=HOW,vlan_insert=HOW,rx_checksum=HOW,vlan_strip=HOW,rss_hash=HOW,rx_timestamp=auto,\
                tx_timestamp=auto";
    // In software and by the device; with room for a tag, and without.
    for (number, (device, headroom)) in
        [(false, 128), (false, 0), (true, 128), (true, 0)].into_iter().enumerate()
    {
        let pool = pool(headroom);
        let how = if device { "required,device_offloads=true" } else { "auto" };
        let keys = keys.replacen("HOW", how, 1).replace("HOW", how.split(',').next().unwrap());
        let spec = |end: usize| format!("loop:alloc-offloads{number}.{end},queues=2,{keys}");
        let (mut a, mut b) = (open(&spec(0), &pool), open(&spec(1), &pool));
        let asked = traffic(&mut a, &mut b, |flow_number| {
            let mut packet = pool.packet(&flow(flow_number)).unwrap();
            let checksums = Checksums { ipv4: true, l4: L4Checksum::Udp };
            let (vlan, timestamp) = (Some(5), flow_number % 3 == 0);
            packet.set_requests(TxRequests { checksums, vlan, timestamp });
            packet.set_mark(flow_number.into());
            packet
        });
        assert_eq!(asked, 0, "by the device: {device}, head room {headroom}");
    }
}

#[test]
fn a_paused_cable_and_faults_allocate_nothing() {
    let pool = pool(128);
    let cable = Cable::named("alloc-held");
    let (mut a, mut b) = (open("loop:alloc-held.0", &pool), open("loop:alloc-held.1", &pool));
    let mut burst = Burst::new();
    for delay in [3, 1] {
        let mut faults = Faults::default();
        (faults.duplicate, faults.delay) = (7, delay);
        cable.set_faults(1, faults);
        let mut received = 0;
        for paused in [true, false, true, false] {
            cable.pause(paused);
            for number in 0..64 {
                burst.push(pool.packet(&flow(number % 50)).unwrap()).unwrap();
            }
            assert_eq!(asked_in(|| assert_eq!(a.tx[0].send(&mut burst).unwrap(), 64)), 0);
            if paused {
                continue;
            }
            for rx in &mut b.rx {
                let mut got = 1;
                while got > 0 {
                    assert_eq!(asked_in(|| got = rx.recv(&mut burst).unwrap()), 0);
                    received += got;
                    burst.clear();
                }
            }
        }
        assert_eq!(received, 4 * 64 + 4 * 64 / 7);
    }
    assert_eq!(pool.free(), 1024);
}

#[test]
fn timestamps_that_nobody_fetches_cost_no_memory() {
    let pool = pool(128);
    let mut a = open("loop:alloc-stamps.0,tx_timestamp=auto", &pool);
    let mut burst = Burst::new();
    let mut asked = 0;
    for number in 0..5000u32 {
        let mut packet = pool.packet(&flow(1)).unwrap();
        packet.set_requests(TxRequests { timestamp: true, ..TxRequests::default() });
        packet.set_mark(number);
        burst.push(packet).unwrap();
        asked += asked_in(|| assert_eq!(a.tx[0].send(&mut burst).unwrap(), 1));
    }
    assert_eq!(asked, 0);
    // The oldest are forgotten.
    let marks: Vec<u32> =
        std::iter::from_fn(|| a.tx[0].take_timestamp().unwrap()).map(|stamp| stamp.mark).collect();
    assert_eq!(marks, (5000 - 4096..5000).collect::<Vec<_>>());
}
