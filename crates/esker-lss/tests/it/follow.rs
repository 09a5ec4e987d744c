//! Following a log that grows.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use esker_io::Backend;
use esker_lss::{Lsn, ReadError, Store};

use crate::faulty::Faulty;
use crate::support::{AnyStore, backends, open, record, small};

const WHILE: Duration = Duration::from_millis(20);

#[test]
fn each_follower_gets_every_record_once_in_order_and_only_what_is_durable() {
    const RECORDS: usize = 300;
    for backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), backend, small()).expect("opens");
        let follow = |store: &AnyStore, from: usize, mut follower: esker_lss::Follower<'_, _>| {
            for index in from..RECORDS {
                let found = follower.next().expect("no end").expect("intact");
                assert!(store.durable() > found.lsn, "{index}: not durable yet");
                assert!(found.payload == record(index), "{index}");
                assert!(follower.position() > found.lsn);
            }
        };
        for index in 0..50 {
            store.append(&record(index)).expect("appends");
        }
        store.flush().expect("flushes");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let follower = store.follow(store.first()).expect("it is there");
                scope.spawn(|| follow(&store, 0, follower));
            }
            let news = store.follow_new();
            scope.spawn(|| follow(&store, 50, news));
            for index in 50..RECORDS {
                store.append(&record(index)).expect("appends");
                if index % 7 == 0 {
                    store.flush().expect("flushes");
                }
            }
            store.flush().expect("flushes");
        });
        store.close().expect("closes");
    }
}

#[test]
fn a_commit_is_seen_without_a_read_of_the_device() {
    for backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let backend = Arc::new(backend);
        let store = AnyStore::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
        let reads = || backend.statistics().reads.submitted;
        store.append_durable(b"before").expect("appends");
        let mut early = store.follow(store.first()).expect("it is there");
        let before = reads();
        assert!(early.next().expect("no end").is_ok());
        assert!(reads() > before, "nobody followed when it was written");
        let (mut news, before) = (store.follow_new(), reads());
        for index in 0..100 {
            let lsn = store.append_durable(&record(index)).expect("appends");
            for follower in [&mut early, &mut news] {
                let found = follower.try_next().expect("no error").expect("durable");
                assert_eq!((found.lsn, found.payload), (lsn, record(index)));
                assert_eq!(follower.try_next().expect("no error"), None);
            }
        }
        assert_eq!(reads(), before);
        // More than is kept: the rest comes from the disk.
        for index in 0..100 {
            store.append_durable(&record(index)).expect("appends");
        }
        for follower in [&mut early, &mut news] {
            for index in 0..100 {
                let found = follower.try_next().expect("no error").expect("durable");
                assert!(found.payload == record(index), "{index}");
            }
        }
        assert!(reads() > before);
    }
}

#[test]
fn what_nobody_has_made_durable_is_waited_for_and_not_committed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let one = store.append_durable(b"one").expect("appends");
    let two = store.append(b"two").expect("appends");
    let three = store.append(b"three").expect("appends");
    let mut follower = store.follow(one).expect("it is there");
    let mut news = store.follow_new();
    let mut third = store.follow(three).expect("it is appended");
    let found = follower.next_timeout(WHILE).expect("no error");
    assert_eq!(found.map(|record| record.lsn), Some(one));
    assert_eq!(follower.next_timeout(WHILE).expect("no error"), None);
    assert_eq!(
        store.durable(),
        follower.position(),
        "nobody has asked for a commit"
    );
    store.wait_durable(two).expect("waits");
    let found: Vec<_> = std::iter::from_fn(|| follower.try_next().expect("no error")).collect();
    assert_eq!(
        found.iter().map(|record| record.lsn).collect::<Vec<_>>(),
        [two, three]
    );
    let found = third.try_next().expect("no error");
    assert_eq!(found.map(|record| record.payload), Some(b"three".to_vec()));
    assert_eq!(
        news.try_next().expect("no error"),
        None,
        "they were there before"
    );
    let four = store.append_durable(b"four").expect("appends");
    assert_eq!(news.next().expect("no end").expect("intact").lsn, four);
}

#[test]
fn a_follower_begins_where_the_log_is_and_is_told_when_it_is_trimmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let lsns: Vec<Lsn> = (0..200)
        .map(|index| store.append(&record(index)).expect("appends"))
        .collect();
    store.flush().expect("flushes");
    let mut early = store.follow(lsns[0]).expect("it is there");
    let first = store.trim_before(lsns[150]).expect("trims");
    assert!(first > lsns[0]);
    assert!(matches!(
        store.follow(lsns[0]),
        Err(ReadError::Trimmed { .. })
    ));
    let beyond = Lsn::new(store.tail().get() + 8);
    assert!(matches!(
        store.follow(beyond),
        Err(ReadError::BeyondEnd { .. })
    ));
    let failure = early.find_map(Result::err).expect("it is gone");
    assert!(matches!(failure, ReadError::Trimmed { .. }), "{failure:?}");
    assert!(early.next().is_none());
    assert!(
        store
            .follow(store.first())
            .expect("it is there")
            .next()
            .is_some()
    );
}

/// What was written last is kept in memory for those who follow, and is gone with the log's beginning
/// all the same.
#[test]
fn what_has_been_trimmed_is_not_followed_out_of_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let segment_bytes = store.info().expect("info").segment_bytes;
    let mut follower = store.follow(Lsn::ZERO).expect("the beginning");
    let commit = || store.append_durable(&[7; 3000]).expect("appends");
    while commit().get() < segment_bytes - 12_000 {}
    while follower.try_next().expect("it is there").is_some() {}
    let next = follower.position();
    let last = loop {
        let lsn = commit();
        if lsn.get() > segment_bytes + 8000 {
            break lsn;
        }
    };
    let first = store.trim_before(last).expect("trims");
    assert!(next < first, "{next} is not below {first}");
    let failure = follower.try_next();
    assert!(
        matches!(failure, Err(ReadError::Trimmed { .. })),
        "{failure:?}"
    );
}

#[test]
fn a_failed_write_ends_every_wait_after_what_is_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
    let durable = store.append_durable(b"durable").expect("appends");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| store.follow_new().next().expect("no end"));
        std::thread::sleep(WHILE);
        backend.writes_left.set(0);
        store.append_durable(b"lost").expect_err("it fails");
        let told = waits.join().expect("no panic");
        assert!(matches!(told, Err(ReadError::Lost { .. })), "{told:?}");
    });
    let mut late = store.follow(durable).expect("it is there");
    assert_eq!(late.next().expect("no end").expect("intact").lsn, durable);
    assert!(matches!(late.next(), Some(Err(ReadError::Lost { .. }))));
    assert!(late.next().is_none());
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn a_task_is_woken_once_for_what_comes_and_not_after_it_has_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut follower = store.follow_new();
    for round in 1..=3 {
        assert!(follower.poll_next(&mut context).is_pending());
        assert!(
            follower.poll_next(&mut context).is_pending(),
            "asked twice, woken once"
        );
        store.append(b"not durable").expect("appends");
        assert_eq!(woken.0.load(SeqCst), round - 1);
        store.append_durable(b"news").expect("appends");
        assert_eq!(woken.0.load(SeqCst), round);
        for expected in [&b"not durable"[..], b"news"] {
            let Poll::Ready(Some(Ok(record))) = follower.poll_next(&mut context) else {
                panic!("it is durable");
            };
            assert_eq!(record.payload, expected);
        }
    }
    assert!(follower.poll_next(&mut context).is_pending());
    drop(follower);
    store.append_durable(b"unheard").expect("appends");
    assert_eq!(woken.0.load(SeqCst), 3);
}

/// Whatever comes between its look and its sleep, a follower sees it.
#[test]
fn a_follower_misses_no_record_however_it_races_with_the_writer() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut follower = store.follow_new();
        let (seen, wait) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for found in follower.by_ref().take(400) {
                seen.send(found.expect("intact").lsn)
                    .expect("somebody listens");
            }
        });
        for _ in 0..400 {
            let lsn = store.append_durable(&[1; 30]).expect("appends");
            let found = wait
                .recv_timeout(Duration::from_secs(60))
                .expect("it is woken");
            assert_eq!(found, lsn);
        }
        done.store(true, SeqCst);
    });
    assert!(done.load(SeqCst));
}
