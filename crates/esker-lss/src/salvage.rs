//! [`salvage`]: what can be got out of a store that does not open.
//!
//! Opening refuses a store whose acknowledged data is damaged, and reading ends at the damage. Here
//! everything is given back that is whole, wherever it lies, and what is not is listed. Nothing is
//! written, no lock is taken.
//!
//! Two passes. The first looks at every block for intact slots, and learns from them how far the log
//! goes and where each epoch began (and, without a superblock, the store's sizes and identity). The
//! second goes through the log in order: an intact slot is given back record by record; where there
//! is none, every multiple of 8 bytes is tried for a record whose checksum matches, up to the next
//! address at which a slot of this store begins.
//!
//! Invariants:
//! - Nothing is given back whose checksum, which covers its address and the store's identity, does
//!   not match.
//! - An intact slot of an epoch is left out where a later epoch is known to have begun at or before
//!   it: a crash has dropped it.
//! - The work is bounded by a multiple of the files' length, and memory by the largest record.

mod bytes;
mod infer;
mod survey;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker_io::Backend;

use crate::Lsn;
use crate::error::{Damage, OpenError};
use crate::format::array_at;
use crate::format::record::{HEADER_BYTES, Kind, RecordCheck, RecordHeader, RecordSeal};
use crate::format::slot;
use crate::format::superblock::Superblock;
use crate::record_scan::Record;
use crate::recovery::{Tail, Unseen, check_files, conclude, marked_durable, walk};
use crate::segments::SegmentSet;
use crate::superblock::SuperblockView;
use bytes::LogBytes;
use survey::{Budget, Epochs, Found, Survey, slot_at};

/// Something found in the log's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Salvaged {
    /// A record whose checksum matches.
    Record {
        /// The record.
        record: Record,
        /// Whether the slot around it is intact too. If it is not, the record's own checksum is all
        /// that vouches for it: where that slot replaced one that a crash had dropped, it may be
        /// what was at this address before.
        slot_intact: bool,
    },
    /// A range that is not whole.
    Lost(Lost),
}

/// A range of addresses in which something is damaged. It may have held records, or no more than
/// what surrounds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where it begins.
    pub from: Lsn,
    /// Where it ends.
    pub to: Lsn,
    /// The segment file that it begins in.
    pub file: PathBuf,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// What is wrong at its beginning.
    pub damage: Damage,
}

/// What is left of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockState {
    /// Both copies.
    Intact,
    /// One of them, which is enough.
    OneCopy,
    /// None: the sizes, the identity and the ends were taken from the slots. What had been trimmed
    /// and is still there is given back too, and what is missing behind the last intact slot is not
    /// listed as lost.
    Lost,
}

/// What a salvage adds up to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The store's identity.
    pub store_id: u64,
    /// What is left of the superblock.
    pub superblock: SuperblockState,
    /// Where the log begins.
    pub first: Lsn,
    /// Where it ends, as far as is known.
    pub end: Lsn,
    /// What lies behind the end of a log that is whole. Not damage.
    pub tail: Tail,
    /// Whether recovery refuses the store, or could not read it: then the log ends as far as anything
    /// says that there was one.
    pub is_refused: bool,
    /// Records that were given back.
    pub records: u64,
    /// The length of what they hold, in bytes.
    pub payload_bytes: u64,
    /// How many of them lay in damaged slots.
    pub records_of_damaged_slots: u64,
    /// Ranges that are not whole.
    pub lost: u64,
    /// Their length in bytes.
    pub lost_bytes: u64,
}

impl SalvageReport {
    /// Whether there was nothing to salvage it from: the log is whole, recovery accepts it, and at least
    /// one copy of the superblock is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lost == 0 && !self.is_refused && self.superblock != SuperblockState::Lost
    }
}

/// Gives back every whole record of the store in `dir`, and every range that is not, in the order of
/// their addresses, for as long as `found` says to go on.
///
/// For stores that [`Store::open`](crate::Store::open) and [`Reader::open`](crate::Reader::open)
/// refuse with [`OpenError::Corrupt`], or whose superblock is damaged or gone. Of a store that is
/// whole it gives back what a scan does. Changes nothing, takes no lock; nobody should be writing
/// meanwhile. Blocks; allocates one record at a time.
///
/// # Errors
///
/// [`OpenError::NoStore`] when nothing of a store is there, [`OpenError::UnknownVersion`] when the
/// superblock is of another version, [`OpenError::SuperblockMissing`] and its like when there is none
/// and no intact slot either; [`OpenError::Io`] when the directory cannot be read. A file that cannot
/// be read is no error, but lost.
pub fn salvage<B: Backend>(
    dir: impl AsRef<Path>,
    backend: impl Into<Arc<B>>,
    mut found: impl FnMut(Salvaged) -> ControlFlow<()>,
) -> Result<SalvageReport, OpenError> {
    let (dir, backend) = (dir.as_ref(), backend.into());
    let entry = enter(&backend, dir)?;
    let Entry {
        segments,
        superblock,
        state,
        survey,
    } = entry;
    let (first, end, tail) = match &superblock {
        Some(superblock) => bounds(&segments, superblock, &survey),
        None => (survey.first, survey.end, None),
    };
    let geometry = *segments.geometry();
    let mut delivery = Delivery {
        seal: RecordSeal::new(geometry.store_id()),
        bytes: LogBytes::new(&segments),
        existing: survey.segments,
        epochs: survey.epochs,
        end,
        lost: None,
        report: SalvageReport {
            store_id: geometry.store_id(),
            superblock: state,
            first: Lsn::new(first),
            end: Lsn::new(end),
            tail: tail.unwrap_or(Tail::Clean),
            is_refused: tail.is_none(),
            records: 0,
            payload_bytes: 0,
            records_of_damaged_slots: 0,
            lost: 0,
            lost_bytes: 0,
        },
        segments,
        found: &mut found,
    };
    // Whoever has had enough is told how far it went.
    let _stopped = delivery.run(first)?;
    Ok(delivery.report)
}

/// A store as far as it could be entered.
struct Entry<B: Backend> {
    segments: Arc<SegmentSet<B>>,
    superblock: Option<Superblock>,
    state: SuperblockState,
    survey: Survey,
}

fn enter<B: Backend>(backend: &Arc<B>, dir: &Path) -> Result<Entry<B>, OpenError> {
    let loaded = SuperblockView::open(backend, dir).and_then(|view| view.load());
    let refused = match loaded {
        Ok((superblock, copies)) => {
            let geometry = superblock.geometry;
            let segments = Arc::new(SegmentSet::open_to_read(backend, dir, geometry));
            let survey = Survey::take(&segments, Epochs::of(&superblock))?;
            let alike = |copy: &Result<Superblock, _>| {
                copy.as_ref()
                    .is_ok_and(|copy: &Superblock| copy.geometry == geometry)
            };
            // One without any slot may be another store's superblock.
            let foreign = survey.slots == 0 && !survey.segments.is_empty();
            let inferred = if foreign {
                infer::geometry(backend, dir)?
            } else {
                None
            };
            let Some(inferred) = inferred else {
                return Ok(Entry {
                    segments,
                    superblock: Some(superblock),
                    state: if copies.iter().all(alike) {
                        SuperblockState::Intact
                    } else {
                        SuperblockState::OneCopy
                    },
                    survey,
                });
            };
            return without_superblock(backend, dir, inferred);
        }
        Err(
            error @ (OpenError::NoStore { .. }
            | OpenError::UnknownVersion { .. }
            | OpenError::Memory(_)),
        ) => return Err(error),
        Err(error) => error,
    };
    match infer::geometry(backend, dir)? {
        Some(geometry) => without_superblock(backend, dir, geometry),
        None => Err(refused),
    }
}

fn without_superblock<B: Backend>(
    backend: &Arc<B>,
    dir: &Path,
    geometry: crate::Geometry,
) -> Result<Entry<B>, OpenError> {
    let segments = Arc::new(SegmentSet::open_to_read(backend, dir, geometry));
    let survey = Survey::take(&segments, Epochs::default())?;
    Ok(Entry {
        segments,
        superblock: None,
        state: SuperblockState::Lost,
        survey,
    })
}

/// Where the log begins and ends: where recovery says, or, if it is damaged, as far as anything says
/// that there was a log; and the tail that recovery finds, unless it refuses.
fn bounds<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    survey: &Survey,
) -> (u64, u64, Option<Tail>) {
    let first = superblock.first.lsn;
    let whole = walk(segments, superblock, superblock.checkpoint, &mut Unseen)
        .map_err(OpenError::from)
        .and_then(|walk| conclude(segments, superblock, walk))
        .and_then(|recovered| {
            check_files(segments, first, recovered.end.lsn)?;
            Ok(recovered)
        });
    match whole {
        Ok(recovered) => (first.get(), recovered.end.lsn.get(), Some(recovered.tail)),
        Err(_) => {
            let marked = marked_durable(superblock).get();
            let end = marked.max(survey.end);
            (first.get(), end, None)
        }
    }
}

/// The second pass.
struct Delivery<'f, B: Backend> {
    segments: Arc<SegmentSet<B>>,
    seal: RecordSeal,
    bytes: LogBytes<B>,
    existing: std::collections::BTreeSet<u64>,
    epochs: Epochs,
    end: u64,
    /// A range that may go on.
    lost: Option<(u64, u64, Damage)>,
    report: SalvageReport,
    found: &'f mut dyn FnMut(Salvaged) -> ControlFlow<()>,
}

type Step = Result<ControlFlow<()>, OpenError>;

/// An intact record: its header and, of data, its payload.
type Whole = (RecordHeader, Option<Vec<u8>>);

/// Goes on, or returns that nobody wants more.
macro_rules! go_on {
    ($step:expr) => {
        if $step?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    };
}

impl<B: Backend> Delivery<'_, B> {
    fn run(&mut self, first: u64) -> Step {
        let geometry = *self.segments.geometry();
        let block = geometry.block().bytes() as u64;
        let mut at = first;
        while at < self.end {
            let segment = geometry.segment_of(at);
            if !self.existing.contains(&segment) {
                let next = self.existing.range(segment..).next();
                let next = next.map_or(self.end, |next| next * geometry.segment_bytes());
                let to = next.min(self.end);
                go_on!(self.lose(at, to, Damage::Missing));
                at = to;
                continue;
            }
            let mut budget = Budget::for_slot(&geometry);
            match slot_at(&mut self.bytes, at, Some(&self.epochs), &mut budget)? {
                Found::Intact(header, end) => {
                    let used = at + header.len as u64;
                    go_on!(self.records(at + slot::HEADER_BYTES as u64, used, true));
                    at = end;
                }
                damaged => {
                    let to = self.next_slot(at + block)?;
                    let begins = matches!(damaged, Found::Damaged);
                    let damage = self.bytes.fault(at)?.unwrap_or(if begins {
                        Damage::SlotChecksum
                    } else {
                        Damage::NoSlot
                    });
                    // The header, or whatever is in its place.
                    let header_end = at + slot::HEADER_BYTES as u64;
                    go_on!(self.lose(at, header_end, damage));
                    if !canary!("lss-salvage-skips-damaged-slots") {
                        go_on!(self.records(header_end, to, false));
                    }
                    at = to;
                }
            }
        }
        self.end_loss()
    }

    /// The next address, from `at` on, at which a slot of this store claims to begin, or at which
    /// there is no file.
    fn next_slot(&mut self, mut at: u64) -> Result<u64, OpenError> {
        let geometry = *self.segments.geometry();
        let block = geometry.block().bytes() as u64;
        while at < self.end {
            if !self.existing.contains(&geometry.segment_of(at))
                || survey::claims(&mut self.bytes, at, &self.epochs)?
            {
                return Ok(at);
            }
            at += block;
        }
        Ok(self.end)
    }

    /// Gives back the records in `[at, to)`. In a slot that is intact they follow one another.
    fn records(&mut self, mut at: u64, to: u64, slot_intact: bool) -> Step {
        let mut budget = Budget::for_records(to.saturating_sub(at));
        while at < to {
            match self.record_at(at, to, &mut budget)? {
                Some((header, payload)) => {
                    if let Some(payload) = payload {
                        let lsn = Lsn::new(at);
                        go_on!(self.give(Record { lsn, payload }, slot_intact));
                    }
                    at += header.encoded_len();
                }
                None => {
                    let step = HEADER_BYTES as u64;
                    let next = if budget.is_spent() { to } else { at + step };
                    let is_padding = !slot_intact && self.is_padding(at)?;
                    let next = if is_padding { self.block_end(at) } else { next };
                    if !is_padding {
                        let fault = self.bytes.fault(at)?;
                        go_on!(self.lose(
                            at,
                            next.min(to),
                            fault.unwrap_or(Damage::RecordChecksum)
                        ));
                    }
                    at = next;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn block_end(&self, at: u64) -> u64 {
        let block = self.segments.geometry().block();
        block.ceil(at + 1).unwrap_or(at + 1)
    }

    /// Whether there is nothing but zeroes up to the end of the block, which can be read.
    fn is_padding(&mut self, at: u64) -> Result<bool, OpenError> {
        let len = self.block_end(at) - at;
        if self.bytes.fault(at)?.is_some() || self.segments.geometry().block().divides(at) {
            return Ok(false);
        }
        let bytes = self.bytes.from(at)?;
        let bytes = bytes.iter().take(usize::try_from(len).unwrap_or(0));
        Ok(bytes.copied().all(|byte| byte == 0))
    }

    /// The record at `at` that ends at `to` at the latest and is intact; of data its payload too.
    fn record_at(
        &mut self,
        at: u64,
        to: u64,
        budget: &mut Budget,
    ) -> Result<Option<Whole>, OpenError> {
        let max = self.segments.geometry().max_record_bytes();
        let header = RecordHeader::decode(array_at(self.bytes.from(at)?, 0));
        let Some(header) = header.filter(|header| at + header.encoded_len() <= to) else {
            return Ok(None);
        };
        let lsn = Lsn::new(at);
        if header.kind == Kind::Void {
            let is_void = self.seal.matches(lsn, header, &[]);
            return Ok(is_void.then_some((header, None)));
        }
        let len = u64::from(header.len);
        if len > max || !budget.allows(len) {
            return Ok(None);
        }
        let payload = at + HEADER_BYTES as u64;
        let mut check = RecordCheck::new();
        self.bytes.pieces(payload, payload + len, &mut |bytes| {
            check.update(bytes);
        })?;
        if !check.matches(&self.seal, lsn, header) {
            budget.spend(len);
            return Ok(None);
        }
        // Only now is it known that the length is what somebody wrote.
        let mut bytes = Vec::with_capacity(header.len as usize);
        self.bytes.pieces(payload, payload + len, &mut |piece| {
            bytes.extend_from_slice(piece)
        })?;
        Ok(Some((header, Some(bytes))))
    }

    fn give(&mut self, record: Record, slot_intact: bool) -> Step {
        go_on!(self.end_loss());
        self.report.records += 1;
        self.report.payload_bytes += record.payload.len() as u64;
        self.report.records_of_damaged_slots += u64::from(!slot_intact);
        Ok((self.found)(Salvaged::Record {
            record,
            slot_intact,
        }))
    }

    fn lose(&mut self, from: u64, to: u64, damage: Damage) -> Step {
        match &mut self.lost {
            Some((_, end, known)) if *end == from && is_alike(*known, damage) => {
                *end = to;
                Ok(ControlFlow::Continue(()))
            }
            _ => {
                go_on!(self.end_loss());
                self.lost = Some((from, to, damage));
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    fn end_loss(&mut self) -> Step {
        let Some((from, to, damage)) = self.lost.take() else {
            return Ok(ControlFlow::Continue(()));
        };
        let geometry = self.segments.geometry();
        self.report.lost += 1;
        self.report.lost_bytes += to - from;
        Ok((self.found)(Salvaged::Lost(Lost {
            from: Lsn::new(from),
            to: Lsn::new(to),
            file: self.segments.path(geometry.segment_of(from)),
            offset: from % geometry.segment_bytes(),
            damage,
        })))
    }
}

/// Whether a range goes on with other damage: what is not there is kept apart from what is wrong.
fn is_alike(one: Damage, other: Damage) -> bool {
    let is_gone = |damage| matches!(damage, Damage::Missing | Damage::Unreadable);
    one == other || (!is_gone(one) && !is_gone(other))
}

#[cfg(test)]
mod tests;
