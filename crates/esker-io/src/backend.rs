//! [`Backend`]: the one trait between whoever has bytes and whatever stores them.

use core::fmt;
use core::ops::Range;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use esker_buf::{Alignment, IoRegion};

use crate::action::{Action, Completion};
use crate::error::IoError;
use crate::latency::Latencies;
use crate::operation::Operation;
use crate::registration::{RegisterError, Registration};
use crate::statistics::Statistics;
use crate::sync::Arc;

/// Which backend it is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// `"io_uring"`, `"blocking"`, or the name of a foreign one.
    pub kind: &'static str,
    /// What it does, how it was picked, and what was refused on the way; one sentence or more.
    pub reason: String,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.reason)
    }
}

/// Whether opening may create the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// It must exist.
    #[default]
    Never,
    /// It must not exist.
    New,
    /// It is created if it does not exist.
    IfMissing,
}

/// Whether transfers should go past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Through the page cache.
    #[default]
    Never,
    /// `O_DIRECT`, or the page cache where the file system refuses that;
    /// [`FileFacts::direct`] says which it became.
    Try,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Whether reads are allowed.
    pub read: bool,
    /// Whether writes, locks and changes of length are allowed.
    pub write: bool,
    /// Whether it may be created.
    pub create: Create,
    /// Whether the page cache is to be avoided.
    pub direct: Direct,
}

impl FileOptions {
    /// An existing file, for reading, through the page cache.
    #[must_use]
    pub const fn read() -> Self {
        Self {
            read: true,
            write: false,
            create: Create::Never,
            direct: Direct::Never,
        }
    }

    /// An existing file, for reading and writing, through the page cache.
    #[must_use]
    pub const fn read_write() -> Self {
        Self {
            write: true,
            ..Self::read()
        }
    }

    /// The same, created as `create` says.
    #[must_use]
    pub const fn create(mut self, create: Create) -> Self {
        self.create = create;
        self
    }

    /// The same, with `O_DIRECT` as `direct` says.
    #[must_use]
    pub const fn direct(mut self, direct: Direct) -> Self {
        self.direct = direct;
        self
    }
}

/// What is known of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its length at the moment of the call, in bytes.
    pub len_bytes: u64,
    /// What offset, length and memory address of every transfer must be multiples of.
    pub alignment: Alignment,
    /// Whether transfers go past the page cache.
    pub direct: bool,
}

/// What an allocation made of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocated {
    /// Written zeroes: the first write to it is as cheap as any.
    WrittenZeroes,
    /// Space only: it cannot run out, but the first write to each part has to change the file
    /// system's metadata too.
    Reserved,
}

impl Allocated {
    /// What an allocation that has ended made of its range, from the bytes of the range that were written
    /// zeroes: none, or all of them.
    #[must_use]
    pub fn of(zeroed_bytes: usize) -> Self {
        match zeroed_bytes {
            0 => Self::Reserved,
            _ => Self::WrittenZeroes,
        }
    }
}

/// How space is to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// Written zeroes where the file system and the device have a command for that
    /// (`FALLOC_FL_WRITE_ZEROES`, Linux 6.17), else space only: it never takes long.
    #[default]
    Quick,
    /// Written zeroes: by that command, or space first and then zeroes written over it, so that
    /// no later write pays for it.
    Written,
    /// Space only.
    Reserved,
}

/// What became of the range of a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Punched {
    /// Its space was given back, as far as whole blocks lie within it.
    Freed,
    /// It was overwritten with zeroes, because the file system knows no holes.
    Zeroed,
}

impl Punched {
    /// What became of the range of a hole, from the bytes of it that were written zeroes: none, or all
    /// that lay within the file.
    #[must_use]
    pub fn of(zeroed_bytes: usize) -> Self {
        match zeroed_bytes {
            0 => Self::Freed,
            _ => Self::Zeroed,
        }
    }
}

/// Storage: names, files, and data moved by ownership.
///
/// Data moves, space and lengths change, files are opened and names made durable in [`Operation`]s,
/// which own their memory and their path, hold their file open, and end with exactly one call of their
/// [`Sink`]; or at once, in the calling thread, by [`execute`](Self::execute), [`open`](Self::open) and
/// [`sync_dir`](Self::sync_dir). What else there is of names and properties of files are blocking calls.
///
/// A backend need not have a thread of its own. Operations are sure to progress while some thread
/// is in [`wait_until`](Self::wait_until) or calls [`poll`](Self::poll).
///
/// Dropping a backend waits until every operation has completed; in a child of a fork, which the
/// operations do not belong to, it leaks them and returns.
///
/// [`Sink`]: crate::Sink
pub trait Backend: Send + Sync + 'static {
    /// A cheap handle. Clones share one open file description, which every operation in flight
    /// holds open, with its locks.
    type File: Clone + Send + Sync + 'static;

    /// Which backend this is, and why.
    fn description(&self) -> Description;

    /// The counters as they are. Counters of different kinds are read one after the other, so a
    /// snapshot taken while operations run need not add up.
    fn statistics(&self) -> Statistics;

    /// How long operations took, refused ones included. Blocks for some microseconds those that
    /// complete operations.
    ///
    /// The default has none.
    fn latencies(&self) -> Latencies {
        Latencies::default()
    }

    /// Creates a directory and its parents, and makes their names durable, also of those that exist:
    /// a process that was killed may have made them.
    ///
    /// A directory that exists is no error. Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError`] when one cannot be created, or its name not made durable.
    fn create_dir_all(&self, path: &Path) -> Result<(), IoError>;

    /// Opens or creates a regular file. A new name is not durable before
    /// [`sync_dir`](Self::sync_dir). Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError::NotFound`], [`IoError::AlreadyExists`], [`IoError::NotAFile`], or what the
    /// system says.
    fn open(&self, path: &Path, options: &FileOptions) -> Result<Self::File, IoError>;

    /// The names in a directory, in no order. Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError::NotFound`], or what the system says.
    fn list(&self, dir: &Path) -> Result<Vec<OsString>, IoError>;

    /// Gives a file another name, replacing what had it, atomically. Durable only after
    /// [`sync_dir`](Self::sync_dir) of both directories. Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError::NotFound`], or what the system says.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError>;

    /// Removes a file's name. Durable only after [`sync_dir`](Self::sync_dir). Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError::NotFound`], or what the system says.
    fn remove(&self, path: &Path) -> Result<(), IoError>;

    /// Makes the names in a directory durable as they are. Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError`]; after one the names changed since the last good call are in doubt.
    fn sync_dir(&self, dir: &Path) -> Result<(), IoError>;

    /// The path that a file was opened by, for errors.
    fn path(&self, file: &Self::File) -> Arc<Path>;

    /// Length, alignment and directness of a file. Blocks.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn facts(&self, file: &Self::File) -> Result<FileFacts, IoError>;

    /// Takes the exclusive lock of the whole file for this open file description; whether it was
    /// to be had. Does not wait for it. Taking it twice through clones of one handle succeeds.
    ///
    /// The lock goes when the description does: when the last clone is dropped and no operation
    /// is in flight any more, even if the process was killed in between. The system may take a
    /// moment for it: who finds the lock taken after that looks again.
    ///
    /// # Errors
    ///
    /// [`IoError::NotWritable`] for a handle that is not open for writing, or what the system says.
    fn try_lock(&self, file: &Self::File) -> Result<bool, IoError>;

    /// Whether another open file description holds the lock.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn is_locked(&self, file: &Self::File) -> Result<bool, IoError>;

    /// Takes real space for a range by [`Allocation::Quick`], in this thread. Blocks, for long if zeroes
    /// must be written.
    ///
    /// This and the three below are the short ways to [`execute`](Self::execute) an action that moves no
    /// bytes; none needs to be overridden.
    ///
    /// # Errors
    ///
    /// [`IoError::NoSpace`]; the file then has its former length, and what was taken past it has
    /// been given back. On a file system that can't reserve space, what the range held may be
    /// zeroes.
    fn allocate(
        &self,
        file: &Self::File,
        offset: u64,
        len_bytes: u64,
    ) -> Result<Allocated, IoError> {
        self.allocate_with(file, offset, len_bytes, Allocation::Quick)
    }

    /// Executes [`Action::Allocate`]. Blocks, with [`Allocation::Written`] for as long as it takes to
    /// write the range.
    ///
    /// # Errors
    ///
    /// As for `allocate`; also what a write of the range can fail with.
    fn allocate_with(
        &self,
        file: &Self::File,
        offset: u64,
        len_bytes: u64,
        how: Allocation,
    ) -> Result<Allocated, IoError> {
        let action = Action::Allocate {
            offset,
            len_bytes,
            how,
        };
        self.execute(file, action).result.map(Allocated::of)
    }

    /// Executes [`Action::PunchHole`]. Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError::NotWritable`], [`IoError::OutOfRange`], or what the system says; the range may
    /// then hold zeroes in part.
    fn punch_hole(
        &self,
        file: &Self::File,
        offset: u64,
        len_bytes: u64,
    ) -> Result<Punched, IoError> {
        let action = Action::PunchHole { offset, len_bytes };
        self.execute(file, action).result.map(Punched::of)
    }

    /// Executes [`Action::Truncate`]. Blocks.
    ///
    /// # Errors
    ///
    /// [`IoError::NotWritable`], or what the system says.
    fn truncate(&self, file: &Self::File, len_bytes: u64) -> Result<(), IoError> {
        let action = Action::Truncate { len_bytes };
        self.execute(file, action).result.map(drop)
    }

    /// The first hole from `offset` on, as far as it lies there: a range below the file's end that
    /// reads as zeroes because it was never written, whether its space is reserved or not. The first
    /// write to it may have to change the file system's metadata too. `None` if there is no such
    /// range, or if that cannot be told. Blocks.
    ///
    /// A hint: what is written meanwhile may still be called a hole, and zeroes that were written may
    /// be. The default cannot tell.
    ///
    /// # Errors
    ///
    /// [`IoError::OutOfRange`], or what the system says.
    fn first_hole(&self, file: &Self::File, offset: u64) -> Result<Option<Range<u64>>, IoError> {
        let _ = (file, offset);
        Ok(None)
    }

    /// Tells the backend of memory that operations will use, so that the kernel can prepare it once
    /// instead of for each of them. Operations whose memory lies wholly within it take advantage by
    /// themselves, for as long as the registration is held.
    ///
    /// It is a hint: nothing else depends on it, and a caller can go on after an error as if it had
    /// not asked. Blocks for some milliseconds for large memory.
    ///
    /// # Errors
    ///
    /// [`RegisterError`], for a backend that has no use for it always; the default is that.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_buf::{Alignment, BufferPool, HugePages};
    /// use esker_io::{AnyBackend, Backend};
    ///
    /// let backend = AnyBackend::auto();
    /// let pool = BufferPool::new(8, 256 * 1024, Alignment::BLOCK, HugePages::Try)?;
    /// let registration = backend.register(Box::new(pool.clone())).ok();
    /// // Buffers of the pool are written and read with less work for the kernel now, if it can.
    /// # drop(registration);
    /// # Ok::<(), esker_buf::AllocError>(())
    /// ```
    fn register(&self, memory: Box<dyn IoRegion>) -> Result<Registration, RegisterError> {
        drop(memory);
        Err(RegisterError::Unsupported)
    }

    /// Starts operations, with one system call for the batch where the system allows.
    ///
    /// Never fails: what goes wrong is in the completions. Never loses: each sink is called exactly
    /// once. Operations of one batch, or of several, may run and complete in any order. Those
    /// refused before any system call, and for a backend that runs operations inline all of them,
    /// have been completed when this returns; hold no lock that a sink takes.
    fn submit(&self, batch: Vec<Operation<Self::File>>);

    /// Does it now, in this thread, by the way with the lowest latency for one: a system call.
    /// Other operations in flight are neither waited for nor driven. Blocks.
    fn execute(&self, file: &Self::File, action: Action) -> Completion;

    /// Operations submitted whose sinks have not returned yet.
    fn in_flight(&self) -> usize;

    /// Waits until `ready()` holds; `false` if `timeout` ran out first.
    ///
    /// The one place where anybody waits. While operations are in flight one waiter drives
    /// completions for everybody; the others are parked. `ready` is asked before waiting, after
    /// each round of completions and after each [`wake`](Self::wake), in this thread, without a
    /// lock of the backend held; it should be cheap and must not wait itself. Whoever makes a
    /// condition true outside a sink must wake. Not to be called in a sink.
    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool;

    /// Waits until `ready()` holds, like [`wait_until`](Self::wait_until), but sleeps through
    /// rounds and wakes that change nothing for it; `false` if `timeout` ran out first.
    ///
    /// `ready` is also asked by the threads that complete operations or [`wake`](Self::wake), with
    /// a lock of the backend held. So it should be a few loads: it must not block, must not call
    /// the backend, and must not take a lock that anybody holds while calling the backend. Whoever
    /// makes it true outside a sink must wake.
    ///
    /// The default is `wait_until`, with the same result.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    /// use esker_io::{Backend, Blocking};
    ///
    /// let backend = Blocking::new();
    /// let ready = AtomicBool::new(false);
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| backend.wait_for(&|| ready.load(SeqCst), None));
    ///     ready.store(true, SeqCst);
    ///     backend.wake();
    /// });
    /// ```
    fn wait_for(&self, ready: &(dyn Fn() -> bool + Sync), timeout: Option<Duration>) -> bool {
        self.wait_until(&mut || ready(), timeout)
    }

    /// Lets every waiter ask its condition again. Costs a fence and a load while nobody waits.
    fn wake(&self);

    /// Completes what is complete, without waiting, and says how many that were; 0 while another
    /// thread is doing it.
    fn poll(&self) -> usize;
}
