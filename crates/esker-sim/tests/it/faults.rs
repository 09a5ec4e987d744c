//! A store on a device that fails, lies, or is full.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use esker_io::{Action, Backend, Completion, Create, FileOptions, Operation, Ordering, ReadMemory};
use esker_lss::{AppendError, Options, ReadError, Store};
use esker_sim::{Dice, Fault, Sim, SimOptions, Survival};

use crate::model::{End, Model, dir, goes_on, range_of, recover, small, try_scan};
use crate::seeds;
use crate::workload::{Bench, Step};

pub(crate) fn start(seed: u64, options: &Options) -> Bench {
    let sim = Sim::with(SimOptions::new(seed).alone(true));
    let store = Store::open(dir(), sim.clone(), options.clone()).expect("opens");
    let mut model = Model::default();
    model.recovered(&store, End::Power);
    Bench {
        sim,
        options: options.clone(),
        model,
        store,
        may_fail: true,
        may_be_full: true,
    }
}

pub(crate) fn drawn_ordering(dice: &mut Dice) -> Ordering {
    match dice.chance(1, 2) {
        true => Ordering::Serialised,
        false => Ordering::TailLocalised,
    }
}

/// The next step that does not end the life by itself.
pub(crate) fn next_step(dice: &mut Dice) -> Step {
    loop {
        let step = Step::drawn(dice);
        if !matches!(step, Step::Close | Step::Drop | Step::Scan) {
            return step;
        }
    }
}

/// A store that has refused something: either it goes on as if nothing had happened, or it accepts
/// nothing any more, and still reads what is durable.
fn refused(bench: &mut Bench, fault: Fault) {
    let payload = bench.model.payload(20);
    match bench.store.append(&payload) {
        Ok(lsn) => {
            bench.model.appended(lsn, payload);
            bench.store.flush().expect("it is as it was");
            bench.model.is_durable(bench.model.len());
            return;
        }
        Err(AppendError::Poisoned(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
    let last = bench.store.durable();
    for _ in 0..3 {
        assert!(bench.store.append(b"more").is_err());
        assert!(bench.store.maintain().is_err());
        for index in 0..bench.model.len() {
            let Some(lsn) = bench.model.lsn(index) else {
                continue;
            };
            let waited = bench.store.wait_durable(lsn);
            let durable = bench.store.durable();
            assert_eq!(durable, last, "something was acknowledged after a failure");
            assert_eq!(waited.is_ok(), lsn < durable, "{lsn} of {durable}");
            if waited.is_ok() {
                bench.model.is_durable(index + 1);
            }
            if lsn < durable && lsn >= bench.store.first() {
                let read = bench.store.read(lsn).expect("it is durable");
                assert!(
                    read == bench.model.payload_of(index),
                    "{lsn} reads otherwise"
                );
            }
        }
        bench.sim.poll();
    }
    bench.model.look(&bench.store);
    // A sync that has failed takes what was written; a write that has takes nothing but itself.
    let takes_others = !matches!(fault, Fault::WriteFails | Fault::WriteIsShort { .. });
    let written = bench.store.first()..bench.store.written();
    for index in 0..bench.model.len() {
        let Some(lsn) = bench.model.lsn(index).filter(|lsn| written.contains(lsn)) else {
            continue;
        };
        match bench.store.read(lsn) {
            Ok(read) => assert!(
                read == bench.model.payload_of(index),
                "{lsn} reads otherwise"
            ),
            Err(ReadError::Lost { .. }) => assert!(takes_others && lsn >= last, "{lsn} is lost"),
            Err(error) => panic!("{lsn}: {error}"),
        }
    }
}

fn failing(seed: u64) {
    let mut dice = Dice::new(seed);
    let options = small(drawn_ordering(&mut dice)).sync_every_bytes(4096 << dice.below(10));
    let mut bench = start(dice.draw(), &options);
    let fault = match dice.below(8) {
        0..2 => Fault::WriteFails,
        2..4 => Fault::SyncFails,
        4..6 => Fault::FlushFails,
        6 => Fault::WriteIsShort {
            sectors: dice.index(9),
        },
        _ => Fault::DirSyncFails,
    };
    bench.sim.inject(fault, dice.below(12));
    for _ in 0..40 {
        if dice.chance(1, 4) {
            bench.sim.run_ahead();
        }
        let went = bench.try_step(next_step(&mut dice));
        bench.model.look(&bench.store);
        if went.is_none() {
            refused(&mut bench, fault);
            break;
        }
    }
    let has_failed = bench.sim.faults_left() == 0;
    let Bench {
        sim,
        mut model,
        store,
        ..
    } = bench;
    drop(store);
    // What a failed sync has dropped is seen by reads until the power fails.
    if has_failed && dice.chance(1, 2) {
        let store = recover(&sim, &options, &mut model, End::Power).expect("nothing fails again");
        goes_on(&sim, &options, store, &mut model, &[700]);
        return;
    }
    let mut torn = Dice::new(dice.draw());
    let next = sim.crash(&mut |_| match torn.below(2) {
        0 => Survival::Lost,
        _ => Survival::drawn(&mut torn),
    });
    let store = recover(&next, &options, &mut model, End::Power).expect("the machine is up");
    goes_on(&next, &options, store, &mut model, &[700]);
}

#[test]
fn a_failed_write_or_sync_is_never_made_good() {
    seeds::run(
        "faults::a_failed_write_or_sync_is_never_made_good",
        600,
        failing,
    );
}

const GROWS: &[Step] = &[
    Step::Append(30_000),
    Step::Append(30_000),
    Step::AppendDurable(30_000),
    Step::Maintain,
    Step::AppendDurable(30_000),
    Step::Append(30_000),
    Step::Maintain,
    Step::Flush,
    Step::Append(30_000),
    Step::Append(30_000),
    Step::Flush,
];

#[test]
fn no_space_at_any_allocation_loses_nothing() {
    let options = small(Ordering::TailLocalised);
    let mut refusals = 0;
    for skipped in 0..12 {
        let sim = Sim::with(SimOptions::new(skipped).alone(true));
        sim.inject(Fault::NoSpace, skipped);
        let store = Store::open(dir(), sim.clone(), options.clone()).expect("opens");
        let mut model = Model::default();
        model.recovered(&store, End::Power);
        let mut bench = Bench {
            sim,
            options: options.clone(),
            model,
            store,
            may_fail: true,
            may_be_full: true,
        };
        for step in GROWS {
            let before = bench.model.len();
            assert!(bench.try_step(*step).is_some(), "{step:?} at {skipped}");
            let appends = matches!(step, Step::Append(_) | Step::AppendDurable(_));
            if appends && bench.model.len() == before {
                refusals += 1;
                bench.store.flush().expect("it is as it was");
                bench.model.is_durable(before);
                bench
                    .model
                    .check_all(&bench.store, &try_scan(&bench.store).expect("reads"));
                assert!(bench.try_step(*step).is_some());
                assert_eq!(bench.model.len(), before + 1, "there is space again");
            }
        }
        let Bench {
            sim,
            mut model,
            store,
            ..
        } = bench;
        store.close().expect("closes");
        let next = sim.crash(&mut |_| Survival::Lost);
        let store = recover(&next, &options, &mut model, End::Power).expect("the machine is up");
        goes_on(&next, &options, store, &mut model, &[700]);
    }
    assert!(refusals > 1, "{refusals} refusals");
}

/// The name of a segment that could not be synced may be lost, whatever a later sync says.
#[test]
fn a_failed_sync_of_names_is_final() {
    let options = small(Ordering::TailLocalised).spare_segments(0);
    let bench = start(3, &options);
    bench.sim.inject(Fault::DirSyncFails, 0);
    let refused = (0..100).find_map(|_| bench.store.append(&[1; 10_000]).err());
    assert!(
        matches!(refused, Some(AppendError::Segment { .. })),
        "{refused:?}"
    );
    let durable = bench.store.durable();
    let refused = bench.store.append(&[1; 10]);
    assert!(
        matches!(refused, Err(AppendError::Poisoned(_))),
        "{refused:?}"
    );
    bench.store.flush().expect_err("nothing becomes durable");
    assert_eq!(bench.store.durable(), durable);
}

#[test]
fn a_full_disk_can_be_opened_trimmed_and_appended_to_again() {
    for segments in 2..6_u64 {
        let options = small(Ordering::TailLocalised).spare_segments(0);
        let mut bench = start(segments, &options);
        let superblock = 69_632;
        bench
            .sim
            .set_capacity(Some(superblock + segments * (64 << 10)));
        let mut appends = 0;
        loop {
            let before = bench.model.len();
            assert!(bench.try_step(Step::Append(10_000)).is_some());
            if bench.model.len() == before {
                break;
            }
            appends += 1;
            assert!(appends < 100, "the disk is full");
        }
        assert!(bench.try_step(Step::Flush).is_some());
        let Bench {
            sim,
            mut model,
            store,
            ..
        } = bench;
        sim.stop();
        drop(store);
        let next = sim.crash(&mut |_| Survival::Lost);
        let store = recover(&next, &options, &mut model, End::Power).expect("a full disk opens");
        model.check_all(&store, &try_scan(&store).expect("reads"));
        let middle = model.lsn(model.len() - 1).expect("known");
        model.tries_to_trim(middle);
        model.has_trimmed(store.trim_before(middle).expect("trims"));
        goes_on(&next, &options, store, &mut model, &[700]);
    }
}

/// Of two syncs in flight one fails and the other succeeds, and the success is heard of first.
#[test]
fn a_success_does_not_count_while_something_in_flight_with_it_may_have_failed() {
    let options = small(Ordering::TailLocalised).sync_every_bytes(4096);
    for seed in 0..20 {
        let mut bench = start(seed, &options);
        assert!(bench.try_step(Step::AppendDurable(10)).is_some());
        assert!(bench.try_step(Step::Append(9000)).is_some());
        let written = bench.sim.poll();
        assert_eq!(
            (written, bench.sim.in_flight()),
            (1, 1),
            "a sync has been started"
        );
        let durable = bench.store.durable();
        let lsn = bench.store.append(b"not durable").expect("appends");
        bench.sim.inject(Fault::SyncFails, 0);
        assert!(bench.sim.run_ahead(), "it fails, and nobody hears of it");
        let syncs = bench.store.info().expect("info").syncs;
        bench
            .store
            .wait_durable(lsn)
            .expect_err("what a sync has dropped is acknowledged by another");
        assert_eq!(bench.store.durable(), durable, "seed {seed}");
        let succeeded = bench.store.info().expect("info").syncs - syncs;
        assert_eq!(succeeded, 1, "the sync of whoever waited");
    }
}

/// The failure may have been told to one of two syncs in flight, and be of what the other covers.
#[test]
fn a_sync_that_succeeds_after_another_has_failed_acknowledges_nothing() {
    let options = small(Ordering::TailLocalised).sync_every_bytes(4096);
    let mut failed_first = 0;
    for seed in 0..20 {
        let mut bench = start(seed, &options);
        assert!(bench.try_step(Step::AppendDurable(10)).is_some());
        assert!(bench.try_step(Step::Append(9000)).is_some());
        let written = bench.sim.poll();
        assert_eq!(
            (written, bench.sim.in_flight()),
            (1, 1),
            "a sync has been started"
        );
        let lsn = bench.store.append(b"not durable").expect("appends");
        let durable = bench.store.durable();
        bench.sim.inject(Fault::SyncFails, 0);
        if bench.store.wait_durable(lsn).is_err() && bench.sim.in_flight() == 1 {
            failed_first += 1;
            assert_eq!(bench.sim.poll(), 1, "the other sync succeeds");
        }
        assert_eq!(bench.store.durable(), durable, "seed {seed}");
    }
    assert!(failed_first > 0, "the order that is meant has not come up");
}

/// A header names what is acknowledged. What a sync has confirmed beside another one that has failed,
/// and that nobody has heard of yet, may be gone: a slot that called it durable would turn the torn
/// tail of a crash into damage.
#[test]
fn a_slot_calls_nothing_durable_that_does_not_count_yet() {
    let options = small(Ordering::TailLocalised).sync_every_bytes(4096);
    let (mut between, mut kept) = (0, 0);
    for seed in 0..40 {
        let Bench {
            sim,
            mut model,
            store,
            ..
        } = start(seed, &options);
        let store = Arc::new(store);
        let mut append = |len| {
            let payload = model.payload(len);
            let lsn = store.append(&payload).expect("appends");
            model.appended(lsn, payload);
            lsn
        };
        let first = append(10);
        store.wait_durable(first).expect("durable");
        let durable = store.durable();
        append(9000);
        let written = sim.poll();
        assert_eq!(
            (written, sim.in_flight()),
            (1, 1),
            "a sync has been started"
        );
        let waited = append(20);
        sim.inject(Fault::SyncFails, 0);
        assert!(sim.run_ahead(), "it fails, and nobody hears of it");
        // Somebody's read, at whose end more is appended: before the failure is heard of, or after.
        let file = FileOptions::read_write().create(Create::New);
        let file = sim.open(Path::new("/data/other"), &file).expect("a file");
        let appended = Arc::new(Mutex::new(Vec::new()));
        let (appends, news) = (Arc::clone(&store), Arc::clone(&appended));
        let read = Operation::new(
            file,
            Action::Read {
                offset: 0,
                memory: ReadMemory::new(vec![0; 512]),
            },
            move |_: Completion| {
                let mut future = appends.until_durable(waited);
                let mut context = Context::from_waker(Waker::noop());
                let told = Pin::new(&mut future).poll(&mut context);
                assert!(!matches!(told, Poll::Ready(Ok(()))), "a future is told so");
                assert_eq!(appends.durable(), durable, "it says so");
                for fill in 1..6 {
                    let record = vec![fill; 1000];
                    let Ok(lsn) = appends.append(&record) else {
                        return;
                    };
                    news.lock().expect("whole").push((lsn, record));
                }
            },
        );
        sim.submit(vec![read]);
        let waited = store.wait_durable(waited);
        waited.expect_err("what a sync has dropped is acknowledged by another");
        while sim.poll() > 0 {}
        assert_eq!(store.durable(), durable);
        let appended = std::mem::take(&mut *appended.lock().expect("whole"));
        between += usize::from(appended.len() == 5);
        for (lsn, record) in appended {
            model.appended(lsn, record);
        }
        sim.stop();
        drop(Arc::into_inner(store).expect("the read has ended"));
        // Of what is not durable, what the failed sync has dropped is lost, and nothing else.
        let next = sim.crash(&mut |item| match range_of(item) {
            Some((from, _)) if from == durable.get() => Survival::Lost,
            Some(_) => {
                kept += 1;
                Survival::Kept
            }
            None => Survival::Kept,
        });
        let store = recover(&next, &options, &mut model, End::Power).expect("a torn tail");
        goes_on(&next, &options, store, &mut model, &[700]);
    }
    assert!(
        between > 0 && kept > 0,
        "the order that is meant has not come up"
    );
}

/// Of a slot that lies in two files one piece cannot be written, be it the first or the last that
/// anybody hears of.
#[test]
fn a_slot_of_which_a_piece_has_failed_is_not_written() {
    for seed in 0..20 {
        for skipped in 0..2 {
            let bench = start(seed, &small(Ordering::TailLocalised));
            for _ in 0..2 {
                bench.store.append(&[1; 30_000]).expect("appends");
            }
            bench.store.flush().expect("durable");
            bench.sim.inject(Fault::WriteFails, skipped);
            let lsn = bench.store.append(&[2; 20_000]).expect("appends");
            assert_eq!(bench.sim.in_flight(), 2, "a piece in each file");
            while bench.sim.in_flight() > 0 {
                bench.sim.poll();
            }
            assert!(bench.store.written() <= lsn, "seed {seed}");
            let waited = bench.store.wait_written(lsn);
            assert!(waited.is_err(), "seed {seed}: it was not written");
        }
    }
}
