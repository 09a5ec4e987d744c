//! A process that has a store open, forks; the child ends, and the parent goes on.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use esker_io::{AnyBackend, Uring, UringConfig};
use esker_lss::{Lsn, OpenError, Options, Store};

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

/// A child process that does nothing but sleep and end.
struct Child(libc::pid_t);

impl Child {
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
