//! What became of numbered frames: loss, duplicates, reordering, per stream (one flow of one run of a generator).
//!
//! Definitions, for each stream, in the order in which frames arrive:
//!
//! - *duplicate*: its number came before;
//! - *reordered*: not a duplicate, and a higher number came before it (RFC 4737, type-P-reordered);
//! - *late*: its number lies [`WINDOW`] or more behind the highest, so that it is not known any more whether it came
//!   before; it counts neither as one nor as the other, and its number stays lost;
//! - *lost*: a number between the lowest and the highest that came which itself did not come (so a reordered frame is
//!   lost until it comes);
//! - *before the first*: numbers below the lowest that came. They left before the receiver listened, or were lost on the
//!   way: which of them cannot be told, so they are not among the lost.
//!
//! What was lost behind the highest number cannot be seen here: compare with what the generator says.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::stamp::Stamp;

/// How many numbers back are remembered, per stream.
pub const WINDOW: u64 = 4096;

/// The most streams that are followed, so that invented ones cannot take all memory.
pub const MAX_STREAMS: usize = 1 << 17;

const WORDS: usize = WINDOW as usize / 64;

/// What a frame was in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It came for the first time.
    First,
    /// It came before.
    Duplicate,
    /// It cannot be told: it is too late, or one stream too many.
    Unknown,
}

/// One flow of one run.
#[derive(Debug, Clone)]
struct Stream {
    /// Bit n % WINDOW: whether number n came; for the last WINDOW numbers.
    came: [u64; WORDS],
    /// Numbers are counted on beyond 32 bits, the first one from 2^32 on so that there is room below.
    lowest: u64,
    highest: u64,
    tally: Tally,
}

/// Counts of one or more streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Frames that came, duplicates and late ones included.
    pub packets: u64,
    /// Numbers that did not come.
    pub lost: u64,
    /// Frames whose number came before.
    pub duplicates: u64,
    /// Frames that came after a higher number.
    pub reordered: u64,
    /// Frames too late to tell whether they came before.
    pub late: u64,
    /// Numbers below the first that came.
    pub before_first: u64,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Tally) {
        self.packets += other.packets;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.late += other.late;
        self.before_first += other.before_first;
    }
}

const BASE: u64 = 1 << 32;

impl Stream {
    fn new(sequence: u32) -> Stream {
        let number = BASE + u64::from(sequence);
        Stream { came: [0; WORDS], lowest: number, highest: number - 1, tally: Tally::default() }
    }

    fn bit(&mut self, number: u64) -> (&mut u64, u64) {
        let at = number % WINDOW;
        (&mut self.came[at as usize / 64], 1 << (at % 64))
    }

    #[inline]
    fn take(&mut self, sequence: u32) -> Seen {
        self.tally.packets += 1;
        let ahead = i64::from(sequence.wrapping_sub(self.highest as u32).cast_signed());
        let number = self.highest.saturating_add_signed(ahead);
        if ahead > 0 {
            self.forget(self.highest + 1, number);
            self.highest = number;
        } else if self.highest - number >= WINDOW {
            self.tally.late += 1;
            return Seen::Unknown;
        }
        let (word, bit) = self.bit(number);
        if *word & bit != 0 {
            self.tally.duplicates += 1;
            return Seen::Duplicate;
        }
        *word |= bit;
        if ahead <= 0 {
            self.tally.reordered += 1;
            self.lowest = self.lowest.min(number);
        }
        Seen::First
    }

    /// Makes room for the numbers `first..=last`.
    #[inline]
    fn forget(&mut self, first: u64, last: u64) {
        if last - first >= WINDOW - 1 {
            self.came = [0; WORDS];
            return;
        }
        for number in first..=last {
            let (word, bit) = self.bit(number);
            *word &= !bit;
        }
    }

    /// The numbers that came, each once.
    fn distinct(&self) -> u64 {
        self.tally.packets - self.tally.duplicates - self.tally.late
    }
}

/// A stream's key: run, clock and flow in one word.
fn key(flow: u16, stamp: &Stamp) -> u64 {
    u64::from(stamp.run) << 32 | u64::from(stamp.clock) << 16 | u64::from(flow)
}

/// All streams that one thread has seen.
#[derive(Debug, Default)]
pub struct Streams {
    index: HashMap<u64, usize>,
    all: Vec<(u64, Stream)>,
    /// The stream of the last frame: the next one is often of the same.
    last: usize,
    /// Frames of streams beyond [`MAX_STREAMS`].
    untracked: u64,
}

impl Streams {
    /// Notes a frame.
    #[inline]
    pub fn take(&mut self, flow: u16, stamp: &Stamp) -> Seen {
        let key = key(flow, stamp);
        if self.all.get(self.last).is_none_or(|(last, _)| *last != key) && !self.select(key, stamp)
        {
            self.untracked += 1;
            return Seen::Unknown;
        }
        self.all[self.last].1.take(stamp.sequence)
    }

    /// Makes a stream the last one; false if it is new and one too many.
    fn select(&mut self, key: u64, stamp: &Stamp) -> bool {
        if let Some(&at) = self.index.get(&key) {
            self.last = at;
            return true;
        }
        if self.all.len() == MAX_STREAMS {
            return false;
        }
        self.last = self.all.len();
        self.all.push((key, Stream::new(stamp.sequence)));
        self.index.insert(key, self.last);
        true
    }

    /// The counts of all threads' streams together. A flow stays on one queue, so on one thread (contract Q1); for one
    /// that did not, duplicates on different threads are not seen as such.
    pub fn summary(threads: &[Streams]) -> Summary {
        let mut joined: BTreeMap<u64, (u64, u64, u64, Tally)> = BTreeMap::new();
        for (key, stream) in threads.iter().flat_map(|streams| &streams.all) {
            let (lowest, highest, distinct, tally) =
                joined.entry(*key).or_insert((u64::MAX, 0, 0, Tally::default()));
            *lowest = stream.lowest.min(*lowest);
            *highest = stream.highest.max(*highest);
            *distinct += stream.distinct();
            tally.add(&stream.tally);
        }
        let mut summary = Summary::default();
        for (key, (lowest, highest, distinct, mut tally)) in joined {
            tally.lost = (highest + 1 - lowest).saturating_sub(distinct);
            tally.before_first = lowest.saturating_sub(BASE);
            let run = summary.runs.entry(key >> 16).or_default();
            run.0 += 1;
            run.1.add(&tally);
            summary.tally.add(&tally);
            summary.streams += 1;
        }
        summary.untracked = threads.iter().map(|streams| streams.untracked).sum();
        summary
    }
}

/// What all streams together say.
#[derive(Debug, Default)]
pub struct Summary {
    /// Counts of all of them.
    pub tally: Tally,
    /// How many there are.
    pub streams: u64,
    /// Frames of streams beyond the most that are followed.
    pub untracked: u64,
    /// Streams and counts by run and clock.
    runs: BTreeMap<u64, (u64, Tally)>,
}

/// One run of a generator.
#[derive(Debug, Serialize)]
pub struct RunSummary {
    /// The run's number, as the generator says it.
    pub run: String,
    /// Whether its clock is this host's.
    pub same_clock: bool,
    /// Its flows that were seen.
    pub flows: u64,
    /// What became of their frames.
    #[serde(flatten)]
    pub tally: Tally,
}

/// A run's number as people see it.
pub fn run_name(run: u32) -> String {
    format!("{run:06x}")
}

impl Summary {
    /// The runs, at most `most` of them.
    pub fn runs(&self, most: usize) -> Vec<RunSummary> {
        let own = super::clock::identity();
        let runs = self.runs.iter().take(most).map(|(key, (flows, tally))| RunSummary {
            run: run_name((key >> 16) as u32),
            same_clock: own != 0 && *key as u16 == own,
            flows: *flows,
            tally: *tally,
        });
        runs.collect()
    }

    /// How many runs there are.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(run: u32, sequence: u32) -> Stamp {
        Stamp { run, clock: 7, sequence, time: 0 }
    }

    fn tally(sequences: &[u32]) -> Tally {
        let mut streams = Streams::default();
        for &sequence in sequences {
            streams.take(1024, &stamp(1, sequence));
        }
        Streams::summary(&[streams]).tally
    }

    #[test]
    fn in_order_is_clean() {
        let numbers: Vec<u32> = (0..10_000).collect();
        assert_eq!(tally(&numbers), Tally { packets: 10_000, ..Tally::default() });
        assert_eq!(tally(&[]), Tally::default());
    }

    #[test]
    fn loss_duplicates_and_reordering_are_told_apart() {
        let expected =
            Tally { packets: 6, lost: 2, duplicates: 1, reordered: 1, ..Tally::default() };
        // 3 and 5 never come, 1 comes after 2, 4 comes twice.
        assert_eq!(tally(&[0, 2, 1, 4, 4, 6]), expected);
        // Reordered below the first one that came.
        let expected = Tally { packets: 3, reordered: 1, before_first: 4, ..Tally::default() };
        assert_eq!(tally(&[5, 4, 6]), expected);
        // A duplicate of what came out of order.
        let expected = Tally { packets: 4, duplicates: 1, reordered: 1, ..Tally::default() };
        assert_eq!(tally(&[0, 2, 1, 1]), expected);
    }

    #[test]
    fn the_window_is_exact_at_its_edge() {
        let window = WINDOW as u32;
        let edge = |late: u32| tally(&[0, 1, window, late]);
        // 1 is the oldest that is remembered when the highest is WINDOW; 0 is not any more.
        assert_eq!((edge(1).duplicates, edge(1).late), (1, 0));
        assert_eq!((edge(0).duplicates, edge(0).late), (0, 1));
        assert_eq!(
            edge(2),
            Tally { packets: 4, lost: WINDOW - 3, reordered: 1, ..Tally::default() }
        );
        assert_eq!(edge(0).lost, WINDOW - 2);
        let far = tally(&[0, 1_000_000, 999_999, 0]);
        assert_eq!((far.lost, far.reordered, far.late), (1_000_001 - 3, 1, 1));
        assert_eq!(tally(&[0, window - 1, 0]).duplicates, 1);
        assert_eq!(tally(&[0, window, window * 2]).lost, 2 * WINDOW + 1 - 3);
    }

    #[test]
    fn numbers_go_on_beyond_32_bits() {
        let clean = tally(&[u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!((clean.packets, clean.lost, clean.reordered, clean.duplicates), (4, 0, 0, 0));
        let swapped = tally(&[u32::MAX, 1, 0]);
        assert_eq!((swapped.lost, swapped.reordered), (0, 1));
        let below = tally(&[0, u32::MAX]);
        assert_eq!((below.lost, below.reordered, below.before_first), (0, 1, 0));
    }

    /// The definitions once more, without a window, over all that came.
    #[test]
    fn agrees_with_a_plain_model() {
        let mut state = 12345u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let numbers: Vec<u32> = (0..300).map(|at| (at + random(40)) as u32).collect();
            let mut model = Tally { packets: numbers.len() as u64, ..Tally::default() };
            let mut came = std::collections::BTreeSet::new();
            for number in &numbers {
                let highest = came.last().copied();
                if !came.insert(*number) {
                    model.duplicates += 1;
                } else if highest.is_some_and(|highest| *number < highest) {
                    model.reordered += 1;
                }
            }
            let (first, last) = (came.first().unwrap(), came.last().unwrap());
            model.lost = u64::from(last - first + 1) - came.len() as u64;
            model.before_first = u64::from(*first);
            assert_eq!(tally(&numbers), model);
        }
    }

    #[test]
    fn runs_and_flows_are_apart() {
        let mut streams = [Streams::default(), Streams::default()];
        for sequence in 0..10 {
            assert_eq!(streams[0].take(1024, &stamp(1, sequence)), Seen::First);
            assert_eq!(streams[0].take(1025, &stamp(1, sequence)), Seen::First);
            assert_eq!(streams[1].take(1024, &stamp(2, sequence + 5)), Seen::First);
        }
        // A flow that moved to another thread is still one stream.
        assert_eq!(streams[1].take(1025, &stamp(1, 10)), Seen::First);
        assert_eq!(streams[1].take(1025, &stamp(1, 10)), Seen::Duplicate);
        let summary = Streams::summary(&streams);
        assert_eq!((summary.streams, summary.run_count(), summary.untracked), (3, 2, 0));
        let expected = Tally { packets: 32, duplicates: 1, before_first: 5, ..Tally::default() };
        assert_eq!(summary.tally, expected);
        let runs = summary.runs(64);
        assert_eq!((runs[0].run.as_str(), runs[0].flows, runs[0].tally.packets), ("000001", 2, 22));
        assert_eq!((runs[1].flows, runs[1].tally.before_first), (1, 5));
        assert_eq!(summary.runs(1).len(), 1);
    }

    #[test]
    fn invented_streams_are_bounded() {
        let mut streams = Streams::default();
        for run in 0..MAX_STREAMS as u32 {
            streams
                .all
                .push((key(1024, &stamp(run, 0)), Stream { came: [0; WORDS], ..Stream::new(0) }));
            streams.index.insert(key(1024, &stamp(run, 0)), run as usize);
            if run == 10 {
                break;
            }
        }
        // As if it were full: only the known ones go on.
        let full = streams.all.len();
        streams.all.resize(MAX_STREAMS, (u64::MAX, Stream::new(0)));
        assert_eq!(streams.take(1024, &stamp(99, 0)), Seen::Unknown);
        assert_eq!(streams.take(1024, &stamp(3, 0)), Seen::First);
        assert_eq!(streams.untracked, 1);
        streams.all.truncate(full);
        assert_eq!(Streams::summary(&[streams]).untracked, 1);
    }
}
