//! System calls that fail: what passes is retried, what does not is reported, and nothing hangs.

use esker_io::{
    Action, Allocated, Allocation, AnyBackend, Backend, BackendExt, Completion, Create, Durability,
    Fate, FileHandle, FileOptions, IoError, Operation, Punched, UringConfig, WriteMemory,
};
use std::path::Path;
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
fn changes_that_are_interrupted_or_put_off_are_made_again() {
    for (error, when) in [("EINTR", "1+2"), ("EAGAIN", "2+3"), ("EINTR", "1..5")] {
        let inject = format!("inject=ftruncate,fallocate,fsync:error={error}:when={when}");
        with_faults(&[&inject], "injected::everything_is_changed");
    }
}

#[test]
#[ignore = "run under strace by the test above"]
fn everything_is_changed() {
    let dir = here();
    for (backend, file) in files(&dir) {
        for round in 0..10 {
            let taken = backend.start_allocate(&file, 0, 8192, Allocation::Reserved);
            taken.wait(&backend).expect("it succeeds");
            let punched = backend.start_punch_hole(&file, 0, 4096);
            punched.wait(&backend).expect("it succeeds");
            let cut = backend.start_truncate(&file, round);
            cut.wait(&backend).expect("it succeeds");
            let synced = backend.start_sync_dir(dir.path());
            synced.wait(&backend).expect("it succeeds");
            backend.truncate(&file, 5000).expect("it succeeds");
            backend.allocate(&file, 0, 8192).expect("it succeeds");
            backend.punch_hole(&file, 0, 10).expect("it succeeds");
            backend.sync_dir(dir.path()).expect("it succeeds");
        }
        super::until_idle(&backend);
        let counted = backend.statistics();
        assert_eq!((counted.in_flight, counted.failed()), (0, 0));
        // The first one to ask has met them all.
        let is_first = matches!(backend, AnyBackend::Blocking(_));
        assert!(counted.retries > 0 || !is_first, "{counted:?}");
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

/// The calls by which space is taken, in order: `w` for a command to write zeroes, `r` to reserve
/// space, `h` for a hole, and `0` for a write of zeroes.
fn ways(log: &str) -> String {
    let way = |line: &str| match line {
        line if line.contains("pwrite64(") => Some('0'),
        line if !line.contains("fallocate(") => None,
        line if line.contains("PUNCH_HOLE") => Some('h'),
        // Old straces know the flag only by its number.
        line if line.contains("0x80") || line.contains("WRITE_ZEROES") => Some('w'),
        _ => Some('r'),
    };
    let ways: Vec<_> = log.lines().filter_map(way).collect();
    ways.into_iter().collect()
}

#[test]
fn space_is_taken_by_the_best_way_that_there_is() {
    const TRACE: &str = "trace=fallocate,pwrite64";
    // What the kernel knows: the command; only to reserve space; nothing.
    for (inject, test, expected) in [
        ("inject=fallocate:retval=0", "by_command", "wwr"),
        (
            "inject=fallocate:error=EOPNOTSUPP:when=1+2",
            "by_reserving",
            "wrwr00",
        ),
        (
            "inject=fallocate:error=EOPNOTSUPP",
            "by_writing",
            "wr00wr00r00h0",
        ),
    ] {
        let test = format!("injected::space_is_taken_{test}");
        if let Some(log) = traced(&["-e", TRACE, "-e", inject], &test) {
            assert_eq!(ways(&log), expected, "{inject}: {log}");
        }
    }
}

/// A file of the portable backend, which takes space as the other one does.
fn blocking_file(dir: &tempfile::TempDir) -> (AnyBackend, FileHandle) {
    files(dir).swap_remove(0)
}

/// What each way to take half a MiB made of it.
fn taken(hows: &[Allocation]) -> Vec<Allocated> {
    let dir = here();
    let (backend, file) = blocking_file(&dir);
    let take = |how: &Allocation| backend.allocate_with(&file, 0, 1 << 19, *how);
    hows.iter()
        .map(|how| take(how).expect("there is space"))
        .collect()
}

#[test]
#[ignore = "run under strace by the test above"]
fn space_is_taken_by_command() {
    let hows = [Allocation::Quick, Allocation::Written, Allocation::Reserved];
    let zeroes = Allocated::WrittenZeroes;
    assert_eq!(taken(&hows), [zeroes, zeroes, Allocated::Reserved]);
}

#[test]
#[ignore = "run under strace by the test above"]
fn space_is_taken_by_reserving() {
    let hows = [Allocation::Quick, Allocation::Written];
    assert_eq!(
        taken(&hows),
        [Allocated::Reserved, Allocated::WrittenZeroes]
    );
}

#[test]
#[ignore = "run under strace by the test above"]
fn space_is_taken_by_writing() {
    let hows = [Allocation::Quick, Allocation::Written, Allocation::Reserved];
    assert_eq!(taken(&hows), [Allocated::WrittenZeroes; 3]);
    let dir = here();
    let (backend, file) = blocking_file(&dir);
    backend.truncate(&file, 1000).expect("it succeeds");
    let punched = backend.punch_hole(&file, 10, 5000).expect("it succeeds");
    assert_eq!(punched, Punched::Zeroed);
    assert_eq!(backend.facts(&file).expect("facts").len_bytes, 1000);
}

#[test]
fn what_may_have_changed_a_name_or_a_length_is_indeterminate() {
    let inject = "inject=fsync,rename,unlink,ftruncate,fallocate:error=EIO";
    with_faults(&[inject], "injected::nothing_changes_for_sure");
}

/// The same changes, submitted. A ring's own are the kernel's, where no call fails.
fn submitted_changes(
    backend: &AnyBackend,
    file: &FileHandle,
    dir: &Path,
) -> Vec<(&'static str, Result<(), IoError>, Fate)> {
    if !matches!(backend, AnyBackend::Blocking(_)) {
        return Vec::new();
    }
    let taken = backend.start_allocate(file, 0, 4096, Allocation::Quick);
    let punched = backend.start_punch_hole(file, 0, 10);
    [
        ("sync", backend.start_sync_dir(dir).wait(backend)),
        ("cut", backend.start_truncate(file, 10).wait(backend)),
        ("punch", punched.wait(backend).map(drop)),
        ("allocate", taken.wait(backend).map(drop)),
    ]
    .map(|(what, result)| (what, result, Fate::Indeterminate))
    .into()
}

#[test]
#[ignore = "run under strace by the test above"]
fn nothing_changes_for_sure() {
    let dir = here();
    for (number, (backend, file)) in files(&dir).into_iter().enumerate() {
        let path = dir.path().join(format!("log-{number}"));
        let taken = backend.allocate(&file, 0, 4096);
        for (what, result, fate) in [
            ("sync", backend.sync_dir(dir.path()), Fate::Indeterminate),
            (
                "rename",
                backend.rename(&path, &dir.path().join("other")),
                Fate::Indeterminate,
            ),
            ("remove", backend.remove(&path), Fate::Indeterminate),
            ("cut", backend.truncate(&file, 10), Fate::Indeterminate),
            (
                "punch",
                backend.punch_hole(&file, 0, 10).map(drop),
                Fate::Indeterminate,
            ),
            // The file may be longer by now.
            ("allocate", taken.map(drop), Fate::Indeterminate),
        ]
        .into_iter()
        .chain(submitted_changes(&backend, &file, dir.path()))
        {
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}: {error}");
            assert_eq!(error.fate(), fate, "{what}: {error}");
        }
    }
}
