//! What ends a wait, and what must not: frames, wakers, the link, the device, the input's end.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyport::wait::EventFd;
use anyport::{Armed, Burst, Error, RxQueue, Wake, wait_any};

use crate::driver::*;

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

/// A device whose link is told of by a descriptor of its own.
fn watched() -> Bench {
    let bench = Bench::new(|capability| {
        (capability.link_state, capability.can_vanish) = (true, true);
    });
    bench.with(|device| device.events = Some(Arc::new(EventFd::new().unwrap())));
    bench
}

#[test]
fn a_link_that_changes_while_the_queue_is_armed_ends_the_wait() {
    let bench = watched();
    let (_port, mut rx, _tx) = bench.open("");
    bench.with(|device| {
        device.on_arm = Some(|device| {
            device.set_link(false);
            // Slowly: by now the queue looks at its device again.
            std::thread::sleep(Duration::from_millis(120));
        });
    });
    assert_eq!(rx.wait(Duration::from_secs(20)).unwrap(), Wake::LinkDown);
    assert_eq!(rx.wait(Duration::from_millis(1)).unwrap(), Wake::Timeout, "it is said once");
}

#[test]
fn a_queue_that_is_received_from_keeps_the_link_event_it_was_armed_for() {
    let bench = watched();
    let (_port, mut rx, _tx) = bench.open("");
    let mut burst = Burst::new();
    for up in [false, true] {
        assert_eq!(rx.arm().unwrap(), Armed::Armed);
        bench.set_link(up);
        let (deadline, looks) =
            (Instant::now() + Duration::from_secs(20), bench.with(|device| device.rx_looks));
        while bench.with(|device| device.rx_looks) == looks {
            assert_eq!(rx.recv(&mut burst).unwrap(), 0);
            assert!(Instant::now() < deadline, "an idle queue does not look at its device");
        }
        let mut fd = libc::pollfd { fd: rx.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one element, a local.
        assert_eq!(unsafe { libc::poll(&mut fd, 1, 10_000) }, 1, "the event is gone");
        let wake = if up { Wake::LinkUp } else { Wake::LinkDown };
        assert_eq!(rx.wait(Duration::from_secs(20)).unwrap(), wake);
    }
}

#[test]
fn polls_tell_of_the_link() {
    // Also where the device cannot vanish, so that nothing else makes an idle queue look.
    for (can_vanish, several) in [(false, false), (true, false), (false, true)] {
        let bench = Bench::new(|capability| {
            (capability.link_state, capability.can_vanish) = (true, can_vanish);
        });
        let (_port, mut rx, _tx) = bench.open("");
        let mut poll = || {
            let mut wakes = [Wake::Timeout];
            match several {
                false => wakes[0] = rx.wait(Duration::ZERO).unwrap(),
                true => {
                    wait_any(&mut [&mut rx], &mut wakes, Duration::ZERO).unwrap();
                }
            }
            wakes[0]
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        for (up, wake) in [(false, Wake::LinkDown), (true, Wake::LinkUp)] {
            bench.with(|device| device.link_up = up);
            let mut found = Wake::Timeout;
            while found == Wake::Timeout && Instant::now() < deadline {
                found = poll();
            }
            assert_eq!((found, poll()), (wake, Wake::Timeout));
        }
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
fn a_queue_that_sleeps_holds_no_frames() {
    let bench = Bench::new(|_| {});
    let (_port, mut rx, _tx) = bench.open("");
    // For somebody else: the frame that it is received into comes from the queue's cache, which is filled for it.
    bench.with(|device| {
        device.on_arm = Some(|device| {
            let mut foreign = frame(60);
            foreign[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
            device.arriving.push_back(foreign);
        });
    });
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    let all: Vec<_> = std::iter::from_fn(|| bench.pool.take()).collect();
    assert_eq!((all.len(), bench.pool.free()), (512, 0));
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
fn a_sleeper_learns_of_link_and_loss_also_without_an_event_descriptor() {
    let patience = Duration::from_secs(20);
    for several in [false, true] {
        let bench = Bench::new(|capability| capability.link_state = true);
        let (_port, mut rx, _tx) = bench.open("");
        bench.with(|device| device.on_arm = Some(|device| device.link_up = false));
        let started = Instant::now();
        let mut wakes = [Wake::Timeout];
        match several {
            false => wakes[0] = rx.wait(patience).unwrap(),
            true => assert_eq!(wait_any(&mut [&mut rx], &mut wakes, patience).unwrap(), 1),
        }
        assert_eq!(wakes, [Wake::LinkDown]);
        assert!(started.elapsed() < patience, "it slept until its time was over");
    }
    let bench = Bench::new(|capability| capability.can_vanish = true);
    let (port, mut rx, _tx) = bench.open("");
    bench.with(|device| device.on_arm = Some(|device| device.silently_gone = true));
    let started = Instant::now();
    assert!(rx.wait(patience).unwrap_err().is_gone());
    assert!(started.elapsed() < patience, "it slept until its time was over");
    port.close().unwrap();
    // In a loop of the application's own.
    let bench = Bench::new(|capability| capability.can_vanish = true);
    let (_port, mut rx, _tx) = bench.open("");
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    bench.with(|device| device.silently_gone = true);
    let mut fd = libc::pollfd { fd: rx.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one element, a local.
    assert_eq!(unsafe { libc::poll(&mut fd, 1, 20_000) }, 1);
    assert!(rx.arm().unwrap_err().is_gone());
}

#[test]
fn an_event_that_means_nothing_ends_one_sleep_and_no_wait() {
    let bench = Bench::new(|_| {});
    bench.with(|device| {
        device.events = Some(Arc::new(EventFd::new().unwrap()));
        device.on_arm = Some(|device| device.events.iter().for_each(|events| events.signal()));
    });
    let (_port, mut rx, _tx) = bench.open("");
    assert_eq!(rx.wait(Duration::from_millis(50)).unwrap(), Wake::Timeout);
    assert_eq!(bench.with(|device| device.arms), 2, "once more after the event");
}

#[test]
fn a_queue_that_no_frame_can_reach_is_not_polled_and_finds_its_descriptor_later() {
    let bench = Bench::new(|capability| capability.link_state = true);
    bench.with(|device| {
        device.events = Some(Arc::new(EventFd::new().unwrap()));
        (device.link_up, device.polled) = (false, true);
    });
    let (_port, mut rx, _tx) = bench.open("");
    let sleeps = |rx: &mut RxQueue| {
        bench.with(|device| device.arms = 0);
        assert_eq!(rx.wait(Duration::from_millis(50)).unwrap(), Wake::Timeout);
        bench.with(|device| device.arms)
    };
    assert_eq!(sleeps(&mut rx), 1, "down, and it would be told");
    // Up, and still without a descriptor: polled for as long as that lasts.
    bench.set_link(true);
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::LinkUp);
    assert_eq!(rx.arm().unwrap(), Armed::Armed);
    bench.with(|device| device.arriving.push_back(frame(60)));
    let mut burst = Burst::new();
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Ready);
    assert_eq!(rx.recv(&mut burst).unwrap(), 1);
    bench.with(|device| device.polled = false);
    assert_eq!(sleeps(&mut rx), 1, "it has a descriptor");
    bench.arrive(frame(60));
    assert_eq!(rx.wait(Duration::from_secs(60)).unwrap(), Wake::Ready);
}

#[test]
fn looking_arming_and_sleeping_take_no_memory() {
    let bench =
        Bench::new(|capability| (capability.link_state, capability.can_vanish) = (true, true));
    let (_port, mut rx, _tx) = bench.open("");
    let mut round = || {
        let asked = crate::asked_for_memory();
        assert_eq!(rx.arm().unwrap(), Armed::Armed);
        for patience in [Duration::ZERO, Duration::from_millis(1)] {
            assert_eq!(rx.wait(patience).unwrap(), Wake::Timeout);
            let mut wakes = [Wake::Ready];
            assert_eq!(wait_any(&mut [&mut rx], &mut wakes, patience).unwrap(), 0);
        }
        crate::asked_for_memory() - asked
    };
    assert_eq!((round(), round()), (0, 0));
}
