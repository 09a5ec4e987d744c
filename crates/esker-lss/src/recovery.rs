//! Recovery: where the log ends, and whether what is missing there was ever acknowledged.
//!
//! The log is read forward from the checkpoint. The first slot that is not intact is either the torn
//! tail of a crash, or damage to what was durable. What tells them apart is what the intact slots
//! say, before it and behind it: each names an address up to which everything was durable when it was
//! submitted, and none is submitted further than the window past that (`docs/format.md`, the recovery
//! rule). Nothing is written here.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_io::Backend;

use crate::Lsn;
use crate::error::{Corruption, Damage, OpenError};
use crate::format::chain::{self, ChainFault};
use crate::format::record::RecordSeal;
use crate::format::slot::SlotHeader;
use crate::format::superblock::Superblock;
use crate::position::Position;
use crate::segments::SegmentSet;
use crate::slots::{Body, RecordWalk, SlotFault, check_body, next_slot};
use crate::stream::{LogStream, StreamError};

/// How many windows' worth of slots behind the log's end are checked before it is concluded that
/// they are not what a crash leaves behind, where they do not overlap.
const CHECKED_WINDOWS: u64 = 4;

/// What was found behind the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing that was written in the log's last life.
    Clean,
    /// What a crash has left behind of writes that nobody was told of. It is dropped.
    Torn {
        /// How many slots are at least in part there.
        slots: u64,
        /// How far they reach past the end of the log, in bytes.
        bytes: u64,
    },
}

/// What recovery concluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Where the log ends.
    pub(crate) end: Position,
    /// What lies behind.
    pub(crate) tail: Tail,
    /// What is proven to have been durable.
    pub(crate) durable: Lsn,
    /// Whether the store was closed, as opposed to having crashed.
    pub(crate) closed: bool,
    /// The first slot boundary in each segment that was read.
    pub(crate) boundaries: BTreeMap<u64, Position>,
}

/// How far the intact slots go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Behind the last intact slot.
    pub(crate) end: Position,
    /// The largest address that one of them says was durable.
    pub(crate) durable: Lsn,
    /// Why it goes no further; `None` at the limit.
    pub(crate) fault: Option<SlotFault>,
    /// The first slot boundary in each segment.
    pub(crate) boundaries: BTreeMap<u64, Position>,
}

impl Walk {
    /// Whether a live writer may go on from its end: what was `marked` durable is there, and what
    /// comes next is not of a life that the superblock does not know of.
    pub(crate) fn may_go_on(&self, marked: Lsn) -> bool {
        self.end.lsn >= self.durable.max(marked) && self.fault != Some(SlotFault::LaterEpoch)
    }
}

/// Is told of every slot that is read.
pub(crate) trait Visitor {
    /// The next bytes of the slot, behind its header.
    fn bytes(&mut self, header: &SlotHeader, bytes: &[u8]);
    /// The slot was intact; it ends at `after`. `false` to stop in front of it.
    fn intact(&mut self, header: &SlotHeader, after: &Position) -> bool;
}

/// Looks at nothing.
pub(crate) struct Unseen;

impl Visitor for Unseen {
    fn bytes(&mut self, _: &SlotHeader, _: &[u8]) {}

    fn intact(&mut self, _: &SlotHeader, _: &Position) -> bool {
        true
    }
}

/// Finds the end of the log.
///
/// # Errors
///
/// [`OpenError::Corrupt`] when something that was durable is damaged or missing.
pub(crate) fn recover<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
) -> Result<Recovered, OpenError> {
    let walk = walk(segments, superblock, superblock.checkpoint, &mut Unseen)?;
    let recovered = conclude(segments, superblock, walk)?;
    check_files(segments, superblock.first.lsn, recovered.end.lsn)?;
    Ok(recovered)
}

/// Follows the chain from `from` as far as it goes, at most to where the store was closed.
pub(crate) fn walk<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    from: Position,
    visitor: &mut dyn Visitor,
) -> Result<Walk, StreamError> {
    let limit = superblock.clean_end.map_or(u64::MAX, |end| end.lsn.get());
    let mut stream = LogStream::new(segments, from.lsn.get(), limit);
    let mut walk = Walk {
        end: from,
        durable: Lsn::ZERO,
        fault: None,
        boundaries: BTreeMap::new(),
    };
    loop {
        let segment = segments.geometry().segment_of(walk.end.lsn.get());
        walk.boundaries.entry(segment).or_insert(walk.end);
        if walk.end.lsn.get() >= limit {
            return Ok(walk);
        }
        let visit = &mut |header: &SlotHeader, bytes: &[u8]| visitor.bytes(header, bytes);
        match next_slot(&mut stream, &walk.end, superblock, visit)? {
            Ok((header, after)) => {
                if !visitor.intact(&header, &after) {
                    return Ok(walk);
                }
                walk.end = after;
                walk.durable = walk.durable.max(header.durable);
            }
            Err(fault) => {
                walk.fault = Some(fault);
                return Ok(walk);
            }
        }
    }
}

/// Follows the chain on from where it was left, when `durable` was known to be durable.
pub(crate) fn resume<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    from: Position,
    durable: Lsn,
) -> Result<Walk, StreamError> {
    let mut walk = walk(segments, superblock, from, &mut Unseen)?;
    walk.durable = walk.durable.max(durable);
    Ok(walk)
}

/// What the superblock alone proves to have been durable.
pub(crate) fn marked_durable(superblock: &Superblock) -> Lsn {
    let clean_end = superblock.clean_end.map_or(Lsn::ZERO, |end| end.lsn);
    superblock
        .epoch_start
        .lsn
        .max(superblock.checkpoint.lsn)
        .max(clean_end)
}

/// Decides what the end of a walk means.
pub(crate) fn conclude<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    walk: Walk,
) -> Result<Recovered, OpenError> {
    let Walk {
        end,
        durable,
        fault,
        boundaries,
    } = walk;
    let durable = durable.max(marked_durable(superblock));
    if end.lsn < durable || fault == Some(SlotFault::LaterEpoch) {
        return Err(describe(segments, &end, fault)?.into());
    }
    let closed = superblock.clean_end.is_some();
    if let Some(clean_end) = superblock.clean_end
        && clean_end != end
    {
        // It leads to the right address by another way.
        return Err(describe(segments, &end, None)?.into());
    }
    let tail = if closed {
        Tail::Clean
    } else {
        match look_ahead(segments, superblock, &end)? {
            Ahead::Nothing(tail) => tail,
            Ahead::Acknowledged => return Err(describe(segments, &end, fault)?.into()),
            Ahead::LaterEpoch(lsn) => {
                let later = Position { lsn, ..end };
                return Err(describe(segments, &later, Some(SlotFault::LaterEpoch))?.into());
            }
        }
    };
    Ok(Recovered {
        end,
        tail,
        durable,
        closed,
        boundaries,
    })
}

/// What lies behind the first slot that is not intact.
enum Ahead {
    /// Nothing that says that slot was durable.
    Nothing(Tail),
    /// An intact slot that says so.
    Acknowledged,
    /// An intact slot of an epoch that the superblock does not know of.
    LaterEpoch(Lsn),
}

/// What the blocks of the window add up to.
#[derive(Default)]
struct Evidence {
    /// Slots of this life in their own place, be they intact or not.
    slots: u64,
    slots_end: u64,
    /// The end of the last block that is not all zeroes.
    data_end: u64,
    /// Slots from before: of an earlier epoch, or of a recycled file's earlier life.
    stale: bool,
}

/// What a header behind the end says of the slot that is missing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Nothing,
    /// It was durable, if the header's own slot is intact.
    IfIntact,
    /// It was durable: only then can anything have been written so far behind it.
    Proof,
}

/// Looks at every block from `end` on: within the window, inclusive, for slots that say that what is
/// missing was durable, and behind it, as far as there are files, for any slot of this life.
fn look_ahead<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    end: &Position,
) -> Result<Ahead, OpenError> {
    let geometry = &superblock.geometry;
    let block = geometry.block().bytes();
    let start = end.lsn.get();
    let window_end = start + geometry.window_bytes() + block as u64;
    let limit = if canary!("lss-recovery-stops-at-window") {
        window_end
    } else {
        window_end.max(Lsn::LIMIT.get())
    };
    let mut evidence = Evidence::default();
    let mut budget = CHECKED_WINDOWS * geometry.window_bytes();
    let numbers = geometry.segment_of(start)..=geometry.segment_of(limit - 1);
    for &segment in segments.existing()?.range(numbers) {
        let from = start.max(segment * geometry.segment_bytes());
        let to = limit.min((segment + 1).saturating_mul(geometry.segment_bytes()));
        let mut stream = LogStream::new(segments, from, to);
        loop {
            let at = stream.position();
            let bytes = stream.available()?;
            if bytes.is_empty() {
                break;
            }
            let mut suspects = Vec::new();
            for (index, bytes) in bytes.chunks(block).enumerate() {
                let at = at + (index * block) as u64;
                if is_zero(bytes) {
                    continue;
                }
                let is_near = at < window_end;
                if is_near {
                    evidence.data_end = at + block as u64;
                }
                let Ok(sealed) = SlotHeader::decode(bytes) else {
                    continue;
                };
                let weight = if is_near {
                    weigh(&sealed.header, at, end, superblock, &mut evidence)
                } else {
                    weigh_far(&sealed.header, at, end, superblock)
                };
                match weight {
                    Weight::Nothing => {}
                    Weight::IfIntact => suspects.push((at, sealed)),
                    Weight::Proof => return Ok(Ahead::Acknowledged),
                }
            }
            let len = bytes.len() as u64;
            stream.advance(len);
            for (at, sealed) in suspects {
                let padded_len = chain::padded_len(&sealed.header, geometry);
                let Some(left) = budget.checked_sub(padded_len) else {
                    // No crash leaves so many behind. Refusing loses nothing.
                    return Ok(Ahead::Acknowledged);
                };
                budget = left;
                let mut body = LogStream::new(segments, at, at + padded_len);
                if check_body(&mut body, &sealed, padded_len, &mut |_| {})? == Body::Intact {
                    return Ok(if sealed.header.epoch > superblock.epoch {
                        Ahead::LaterEpoch(Lsn::new(at))
                    } else {
                        Ahead::Acknowledged
                    });
                }
            }
        }
    }
    let torn = |slots, to: u64| Tail::Torn {
        slots,
        bytes: to.saturating_sub(start),
    };
    Ok(Ahead::Nothing(if evidence.slots > 0 {
        torn(evidence.slots, evidence.slots_end)
    } else if evidence.data_end > 0 && !evidence.stale {
        torn(0, evidence.data_end)
    } else {
        Tail::Clean
    }))
}

/// Takes a header found within the window into account. It decides the matter if its slot is intact
/// and it says that what is missing at `end` was durable, or is of a later epoch.
fn weigh(
    header: &SlotHeader,
    at: u64,
    end: &Position,
    superblock: &Superblock,
    evidence: &mut Evidence,
) -> Weight {
    let geometry = &superblock.geometry;
    match chain::fits(header, at, geometry) {
        Err(ChainFault::Store) => Weight::Nothing,
        Err(_) => {
            evidence.stale = true;
            Weight::Nothing
        }
        Ok(()) if header.epoch > superblock.epoch => Weight::IfIntact,
        Ok(()) if chain::is_current(header, superblock) && header.seq >= end.seq => {
            evidence.slots += 1;
            let slot_end = at + chain::padded_len(header, geometry);
            evidence.slots_end = evidence.slots_end.max(slot_end);
            if header.durable > end.lsn {
                Weight::IfIntact
            } else {
                Weight::Nothing
            }
        }
        Ok(()) => {
            evidence.stale = true;
            Weight::Nothing
        }
    }
}

/// The same for one behind the window. A slot of this life was submitted there only when what is
/// missing at `end` was durable, whatever has become of the slot's body since.
fn weigh_far(header: &SlotHeader, at: u64, end: &Position, superblock: &Superblock) -> Weight {
    match chain::fits(header, at, &superblock.geometry) {
        Ok(()) if header.epoch > superblock.epoch => Weight::IfIntact,
        Ok(()) if chain::is_current(header, superblock) && header.seq > end.seq => Weight::Proof,
        _ => Weight::Nothing,
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words
        .iter()
        .all(|word| word.iter().fold(0, |sum, byte| sum | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

/// Whether there is a file for every address of `[first, end)`, and none missing before one that
/// lies behind: a segment gets its name when the one before it durably has one.
pub(crate) fn check_files<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    first: Lsn,
    end: Lsn,
) -> Result<(), OpenError> {
    let geometry = segments.geometry();
    let mut expected = geometry.segment_of(first.get());
    let existing = segments.existing()?;
    let needed = (first < end).then(|| geometry.segment_of(end.get() - 1));
    let Some(last) = needed
        .max(existing.last().copied())
        .filter(|last| *last >= expected)
    else {
        return Ok(());
    };
    for &segment in existing.range(expected..=last) {
        if segment != expected {
            break;
        }
        expected += 1;
    }
    if expected > last {
        return Ok(());
    }
    let lsn = first.max(Lsn::new(expected.saturating_mul(geometry.segment_bytes())));
    Err(corruption(segments, lsn, None, Damage::Missing).into())
}

/// The error for damage at an address.
pub(crate) fn corruption<B: Backend>(
    segments: &SegmentSet<B>,
    lsn: Lsn,
    slot: Option<Lsn>,
    damage: Damage,
) -> Corruption {
    let geometry = segments.geometry();
    Corruption {
        lsn,
        slot,
        file: segments.path(geometry.segment_of(lsn.get())),
        offset: lsn.get() % geometry.segment_bytes(),
        damage,
    }
}

/// What is wrong with the slot at `position`, as narrowly as can be said.
pub(crate) fn describe<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    position: &Position,
    fault: Option<SlotFault>,
) -> Result<Corruption, StreamError> {
    let slot = position.lsn;
    let (lsn, damage) = match fault {
        Some(SlotFault::Missing { at }) => (Lsn::new(at), Damage::Missing),
        Some(SlotFault::Checksum(header)) => {
            damaged_record(segments, &header)?.unwrap_or((slot, Damage::SlotChecksum))
        }
        Some(SlotFault::LaterEpoch) => (slot, Damage::LaterEpoch),
        Some(SlotFault::Header(_) | SlotFault::Chain(_)) | None => (slot, Damage::NoSlot),
    };
    Ok(corruption(segments, lsn, Some(slot), damage))
}

/// The first damaged record of a slot whose header can be relied on.
fn damaged_record<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    header: &SlotHeader,
) -> Result<Option<(Lsn, Damage)>, StreamError> {
    let seal = RecordSeal::new(segments.geometry().store_id());
    let end = header.base.get() + header.len as u64;
    let mut stream = LogStream::new(segments, header.base.get(), end);
    let mut walk = RecordWalk::new(&seal, header);
    let mut skip = crate::format::slot::HEADER_BYTES;
    loop {
        let bytes = stream.available()?;
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        walk.feed(&bytes[skip.min(len)..]);
        skip = 0;
        stream.advance(len as u64);
    }
    let (_, fault) = walk.finish();
    // Where no record can be found, the slot as a whole is what is damaged.
    Ok(fault.map(|(lsn, _)| (lsn, Damage::RecordChecksum)))
}

#[cfg(test)]
mod tests;
