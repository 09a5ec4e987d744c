//! A backend of one's own, which passes the conformance suite and carries a whole store:
//! `cargo run -p esker-lss --example custom_backend`.
//!
//! It runs operations on threads of its own, the largest first. Names, locks and space go to
//! [`Blocking`]; what is its own is how operations run. What matters for any backend: an operation lets
//! go of its file before its sink is called ([`Operation::run`] does), counts as in flight until its sink
//! has returned, and whoever has called a sink wakes those who wait.

use std::any::Any;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use esker_io::{
    Action, Backend, Blocking, Completion, Description, FileFacts, FileHandle, FileOptions,
    IoError, Latencies, Operation, Statistics, conformance,
};
use esker_lss::{Options, Store};

struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    calls: Blocking,
    queue: Mutex<Queue>,
    changed: Condvar,
    in_flight: AtomicUsize,
    batches: AtomicU64,
    peak_in_flight: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    operations: VecDeque<Operation<FileHandle>>,
    closed: bool,
    /// The panic of a sink, for whoever waits next.
    panic: Option<Box<dyn Any + Send>>,
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("nothing panics with the lock held")
    }

    /// What each thread does until the pool is dropped and its queue is empty.
    fn work(&self) {
        loop {
            let mut queue = self.queue();
            while queue.operations.is_empty() && !queue.closed {
                queue = self.changed.wait(queue).expect("as in `queue`");
            }
            let largest = (0..queue.operations.len())
                .max_by_key(|&index| queue.operations[index].len_bytes());
            let Some(operation) =
                largest.and_then(|index| queue.operations.swap_remove_back(index))
            else {
                return;
            };
            drop(queue);
            let ended = operation.run(&self.calls);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| ended.tell())) {
                self.queue().panic.get_or_insert(panic);
            }
            self.in_flight.fetch_sub(1, SeqCst);
            self.calls.wake();
        }
    }

    fn resume_panic(&self) {
        let panic = self.queue().panic.take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Pool {
    fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.work())
            })
            .collect();
        Self { shared, threads }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // The last handle on the pool may be a sink's, in one of its own threads.
            if thread.thread().id() != thread::current().id() {
                thread.join().expect("it catches the panics of sinks");
            }
        }
    }
}

impl Backend for Pool {
    type File = FileHandle;

    fn description(&self) -> Description {
        Description {
            kind: "pool",
            reason: format!("system calls on {} threads", self.threads.len()),
        }
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            batches: self.shared.batches.load(SeqCst),
            in_flight: self.in_flight() as u64,
            peak_in_flight: self.shared.peak_in_flight.load(SeqCst) as u64,
            ..self.shared.calls.statistics()
        }
    }

    fn latencies(&self) -> Latencies {
        self.shared.calls.latencies()
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        self.shared.calls.create_dir_all(path)
    }

    fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        self.shared.calls.open(path, options)
    }

    fn list(&self, dir: &Path) -> Result<Vec<OsString>, IoError> {
        self.shared.calls.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        self.shared.calls.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        self.shared.calls.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        self.shared.calls.sync_dir(dir)
    }

    fn path(&self, file: &FileHandle) -> Arc<Path> {
        self.shared.calls.path(file)
    }

    fn facts(&self, file: &FileHandle) -> Result<FileFacts, IoError> {
        self.shared.calls.facts(file)
    }

    fn try_lock(&self, file: &FileHandle) -> Result<bool, IoError> {
        self.shared.calls.try_lock(file)
    }

    fn is_locked(&self, file: &FileHandle) -> Result<bool, IoError> {
        self.shared.calls.is_locked(file)
    }

    fn first_hole(&self, file: &FileHandle, offset: u64) -> Result<Option<Range<u64>>, IoError> {
        self.shared.calls.first_hole(file, offset)
    }

    fn submit(&self, batch: Vec<Operation<FileHandle>>) {
        if batch.is_empty() {
            return;
        }
        self.shared.batches.fetch_add(1, SeqCst);
        let before = self.shared.in_flight.fetch_add(batch.len(), SeqCst);
        let peak = before + batch.len();
        self.shared.peak_in_flight.fetch_max(peak, SeqCst);
        self.shared.queue().operations.extend(batch);
        self.shared.changed.notify_all();
    }

    fn execute(&self, file: &FileHandle, action: Action) -> Completion {
        self.shared.calls.execute(file, action)
    }

    fn in_flight(&self) -> usize {
        self.shared.in_flight.load(SeqCst)
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        let held = self.shared.calls.wait_until(ready, timeout);
        self.shared.resume_panic();
        held
    }

    fn wake(&self) {
        self.shared.calls.wake();
    }

    fn poll(&self) -> usize {
        // Its threads need no driving.
        self.shared.resume_panic();
        0
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    println!("{}", Pool::new(4).description());
    let report = conformance::run(&dir.path().join("suite"), |_| Pool::new(4));
    print!("{report}");
    report.assert();

    // The store asks for no more than the trait.
    let path = dir.path().join("store");
    let records = || (0..10_000u32).map(|number| number.to_le_bytes().repeat(64));
    let store = Store::open(&path, Pool::new(4), Options::default())?;
    for record in records() {
        store.append(&record)?;
    }
    let end = store.flush()?;
    println!("{:?}", store.backend().statistics().writes);
    store.close()?;

    let store = Store::open(&path, Pool::new(2), Options::default())?;
    let mut expected = records();
    for record in store.scan(..)? {
        assert_eq!(Some(record?.payload), expected.next());
    }
    assert!(expected.next().is_none() && store.durable() >= end);
    println!("every record came back, up to LSN {end}");
    Ok(store.close()?)
}
