//! [`BackendExt`]: conveniences over any backend, and [`Pending`], the handle of one operation.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{self, Poll, Waker};
use std::error::Error;

use esker_buf::{IoBuf, IoBufMut};

use crate::backend::Backend;
use crate::error::IoError;
use crate::memory::{Memory, ReadMemory, WriteMemory};
use crate::operation::{Action, Completion, Durability, Operation, Sink};
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

fn synced(completion: Completion) -> Result<(), IoError> {
    completion.result.map(drop)
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
    slot: Arc<Slot>,
    convert: fn(Completion) -> T,
}

/// Where a completion waits for its handle.
#[derive(Debug, Default)]
struct Slot {
    /// Whether the completion has arrived. Stored once, by the sink; part of conditions that
    /// threads wait for.
    arrived: AtomicBool,
    state: Mutex<Arrival>,
}

#[derive(Debug, Default)]
struct Arrival {
    completion: Option<Completion>,
    /// Who is to be told.
    waker: Option<Waker>,
}

impl Sink for Arc<Slot> {
    fn complete(self: Box<Self>, completion: Completion) {
        let waker = {
            let mut state = self.state.lock();
            state.completion = Some(completion);
            state.waker.take()
        };
        // SeqCst: as all that waiters ask for (W1).
        self.arrived.store(true, SeqCst);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Pending<T> {
    fn start<B: Backend>(
        backend: &B,
        file: &B::File,
        action: Action,
        convert: fn(Completion) -> T,
    ) -> Self {
        let slot = Arc::new(Slot::default());
        let sink = Arc::clone(&slot);
        backend.submit(vec![Operation::new(file.clone(), action, sink)]);
        Self { slot, convert }
    }

    /// Waits for the operation to end. Blocks, and drives `backend` meanwhile, which must be the
    /// one that it was started on.
    pub fn wait<B: Backend>(self, backend: &B) -> T {
        backend.wait_for(&|| self.slot.arrived.load(SeqCst), None);
        let taken = self.slot.state.lock().completion.take();
        (self.convert)(taken.expect("it has arrived, and the handle is here"))
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
        let taken = self.slot.state.lock().completion.take();
        match taken {
            Some(completion) => Ok((self.convert)(completion)),
            None => Err(self),
        }
    }
}

/// # Panics
///
/// Polling one that has returned its result.
impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<T> {
        let mut state = self.slot.state.lock();
        if let Some(completion) = state.completion.take() {
            drop(state);
            return Poll::Ready((self.convert)(completion));
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
        synced(self.execute(file, Action::SyncData))
    }

    /// The same with all that the file system knows of the file, times and the like, in this
    /// thread. Blocks.
    ///
    /// # Errors
    ///
    /// As for [`sync_data`](Self::sync_data).
    fn sync_all(&self, file: &Self::File) -> Result<(), IoError> {
        synced(self.execute(file, Action::SyncAll))
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
        Pending::start(self, file, Action::SyncData, synced)
    }

    /// The same with all that the file system knows of the file, times and the like.
    fn start_sync_all(&self, file: &Self::File) -> Pending<Result<(), IoError>> {
        Pending::start(self, file, Action::SyncAll, synced)
    }
}

impl<B: Backend> BackendExt for B {}
