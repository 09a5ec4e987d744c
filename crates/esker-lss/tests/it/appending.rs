//! Every way to append: in place, several at once, through appenders.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use esker_lss::{AppendError, AppendWithError, Lsn, Maintenance, Store};

use crate::support::{AnyStore, all, crash, open, open_with, record, small};

/// Much longer than anything takes that is waited for.
const LONG: Duration = Duration::from_secs(20);
/// A buffer of the test stores holds this many bytes of records, headers included.
const BUFFER_ROOM: usize = (16 << 10) - 64;

#[test]
fn what_is_written_in_place_is_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let mut appender = store.appender();
    let mut expected = Vec::new();
    for index in 0..300 {
        let mut payload = record(index);
        if index % 50 == 3 {
            // Larger than a buffer.
            payload.resize(20_000, 7);
        }
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(&payload);
        let lsn = match index % 2 {
            0 => store.append_with(payload.len(), fill),
            _ => appender.append_with(payload.len(), fill),
        };
        expected.push((lsn.expect("appends"), payload));
    }
    drop(appender);
    for (lsn, payload) in &expected {
        assert_eq!(&store.read(*lsn).expect("reads"), payload);
    }
    store.flush().expect("flushes");
    crash(store);
    expected.sort_unstable();
    assert!(all(&open(dir.path())) == expected);
}

/// Appends before, something that fails, and after; what is left is checked in memory and on disk.
fn a_void_is_left_by(fails: impl Fn(&AnyStore, usize)) {
    for len in [0, 1, 100, 9000, 20_000, 100_000] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path());
        let before = store.append(b"before").expect("appends");
        let tail = store.tail();
        fails(&store, len);
        assert!(store.tail() > tail, "the space is used up");
        let after = store.append(b"after").expect("appends");
        let expected = [(before, b"before".to_vec()), (after, b"after".to_vec())];
        for (lsn, payload) in &expected {
            assert_eq!(&store.read(*lsn).expect("reads"), payload);
        }
        assert_eq!(all(&store), expected);
        store.flush().expect("nothing holds it up");
        crash(store);
        let store = open(dir.path());
        assert_eq!(all(&store), expected);
        let report = esker_lss::verify(dir.path(), esker_lss::AnyBackend::auto(), |_| {});
        let report = report.expect("verified");
        assert_eq!((report.damage.is_none(), report.records), (true, 2));
        assert!(report.voids >= 1, "{report:?}");
    }
}

#[test]
fn a_panic_while_a_record_is_written_leaves_a_void() {
    a_void_is_left_by(|store, len| {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            store.append_with(len, |bytes| {
                bytes.fill(1);
                panic!("as it should");
            })
        }));
        assert!(panicked.is_err());
    });
    a_void_is_left_by(|store, len| {
        let mut appender = store.appender();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            appender.append_with(len, |_| panic!("as it should"))
        }));
        assert!(panicked.is_err());
    });
}

#[test]
fn an_error_while_a_record_is_written_leaves_a_void() {
    let fails = |bytes: &mut [u8]| {
        bytes.fill(1);
        Err(std::fmt::Error)
    };
    a_void_is_left_by(|store, len| {
        let error = store.try_append_with(len, fails).expect_err("it fails");
        assert!(matches!(error, AppendWithError::Fill(std::fmt::Error)));
    });
    a_void_is_left_by(|store, len| {
        let error = store.appender().try_append_with(len, fails);
        let error = error.expect_err("it fails");
        assert!(matches!(error, AppendWithError::Fill(std::fmt::Error)));
    });
}

/// The last one out of a sealed buffer has to hand it over, also when it is unwound.
#[test]
fn a_panic_in_a_sealed_buffer_wedges_no_commit() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsn = store.append(b"waits for the panic").expect("appends");
    std::thread::scope(|scope| {
        let (begun, begins) = std::sync::mpsc::channel();
        let store = &store;
        let panics = scope.spawn(move || {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                store.append_with(100, |_| {
                    begun.send(()).expect("somebody waits");
                    // Until the buffer is sealed and the next one open.
                    let begin = Instant::now();
                    while store.tail().get() % 4096 != 64 && begin.elapsed() < LONG {
                        std::thread::yield_now();
                    }
                    panic!("as it should");
                })
            }));
            assert!(panicked.is_err());
        });
        begins.recv().expect("it begins");
        // Seals the buffer, and then depends on the other thread.
        store.wait_durable(lsn).expect("durable");
        panics.join().expect("it was caught");
    });
    assert!(store.durable() > lsn);
}

#[test]
fn too_large_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let mut appender = store.appender();
    let len = (256 << 10) + 1;
    let called = |_: &mut [u8]| panic!("there is no room to write in");
    for refused in [
        store.append_with(len, called),
        appender.append_with(len, called),
        appender.append_with(usize::MAX, called),
    ] {
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    }
    let record = vec![1; BUFFER_ROOM / 2];
    let refused = store.append_batch(&[&record, &record]);
    assert!(
        matches!(
            refused,
            Err(AppendError::BatchTooLarge {
                max_bytes: BUFFER_ROOM
            })
        ),
        "{refused:?}"
    );
    assert_eq!(store.tail(), Lsn::new(64), "nothing was appended");
}

#[test]
fn a_batch_follows_itself_in_one_buffer() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let mut appender = store.appender();
    let mut expected = Vec::new();
    assert_eq!(store.append_batch(&[]).expect("nothing to do"), []);
    for round in 0..60 {
        let records: Vec<_> = (0..round % 9).map(|n| record(round * 9 + n)).collect();
        let mut slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        while slices.iter().map(|slice| slice.len() + 16).sum::<usize>() > BUFFER_ROOM {
            slices.pop();
        }
        let lsns = match round % 2 {
            0 => store.append_batch(&slices),
            _ => appender.append_batch(&slices),
        }
        .expect("appends");
        assert_eq!(lsns.len(), slices.len());
        for (pair, slice) in lsns.windows(2).zip(&slices) {
            let room = 8 + slice.len().next_multiple_of(8) as u64;
            assert_eq!(pair[1].get() - pair[0].get(), room, "nothing lies between");
        }
        let payloads = slices.iter().map(|slice| slice.to_vec());
        expected.extend(lsns.into_iter().zip(payloads));
    }
    drop(appender);
    // As large as a buffer, to its last byte.
    let exact = [vec![1; 1000], vec![2; BUFFER_ROOM - 8 - 1008]];
    let lsns = store.append_batch(&[&exact[0], &exact[1]]).expect("fits");
    assert_eq!(lsns[0].get() % (4096), 64, "it begins a buffer");
    expected.extend(lsns.into_iter().zip(exact));
    store.flush().expect("flushes");
    crash(store);
    expected.sort_unstable();
    assert!(all(&open(dir.path())) == expected);
}

#[test]
fn an_appender_reads_its_own_writes_without_a_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let mut appenders = [store.appender(), store.appender()];
    let mut appended = Vec::new();
    for index in 0..90u8 {
        let payload = [index; 20];
        let lsn = appenders[usize::from(index % 2)]
            .append(&payload)
            .expect("appends");
        appended.push((lsn, payload));
        if index % 3 == 0 {
            let (lsn, payload) = &appended[usize::from(index / 2)];
            assert_eq!(store.read(*lsn).expect("reads"), payload);
        }
    }
    assert_eq!(
        store.info().expect("info").slots_written,
        0,
        "all of it is still in the open buffer"
    );
}

#[test]
fn an_idle_appender_holds_up_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let mut idle = store.appender();
    for _ in 0..10 {
        idle.append(b"small enough to lease").expect("appends");
    }
    store.flush().expect("does not wait for it");
    // More than the ring holds.
    for index in 0..200 {
        store.append(&record(index)).expect("appends");
    }
    store.append_durable(b"committed").expect("durable");
    let lsn = idle.append(b"and goes on").expect("appends");
    assert_eq!(store.read(lsn).expect("reads"), b"and goes on");
    drop(idle);
    store.close().expect("closes");
}

#[test]
fn more_appenders_than_there_are_leases_all_append_in_their_own_order() {
    const APPENDERS: usize = 100;
    let dir = tempfile::tempdir().expect("a directory");
    let options = small().maintenance(Maintenance::Thread);
    let store = open_with(dir.path(), options);
    let mut appenders: Vec<_> = (0..APPENDERS)
        .map(|_| (store.appender(), Lsn::ZERO))
        .collect();
    let mut expected = Vec::new();
    for round in 0..30 {
        for (number, (appender, last)) in appenders.iter_mut().enumerate() {
            let payload = record(round * APPENDERS + number);
            let lsn = appender.append(&payload).expect("appends");
            assert!(lsn > *last, "one appender's addresses grow");
            *last = lsn;
            expected.push((lsn, payload));
        }
    }
    drop(appenders);
    store.flush().expect("flushes");
    crash(store);
    expected.sort_unstable();
    assert!(all(&open(dir.path())) == expected);
}

/// Appenders of many threads, beside appends through the store, commits, reads and a scan.
#[test]
fn appenders_and_the_store_share_a_log() {
    const THREADS: usize = 8;
    const RECORDS: usize = 600;
    for backend in crate::support::backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = small().maintenance(Maintenance::Thread);
        let store = Store::open(dir.path(), backend, options).expect("opens");
        let appended = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, appended) = (&store, &appended);
                scope.spawn(move || {
                    let mut appender = store.appender();
                    let mut own = Vec::new();
                    for index in 0..RECORDS {
                        let payload = record(thread * RECORDS + index);
                        let lsn = match index % 10 {
                            7 => store.append(&payload),
                            _ => appender.append(&payload),
                        }
                        .expect("appends");
                        own.push((lsn, payload));
                        match index % 97 {
                            5 => store.wait_durable(lsn).expect("durable"),
                            25 => drop(store.flush().expect("flushes")),
                            40..50 => {
                                let (lsn, payload) = &own[index / 2];
                                assert_eq!(&store.read(*lsn).expect("reads"), payload);
                            }
                            60 => {
                                let scan = store.scan(..).expect("a range");
                                assert!(scan.filter(Result::is_ok).count() >= index);
                            }
                            _ => {}
                        }
                    }
                    appended.lock().expect("no panic").extend(own);
                });
            }
        });
        store.flush().expect("flushes");
        crash(store);
        let mut expected = appended.into_inner().expect("no panic");
        expected.sort_unstable();
        assert!(
            all(&open(dir.path())) == expected,
            "every record, and no other"
        );
    }
}
