//! L9: a hundred rounds leak nothing.

use anyport::Pool;

use crate::case::{Case, Failure, Need, Verdict};
use crate::ctx::{Ctx, End, eventually};
use crate::own::{Memory, descriptors, threads};
use crate::side::Side;
use crate::{ensure, frames, same};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "life.hundred_rounds_leak_nothing",
        clauses: &["L9"],
        about: "Opens, starts, sends, stops and closes a hundred times, now and then with a restart; counts descriptors, \
                threads, frames, memory.",
        why: "What leaks one descriptor per restart dies after a thousand restarts, at night.",
        needs: &[Need::TwoWay],
        run: hundred_rounds,
    },
    Case {
        name: "life.refused_opens_leak_nothing",
        clauses: &["L1", "L9"],
        about: "Opens and starts ports forty times in ways that are refused; counts the same.",
        why: "A service that waits for its device tries again every second, for days.",
        needs: &[],
        run: refused_opens,
    },
    Case {
        name: "life.pools_leak_nothing",
        clauses: &["L9", "L10"],
        about: "Makes and drops a hundred pools, some of whose packets are dropped after them; counts the same.",
        why: "Pools are large: a few that stay are all the memory there is.",
        needs: &[],
        run: pools,
    },
];

/// Does something `rounds` times and compares descriptors, threads and memory.
///
/// Memory in use is noisy where allocators cache per thread, so every batch runs on a thread of its own, with whose end
/// its cache is given back. What is set up once, in the first batch, is no leak: a leak shows in each of the others.
fn leak_nothing(rounds: usize, mut round: impl FnMut() -> Verdict + Send) -> Verdict {
    const BATCHES: usize = 5;
    let mut batch = || {
        std::thread::scope(|scope| {
            let rounds = scope.spawn(|| (0..rounds / BATCHES).try_for_each(|_| round()));
            rounds.join().unwrap_or_else(|_| Err("a round panicked".into()))
        })
    };
    batch()?;
    let (fds, tasks) = (descriptors()?, threads()?);
    let (mut heap, mut mapped) = (usize::MAX, usize::MAX);
    for _ in 1..BATCHES {
        let before = Memory::now()?;
        batch()?;
        let after = Memory::now()?;
        heap = heap.min(after.heap.saturating_sub(before.heap));
        mapped = mapped.min(after.mapped.saturating_sub(before.mapped));
    }
    same!(heap, 0, "bytes that stay allocated with every batch of rounds");
    same!(mapped, 0, "pages that stay mapped with every batch of rounds");
    settles("descriptors", fds, &descriptors)?;
    settles("threads", tasks, &threads)
}

/// Others in this process may be at something: they finish it.
fn settles(what: &str, before: usize, now: &dyn Fn() -> Verdict<usize>) -> Verdict {
    let mut last = 0;
    eventually(what, || {
        last = now()?;
        Ok((last <= before).then_some(()))
    })
    .map_err(|_| Failure(format!("{last} {what} after the rounds, {before} before")))
}

fn hundred_rounds(ctx: &Ctx) -> Verdict {
    let (pool_a, pool_b) = (ctx.pool(512)?, ctx.pool(512)?);
    let mut b = ctx.start_with(End::B, "", &pool_b)?;
    let (frames, mut round) = (frames::run(b.mac(), 3, 60), 0);
    leak_nothing(100, || {
        let mut a = ctx.start_with(End::A, "", &pool_a)?;
        ctx.settle(&a, &b)?;
        a.send(&frames)?;
        let arrived = b.receive(frames.len())?;
        ensure!(arrived == frames, "{} frames came: others than were sent", arrived.len());
        a.port_mut().stop()?;
        round += 1;
        if round % 5 == 0 {
            drop(a.port_mut().start()?);
            a.port_mut().stop()?;
        }
        let (port, rx, tx, _) = a.into_parts();
        port.close()?;
        drop((rx, tx));
        same!(pool_a.free(), pool_a.capacity(), "frames in the pool after a round");
        Ok(())
    })?;
    b.port_mut().stop()?;
    same!(pool_b.free(), pool_b.capacity(), "frames in the other end's pool");
    Ok(())
}

fn refused_opens(ctx: &Ctx) -> Verdict {
    let capability = ctx.capability(End::A);
    let nothing = format!("{}:no-such-device", ctx.parsed(End::A).backend);
    let refused = [
        ctx.spec_with(End::A, "no_such_key=1"),
        ctx.spec_with(End::A, "rx_queues=many"),
        ctx.spec_with(End::A, &format!("rx_ring={}", capability.rx_ring.max + 1)),
        ctx.spec_with(End::A, "mac=01:00:00:00:00:01"),
        ctx.spec_with(End::A, "capture=/no/such/folder/file.pcapng"),
        nothing,
    ];
    // One that is held, and cannot be started over such small frames.
    let mut held = ctx.open(End::B, "")?;
    held.attach(&Pool::builder().frames(8).frame_size(512).build()?)?;
    leak_nothing(40, || {
        for spec in &refused {
            ensure!(ctx.registry().open(spec).is_err(), "{spec} was accepted");
        }
        ensure!(ctx.open(End::B, "").is_err(), "a second opener was accepted");
        ensure!(held.start().is_err(), "a start over frames of 512 bytes was accepted");
        Ok(())
    })
}

fn pools(ctx: &Ctx) -> Verdict {
    let mut port = ctx.open(End::A, "")?;
    port.attach(&ctx.pool(64)?)?;
    let mut side = Side::start(port, ctx.pool(64)?)?;
    leak_nothing(100, || {
        let pool = ctx.pool(64)?;
        let packet = pool.packet(&[1; 100]);
        let mut cache = pool.cache(8);
        let cached = cache.take();
        drop(pool);
        drop((packet, cached));
        drop(cache);
        Ok(())
    })?;
    side.port_mut().stop()?;
    side.close()
}
