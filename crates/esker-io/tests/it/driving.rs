//! Completions while nobody waits, and what a batch costs.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use esker_io::{
    Action, Allocation, AnyBackend, Backend, BackendExt, Completion, Create, DriverThread,
    Durability, FileHandle, FileOptions, Operation, Sink, UringConfig, WriteMemory,
};

use super::ownership::backends;

/// No wait takes longer, unless what is waited for does not come.
const PATIENCE: Duration = Duration::from_secs(60);

fn file(backend: &AnyBackend, dir: &tempfile::TempDir) -> FileHandle {
    let options = FileOptions::read_write().create(Create::IfMissing);
    let path = dir.path().join("log");
    backend.open(&path, &options).expect("a file")
}

fn here() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn write(file: &FileHandle, at: u64, sink: impl Sink + 'static) -> Operation<FileHandle> {
    let action = Action::Write {
        offset: at * 512,
        memory: WriteMemory::new(vec![1; 512]),
        durability: Durability::Written,
    };
    Operation::new(file.clone(), action, sink)
}

#[test]
fn a_driver_thread_completes_what_nobody_waits_for() {
    let dir = here();
    for backend in backends() {
        let backend = Arc::new(backend);
        let file = file(&backend, &dir);
        let driver = DriverThread::start(Arc::clone(&backend)).expect("a thread");
        let (tell, told) = mpsc::channel();
        for at in 0..20 {
            let tell = tell.clone();
            let sink = move |done: Completion| tell.send(done.result).expect("it is waited for");
            backend.submit(vec![write(&file, at, sink)]);
            let result = told.recv_timeout(PATIENCE).expect("somebody drives");
            assert_eq!(result.expect("it succeeds"), 512);
        }
        driver.stop().expect("no sink has panicked");
    }
}

#[test]
fn a_driver_thread_survives_a_sink_that_panics_and_gives_the_panic_back() {
    let dir = here();
    for backend in backends() {
        let backend = Arc::new(backend);
        let file = file(&backend, &dir);
        let driver = DriverThread::start(Arc::clone(&backend)).expect("a thread");
        backend.submit(vec![write(&file, 0, |_: Completion| {
            std::panic::resume_unwind(Box::new("on purpose"))
        })]);
        while backend.in_flight() > 0 {
            std::thread::yield_now();
        }
        let (tell, told) = mpsc::channel();
        backend.submit(vec![write(&file, 1, move |done: Completion| {
            tell.send(done.result).expect("it is waited for");
        })]);
        let result = told.recv_timeout(PATIENCE).expect("it drives on");
        assert_eq!(result.expect("it succeeds"), 512);
        let panic = driver.stop().expect_err("a sink has panicked");
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    }
}

#[test]
fn a_batch_is_submitted_by_one_system_call() {
    let Some(ring) = super::ring(UringConfig::default()) else {
        return;
    };
    let (dir, ring) = (here(), AnyBackend::Uring(ring));
    let file = file(&ring, &dir);
    for size in [1, 7, 100] {
        let before = ring.statistics();
        let batch = (0..size).map(|at| write(&file, at, drop::<Completion>));
        ring.submit(batch.collect());
        // Whatever has completed by now, nobody has asked the kernel for it.
        let made = ring.statistics().since(&before);
        assert_eq!((made.writes.submitted, made.batches), (size, 1));
        assert_eq!((made.system_calls, made.retries), (1, 0));
        ring.wait_until(&mut || ring.in_flight() == 0, None);
    }
    let all = ring.statistics();
    // How many calls the waiting took is the disk's affair.
    assert_eq!(all.writes.bytes, 108 * 512);
    let calls = all.system_calls as f64;
    assert!((all.operations_per_system_call() - 108.0 / calls).abs() < 1e-6);
    assert!((all.bytes_per_system_call() - all.writes.bytes as f64 / calls).abs() < 1e-6);
}

#[test]
fn a_mixed_batch_is_submitted_by_one_system_call() {
    let Some(ring) = super::ring(UringConfig::default()) else {
        return;
    };
    let (dir, ring) = (here(), AnyBackend::Uring(ring));
    let file = file(&ring, &dir);
    let ended = Arc::new(AtomicUsize::new(0));
    for round in 0..10 {
        let before = ring.statistics();
        let done = || {
            let ended = Arc::clone(&ended);
            move |done: Completion| {
                done.result.expect("it succeeds");
                ended.fetch_add(1, SeqCst);
            }
        };
        let (opened, synced) = (Arc::clone(&ended), Arc::clone(&ended));
        let options = FileOptions::read_write().create(Create::New);
        let path = dir.path().join(format!("opened-{round}"));
        let (offset, len_bytes) = (8192, 4096);
        ring.submit(vec![
            write(&file, 0, done()),
            Operation::open(path, options, move |file: Result<_, _>| {
                opened.fetch_add(usize::from(file.is_ok()), SeqCst);
            }),
            Operation::new(file.clone(), Action::SyncData, done()),
            Operation::sync_dir(dir.path(), move |result: Result<(), _>| {
                synced.fetch_add(usize::from(result.is_ok()), SeqCst);
            }),
            Operation::new(
                file.clone(),
                Action::Allocate {
                    offset,
                    len_bytes,
                    how: Allocation::Reserved,
                },
                done(),
            ),
            Operation::new(
                file.clone(),
                Action::PunchHole { offset, len_bytes },
                done(),
            ),
            Operation::new(file.clone(), Action::Truncate { len_bytes: 65_536 }, done()),
        ]);
        let made = ring.statistics().since(&before);
        assert_eq!((made.submitted(), made.batches), (7, 1));
        assert_eq!((made.system_calls, made.retries), (1, 0));
        super::until_idle(&ring);
        assert_eq!(ended.load(SeqCst), 7 * (round + 1));
    }
}

#[test]
fn failures_are_counted() {
    let dir = here();
    for backend in backends() {
        let file = file(&backend, &dir);
        let options = FileOptions::read();
        let path = dir.path().join("log");
        let readable = backend.open(&path, &options).expect("it is there");
        let refused = backend.write_at(&readable, 0, vec![1], Durability::Written);
        assert!(refused.is_err());
        let refused = backend.start_write(&readable, 0, vec![1], Durability::Written);
        assert!(refused.wait(&backend).is_err());
        backend.sync_data(&file).expect("it succeeds");
        super::until_idle(&backend);
        let counted = backend.statistics();
        assert_eq!((counted.writes.failed, counted.writes.completed), (2, 2));
        assert_eq!((counted.failed(), counted.in_flight), (2, 0));
        assert_eq!(counted.writes.bytes, 0);
    }
}
