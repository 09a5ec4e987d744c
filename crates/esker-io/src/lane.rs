//! [`Lane`]: the writes of one log, dispatched by an [`Ordering`].
//!
//! A lane orders by submission: what must not start yet has not been given to the backend. Links
//! and drains between entries of a ring are not used, because a link orders nothing across
//! submissions and both cost more than they save.

use core::fmt;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::action::{Action, Completion};
use crate::backend::Backend;
use crate::error::{IoError, OperationKind};
use crate::operation::{Operation, Sink};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, SeqCst, thread};

/// How the writes of one log are dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ordering {
    /// At once: those in flight together may reach the device in any order.
    TailLocalised,
    /// One after the other: each starts when the one before it has completed and its sink has
    /// returned, in the order of submission. When one fails no later one is ever started.
    Serialised,
}

/// Dispatches the writes and syncs of one log, and what changes its space or length. Reads pass it by,
/// and so do operations on names: whoever needs a name before what is written under it waits for it.
///
/// After the first failure a serialised lane stays failed: everything queued or submitted later is
/// completed with [`IoError::NotStarted`], which is determinate. A tail-localised lane has no such
/// state.
///
/// Dropping a lane cancels nothing: what was submitted is done, in order.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use esker_io::{
///     Action, Backend, Blocking, Completion, Create, Durability, FileOptions, Lane, Operation,
///     Ordering, WriteMemory,
/// };
///
/// # let dir = tempfile::tempdir()?;
/// let backend = Arc::new(Blocking::new());
/// let options = FileOptions::read_write().create(Create::New);
/// let file = backend.open(&dir.path().join("log"), &options)?;
/// let lane = Lane::new(Arc::clone(&backend), Ordering::Serialised);
/// let write = |offset, byte| {
///     let memory = WriteMemory::new(vec![byte; 512]);
///     let action = Action::Write { offset, memory, durability: Durability::Durable };
///     Operation::new(file.clone(), action, |completion: Completion| {
///         completion.result.expect("a write to a new file");
///     })
/// };
/// lane.submit(vec![write(0, 1), write(512, 2)]);
/// backend.wait_until(&mut || lane.in_flight() == 0, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lane<B: Backend> {
    inner: Arc<Inner<B>>,
}

struct Inner<B: Backend> {
    backend: Arc<B>,
    ordering: Ordering,
    /// Operations submitted whose sinks have not returned. Raised by submitters, lowered after
    /// each sink, part of waiters' conditions: SeqCst.
    in_flight: AtomicUsize,
    state: Mutex<State<B::File>>,
}

struct State<F> {
    queue: VecDeque<Turn<F>>,
    /// Whether one turn has begun and not ended.
    running: bool,
    /// Whether some thread is in `pump`; it looks at the queue again before it leaves.
    pumping: bool,
    failed: Option<Arc<IoError>>,
}

/// One that waits to be dispatched.
enum Turn<F> {
    Operation(F, Action, Box<dyn Sink>),
    /// A thread in `execute`, which is told by this flag. Stored by the pump, read by that thread.
    Execute(Arc<AtomicBool>),
}

impl<B: Backend> Lane<B> {
    /// A lane over `backend` with nothing in flight.
    #[must_use]
    pub fn new(backend: Arc<B>, ordering: Ordering) -> Self {
        Self {
            inner: Arc::new(Inner {
                backend,
                ordering,
                in_flight: AtomicUsize::new(0),
                state: Mutex::new(State {
                    queue: VecDeque::new(),
                    running: false,
                    pumping: false,
                    failed: None,
                }),
            }),
        }
    }

    /// The backend that the lane submits to.
    #[must_use]
    pub fn backend(&self) -> &Arc<B> {
        &self.inner.backend
    }

    /// How it dispatches.
    #[must_use]
    pub fn ordering(&self) -> Ordering {
        self.inner.ordering
    }

    /// The failure after which a serialised lane starts nothing.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<IoError>> {
        self.inner.state.lock().failed.clone()
    }

    /// Starts or queues operations; every sink is called exactly once. As
    /// [`Backend::submit`] it never fails, and may call sinks before it returns.
    pub fn submit(&self, batch: Vec<Operation<B::File>>) {
        let inner = &self.inner;
        inner.in_flight.fetch_add(batch.len(), SeqCst);
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for operation in batch {
            match operation {
                Operation::OnFile { file, action, sink } if !inner.passes(&action) => {
                    later.push(Turn::Operation(file, action, sink));
                }
                Operation::OnFile { file, action, sink } => {
                    now.push(Operation::new(file, action, inner.counted(sink)));
                }
                Operation::Open {
                    path,
                    options,
                    sink,
                } => now.push(Operation::open(path, options, inner.counted(sink))),
                Operation::SyncDir { dir, sink } => {
                    now.push(Operation::sync_dir(dir, inner.counted(sink)));
                }
            }
        }
        if !now.is_empty() {
            inner.backend.submit(now);
        }
        if !later.is_empty() {
            inner.state.lock().queue.extend(later);
            inner.pump();
        }
    }

    /// Does an action in this thread, in its turn. Blocks; not to be called in a sink.
    pub fn execute(&self, file: &B::File, action: Action) -> Completion {
        let inner = &self.inner;
        if inner.passes(&action) {
            return inner.backend.execute(file, action);
        }
        let granted = Arc::new(AtomicBool::new(false));
        inner
            .state
            .lock()
            .queue
            .push_back(Turn::Execute(Arc::clone(&granted)));
        inner.pump();
        inner.backend.wait_until(&mut || granted.load(SeqCst), None);
        let _turn = EndOfTurn { inner };
        let completion = match inner.not_started(file, &action) {
            Some(error) => action.complete(Err(error)),
            None => inner.backend.execute(file, action),
        };
        inner.note(&completion);
        completion
    }

    /// Operations submitted whose sinks have not returned yet, queued ones included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.load(SeqCst)
    }
}

impl<B: Backend> fmt::Debug for Lane<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("ordering", &self.inner.ordering)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Inner<B> {
    /// Whether the action needs no turn.
    fn passes(&self, action: &Action) -> bool {
        self.ordering == Ordering::TailLocalised || action.kind() == OperationKind::Read
    }

    fn not_started(&self, file: &B::File, action: &Action) -> Option<IoError> {
        let earlier = self.state.lock().failed.clone()?;
        Some(IoError::NotStarted {
            context: action.context(self.backend.path(file)),
            earlier,
        })
    }

    /// Remembers the first failure.
    fn note(&self, completion: &Completion) {
        if let Err(error) = &completion.result {
            let mut state = self.state.lock();
            if state.failed.is_none() && !canary!("io-lane-goes-on") {
                state.failed = Some(Arc::new(error.clone()));
            }
        }
    }

    /// Begins turns for as long as none is running and some are queued.
    ///
    /// One thread at a time does it. One that comes meanwhile leaves at once, and the first looks
    /// again before it leaves: so a backend that completes inline, within `submit`, makes this
    /// loop go round instead of deeper.
    fn pump(self: &Arc<Self>) {
        if core::mem::replace(&mut self.state.lock().pumping, true) {
            return;
        }
        let mut panic = None;
        loop {
            let turn = {
                let mut state = self.state.lock();
                match state.queue.front() {
                    Some(_) if !state.running => {
                        state.running = true;
                        state.queue.pop_front()
                    }
                    _ => None,
                }
                .or_else(|| {
                    state.pumping = false;
                    None
                })
            };
            let Some(turn) = turn else {
                break;
            };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.begin(turn))) {
                panic.get_or_insert(payload);
            }
        }
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    fn begin(self: &Arc<Self>, turn: Turn<B::File>) {
        match turn {
            Turn::Execute(granted) => {
                granted.store(true, SeqCst);
                self.backend.wake();
            }
            Turn::Operation(file, action, sink) => {
                let sink = Ordered {
                    inner: Arc::clone(self),
                    sink,
                };
                match self.not_started(&file, &action) {
                    Some(error) => {
                        drop(file);
                        Box::new(sink).complete(action.complete(Err(error)));
                        self.backend.wake();
                    }
                    None => self
                        .backend
                        .submit(vec![Operation::new(file, action, sink)]),
                }
            }
        }
    }

    fn counted<C>(self: &Arc<Self>, sink: Box<dyn Sink<C>>) -> Counted<B, C> {
        Counted {
            inner: Arc::clone(self),
            sink,
        }
    }

    fn call<C>(&self, sink: Box<dyn Sink<C>>, completion: C) -> thread::Result<()> {
        let called = catch_unwind(AssertUnwindSafe(|| sink.complete(completion)));
        self.in_flight.fetch_sub(1, SeqCst);
        called
    }
}

/// The sink of an operation that needed no turn.
struct Counted<B: Backend, C> {
    inner: Arc<Inner<B>>,
    sink: Box<dyn Sink<C>>,
}

impl<B: Backend, C> Sink<C> for Counted<B, C> {
    fn complete(self: Box<Self>, completion: C) {
        if let Err(payload) = self.inner.call(self.sink, completion) {
            resume_unwind(payload);
        }
    }
}

/// The sink of an operation in its turn: it begins the next one.
struct Ordered<B: Backend> {
    inner: Arc<Inner<B>>,
    sink: Box<dyn Sink>,
}

impl<B: Backend> Sink for Ordered<B> {
    fn complete(self: Box<Self>, completion: Completion) {
        let Self { inner, sink } = *self;
        inner.note(&completion);
        let called = inner.call(sink, completion);
        drop(EndOfTurn { inner: &inner });
        if let Err(payload) = called {
            resume_unwind(payload);
        }
    }
}

/// Ends the running turn and begins the next.
struct EndOfTurn<'a, B: Backend> {
    inner: &'a Arc<Inner<B>>,
}

impl<B: Backend> Drop for EndOfTurn<'_, B> {
    fn drop(&mut self) {
        self.inner.state.lock().running = false;
        self.inner.pump();
    }
}
