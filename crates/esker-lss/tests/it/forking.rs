//! A process that has a store open, forks; the child ends, and the parent goes on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use esker_io::{AnyBackend, IoError, Uring, UringConfig};
use esker_lss::{
    AppendError, CloseError, CommitError, Lsn, Maintenance, OpenError, Options, Poison, Store,
    TrimError,
};

use crate::support::{AnyStore, record, small};

/// How long everything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(120);
const THREADS: usize = 3;
const RECORDS: usize = 150;
const CHILDREN: u64 = 30;

/// Runs an ignored test in a process of its own: its children hold whatever is open in it.
fn in_a_process_of_its_own(test: &str) {
    let mut process = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        // Whoever counts results counts this process's own.
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = process.try_wait().expect("it can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            process.kill().expect("it can be killed");
            process.wait().expect("it can be waited for");
            panic!("{test} hangs");
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{test}: {status}");
}

/// How long a child may take that waits for nothing.
const CHILDS_PATIENCE: Duration = Duration::from_secs(20);

/// A child process.
struct Child(libc::pid_t);

impl Child {
    /// Runs `body` in a child, and demands that it returns, and before long.
    fn run(body: impl FnOnce()) {
        // SAFETY: of this process's other threads none is doing anything at the moment: what they hold
        // is what they sleep with, which is what is tested.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let ended = catch_unwind(AssertUnwindSafe(body));
            // SAFETY: nothing of this process is needed any more.
            unsafe { libc::_exit(i32::from(ended.is_err())) };
        }
        assert!(pid > 0, "{}", std::io::Error::last_os_error());
        let deadline = Instant::now() + CHILDS_PATIENCE;
        let mut status = 0;
        loop {
            // SAFETY: the status is good for writing; the process is a child that nobody waits for.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
            if waited != 0 {
                assert_eq!((waited, status), (pid, 0), "the child panicked");
                return;
            }
            if Instant::now() > deadline {
                Self(pid).kill();
                panic!("the child hangs");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// One that does nothing but sleep and end.
    fn fork(asleep: Duration) -> Self {
        let micros = asleep.as_micros() as libc::useconds_t;
        // SAFETY: the child calls nothing but what a signal handler may call, and does not return.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::usleep(micros);
                libc::_exit(0);
            }
            pid
        };
        assert!(pid > 0, "{}", std::io::Error::last_os_error());
        Self(pid)
    }

    fn wait(self) {
        assert_eq!(self.status(), 0);
    }

    fn kill(self) {
        // SAFETY: the process is a child that nobody has waited for.
        let killed = unsafe { libc::kill(self.0, libc::SIGKILL) };
        assert_eq!(killed, 0);
        assert_eq!(self.status(), libc::SIGKILL);
    }

    fn status(self) -> libc::c_int {
        let mut status = 0;
        // SAFETY: the status is good for writing; the process is a child that nobody waits for.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(pid, self.0);
        status
    }
}

/// Every kind of backend that can be had here, among them one with a kernel thread of its own.
fn backends() -> Vec<AnyBackend> {
    let mut backends = vec![AnyBackend::blocking()];
    for config in [
        UringConfig::default(),
        UringConfig::default().entries(4).cq_entries(4),
        UringConfig::default().entries(8).sqpoll(Some(5)),
    ] {
        match Uring::new(config) {
            Ok(uring) => backends.push(AnyBackend::Uring(uring)),
            Err(error) => eprintln!("io_uring skipped: {error}"),
        }
    }
    backends
}

#[test]
fn a_fork_loses_nothing_and_holds_nobody_up() {
    in_a_process_of_its_own("forking::forking_while_records_are_appended_and_read");
}

#[test]
fn a_child_that_lives_on_holds_the_stores_lock_until_it_ends() {
    in_a_process_of_its_own("forking::forking_and_opening_again");
}

#[test]
#[ignore = "run in a process of its own by a test above"]
fn forking_while_records_are_appended_and_read() {
    for backend in backends() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let store = Store::open(dir.path(), backend, small()).expect("the store opens");
        let appended = append_and_fork(&store);
        store.close().expect("it closes");
        let store = crate::support::open(dir.path());
        assert_eq!(appended.len(), THREADS * RECORDS);
        for (lsn, index) in appended {
            assert_eq!(store.read(lsn).expect("it is there"), record(index));
        }
    }
}

/// Appends in several threads, each of which reads what it has appended from the disk, and forks
/// meanwhile.
fn append_and_fork(store: &AnyStore) -> Vec<(Lsn, usize)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let forker = scope.spawn(|| {
            let mut children = Vec::new();
            let mut forked = 0;
            while forked < CHILDREN || !done.load(Ordering::Acquire) {
                children.push(Child::fork(Duration::from_micros(forked % 7 * 500)));
                forked += 1;
                if children.len() > 4 {
                    children.remove(0).wait();
                }
                thread::sleep(Duration::from_micros(300));
            }
            children.into_iter().for_each(Child::wait);
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || append_some(store, thread)))
            .collect();
        let appended = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no thread panics"))
            .collect();
        done.store(true, Ordering::Release);
        forker.join().expect("the forker does not panic");
        appended
    })
}

fn append_some(store: &AnyStore, thread: usize) -> Vec<(Lsn, usize)> {
    let mut appended: Vec<(Lsn, usize)> = Vec::new();
    for number in 0..RECORDS {
        let index = number * THREADS + thread;
        let lsn = store.append_durable(&record(index)).expect("it appends");
        appended.push((lsn, index));
        // Far enough back to be in no buffer any more, most of the time.
        let (lsn, index) = appended[number / 2];
        assert_eq!(store.read(lsn).expect("it reads"), record(index));
    }
    appended
}

#[test]
#[ignore = "run in a process of its own by a test above"]
fn forking_and_opening_again() {
    for backend in backends() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let store = Store::open(dir.path(), backend, small()).expect("the store opens");
        let lsn = store.append_durable(b"before").expect("it appends");
        let child = Child::fork(PATIENCE);
        store.close().expect("it closes");
        let open = |timeout: Duration| -> Result<AnyStore, OpenError> {
            let options: Options = small().lock_timeout(timeout);
            Store::open(dir.path(), AnyBackend::blocking(), options)
        };
        // The child's copy of the file is as good a holder of the lock as the parent's was.
        let error = open(Duration::ZERO).err().expect("the child holds it");
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        child.kill();
        let store = open(PATIENCE).expect("nobody holds it any more");
        assert_eq!(store.read(lsn).expect("it is there"), b"before");
    }
}

#[test]
fn a_child_neither_waits_for_the_store_nor_writes_to_its_files() {
    in_a_process_of_its_own("forking::using_and_dropping_the_store_in_children");
}

/// What is in a directory, by name.
fn contents(dir: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory");
    let entries = entries.map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let bytes = fs::read(entry.path()).expect("it can be read");
            (entry.file_name(), bytes)
        })
        .collect()
}

/// What is in a store's directory once the store's threads have done what there was to do.
fn settled(dir: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = contents(dir);
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = contents(dir);
        if now == before {
            return now;
        }
        assert!(Instant::now() < deadline, "the store does not come to rest");
        before = now;
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn is_of_the_parent(poison: &Poison) -> bool {
    matches!(poison.io_error(), IoError::Forked { .. })
}

/// Everything that would have to touch the files says that they are the parent's.
fn is_refused(store: &AnyStore, durable: Lsn, appended: Lsn) {
    let poisoned = |error: CommitError| match error {
        CommitError::Poisoned(poison) => is_of_the_parent(&poison),
        _ => false,
    };
    assert!(poisoned(store.wait_durable(appended).expect_err("a wait")));
    assert!(poisoned(store.wait_written(appended).expect_err("a wait")));
    assert!(poisoned(store.flush().expect_err("a flush")));
    store.wait_durable(durable).expect("it was durable");
    assert_eq!(store.read(durable).expect("it is on disk"), b"before");
    let trimmed = store.trim_before(durable).expect_err("a trim");
    assert!(matches!(trimmed, TrimError::Poisoned(poison) if is_of_the_parent(&poison)));
    assert!(store.maintain().is_err());
    let Poll::Ready(Err(error)) = poll(&mut store.until_durable(appended)) else {
        panic!("a future waits in a child, or is told that its record is durable");
    };
    assert!(poisoned(error));
    // The ring is memory, and so the child's own: what it holds can be filled, and goes nowhere.
    let refused = (0..10_000).find_map(|index| store.append(&record(index)).err());
    let Some(AppendError::Poisoned(poison)) = refused else {
        panic!("{refused:?}");
    };
    assert!(is_of_the_parent(&poison));
}

#[test]
#[ignore = "run in a process of its own by a test above"]
fn using_and_dropping_the_store_in_children() {
    for backend in backends() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        // Without spares nothing is made in the background, once it is open.
        let options = small()
            .maintenance(Maintenance::Thread)
            .spare_segments(0)
            .idle(None);
        let store = Store::open(dir.path(), backend, options).expect("the store opens");
        let durable = store.append_durable(b"before").expect("it appends");
        // From here on the store has its second thread.
        let first = store.append(b"first").expect("it appends");
        let mut committed = store.until_durable(first);
        let deadline = Instant::now() + PATIENCE;
        while poll(&mut committed).is_pending() {
            assert!(Instant::now() < deadline, "nobody commits for a future");
            thread::yield_now();
        }
        let second = store.append(b"second").expect("it appends");
        let mut waiting = Some(store.until_durable(second));
        let mut appender = Some(store.appender());
        let third = appender.as_mut().map(|appender| appender.append(b"third"));
        let third = third.expect("an appender").expect("it appends");
        let files = settled(dir.path());

        let gone_through = |what: &str, child: &mut dyn FnMut()| {
            Child::run(child);
            assert!(
                contents(dir.path()) == files,
                "a child that {what} changes files"
            );
        };
        gone_through("drops a future and an appender", &mut || {
            drop(waiting.take());
            drop(appender.take());
        });
        drop(appender);
        gone_through("uses the store", &mut || {
            is_refused(&store, durable, second)
        });
        let mut left = Some(store);
        gone_through("drops the store", &mut || drop(left.take()));
        gone_through("closes the store", &mut || {
            let closed = left.take().expect("the child's copy").close();
            let Err(CloseError::Commit(CommitError::Poisoned(poison))) = closed else {
                panic!("{closed:?}");
            };
            assert!(is_of_the_parent(&poison));
        });

        let store = left.expect("the parent's own");
        let fourth = store.append_durable(b"fourth").expect("the parent goes on");
        let waiting = &mut waiting.expect("the parent's own");
        assert!(matches!(poll(waiting), Poll::Ready(Ok(()))));
        store.close().expect("it closes");
        let store = crate::support::open(dir.path());
        let expected = [
            (durable, &b"before"[..]),
            (first, b"first"),
            (second, b"second"),
            (third, b"third"),
            (fourth, b"fourth"),
        ];
        let expected = expected.map(|(lsn, record)| (lsn, record.to_vec()));
        assert_eq!(crate::support::all(&store), expected);
    }
}
