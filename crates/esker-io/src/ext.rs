//! [`BackendExt`]: conveniences over any backend, and [`Pending`], the handle of one operation.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{self, Poll, Waker};
use std::error::Error;
use std::path::Path;

use esker_buf::{IoBuf, IoBufMut};

use crate::action::{Action, Completion, Durability};
use crate::backend::{Allocated, Allocation, Backend, FileOptions, Punched};
use crate::error::IoError;
use crate::memory::{Memory, ReadMemory, WriteMemory};
use crate::operation::{Operation, Sink};
use crate::sync::{Arc, AtomicBool, Mutex, SeqCst};

/// An operation failed; its buffer comes back with the error.
pub struct Failed<B> {
    /// What went wrong.
    pub error: IoError,
    /// The buffer, as the operation left it.
    pub buf: B,
}

impl<B> fmt::Debug for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Display for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> Error for Failed<B> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl<B> From<Failed<B>> for IoError {
    fn from(failed: Failed<B>) -> Self {
        failed.error
    }
}

/// What a completion means to the one who started the operation with a buffer of type `B`.
fn with_buffer<B: IoBuf>(completion: Completion) -> Result<(usize, B), Failed<B>> {
    let Completion { result, memory } = completion;
    // Only a backend that breaks the contract gives back other memory than it was given.
    let buf = memory
        .into_inner::<B>()
        .expect("a completion carries its own operation's memory");
    match result {
        Ok(bytes) => Ok((bytes, buf)),
        Err(error) => Err(Failed { error, buf }),
    }
}

fn written<B: IoBuf>(completion: Completion) -> Result<B, Failed<B>> {
    with_buffer(completion).map(|(_, buf)| buf)
}

/// What a completion without bytes or memory means.
fn done(completion: Completion) -> Result<(), IoError> {
    completion.result.map(drop)
}

fn allocated(completion: Completion) -> Result<Allocated, IoError> {
    completion.result.map(Allocated::of)
}

fn punched(completion: Completion) -> Result<Punched, IoError> {
    completion.result.map(Punched::of)
}

/// What the completion of a vectored write means to the one who gave it buffers of type `B`.
fn gathered<B: IoBuf>(completion: Completion) -> Result<Vec<B>, Failed<Vec<B>>> {
    let Completion { result, memory } = completion;
    let pieces = match memory {
        Memory::Write(memory) => memory.into_pieces(),
        Memory::None | Memory::Read(_) => Vec::new(),
    };
    // As in `with_buffer`.
    let buf = pieces
        .into_iter()
        .map(|piece| piece.into_inner::<B>())
        .collect::<Result<_, _>>()
        .expect("a completion carries its own operation's memory");
    match result {
        Ok(_) => Ok(buf),
        Err(error) => Err(Failed { error, buf }),
    }
}

fn gathering<B: IoBuf>(offset: u64, bufs: Vec<B>, durability: Durability) -> Action {
    let pieces = bufs.into_iter().map(WriteMemory::new).collect();
    Action::Write {
        offset,
        memory: WriteMemory::gather(pieces),
        durability,
    }
}

/// One operation that was started, and will end in a `T`.
///
/// It can be waited for by a thread ([`wait`](Self::wait)) or awaited: it is a future for any
/// executor. A future does not drive the backend. Completions come while some thread waits in
/// it, calls [`poll`](Backend::poll), or is a [`DriverThread`](crate::DriverThread), which is what
/// a program without such threads starts.
///
/// Dropping it cancels nothing and frees nothing that is in use: the operation owns its memory,
/// which is freed when it has completed.
#[must_use = "an operation whose handle is dropped can fail unnoticed"]
pub struct Pending<T> {
    slot: Arc<Slot<T>>,
}

/// Where a result waits for its handle.
struct Slot<T> {
    /// Whether the result has arrived. Stored once, by the sink; part of conditions that threads wait
    /// for.
    arrived: AtomicBool,
    state: Mutex<Arrival<T>>,
}

struct Arrival<T> {
    result: Option<T>,
    /// Who is to be told.
    waker: Option<Waker>,
}

/// Puts into a slot what a completion comes to.
struct Arriving<C, T> {
    slot: Arc<Slot<T>>,
    convert: fn(C) -> T,
}

impl<C, T: Send> Sink<C> for Arriving<C, T> {
    fn complete(self: Box<Self>, completion: C) {
        let Self { slot, convert } = *self;
        let result = convert(completion);
        let waker = {
            let mut state = slot.state.lock();
            state.result = Some(result);
            state.waker.take()
        };
        // SeqCst: as all that waiters ask for (W1).
        slot.arrived.store(true, SeqCst);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T: Send + 'static> Pending<T> {
    fn start<B: Backend>(
        backend: &B,
        file: &B::File,
        action: Action,
        convert: fn(Completion) -> T,
    ) -> Self {
        Self::of(backend, convert, |sink| {
            Operation::new(file.clone(), action, sink)
        })
    }

    /// Starts the operation that is made with the sink.
    fn of<B: Backend, C: 'static>(
        backend: &B,
        convert: fn(C) -> T,
        operation: impl FnOnce(Arriving<C, T>) -> Operation<B::File>,
    ) -> Self {
        let slot = Arc::new(Slot {
            arrived: AtomicBool::new(false),
            state: Mutex::new(Arrival {
                result: None,
                waker: None,
            }),
        });
        let sink = Arriving {
            slot: Arc::clone(&slot),
            convert,
        };
        backend.submit(vec![operation(sink)]);
        Self { slot }
    }
}

impl<T> Pending<T> {
    /// Waits for the operation to end. Blocks, and drives `backend` meanwhile, which must be the
    /// one that it was started on.
    pub fn wait<B: Backend>(self, backend: &B) -> T {
        let arrived = &self.slot.arrived;
        backend.wait_for(&|| arrived.load(SeqCst), None);
        let taken = self.slot.state.lock().result.take();
        taken.expect("it has arrived, and the handle is here")
    }

    /// Whether it has ended. Does not block and drives nothing.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.slot.arrived.load(SeqCst)
    }

    /// How it ended, if it has; else the handle again. Does not block and drives nothing.
    ///
    /// # Errors
    ///
    /// The handle itself, while the operation is in flight.
    pub fn try_take(self) -> Result<T, Self> {
        let taken = self.slot.state.lock().result.take();
        taken.ok_or(self)
    }
}

/// # Panics
///
/// Polling one that has returned its result.
impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<T> {
        let mut state = self.slot.state.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        assert!(
            !self.slot.arrived.load(SeqCst),
            "polled after it had returned its result"
        );
        // Under the lock that the sink takes: it finds either this waker or nobody asking.
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("completed", &self.is_completed())
            .finish_non_exhaustive()
    }
}

/// Single operations with a buffer of a known type, on any [`Backend`].
pub trait BackendExt: Backend + Sized {
    /// Writes all of `buf` at `offset`, in this thread. Blocks.
    ///
    /// # Errors
    ///
    /// [`Failed`], with the buffer.
    fn write_at<B: IoBuf>(
        &self,
        file: &Self::File,
        offset: u64,
        buf: B,
        durability: Durability,
    ) -> Result<B, Failed<B>> {
        let memory = WriteMemory::new(buf);
        written(self.execute(
            file,
            Action::Write {
                offset,
                memory,
                durability,
            },
        ))
    }

    /// Writes all of `bufs`, one after the other, at `offset`, in this thread. Blocks.
    ///
    /// # Errors
    ///
    /// [`Failed`], with the buffers.
    fn write_vectored_at<B: IoBuf>(
        &self,
        file: &Self::File,
        offset: u64,
        bufs: Vec<B>,
        durability: Durability,
    ) -> Result<Vec<B>, Failed<Vec<B>>> {
        gathered(self.execute(file, gathering(offset, bufs, durability)))
    }

    /// Fills `buf` from `offset`, in this thread; fewer bytes than its length mean the end of the
    /// file. Blocks.
    ///
    /// # Errors
    ///
    /// [`Failed`], with the buffer.
    fn read_at<B: IoBufMut>(
        &self,
        file: &Self::File,
        offset: u64,
        buf: B,
    ) -> Result<(usize, B), Failed<B>> {
        let memory = ReadMemory::new(buf);
        with_buffer(self.execute(file, Action::Read { offset, memory }))
    }

    /// Makes every write to the file that has completed durable, in this thread. Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError`]; what was written since the last good sync is then in doubt for good.
    fn sync_data(&self, file: &Self::File) -> Result<(), IoError> {
        done(self.execute(file, Action::SyncData))
    }

    /// The same with all that the file system knows of the file, times and the like, in this
    /// thread. Blocks.
    ///
    /// # Errors
    ///
    /// As for [`sync_data`](Self::sync_data).
    fn sync_all(&self, file: &Self::File) -> Result<(), IoError> {
        done(self.execute(file, Action::SyncAll))
    }

    /// Starts to write all of `buf` at `offset`.
    fn start_write<B: IoBuf>(
        &self,
        file: &Self::File,
        offset: u64,
        buf: B,
        durability: Durability,
    ) -> Pending<Result<B, Failed<B>>> {
        let memory = WriteMemory::new(buf);
        let action = Action::Write {
            offset,
            memory,
            durability,
        };
        Pending::start(self, file, action, written)
    }

    /// Starts to write all of `bufs`, one after the other, at `offset`.
    fn start_write_vectored<B: IoBuf>(
        &self,
        file: &Self::File,
        offset: u64,
        bufs: Vec<B>,
        durability: Durability,
    ) -> Pending<Result<Vec<B>, Failed<Vec<B>>>> {
        Pending::start(self, file, gathering(offset, bufs, durability), gathered)
    }

    /// Starts to fill `buf` from `offset`.
    fn start_read<B: IoBufMut>(
        &self,
        file: &Self::File,
        offset: u64,
        buf: B,
    ) -> Pending<Result<(usize, B), Failed<B>>> {
        let memory = ReadMemory::new(buf);
        Pending::start(self, file, Action::Read { offset, memory }, with_buffer)
    }

    /// Starts to make durable what has been written to the file up to now.
    fn start_sync(&self, file: &Self::File) -> Pending<Result<(), IoError>> {
        Pending::start(self, file, Action::SyncData, done)
    }

    /// The same with all that the file system knows of the file, times and the like.
    fn start_sync_all(&self, file: &Self::File) -> Pending<Result<(), IoError>> {
        Pending::start(self, file, Action::SyncAll, done)
    }

    /// Starts to take space for a range: [`Action::Allocate`].
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_io::{Allocated, Allocation, AnyBackend, Backend, BackendExt, Create, FileOptions};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let backend = AnyBackend::auto();
    /// let options = FileOptions::read_write().create(Create::New);
    /// let file = backend.open(&dir.path().join("log"), &options)?;
    /// let pending = backend.start_allocate(&file, 0, 1 << 20, Allocation::Written);
    /// assert_eq!(pending.wait(&backend)?, Allocated::WrittenZeroes);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn start_allocate(
        &self,
        file: &Self::File,
        offset: u64,
        len_bytes: u64,
        how: Allocation,
    ) -> Pending<Result<Allocated, IoError>> {
        let action = Action::Allocate {
            offset,
            len_bytes,
            how,
        };
        Pending::start(self, file, action, allocated)
    }

    /// Starts to cut or extend a file to a length: [`Action::Truncate`].
    fn start_truncate(&self, file: &Self::File, len_bytes: u64) -> Pending<Result<(), IoError>> {
        Pending::start(self, file, Action::Truncate { len_bytes }, done)
    }

    /// Starts to make a hole: [`Action::PunchHole`].
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_io::{AnyBackend, Backend, BackendExt, Create, Durability, FileOptions};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let backend = AnyBackend::auto();
    /// let options = FileOptions::read_write().create(Create::New);
    /// let file = backend.open(&dir.path().join("log"), &options)?;
    /// backend.write_at(&file, 0, vec![7; 8192], Durability::Written)?;
    /// let hole = backend.start_punch_hole(&file, 0, 4096);
    /// let cut = backend.start_truncate(&file, 6000);
    /// hole.wait(&backend)?;
    /// cut.wait(&backend)?;
    /// let (count, bytes) = backend.read_at(&file, 4000, vec![9; 3000])?;
    /// assert_eq!((count, bytes[0], bytes[100]), (2000, 0, 7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn start_punch_hole(
        &self,
        file: &Self::File,
        offset: u64,
        len_bytes: u64,
    ) -> Pending<Result<Punched, IoError>> {
        let action = Action::PunchHole { offset, len_bytes };
        Pending::start(self, file, action, punched)
    }

    /// Starts to make the names in a directory durable: [`Operation::SyncDir`].
    fn start_sync_dir(&self, dir: &Path) -> Pending<Result<(), IoError>> {
        Pending::of(self, |result| result, |sink| Operation::sync_dir(dir, sink))
    }

    /// Starts to open or create a file: [`Operation::Open`]. One that is opened and not taken is closed
    /// when the handle of the operation is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_io::{AnyBackend, Backend, BackendExt, Create, Durability, FileOptions};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let backend = AnyBackend::auto();
    /// let options = FileOptions::read_write().create(Create::New);
    /// let opening = backend.start_open(&dir.path().join("log"), &options);
    /// let file = opening.wait(&backend)?;
    /// let name = backend.start_sync_dir(dir.path());
    /// let bytes = backend.start_write(&file, 0, b"esker".to_vec(), Durability::Durable);
    /// name.wait(&backend)?;
    /// bytes.wait(&backend)?;
    /// assert_eq!(backend.facts(&file)?.len_bytes, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn start_open(
        &self,
        path: &Path,
        options: &FileOptions,
    ) -> Pending<Result<Self::File, IoError>> {
        let options = *options;
        Pending::of(
            self,
            |result| result,
            |sink| Operation::open(path, options, sink),
        )
    }
}

impl<B: Backend> BackendExt for B {}
