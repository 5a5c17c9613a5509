//! The main thread of a run: starts the workers, ends them, collects their totals.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::live::Live;
use super::signals::Event;
use super::{EndedBy, Run, Signals, trim};
use crate::values::Cores;

/// How long workers may take to end once they were told to; queues answer at once, but a disk or a pipe that is written
/// to may not.
const GRACE: Duration = Duration::from_secs(5);

/// A worker: returns its totals, and how it went.
pub type Worker<T> = Box<dyn FnOnce(&Run) -> (T, Result<()>) + Send>;

/// What ends a run besides its workers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// The longest time.
    pub duration: Option<Duration>,
    /// The longest time without a frame, after the first.
    pub idle: Option<Duration>,
}

/// What became of a run.
pub struct Ended<T> {
    /// The totals of the workers, in order; a worker that did not end has none.
    pub totals: Vec<T>,
    /// The first thing that went wrong.
    pub error: Option<anyhow::Error>,
    /// From the start of the workers to their end.
    pub elapsed: Duration,
}

/// Runs workers to their end, on the cores named (again from the first when there are more workers).
pub fn supervise<T: Send + 'static>(
    run: &Arc<Run>,
    signals: &Signals,
    limits: Limits,
    cores: Option<&Cores>,
    workers: Vec<Worker<T>>,
    mut live: Live<'_>,
) -> Ended<T> {
    let started = Instant::now();
    let mut error = None;
    let mut threads = Vec::new();
    for (number, worker) in workers.into_iter().enumerate() {
        let core = cores.map(|Cores(list)| list[number % list.len()]);
        match start(number, core, run.clone(), signals.sender(), worker) {
            Ok(thread) => threads.push(thread),
            Err(failed) => {
                error = Some(failed);
                run.end(EndedBy::Error);
                break;
            }
        }
    }
    trim::let_code_go();
    let mut running = threads.len();
    let mut told_to_end = None;
    while running > 0 {
        if run.stopping()
            && Instant::now() >= *told_to_end.get_or_insert_with(|| Instant::now() + GRACE)
        {
            let reason =
                "a worker did not end within 5 s; is a disk or a pipe that it writes to stuck?";
            error.get_or_insert_with(|| anyhow!(reason));
            threads.retain(JoinHandle::is_finished);
            break;
        }
        match signals.next(next_look(run, limits, started, &live)) {
            Some(Event::Signal) => run.end(EndedBy::Signal),
            Some(Event::WorkerEnded) => running -= 1,
            None => {}
        }
        if limits.duration.is_some_and(|duration| started.elapsed() >= duration) {
            run.end(EndedBy::Duration);
        }
        if limits.idle.is_some_and(|idle| run.idle_for().is_some_and(|past| past >= idle)) {
            run.end(EndedBy::Idle);
        }
        live.tick();
    }
    live.clear();
    let elapsed = started.elapsed();
    let mut totals = Vec::new();
    for thread in threads {
        match thread.join() {
            Ok((total, result)) => {
                totals.extend(total);
                if let Err(failed) = result {
                    error.get_or_insert(failed);
                }
            }
            Err(_) => drop(
                error.get_or_insert_with(|| anyhow!("a worker panicked: a bug in this program")),
            ),
        }
    }
    Ended { totals, error, elapsed }
}

/// How long the main thread may sleep.
fn next_look(run: &Run, limits: Limits, started: Instant, live: &Live<'_>) -> Duration {
    if run.stopping() {
        // Their ends are events.
        return Duration::from_millis(100);
    }
    let left = |limit: Duration, past: Duration| {
        limit.saturating_sub(past).max(Duration::from_micros(100))
    };
    let mut next = Duration::from_secs(1).min(live.next());
    if let Some(duration) = limits.duration {
        next = next.min(left(duration, started.elapsed()));
    }
    if let Some(idle) = limits.idle {
        next = next.min(left(idle, run.idle_for().unwrap_or(Duration::ZERO)));
    }
    next
}

type Thread<T> = JoinHandle<(Option<T>, Result<()>)>;

fn start<T: Send + 'static>(
    number: usize,
    core: Option<usize>,
    run: Arc<Run>,
    sender: Sender<Event>,
    worker: Worker<T>,
) -> Result<Thread<T>> {
    let body = move || {
        let _end = End { run: run.clone(), sender };
        if let Some(core) = core {
            let pinned = anyport::workers::pin_current(core);
            if let Err(error) = pinned.with_context(|| format!("cannot run on core {core}")) {
                run.end(EndedBy::Error);
                return (None, Err(error));
            }
        }
        let (totals, result) = worker(&run);
        if result.is_err() {
            run.end(EndedBy::Error);
        }
        (Some(totals), result)
    };
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(body)
        .context("starting a thread")
}

/// Says that a worker has ended, also if it panicked, which ends the run.
struct End {
    run: Arc<Run>,
    sender: Sender<Event>,
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.run.end(EndedBy::Error);
        }
        let _ = self.sender.send(Event::WorkerEnded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_all(
        limits: Limits,
        cores: Option<Cores>,
        workers: Vec<Worker<u32>>,
    ) -> (Ended<u32>, EndedBy) {
        let run = Arc::new(Run::new(None));
        let signals = Signals::catch().unwrap();
        let ended = supervise(&run, &signals, limits, cores.as_ref(), workers, Live::off());
        (ended, run.ended_by())
    }

    fn until_stopped(total: u32) -> Worker<u32> {
        Box::new(move |run| {
            while !run.stopping() {
                std::thread::yield_now();
            }
            (total, Ok(()))
        })
    }

    #[test]
    fn totals_come_also_from_a_run_that_fails() {
        let failing: Worker<u32> = Box::new(|_| (7, Err(anyhow!("broken"))));
        let (ended, why) = run_all(Limits::default(), None, vec![until_stopped(1), failing]);
        assert_eq!((ended.totals, why), (vec![1, 7], EndedBy::Error));
        assert_eq!(ended.error.unwrap().to_string(), "broken");
    }

    #[test]
    fn the_deadline_ends_it() {
        let limits = Limits { duration: Some(Duration::ZERO), idle: None };
        let (ended, why) =
            run_all(limits, Some(Cores(vec![0])), vec![until_stopped(1), until_stopped(2)]);
        assert_eq!((ended.totals, why), (vec![1, 2], EndedBy::Duration));
        assert!(ended.error.is_none());
    }

    #[test]
    fn idleness_ends_it_after_the_first_frame() {
        let worker: Worker<u32> = Box::new(|run| {
            run.saw(1);
            until_stopped(3)(run)
        });
        let limits = Limits { duration: None, idle: Some(Duration::from_millis(1)) };
        let (ended, why) = run_all(limits, None, vec![worker]);
        assert_eq!((ended.totals, why), (vec![3], EndedBy::Idle));
    }

    #[test]
    fn a_core_that_is_not_there_and_a_panic_are_errors() {
        let (ended, why) =
            run_all(Limits::default(), Some(Cores(vec![1023])), vec![until_stopped(1)]);
        assert_eq!((ended.totals.len(), why), (0, EndedBy::Error));
        assert!(format!("{:#}", ended.error.unwrap()).contains("core 1023"));
        let panics: Worker<u32> = Box::new(|_| panic!("on purpose"));
        let (ended, why) = run_all(Limits::default(), None, vec![panics, until_stopped(5)]);
        assert_eq!((ended.totals, why), (vec![5], EndedBy::Error));
        assert!(ended.error.unwrap().to_string().contains("panicked"));
    }
}
