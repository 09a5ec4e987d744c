//! [`Survey`]: what the intact slots of a store say, wherever they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use esker_io::Backend;

use super::bytes::LogBytes;
use crate::Lsn;
use crate::error::OpenError;
use crate::format::chain;
use crate::format::slot::{HEADER_BYTES, SlotHeader};
use crate::format::superblock::Superblock;
use crate::geometry::Geometry;
use crate::segments::SegmentSet;

/// Where the epochs began that are known of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs(BTreeMap<u32, u64>);

impl Epochs {
    /// The one that a superblock knows of.
    pub(super) fn of(superblock: &Superblock) -> Self {
        let mut epochs = Self::default();
        epochs.add(superblock.epoch, superblock.epoch_start.lsn.get());
        epochs
    }

    fn add(&mut self, epoch: u32, start: u64) {
        let known = self.0.entry(epoch).or_insert(start);
        *known = start.min(*known);
    }

    /// Whether no later epoch began at or before the slot: else it was dropped.
    fn governs(&self, header: &SlotHeader) -> bool {
        let Some(next) = header.epoch.checked_add(1) else {
            return true;
        };
        let mut later = self.0.range(next..);
        later.all(|(_, start)| *start > header.base.get())
    }
}

/// How much more may be read in vain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(u64);

impl Budget {
    /// For the slot at one address: it is looked at once.
    pub(super) fn for_slot(geometry: &Geometry) -> Self {
        Self(geometry.max_slot_bytes())
    }

    /// For records in so many bytes.
    pub(super) fn for_records(bytes: u64) -> Self {
        Self(bytes.saturating_mul(16).saturating_add(1 << 20))
    }

    pub(super) fn allows(&self, bytes: u64) -> bool {
        bytes <= self.0
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.0 = self.0.saturating_sub(bytes);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// What begins at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An intact slot, and where the next one begins.
    Intact(SlotHeader, u64),
    /// One that is not intact.
    Damaged,
    /// None of this store's that belongs there.
    Nothing,
}

/// Looks for a slot at a block's boundary.
pub(super) fn slot_at<B: Backend>(
    bytes: &mut LogBytes<B>,
    at: u64,
    epochs: Option<&Epochs>,
    budget: &mut Budget,
) -> Result<Found, OpenError> {
    let geometry = *bytes.segments().geometry();
    let head = bytes.from(at)?;
    let Ok(sealed) = SlotHeader::decode(head) else {
        return Ok(Found::Nothing);
    };
    let header = sealed.header;
    if chain::fits(&header, at, &geometry).is_err()
        || epochs.is_some_and(|epochs| !epochs.governs(&header))
    {
        return Ok(Found::Nothing);
    }
    let padded_len = chain::padded_len(&header, &geometry);
    let end = at + padded_len;
    if end > Lsn::LIMIT.get() || !budget.allows(padded_len) {
        return Ok(Found::Damaged);
    }
    let mut check = sealed.check();
    let is_there = bytes.pieces(at + HEADER_BYTES as u64, end, &mut |piece| {
        check.update(piece)
    })?;
    if is_there && check.matches() {
        return Ok(Found::Intact(header, end));
    }
    budget.spend(padded_len);
    Ok(Found::Damaged)
}

/// Whether a slot that belongs there claims to begin at a block's boundary, intact or not.
pub(super) fn claims<B: Backend>(
    bytes: &mut LogBytes<B>,
    at: u64,
    epochs: &Epochs,
) -> Result<bool, OpenError> {
    let geometry = *bytes.segments().geometry();
    let decoded = SlotHeader::decode(bytes.from(at)?);
    Ok(decoded.is_ok_and(|sealed| {
        chain::fits(&sealed.header, at, &geometry).is_ok() && epochs.governs(&sealed.header)
    }))
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The segments whose files are there.
    pub(super) segments: BTreeSet<u64>,
    pub(super) epochs: Epochs,
    /// How many intact slots there are.
    pub(super) slots: u64,
    /// Where the first file begins.
    pub(super) first: u64,
    /// Behind the last intact slot that no later epoch has dropped; past what any says was durable.
    pub(super) end: u64,
}

impl Survey {
    /// Looks at every block of every segment, when some epochs are known already.
    pub(super) fn take<B: Backend>(
        segments: &Arc<SegmentSet<B>>,
        known: Epochs,
    ) -> Result<Self, OpenError> {
        let geometry = *segments.geometry();
        let segment_bytes = geometry.segment_bytes();
        let possible = ..Lsn::LIMIT.get() / segment_bytes;
        let existing: BTreeSet<u64> = segments.existing()?.range(possible).copied().collect();
        let first = existing.first().copied().unwrap_or(0);
        let mut survey = Self {
            segments: existing,
            first: first * segment_bytes,
            epochs: known,
            ..Self::default()
        };
        let total = survey.segments.len() as u64 * segment_bytes;
        let mut budget = Budget::for_records(total);
        let mut bytes = LogBytes::new(segments);
        // The last slot of each epoch: of which of them the log still holds is known in the end.
        let mut ends: BTreeMap<u32, (SlotHeader, u64)> = BTreeMap::new();
        let mut next = 0;
        for &segment in &survey.segments {
            let start = segment * segment_bytes;
            let mut at = next.max(start);
            while at < start + segment_bytes {
                match slot_at(&mut bytes, at, None, &mut budget)? {
                    Found::Intact(header, end) => {
                        survey.slots += 1;
                        survey.epochs.add(header.epoch, header.epoch_start.get());
                        let last = ends.entry(header.epoch).or_insert((header, end));
                        if last.0.base <= header.base {
                            *last = (header, end);
                        }
                        at = end;
                    }
                    Found::Damaged | Found::Nothing => at += geometry.block().bytes() as u64,
                }
            }
            next = at;
        }
        // A slot of a dropped tail ends past the log, but a later epoch's first slot governs it.
        let starts = &survey.epochs;
        let ends = ends.values().filter_map(|(header, end)| {
            if starts.governs(header) {
                return Some(*end);
            }
            // Where the next epoch began, the log of this one ended.
            let mut later = starts.0.range(header.epoch.saturating_add(1)..);
            later.next().map(|(_, start)| *start)
        });
        survey.end = ends.max().unwrap_or(survey.first);
        Ok(survey)
    }
}
