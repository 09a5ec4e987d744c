//! A store that threads share, on a disk that stops at some moment, through several lives; every
//! schedule, every choice of the disk and of the threads drawn from one seed. Compiled to nothing
//! without `--cfg esker_shuttle`:
//!
//! ```text
//! cargo xtask shuttle --package esker-sim
//! ```
#![cfg(esker_shuttle)]

#[path = "../it/model.rs"]
#[expect(dead_code, reason = "a part of it is for one thread only")]
mod model;
mod record;
#[path = "../it/seeds.rs"]
#[expect(dead_code, reason = "the seeds of these runs are drawn by schedules")]
mod seeds;
mod truth;

use std::sync::{Arc, Mutex};

use esker_io::{Backend, Ordering};
use esker_lss::{Lsn, Maintenance, Options, ReadError, Store, TrimError, verify};
use esker_schedules::{drawn, explore, run_seed};
use esker_sim::{Dice, Sim, Survival};
use shuttle::thread;

use model::{End, dir, drawn_choice, small};
use record::Author;
use truth::Truth;

/// Two to so many threads append; another trims and maintains.
const AUTHORS: u64 = 4;
const LIVES: u64 = 3;

fn drawn_options(dice: &mut Dice) -> Options {
    let ordering = match dice.chance(1, 3) {
        true => Ordering::Serialised,
        false => Ordering::TailLocalised,
    };
    let maintenance = match dice.chance(1, 3) {
        true => Maintenance::Thread,
        false => Maintenance::Manual,
    };
    let buffers = 2 + dice.index(3);
    let window = u32::try_from(buffers).expect("small") + u32::from(dice.chance(1, 2)) * 3;
    small(ordering)
        .buffers(buffers)
        .window_slots(window)
        .sync_every_bytes(4096 << dice.below(4))
        .commit_writes(1 + dice.index(3))
        .gather(std::time::Duration::from_micros(dice.below(3) * 10))
        .maintenance(maintenance)
}

/// What one thread does until the machine stops or it has done enough.
fn author(store: &Store<Sim>, sim: &Sim, truth: &Truth, mut author: Author, dice: &mut Dice) {
    for _ in 0..4 + dice.below(12) {
        truth.look(store);
        let went = match dice.below(20) {
            0..14 => append(store, truth, &mut author, dice),
            14..17 => match truth.any(dice.draw()) {
                None => Ok(()),
                Some((lsn, payload)) => read(store, lsn, &payload),
            },
            17 => flush(store, truth),
            18 => scan(store, sim, truth),
            _ => {
                sim.poll();
                Ok(())
            }
        };
        if went.is_err() {
            assert!(sim.is_down(), "{went:?} while the machine is up");
            return;
        }
    }
}

type Went = Result<(), Box<dyn std::error::Error>>;

fn append(store: &Store<Sim>, truth: &Truth, author: &mut Author, dice: &mut Dice) -> Went {
    let len = match dice.below(10) {
        0..5 => dice.index(300),
        5..8 => dice.index(3000),
        8 => 4096 - 64 - 8,
        _ => 5000 + dice.index(9000),
    };
    let payload = author.next(len);
    let lsn = store.append(&payload)?;
    truth.appended(lsn, payload.clone());
    match dice.below(4) {
        0 => {
            store.wait_durable(lsn)?;
            truth.is_durable(lsn.get() + 1);
        }
        1 => {
            store.wait_written(lsn)?;
            truth.is_written(lsn.get() + 1);
        }
        2 => return read(store, lsn, &payload),
        _ => {}
    }
    Ok(())
}

fn read(store: &Store<Sim>, lsn: Lsn, payload: &[u8]) -> Went {
    match store.read(lsn) {
        // Somebody may trim at any moment.
        Err(ReadError::Trimmed { .. }) if lsn < store.first() => Ok(()),
        read => {
            assert!(read? == payload, "{lsn} reads otherwise");
            Ok(())
        }
    }
}

fn flush(store: &Store<Sim>, truth: &Truth) -> Went {
    let before = truth.last();
    store.flush()?;
    if let Some(last) = before {
        truth.is_durable(last.get() + 1);
    }
    Ok(())
}

/// Whatever a scan beside the others gives is whole and in order, and no record that was there
/// before is left out; no durable one where the machine has stopped.
fn scan(store: &Store<Sim>, sim: &Sim, truth: &Truth) -> Went {
    let (mut found, before, durable) = (Vec::new(), truth.all(), store.durable());
    for next in store.scan(..)? {
        match next {
            Ok(record) => found.push((record.lsn, record.payload)),
            Err(ReadError::Trimmed { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    assert!(found.is_sorted_by_key(|(lsn, _)| *lsn), "not in order");
    assert!(found.iter().all(|(_, payload)| record::is_whole(payload)));
    let first = store.first();
    let end = if sim.is_down() { durable } else { Lsn::LIMIT };
    let there = before.into_iter();
    for (lsn, payload) in there.filter(|(lsn, _)| (first..end).contains(lsn)) {
        assert!(found.contains(&(lsn, payload)), "a scan leaves {lsn} out");
    }
    Ok(())
}

/// What the thread does that looks after the store.
fn keeper(store: &Store<Sim>, sim: &Sim, truth: &Truth, dice: &mut Dice) {
    for _ in 0..3 + dice.below(6) {
        truth.look(store);
        let went = match dice.below(3) {
            0 => store.maintain().map_err(|error| error.to_string()),
            1 => trim(store, truth, dice.draw()),
            _ => {
                thread::yield_now();
                Ok(())
            }
        };
        if let Err(error) = went {
            assert!(sim.is_down(), "{error} while the machine is up");
            return;
        }
    }
}

fn trim(store: &Store<Sim>, truth: &Truth, pick: u64) -> Result<(), String> {
    let Some((lsn, _)) = truth.any(pick) else {
        return Ok(());
    };
    if lsn <= store.durable() {
        truth.tries_to_trim(lsn);
    }
    match store.trim_before(lsn) {
        Ok(first) => truth.has_trimmed(first),
        Err(TrimError::NotDurable { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}

/// One life of the store, up to the end of the machine's: the next machine, and how this one ended.
fn life(sim: &Sim, options: &Options, truth: &Arc<Truth>, end: End, number: u64) -> (Sim, End) {
    let mut dice = Dice::new(drawn());
    let store = Store::open(dir(), sim.clone(), options.clone()).expect("it opens");
    truth.recovered(&store, end, sim.late_writes() == 0);
    if dice.chance(5, 6) {
        sim.crash_after(sim.effects() + 1 + dice.below(90));
    }
    let store = Arc::new(store);
    let mut threads = Vec::new();
    for id in 0..2 + dice.below(AUTHORS - 1) {
        let (store, sim, truth) = (Arc::clone(&store), sim.clone(), Arc::clone(truth));
        let mut dice = Dice::new(dice.draw());
        threads.push(thread::spawn(move || {
            author(&store, &sim, &truth, Author::new(number, id), &mut dice);
        }));
    }
    let mut keeps = Dice::new(dice.draw());
    keeper(&store, sim, truth, &mut keeps);
    for thread in threads {
        thread.join().expect("no panic");
    }
    truth.look(&store);
    let store = Arc::into_inner(store).expect("the threads are done");
    if dice.chance(1, 4) {
        match store.close() {
            Ok(()) => truth.is_durable_to_the_last(),
            Err(error) => assert!(sim.is_down(), "{error} while the machine is up"),
        }
    } else {
        drop(store);
    }
    sim.stop();
    if dice.chance(2, 3) {
        let count = sim.undurable().len();
        (sim.crash(&mut drawn_choice(&mut dice, count)), End::Power)
    } else {
        let mut dice = Dice::new(dice.draw());
        (sim.kill(&mut |_| Survival::drawn(&mut dice)), End::Kill)
    }
}

/// Several lives, and a last look. Gives what the disk holds in the end.
fn lives() -> Vec<Vec<u8>> {
    let mut dice = Dice::new(drawn());
    let options = drawn_options(&mut dice);
    let truth = Arc::new(Truth::default());
    let mut sim = Sim::new(dice.draw());
    let mut end = End::Power;
    for number in 0..LIVES {
        (sim, end) = life(&sim, &options, &truth, end, number);
    }
    let store = Store::open(dir(), sim.clone(), options).expect("it opens");
    truth.recovered(&store, end, true);
    let payload = Author::new(LIVES, 0).next(100);
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
