//! Checks of names and locks.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bench, PATIENCE, Ran, checks, read, write};
use crate::action::Durability;
use crate::backend::{Backend, Create, FileOptions};
use crate::error::{Fate, IoError, OperationKind};
use crate::ext::BackendExt;
use crate::sync::sleep;

checks!(
    a_missing_file_is_told_apart,
    creation_is_what_was_asked_for,
    a_directory_is_not_a_file,
    names_can_be_listed_changed_and_removed,
    directories_are_created_with_their_parents,
    a_lock_excludes_a_second_opener,
    a_lock_outlives_the_handle_while_operations_run,
);

fn a_missing_file_is_told_apart<B: Backend>(bench: &Bench<B>) -> Ran {
    let (backend, path) = (&bench.backend, bench.path("missing"));
    for (result, operation) in [
        (
            backend.open(&path, &FileOptions::read()).map(drop),
            OperationKind::Open,
        ),
        (backend.list(&path).map(drop), OperationKind::List),
        (
            backend.rename(&path, &bench.path("x")),
            OperationKind::Rename,
        ),
        (backend.remove(&path), OperationKind::Remove),
        (backend.sync_dir(&path), OperationKind::SyncDir),
    ] {
        let error = result.expect_err("there is no such name");
        assert!(error.is_not_found(), "{operation}: {error:?}");
        assert_eq!(error.context().operation, operation);
        assert_eq!(*error.context().path, *path);
        assert_eq!(error.fate(), Fate::Determinate);
    }
    Ran::Done
}

fn creation_is_what_was_asked_for<B: Backend>(bench: &Bench<B>) -> Ran {
    let open = |create| {
        let options = FileOptions::read_write().create(create);
        bench.backend.open(&bench.path("created"), &options)
    };
    assert!(open(Create::Never).is_err());
    let file = open(Create::IfMissing).expect("it is created");
    bench
        .backend
        .write_at(&file, 0, vec![1; 10], Durability::Written)
        .expect("it succeeds");
    let error = open(Create::New).map(drop).expect_err("it exists");
    assert!(matches!(error, IoError::AlreadyExists { .. }), "{error:?}");
    for create in [Create::Never, Create::IfMissing] {
        let again = open(create).expect("it exists");
        let facts = bench.backend.facts(&again).expect("facts");
        assert_eq!(facts.len_bytes, 10, "opening keeps what is there");
    }
    Ran::Done
}

fn a_directory_is_not_a_file<B: Backend>(bench: &Bench<B>) -> Ran {
    let error = bench
        .backend
        .open(&bench.dir, &FileOptions::read())
        .map(drop)
        .expect_err("it is a directory");
    assert!(matches!(error, IoError::NotAFile { .. }), "{error:?}");
    Ran::Done
}

fn listed<B: Backend>(bench: &Bench<B>, dir: &Path) -> Vec<OsString> {
    let mut names = bench.backend.list(dir).expect("it exists");
    names.sort();
    names
}

fn names_can_be_listed_changed_and_removed<B: Backend>(bench: &Bench<B>) -> Ran {
    assert!(listed(bench, &bench.dir).is_empty());
    let file = bench.file("a");
    bench.complete(&file, vec![write(0, vec![7; 3])]);
    drop(bench.file("b"));
    bench.backend.sync_dir(&bench.dir).expect("it succeeds");
    assert_eq!(listed(bench, &bench.dir), ["a", "b"]);
    let (a, b, c) = (bench.path("a"), bench.path("b"), bench.path("c"));
    bench.backend.rename(&a, &c).expect("it succeeds");
    assert_eq!(listed(bench, &bench.dir), ["b", "c"]);
    bench.backend.rename(&c, &b).expect("it replaces");
    assert_eq!(listed(bench, &bench.dir), ["b"]);
    let replaced = bench
        .backend
        .open(&b, &FileOptions::read())
        .expect("it exists");
    assert_eq!(bench.backend.facts(&replaced).expect("facts").len_bytes, 3);
    bench.backend.remove(&b).expect("it succeeds");
    bench.backend.sync_dir(&bench.dir).expect("it succeeds");
    assert!(listed(bench, &bench.dir).is_empty());
    // An open handle outlives its name.
    let done = bench.backend.execute(&file, read(0, 3));
    assert_eq!(done.result.expect("it succeeds"), 3);
    Ran::Done
}

fn directories_are_created_with_their_parents<B: Backend>(bench: &Bench<B>) -> Ran {
    let deep = bench.path("x/y/z");
    for _ in 0..2 {
        bench.backend.create_dir_all(&deep).expect("it succeeds");
    }
    assert!(listed(bench, &deep).is_empty());
    assert_eq!(listed(bench, &bench.path("x")), ["y"]);
    drop(bench.file("plain"));
    let result = bench.backend.create_dir_all(&bench.path("plain"));
    assert!(result.is_err(), "a file is in the way");
    Ran::Done
}

fn a_lock_excludes_a_second_opener<B: Backend>(bench: &Bench<B>) -> Ran {
    let first = bench.file("locked");
    let path = bench.path("locked");
    let second = bench
        .backend
        .open(&path, &FileOptions::read_write())
        .expect("it exists");
    let reader = bench
        .backend
        .open(&path, &FileOptions::read())
        .expect("it exists");
    let locked = |file: &B::File| bench.backend.is_locked(file).expect("it succeeds");
    let try_lock = |file: &B::File| bench.backend.try_lock(file).expect("it succeeds");
    assert!(!locked(&second) && !locked(&reader));
    assert!(try_lock(&first));
    assert!(locked(&second) && locked(&reader));
    assert!(!locked(&first), "one's own lock is nobody else's");
    assert!(!try_lock(&second));
    let clone = first.clone();
    assert!(try_lock(&clone), "a clone shares it");
    drop(first);
    assert!(!try_lock(&second), "a clone keeps it");
    drop(clone);
    assert!(
        !locked(&reader) && try_lock(&second),
        "the last one frees it"
    );
    Ran::Done
}

fn a_lock_outlives_the_handle_while_operations_run<B: Backend>(bench: &Bench<B>) -> Ran {
    let path = bench.path("outlives");
    let file = bench.file("outlives");
    let other = bench
        .backend
        .open(&path, &FileOptions::read_write())
        .expect("it exists");
    assert!(bench.backend.try_lock(&file).expect("it succeeds"));
    let writes = (0..200).map(|at| write(at * 4096, vec![1; 4096])).collect();
    let outcomes = bench.submit(&file, writes);
    drop(file);
    let before = bench.backend.in_flight();
    let locked = bench.backend.is_locked(&other).expect("it succeeds");
    let after = bench.backend.in_flight();
    // Without a thread of the backend's own nothing has ended in between.
    assert!(
        locked || before < 200 || after < 200,
        "unlocked with every write in flight"
    );
    bench.wait("the end of all", || outcomes.lock().len() == 200);
    bench.wait("the last sink's return", || bench.backend.in_flight() == 0);
    // A thread of the kernel's may let go of the file a moment after the completion.
    let began = Instant::now();
    while bench.backend.is_locked(&other).expect("it succeeds") {
        assert!(began.elapsed() < PATIENCE, "locked for ever");
        sleep(Duration::from_millis(1));
    }
    Ran::Done
}
