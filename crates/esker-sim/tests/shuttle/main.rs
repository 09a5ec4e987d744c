//! A store that threads share, on a disk that stops at some moment, through several lives; every
//! schedule, every choice of the disk and of the threads drawn from one seed. Compiled to nothing
//! without `--cfg esker_shuttle`:
//!
//! ```text
//! cargo xtask shuttle --package esker-sim
//! ```
#![cfg(esker_shuttle)]

mod author;
#[path = "../it/model.rs"]
#[expect(dead_code, reason = "a part of it is for one thread only")]
mod model;
mod record;
#[path = "../it/seeds.rs"]
#[expect(dead_code, reason = "the seeds of these runs are drawn by schedules")]
mod seeds;
mod truth;

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use esker_io::{Backend, Ordering};
use esker_lss::{AppendError, Lsn, Maintenance, Options, ReadError, Store, verify};
use esker_schedules::{drawn, explore, run_seed};
use esker_sim::{Dice, Fault, Sim, Survival};
use shuttle::sync::atomic::Ordering::SeqCst;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
use shuttle::thread;

use author::Life;
use model::{End, SEGMENT_BYTES, dir, drawn_choice, small};
use record::Author;
use truth::Truth;

/// Two to so many threads append; another trims and maintains.
const AUTHORS: u64 = 4;
/// Up to so many lives, beside those that recovery does not survive.
const LIVES: u64 = 4;

/// The options of a run, whether the store has threads of its own, and its order of writes.
fn drawn_options(dice: &mut Dice) -> (Options, bool, Ordering) {
    let ordering = match dice.chance(1, 3) {
        true => Ordering::Serialised,
        false => Ordering::TailLocalised,
    };
    let has_threads = dice.chance(1, 3);
    let maintenance = match has_threads {
        true => Maintenance::Thread,
        false => Maintenance::Manual,
    };
    let buffers = 2 + dice.index(3);
    let window = u32::try_from(buffers).expect("small") + u32::from(dice.chance(1, 2)) * 3;
    let options = small(ordering)
        .buffers(buffers)
        .window_slots(window)
        .sync_every_bytes(4096 << dice.below(4))
        .commit_writes(1 + dice.index(3))
        .gather(std::time::Duration::from_micros(dice.below(3) * 10))
        .maintenance(maintenance);
    (options, has_threads, ordering)
}

/// The end of a machine's life: the next machine, and what it was the end of.
fn ended(sim: &Sim, dice: &mut Dice, may_fail: bool) -> (Sim, End) {
    sim.stop();
    // What a failed sync has dropped is seen until the power fails.
    if may_fail || dice.chance(2, 3) {
        let count = sim.undurable().len();
        (sim.crash(&mut drawn_choice(dice, count)), End::Power)
    } else {
        let mut dice = Dice::new(dice.draw());
        (sim.kill(&mut |_| Survival::drawn(&mut dice)), End::Kill)
    }
}

/// Opens the store on a machine that may stop while it is recovered, as often as it likes, and checks
/// what it holds.
fn recover(
    mut sim: Sim,
    options: &Options,
    truth: &Truth,
    mut end: End,
    dice: &mut Dice,
) -> (Store<Sim>, Sim) {
    loop {
        if dice.chance(1, 3) {
            sim.crash_after(sim.effects() + 1 + dice.below(20));
        }
        let opened = Store::open(dir(), sim.clone(), options.clone());
        if opened.is_ok() && !sim.is_down() {
            sim.crash_after(u64::MAX);
            let store = opened.expect("just looked");
            truth.recovered(&store, end, sim.late_writes() == 0);
            return (store, sim);
        }
        assert!(sim.is_down(), "it does not open: {:?}", opened.err());
        drop(opened);
        let (next, how) = ended(&sim, dice, false);
        // What a kill would have left is gone once the power has failed.
        if how == End::Power {
            end = how;
        }
        sim = next;
    }
}

/// One life of the store, up to the end of the machine's: the next machine, and how this one ended.
fn life(
    sim: Sim,
    (options, has_threads): (&Options, bool),
    truth: &Arc<Truth>,
    end: End,
    number: u64,
) -> (Sim, End) {
    let mut dice = Dice::new(drawn());
    let (store, sim) = recover(sim, options, truth, end, &mut dice);
    let may_fail = dice.chance(1, 4);
    if may_fail {
        let fault = match dice.below(6) {
            0..2 => Fault::WriteFails,
            2 => Fault::WriteIsShort {
                sectors: dice.index(9),
            },
            3 => Fault::SyncFails,
            4 => Fault::FlushFails,
            _ => Fault::DirSyncFails,
        };
        sim.inject(fault, dice.below(12));
    }
    if dice.chance(5, 6) {
        sim.crash_after(sim.effects() + 1 + dice.below(90));
    }
    let life = Arc::new(Life {
        store,
        sim: sim.clone(),
        truth: Arc::clone(truth),
        has_committer: has_threads,
        may_fail,
    });
    let mut threads = Vec::new();
    for id in 0..2 + dice.below(AUTHORS - 1) {
        let (life, dice) = (Arc::clone(&life), Dice::new(dice.draw()));
        threads.push(thread::spawn(move || life.author(number, id, dice)));
    }
    life.keeper(Dice::new(dice.draw()));
    let mut futures = Vec::new();
    for thread in threads {
        futures.extend(thread.join().expect("no panic"));
    }
    truth.look(&life.store, &sim);
    let store = Arc::into_inner(life).expect("the threads are done").store;
    if dice.chance(1, 4) {
        match store.close() {
            Ok(()) => truth.is_durable_to_the_last(),
            Err(error) => assert!(sim.is_down() || may_fail, "{error} while all is well"),
        }
    } else {
        drop(store);
    }
    for future in futures {
        future.ends(truth);
    }
    ended(&sim, &mut dice, may_fail)
}

/// Several lives, and a last look. Gives what the disk holds in the end.
fn lives() -> Vec<Vec<u8>> {
    let mut dice = Dice::new(drawn());
    let (options, has_threads, ordering) = drawn_options(&mut dice);
    let truth = Arc::new(Truth::of(ordering));
    let mut sim = Sim::new(dice.draw());
    let mut end = End::Power;
    let lives = 2 + dice.below(LIVES - 1);
    for number in 0..lives {
        (sim, end) = life(sim, (&options, has_threads), &truth, end, number);
    }
    let store = Store::open(dir(), sim.clone(), options).expect("it opens");
    truth.recovered(&store, end, true);
    let payload = Author::new(lives, 0).next(100);
    let lsn = store.append_durable(&payload).expect("it goes on");
    truth.appended(lsn, payload);
    truth.is_durable(lsn.get() + 1);
    store.close().expect("closes");
    let report = verify(dir(), sim.clone(), |_| {}).expect("verified");
    assert!(report.is_intact() && report.closed, "{report:?}");
    let contents = sim.paths().into_iter();
    contents.filter_map(|path| sim.contents(&path)).collect()
}

#[test]
fn a_store_shared_by_threads_loses_nothing_in_a_crash() {
    let name = "a_store_shared_by_threads_loses_nothing_in_a_crash";
    explore("esker-sim", name, 100, || drop(lives()));
}

/// Records that fill a segment each, so that every step of the written prefix needs another file
/// synced: threads write them and wait for them, each in its own way.
fn segments_at_once() {
    let mut dice = Dice::new(drawn());
    let options = small(Ordering::TailLocalised)
        .max_record_bytes(SEGMENT_BYTES)
        .sync_every_bytes(SEGMENT_BYTES << dice.below(3));
    let sim = Sim::new(dice.draw());
    let store = Store::open(dir(), sim.clone(), options).expect("it opens");
    let shared = Arc::new((store, sim, Truth::of(Ordering::TailLocalised)));
    let write = |shared: &(Store<Sim>, Sim, Truth), id: u64| {
        let (store, sim, truth) = shared;
        let mut author = Author::new(0, id);
        let len = usize::try_from(SEGMENT_BYTES).expect("small") - 64 - 8;
        for _ in 0..3 {
            let lsn = store.append(&author.next(len)).expect("appended");
            if (id + lsn.get() / SEGMENT_BYTES) % 2 == 0 {
                store.wait_written(lsn).expect("written");
            } else {
                store.wait_durable(lsn).expect("durable");
            }
            truth.look(store, sim);
        }
    };
    let threads = (0..2).map(|id| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || write(&shared, id))
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("no panic");
    }
}

#[test]
fn a_sync_covers_every_file_of_what_it_calls_durable() {
    let name = "a_sync_covers_every_file_of_what_it_calls_durable";
    explore("esker-sim", name, 600, segments_at_once);
}

/// One sync fails, of those in the background, of those of whoever waits, or of those of space, with
/// others in flight beside it: threads write without waiting, so that a sync is due at once, and then
/// wait, for which each makes a sync of its own. Nothing that the one may have been told of counts by
/// another. Whoever follows the log is given all that counts, and nothing else.
fn syncs_at_once() {
    let mut dice = Dice::new(drawn());
    let options = small(Ordering::TailLocalised)
        .commit_writes(1 + dice.index(3))
        .sync_every_bytes(4096 << dice.below(2));
    let sim = Sim::new(dice.draw());
    let store = Store::open(dir(), sim.clone(), options).expect("it opens");
    let fault = match dice.chance(1, 2) {
        true => Fault::SyncFails,
        false => Fault::FlushFails,
    };
    sim.inject(fault, dice.below(7));
    let shared = Arc::new((store, sim, Truth::of(Ordering::TailLocalised)));
    let write = |(store, sim, truth): &(Store<Sim>, Sim, Truth), id, mut dice: Dice| {
        let mut author = Author::new(0, id);
        for _ in 0..3 {
            // Larger than a buffer or not; and now and then in need of another segment.
            let most = 5000 << (2 * dice.below(2));
            let len = 1000 + dice.index(most);
            let Ok(lsn) = store.append(&author.next(len)) else {
                break;
            };
            let written = store.wait_written(lsn);
            if dice.chance(1, 3) {
                truth.look(store, sim);
            }
            let durable = written.and_then(|()| store.wait_durable(lsn));
            if durable.is_ok() {
                truth.is_durable(lsn.get() + 1);
            }
            truth.look(store, sim);
        }
        // Where it ended for good is what the error says, to everybody.
        if let Err(AppendError::Poisoned(poison)) = store.append(b"") {
            assert_eq!(poison.durable(), store.durable());
        }
    };
    let over = Arc::new(AtomicBool::new(false));
    let following = {
        let (shared, over) = (Arc::clone(&shared), Arc::clone(&over));
        thread::spawn(move || follow(&shared.0, &over))
    };
    let threads = (0..2 + dice.below(2)).map(|id| {
        let (shared, dice) = (Arc::clone(&shared), Dice::new(dice.draw()));
        thread::spawn(move || write(&shared, id, dice))
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("no panic");
    }
    let (store, sim, truth) = &*shared;
    while sim.poll() > 0 {}
    truth.look(store, sim);
    over.store(true, SeqCst);
    following.thread().unpark();
    let followed = following.join().expect("no panic");
    let below = store.scan(..store.durable()).expect("a range");
    let durable: Vec<_> = below.map(|record| record.expect("intact").lsn).collect();
    assert_eq!(followed, durable, "what was followed, and what is durable");
}

/// The addresses that a following task is given, until it is told that there will be no more, or has
/// been given everything when it is over. It sleeps until it is woken.
fn follow(store: &Store<Sim>, over: &AtomicBool) -> Vec<Lsn> {
    let mut follower = store.follow(Lsn::ZERO).expect("the beginning");
    let mut followed = Vec::new();
    let wakes = Arc::new(Wakes {
        task: thread::current(),
        count: AtomicUsize::new(0),
    });
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    let mut asleep_since = None;
    loop {
        let (was_over, count) = (over.load(SeqCst), wakes.count.load(SeqCst));
        let polled = follower.poll_next(&mut context);
        // When it is over, everybody who had something to wake for has done so.
        let has_slept = was_over && asleep_since == Some(count);
        assert!(polled.is_pending() || !has_slept, "nobody has woken it");
        asleep_since = None;
        match polled {
            Poll::Ready(Some(Ok(record))) => {
                assert!(record.lsn < store.durable(), "it may be taken back");
                followed.push(record.lsn);
            }
            Poll::Ready(Some(Err(ReadError::Lost { .. }))) => return followed,
            Poll::Pending if was_over => return followed,
            Poll::Pending => {
                asleep_since = Some(count);
                thread::park();
            }
            Poll::Ready(other) => panic!("{other:?}"),
        }
    }
}

/// Wakes a thread, and counts how often.
struct Wakes {
    task: thread::Thread,
    count: AtomicUsize,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, SeqCst);
        self.task.unpark();
    }
}

#[test]
fn what_a_failed_sync_may_be_of_is_not_acknowledged_by_another() {
    let name = "what_a_failed_sync_may_be_of_is_not_acknowledged_by_another";
    explore("esker-sim", name, 400, syncs_at_once);
}

#[test]
fn the_same_seed_is_the_same_run_to_the_byte() {
    let run = |seed| {
        let disks = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&disks);
        let decisions = run_seed(seed, move || kept.lock().expect("whole").push(lives()));
        let disks = Arc::into_inner(disks).expect("it is over");
        (decisions, disks.into_inner().expect("whole"))
    };
    let mut different = Vec::new();
    for seed in 0..4 {
        let (one, other) = (run(seed), run(seed));
        assert!(one == other, "seed {seed} is two runs");
        different.push(one);
    }
    different.dedup();
    assert_eq!(different.len(), 4, "seeds make no difference");
}
