//! Faults that the operating system is made to produce.

use std::io::ErrorKind;
use std::process::Command;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use esker_io::{
    Action, Allocation, AnyBackend, Backend, BackendExt, Blocking, Completion, Create, Durability,
    Fate, FileHandle, FileOptions, IoError, Operation, Uring, UringConfig, WriteMemory,
};

/// The limit on a file's length in the child process.
const LIMIT: u64 = 64 * 1024;

#[test]
fn a_write_that_the_system_cuts_short_is_not_a_success() {
    // A limit on the length of files holds for a whole process, so it gets one of its own.
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "faults::in_a_limited_process", "--ignored"])
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn in_a_limited_process() {
    let limit = libc::rlimit {
        rlim_cur: LIMIT,
        rlim_max: LIMIT,
    };
    // SAFETY: `limit` is a valid `rlimit`; ignoring a signal installs no handler.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    cut_short(&Blocking::new());
    match Uring::new(UringConfig::default()) {
        Ok(uring) => cut_short(&uring),
        Err(error) => println!("skipped: {error}"),
    }
}

fn cut_short<B: Backend<File = FileHandle>>(backend: &B) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let options = FileOptions::read_write().create(Create::New);
    let file = backend
        .open(&dir.path().join("log"), &options)
        .expect("a new file");
    let half = LIMIT / 2;
    for durability in [Durability::Written, Durability::Durable] {
        let errors = [
            backend
                .write_at(&file, half, vec![1u8; 40_000], durability)
                .expect_err("the limit is in the way")
                .error,
            backend
                .start_write(&file, half, vec![1u8; 40_000], durability)
                .wait(backend)
                .expect_err("the limit is in the way")
                .error,
        ];
        for error in errors {
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error:?}");
            assert_eq!(error.context().offset, half);
            assert_eq!(error.context().transferred_bytes, half);
            assert_eq!(error.fate(), Fate::Indeterminate);
        }
        let error = backend
            .start_write(&file, LIMIT, vec![1u8; 10], durability)
            .wait(backend)
            .expect_err("the limit is in the way")
            .error;
        assert_eq!(error.context().transferred_bytes, 0);
        assert_eq!(error.fate(), Fate::Determinate, "{error:?}");
    }
}

#[test]
fn a_full_disk_is_told_apart_and_determinate() {
    // A file system in memory refuses at once what it can never have; a disk would be filled to
    // the brim first, under everybody else on it.
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: there is no /dev/shm");
        return;
    };
    for backend in [Some(AnyBackend::blocking()), AnyBackend::uring().ok()]
        .into_iter()
        .flatten()
    {
        let options = FileOptions::read_write().create(Create::IfMissing);
        let file = backend
            .open(&dir.path().join("log"), &options)
            .expect("a file");
        let submitted = backend.start_allocate(&file, 0, 1 << 50, Allocation::Quick);
        for result in [
            backend.allocate(&file, 0, 1 << 50),
            submitted.wait(&backend),
        ] {
            let error = result.expect_err("nobody has a pebibyte of memory");
            assert!(error.is_no_space(), "{error:?}");
            assert_eq!(error.fate(), Fate::Determinate);
            assert_eq!(backend.facts(&file).expect("facts").len_bytes, 0);
        }
    }
}

#[test]
fn a_hundred_thousand_operations_go_through_eight_entries() {
    const THREADS: u64 = 8;
    const EACH: u64 = 12_500;
    let Ok(uring) = Uring::new(UringConfig::default().entries(8).cq_entries(8)) else {
        println!("skipped: there is no io_uring");
        return;
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let options = FileOptions::read_write().create(Create::New);
    let file = uring
        .open(&dir.path().join("log"), &options)
        .expect("a new file");
    let right = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (uring, file, right) = (&uring, &file, &right);
            scope.spawn(move || {
                // Nobody waits before all is submitted.
                for first in (0..EACH).step_by(100) {
                    let batch = (first..first + 100).map(|number| {
                        let at = thread * EACH + number;
                        let right = Arc::clone(right);
                        let action = Action::Write {
                            offset: at * 8,
                            memory: WriteMemory::new(at.to_le_bytes().to_vec()),
                            durability: Durability::Written,
                        };
                        Operation::new(file.clone(), action, move |done: Completion| {
                            assert_eq!(done.result.expect("it succeeds"), 8);
                            assert_eq!(done.memory.bytes(), at.to_le_bytes());
                            right.fetch_add(1, SeqCst);
                        })
                    });
                    uring.submit(batch.collect());
                }
            });
        }
    });
    uring.wait_until(&mut || uring.in_flight() == 0, None);
    assert_eq!(right.load(SeqCst), 100_000);
    let (count, bytes) = uring
        .read_at(&file, 0, vec![0; 800_000])
        .expect("it was written");
    assert_eq!(count, 800_000);
    for (at, word) in bytes.chunks(8).enumerate() {
        assert_eq!(word, (at as u64).to_le_bytes());
    }
}

#[test]
fn dropping_a_ring_waits_for_its_operations_and_calls_their_sinks() {
    let Ok(uring) = Uring::new(UringConfig::default().entries(4)) else {
        println!("skipped: there is no io_uring");
        return;
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let options = FileOptions::read_write().create(Create::New);
    let file = uring
        .open(&dir.path().join("log"), &options)
        .expect("a new file");
    let called = Arc::new(AtomicUsize::new(0));
    let batch = (0..100)
        .map(|number| {
            let called = Arc::clone(&called);
            let action = Action::Write {
                offset: number * 4096,
                memory: WriteMemory::new(vec![1u8; 4096]),
                durability: Durability::Written,
            };
            Operation::new(file.clone(), action, move |completion: Completion| {
                completion.result.expect("it succeeds");
                called.fetch_add(1, SeqCst);
            })
        })
        .collect();
    uring.submit(batch);
    drop(uring);
    assert_eq!(called.load(SeqCst), 100);
}

#[test]
fn errors_keep_what_the_system_said() {
    let error = Blocking::new()
        .open("/proc/nowhere/at all".as_ref(), &FileOptions::read())
        .map(drop)
        .expect_err("there is no such file");
    let IoError::NotFound { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), ErrorKind::NotFound);
}
