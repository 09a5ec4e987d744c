//! A ring that one thread alone enters, and the others that use it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use esker_buf::{Alignment, BufferPool, HugePages};
use esker_io::{
    Action, Backend, BackendExt, Completion, Create, Durability, FileHandle, FileOptions,
    Operation, Uring, UringConfig, WriteMemory,
};

use super::PATIENCE;
use super::traced::traced;

fn configs() -> [UringConfig; 3] {
    [
        UringConfig::default().single_issuer(true),
        UringConfig::default().defer_taskrun(true),
        UringConfig::default().single_issuer(true).sqpoll(Some(5)),
    ]
}

fn here() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn file(ring: &Uring, dir: &tempfile::TempDir, name: &str) -> FileHandle {
    let options = FileOptions::read_write().create(Create::New);
    ring.open(&dir.path().join(name), &options)
        .expect("a new file")
}

/// The numbers of this process's threads of that name.
fn threads(name: &str) -> HashSet<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("it is there");
    let is_named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    tasks
        .flatten()
        .filter(is_named)
        .map(|task| task.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn one_thread_alone_enters_the_ring() {
    let trace = [
        "-e",
        "trace=io_uring_setup,io_uring_register,io_uring_enter",
    ];
    for number in 0..configs().len() {
        let test = format!("issuer::many_threads_use_a_ring_{number}");
        let Some(log) = traced(&trace, &test) else {
            return;
        };
        let calls = |name: &str| {
            let lines = log.lines().filter(|line| line.contains(name));
            lines
                .filter_map(|line| line.split_whitespace().next())
                .collect::<HashSet<_>>()
        };
        let issuer = calls("io_uring_setup(");
        assert_eq!(issuer.len(), 1, "{log}");
        assert_eq!(calls("io_uring_enter("), issuer, "{log}");
        assert_eq!(calls("io_uring_register("), issuer, "{log}");
    }
}

#[test]
#[ignore = "run under strace by the test above"]
fn many_threads_use_a_ring_0() {
    many_threads_use(configs()[0]);
}

#[test]
#[ignore = "run under strace by the test above"]
fn many_threads_use_a_ring_1() {
    many_threads_use(configs()[1]);
}

#[test]
#[ignore = "run under strace by the test above"]
fn many_threads_use_a_ring_2() {
    many_threads_use(configs()[2]);
}

fn many_threads_use(config: UringConfig) {
    let Some(ring) = super::ring(config) else {
        return;
    };
    let dir = here();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (ring, dir) = (&ring, &dir);
            scope.spawn(move || {
                let file = file(ring, dir, &thread.to_string());
                let pool = BufferPool::new(1, 4096, Alignment::BLOCK, HugePages::Never);
                let pool = pool.expect("memory");
                for round in 0..20 {
                    let held = ring
                        .register(Box::new(pool.clone()))
                        .expect("there is a slot");
                    let mut buf = pool.take().expect("it is there");
                    buf.fill(thread ^ round);
                    let write = ring.start_write(&file, 0, buf, Durability::Written);
                    drop(held);
                    let mut buf = write.wait(ring).expect("it succeeds");
                    buf.fill(0);
                    let read = ring.start_read(&file, 0, buf);
                    let (count, buf) = read.wait(ring).expect("it succeeds");
                    assert!(count == 4096 && buf.iter().all(|&byte| byte == thread ^ round));
                }
            });
        }
    });
}

#[test]
fn the_issuer_is_there_for_as_long_as_its_ring() {
    // Nothing else in this process has such threads while it runs.
    super::fallback::in_a_process_of_its_own("issuer::an_issuer_comes_and_goes");
}

#[test]
#[ignore = "looks at the threads of its process, so it is run in one of its own by the test above"]
fn an_issuer_comes_and_goes() {
    for config in configs() {
        let Some(ring) = super::ring(config) else {
            return;
        };
        assert_eq!(threads("esker-io-issuer").len(), 1);
        let (dir, ring) = (here(), Arc::new(ring));
        let file = file(&ring, &dir, "log");
        let write = |sink: Box<dyn FnOnce() + Send>| {
            let memory = WriteMemory::new(vec![1; 100]);
            let action = Action::Write {
                offset: 0,
                memory,
                durability: Durability::Written,
            };
            Operation::new(file.clone(), action, move |_: Completion| sink())
        };
        // The drop waits for what is in flight, and for the thread.
        let called = Arc::new(AtomicUsize::new(0));
        let batch = (0..300).map(|_| {
            let called = Arc::clone(&called);
            write(Box::new(move || {
                called.fetch_add(1, SeqCst);
            }))
        });
        ring.submit(batch.collect());
        drop(ring);
        assert_eq!(called.load(SeqCst), 300);
        assert!(threads("esker-io-issuer").is_empty());
        // A sink that holds the ring last drops it in the issuer, which then ends by itself, after
        // all that is in flight.
        let ring = Arc::new(Uring::new(config).expect("it was there just now"));
        let (go, gone) = mpsc::channel::<()>();
        let held = Arc::clone(&ring);
        let last = write(Box::new(move || {
            gone.recv().expect("it is told");
            drop(held);
        }));
        let after = Arc::clone(&called);
        let later = write(Box::new(move || {
            after.fetch_add(1, SeqCst);
        }));
        ring.submit(vec![last, later]);
        drop(ring);
        go.send(()).expect("it is waited for");
        let began = Instant::now();
        while called.load(SeqCst) < 301 || !threads("esker-io-issuer").is_empty() {
            assert!(began.elapsed() < PATIENCE, "it lives on");
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_panic_of_a_sink_goes_on_in_whoever_waits() {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    for config in configs() {
        let Some(ring) = super::ring(config) else {
            return;
        };
        let dir = here();
        let file = file(&ring, &dir, "log");
        let panics = || {
            let memory = WriteMemory::new(vec![1; 100]);
            let action = Action::Write {
                offset: 0,
                memory,
                durability: Durability::Written,
            };
            let sink = |_: Completion| resume_unwind(Box::new("on purpose"));
            ring.submit(vec![Operation::new(file.clone(), action, sink)]);
        };
        let shared = AtomicBool::new(false);
        let waits: [&dyn Fn(); 3] = [
            &|| assert!(ring.wait_until(&mut || ring.in_flight() == 0, Some(PATIENCE))),
            &|| assert!(ring.wait_for(&|| shared.load(SeqCst), Some(PATIENCE))),
            &|| {
                let began = Instant::now();
                while ring.poll() == 0 {
                    assert!(began.elapsed() < PATIENCE, "it does not come");
                }
            },
        ];
        for wait in waits {
            panics();
            let panic = catch_unwind(AssertUnwindSafe(wait)).expect_err("it goes on");
            assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        }
        panics();
        let panic = catch_unwind(AssertUnwindSafe(|| drop(ring))).expect_err("it goes on");
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    }
}
