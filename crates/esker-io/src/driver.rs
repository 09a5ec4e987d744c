//! [`DriverThread`]: completions that keep coming while nobody waits.

use core::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::backend::Backend;
use crate::origin::Origin;
use crate::sync::{Arc, AtomicBool, JoinHandle, SeqCst, thread};

/// A thread that drives a backend for as long as this is held.
///
/// Without it, completions come only while some thread waits in the backend or polls it: enough
/// for threads that wait for what they have started, too little for futures on an executor or for
/// sinks that nobody waits for. It costs a hand-over for each completion that a waiting thread
/// would have taken itself, and leaves the waiting to others where they come first.
///
/// A sink that panics does so in this thread, which goes on; [`stop`](Self::stop) gives the first
/// panic.
///
/// Dropping it stops the thread and waits for it; what is in flight stays so until somebody
/// drives again. In a child of a fork there is no thread to wait for.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, mpsc};
/// use esker_io::{
///     Action, AnyBackend, Backend, Completion, Create, DriverThread, Durability, FileOptions,
///     Operation, WriteMemory,
/// };
///
/// # let dir = tempfile::tempdir()?;
/// let backend = Arc::new(AnyBackend::auto());
/// let driver = DriverThread::start(Arc::clone(&backend))?;
/// let options = FileOptions::read_write().create(Create::New);
/// let file = backend.open(&dir.path().join("log"), &options)?;
/// let memory = WriteMemory::new(b"esker".to_vec());
/// let action = Action::Write { offset: 0, memory, durability: Durability::Durable };
/// let (sender, receiver) = mpsc::channel();
/// backend.submit(vec![Operation::new(file, action, move |done: Completion| {
///     let _ = sender.send(done.result);
/// })]);
/// assert_eq!(receiver.recv()??, 5);
/// driver.stop().expect("no sink has panicked");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the thread stops when this is dropped"]
pub struct DriverThread {
    /// Set once, by the holder; part of what the thread waits for.
    stop: Arc<AtomicBool>,
    wake: Box<dyn Fn() + Send + Sync>,
    thread: Option<JoinHandle<thread::Result<()>>>,
    origin: Origin,
}

impl DriverThread {
    /// Starts a thread that drives `backend`.
    ///
    /// # Errors
    ///
    /// What the system says when it can't have another thread.
    pub fn start<B: Backend>(backend: Arc<B>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, driven) = (Arc::clone(&stop), Arc::clone(&backend));
        let thread = thread::Builder::new()
            .name("esker-io-driver".to_owned())
            .spawn(move || drive(&*driven, &stopped))?;
        Ok(Self {
            stop,
            wake: Box::new(move || backend.wake()),
            thread: Some(thread),
            origin: Origin::here(),
        })
    }

    /// Stops the thread and waits for it.
    ///
    /// # Errors
    ///
    /// The first panic of a sink that it called.
    pub fn stop(mut self) -> thread::Result<()> {
        self.join()
    }

    fn join(&mut self) -> thread::Result<()> {
        if !self.origin.is_here() {
            core::mem::forget(self.thread.take());
            return Ok(());
        }
        // SeqCst: as all that waiters ask for.
        self.stop.store(true, SeqCst);
        (self.wake)();
        self.thread
            .take()
            .map_or(Ok(()), |thread| thread.join().and_then(|result| result))
    }
}

/// Drives until told to stop.
fn drive<B: Backend>(backend: &B, stop: &AtomicBool) -> thread::Result<()> {
    let mut first = Ok(());
    loop {
        let driven = catch_unwind(AssertUnwindSafe(|| {
            backend.wait_for(&|| stop.load(SeqCst), None)
        }));
        match driven {
            Ok(true) => return first,
            Ok(false) => {}
            Err(panic) => first = first.and(Err(panic)),
        }
    }
}

impl Drop for DriverThread {
    fn drop(&mut self) {
        // A panic of a sink has been reported where it happened.
        let _ = self.join();
    }
}

impl fmt::Debug for DriverThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverThread").finish_non_exhaustive()
    }
}
