//! Receiving within a run: never more than the count leaves, polling and sleeping by turns.

use anyhow::{Context, Result};
use anyport::{Burst, Error, RxQueue};

use super::{Ladder, Run};

/// Receives from a queue of the port `name` until the run or the input ends. `take` empties each burst, and says how many of
/// its frames use up the run's count; `quiet` is called before each sleep.
///
/// # Errors
/// The queue's, and those of `take` and `quiet`.
pub fn receive_all(
    name: &str,
    rx: &mut RxQueue,
    run: &Run,
    mut take: impl FnMut(&mut Burst) -> Result<u64>,
    mut quiet: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut burst = Burst::new();
    let mut ladder = Ladder::default();
    while !run.stopping() {
        let claimed = run.budget().claim(burst.room() as u64);
        let received = match claimed {
            0 => Ok(0),
            _ => recv_at_most(rx, &mut burst, claimed),
        };
        let used = take(&mut burst);
        run.settle(claimed, *used.as_ref().unwrap_or(&0));
        used?;
        match received {
            Ok(0) if ladder.poll_on() => {}
            Ok(0) => {
                quiet()?;
                ladder.sleep(&mut [(name, &mut *rx)]).context("waiting for frames")?;
            }
            Ok(_) => ladder.busy(),
            Err(Error::Ended) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives at most `limit` frames; a burst's room is the only limit that `recv` knows.
///
/// # Errors
/// As [`RxQueue::recv`].
#[inline]
pub fn recv_at_most(rx: &mut RxQueue, burst: &mut Burst, limit: u64) -> anyport::Result<usize> {
    if limit >= burst.room() as u64 {
        return rx.recv(burst);
    }
    let mut small = Burst::with_capacity(limit.max(1) as usize);
    let received = rx.recv(&mut small);
    burst.take_from(&mut small);
    received
}
