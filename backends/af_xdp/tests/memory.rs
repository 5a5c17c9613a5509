//! The limit of locked memory (contract F6): what a start would exceed is said before the kernel is asked. Alone in its
//! process, which the limit is for.

use anyport::{Error, Pool, Registry};
use anyport_netdev::privilege::Privilege;
use anyport_netdev::testing::{in_namespace, keep_only, may_load_programs};

const KIB: u64 = 1024;

fn limit_locked_memory(bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is where it is to be written.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) }, 0);
    limit.rlim_cur = bytes;
    // SAFETY: the limit is a whole one.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0);
}

#[test]
fn a_pool_over_the_limit_is_refused_with_what_lifts_it() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        let mut registry = Registry::new();
        registry.register(anyport_af_xdp::AfXdp::default()).unwrap();
        let open = |device: &str, frames: u32| {
            let pool = Pool::builder().frames(frames).frame_size(2048).build().unwrap();
            registry.open_with(&format!("af_xdp:{device}"), &pool).unwrap()
        };
        let over = |error: &Error, asked: u64, before: u64, all: u64| {
            let Error::Unsupported { field, asked: said, limit, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!((field.as_str(), said), ("pool", &format!("{asked} KiB")));
            for word in [
                format!("a user may lock {} KiB", 1024),
                format!("{before} KiB are locked by other ports of this process"),
                format!("`sudo prlimit --memlock={} --pid $$`", all * KIB),
                format!("LimitMEMLOCK={all}K"),
                "CAP_IPC_LOCK".into(),
            ] {
                assert!(limit.contains(&word), "{word}: {limit}");
            }
        };
        limit_locked_memory(1024 * KIB);
        // With the capability there is no limit.
        open("a0", 2048).start().unwrap();
        keep_only(&[Privilege::NetRaw, Privilege::NetAdmin, Privilege::Bpf]);
        let listed = registry.devices().into_iter().find(|device| device.spec == "af_xdp:a0");
        let obstacle = listed.unwrap().obstacle.unwrap();
        assert!(obstacle.contains("a user may lock 1024 KiB"), "{obstacle}");
        over(&open("a0", 1024).start().unwrap_err(), 2048, 0, 2048);
        let mut first = open("a0", 512);
        first.start().unwrap();
        let mut second = open("a1", 256);
        over(&second.start().unwrap_err(), 512, 1024, 1536);
        // What a stopped port had is free again, as often as one likes, although the kernel takes a moment.
        for _ in 0..5 {
            first.stop().unwrap();
            second.start().unwrap();
            second.stop().unwrap();
            first.start().unwrap();
        }
        drop((first, second));
        // Every started port counts, also if two have one pool.
        let pool = Pool::builder().frames(512).frame_size(2048).build().unwrap();
        let [mut first, mut second] = ["a0", "a1"]
            .map(|device| registry.open_with(&format!("af_xdp:{device}"), &pool).unwrap());
        first.start().unwrap();
        over(&second.start().unwrap_err(), 1024, 1024, 2048);
    });
}
