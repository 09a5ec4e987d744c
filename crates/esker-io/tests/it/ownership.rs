//! Memory in flight belongs to its operation, whatever becomes of everything else. The writes wait
//! in the kernel for as long as a test wants them to, because their file system is frozen.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};

use esker_buf::IoBuf;
use esker_io::{
    AnyBackend, Backend, BackendExt, Blocking, Create, Durability, FileHandle, FileOptions,
    UringConfig,
};

use super::mounts::{Mounted, mount};

/// Memory that says when it is freed.
pub(crate) struct Tracked {
    bytes: Vec<u8>,
    freed: Arc<AtomicBool>,
}

// SAFETY: as for the vector within.
unsafe impl IoBuf for Tracked {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes.stable_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // So that a kernel that reads it later writes something else.
        self.bytes.fill(0xDD);
        self.freed.store(true, SeqCst);
    }
}

pub(crate) fn tracked() -> (Tracked, Arc<AtomicBool>) {
    let freed = Arc::new(AtomicBool::new(false));
    let bytes = vec![7; 64 << 10];
    let memory = Tracked {
        bytes,
        freed: Arc::clone(&freed),
    };
    (memory, freed)
}

pub(crate) fn backends() -> Vec<AnyBackend> {
    let ring = |config| super::ring(config).map(AnyBackend::Uring);
    [
        Some(AnyBackend::Blocking(Blocking::new())),
        ring(UringConfig::default()),
        ring(UringConfig::default().sqpoll(Some(5))),
        ring(UringConfig::default().registered_files(8)),
        ring(UringConfig::default().defer_taskrun(true)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs a case for each backend on a file whose writes wait until the case calls what it is given.
pub(crate) fn frozen(case: impl Fn(AnyBackend, FileHandle, &mut dyn FnMut())) {
    let mounted = match mount("ext4", 16, Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: no ext4: {why}"),
    };
    for (number, backend) in backends().into_iter().enumerate() {
        let path = mounted.point.join(format!("log-{number}"));
        let options = FileOptions::read_write().create(Create::New);
        let file = backend.open(&path, &options).expect("a new file");
        let mut held = match mounted.freeze() {
            Ok(held) => Some(held),
            Err(why) => return println!("skipped: {why}"),
        };
        case(backend, file, &mut || drop(held.take()));
        drop(held);
        arrives(&mounted, &path);
    }
}

/// Waits until the write has arrived, as it was meant, whoever still knows of it.
fn arrives(mounted: &Mounted, path: &Path) {
    let began = std::time::Instant::now();
    loop {
        let bytes = std::fs::read(path).expect("it is there");
        if bytes.len() == 64 << 10 {
            assert!(bytes.iter().all(|&byte| byte == 7), "the memory was freed");
            return;
        }
        let patience = std::time::Duration::from_secs(60);
        assert!(began.elapsed() < patience, "{}", mounted.point.display());
        std::thread::yield_now();
    }
}

#[test]
fn a_dropped_future_leaves_the_memory_to_its_operation() {
    frozen(|backend, file, thaw| {
        let (memory, freed) = tracked();
        {
            let mut future = pin!(backend.start_write(&file, 0, memory, Durability::Durable));
            let mut context = Context::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
        }
        drop(file);
        assert!(!freed.load(SeqCst));
        assert_eq!(backend.in_flight(), 1);
        thaw();
        backend.wait_until(&mut || backend.in_flight() == 0, None);
        assert!(freed.load(SeqCst), "nobody is left who could want it");
    });
}

#[test]
fn a_forgotten_handle_costs_its_memory_and_nothing_else() {
    frozen(|backend, file, thaw| {
        let (memory, freed) = tracked();
        std::mem::forget(backend.start_write(&file, 0, memory, Durability::Durable));
        thaw();
        backend.wait_until(&mut || backend.in_flight() == 0, None);
        assert!(!freed.load(SeqCst), "the handle has it, for ever");
    });
}

#[test]
fn a_dropped_backend_waits_for_its_operations() {
    frozen(|backend, file, thaw| {
        let (memory, freed) = tracked();
        drop(backend.start_write(&file, 0, memory, Durability::Durable));
        drop(file);
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            scope.spawn(move || {
                tell.send(()).expect("it is waited for");
                drop(backend);
                tell.send(()).expect("it is waited for");
            });
            told.recv().expect("it begins");
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(told.try_recv().is_err(), "the kernel has the memory still");
            assert!(!freed.load(SeqCst));
            thaw();
            told.recv().expect("it ends");
        });
        assert!(freed.load(SeqCst));
    });
}

#[test]
fn a_forgotten_backend_leaks_what_the_kernel_may_touch() {
    frozen(|backend, file, thaw| {
        let (memory, freed) = tracked();
        drop(backend.start_write(&file, 0, memory, Durability::Durable));
        let has_threads = backend.description().reason.contains("thread of its own")
            || matches!(backend, AnyBackend::Blocking(_));
        std::mem::forget(backend);
        drop(file);
        assert!(!freed.load(SeqCst));
        thaw();
        // A thread goes on and frees it when it is over; a ring that nobody drives keeps it.
        assert!(has_threads || !freed.load(SeqCst));
    });
}

#[test]
fn a_panic_of_a_waiter_leaves_everything_in_flight() {
    frozen(|backend, file, thaw| {
        let (memory, freed) = tracked();
        let write = backend.start_write(&file, 0, memory, Durability::Durable);
        let panics = AtomicUsize::new(0);
        let waited = catch_unwind(AssertUnwindSafe(|| {
            backend.wait_until(
                &mut || {
                    panics.fetch_add(1, SeqCst);
                    resume_unwind(Box::new("on purpose"));
                },
                None,
            )
        }));
        assert!(waited.is_err() && panics.load(SeqCst) == 1);
        let handle = catch_unwind(AssertUnwindSafe(|| {
            let held = write;
            if held.is_completed() {
                return;
            }
            resume_unwind(Box::new("with the handle in hand"));
        }));
        assert!(handle.is_err());
        assert!(!freed.load(SeqCst));
        thaw();
        backend.wait_until(&mut || backend.in_flight() == 0, None);
        assert!(freed.load(SeqCst));
    });
}

/// How many descriptors of this process lead to a path.
fn descriptors_of(path: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("it is there");
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target == path).count()
}

#[test]
fn an_opened_file_that_nobody_takes_is_closed() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = dir.path().canonicalize().expect("it is there");
    let options = FileOptions::read_write().create(Create::New);
    for (number, backend) in backends().into_iter().enumerate() {
        let path = |name| dir.join(format!("{name}-{number}"));
        drop(backend.start_open(&path("dropped"), &options));
        let kept = backend.start_open(&path("kept"), &options);
        drop(backend.start_sync_dir(&dir));
        super::until_idle(&backend);
        assert!(path("dropped").exists(), "it was opened all the same");
        let open = |name| descriptors_of(&path(name));
        assert_eq!((open("dropped"), open("kept")), (0, 1));
        let kept = kept.wait(&backend).expect("it is opened");
        assert_eq!(open("kept"), 1);
        drop((kept, backend));
        assert_eq!((open("kept"), descriptors_of(&dir)), (0, 0));
    }
}
