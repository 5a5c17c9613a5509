//! A stop while a child of the process, between `fork` and `exec`, has all its descriptors: what the kernel may still write to is not
//! used again (contract L6). Alone in its process, whose children have every other test's sockets as well.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyport::{Pool, Registry};
use anyport_netdev::testing::{in_namespace, may_load_programs};

/// Starts a program from another thread, whose process says that it is there, and goes on when `go_on` returns.
fn child(said: io::PipeWriter, go_on: impl Fn() + Send + Sync + 'static) -> Command {
    let mut command = Command::new("true");
    let wait = move || {
        (&said).write_all(b"x")?;
        go_on();
        Ok(())
    };
    // SAFETY: between fork and exec it writes, sleeps or reads, which are system calls alone.
    unsafe { command.pre_exec(wait) };
    command
}

fn one_byte(mut from: &PipeReader) {
    from.read_exact(&mut [0]).unwrap();
}

/// Frames that are lost, and frames that are not in the pool, after a stop while a child lives as long as `go_on` takes; `after` the
/// stop something is done for it to go on.
fn stop_beside(go_on: impl Fn() + Send + Sync + 'static, after: impl FnOnce()) -> (u64, usize) {
    let mut registry = Registry::new();
    registry.register(anyport_af_xdp::AfXdp::default()).unwrap();
    let pool = Pool::builder().frames(512).frame_size(2048).build().unwrap();
    let mut port = registry.open_with("af_xdp:a0", &pool).unwrap();
    let queues = port.start().unwrap();
    assert_ne!(pool.free(), pool.capacity());
    let (there, said) = io::pipe().unwrap();
    let mut command = child(said, go_on);
    std::thread::scope(|scope| {
        let other = scope.spawn(move || command.status().unwrap());
        one_byte(&there);
        drop(queues);
        port.stop().unwrap();
        after();
        assert!(other.join().unwrap().success());
    });
    (port.stats().read().port.lost.unwrap(), pool.capacity() - pool.free())
}

#[test]
fn a_child_that_has_the_sockets_keeps_their_frames() {
    in_namespace(|| {
        if !may_load_programs() {
            return;
        }
        // It goes on while the stop waits for it, or before.
        assert_eq!(stop_beside(|| std::thread::sleep(Duration::from_millis(50)), || {}), (0, 0));
        let (wait, go) = io::pipe().unwrap();
        let number = wait.as_raw_fd();
        let read = move || {
            let mut byte = 0u8;
            // SAFETY: there is room for one byte.
            assert_eq!(unsafe { libc::read(number, (&raw mut byte).cast(), 1) }, 1);
        };
        let (lost, missing) = stop_beside(read, || (&go).write_all(b"x").unwrap());
        assert_ne!(lost, 0);
        assert_eq!(lost as usize, missing);
        drop(wait);
        assert_eq!(stop_beside(|| {}, || {}), (0, 0));
    });
}
