//! A store whose machine crashes: after every effect, and at random through many lives.

use std::time::Instant;

use esker_io::{Backend, Ordering};
use esker_lss::{Options, Store};
use esker_sim::{Completions, Dice, Sim, SimOptions, Survival, Undurable};

use crate::memory::most_during;
use crate::model::{End, Model, SEGMENT_BYTES, dir, drawn_choice, goes_on, recover, small};
use crate::seeds;
use crate::workload::{Bench, Step};

/// Ends a machine's life by chance.
fn end_life(sim: &Sim, dice: &mut Dice) -> (Sim, End) {
    sim.stop();
    if dice.chance(2, 3) {
        let count = sim.undurable().len();
        (sim.crash(&mut drawn_choice(dice, count)), End::Power)
    } else {
        let late = dice.chance(1, 3);
        let mut dice = Dice::new(dice.draw());
        let next = sim.kill(&mut |_| match dice.chance(1, 2) && late {
            true => Survival::Late,
            false => Survival::drawn(&mut dice),
        });
        (next, End::Kill)
    }
}

fn drawn_options(dice: &mut Dice) -> Options {
    let ordering = match dice.chance(1, 3) {
        true => Ordering::Serialised,
        false => Ordering::TailLocalised,
    };
    let buffers = 2 + dice.index(3);
    small(ordering)
        .buffers(buffers)
        .buffer_bytes(4096 << dice.below(3))
        .block_bytes(if dice.chance(1, 4) { 4096 } else { 512 })
        .window_slots(u32::try_from(buffers).expect("small") + u32::from(dice.chance(1, 2)) * 3)
        .sync_every_bytes(4096 << dice.below(5))
        .spare_segments(dice.index(3))
}

/// How many other ends of each life are looked at.
const OTHER_ENDS: u32 = 7;

/// Many lives in a row; recovery may crash too. The disk as it is in the end.
fn lives(seed: u64) -> Sim {
    let mut dice = Dice::new(seed);
    let completions = match dice.chance(1, 5) {
        true => Completions::Immediate,
        false => Completions::Drawn,
    };
    let sim_options = SimOptions::new(dice.draw())
        .alone(true)
        .completions(completions)
        .slow_one_in(dice.below(3) * 4);
    let mut sim = Sim::with(sim_options);
    let options = drawn_options(&mut dice);
    let mut model = Model::default();
    let mut end = End::Power;
    // Space for the superblock and some segments.
    let capacity_bytes = dice
        .chance(1, 4)
        .then(|| 70_000 + (64 << 10) * (2 + dice.below(6)));
    sim.set_capacity(capacity_bytes);
    for _life in 0..5 {
        let mut crashes_left = 3;
        let store = loop {
            if crashes_left > 0 && dice.chance(1, 3) {
                sim.crash_after(1 + dice.below(25));
            }
            match recover(&sim, &options, &mut model, end) {
                Ok(store) => break store,
                Err(_) => {
                    crashes_left -= 1;
                    let (next, how) = end_life(&sim, &mut dice);
                    sim = next;
                    if how == End::Power {
                        end = how;
                    }
                }
            }
        };
        if dice.chance(3, 4) {
            sim.crash_after(sim.effects() + 1 + dice.below(100));
        }
        let mut bench = Bench {
            sim: sim.clone(),
            options: options.clone(),
            model,
            store,
            may_fail: false,
            may_be_full: capacity_bytes.is_some(),
        };
        let steps = 10 + dice.below(60);
        let mut taken = 0;
        model = loop {
            if taken == steps {
                let Bench { model, store, .. } = bench;
                // Nothing that is in flight gets any further.
                sim.stop();
                drop(store);
                break model;
            }
            taken += 1;
            match bench.step(Step::drawn(&mut dice)) {
                Ok(next) => bench = next,
                Err(model) => break model,
            }
        };
        // Other ends that the same life could have had; then the one that it has.
        for _ in 0..OTHER_ENDS {
            let (next, end) = end_life(&sim, &mut dice);
            let store = recover(&next, &options, &mut model.clone(), end);
            drop(store.expect("nothing is in its way"));
        }
        (sim, end) = end_life(&sim, &mut dice);
    }
    sim.set_capacity(None);
    let store = recover(&sim, &options, &mut model, end).expect("nothing is in its way");
    goes_on(&sim, &options, store, &mut model, FAR);
    sim
}

#[test]
fn the_same_seed_is_the_same_run_to_the_byte() {
    for seed in 0..4 {
        let (one, other) = (lives(seed), lives(seed));
        assert_eq!(one.effects(), other.effects(), "seed {seed}");
        assert_eq!(one.paths(), other.paths(), "seed {seed}");
        for path in one.paths() {
            let same = one.contents(&path) == other.contents(&path);
            assert!(same, "seed {seed}: {path:?}");
        }
    }
}

#[test]
fn many_lives_lose_nothing_that_was_acknowledged() {
    seeds::run(
        "crashes::many_lives_lose_nothing_that_was_acknowledged",
        40,
        |seed| drop(lives(seed)),
    );
}

/// What the machine was like when it stopped, and what the store had promised until then.
fn run_script(script: &[Step], options: &Options, seed: u64, stop: Option<u64>) -> (Sim, Model) {
    let sim = Sim::with(SimOptions::new(seed).alone(true));
    if let Some(stop) = stop {
        sim.crash_after(stop);
    }
    let mut model = Model::default();
    let store = match Store::open(dir(), sim.clone(), options.clone()) {
        Ok(store) => store,
        Err(_) if sim.is_down() => return (sim, model),
        Err(error) => panic!("{error:?}"),
    };
    model.recovered(&store, End::Power);
    let mut bench = Bench {
        sim: sim.clone(),
        options: options.clone(),
        model,
        store,
        may_fail: false,
        may_be_full: false,
    };
    for step in script {
        match bench.step(*step) {
            Ok(next) => bench = next,
            Err(model) => return (sim, model),
        }
    }
    let Bench { model, store, .. } = bench;
    sim.stop();
    drop(store);
    (sim, model)
}

/// What a recovered store is given to go on with: what fits where it is, or into the next segment.
const NEAR: &[usize] = &[700];
const FAR: &[usize] = &[20_000, 20_000, 700];

/// Opens what a crash has left, and shows that it goes on.
fn check(next: &Sim, options: &Options, mut model: Model, end: End, more: &[usize]) {
    let store = recover(next, options, &mut model, end).expect("nothing is in its way");
    goes_on(next, options, store, &mut model, more);
}

/// Which of so many undurable things are kept, in as many ways as are affordable.
fn subsets(count: usize, dice: &mut Dice) -> Vec<u64> {
    if count <= 6 {
        return (0..1 << count).collect();
    }
    let all = u64::MAX;
    let alone = (0..count.min(64)).map(|bit| 1 << bit);
    let mut subsets: Vec<u64> = alone.clone().chain(alone.map(|bit| all ^ bit)).collect();
    subsets.extend([0, all]);
    subsets.extend((0..16).map(|_| dice.draw()));
    subsets
}

/// How a life of a script is ended, for a message that repeats it.
fn exhaust(name: &str, options: &Options, script: &[Step], more: &[usize]) {
    let began = Instant::now();
    let (whole, _) = run_script(script, options, 1, None);
    let effects = whole.effects();
    let mut states = 0_u64;
    for stop in 1..=effects {
        let (sim, model) = run_script(script, options, 1, Some(stop));
        assert!(sim.is_down(), "the same seed is the same run");
        let mut dice = Dice::new(stop);
        let count = sim.undurable().len();
        for subset in subsets(count, &mut dice) {
            let mut number = 0;
            let next = sim.crash(&mut |_: &Undurable| {
                number += 1;
                match subset >> ((number - 1) % 64) & 1 {
                    1 => Survival::Kept,
                    _ => Survival::Lost,
                }
            });
            checked(name, (stop, subset), || {
                check(&next, options, model.clone(), End::Power, more)
            });
            states += 1;
        }
        for _ in 0..4 {
            let seed = dice.draw();
            let mut torn = Dice::new(seed);
            let next = sim.crash(&mut |_| Survival::drawn(&mut torn));
            checked(name, (stop, seed), || {
                check(&next, options, model.clone(), End::Power, more)
            });
            let mut torn = Dice::new(seed);
            let next = sim.kill(&mut |_| Survival::drawn(&mut torn));
            checked(name, (stop, seed), || {
                check(&next, options, model.clone(), End::Kill, more)
            });
            // What is still on its way lands beside the next life, unless that waits for the lock.
            let mut torn = Dice::new(seed);
            let next = sim.kill(&mut |_| match torn.chance(2, 3) {
                true => Survival::Late,
                false => Survival::drawn(&mut torn),
            });
            checked(name, (stop, seed), || {
                check(&next, options, model.clone(), End::Kill, more)
            });
            states += 3;
        }
    }
    let what = format!("{states} states after {effects} effects");
    seeds::report(name, &what, began);
}

/// Names the state that a check fails in. Every run meets the same ones.
fn checked(name: &str, state: (u64, u64), check: impl FnOnce()) {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    if let Err(payload) = catch_unwind(AssertUnwindSafe(check)) {
        let (stop, choice) = state;
        eprintln!("{name}: failed when crashed after effect {stop}, with choice {choice:#x}");
        resume_unwind(payload);
    }
}

/// Appends, commits, a sync in the background and a clean close.
const COMMITS: &[Step] = &[
    Step::Append(100),
    Step::AppendDurable(10),
    Step::Append(3000),
    Step::Append(3000),
    Step::Append(6000),
    Step::Poll(2),
    Step::Append(0),
    Step::WaitDurable(3),
    Step::Append(2000),
    Step::Close,
    Step::AppendDurable(1),
];

/// Everything in flight that the window lets be, then a drop and another life.
const WINDOWS: &[Step] = &[
    Step::Append(3500),
    Step::Append(3500),
    Step::Append(3500),
    Step::Poll(1),
    Step::Append(3500),
    Step::WaitWritten(1),
    Step::Append(3500),
    Step::Append(9000),
    Step::Poll(3),
    Step::Drop,
    Step::Append(200),
    Step::Flush,
];

/// Segments come and go.
const SEGMENTS: &[Step] = &[
    Step::Append(30_000),
    Step::Append(30_000),
    Step::AppendDurable(30_000),
    Step::Maintain,
    Step::Append(20_000),
    Step::Flush,
    // Of the fourth record, which is in the second segment.
    Step::Trim(3),
    Step::Maintain,
    Step::AppendDurable(9_000),
];

#[test]
fn commits_survive_a_crash_after_any_effect() {
    for ordering in [Ordering::TailLocalised, Ordering::Serialised] {
        exhaust("commits", &small(ordering), COMMITS, NEAR);
    }
}

#[test]
fn full_windows_survive_a_crash_after_any_effect() {
    for ordering in [Ordering::TailLocalised, Ordering::Serialised] {
        exhaust("windows", &small(ordering).spare_segments(0), WINDOWS, NEAR);
    }
}

/// The checkpoint moves into a segment while that, and the next, hold what is written and not durable.
const CHECKPOINTS: &[Step] = &[
    Step::Append(30_000),
    Step::Append(30_000),
    // Its end is in the second segment, and that of the next three in the third.
    Step::AppendDurable(6_000),
    Step::Append(30_000),
    Step::Append(30_000),
    Step::Append(30_000),
    Step::WaitWritten(5),
    Step::Maintain,
    Step::Append(100),
    Step::Flush,
    Step::AppendDurable(10),
];

#[test]
fn checkpoints_survive_a_crash_after_any_effect() {
    let options = small(Ordering::TailLocalised).sync_every_bytes(1 << 20);
    exhaust("checkpoints", &options, CHECKPOINTS, NEAR);
}

#[test]
fn trims_survive_a_crash_after_any_effect() {
    for spare_segments in 0..2 {
        let options = small(Ordering::TailLocalised).spare_segments(spare_segments);
        exhaust("segments", &options, SEGMENTS, FAR);
    }
}

/// Recovery itself is cut short after each of its effects, after several crashes.
#[test]
fn recovery_survives_a_crash_after_any_effect() {
    let began = Instant::now();
    let options = small(Ordering::TailLocalised);
    let (whole, _) = run_script(WINDOWS, &options, 1, None);
    let mut states = 0;
    for stop in (10..whole.effects()).step_by(5) {
        let (sim, model) = run_script(WINDOWS, &options, 1, Some(stop));
        let mut dice = Dice::new(stop);
        for first in [End::Power, End::Kill] {
            let seed = dice.draw();
            let crashed = || {
                let mut dice = Dice::new(seed);
                let mut choose = |_: &Undurable| Survival::drawn(&mut dice);
                match first {
                    End::Power => sim.crash(&mut choose),
                    End::Kill => sim.kill(&mut choose),
                }
            };
            for again in 1.. {
                let next = crashed();
                next.crash_after(again);
                let mut known = model.clone();
                let Err(_) = recover(&next, &options, &mut known, first) else {
                    break;
                };
                assert!(again < 200, "recovery does not end");
                for survival in [Survival::Lost, Survival::Kept, Survival::Torn(again)] {
                    let last = next.crash(&mut |_| survival);
                    checked("recovery", (stop, again), || {
                        check(&last, &options, model.clone(), End::Power, NEAR);
                    });
                    states += 1;
                }
                let last = next.kill(&mut |_| Survival::Torn(again));
                checked("recovery", (stop, again), || {
                    check(&last, &options, model.clone(), first, NEAR);
                });
            }
        }
    }
    seeds::report("recovery", &format!("{states} states"), began);
}

/// Two power failures in a row, the second in the recovery from the first, and both tear whatever is
/// being written.
#[test]
fn what_two_crashes_tear_leaves_a_store() {
    let began = Instant::now();
    let options = small(Ordering::TailLocalised);
    let (whole, _) = run_script(COMMITS, &options, 1, None);
    let tears = [Survival::Prefix(1), Survival::Torn(1), Survival::Lost];
    let mut states = 0;
    for stop in 1..=whole.effects() {
        let (sim, model) = run_script(COMMITS, &options, 1, Some(stop));
        for tear in tears {
            for again in 1.. {
                let next = sim.crash(&mut |_| tear);
                next.crash_after(again);
                let mut known = model.clone();
                let Err(_) = recover(&next, &options, &mut known, End::Power) else {
                    break;
                };
                assert!(again < 200, "recovery does not end");
                let last = next.crash(&mut |_| tear);
                checked("two crashes", (stop, again), || {
                    check(&last, &options, model.clone(), End::Power, NEAR);
                });
                states += 1;
            }
        }
    }
    seeds::report("two crashes", &format!("{states} states"), began);
}

/// Whoever finds a buffer full has sealed it and has to hand it over, be it the maintenance.
#[test]
fn a_buffer_filled_to_its_last_byte_is_written_when_the_store_falls_idle() {
    let options = small(Ordering::TailLocalised);
    let sim = Sim::with(SimOptions::new(1).alone(true));
    let store = Store::open(dir(), sim, options).expect("opens");
    store.append_durable(b"first").expect("appends");
    store.maintain().expect("maintains");
    let (slot_header, record_header) = (64, 8);
    let exact = (4 << 10) - slot_header - record_header;
    let lsn = store.append(&vec![1; exact]).expect("appends");
    for _ in 0..3 {
        store.maintain().expect("maintains");
    }
    store.wait_durable(lsn).expect("it is written");
}

/// A record without a byte fits into what a record's header takes: at the very end of a buffer.
#[test]
fn the_last_record_of_a_full_buffer_is_read_while_it_is_on_its_way_and_after() {
    let sim = Sim::with(SimOptions::new(1).alone(true));
    let store = Store::open(dir(), sim.clone(), small(Ordering::TailLocalised)).expect("opens");
    let (slot_header, record_header) = (64, 8);
    let rest = (4 << 10) - slot_header - 2 * record_header;
    let first = store.append(&vec![1; rest]).expect("appends");
    let last = store.append(b"").expect("appends");
    assert_eq!(last.get() + 8, 4096, "the buffer is full");
    let after = store.append(b"in the next").expect("appends");
    for in_flight in [1, 0] {
        assert!(store.read(first).expect("there") == vec![1; rest]);
        assert!(store.read(last).expect("there").is_empty());
        assert_eq!(store.read(after).expect("there"), b"in the next");
        assert_eq!(sim.in_flight(), in_flight, "nobody waits for a write");
        while sim.poll() > 0 {}
    }
}

/// Whatever becomes of the one record: the buffer in front of it goes its way.
#[test]
fn a_panic_in_a_record_larger_than_a_buffer_holds_up_nothing() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let sim = Sim::with(SimOptions::new(1).alone(true));
    let store = Store::open(dir(), sim, small(Ordering::TailLocalised)).expect("opens");
    let before = store.append(b"before").expect("appends");
    let fill = || store.append_with(9000, |_| panic!("in the middle of it"));
    catch_unwind(AssertUnwindSafe(fill)).expect_err("it panics");
    store.wait_durable(before).expect("it is written");
    let after = store.append(b"after").expect("appends");
    store.flush().expect("flushes");
    assert_eq!(store.read(before).expect("there"), b"before");
    assert_eq!(store.read(after).expect("there"), b"after");
}

/// What a killed process has written lies in three files, none of it durable. Once it has been
/// recovered it is, whatever the power does.
#[test]
fn what_is_recovered_is_durable_however_far_back_it_lies() {
    let options = small(Ordering::TailLocalised)
        .window_slots(7)
        .sync_every_bytes(1 << 20);
    let mut script = vec![Step::Append(30_000); 6];
    script.push(Step::WaitWritten(5));
    let (sim, mut model) = run_script(&script, &options, 1, None);
    let killed = sim.kill(&mut |_| Survival::Kept);
    let lost = killed.undurable().len();
    assert!(lost >= 6, "{lost} things that are not durable");
    let store = recover(&killed, &options, &mut model, End::Kill).expect("nothing is in its way");
    killed.stop();
    drop(store);
    let next = killed.crash(&mut |_| Survival::Lost);
    check(&next, &options, model, End::Power, NEAR);
}

/// Nobody waits for any record: what the maintenance has committed by time is there after a crash.
#[test]
fn what_is_committed_by_time_survives() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let options = small(Ordering::TailLocalised).commit_every(Some(std::time::Duration::ZERO));
        let sim = Sim::with(SimOptions::new(seed).alone(true));
        let mut model = Model::default();
        let store = recover(&sim, &options, &mut model, End::Power).expect("opens");
        for _ in 0..5 {
            for _ in 0..dice.below(8) {
                let payload = model.payload(dice.index(3000));
                model.appended(store.append(&payload).expect("appends"), payload);
            }
            if dice.chance(2, 3) {
                store.maintain().expect("maintains");
                model.is_durable(model.len());
            }
        }
        sim.stop();
        drop(store);
        let count = sim.undurable().len();
        let next = sim.crash(&mut drawn_choice(&mut dice, count));
        drop(recover(&next, &options, &mut model, End::Power).expect("opens"));
    }
}

/// What opening takes is the ring, the read-ahead, and a name for each segment.
#[test]
fn opening_takes_no_more_memory_for_a_longer_log() {
    const NAME_BYTES: u64 = 100;
    let options = small(Ordering::TailLocalised);
    let mut most = Vec::new();
    for segments in [10, 200] {
        let sim = Sim::with(SimOptions::new(1).alone(true));
        let store = Store::open(dir(), sim.clone(), options.clone()).expect("opens");
        while store.tail().get() < segments * SEGMENT_BYTES {
            store.append_durable(&[7; 3000]).expect("appends");
            store.maintain().expect("maintains");
        }
        // Half of a segment that no checkpoint covers is read at opening, in both logs.
        drop(store);
        let (opened, bytes) = most_during(|| Store::open(dir(), sim.clone(), options.clone()));
        let store = opened.expect("opens");
        assert_eq!(store.info().expect("info").segments, segments + 1);
        let scanned = most_during(|| {
            let records = store.scan(..).expect("a range");
            records
                .map(|record| record.expect("whole").payload.len())
                .sum::<usize>()
        });
        most.push((segments, bytes, scanned.1));
    }
    let [
        (few, opening, scanning),
        (many, opening_more, scanning_more),
    ] = most[..]
    else {
        panic!("two logs");
    };
    let names = (many - few) * NAME_BYTES;
    assert!(
        opening_more <= opening + names,
        "{opening} and {opening_more}"
    );
    assert!(
        scanning_more <= scanning + names,
        "{scanning} and {scanning_more}"
    );
}
