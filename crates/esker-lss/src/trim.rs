//! Trimming: giving up a prefix of the log.
//!
//! Invariants:
//! - T1. The log begins at a slot boundary at or below the address asked for, and only what is
//!   durable is given up.
//! - T2. Both copies of the superblock say so, durably, before any segment's file is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_io::Backend;

use crate::core::Core;
use crate::error::ReadError;
use crate::sync::{Mutex, Ordering};
use crate::write_error::TrimError;
use crate::{Lsn, Position};

/// For some segments, the first slot boundary in them: known for what this life has written and for
/// what recovery has read. Where it is not known, the log is read.
#[derive(Default)]
pub(crate) struct Marks {
    by_segment: Mutex<BTreeMap<u64, Position>>,
}

impl Marks {
    pub(crate) fn new(known: impl IntoIterator<Item = Position>, segment_bytes: u64) -> Self {
        let marks = Self::default();
        for position in known {
            marks.note(position, segment_bytes);
        }
        marks
    }

    /// There is a slot boundary at `position`.
    pub(crate) fn note(&self, position: Position, segment_bytes: u64) {
        let segment = position.lsn.get() / segment_bytes;
        let mut marks = self.by_segment.lock();
        let mark = marks.entry(segment).or_insert(position);
        if position.lsn < mark.lsn {
            *mark = position;
        }
    }

    /// The last known boundary at or below `lsn`.
    fn before(&self, lsn: Lsn, segment_bytes: u64) -> Option<Position> {
        let marks = self.by_segment.lock();
        let mut below = marks
            .range(..=lsn.get() / segment_bytes)
            .rev()
            .map(|(_, mark)| *mark);
        below.find(|mark| mark.lsn <= lsn)
    }

    /// Forgets what lies below the log's beginning.
    fn trimmed(&self, first: Lsn, segment_bytes: u64) {
        let mut marks = self.by_segment.lock();
        *marks = marks.split_off(&(first.get() / segment_bytes));
    }
}

impl<B: Backend> Core<B> {
    pub(crate) fn trim_before(self: &Arc<Self>, lsn: Lsn) -> Result<Lsn, TrimError> {
        self.check_alive()?;
        let durable = Lsn::new(self.durable.lsn());
        if lsn > durable {
            return Err(TrimError::NotDurable { lsn, durable });
        }
        let segment_bytes = self.geometry.segment_bytes();
        // Held to the end: trims come one after the other, and so do the files they remove.
        let mut superblock = self.superblock.lock();
        let first = superblock.current().first;
        let segment_start = Lsn::new(lsn.get() / segment_bytes * segment_bytes);
        if segment_start <= first.lsn {
            return Ok(first.lsn);
        }
        let boundary = self.boundary(first, segment_start, lsn)?;
        if boundary.lsn <= first.lsn {
            return Ok(first.lsn);
        }
        if canary!("lss-trim-removes-first") {
            self.segments
                .remove_below(boundary.lsn, self.options.spare_segments, self)
                .map_err(TrimError::Remove)?;
        }
        if canary!("lss-trim-says-so-first") {
            self.first.store(boundary.lsn.get(), Ordering::Release);
        }
        self.update_superblock(&mut superblock, |next| {
            next.first = boundary;
            if next.checkpoint.lsn < boundary.lsn {
                next.checkpoint = boundary;
            }
        })
        .map_err(TrimError::Superblock)?;
        // Release: pairs with the acquire in `first`.
        self.first.store(boundary.lsn.get(), Ordering::Release);
        self.marks.trimmed(boundary.lsn, segment_bytes);
        let freed_below = if canary!("lss-trim-frees-one-more") {
            Lsn::new(lsn.get() + segment_bytes)
        } else {
            boundary.lsn
        };
        self.segments
            .remove_below(freed_below, self.options.spare_segments, self)
            .map_err(TrimError::Remove)?;
        Ok(boundary.lsn)
    }

    /// A slot boundary at or below `lsn` to begin at: where it is known, the first in the segment;
    /// else the beginning of the slot that holds `lsn`, for which the log is read.
    fn boundary(
        &self,
        first: Position,
        segment_start: Lsn,
        lsn: Lsn,
    ) -> Result<Position, ReadError> {
        let known = self
            .marks
            .before(lsn, self.geometry.segment_bytes())
            .filter(|mark| mark.lsn >= first.lsn)
            .unwrap_or(first);
        if known.lsn >= segment_start {
            return Ok(known);
        }
        self.log.boundary_before(known, lsn)
    }
}
