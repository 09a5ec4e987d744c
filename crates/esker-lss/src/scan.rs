//! [`Scan`]: the records of a range of addresses.

use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use esker_io::Backend;

use crate::Lsn;
use crate::error::ReadError;
use crate::log::Log;
use crate::record_scan::{Record, RecordScan};

/// Records in the order of their addresses, read ahead of what is asked for. Voids are skipped.
///
/// Ends after the first error. Each step blocks while it waits for the disk, and allocates the
/// record.
pub struct Scan<'s, B: Backend> {
    records: RecordScan<B>,
    /// It reads through the files of the store or reader that it came from, whose locks they hold.
    source: PhantomData<&'s ()>,
    /// A record that the range leaves out although it begins there.
    left_out: Option<Lsn>,
}

impl<B: Backend> Scan<'_, B> {
    /// The records of `range` in a log that begins at `first` and is written up to `end`.
    pub(crate) fn new(
        log: &Log<B>,
        range: &impl RangeBounds<Lsn>,
        first: Lsn,
        end: Lsn,
    ) -> Result<Self, ReadError> {
        let (from, left_out) = match range.start_bound() {
            Bound::Included(lsn) => (*lsn, None),
            Bound::Excluded(lsn) => (*lsn, Some(*lsn)),
            Bound::Unbounded => (first, None),
        };
        let until = match range.end_bound() {
            Bound::Included(lsn) => lsn.checked_add(1).unwrap_or(*lsn),
            Bound::Excluded(lsn) => *lsn,
            Bound::Unbounded => end,
        };
        if from < first {
            return Err(ReadError::Trimmed { lsn: from, first });
        }
        if from > end {
            return Err(ReadError::BeyondEnd { lsn: from, end });
        }
        Ok(Self {
            records: log.records(from, until.min(end), end),
            left_out,
            source: PhantomData,
        })
    }

    /// Asks `first` where the log begins when something is not there: what has been trimmed
    /// meanwhile is reported as that.
    pub(crate) fn with_first(self, first: impl Fn() -> Lsn + Send + Sync + 'static) -> Self {
        Self {
            records: self.records.with_first(first),
            ..self
        }
    }
}

impl<B: Backend> Iterator for Scan<'_, B> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let record = self.records.next()?;
            match (&record, self.left_out) {
                (Ok(found), Some(left_out)) if found.lsn == left_out => self.left_out = None,
                _ => return Some(record),
            }
        }
    }
}

impl<B: Backend> FusedIterator for Scan<'_, B> {}
