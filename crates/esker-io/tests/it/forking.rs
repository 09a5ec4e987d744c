//! A process that uses a backend forks: the parent loses nothing, whatever the child does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use esker_buf::{Alignment, BufferPool, HugePages};
use esker_io::{
    AnyBackend, Backend, BackendExt, Create, Direct, DriverThread, Durability, Fate, FileHandle,
    FileOptions, IoError,
};

use super::fallback::in_a_process_of_its_own;
use super::ownership::{backends, frozen, tracked};

/// Runs `child` in a child of this process, which has no other thread than one, and ends it there;
/// demands that it returns, and before long.
fn in_a_child(child: impl FnOnce()) {
    // SAFETY: this process runs one test; of its other threads none holds a lock that the child needs,
    // but those of the backend, which is what is tested.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let ended = catch_unwind(AssertUnwindSafe(child));
        // SAFETY: nothing of this process is needed any more.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    let began = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: `status` is good for writing one integer; the process is a child.
        match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
            0 if began.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            0 => {
                // SAFETY: the process is a child that nobody has waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                panic!("the child hangs");
            }
            waited => {
                assert_eq!((waited, status), (pid, 0), "the child panicked");
                return;
            }
        }
    }
}

/// Makes a file of that name, writes to it and reads it back.
fn works(backend: &AnyBackend, dir: &Path, name: &str) {
    let options = FileOptions::read_write().create(Create::New);
    let file = backend.open(&dir.join(name), &options).expect("a new file");
    let write = backend.start_write(&file, 0, vec![3; 5000], Durability::Durable);
    write.wait(backend).expect("it succeeds");
    let read = backend.start_read(&file, 0, vec![0; 5000]);
    let (count, bytes) = read.wait(backend).expect("it succeeds");
    assert!(count == 5000 && bytes.iter().all(|&byte| byte == 3));
}

/// What a child finds of its parent's backend, which has a write in flight.
fn finds_nothing_here(backend: AnyBackend, file: FileHandle, dir: &Path) {
    assert_eq!((backend.in_flight(), backend.poll()), (0, 0));
    let (memory, freed) = tracked();
    let write = backend.start_write(&file, 0, memory, Durability::Written);
    let failed = write.wait(&backend).err().expect("it is refused");
    assert!(matches!(failed.error, IoError::Forked { .. }));
    assert_eq!(failed.error.fate(), Fate::Determinate);
    drop(failed);
    assert!(freed.load(SeqCst));
    let options = FileOptions::read_write().create(Create::New);
    let refused = dir.join("refused");
    for error in [
        backend.start_open(&refused, &options).wait(&backend).err(),
        backend.start_sync_dir(dir).wait(&backend).err(),
        backend.start_truncate(&file, 0).wait(&backend).err(),
    ] {
        assert!(matches!(error, Some(IoError::Forked { .. })), "{error:?}");
    }
    assert!(!refused.exists());
    backend.wake();
    let never = backend.wait_until(&mut || false, Some(Duration::from_millis(5)));
    assert!(!never && !backend.wait_for(&|| false, Some(Duration::ZERO)));
    let pool = BufferPool::new(1, 4096, Alignment::BLOCK, HugePages::Never).expect("memory");
    assert!(backend.register(Box::new(pool)).is_err());
    let kind = backend.description().kind;
    drop(file);
    drop(backend);
    let mine = match kind {
        "blocking" => AnyBackend::blocking(),
        _ => AnyBackend::uring().expect("the parent has one"),
    };
    works(&mine, dir, "child");
}

#[test]
fn a_child_finds_a_backend_that_refuses_and_goes_without_waiting() {
    in_a_process_of_its_own("forking::a_child_uses_what_it_was_left");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn a_child_uses_what_it_was_left() {
    frozen(|backend, file, thaw| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let (memory, freed) = tracked();
        let pool = BufferPool::new(1, 4096, Alignment::BLOCK, HugePages::Never).expect("memory");
        let registration = backend.register(Box::new(pool.clone())).ok();
        let write = backend.start_write(&file, 0, memory, Durability::Durable);
        let mut left = Some((backend, file, registration));
        in_a_child(|| {
            let (backend, file, registration) = left.take().expect("the child's copy");
            drop(registration);
            finds_nothing_here(backend, file, dir.path());
        });
        let (backend, file, registration) = left.expect("the parent's own");
        assert_eq!(backend.in_flight(), 1);
        assert!(!freed.load(SeqCst));
        thaw();
        drop(write.wait(&backend).expect("it succeeds"));
        assert!(freed.load(SeqCst));
        // The child has not made the kernel forget it.
        let mut buf = pool.take().expect("it is there");
        buf.fill(7);
        let write = backend.start_write(&file, 0, buf, Durability::Durable);
        write.wait(&backend).expect("it succeeds");
        drop(registration);
        works(&backend, dir.path(), "parent");
    });
}

#[test]
fn a_child_does_not_wait_for_its_parents_driver() {
    in_a_process_of_its_own("forking::a_child_drops_a_driver");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn a_child_drops_a_driver() {
    for backend in backends() {
        let backend = Arc::new(backend);
        let driver = DriverThread::start(Arc::clone(&backend)).expect("a thread");
        let told = AtomicBool::new(false);
        let mut left = Some((backend, driver));
        in_a_child(|| {
            let (backend, driver) = left.take().expect("the child's copy");
            driver.stop().expect("no sink has panicked");
            drop(backend);
            told.store(true, SeqCst);
        });
        assert!(!told.load(SeqCst), "that was another process's");
        let (_backend, driver) = left.expect("the parent's own");
        driver.stop().expect("no sink has panicked");
    }
}

#[test]
fn a_fork_takes_nothing_from_the_parent() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    for (number, backend) in backends().into_iter().enumerate() {
        let path = dir.path().join(format!("log-{number}"));
        let options = FileOptions::read_write()
            .create(Create::New)
            .direct(Direct::Try);
        let file = backend.open(&path, &options).expect("a new file");
        for round in 0..20 {
            let pending: Vec<_> = (0..8)
                .map(|at| {
                    let mut buf = esker_buf::AlignedBuf::zeroed(65536, esker_buf::Alignment::BLOCK)
                        .expect("memory");
                    buf.fill(round + 1);
                    backend.start_write(&file, at << 16, buf, Durability::Written)
                })
                .collect();
            // SAFETY: the child calls nothing but `_exit`.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: as above; the parent's operations are none of its business.
                unsafe { libc::_exit(0) };
            }
            assert!(child > 0, "{}", std::io::Error::last_os_error());
            let reads: Vec<_> = pending
                .into_iter()
                .enumerate()
                .map(|(at, write)| {
                    let buf = write.wait(&backend).expect("it succeeds");
                    // Memory that the child shares until one of the two writes to it.
                    backend.start_read(&file, (at as u64) << 16, buf)
                })
                .collect();
            for read in reads {
                let (count, buf) = read.wait(&backend).expect("it succeeds");
                assert_eq!(count, 65536);
                assert!(buf.iter().all(|&byte| byte == round + 1));
            }
            let mut status = 0;
            // SAFETY: `status` is good for writing one integer.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        }
    }
}
