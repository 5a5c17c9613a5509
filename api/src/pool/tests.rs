//! Accounting, lifetimes and fallbacks of pools.

use super::*;

#[test]
fn free_counts_list_and_caches() {
    let pool = Pool::builder().frames(100).build().unwrap();
    let mut cache = pool.cache(16);
    let held: Vec<Packet> = std::iter::from_fn(|| cache.take()).take(10).collect();
    assert_eq!(pool.free(), 90);
    let other = pool.take().unwrap();
    assert_eq!(pool.free(), 89);
    held.into_iter().for_each(|packet| cache.give(packet));
    assert_eq!(pool.free(), 99);
    cache.flush();
    assert_eq!((pool.free(), cache.is_empty()), (99, true));
    drop((other, cache));
    assert_eq!(pool.free(), 100);
}

#[test]
fn an_empty_pool_gives_none_and_recovers() {
    let pool = Pool::builder().frames(3).build().unwrap();
    let mut cache = pool.cache(64);
    let mut held: Vec<Packet> = std::iter::from_fn(|| cache.take()).collect();
    assert_eq!((held.len(), pool.free()), (3, 0));
    assert!(pool.take().is_none() && pool.packet(b"x").is_none());
    assert!(cache.was_starved() && !cache.was_starved());
    let frames: std::collections::HashSet<u32> = held.iter().map(Packet::frame_index).collect();
    assert_eq!(frames.len(), 3, "every frame once");
    held.pop();
    assert!(cache.take().is_some());
}

#[test]
fn a_small_pool_is_not_hoarded() {
    let pool = Pool::builder().frames(8).build().unwrap();
    let mut cache = PoolCache::for_queue(&pool, 2);
    let packet = cache.take().unwrap();
    assert!(cache.is_empty());
    cache.give(packet);
    assert!(cache.is_empty() && pool.free() == 8);
}

#[test]
fn the_youngest_frame_comes_first() {
    let pool = Pool::builder().frames(64).build().unwrap();
    let mut cache = pool.cache(8);
    let packet = cache.take().unwrap();
    let frame = packet.frame_index();
    cache.give(packet);
    assert_eq!(cache.take().unwrap().frame_index(), frame);
}

#[test]
fn packets_outlive_their_pool() {
    let pool = Pool::builder().frames(4).build().unwrap();
    let (id, base) = (pool.id(), pool.region().base() as usize);
    let mut packet = pool.packet(b"still here").unwrap();
    let again = packet.pool();
    drop((pool, again));
    assert_eq!(packet.data(), b"still here");
    packet.data_mut()[0] = b'S';
    let pools: Vec<Pool> = (0..8).map(|_| Pool::builder().frames(4).build().unwrap()).collect();
    assert!(pools.iter().all(|pool| pool.id() != id && pool.region().base() as usize != base));
    assert_eq!(packet.data(), b"Still here");
    std::thread::spawn(move || drop(packet)).join().unwrap();
}

#[test]
fn identifiers_are_used_again() {
    for _ in 0..3000 {
        let pool =
            Pool::builder().frames(1).frame_size(512).huge_pages(HugePages::Off).build().unwrap();
        let packet = pool.take();
        drop(pool);
        drop(packet);
    }
}

#[test]
fn sizes_out_of_range_are_refused_with_the_range() {
    let text = |builder: PoolBuilder| builder.build().unwrap_err().to_string();
    assert!(text(Pool::builder().frames(0)).contains("frames = 0: 1 to 16777216"));
    assert!(text(Pool::builder().frame_size(1000)).contains("a power of two from 512 to 32768"));
    assert!(text(Pool::builder().headroom(2000)).contains("headroom = 2000"));
}

#[test]
fn huge_pages_fall_back_or_say_how_to_get_them() {
    // 32 GiB of huge pages are not reserved where this test runs.
    let config = PoolConfig { frames: 1 << 20, frame_size: 32768, ..PoolConfig::default() };
    let required = PoolConfig { huge_pages: HugePages::Required, ..config };
    let error = required.build().unwrap_err().to_string();
    assert!(error.contains("sysctl -w vm.nr_hugepages=16384"), "{error}");
    let pool = Pool::builder().frames(8).build().unwrap();
    let mut packet = pool.take().unwrap();
    packet.fill(&[1; 1792]).unwrap();
    assert!(
        pool.region().len() >= 8 * 2048
            && (pool.region().base() as usize).is_multiple_of(pool.region().page_size())
    );
}

#[test]
fn the_region_is_one_memory_with_its_file() {
    use std::os::unix::fs::FileExt;
    let pool = Pool::builder().frames(4).huge_pages(HugePages::Off).build().unwrap();
    let packet = pool.packet(b"seen by a device").unwrap();
    let offset = pool.region().offset_of(&packet).unwrap();
    // SAFETY: what is read is the packet's, to which nobody writes.
    let memfd = unsafe { pool.region().memfd() };
    let file = std::fs::File::from(memfd.try_clone_to_owned().unwrap());
    for size in [0, 2 * pool.region().len() as u64] {
        let refused = file.set_len(size).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "to {size} bytes");
    }
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, offset as u64).unwrap();
    assert_eq!(&bytes, b"seen by a device");
    let index = pool.region().lend(packet).unwrap();
    assert_eq!(pool.free(), 3);
    // SAFETY: lent just now, taken back once; the first two attempts fail and take nothing.
    unsafe {
        assert!(pool.region().take_back(4, 0, 0).is_none());
        assert!(pool.region().take_back(index, 2000, 49).is_none());
        let packet = pool.region().take_back(index, 256, 4).unwrap();
        assert_eq!(packet.data(), b"seen");
    }
    assert_eq!(pool.free(), 4);
}

#[test]
fn threads_take_and_give_without_losing_frames() {
    let pool = Pool::builder().frames(256).build().unwrap();
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::sync_channel::<Packet>(32);
        let source = &pool;
        scope.spawn(move || {
            let mut cache = source.cache(32);
            let mut sent = 0;
            while sent < 50_000 {
                match cache.take() {
                    Some(packet) => {
                        send.send(packet).unwrap();
                        sent += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
        scope.spawn(move || {
            // A foreign thread frees one by one, through a burst, and through a cache of its own.
            let mut burst = crate::Burst::with_capacity(7);
            let mut cache = source.cache(16);
            for (at, packet) in receive.iter().enumerate() {
                match at % 3 {
                    0 => drop(packet),
                    1 => cache.give(packet),
                    _ => {
                        if let Err(packet) = burst.push(packet) {
                            burst.clear();
                            burst.push(packet).unwrap();
                        }
                    }
                }
            }
        });
    });
    assert_eq!(pool.free(), 256);
    let all: Vec<Packet> = std::iter::from_fn(|| pool.take()).collect();
    let frames: std::collections::HashSet<u32> = all.iter().map(Packet::frame_index).collect();
    assert_eq!((all.len(), frames.len()), (256, 256));
}

#[test]
fn who_waits_for_frames_is_woken_once() {
    let pool = Pool::builder().frames(2).build().unwrap();
    let signal = std::sync::Arc::new(crate::wait::EventFd::new().unwrap());
    let readable = || {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&*signal),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor, as is said.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    };
    pool.wake_when_filled(signal.clone());
    assert!(readable(), "there are frames already");
    signal.drain();
    let all: Vec<Packet> = std::iter::from_fn(|| pool.take()).collect();
    pool.wake_when_filled(signal.clone());
    assert!(!readable());
    drop(all);
    assert!(readable());
    signal.drain();
    drop(pool.take());
    assert!(!readable(), "only once per request");
}
