//! What recovery keeps and nothing proves durable is written once more before it counts.
//!
//! A sync that has failed may leave behind what reads still serve and no later sync makes durable:
//! where writes go through the page cache, Linux takes the pages that it could not write for clean. So
//! that the slots behind the proven prefix are there, intact, and that a sync succeeds, does not make
//! them durable. Written again they are like any other write, and the next sync covers them.
//!
//! Invariants:
//! - W1. What is written is what was read, and its checksum matched, in the same walk: what the page
//!   cache forgets meanwhile is not made up for with what the disk has in its place.
//! - W2. Nothing below the proven prefix is written, and nothing is written otherwise than it was. A
//!   crash that tears the write tears it into the same bytes, where they were durable.

use std::sync::Arc;

use esker_buf::{AlignedBuf, Alignment};
use esker_io::{Action, Backend, Durability};

use crate::Lsn;
use crate::error::OpenError;
use crate::format::chain;
use crate::format::slot::{HEADER_BYTES, SlotHeader};
use crate::format::superblock::Superblock;
use crate::log::to_usize;
use crate::position::Position;
use crate::recovery::{Recovered, Visitor, conclude, walk};
use crate::segments::SegmentSet;

/// Writes the slots of a log that nothing proves durable again, not yet durable, and says what there
/// is now: less, if something could be read before and cannot be now.
pub(crate) fn rewrite<B: Backend>(
    segments: &Arc<SegmentSet<B>>,
    superblock: &Superblock,
    recovered: Recovered,
) -> Result<Recovered, OpenError> {
    let proven = recovered.durable;
    if proven >= recovered.end.lsn || canary!("lss-recovery-without-rewrite") {
        return Ok(recovered);
    }
    let boundaries = recovered.boundaries.values().rev();
    let from = boundaries
        .copied()
        .find(|boundary| boundary.lsn <= proven)
        .unwrap_or(superblock.checkpoint);
    let mut rewriter = Rewriter {
        segments,
        proven,
        slot: None,
        failure: None,
    };
    let mut again = walk(segments, superblock, from, &mut rewriter)?;
    if let Some(failure) = rewriter.failure {
        return Err(failure);
    }
    if again.end == recovered.end {
        return Ok(recovered);
    }
    let mut boundaries = recovered.boundaries;
    boundaries.append(&mut again.boundaries);
    boundaries.retain(|_, boundary| boundary.lsn <= again.end.lsn);
    again.boundaries = boundaries;
    conclude(segments, superblock, again)
}

/// Takes a slot in, and writes it when it has turned out to be intact.
struct Rewriter<'s, B: Backend> {
    segments: &'s SegmentSet<B>,
    /// Slots that begin below are durable.
    proven: Lsn,
    /// The slot that is being read, without its header, and how much of it has been.
    slot: Option<(AlignedBuf, usize)>,
    failure: Option<OpenError>,
}

impl<B: Backend> Rewriter<'_, B> {
    fn take(&mut self, header: &SlotHeader, bytes: &[u8]) -> Result<(), OpenError> {
        let (mut slot, filled) = match self.slot.take() {
            Some(slot) => slot,
            None => {
                let geometry = self.segments.geometry();
                let len = to_usize(chain::padded_len(header, geometry));
                let alignment = geometry.block().max(Alignment::BLOCK);
                (AlignedBuf::zeroed(len, alignment)?, HEADER_BYTES)
            }
        };
        let end = filled + bytes.len();
        if let Some(room) = slot.get_mut(filled..end) {
            room.copy_from_slice(bytes);
        }
        self.slot = Some((slot, end));
        Ok(())
    }

    fn write(&mut self, header: &SlotHeader) -> Result<(), OpenError> {
        let Some((mut slot, _)) = self.slot.take() else {
            return Ok(());
        };
        let (head, rest) = slot.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header.encode(rest));
        let slot = Arc::new(slot);
        for piece in self.segments.pieces(header.base, slot.len())? {
            let action = Action::Write {
                offset: piece.offset,
                memory: piece.memory(&slot),
                durability: Durability::Written,
            };
            self.segments
                .backend()
                .execute(&piece.file, action)
                .result?;
        }
        Ok(())
    }
}

impl<B: Backend> Visitor for Rewriter<'_, B> {
    fn bytes(&mut self, header: &SlotHeader, bytes: &[u8]) {
        if header.base >= self.proven
            && self.failure.is_none()
            && let Err(error) = self.take(header, bytes)
        {
            self.failure = Some(error);
        }
    }

    fn intact(&mut self, header: &SlotHeader, _: &Position) -> bool {
        if self.failure.is_none()
            && let Err(error) = self.write(header)
        {
            self.failure = Some(error);
        }
        self.failure.is_none()
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use std::time::Duration;

    use esker_io::Blocking;

    use super::*;
    use crate::recovery::{Tail, recover};
    use crate::testing::LogBuilder;

    /// Five slots, of which the first two are proven to be durable.
    fn log() -> LogBuilder {
        let mut log = LogBuilder::new();
        for len in [10, 1000, 3000, 0, 5000] {
            log.slot(len, 2);
        }
        log
    }

    fn segments(log: &LogBuilder) -> Arc<SegmentSet<Blocking>> {
        let backend = Arc::new(Blocking::new());
        let geometry = log.superblock.geometry;
        let set =
            SegmentSet::open_to_write(&backend, log.path(), geometry, Lsn::ZERO, Duration::ZERO);
        Arc::new(set.expect("nobody else has it"))
    }

    #[test]
    fn what_is_written_again_is_what_was_there() {
        let log = log();
        let (segments, len) = (segments(&log), to_usize(log.at.lsn.get()));
        let before = log.read(0, len);
        let found = recover(&segments, &log.superblock).expect("intact");
        assert_eq!(found.durable, log.slots[2].lsn);
        let kept = rewrite(&segments, &log.superblock, found.clone()).expect("intact");
        assert_eq!(kept, found);
        assert!(log.read(0, len) == before);
    }

    /// A page cache forgets what it could not write, and the disk has something else in its place.
    #[test]
    fn what_cannot_be_read_again_is_not_kept() {
        for forgotten in [4, 3, 2, 1] {
            let log = log();
            let segments = segments(&log);
            let found = recover(&segments, &log.superblock).expect("intact");
            assert_eq!(found.end, log.at);
            let slot = log.slots[forgotten].lsn;
            log.flip(slot.get() + 60);
            let kept = rewrite(&segments, &log.superblock, found);
            if slot >= log.slots[2].lsn {
                let kept = kept.expect("nothing proves that it was durable");
                assert_eq!(kept.end.lsn, slot);
                assert!(matches!(kept.tail, Tail::Torn { .. }), "{kept:?}");
            } else {
                let error = kept.expect_err("it was durable");
                assert!(
                    matches!(&error, OpenError::Corrupt(damage) if damage.lsn == slot),
                    "{error:?}"
                );
            }
        }
    }
}
