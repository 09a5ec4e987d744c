//! [`Appender`]: one thread's way of appending.

use std::fmt;
use std::sync::Arc;

use esker_io::Backend;

use crate::Lsn;
use crate::core::Core;
use crate::dispatch::By;
use crate::write_error::{AppendError, AppendWithError};

/// Appends for one thread, cheaper than through the [`Store`](crate::Store) where several threads
/// append small records.
///
/// It leases a stretch of the open flush buffer and fills it record by record, so that threads meet
/// once in many records and not at every one. What a thread appends through it is read, waited for
/// and recovered like everything else. What differs is the order:
///
/// - The addresses that *one* appender gives out grow. So a scan, and recovery, gives one
///   appender's records back in the order in which they were appended.
/// - Between appenders, and between an appender and the store, addresses say *nothing* of the order:
///   a record may get a lower address than one whose append returned before, in the same thread
///   too; and a crash may leave it and take the other. Append through the store what has to
///   follow what others have appended, or wait until that is durable.
///
/// A lease that is not used up costs space when its buffer is written, at most 16 KiB; an appender
/// whose leases are cut short, by commits for instance, leases less, and nothing at all until it has
/// put several records into one buffer again. An idle appender holds up nobody. More than 64 at a
/// time are as expensive as the store.
///
/// # Examples
///
/// ```
/// use esker_lss::{AnyBackend, Options, Store};
///
/// let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path(), AnyBackend::auto(), Options::default())?;
/// std::thread::scope(|scope| {
///     for thread in 0..4u64 {
///         let mut appender = store.appender();
///         scope.spawn(move || {
///             for n in 0..1000u64 {
///                 appender.append(&(thread << 32 | n).to_le_bytes()).expect("there is space");
///             }
///         });
///     }
/// });
/// store.flush()?;
/// assert_eq!(store.scan(..)?.count(), 4000);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Appender<'s, B: Backend> {
    core: &'s Arc<Core<B>>,
    room: esker_ring::Appender,
}

impl<'s, B: Backend> Appender<'s, B> {
    pub(crate) fn new(core: &'s Arc<Core<B>>) -> Self {
        Self {
            core,
            room: core.ring.appender(),
        }
    }

    /// Appends a record and returns its address at once, like
    /// [`Store::append`](crate::Store::append).
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing of the record is in the log then.
    #[inline]
    pub fn append(&mut self, record: &[u8]) -> Result<Lsn, AppendError> {
        self.core.append(&mut self.room, record)
    }

    /// Appends a record of `len` bytes that `fill` writes in place, like
    /// [`Store::append_with`](crate::Store::append_with).
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing of the record is in the log then.
    #[inline]
    pub fn append_with(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Lsn, AppendError> {
        self.core.append_with_all(&mut self.room, len, fill)
    }

    /// Appends a record of `len` bytes that `fill` writes in place, unless it fails, like
    /// [`Store::try_append_with`](crate::Store::try_append_with).
    ///
    /// # Errors
    ///
    /// [`AppendWithError`]; there is no such record in the log then.
    #[inline]
    pub fn try_append_with<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Lsn, AppendWithError<E>> {
        self.core
            .append_with(&mut self.room, len, fill)?
            .map_err(AppendWithError::Fill)
    }

    /// Appends several records that a crash leaves all or none of, like
    /// [`Store::append_batch`](crate::Store::append_batch).
    ///
    /// # Errors
    ///
    /// [`AppendError`]; none of the records is in the log then.
    pub fn append_batch(&mut self, records: &[&[u8]]) -> Result<Vec<Lsn>, AppendError> {
        self.core.append_batch(&mut self.room, records)
    }
}

impl<B: Backend> Drop for Appender<'_, B> {
    fn drop(&mut self) {
        if !self.core.poison.is_here() {
            // Its lease is the parent's, who may be in the middle of what giving it back takes.
            return std::mem::forget(std::mem::replace(&mut self.room, self.core.ring.appender()));
        }
        if let Some(sealed) = self.room.retire() {
            self.core.hand_over(sealed, By::Passing);
        }
    }
}

impl<B: Backend> fmt::Debug for Appender<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender")
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}
