//! Concurrent uses of the stable-prefix tracker, of the turns of group commit, of those of the
//! background's syncs and of what is kept for those who follow, over their real code, written once:
//! `tests/loom.rs` runs each under every interleaving that loom reaches, `tests/shuttle.rs` under
//! schedules drawn from seeds, with more threads and buffers.

#[cfg(esker_loom)]
use loom as checker;
#[cfg(esker_shuttle)]
use shuttle as checker;

use checker::sync::Arc;
use checker::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use checker::thread;

use crate::durable::Durable;
use crate::fresh::Fresh;
use crate::stability::Frontier;
use crate::syncing::Syncing;
use crate::turns::Turns;

/// Every scenario, by name.
pub(crate) const ALL: &[(&str, fn())] = &[
    (
        "no_advance_is_lost_when_two_complete_at_once",
        no_advance_is_lost_when_two_complete_at_once,
    ),
    (
        "no_advance_is_lost_when_three_complete_at_once",
        no_advance_is_lost_when_three_complete_at_once,
    ),
    (
        "no_advance_is_lost_when_the_array_is_used_again",
        no_advance_is_lost_when_the_array_is_used_again,
    ),
    (
        "a_buffer_completed_twice_moves_nothing_back",
        a_buffer_completed_twice_moves_nothing_back,
    ),
    (
        "what_lies_below_the_prefix_has_happened",
        what_lies_below_the_prefix_has_happened,
    ),
    (
        "what_others_have_passed_has_happened",
        what_others_have_passed_has_happened,
    ),
    ("an_end_is_of_its_buffer", an_end_is_of_its_buffer),
    (
        "what_is_acknowledged_has_happened",
        what_is_acknowledged_has_happened,
    ),
    ("a_mark_is_of_one_moment", a_mark_is_of_one_moment),
    (
        "a_mark_is_of_the_last_that_was_passed",
        a_mark_is_of_the_last_that_was_passed,
    ),
    (
        "nobody_waits_for_ever_when_one_leads",
        nobody_waits_for_ever_when_one_leads,
    ),
    (
        "nobody_waits_for_ever_when_two_lead",
        nobody_waits_for_ever_when_two_lead,
    ),
    (
        "whoever_wants_less_is_served_by_whoever_wants_more",
        whoever_wants_less_is_served_by_whoever_wants_more,
    ),
    (
        "whoever_is_called_to_lead_and_need_not_lets_the_others_go_on",
        whoever_is_called_to_lead_and_need_not_lets_the_others_go_on,
    ),
    (
        "whoever_comes_late_rides_with_the_batch_under_way",
        whoever_comes_late_rides_with_the_batch_under_way,
    ),
    (
        "whoever_rides_with_one_of_two_batches_is_woken_by_that_one",
        whoever_rides_with_one_of_two_batches_is_woken_by_that_one,
    ),
    (
        "no_sync_is_missed_when_another_is_faster",
        no_sync_is_missed_when_another_is_faster,
    ),
    (
        "nothing_is_kept_when_nobody_follows",
        nothing_is_kept_when_nobody_follows,
    ),
    (
        "a_follower_finds_what_was_written_where_it_looks",
        a_follower_finds_what_was_written_where_it_looks,
    ),
];

/// The first buffer of each scenario: its place is not the array's first.
const START: u64 = 3;
/// How often the buffers of a scenario come again: what loom enumerates has to be short.
const ROUNDS: u64 = if cfg!(esker_loom) { 1 } else { 20 };
/// How many threads want each of the addresses.
const CROWD: usize = if cfg!(esker_loom) { 1 } else { 3 };

/// Completes each list of buffers (counted from the first of a round) in a thread of its own, each
/// buffer when the window admits it, and looks at the prefix once all are done. In a single round a
/// buffer that the window does not admit is left out; in many it is waited for.
fn completes_all(window: u64, lists: &'static [&'static [u64]]) {
    let buffers = lists.iter().copied().flatten();
    let in_round = buffers.max().expect("a buffer") + 1;
    let frontier = Arc::new(Frontier::new(window as usize, START, START * 10));
    let complete = move |frontier: &Frontier, list: &[u64]| {
        let mut completed = Vec::new();
        let rounds = (0..ROUNDS).flat_map(|round| list.iter().map(move |seq| (round, seq)));
        for seq in rounds.map(|(round, seq)| START + round * in_round + seq) {
            while ROUNDS > 1 && seq >= frontier.next() + window {
                thread::yield_now();
            }
            let before = (frontier.next(), frontier.lsn());
            if seq < frontier.next() + window {
                frontier.complete(seq, (seq + 1) * 10);
                completed.push(seq);
            }
            let after = (frontier.next(), frontier.lsn());
            assert!(before.0 <= after.0 && before.1 <= after.1, "moved back");
            assert!(after.0 <= frontier.next(), "moved back while nobody looked");
        }
        completed
    };
    let threads: Vec<_> = lists
        .iter()
        .map(|list| {
            let frontier = Arc::clone(&frontier);
            thread::spawn(move || complete(&frontier, list))
        })
        .collect();
    let completed: Vec<u64> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("no panic"))
        .collect();
    let next = (START..)
        .find(|seq| !completed.contains(seq))
        .expect("an end");
    assert_eq!(
        frontier.next(),
        next,
        "an advance was lost, or came too early"
    );
    assert_eq!(
        frontier.lsn(),
        next * 10,
        "the address is not the prefix's end"
    );
}

pub(crate) fn no_advance_is_lost_when_two_complete_at_once() {
    completes_all(2, &[&[0], &[1]]);
}

pub(crate) fn no_advance_is_lost_when_three_complete_at_once() {
    completes_all(3, &[&[2], &[1], &[0]]);
}

pub(crate) fn no_advance_is_lost_when_the_array_is_used_again() {
    completes_all(2, &[&[0, 2], &[1, 3]]);
}

pub(crate) fn a_buffer_completed_twice_moves_nothing_back() {
    completes_all(2, &[&[0, 1], &[0, 1]]);
}

pub(crate) fn what_lies_below_the_prefix_has_happened() {
    let frontier = Arc::new(Frontier::new(2, 0, 0));
    let payload = Arc::new(Payload::new());
    let writer = {
        let (frontier, payload) = (Arc::clone(&frontier), Arc::clone(&payload));
        thread::spawn(move || {
            payload.write();
            frontier.complete(0, 10);
        })
    };
    let other = {
        let frontier = Arc::clone(&frontier);
        thread::spawn(move || frontier.complete(1, 20))
    };
    if frontier.lsn() >= 10 {
        payload.is_written();
    }
    writer.join().expect("no panic");
    other.join().expect("no panic");
}

/// Whoever asks for number and address together gets what belongs together, though the place of the
/// buffer before it is taken over meanwhile, by somebody who has only seen the prefix come that far.
pub(crate) fn a_mark_is_of_one_moment() {
    for _ in 0..ROUNDS {
        let frontier = Arc::new(Frontier::new(1, START, START * 10));
        let complete = |frontier: &Frontier, seq: u64| frontier.complete(seq, (seq + 1) * 10);
        let mover = {
            let frontier = Arc::clone(&frontier);
            thread::spawn(move || {
                complete(&frontier, START);
                complete(&frontier, START + 1);
            })
        };
        let other = {
            let frontier = Arc::clone(&frontier);
            thread::spawn(move || {
                if frontier.next() == START + 2 {
                    complete(&frontier, START + 2);
                }
            })
        };
        if let Some((next, end)) = frontier.mark(START) {
            assert_eq!(end, next * 10, "of two moments");
        }
        mover.join().expect("no panic");
        other.join().expect("no panic");
    }
}

/// The same where one thread walks over what others have passed, and reads the address first.
pub(crate) fn what_others_have_passed_has_happened() {
    let frontier = Arc::new(Frontier::new(3, 0, 0));
    let payload = Arc::new(Payload::new());
    let writer = {
        let (frontier, payload) = (Arc::clone(&frontier), Arc::clone(&payload));
        thread::spawn(move || {
            payload.write();
            frontier.complete(1, 20);
        })
    };
    let passing = {
        let frontier = Arc::clone(&frontier);
        thread::spawn(move || frontier.complete(0, 10))
    };
    frontier.complete(2, 30);
    if frontier.lsn() == 30 {
        payload.is_written();
    }
    writer.join().expect("no panic");
    passing.join().expect("no panic");
}

/// Where a buffer ends is known to whoever finds it completed.
pub(crate) fn an_end_is_of_its_buffer() {
    let frontier = Arc::new(Frontier::new(2, START, START * 10));
    let writer = {
        let frontier = Arc::clone(&frontier);
        thread::spawn(move || frontier.complete(START + 1, (START + 2) * 10))
    };
    if let Some(end) = frontier.end_of(START + 1) {
        assert_eq!(end, (START + 2) * 10);
    }
    writer.join().expect("no panic");
}

/// The same where the buffer before it was completed by somebody else than who passed it.
pub(crate) fn a_mark_is_of_the_last_that_was_passed() {
    let frontier = Arc::new(Frontier::new(2, START, START * 10));
    let threads = [START, START + 1].map(|seq| {
        let frontier = Arc::clone(&frontier);
        thread::spawn(move || frontier.complete(seq, (seq + 1) * 10))
    });
    if let Some((next, end)) = frontier.mark(START) {
        assert_eq!(end, next * 10, "not where it ends");
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
}

/// What is acknowledged has happened, whichever flight it waited for, for whoever looks at the address and whoever looks at the number.
pub(crate) fn what_is_acknowledged_has_happened() {
    let durable = Arc::new(Durable::new(2, START, START * 10));
    let payload = Arc::new(Payload::new());
    let (slow, flight) = (durable.begin(), durable.begin());
    let slow = {
        let durable = Arc::clone(&durable);
        // Covers nothing itself.
        thread::spawn(move || durable.end(slow, |_| {}))
    };
    let writer = {
        let (durable, payload) = (Arc::clone(&durable), Arc::clone(&payload));
        thread::spawn(move || {
            payload.write();
            durable.end(flight, |confirmed| {
                confirmed.complete(START, (START + 1) * 10);
            });
        })
    };
    let counting = {
        let (durable, payload) = (Arc::clone(&durable), Arc::clone(&payload));
        thread::spawn(move || {
            if durable.next() > START {
                payload.is_written();
                assert!(durable.lsn() > START * 10, "its address is not there yet");
            }
        })
    };
    if durable.lsn() > START * 10 {
        payload.is_written();
    }
    slow.join().expect("no panic");
    writer.join().expect("no panic");
    counting.join().expect("no panic");
}

/// K3: two threads write slots while one comes to follow and goes again; what one of them copied for
/// it is not left behind.
pub(crate) fn nothing_is_kept_when_nobody_follows() {
    for _ in 0..ROUNDS {
        let fresh = Arc::new(Fresh::default());
        let writers = [START, START + 1].map(|seq| {
            let fresh = Arc::clone(&fresh);
            thread::spawn(move || write_slot(&fresh, seq))
        });
        fresh.enter();
        fresh.leave();
        for writer in writers {
            writer.join().expect("no panic");
        }
        for seq in [START, START + 1] {
            assert!(fresh.find(seq * 10).is_none(), "nobody follows");
        }
    }
}

/// K1, K2, K4: a follower that goes by the prefix finds the slot that begins where it is, whole, or
/// none, which it would then read from the disk; while another follower comes and goes.
pub(crate) fn a_follower_finds_what_was_written_where_it_looks() {
    for _ in 0..ROUNDS {
        let fresh = Arc::new(Fresh::default());
        let frontier = Arc::new(Frontier::new(2, START, START * 10));
        fresh.enter();
        let writers = [START + 1, START].map(|seq| {
            let (fresh, frontier) = (Arc::clone(&fresh), Arc::clone(&frontier));
            thread::spawn(move || {
                write_slot(&fresh, seq);
                frontier.complete(seq, (seq + 1) * 10);
            })
        });
        let follows = |seq: u64| {
            if frontier.lsn() > seq * 10 {
                let slot = fresh.find(seq * 10).expect("it was followed all the time");
                assert_eq!((slot.base, slot.end), (seq * 10, (seq + 1) * 10));
                assert_eq!(*slot.bytes, slot_bytes(seq));
            }
        };
        fresh.enter();
        follows(START);
        fresh.leave();
        follows(START + 1);
        for writer in writers {
            writer.join().expect("no panic");
        }
        follows(START);
        fresh.leave();
    }
}

fn write_slot(fresh: &Fresh, seq: u64) {
    fresh.written(seq * 10, (seq + 1) * 10, &slot_bytes(seq));
}

fn slot_bytes(seq: u64) -> [u8; 2] {
    [u8::try_from(seq).expect("a small number"); 2]
}

/// What lies in a buffer: written before the prefix passes it, read after that.
#[cfg(esker_loom)]
struct Payload(loom::cell::UnsafeCell<u64>);

#[cfg(esker_loom)]
impl Payload {
    fn new() -> Self {
        Self(loom::cell::UnsafeCell::new(0))
    }

    fn write(&self) {
        // SAFETY: the reader looks only once the prefix has passed the buffer, which happens after
        // this; loom reports the race if that does not hold.
        self.0.with_mut(|payload| unsafe { *payload = 7 });
    }

    fn is_written(&self) {
        // SAFETY: as above.
        assert_eq!(self.0.with(|payload| unsafe { *payload }), 7);
    }
}

/// The same where nothing is reordered.
#[cfg(esker_shuttle)]
struct Payload(AtomicU64);

#[cfg(esker_shuttle)]
impl Payload {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn write(&self) {
        self.0.store(7, Ordering::Relaxed);
    }

    fn is_written(&self) {
        assert_eq!(self.0.load(Ordering::Relaxed), 7);
    }
}

/// A log that threads append to and wait for. Whoever leads settles what it has closed its batch at.
struct Served {
    turns: Turns,
    limit: usize,
    appended: AtomicU64,
    settled: AtomicU64,
    leading: AtomicUsize,
}

impl Served {
    fn new(limit: usize) -> Self {
        Self {
            turns: Turns::new(limit),
            limit,
            appended: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            leading: AtomicUsize::new(0),
        }
    }

    /// Appends up to `end`, and waits until that is settled. The checker reports who waits for ever.
    fn append_and_wait(&self, end: u64) {
        self.appended.fetch_max(end, Ordering::AcqRel);
        while self.settled.load(Ordering::Acquire) < end {
            let Some(mut turn) = self.turns.take(end) else {
                continue;
            };
            let others = self.leading.fetch_add(1, Ordering::SeqCst);
            assert!(others < self.limit, "too many lead");
            let sealed = self.appended.load(Ordering::Acquire);
            turn.close(sealed);
            self.settled.fetch_max(sealed, Ordering::AcqRel);
            self.leading.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Threads that each wait for addresses to be settled.
fn all_are_served(limit: usize, ends: &'static [u64]) {
    let log = Arc::new(Served::new(limit));
    let in_round = *ends.iter().max().expect("an end");
    let wait = move |log: &Served, end: u64| {
        for end in (0..ROUNDS).map(|round| round * in_round + end) {
            log.append_and_wait(end);
        }
    };
    let crowd = ends.iter().flat_map(|&end| [end; CROWD]);
    let threads: Vec<_> = crowd
        .skip(1)
        .map(|end| {
            let log = Arc::clone(&log);
            thread::spawn(move || wait(&log, end))
        })
        .collect();
    wait(&log, ends[0]);
    for thread in threads {
        thread.join().expect("no panic");
    }
}

pub(crate) fn nobody_waits_for_ever_when_one_leads() {
    all_are_served(1, &[10, 20, 30]);
}

pub(crate) fn nobody_waits_for_ever_when_two_lead() {
    all_are_served(2, &[10, 20, 30]);
}

pub(crate) fn whoever_wants_less_is_served_by_whoever_wants_more() {
    all_are_served(1, &[30, 10, 20]);
}

/// What is waited for is settled by somebody who does not lead, as completions are that any thread
/// may drive.
pub(crate) fn whoever_is_called_to_lead_and_need_not_lets_the_others_go_on() {
    for _ in 0..ROUNDS {
        let log = Arc::new(Served::new(1));
        let mut turn = log.turns.take(10).expect("nobody leads yet");
        turn.close(10);
        let threads: Vec<_> = [20, 30]
            .into_iter()
            .flat_map(|end| [end; CROWD])
            .map(|end| {
                let log = Arc::clone(&log);
                thread::spawn(move || log.append_and_wait(end))
            })
            .collect();
        drop(turn);
        log.settled.fetch_max(20, Ordering::AcqRel);
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
}

/// Who comes while a batch is under way that takes its record along rides with it, and is woken when
/// its turn ends. Nobody else would wake it.
pub(crate) fn whoever_comes_late_rides_with_the_batch_under_way() {
    for _ in 0..ROUNDS {
        let log = Arc::new(Served::new(1));
        let mut turn = log.turns.take(10).expect("nobody leads yet");
        turn.close(20);
        let threads: Vec<_> = [20; CROWD]
            .into_iter()
            .map(|end| {
                let log = Arc::clone(&log);
                thread::spawn(move || {
                    // As long as that is under way, it is not for anybody else to lead.
                    let leads = log.turns.take(end).is_some();
                    assert!(!leads || log.settled.load(Ordering::Acquire) == 20);
                })
            })
            .collect();
        log.settled.fetch_max(20, Ordering::AcqRel);
        drop(turn);
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
}

/// Two batches are under way: who rides with the first is woken by its end, whenever the other was
/// closed.
pub(crate) fn whoever_rides_with_one_of_two_batches_is_woken_by_that_one() {
    for _ in 0..ROUNDS {
        let log = Arc::new(Served::new(2));
        let mut first = log.turns.take(10).expect("nobody leads yet");
        first.close(20);
        let mut second = log.turns.take(30).expect("one more may lead");
        let threads: Vec<_> = [20; CROWD]
            .into_iter()
            .map(|end| {
                let log = Arc::clone(&log);
                thread::spawn(move || log.append_and_wait(end))
            })
            .collect();
        second.close(40);
        log.settled.fetch_max(40, Ordering::AcqRel);
        drop(second);
        drop(first);
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
}

/// Everybody who writes looks whether a sync is due, and so does whoever syncs without the turn: in
/// the end nothing is left that nobody syncs.
pub(crate) fn no_sync_is_missed_when_another_is_faster() {
    #[derive(Default)]
    struct Log {
        written: AtomicU64,
        durable: AtomicU64,
        syncing: Syncing,
        under_way: AtomicUsize,
    }

    impl Log {
        /// What a sync of everything makes durable; whether there was anything.
        fn sync(&self) -> bool {
            let end = self.written.load(Ordering::Acquire);
            self.durable.fetch_max(end, Ordering::AcqRel) < end
        }

        fn look(&self) {
            let is_due =
                || self.written.load(Ordering::Acquire) > self.durable.load(Ordering::Acquire);
            let started = AtomicUsize::new(0);
            let start = || {
                assert_eq!(self.under_way.fetch_add(1, Ordering::AcqRel), 0, "Y1");
                let is_something = self.sync();
                self.under_way.fetch_sub(1, Ordering::AcqRel);
                started.fetch_add(usize::from(is_something), Ordering::AcqRel);
                is_something
            };
            loop {
                let before = started.load(Ordering::Acquire);
                self.syncing.start_if(is_due, start);
                if started.load(Ordering::Acquire) == before {
                    return;
                }
                self.syncing.end();
            }
        }
    }

    let log = Arc::new(Log::default());
    for _ in 0..ROUNDS {
        let writers = (0..CROWD).map(|_| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.written.fetch_add(1, Ordering::AcqRel);
                log.look();
            })
        });
        let writers: Vec<_> = writers.collect();
        let faster = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                log.sync();
                log.look();
            })
        };
        log.written.fetch_add(1, Ordering::AcqRel);
        log.look();
        for thread in writers.into_iter().chain([faster]) {
            thread.join().expect("no panic");
        }
        assert_eq!(
            log.written.load(Ordering::Acquire),
            log.durable.load(Ordering::Acquire),
            "something is written, and nobody syncs it"
        );
    }
}
