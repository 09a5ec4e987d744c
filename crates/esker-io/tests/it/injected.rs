//! System calls that fail: what passes is retried, what does not is reported, and nothing hangs.

use esker_io::{
    Action, AnyBackend, Backend, BackendExt, Completion, Create, Durability, Fate, FileHandle,
    FileOptions, IoError, Operation, UringConfig, WriteMemory,
};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::traced::traced;

/// The loader reads the program's libraries, by fewer calls than this; a test makes more.
const LOADED: usize = 20;

/// Runs a test with faults in its system calls, which have to have come.
fn with_faults(inject: &[&str], test: &str) -> Option<String> {
    let options: Vec<&str> = inject.iter().flat_map(|inject| ["-e", inject]).collect();
    let log = traced(&options, test)?;
    assert!(
        log.contains("(INJECTED)"),
        "{inject:?} changed nothing: {log}"
    );
    Some(log)
}

/// The backends, and a file of each.
fn files(dir: &tempfile::TempDir) -> Vec<(AnyBackend, FileHandle)> {
    let ring = super::ring(UringConfig::default().entries(8)).map(AnyBackend::Uring);
    let backends = [Some(AnyBackend::blocking()), ring].into_iter().flatten();
    let open = |(number, backend): (usize, AnyBackend)| {
        let options = FileOptions::read_write().create(Create::New);
        let path = dir.path().join(format!("log-{number}"));
        let file = backend.open(&path, &options).expect("a new file");
        (backend, file)
    };
    backends.enumerate().map(open).collect()
}

fn here() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

#[test]
fn calls_that_are_interrupted_or_put_off_are_made_again() {
    const CALLS: &str = "pwrite64,pwritev,pwritev2,fdatasync,fsync,io_uring_enter";
    for (error, when) in [("EINTR", "1+2"), ("EAGAIN", "2+3"), ("EINTR", "1..5")] {
        let inject = format!("inject={CALLS}:error={error}:when={when}");
        let reads = format!("inject=pread64:error={error}:when={LOADED}+2");
        with_faults(&[&inject, &reads], "injected::everything_succeeds");
    }
}

#[test]
#[ignore = "run under strace by the test above"]
fn everything_succeeds() {
    let dir = here();
    for (backend, file) in files(&dir) {
        for durability in [Durability::Written, Durability::Durable] {
            let bytes = |at: u64| vec![u8::try_from(at).expect("small"); 3000];
            let pending: Vec<_> = (0..40)
                .map(|at| backend.start_write(&file, at * 3000, bytes(at), durability))
                .collect();
            for write in pending {
                write.wait(&backend).expect("it succeeds");
            }
            backend
                .write_vectored_at(&file, 120_000, vec![bytes(40), bytes(41)], durability)
                .expect("it succeeds");
            let sync = backend.start_sync(&file);
            sync.wait(&backend).expect("it succeeds");
            backend.sync_data(&file).expect("it succeeds");
            backend.sync_all(&file).expect("it succeeds");
            for at in 0..42 {
                let read = backend.start_read(&file, at * 3000, vec![0; 3000]);
                let (count, buf) = read.wait(&backend).expect("it succeeds");
                assert!(count == 3000 && buf == bytes(at));
                let (count, buf) = backend.read_at(&file, at * 3000, buf).expect("it succeeds");
                assert!(count == 3000 && buf == bytes(at));
            }
        }
        super::until_idle(&backend);
        let counted = backend.statistics();
        assert_eq!((counted.in_flight, counted.failed()), (0, 0));
        assert!(counted.retries > 0, "{counted:?}");
    }
}

#[test]
fn a_call_that_is_put_off_for_ever_is_given_up() {
    let reads = format!("inject=pread64:error=EAGAIN:when={LOADED}+");
    let inject = ["inject=pwrite64,fdatasync:error=EAGAIN", &reads];
    with_faults(&inject, "injected::nothing_gets_anywhere");
}

#[test]
#[ignore = "run under strace by the test above"]
fn nothing_gets_anywhere() {
    let dir = here();
    for (backend, file) in files(&dir) {
        let write = backend.write_at(&file, 0, vec![1; 10], Durability::Written);
        let failed = write.expect_err("it is put off");
        assert_eq!(failed.buf, [1; 10]);
        for _ in 0..LOADED {
            // Some of these are still let through.
            let _ = backend.read_at(&file, 0, vec![0; 10]);
        }
        let read = backend.read_at(&file, 0, vec![0; 10]);
        for error in [
            failed.error,
            read.expect_err("it is put off").error,
            backend.sync_data(&file).expect_err("it is put off"),
        ] {
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        }
    }
}

#[test]
fn a_sync_that_fails_is_indeterminate_and_is_not_tried_again() {
    let log = with_faults(
        &["inject=fdatasync,fsync,pwritev2:error=EIO"],
        "injected::nothing_becomes_durable",
    );
    let Some(log) = log else { return };
    // The blocking backend's, executed and submitted, and what a ring executes.
    for call in ["fdatasync(", "fsync(", "pwritev2("] {
        let count = log.lines().filter(|line| line.contains(call)).count();
        assert!(count == 3 || count == 2, "{count} of {call}: {log}");
    }
}

#[test]
#[ignore = "run under strace by the test above"]
fn nothing_becomes_durable() {
    let dir = here();
    for (backend, file) in files(&dir) {
        let indeterminate = |error: &IoError| {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
            assert_eq!(error.fate(), Fate::Indeterminate, "{error}");
        };
        let write = backend.write_at(&file, 0, vec![1; 10], Durability::Durable);
        indeterminate(&write.expect_err("it fails").error);
        indeterminate(&backend.sync_data(&file).expect_err("it fails"));
        indeterminate(&backend.sync_all(&file).expect_err("it fails"));
        // A ring's own are the kernel's, where no call fails.
        if matches!(backend, AnyBackend::Blocking(_)) {
            let write = backend.start_write(&file, 0, vec![1; 10], Durability::Durable);
            indeterminate(&write.wait(&backend).expect_err("it fails").error);
            indeterminate(
                &backend
                    .start_sync(&file)
                    .wait(&backend)
                    .expect_err("it fails"),
            );
            let sync = backend.start_sync_all(&file);
            indeterminate(&sync.wait(&backend).expect_err("it fails"));
        }
        backend
            .write_at(&file, 0, vec![1; 10], Durability::Written)
            .expect("nothing stands in the way of that");
    }
}

#[test]
fn a_ring_that_breaks_ends_every_operation_and_goes() {
    for inject in [
        "inject=io_uring_enter:error=EBADF:when=8+",
        "inject=io_uring_enter:error=EAGAIN:when=8+",
    ] {
        with_faults(&[inject], "injected::the_ring_breaks");
    }
}

#[test]
#[ignore = "run under strace by the test above"]
fn the_ring_breaks() {
    let dir = here();
    for (backend, file) in files(&dir) {
        if matches!(backend, AnyBackend::Blocking(_)) {
            continue;
        }
        let ended = Arc::new(Mutex::new(Vec::new()));
        let batch = |first: u64| {
            let write = |at: u64| {
                let ended = Arc::clone(&ended);
                let action = Action::Write {
                    offset: at * 100,
                    memory: WriteMemory::new(vec![u8::try_from(at).expect("small"); 100]),
                    durability: Durability::Written,
                };
                Operation::new(file.clone(), action, move |done: Completion| {
                    ended.lock().expect("no panic").push((at, done.result));
                })
            };
            (first..first + 10).map(write).collect()
        };
        for round in 0..10 {
            backend.submit(batch(round * 10));
            backend.wait_until(&mut || backend.in_flight() <= 10, None);
        }
        let looks = AtomicUsize::new(0);
        backend.wait_until(
            &mut || {
                looks.fetch_add(1, SeqCst);
                backend.in_flight() == 0
            },
            None,
        );
        assert!(looks.load(SeqCst) > 0);
        drop(backend);
        let mut ended = core::mem::take(&mut *ended.lock().expect("no panic"));
        ended.sort_by_key(|(at, _)| *at);
        assert!(ended.iter().map(|(at, _)| *at).eq(0..100), "{ended:?}");
        let (mut went, mut refused) = (0, 0);
        for (at, result) in ended {
            match result {
                Ok(bytes) => {
                    assert_eq!(bytes, 100, "{at}");
                    went += 1;
                }
                Err(error @ IoError::NotSubmitted { .. }) => {
                    assert_eq!(error.fate(), Fate::Determinate);
                    refused += 1;
                }
                Err(error) => panic!("{at}: {error}"),
            }
        }
        assert!(
            went > 0 && refused > 0,
            "{went} went, {refused} were refused"
        );
    }
}
