//! The sizes and the identity of a store whose superblock is lost, from its slots.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use esker_io::{Backend, FileOptions};

use super::bytes::LogBytes;
use super::survey::Budget;
use crate::Lsn;
use crate::error::OpenError;
use crate::format::slot::{HEADER_BYTES, Sealed, SlotHeader};
use crate::geometry::{
    BLOCK_BYTES, Geometry, MAX_RECORD_BYTES, MAX_WINDOW_BYTES, SEGMENT_BYTES, Sizes,
};
use crate::segments::{SegmentName, SegmentSet};

/// The smallest block: every slot begins at a multiple of it.
const STRIDE: u64 = BLOCK_BYTES.0;

/// What the intact slots of one identity agree on.
#[derive(Default)]
struct Votes {
    slots: u64,
    /// The blocks to which all of them could have been padded.
    blocks: Vec<u64>,
}

/// The geometry of the store in `dir`; `None` when it has no intact slot. The limits that only the
/// superblock names are as wide as any store's.
pub(super) fn geometry<B: Backend>(
    backend: &Arc<B>,
    dir: &Path,
) -> Result<Option<Geometry>, OpenError> {
    let mut segments = Vec::new();
    let mut longest = 0;
    for name in backend.list(dir)? {
        let Some(SegmentName::Segment(segment)) = SegmentName::parse(&name) else {
            continue;
        };
        // One that cannot be opened says nothing.
        let file = backend.open(&dir.join(&name), &FileOptions::read());
        if let Ok(facts) = file.and_then(|file| backend.facts(&file)) {
            longest = facts.len_bytes.max(longest);
            segments.push(segment);
        }
    }
    segments.sort_unstable();
    let of_files = longest
        .min(SEGMENT_BYTES.1)
        .next_power_of_two()
        .max(SEGMENT_BYTES.0);
    let provisional = |segment_bytes| {
        let geometry = widest(0, STRIDE, segment_bytes)?;
        Some(Arc::new(SegmentSet::open_to_read(backend, dir, geometry)))
    };
    let Some(set) = provisional(of_files) else {
        return Ok(None);
    };
    let segment_bytes = segment_bytes(&set, &segments)?.unwrap_or(of_files);
    let Some(set) = provisional(segment_bytes) else {
        return Ok(None);
    };
    let votes = votes(&set, &segments)?;
    let most = votes.into_iter().max_by_key(|(_, votes)| votes.slots);
    Ok(most.and_then(|(store_id, votes)| {
        // The widest: with a narrower one, a slot that is yet to be seen might not fit.
        let block = votes.blocks.last().copied().unwrap_or(STRIDE);
        widest(store_id, block, segment_bytes)
    }))
}

/// A geometry with the widest limits.
fn widest(store_id: u64, block: u64, segment_bytes: u64) -> Option<Geometry> {
    let sizes = Sizes {
        block_bytes: u32::try_from(block).ok()?,
        segment_bytes,
        max_record_bytes: MAX_RECORD_BYTES,
        window_slots: 1,
        window_bytes: MAX_WINDOW_BYTES,
    };
    Geometry::new(store_id, &sizes).ok()
}

/// Shows every header, intact or not, with its segment and its offset there. What `visit` returns
/// is how far to go on.
fn headers<B: Backend>(
    set: &Arc<SegmentSet<B>>,
    segments: &[u64],
    mut visit: impl FnMut(&mut LogBytes<B>, u64, u64, &Sealed) -> Result<u64, OpenError>,
) -> Result<(), OpenError> {
    let segment_bytes = set.geometry().segment_bytes();
    let mut bytes = LogBytes::new(set);
    for &segment in segments {
        let end = segment
            .checked_add(1)
            .and_then(|next| next.checked_mul(segment_bytes));
        if end.is_none_or(|end| end > Lsn::LIMIT.get()) {
            continue;
        }
        let mut offset = 0;
        while offset < segment_bytes {
            let decoded = SlotHeader::decode(bytes.from(segment * segment_bytes + offset)?);
            offset += match decoded {
                Ok(sealed) => visit(&mut bytes, segment, offset, &sealed)?.max(STRIDE),
                Err(_) => STRIDE,
            };
        }
    }
    Ok(())
}

/// The length of a segment, by how far the addresses that headers name are from their offsets.
fn segment_bytes<B: Backend>(
    set: &Arc<SegmentSet<B>>,
    segments: &[u64],
) -> Result<Option<u64>, OpenError> {
    let mut votes: BTreeMap<u64, u64> = BTreeMap::new();
    headers(set, segments, |_, segment, offset, sealed| {
        let start = sealed.header.base.get().checked_sub(offset);
        if let Some(start) = start
            && segment > 0
            && start % segment == 0
        {
            *votes.entry(start / segment).or_default() += 1;
        }
        Ok(STRIDE)
    })?;
    let possible = votes.into_iter().filter(|(bytes, _)| {
        bytes.is_power_of_two() && (SEGMENT_BYTES.0..=SEGMENT_BYTES.1).contains(bytes)
    });
    Ok(possible
        .max_by_key(|(_, votes)| *votes)
        .map(|(bytes, _)| bytes))
}

/// What the intact slots agree on, by the store's identity.
fn votes<B: Backend>(
    set: &Arc<SegmentSet<B>>,
    segments: &[u64],
) -> Result<BTreeMap<u64, Votes>, OpenError> {
    let segment_bytes = set.geometry().segment_bytes();
    let mut all: BTreeMap<u64, Votes> = BTreeMap::new();
    let mut budget = Budget::for_records(segments.len() as u64 * segment_bytes);
    headers(set, segments, |bytes, segment, offset, sealed| {
        let at = segment * segment_bytes + offset;
        let header = sealed.header;
        if header.base.get() != at || header.len < HEADER_BYTES {
            return Ok(STRIDE);
        }
        let mut blocks = Vec::new();
        let mut end = 0;
        let possible = (BLOCK_BYTES.0.ilog2()..=BLOCK_BYTES.1.ilog2()).map(|bits| 1_u64 << bits);
        for block in possible.filter(|block| at.is_multiple_of(*block)) {
            let padded_len = (header.len as u64).next_multiple_of(block);
            if end == at + padded_len {
                blocks.push(block);
                continue;
            }
            if !budget.allows(padded_len) || at + padded_len > Lsn::LIMIT.get() {
                continue;
            }
            let mut check = sealed.check();
            let is_there =
                bytes.pieces(at + HEADER_BYTES as u64, at + padded_len, &mut |piece| {
                    check.update(piece);
                })?;
            if is_there && check.matches() {
                end = at + padded_len;
                blocks.push(block);
            } else {
                budget.spend(padded_len);
            }
        }
        if blocks.is_empty() {
            return Ok(STRIDE);
        }
        let votes = all.entry(header.store_id).or_default();
        votes.slots += 1;
        if votes.slots == 1 {
            votes.blocks = blocks;
        } else if votes.blocks.iter().any(|block| blocks.contains(block)) {
            votes.blocks.retain(|block| blocks.contains(block));
        }
        Ok(end - at)
    })?;
    Ok(all)
}
