//! [`Store`]: the log, open for writing.

use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use esker_io::{Backend, IoError};

use crate::Lsn;
use crate::appender::Appender;
use crate::core::Core;
use crate::error::{OpenError, ReadError};
use crate::follow::Follower;
use crate::format::slot;
use crate::info::StoreInfo;
use crate::maintenance::Maintainer;
use crate::open::open;
use crate::options::{Maintenance, Options};
use crate::read_many::ReadMany;
use crate::scan::Scan;
use crate::sync::Ordering;
use crate::until_durable::UntilDurable;
use crate::write_error::{
    AppendDurableError, AppendError, AppendWithError, CloseError, CommitError, MaintainError,
    TrimError,
};

/// A log that this process, and no other, appends to.
///
/// It is `Sync`: any number of threads append, wait, read and trim through one reference. Addresses
/// ([`Lsn`]) are given out in the order of the appends: a record that is appended after another
/// append has returned, in whichever thread, lies behind it in the log, and never outlives it. An
/// [`Appender`] trades that for speed.
///
/// Dropping the store without [`close`](Self::close) ends it like a crash would: what is durable
/// stays, the rest may be lost. It waits for the writes in flight.
///
/// A store belongs to the process that opened it. In a child of a fork it writes nothing: whatever
/// has to touch the files fails, with [`IoError::Forked`] as the cause, and dropping it waits for
/// nothing and gives nothing back, so that the store stays locked until the child ends or executes
/// another program, whatever becomes of the parent. The parent's goes on as if there were no child.
///
/// # Examples
///
/// ```
/// use esker_lss::{AnyBackend, Options, Store};
///
/// let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path(), AnyBackend::auto(), Options::default())?;
/// let lsn = store.append_durable(b"a record")?;
/// assert_eq!(store.read(lsn)?, b"a record");
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Store<B: Backend> {
    core: Arc<Core<B>>,
}

impl<B: Backend> Store<B> {
    /// Opens the store in `dir` for writing, after recovering it, and creates it if it is missing
    /// and the options say so.
    ///
    /// After a clean close this reads a constant amount; after a crash, what was written since the
    /// last checkpoint, at most about a segment and the window, and what has been made ahead. Blocks;
    /// starts one thread unless [`Maintenance::Manual`] says otherwise.
    ///
    /// # Errors
    ///
    /// [`OpenError::Locked`] when another writer has it and does not let go within
    /// [`Options::lock_timeout`]; [`OpenError::Corrupt`] when acknowledged data is damaged, in which
    /// case nothing has been changed; others as they say.
    pub fn open(
        dir: impl AsRef<Path>,
        backend: impl Into<Arc<B>>,
        options: Options,
    ) -> Result<Self, OpenError> {
        let core = open(dir.as_ref(), backend.into(), options)?;
        if core.options.maintenance == Maintenance::Thread {
            Maintainer::start(&core).map_err(OpenError::Thread)?;
        }
        Ok(Self { core })
    }

    /// Appends a record and returns its address at once.
    ///
    /// The record is in memory: it can be read, and is lost in a crash. It becomes durable with the
    /// next commit of anybody's, or when [`wait_durable`](Self::wait_durable) asks for it. Waits
    /// while every buffer is on its way to the disk. Allocates only for a record that is larger
    /// than a buffer, which also waits until the window has room for it behind what is not written.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing of the record is in the log then.
    #[inline]
    pub fn append(&self, record: &[u8]) -> Result<Lsn, AppendError> {
        self.core.append(&mut &self.core.ring, record)
    }

    /// Appends a record of `len` bytes that `fill` writes where it is to be, without a copy.
    ///
    /// The bytes that `fill` gets hold anything: it has to write them all. It should be quick: while
    /// it runs, nobody's commit of the buffer that the record is in can go on, and it must itself
    /// not wait for anything of this store's. If it panics there is no such record.
    ///
    /// Otherwise as [`append`](Self::append).
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing of the record is in the log then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_lss::{AnyBackend, Options, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path(), AnyBackend::auto(), Options::default())?;
    /// let lsn = store.append_with(16, |bytes| {
    ///     bytes[..8].copy_from_slice(&7u64.to_le_bytes());
    ///     bytes[8..].fill(0);
    /// })?;
    /// assert_eq!(store.read(lsn)?[0], 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn append_with(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Lsn, AppendError> {
        let core = &self.core;
        core.append_with_all(&mut &core.ring, len, fill)
    }

    /// As [`append_with`](Self::append_with), unless `fill` fails: then there is no such record.
    ///
    /// The space is used up all the same.
    ///
    /// # Errors
    ///
    /// [`AppendWithError::Fill`] with what `fill` said, and [`AppendWithError::Append`].
    #[inline]
    pub fn try_append_with<E>(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Lsn, AppendWithError<E>> {
        self.core
            .append_with(&mut &self.core.ring, len, fill)?
            .map_err(AppendWithError::Fill)
    }

    /// Appends several records and returns their addresses. Cheaper than one after the other.
    ///
    /// They follow each other in the log with nothing between them, in one flush buffer: whatever
    /// is left after a crash, it is all of them or none. Otherwise as [`append`](Self::append), but
    /// it allocates the addresses.
    ///
    /// # Errors
    ///
    /// [`AppendError::BatchTooLarge`] when they do not fit into a buffer together (each takes 8 bytes
    /// more than its length, rounded up to 8), and others; none of the records is in the log then.
    pub fn append_batch(&self, records: &[&[u8]]) -> Result<Vec<Lsn>, AppendError> {
        self.core.append_batch(&mut &self.core.ring, records)
    }

    /// A handle for one thread that appends many records, cheaper where several threads do, and
    /// without an order between them: see [`Appender`].
    #[must_use]
    pub fn appender(&self) -> Appender<'_, B> {
        Appender::new(&self.core)
    }

    /// Appends a record and waits until it, and everything before it, is durable.
    ///
    /// Blocks for one device write, shared with whoever else waits.
    ///
    /// # Errors
    ///
    /// [`AppendDurableError::Append`] when the record is not in the log;
    /// [`AppendDurableError::Commit`] when it is not known whether it is durable.
    pub fn append_durable(&self, record: &[u8]) -> Result<Lsn, AppendDurableError> {
        let lsn = self.append(record)?;
        self.core.wait_durable_to(lsn.get() + 1)?;
        Ok(lsn)
    }

    /// Waits until the record at `lsn`, and everything before it, is durable: confirmed by a device
    /// flush or a durable write. Returns at once if it is.
    ///
    /// # Errors
    ///
    /// [`CommitError::Poisoned`] when a write or sync has failed, after which the record may be on
    /// disk or not; [`CommitError::NotAppended`] for an address past the end.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), CommitError> {
        self.core.wait_durable_to(self.end_past(lsn)?)
    }

    /// Waits until the record at `lsn`, and everything before it, has been written: it survives the
    /// end of this process, though not that of the machine. Returns at once if it has.
    ///
    /// # Errors
    ///
    /// As [`wait_durable`](Self::wait_durable).
    pub fn wait_written(&self, lsn: Lsn) -> Result<(), CommitError> {
        self.core.wait_written_to(self.end_past(lsn)?)
    }

    fn end_past(&self, lsn: Lsn) -> Result<u64, CommitError> {
        let tail = self.core.tail();
        if lsn < tail {
            Ok(lsn.get() + 1)
        } else {
            Err(CommitError::NotAppended { lsn, tail })
        }
    }

    /// A future that ends when the record at `lsn`, and everything before it, is durable: like
    /// [`wait_durable`](Self::wait_durable), for any executor, and for many records at a time.
    ///
    /// Commits are made by a thread that the store starts when this is first called; those who wait,
    /// futures and threads, share them. With [`Maintenance::Manual`] there is no such thread: a future
    /// ends with the commit of somebody who waits in a thread, or with the next call of
    /// [`maintain`](Self::maintain). Neither this nor polling waits for the device.
    ///
    /// The future holds neither the store nor a place in any queue: it may be dropped at any time,
    /// outlive the store, and be moved between threads. One that is not polled holds nobody up.
    ///
    /// # Errors
    ///
    /// Those of `wait_durable` are the future's output, and [`CommitError::Closed`] when the store was
    /// dropped before the record was durable.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_lss::{AnyBackend, Options, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path(), AnyBackend::auto(), Options::default())?;
    /// let (one, two) = (store.append(b"one")?, store.append(b"two")?);
    /// let both = async {
    ///     let (one, two) = (store.until_durable(one), store.until_durable(two));
    ///     one.await?;
    ///     two.await
    /// };
    /// # use std::{future::Future, pin::pin, sync::Arc, task::{Context, Poll, Wake, Waker}, thread};
    /// # struct Unpark(thread::Thread);
    /// # impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark(); } }
    /// # let waker = Waker::from(Arc::new(Unpark(thread::current())));
    /// # let mut both = pin!(both);
    /// # let result = loop {
    /// #     match both.as_mut().poll(&mut Context::from_waker(&waker)) {
    /// #         Poll::Ready(result) => break result,
    /// #         Poll::Pending => thread::park(),
    /// #     }
    /// # };
    /// # result?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn until_durable(&self, lsn: Lsn) -> UntilDurable {
        match self.end_past(lsn) {
            Ok(end) => self.core.until_durable_to(end),
            Err(error) => UntilDurable::failed(&self.core, error),
        }
    }

    /// A future that ends when everything that was appended before the call is durable: like
    /// [`flush`](Self::flush), and in everything else like [`until_durable`](Self::until_durable).
    pub fn until_flushed(&self) -> UntilDurable {
        self.core.until_durable_to(self.core.end_of_appended())
    }

    /// Makes everything that was appended before the call durable and returns the end of it.
    ///
    /// # Errors
    ///
    /// As [`wait_durable`](Self::wait_durable).
    pub fn flush(&self) -> Result<Lsn, CommitError> {
        let end = self.core.end_of_appended();
        self.core.wait_durable_to(end)?;
        Ok(self.durable())
    }

    /// Reads the record at `lsn` back: from memory while it is there, else from disk, with its
    /// checksum checked. Sees every append that has returned. Allocates the record.
    ///
    /// # Errors
    ///
    /// [`ReadError::NotARecord`] when no record begins there, [`ReadError::Corrupt`] when it is
    /// damaged, and others as they say.
    pub fn read(&self, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        self.core.read(lsn)
    }

    /// Reads the records at `lsns` back, in that order, each with a result of its own, as
    /// [`read`](Self::read) would: with many reads in flight, from this thread. The same address may
    /// be there twice. Reads nothing before the first is asked for.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_lss::{AnyBackend, Lsn, Options, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path(), AnyBackend::auto(), Options::default())?;
    /// let mut lsns = store.append_batch(&[b"one", b"two", b"three"])?;
    /// lsns.reverse();
    /// let records: Vec<Vec<u8>> = store.read_many(&lsns).collect::<Result<_, _>>()?;
    /// assert_eq!(records, [&b"three"[..], b"two", b"one"]);
    ///
    /// let some = [lsns[0], Lsn::new(12345), lsns[2]];
    /// let found = store.read_many(&some).depth(8).filter(Result::is_ok).count();
    /// assert_eq!(found, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_many<'s>(&'s self, lsns: &'s [Lsn]) -> ReadMany<'s, B> {
        ReadMany::new(&self.core, lsns)
    }

    /// The records of a range of addresses in the log's order, up to what was appended before the
    /// call; of a store where a write or a sync has failed, up to the durable end. A range that has a
    /// beginning begins at a record's address.
    ///
    /// Reads from disk, ahead of what is asked for; what is still in memory is written (not synced)
    /// first.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the range cannot be read; the iterator ends after its first error.
    pub fn scan(&self, range: impl RangeBounds<Lsn>) -> Result<Scan<'_, B>, ReadError> {
        self.core.scan(&range)
    }

    /// The records from `from` on, each as soon as it is durable: those that are there, and those to
    /// come. `from` is a record's address, or [`first`](Self::first) for all.
    ///
    /// # Errors
    ///
    /// [`ReadError::Trimmed`] below where the log begins, and [`ReadError::BeyondEnd`] past its end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_lss::{AnyBackend, Options, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path(), AnyBackend::auto(), Options::default())?;
    /// let lsn = store.append_durable(b"history")?;
    /// assert_eq!(store.follow(lsn)?.next().transpose()?.map(|record| record.lsn), Some(lsn));
    ///
    /// let mut follower = store.follow_new();
    /// std::thread::scope(|scope| {
    ///     let reader = scope.spawn(move || follower.next());
    ///     store.append_durable(b"news")?;
    ///     let record = reader.join().expect("no panic").expect("no end")?;
    ///     assert_eq!(record.payload, b"news");
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn follow(&self, from: Lsn) -> Result<Follower<'_, B>, ReadError> {
        Follower::new(&self.core, from)
    }

    /// The records that are appended from now on, each as soon as it is durable: otherwise as
    /// [`follow`](Self::follow).
    #[must_use]
    pub fn follow_new(&self) -> Follower<'_, B> {
        Follower::at_end(&self.core)
    }

    /// Gives up what lies below `lsn`, as far as whole segments can be freed, and returns the
    /// address at which the log begins now, which is at most `lsn`.
    ///
    /// Durable on return: the space is used again only after both copies of the superblock say
    /// where the log begins. Reads below fail from then on. Blocks.
    ///
    /// # Errors
    ///
    /// [`TrimError::NotDurable`] past the durable end; others as they say.
    pub fn trim_before(&self, lsn: Lsn) -> Result<Lsn, TrimError> {
        self.core.trim_before(lsn)
    }

    /// The address at which the log begins: everything below has been trimmed. One load.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.core.first()
    }

    /// The end of the contiguous prefix whose writes have completed. Only grows. Two loads.
    #[must_use]
    pub fn written(&self) -> Lsn {
        // What is durable is written: the thread that moves the one prefix may be slower than
        // another that moves the other.
        Lsn::new(self.core.written.lsn().max(self.core.durable.lsn()))
    }

    /// The end of the contiguous prefix that the device has confirmed. Only grows. One load.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn::new(self.core.durable.lsn())
    }

    /// The end of what has been appended; the next record's address, or below it.
    #[must_use]
    pub fn tail(&self) -> Lsn {
        self.core.tail()
    }

    /// The backend that the store was opened on, for its statistics.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.core.backend
    }

    /// What the store is and what it has done since it was opened. Blocks: it looks at the files.
    ///
    /// # Errors
    ///
    /// [`IoError`] when the files can't be looked at.
    pub fn info(&self) -> Result<StoreInfo, IoError> {
        self.core.info()
    }

    /// Does the work in the background once, for a store without a thread of its own
    /// ([`Maintenance::Manual`]): commits what futures wait for, and what
    /// [`Options::commit_every`] asks for, makes the next segment, moves the
    /// checkpoint, and, if nothing was written since the last call, leaves a stability slot.
    ///
    /// # Errors
    ///
    /// [`MaintainError`]; a failed write or sync poisons the store.
    pub fn maintain(&self) -> Result<(), MaintainError> {
        // What fails here has poisoned the store, and is reported below.
        let _poisoned = self.core.commit_for_tasks();
        self.core.maintain().map(|_left| ())
    }

    /// Makes everything durable, marks the store as cleanly closed, and closes it.
    ///
    /// # Errors
    ///
    /// [`CloseError`]; the store is closed all the same, and recovered when it is opened again.
    pub fn close(self) -> Result<(), CloseError> {
        if !self.core.poison.is_here() {
            self.core.check_alive().map_err(CommitError::from)?;
        }
        self.core.maintenance.stop();
        self.core.discard_making();
        self.flush()?;
        let end = self.core.durable_position();
        self.core
            .superblock
            .lock()
            .update(|next| {
                next.checkpoint = end;
                next.clean_end = Some(end);
            })
            .map_err(CloseError::Superblock)
    }
}

impl<B: Backend> Drop for Store<B> {
    fn drop(&mut self) {
        let core = &self.core;
        if !core.poison.is_here() {
            // S5: the child's copies of its threads' holds on it are there for good.
            std::mem::forget(Arc::clone(core));
            return;
        }
        core.maintenance.stop();
        core.committer.stop(&core.commit.tasks);
        // Every operation in flight owns the core until its sink has returned, and so do those that
        // the sinks of others submit: when nobody else does, nothing is in flight.
        core.backend
            .wait_until(&mut || Arc::strong_count(core) == 1, None);
    }
}

impl<B: Backend> Core<B> {
    pub(crate) fn tail(&self) -> Lsn {
        Lsn::new(self.ring.tail())
    }

    /// The end of everything that was appended before the call, as an address that a prefix can
    /// reach: the last record's, plus one, or the open buffer's base if it is empty.
    pub(crate) fn end_of_appended(&self) -> u64 {
        let tail = self.ring.tail();
        let (_, base) = self.ring.current();
        if tail <= base + slot::HEADER_BYTES as u64 {
            base.min(tail)
        } else {
            tail
        }
    }

    fn scan(
        self: &Arc<Self>,
        range: &impl RangeBounds<Lsn>,
    ) -> Result<Scan<'static, B>, ReadError> {
        let end = match self.wait_written_to(self.end_of_appended()) {
            Ok(()) if self.poison.get().is_none() => self.written.lsn(),
            // Of the rest it is not known whether it is there, written or not.
            _ => self.durable.lsn(),
        };
        let first = Arc::clone(&self.first);
        // Acquire: pairs with the release in `trim_before`.
        let first_now = move || Lsn::new(first.load(Ordering::Acquire));
        Ok(Scan::new(&self.log, range, self.first(), Lsn::new(end))?.with_first(first_now))
    }
}
