//! Checks of operations on names, submitted.

use std::path::Path;

use super::{Bench, Ran, checks, pattern, read, write};
use crate::action::{Action, Completion, Durability};
use crate::backend::{Backend, Create, Direct, FileOptions};
use crate::error::{Fate, IoError, OperationKind};
use crate::ext::BackendExt;
use crate::lane::{Lane, Ordering};
use crate::operation::Operation;
use crate::statistics::KindStatistics;
use crate::sync::{Arc, AtomicUsize, Mutex, SeqCst};

checks!(
    files_are_opened_by_operations,
    an_opening_that_fails_is_told_apart,
    names_are_made_durable_by_operations,
    operations_on_names_are_counted,
    a_batch_may_hold_every_kind_of_operation,
    what_is_opened_is_used_at_once_by_its_sink,
    operations_on_names_pass_a_serialised_lane,
);

const NEW: FileOptions = FileOptions::read_write().create(Create::New);

fn files_are_opened_by_operations<B: Backend>(bench: &Bench<B>) -> Ran {
    let (backend, path) = (&bench.backend, bench.path("opened"));
    let open = |options| {
        let opening = backend.start_open(&path, &options);
        bench.finish(opening).expect("it is opened")
    };
    let file = open(NEW);
    backend
        .write_at(&file, 0, pattern(1, 5000), Durability::Written)
        .expect("it succeeds");
    assert_eq!(*backend.path(&file), *path);
    for create in [Create::Never, Create::IfMissing] {
        let again = open(FileOptions::read_write().create(create));
        let (count, bytes) = backend.read_at(&again, 0, vec![0; 6000]).expect("a read");
        assert!(count == 5000 && bytes[..5000] == pattern(1, 5000));
    }
    let reader = open(FileOptions::read());
    let refused = backend.write_at(&reader, 0, vec![1], Durability::Written);
    let error = refused.expect_err("it is read-only").error;
    assert!(matches!(error, IoError::NotWritable { .. }), "{error:?}");
    // Opened by operation or not, it is the same.
    let direct = FileOptions::read_write().direct(Direct::Try);
    let blocking = backend.open(&path, &direct).expect("it is there");
    assert_eq!(
        backend.facts(&open(direct)).expect("facts"),
        backend.facts(&blocking).expect("facts")
    );
    let many: Vec<_> = (0..50)
        .map(|number| backend.start_open(&bench.path(&format!("many-{number}")), &NEW))
        .collect();
    for (number, opening) in many.into_iter().enumerate() {
        let file = bench.finish(opening).expect("it is opened");
        let path = bench.path(&format!("many-{number}"));
        assert_eq!(*backend.path(&file), *path, "each gets its own");
    }
    assert_eq!(backend.list(&bench.dir).expect("it lists").len(), 51);
    Ran::Done
}

fn an_opening_that_fails_is_told_apart<B: Backend>(bench: &Bench<B>) -> Ran {
    let open = |path: &Path, options| {
        let opening = bench.backend.start_open(path, &options);
        let error = bench.finish(opening).map(drop).expect_err("it cannot be");
        let context = error.context();
        assert_eq!(
            (context.operation, &*context.path),
            (OperationKind::Open, path)
        );
        assert_eq!(error.fate(), Fate::Determinate);
        error
    };
    let missing = bench.path("missing");
    assert!(open(&missing, FileOptions::read()).is_not_found());
    assert!(open(&missing.join("below"), NEW).is_not_found());
    drop(bench.file("there"));
    let error = open(&bench.path("there"), NEW);
    assert!(matches!(error, IoError::AlreadyExists { .. }), "{error:?}");
    let error = open(&bench.dir, FileOptions::read());
    assert!(matches!(error, IoError::NotAFile { .. }), "{error:?}");
    Ran::Done
}

fn names_are_made_durable_by_operations<B: Backend>(bench: &Bench<B>) -> Ran {
    for name in ["a", "b", "c"] {
        drop(bench.file(name));
        let sync = bench.backend.start_sync_dir(&bench.dir);
        bench.finish(sync).expect("it succeeds");
    }
    let missing = bench.path("missing");
    let sync = bench.backend.start_sync_dir(&missing);
    let error = bench.finish(sync).expect_err("there is no such directory");
    assert!(error.is_not_found(), "{error:?}");
    assert_eq!(error.context().operation, OperationKind::SyncDir);
    assert_eq!(*error.context().path, *missing);
    assert_eq!(error.fate(), Fate::Determinate);
    Ran::Done
}

fn operations_on_names_are_counted<B: Backend>(bench: &Bench<B>) -> Ran {
    let (backend, before) = (&bench.backend, bench.backend.statistics());
    let opening = backend.start_open(&bench.path("counted"), &NEW);
    drop(bench.finish(opening).expect("it is opened"));
    let opening = backend.start_open(&bench.path("counted"), &NEW);
    assert!(bench.finish(opening).is_err(), "it is there");
    drop(bench.file("another"));
    let sync = backend.start_sync_dir(&bench.dir);
    bench.finish(sync).expect("it succeeds");
    backend.sync_dir(&bench.dir).expect("it succeeds");
    bench.wait("the last sink's return", || backend.in_flight() == 0);
    let counted = backend.statistics().since(&before);
    let of = |kind: KindStatistics| (kind.submitted, kind.completed, kind.failed);
    assert_eq!(of(counted.opens), (3, 3, 1));
    assert_eq!(of(counted.dir_syncs), (2, 2, 0));
    assert_eq!((counted.submitted(), counted.failed()), (5, 1));
    assert_eq!((counted.batches, counted.in_flight), (3, 0));
    Ran::Done
}

fn a_batch_may_hold_every_kind_of_operation<B: Backend>(bench: &Bench<B>) -> Ran {
    const ROUNDS: u64 = 10;
    let (counted, opened) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let mut batch = Vec::new();
    for round in 0..ROUNDS {
        let file = bench.file(&format!("mixed-{round}"));
        for action in [
            write(0, pattern(round, 700)),
            Action::SyncAll,
            Action::Truncate { len_bytes: 9000 },
            read(100_000, 10),
        ] {
            let counted = Arc::clone(&counted);
            let sink = move |done: Completion| {
                counted.fetch_add(done.result.expect("it succeeds") + 1, SeqCst);
            };
            batch.push(Operation::new(file.clone(), action, sink));
        }
        let opened = Arc::clone(&opened);
        let path = bench.path(&format!("opened-{round}"));
        batch.push(Operation::open(
            path,
            NEW,
            move |file: Result<B::File, _>| {
                opened.lock().push(file.expect("it is opened"));
            },
        ));
        let counted = Arc::clone(&counted);
        batch.push(Operation::sync_dir(
            &*bench.dir,
            move |synced: Result<(), _>| {
                synced.expect("it succeeds");
                counted.fetch_add(1, SeqCst);
            },
        ));
    }
    bench.backend.submit(batch);
    bench.wait("the end of all", || bench.backend.in_flight() == 0);
    assert_eq!(counted.load(SeqCst) as u64, ROUNDS * (700 + 5));
    let opened = core::mem::take(&mut *opened.lock());
    let mut paths: Vec<_> = opened.iter().map(|file| bench.backend.path(file)).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len() as u64, ROUNDS, "each gets its own");
    for file in opened {
        let written = bench
            .backend
            .write_at(&file, 0, vec![1; 100], Durability::Durable);
        written.expect("it is open");
    }
    Ran::Done
}

fn what_is_opened_is_used_at_once_by_its_sink<B: Backend>(bench: &Bench<B>) -> Ran {
    let ended = Arc::new(AtomicUsize::new(0));
    for number in 0..40 {
        let (backend, ended) = (Arc::clone(&bench.backend), Arc::clone(&ended));
        let sink = move |file: Result<B::File, IoError>| {
            let file = file.expect("it is opened");
            let action = write(0, pattern(number, 300));
            backend.submit(vec![Operation::new(
                file,
                action,
                move |done: Completion| {
                    ended.fetch_add(done.result.expect("it succeeds"), SeqCst);
                },
            )]);
        };
        let path = bench.path(&format!("used-{number}"));
        bench.backend.submit(vec![Operation::open(path, NEW, sink)]);
    }
    bench.wait("the end of all", || ended.load(SeqCst) == 40 * 300);
    for number in 0..40 {
        let path = bench.path(&format!("used-{number}"));
        let file = bench.backend.open(&path, &FileOptions::read());
        let done = bench
            .backend
            .execute(&file.expect("it is there"), read(0, 300));
        assert!(done.memory.bytes() == pattern(number, 300));
    }
    Ran::Done
}

fn operations_on_names_pass_a_serialised_lane<B: Backend>(bench: &Bench<B>) -> Ran {
    drop(bench.file("refused"));
    let refusing = bench
        .backend
        .open(&bench.path("refused"), &FileOptions::read());
    let refusing = refusing.expect("it is there");
    let lane = Lane::new(Arc::clone(&bench.backend), Ordering::Serialised);
    let passed = Arc::new(AtomicUsize::new(0));
    for round in 0..3 {
        let (opens, syncs) = (Arc::clone(&passed), Arc::clone(&passed));
        let path = bench.path(&format!("passes-{round}"));
        lane.submit(vec![
            Operation::new(refusing.clone(), write(0, vec![1]), |done: Completion| {
                done.result
                    .expect_err("it is read-only, and the lane has failed");
            }),
            Operation::open(path, NEW, move |file: Result<B::File, _>| {
                opens.fetch_add(usize::from(file.is_ok()), SeqCst);
            }),
            Operation::sync_dir(&*bench.dir, move |synced: Result<(), _>| {
                syncs.fetch_add(usize::from(synced.is_ok()), SeqCst);
            }),
        ]);
        bench.wait("the end of all", || lane.in_flight() == 0);
    }
    assert!(lane.failure().is_some());
    assert_eq!(passed.load(SeqCst), 6);
    Ran::Done
}
