//! The suite tested itself: for each way to break a rule, a backend that breaks it, and a case that must say so.
//!
//! A suite that passes is worth what it would find. So every fault of [`Fault`] is built into the backend `loop`, one at a
//! time, and the cases that must find it are run on it; on the same backend without a fault they must pass. Clauses that no
//! backend can break are listed with the reason ([`NOT_THE_BACKENDS`]), so that the table is complete.
//!
//! Trap: a case that finds a fault by waiting for what never comes takes its whole patience (10 s), so many run at once.
//! Those that look at what the whole process holds (L9) run alone, after the others.

mod backend;
mod rx;
mod tx;

use std::collections::BTreeSet;
use std::sync::Mutex;

use anyport::Registry;
use anyport_conformance::rig::{LoopRig, Rig, Wires};
use anyport_conformance::{Filter, Outcome, Power, Verdict, cases, run};

/// How many cases run at once; nearly all of their time they wait.
const AT_ONCE: usize = 32;

macro_rules! faults {
    ($($about:literal $name:ident: $($clause:ident $case:literal),+;)*) => {
        /// What is wrong with a backend.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault {
            /// Nothing.
            None,
            $(#[doc = $about] $name,)*
        }

        /// Each fault: what it is, and the clauses that it breaks with the cases that must fail for it.
        const FAULTS: &[(Fault, &str, &[(&str, &str)])] =
            &[$((Fault::$name, $about, &[$((stringify!($clause), $case)),+]),)*];
    };
}

faults! {
    // Opening and settings.
    "opens a device that does not exist" TakesAnyDevice:
        L1 "life.unknown_device_is_named";
    "takes any value for its keys" TakesAnyValue:
        L1 "life.bad_value_is_named";
    "opens a device twice" OpensTwice:
        L2 "life.second_opener_is_refused", L2 "life.one_of_many_openers_wins";
    "declares more queues than it has" DeclaresMoreQueues:
        L3 "life.limits_themselves_are_accepted", Q1 "queues.as_many_as_declared";
    "leaves address and promiscuous mode behind when it is closed" KeepsSettings:
        L8 "life.address_is_set_back", L8 "life.promiscuous_mode_is_switched_off";
    "is still open after it was closed" StaysOpen:
        L2 "life.lock_ends_with_close_and_drop", L8 "life.panic_gives_the_device_back",
        L10 "life.lock_ends_with_close_and_drop";
    "leaks a descriptor with each open" LeaksDescriptor: L9 "life.hundred_rounds_leak_nothing";
    "leaks a thread with each open" LeaksThread: L9 "life.hundred_rounds_leak_nothing";
    "leaks memory with each open" LeaksMemory: L9 "life.hundred_rounds_leak_nothing";
    "says that the address was set, and does not set it" SetsNoAddress:
        M1 "control.set_address_is_in_force";
    "has its old address again after each start" ForgetsAddressAtStart:
        M1 "control.address_survives_stop_and_start";
    "says that the link is up, whatever it is" LinkIsAlwaysUp: M3 "control.link_is_noticed";

    // Start and stop.
    "delivers a frame after the start that nobody sent" InventsAtStart:
        L4 "life.opens_stopped", R2 "receive.order_and_bytes";
    "delivers nothing any more when it is started again" DiesAtRestart:
        L5 "life.restart_passes_and_counts_on";
    "loses a frame of its pool with each stop" LeaksAtStop:
        L6 "life.stop_frees_what_was_not_delivered", P1 "pool.frames_add_up",
        L9 "life.hundred_rounds_leak_nothing";
    "delivers a frame of before the stop after the next start" RemembersFrames:
        L7 "life.stop_discards_the_ring", L7 "life.restarts_in_a_stream";

    // Receiving.
    "sleeps a millisecond in recv when nothing is there" SleepsInRecv:
        R1 "receive.never_blocks_and_adds_to_the_burst";
    "loses every seventh frame and counts it nowhere" Drops:
        R2 "receive.order_and_bytes", R8 "receive.overload_is_counted_exactly",
        S1 "counters.exact_both_ways", Q2 "queues.from_threads_of_their_own",
        F4 "faults.pool_exhausted_under_load";
    "delivers some frames twice" Duplicates: R2 "receive.order_and_bytes";
    "swaps the first two frames of a burst" Reorders:
        R2 "receive.order_and_bytes", R2 "receive.order_under_load";
    "changes a bit in the middle of long frames" CorruptsLongFrames: R3 "receive.every_length";
    "takes VLAN tags off without being asked" TakesTagsOff:
        R3 "receive.vlan_tags_stay", S1 "counters.tags_count";
    "delivers the FCS" AddsFcs: R3 "receive.padding_is_there_and_the_fcs_is_not";
    "takes the padding off" TakesPaddingOff:
        R3 "receive.padding_is_there_and_the_fcs_is_not",
        S1 "counters.padding_counts_and_fcs_does_not";
    "cuts frames that are too long" Truncates:
        R4 "receive.longer_than_the_maximum_is_counted", R4 "receive.much_longer_is_never_cut",
        R4 "receive.chains_beyond_the_maximum_are_never_cut",
        S4 "counters.one_cause_for_long_frames";
    "drops frames that are too long and counts them nowhere" HidesLong:
        R4 "receive.longer_than_the_maximum_is_counted", R4 "receive.much_longer_is_counted",
        R4 "receive.chains_beyond_the_maximum_are_counted",
        S4 "counters.one_cause_for_long_frames";
    "does not deliver frames of just the maximum" RefusesFull:
        M2 "control.default_maximum_to_the_byte";
    "delivers what it sends" Echoes: R5 "receive.own_frames_do_not_come_back";
    "delivers foreign frames, whatever the mode" IgnoresFilter:
        R6 "receive.own_and_group_addresses_arrive_others_do_not",
        R10 "wait.a_filtered_frame_is_no_reason";
    "does not deliver foreign frames, whatever the mode" IgnoresSwitch:
        R6 "receive.promiscuous_gets_everything";
    "switches promiscuous mode a moment after it says so" SwitchesLate:
        R6 "receive.the_switch_holds_from_its_return_on";
    "forgets promiscuous mode with each start" ForgetsSwitchAtStart:
        R6 "receive.the_switch_survives_stop_and_start";
    "filters only when frames are fetched" FiltersInRecv:
        R6 "receive.filtered_frames_take_no_ring_space";
    "does not deliver group frames" LosesGroups:
        R6 "receive.own_and_group_addresses_arrive_others_do_not";
    "does not deliver high VLAN identifiers" LosesHighVlans:
        R6 "receive.all_vlan_identifiers_arrive";
    "delivers nothing any more after its pool was dry" DiesInDrought:
        R7 "receive.a_dry_pool_costs_counted_frames";
    "does not count frames that a dry pool costs" ForgetsDryPool:
        R7 "receive.a_dry_pool_costs_counted_frames", S4 "counters.one_cause_for_a_dry_pool";
    "does not count frames that a full ring costs" ForgetsFullRing:
        R8 "receive.overload_is_counted_exactly", S4 "counters.one_cause_for_a_full_ring";
    "delivers packets with an old mark" LeavesMarks: R9 "receive.nothing_of_an_earlier_reception";
    "delivers packets with an old tag" LeavesTags: R9 "receive.a_frame_without_a_tag_has_none";
    "delivers packets with an old timestamp" LeavesStamps:
        R9 "receive.nothing_of_an_earlier_reception";

    // Waiting.
    "has a descriptor that is never readable" NeverWakes:
        R10 "wait.returns_for_a_frame", R12 "wait.poll_on_the_descriptor";
    "forgets to arm" ForgetsToArm:
        R10 "wait.loses_no_frame_in_the_gap", R12 "wait.edge_triggered_epoll";
    "has a descriptor for events that never tells of one" TellsNoEvents:
        R10 "wait.returns_for_a_link_change", T9 "wait.returns_for_the_loss_of_the_device",
        F3 "faults.device_goes_while_waiting";
    "reports changes of the link that were none" FlapsLink: R10 "wait.times_out_and_says_so";
    "serves its first queue before the others" StarvesQueues:
        R11 "wait.a_flood_does_not_starve_another_queue_of_the_port";
    "does not say that its input has ended" HidesEnd:
        R14 "wait.an_input_ends_after_its_last_frame", R14 "wait.an_end_ends_a_wait";

    // Sending.
    "loses a frame of every fifth burst that it was given" LosesSent:
        T1 "transmit.order_in_a_mixed_burst", S1 "counters.exact_both_ways";
    "sends a burst from behind" SendsFromBehind:
        T1 "transmit.order_in_a_mixed_burst", T2 "transmit.order_in_a_mixed_burst";
    "changes packets that it does not take" ChangesWhatIsLeft:
        T1 "transmit.a_full_queue_takes_fewer_then_none",
        P2 "pool.packets_for_a_full_ring_stay_unchanged";
    "sends a frame only with the next burst" SendsLater:
        T2 "transmit.arrives_without_another_call";
    "blocks when its ring is full" BlocksWhenFull:
        T3 "transmit.a_full_queue_takes_fewer_then_none";
    "takes nothing any more once its ring was full" StaysFull:
        T3 "transmit.room_comes_back", F5 "faults.a_ring_full_for_ten_seconds";
    "declares that it pads, and does not" PadsNot: T5 "transmit.short_frames_are_padded_with_zeros";
    "says that everything was sent while it was not" HidesOutstanding:
        T6 "transmit.flush_says_what_remains", L6 "life.stop_waits_for_the_device",
        S1 "counters.stop_is_the_cause_of_its_drops", S4 "counters.stop_is_the_cause_of_its_drops";
    "loses frames of the pool when it sends" LeaksSent:
        T6 "transmit.sent_frames_come_back", P1 "pool.frames_add_up";
    "copies packets of attached pools" CopiesAttached:
        T7 "transmit.attached_packets_are_not_copied";
    "takes frames while the link is down" SendsWithoutLink:
        T8 "transmit.a_lost_link_takes_nothing", F2 "faults.link_down_and_up_under_load";
    "does not send any more after the link was down" StaysDown:
        T8 "transmit.a_lost_link_takes_nothing", F2 "faults.link_down_and_up_under_load";
    "does not say that its device is gone" HidesLoss:
        T9 "transmit.a_lost_device_says_so", F3 "faults.device_goes_while_idle";

    // Counting.
    "counts a frame that a dry pool cost under two causes" CountsDryPoolTwice:
        S4 "counters.one_cause_for_a_dry_pool";
    "counts a frame that a full ring cost under two causes" CountsFullRingTwice:
        S4 "counters.one_cause_for_a_full_ring";
    "counts filtered frames as damaged" CountsFilteredAsErrors:
        S4 "counters.filtered_is_no_drop";
    "has no counter before it counts something" HidesZeroes:
        S2 "counters.the_same_ones_all_life_long";
    "clears its counters when they are read" ClearsCountersOnRead:
        S3 "counters.never_go_back", S3 "counters.reading_changes_nothing";
    "counts on from the port that had the device before" KeepsCounters:
        S3 "counters.each_port_begins_at_zero";

    // Queues, pools, offloads of the device.
    "puts every other frame into another queue" SpreadsFlows: Q1 "queues.a_flow_stays_on_its_queue";
    "puts everything into the first queue" UsesOneQueue: Q1 "queues.flows_reach_every_queue";
    "loses a frame of the pool now and then while it receives" LeaksReceived:
        P1 "pool.frames_add_up", P3 "pool.freed_by_any_thread";
    "calls every checksum good" ChecksumsAlwaysGood: O1 "offloads.receive_checksum_good_and_bad";
    "sends without what packets ask for" ForgetsRequests:
        O2 "offloads.transmit_checksums_are_right", O3 "offloads.vlan_tags_are_inserted",
        O4 "offloads.transmit_timestamps";
    "tells another tag than it took off" StripsToAnotherTag: O3 "offloads.vlan_tags_are_stripped";
    "stamps packets with a time to come" StampsTheFuture:
        O4 "offloads.receive_timestamps_are_of_now";
    "hashes in a way of its own" HashesWrong: O5 "offloads.hash_of_the_verification_suite";
}

/// Clauses that no fault here breaks, and why.
const NOT_THE_BACKENDS: &[(&str, &str)] = &[
    ("T4", "the common layer looks at lengths before a backend sees the frame"),
    ("R13", "the cable has no host behind it"),
    ("P4", "room in a packet is the packet's own; no backend takes part"),
    ("P5", "copying a packet is the packet's own"),
    ("F1", "other processes cannot open the cable"),
    ("F6", "the cable needs no privilege"),
    ("F7", "memory is the pool's own"),
    ("F8", "its cases bring lying devices along"),
];

/// The cable's rig over the broken backend.
struct BrokenRig {
    fault: Fault,
    cable: LoopRig,
}

impl Rig for BrokenRig {
    fn name(&self) -> String {
        format!("{:?}", self.fault)
    }
    fn about(&self) -> String {
        "a cable whose backend has a fault".into()
    }
    fn registry(&self) -> Registry {
        let mut registry = Registry::new();
        registry.register(backend::Broken::new(self.fault)).expect("a name of its own");
        registry
    }
    fn powers(&self) -> Vec<Power> {
        self.cable.powers()
    }
    fn wires(&self, number: usize) -> Verdict<Box<dyn Wires>> {
        self.cable.wires(number)
    }
}

/// One case on the backend with a fault.
#[derive(Clone, Copy, PartialEq)]
struct Try {
    fault: Fault,
    clause: &'static str,
    case: &'static str,
}

impl Try {
    fn run(self) -> Outcome {
        let cable = match self.clause.starts_with('O') {
            true => LoopRig::with_offloads(),
            false => LoopRig::new(),
        };
        let rig = BrokenRig { fault: self.fault, cable };
        let filter = Filter { names: vec![self.case.to_owned()], ..Filter::default() };
        let report = run(Box::new(rig), &filter, None, &mut |_| {}).expect("the rig is there");
        // The name may be a part of another's.
        let result = report.results.into_iter().find(|result| result.name == self.case);
        result.expect("the case is there").outcome
    }

    /// What is wrong with what came out of it.
    fn complaint(self) -> Option<String> {
        let Try { fault, clause, case } = self;
        match (self.run(), fault) {
            (Outcome::Passed, Fault::None) => None,
            (Outcome::Failed(reason), Fault::None) => {
                Some(format!("without a fault, {case} failed: {reason}"))
            }
            (Outcome::Passed, _) => Some(format!(
                "a backend that {} ({fault:?}) got past {case} ({clause})",
                FAULTS.iter().find(|(other, ..)| *other == fault).map_or("", |(_, about, _)| about)
            )),
            (Outcome::Failed(reason), _) => reason
                .contains("the rig failed")
                .then(|| format!("{fault:?}: {case} could not run: {reason}")),
            (Outcome::Skipped(reason), _) => Some(format!("{case} was skipped: {reason}")),
            (Outcome::NotRun, _) => Some(format!("{case} was not run")),
        }
    }
}

/// Runs them, many at once; what is wrong.
fn complaints(tries: Vec<Try>, at_once: usize) -> Vec<String> {
    let (tries, complaints) = (Mutex::new(tries.into_iter()), Mutex::new(Vec::new()));
    let next = || tries.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(one) = next() {
                    // Before the lock is taken: it would let only one run.
                    let complaint = one.complaint();
                    complaints.lock().expect("no panic above").extend(complaint);
                }
            });
        }
    });
    complaints.into_inner().expect("as above")
}

#[test]
fn every_fault_is_found_and_nothing_else() {
    let broken = FAULTS.iter().flat_map(|(fault, _, found_by)| {
        found_by.iter().map(|&(clause, case)| Try { fault: *fault, clause, case })
    });
    let mut tries: Vec<Try> = Vec::new();
    for one in broken {
        let whole = Try { fault: Fault::None, ..one };
        if !tries.iter().any(|other| other.fault == Fault::None && other.case == one.case) {
            tries.push(whole);
        }
        tries.push(one);
    }
    let (alone, together) = tries.into_iter().partition(|one: &Try| one.clause == "L9");
    let mut wrong = complaints(together, AT_ONCE);
    wrong.extend(complaints(alone, 1));
    assert!(
        wrong.is_empty(),
        "{} of the suite's own tests failed:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_clause_that_a_backend_can_break_has_a_fault() {
    let mut covered = BTreeSet::new();
    for (fault, _, found_by) in FAULTS {
        for (clause, name) in *found_by {
            let case = cases::all().find(|case| case.name == *name);
            let case = case.unwrap_or_else(|| panic!("{fault:?}: there is no case {name}"));
            assert!(case.clauses.contains(clause), "{name} does not cite {clause}");
            covered.insert(*clause);
        }
    }
    for (clause, why) in NOT_THE_BACKENDS {
        assert!(covered.insert(clause), "{clause} has a fault, and {why}");
    }
    let cited: BTreeSet<&str> = cases::all().flat_map(|case| case.clauses).copied().collect();
    let missing: Vec<_> = cited.difference(&covered).collect();
    assert!(missing.is_empty(), "clauses without a fault: {missing:?}");
}
