//! Many threads.

use std::collections::HashMap;
use std::sync::Mutex;

use esker_io::Ordering;
use esker_lss::{Maintenance, Store};

use crate::support::{all, backends, crash, open_with, small};

fn payload(thread: usize, index: usize) -> Vec<u8> {
    let mut bytes = format!("{thread} {index} ").into_bytes();
    // Now and then one that does not fit into a buffer.
    let len = if index % 50 == 49 {
        20_000 + index
    } else {
        thread * 37 + index % 90
    };
    bytes.resize(bytes.len() + len, b'x');
    bytes
}

#[test]
fn records_of_many_threads_all_come_back_each_threads_in_order() {
    const THREADS: usize = 8;
    const RECORDS: usize = 400;
    for ordering in [Ordering::TailLocalised, Ordering::Serialised] {
        for backend in backends() {
            let dir = tempfile::tempdir().expect("a directory");
            let options = small().ordering(ordering).maintenance(Maintenance::Thread);
            let store = Store::open(dir.path(), backend, options).expect("opens");
            let appended = Mutex::new(HashMap::new());
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (store, appended) = (&store, &appended);
                    scope.spawn(move || {
                        let mut own = Vec::new();
                        for index in 0..RECORDS {
                            let bytes = payload(thread, index);
                            let lsn = if index % 20 == thread {
                                store.append_durable(&bytes).expect("appends")
                            } else {
                                store.append(&bytes).expect("appends")
                            };
                            own.push((lsn, bytes));
                            if index % 31 == 0 {
                                let (lsn, bytes) = &own[index / 2];
                                assert_eq!(&store.read(*lsn).expect("reads"), bytes);
                            }
                        }
                        assert!(
                            own.is_sorted_by(|a, b| a.0 < b.0),
                            "each thread's order is the log's"
                        );
                        appended.lock().expect("no panic").extend(own);
                    });
                }
            });
            store.flush().expect("flushes");
            crash(store);
            let mut expected: Vec<_> = appended
                .into_inner()
                .expect("no panic")
                .into_iter()
                .collect();
            expected.sort_unstable();
            let store = open_with(dir.path(), small());
            assert!(
                all(&store) == expected,
                "{ordering:?}: every record, and no other"
            );
        }
    }
}

#[test]
fn threads_that_wait_for_each_record_share_device_writes() {
    const THREADS: usize = 16;
    const RECORDS: usize = 50;
    for backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), backend, small()).expect("opens");
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..RECORDS {
                        let lsn = store.append_durable(&[1; 100]).expect("appends");
                        assert!(store.durable() > lsn);
                    }
                });
            }
        });
        let written = store.info().expect("info").slots_written;
        assert!(
            written < (THREADS * RECORDS) as u64,
            "{written} writes are no sharing"
        );
    }
}

#[test]
fn a_lone_thread_of_several_commits_at_once_is_never_stuck() {
    let dir = tempfile::tempdir().expect("a directory");
    // No stability slot: what is durable is what these threads have appended.
    let options = small()
        .commit_writes(4)
        .maintenance(Maintenance::Thread)
        .idle(None);
    let store = open_with(dir.path(), options);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for index in 0..100 {
                    let lsn = store.append(&payload(thread, index)).expect("appends");
                    match index % 3 {
                        0 => store.wait_durable(lsn).expect("waits"),
                        1 => store.wait_written(lsn).expect("waits"),
                        _ => drop(store.flush().expect("flushes")),
                    }
                }
            });
        }
    });
    assert_eq!(store.durable(), store.flush().expect("flushes"));
}
