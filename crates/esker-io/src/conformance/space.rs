//! Checks of what changes a file's space or length, executed and submitted.

use super::{Bench, Ran, checks, one, pattern, read, write};
use crate::action::{Action, Completion, Durability};
use crate::backend::{Allocated, Allocation, Backend, FileOptions, Punched};
use crate::error::{Fate, IoError, OperationKind};
use crate::ext::BackendExt;
use crate::lane::{Lane, Ordering};
use crate::operation::Operation;
use crate::sync::{Arc, Mutex};

checks!(
    allocation_reserves_and_reads_as_zeroes,
    allocation_takes_space_as_asked_for,
    a_hole_reads_as_zeroes_and_keeps_the_length,
    truncation_sets_the_length,
    space_is_taken_by_operations,
    lengths_and_holes_are_made_by_operations,
    a_change_of_space_that_cannot_be_is_refused_and_named,
    changes_of_space_are_counted,
    a_batch_may_hold_transfers_and_changes_of_space,
    a_serialised_lane_keeps_changes_of_length_in_their_turn,
);

fn allocation_reserves_and_reads_as_zeroes<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.direct_file("allocated");
    bench
        .backend
        .allocate(&file, 0, 1 << 20)
        .expect("there is space");
    let facts = bench.backend.facts(&file).expect("facts");
    assert_eq!(facts.len_bytes, 1 << 20);
    let path = bench.path("allocated");
    let buffered = bench
        .backend
        .open(&path, &FileOptions::read_write())
        .expect("it exists");
    let done = bench.backend.execute(&buffered, read(0, 1 << 20));
    assert_eq!(done.result.expect("it succeeds"), 1 << 20);
    assert!(done.memory.bytes().iter().all(|&byte| byte == 0));
    Ran::Done
}

fn allocation_takes_space_as_asked_for<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.direct_file("asked-for");
    let mut end = 0;
    for how in [Allocation::Quick, Allocation::Written, Allocation::Reserved] {
        let allocated = bench
            .backend
            .allocate_with(&file, end, 1 << 19, how)
            .expect("there is space");
        if how == Allocation::Written {
            assert_eq!(allocated, Allocated::WrittenZeroes);
        }
        end += 1 << 19;
        let facts = bench.backend.facts(&file).expect("facts");
        assert_eq!(facts.len_bytes, end);
    }
    let path = bench.path("asked-for");
    let buffered = bench
        .backend
        .open(&path, &FileOptions::read_write())
        .expect("it exists");
    let done = bench.backend.execute(&buffered, read(0, 3 << 19));
    assert_eq!(done.result.expect("it succeeds"), 3 << 19);
    assert!(done.memory.bytes().iter().all(|&byte| byte == 0));
    Ran::Done
}

fn a_hole_reads_as_zeroes_and_keeps_the_length<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("hole");
    let bytes = pattern(5, 100_000);
    let [done] = one(bench.complete(&file, vec![write(0, bytes.clone())]));
    assert_eq!(done.result.expect("it succeeds"), 100_000);
    for (from, to) in [(10, 20), (5000, 60_000), (90_000, 200_000), (7, 7)] {
        bench
            .backend
            .punch_hole(&file, from, to - from)
            .expect("it succeeds");
    }
    assert_eq!(
        bench.backend.facts(&file).expect("facts").len_bytes,
        100_000
    );
    let done = bench.backend.execute(&file, read(0, 100_000));
    let read = done.memory.bytes();
    for range in [10..20, 5000..60_000, 90_000..100_000] {
        assert!(read[range].iter().all(|&byte| byte == 0));
    }
    for range in [0..10, 20..5000, 60_000..90_000] {
        assert!(read[range.clone()] == bytes[range]);
    }
    let reader = bench
        .backend
        .open(&bench.path("hole"), &FileOptions::read())
        .expect("it exists");
    let error = bench
        .backend
        .punch_hole(&reader, 0, 10)
        .expect_err("it is read-only");
    assert!(matches!(error, IoError::NotWritable { .. }), "{error:?}");
    Ran::Done
}

fn truncation_sets_the_length<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("truncated");
    let [done] = one(bench.complete(&file, vec![write(0, pattern(1, 1000))]));
    assert_eq!(done.result.expect("it succeeds"), 1000);
    for (len_bytes, same) in [(500, 500), (2000, 500), (0, 0)] {
        bench
            .backend
            .truncate(&file, len_bytes)
            .expect("it succeeds");
        let facts = bench.backend.facts(&file).expect("facts");
        assert_eq!(facts.len_bytes, len_bytes);
        let done = bench.backend.execute(&file, read(0, 3000));
        let count = done.result.expect("it succeeds");
        assert_eq!(count as u64, len_bytes);
        let (bytes, zeroes) = done.memory.bytes()[..count].split_at(same);
        assert!(bytes == &pattern(1, 1000)[..same]);
        assert!(zeroes.iter().all(|&byte| byte == 0));
    }
    Ran::Done
}

fn space_is_taken_by_operations<B: Backend>(bench: &Bench<B>) -> Ran {
    const LEN: u64 = 1 << 19;
    let file = bench.direct_file("taken");
    let mut end = 0;
    for how in [Allocation::Quick, Allocation::Written, Allocation::Reserved] {
        let executed = bench.backend.allocate_with(&file, end, LEN, how);
        let executed = executed.expect("there is space");
        end += LEN;
        let pending = bench.backend.start_allocate(&file, end, LEN, how);
        let submitted = bench.finish(pending).expect("there is space");
        end += LEN;
        assert_eq!(submitted, executed, "{how:?}");
        if how != Allocation::Quick {
            let written = submitted == Allocated::WrittenZeroes;
            assert!(written || how == Allocation::Reserved);
        }
        let facts = bench.backend.facts(&file).expect("facts");
        assert_eq!(facts.len_bytes, end);
    }
    // Within the file its length stays as it is; and of nothing nothing is taken.
    for (offset, len_bytes) in [(LEN, LEN), (end + 5, 0)] {
        let pending = bench
            .backend
            .start_allocate(&file, offset, len_bytes, Allocation::Written);
        bench.finish(pending).expect("there is space");
    }
    assert_eq!(bench.backend.facts(&file).expect("facts").len_bytes, end);
    let reader = bench
        .backend
        .open(&bench.path("taken"), &FileOptions::read());
    let reader = reader.expect("it exists");
    let len = usize::try_from(end).expect("small");
    let done = bench.backend.execute(&reader, read(0, len));
    assert_eq!(done.result.expect("it succeeds"), len);
    assert!(done.memory.bytes().iter().all(|&byte| byte == 0));
    Ran::Done
}

fn lengths_and_holes_are_made_by_operations<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("changed");
    let bytes = pattern(6, 100_000);
    let [done] = one(bench.complete(&file, vec![write(0, bytes.clone())]));
    assert_eq!(done.result.expect("it succeeds"), 100_000);
    let punch = |offset, len_bytes| Action::PunchHole { offset, len_bytes };
    let holes = vec![punch(10, 10), punch(5000, 55_000), punch(90_000, 110_000)];
    for done in bench.complete(&file, holes) {
        let zeroed = done.result.expect("it succeeds");
        assert!(matches!(
            Punched::of(zeroed),
            Punched::Freed | Punched::Zeroed
        ));
    }
    let pending = bench.backend.start_punch_hole(&file, 7, 0);
    assert_eq!(bench.finish(pending).expect("it succeeds"), Punched::Freed);
    for (len, same) in [(80_000, 80_000), (70_000, 70_000), (95_000, 70_000)] {
        let pending = bench.backend.start_truncate(&file, len as u64);
        bench.finish(pending).expect("it succeeds");
        let done = bench.backend.execute(&file, read(0, 200_000));
        assert_eq!(done.result.expect("it succeeds"), len);
        let read = done.memory.bytes();
        for range in [10..20, 5000..60_000, same..len] {
            assert!(read[range].iter().all(|&byte| byte == 0));
        }
        for range in [0..10, 20..5000, 60_000..same] {
            assert!(read[range.clone()] == bytes[range]);
        }
    }
    Ran::Done
}

fn a_change_of_space_that_cannot_be_is_refused_and_named<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("refused");
    let path = bench.path("refused");
    let reader = bench.backend.open(&path, &FileOptions::read());
    let reader = reader.expect("it exists");
    let changes = |far: u64| {
        let (offset, len_bytes) = (far + 7, 9);
        let allocate = Action::Allocate {
            offset,
            len_bytes,
            how: Allocation::Quick,
        };
        let punch = Action::PunchHole { offset, len_bytes };
        let truncate = Action::Truncate { len_bytes: offset };
        vec![allocate, punch, truncate]
    };
    let refused = |file, far| {
        let mut ended = bench.complete(file, changes(far));
        let executed = changes(far).into_iter();
        ended.extend(executed.map(|action| bench.backend.execute(file, action)));
        let kinds = [
            OperationKind::Allocate,
            OperationKind::Punch,
            OperationKind::Truncate,
        ];
        ended.into_iter().zip(kinds.into_iter().cycle())
    };
    for (done, kind) in refused(&reader, 0) {
        let error = done.result.expect_err("the handle is read-only");
        assert!(matches!(error, IoError::NotWritable { .. }), "{error:?}");
        assert_eq!(error.fate(), Fate::Determinate);
        let context = error.context();
        assert_eq!((context.operation, context.offset), (kind, 7));
        assert_eq!(*context.path, *path);
    }
    for (done, kind) in refused(&file, i64::MAX as u64 - 2) {
        let error = done.result.expect_err("no file reaches there");
        assert!(matches!(error, IoError::OutOfRange { .. }), "{error:?}");
        assert_eq!(error.fate(), Fate::Determinate);
        assert_eq!(error.context().operation, kind);
    }
    assert_eq!(bench.backend.facts(&file).expect("facts").len_bytes, 0);
    Ran::Done
}

fn changes_of_space_are_counted<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("counted");
    let before = bench.backend.statistics();
    for len in [8192, 4096] {
        let pending = bench.backend.start_truncate(&file, len);
        bench.finish(pending).expect("it succeeds");
    }
    bench.backend.truncate(&file, 9000).expect("it succeeds");
    let pending = bench
        .backend
        .start_allocate(&file, 0, 9000, Allocation::Quick);
    bench.finish(pending).expect("it succeeds");
    bench
        .backend
        .punch_hole(&file, 0, 100)
        .expect("it succeeds");
    let refused = bench.backend.start_punch_hole(&file, u64::MAX, 1);
    bench.finish(refused).expect_err("no file reaches there");
    bench.wait("the last sink's return", || bench.backend.in_flight() == 0);
    let counted = bench.backend.statistics().since(&before);
    let of = |kind: crate::KindStatistics| (kind.submitted, kind.completed, kind.failed);
    assert_eq!(of(counted.truncations), (3, 3, 0));
    assert_eq!(of(counted.allocations), (1, 1, 0));
    assert_eq!(of(counted.holes), (2, 2, 1));
    assert_eq!((counted.submitted(), counted.failed()), (6, 1));
    assert_eq!((counted.writes.bytes, counted.in_flight), (0, 0));
    Ran::Done
}

fn a_batch_may_hold_transfers_and_changes_of_space<B: Backend>(bench: &Bench<B>) -> Ran {
    const LEN: u64 = 10_000;
    let files: Vec<_> = (0..20u64)
        .map(|number| bench.file(&format!("mixed-{number}")))
        .collect();
    let results = Arc::new(Mutex::new(Vec::new()));
    let actions = files.iter().enumerate().flat_map(|(number, file)| {
        let first = write(LEN, pattern(number as u64, 1000));
        let second = match number % 3 {
            0 => Action::Allocate {
                offset: 0,
                len_bytes: LEN,
                how: Allocation::Reserved,
            },
            1 => Action::Truncate { len_bytes: 2 * LEN },
            _ => Action::PunchHole {
                offset: 0,
                len_bytes: LEN,
            },
        };
        [first, second, Action::SyncData].map(|action| (file.clone(), action))
    });
    let batch: Vec<_> = actions
        .map(|(file, action)| {
            let (results, kind) = (Arc::clone(&results), action.kind());
            Operation::new(file, action, move |done: Completion| {
                results.lock().push((kind, done.result));
            })
        })
        .collect();
    let count = batch.len();
    bench.backend.submit(batch);
    bench.wait("the end of all", || bench.backend.in_flight() == 0);
    let results = core::mem::take(&mut *results.lock());
    assert_eq!(results.len(), count);
    for (kind, result) in results {
        let bytes = result.expect("it succeeds");
        assert!(
            kind != OperationKind::Write || bytes == 1000,
            "{kind}: {bytes}"
        );
    }
    for (number, file) in files.iter().enumerate() {
        // Whichever of the two came first. A file that was extended and written has both.
        let len = bench.backend.facts(file).expect("facts").len_bytes;
        let extended = number % 3 == 1;
        assert_eq!(len, if extended { 2 * LEN } else { LEN + 1000 });
        let done = bench.backend.execute(file, read(LEN, 1000));
        assert!(
            done.memory.bytes() == pattern(number as u64, 1000),
            "{number}"
        );
    }
    Ran::Done
}

fn a_serialised_lane_keeps_changes_of_length_in_their_turn<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("turns");
    let lane = Lane::new(Arc::clone(&bench.backend), Ordering::Serialised);
    let turn = |action| {
        Operation::new(file.clone(), action, |done: Completion| {
            done.result.expect("it succeeds");
        })
    };
    for round in 0..50 {
        lane.submit(vec![
            turn(write(0, pattern(round, 5000))),
            turn(Action::Truncate { len_bytes: 100 }),
            turn(Action::Allocate {
                offset: 0,
                len_bytes: 50,
                how: Allocation::Reserved,
            }),
            turn(write(1000, pattern(round, 10))),
            turn(Action::PunchHole {
                offset: 1005,
                len_bytes: 100,
            }),
        ]);
    }
    let done = lane.execute(&file, Action::SyncData);
    done.result.expect("it succeeds");
    assert_eq!(lane.in_flight(), 0, "everything before it has ended");
    let done = bench
        .backend
        .read_at(&file, 0, vec![9; 3000])
        .expect("it succeeds");
    let (count, bytes) = done;
    assert_eq!(count, 1010);
    assert!(bytes[100..1000].iter().all(|&byte| byte == 0));
    assert!(bytes[1000..1005] == pattern(49, 10)[..5] && bytes[1005..1010] == [0; 5]);
    bench
        .backend
        .write_at(&file, 0, vec![1], Durability::Written)
        .expect("it succeeds");
    Ran::Done
}
