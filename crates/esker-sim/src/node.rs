//! [`Node`]: a file as a disk has it: what reads see, what a power failure would leave, and what is
//! between the two.
//!
//! Invariants:
//! - N1. `seen` is `kept` with every change of `resizes`, then every write of `undurable`, in the
//!   order in which they landed, unless something was damaged on purpose.
//!   A write that changes nothing is in neither: kept or lost, it leaves the same.
//! - N2. Bytes that were made durable are not undone by older ones that were not: those are
//!   replaced in place by what superseded them.

use core::ops::Range;

use crate::content::Content;

/// The unit in which a write may be torn, in bytes.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// A write that reads see and a power failure may lose.
#[derive(Clone, Debug)]
pub(crate) struct Landed {
    /// When it landed, in the order of everything that did.
    pub(crate) number: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// A sync that should have covered it has failed: no later one does.
    pub(crate) dropped: bool,
}

impl Landed {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Replaces what `newer` has written since.
    fn supersede(&mut self, newer: &Self) {
        let (from, to) = (self.offset.max(newer.offset), self.end().min(newer.end()));
        if from < to {
            let mine = within(self.offset, from..to);
            let theirs = within(newer.offset, from..to);
            self.bytes[mine].copy_from_slice(&newer.bytes[theirs]);
        }
    }

    /// Whether it wrote the same, where it wrote any of that.
    fn agrees(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        let (from, to) = (self.offset.max(offset), self.end().min(end));
        from >= to || self.bytes[within(self.offset, from..to)] == bytes[within(offset, from..to)]
    }

    fn lies_within(&self, other: &Self) -> bool {
        self.offset >= other.offset && self.end() <= other.end()
    }
}

/// Where a range of addresses lies in memory that begins at `base`.
fn within(base: u64, range: Range<u64>) -> Range<usize> {
    let index = |at: u64| usize::try_from(at - base).expect("within memory");
    index(range.start)..index(range.end)
}

/// A change of length that a power failure may lose.
#[derive(Clone, Copy, Debug)]
struct Resize {
    number: u64,
    len: u64,
    /// A shorter file: what lay behind is gone.
    cut: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    seen: Content,
    kept: Content,
    undurable: Vec<Landed>,
    resizes: Vec<Resize>,
    /// Space that was reserved or written to, in bytes.
    pub(crate) space_bytes: u64,
    /// The open file description that has the lock.
    pub(crate) lock: Option<u64>,
    /// Open file descriptions.
    pub(crate) open: u32,
    /// Ranges that cannot be read until they are written again.
    unreadable: Vec<Range<u64>>,
}

impl Node {
    pub(crate) fn seen(&self) -> &Content {
        &self.seen
    }

    pub(crate) fn len(&self) -> u64 {
        self.seen.len()
    }

    pub(crate) fn undurable(&self) -> &[Landed] {
        &self.undurable
    }

    /// Whether the length that reads see could be lost.
    pub(crate) fn is_resized(&self) -> bool {
        !self.resizes.is_empty() && self.seen.len() != self.kept.len()
    }

    /// A write lands; it is durable at once if `durable`.
    pub(crate) fn write(&mut self, number: u64, offset: u64, bytes: &[u8], durable: bool) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        if !durable && self.is_there(offset, bytes) {
            return;
        }
        let landed = Landed {
            number,
            offset,
            bytes: bytes.to_vec(),
            dropped: false,
        };
        if end > self.seen.len() {
            self.resizes.push(Resize {
                number,
                len: end,
                cut: false,
            });
        }
        self.seen.write(offset, bytes);
        self.space_bytes = self.space_bytes.max(end);
        self.unreadable
            .retain(|range| range.end <= offset || range.start >= end);
        if durable {
            if self.resizes.iter().any(|resize| resize.cut) {
                self.sync_len(number);
            }
            self.make_durable(&landed);
            if self.seen.len() == self.kept.len() {
                self.resizes.clear();
            }
        } else {
            self.undurable.push(landed);
        }
    }

    /// Whether these bytes are what the file holds there, whatever a power failure takes.
    fn is_there(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        let is_held = |content: &Content| {
            let mut held = vec![0; bytes.len()];
            content.read(offset, &mut held);
            held == bytes
        };
        end <= self.seen.len()
            && is_held(&self.seen)
            && is_held(&self.kept)
            && !self.is_unreadable(offset, bytes.len())
            && self
                .undurable
                .iter()
                .all(|older| older.agrees(offset, bytes))
    }

    /// Takes space for a range, zeroes what it held, and extends the file to its end.
    pub(crate) fn allocate(&mut self, number: u64, offset: u64, len_bytes: u64) {
        let (former, end) = (self.seen.len(), offset + len_bytes);
        let held = usize::try_from(former.saturating_sub(offset).min(len_bytes));
        let held = held.expect("a file in memory");
        if held > 0 {
            self.write(number, offset, &vec![0; held], false);
        }
        if end > former {
            self.seen.set_len(end);
            self.resizes.push(Resize {
                number,
                len: end,
                cut: false,
            });
        }
        self.space_bytes = self.space_bytes.max(end);
    }

    pub(crate) fn truncate(&mut self, number: u64, len: u64) {
        let cut = len < self.seen.len();
        if cut {
            for landed in &mut self.undurable {
                let left = usize::try_from(len.saturating_sub(landed.offset));
                landed.bytes.truncate(left.unwrap_or(usize::MAX));
            }
            self.undurable.retain(|landed| !landed.bytes.is_empty());
            self.space_bytes = self.space_bytes.min(len);
        }
        self.seen.set_len(len);
        self.resizes.push(Resize { number, len, cut });
    }

    /// Makes durable what had landed up to `number`.
    pub(crate) fn sync(&mut self, number: u64) {
        self.sync_len(number);
        let (covered, left) = std::mem::take(&mut self.undurable)
            .into_iter()
            .partition(|landed| landed.number <= number && !landed.dropped);
        self.undurable = left;
        let covered: Vec<Landed> = covered;
        for landed in &covered {
            self.make_durable(landed);
        }
    }

    /// A sync has failed: what it should have covered is not made durable by a later one.
    pub(crate) fn drop_undurable(&mut self, number: u64) {
        for landed in &mut self.undurable {
            landed.dropped |= landed.number <= number;
        }
    }

    fn sync_len(&mut self, number: u64) {
        for resize in &self.resizes {
            if resize.number <= number && (resize.cut || resize.len > self.kept.len()) {
                self.kept.set_len(resize.len);
            }
        }
        self.resizes.retain(|resize| resize.number > number);
    }

    fn make_durable(&mut self, landed: &Landed) {
        self.kept.write(landed.offset, &landed.bytes);
        self.undurable
            .retain(|older| older.number >= landed.number || !older.lies_within(landed));
        for older in &mut self.undurable {
            if older.number < landed.number {
                older.supersede(landed);
            }
        }
    }

    /// Whether a range cannot be read.
    pub(crate) fn is_unreadable(&self, offset: u64, len: usize) -> bool {
        let end = offset.saturating_add(len as u64);
        let bad = |range: &Range<u64>| range.start < end && offset < range.end;
        self.unreadable.iter().any(bad)
    }

    pub(crate) fn make_unreadable(&mut self, range: Range<u64>) {
        self.unreadable.push(range);
    }

    /// Turns a bit, wherever it is kept.
    pub(crate) fn flip(&mut self, offset: u64, bit: u32) {
        self.seen.flip(offset, bit);
        self.kept.flip(offset, bit);
        for landed in &mut self.undurable {
            if (landed.offset..landed.end()).contains(&offset) {
                let at = within(landed.offset, offset..offset + 1).start;
                landed.bytes[at] ^= 1 << (bit % 8);
            }
        }
    }

    /// Puts bytes there behind everybody's back, durable.
    pub(crate) fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        self.seen.write(offset, bytes);
        self.kept.write(offset, bytes);
    }

    /// What a power failure leaves, before any undurable write is put back: with the length that
    /// reads see, or without. Everything in it is durable, and nobody has it open.
    pub(crate) fn after_power_failure(&self, keeps_len: bool) -> Self {
        let mut kept = self.kept.clone();
        if keeps_len {
            for resize in &self.resizes {
                if resize.cut || resize.len > kept.len() {
                    kept.set_len(resize.len);
                }
            }
        }
        Self {
            seen: kept.clone(),
            space_bytes: self.space_bytes.max(kept.len()),
            kept,
            unreadable: self.unreadable.clone(),
            ..Self::default()
        }
    }

    /// A write of before the power failure has reached the disk, in part. What lies past the file's
    /// end is nowhere.
    pub(crate) fn restore(&mut self, offset: u64, bytes: &[u8]) {
        self.seen.write_below_end(offset, bytes);
        self.kept.write_below_end(offset, bytes);
    }

    /// What the end of a process leaves: everything but the lock and the descriptions.
    pub(crate) fn after_kill(&self) -> Self {
        Self {
            lock: None,
            open: 0,
            ..self.clone()
        }
    }
}

/// The pieces of a write that reach the disk each whole or not at all, as ranges of its bytes.
pub(crate) fn sectors(offset: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        if from >= len {
            return None;
        }
        let left = SECTOR_BYTES - (offset + from as u64) % SECTOR_BYTES;
        let to = usize::try_from(left).map_or(len, |left| len.min(from + left));
        let sector = from..to;
        from = to;
        Some(sector)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(node: &Node, keeps_len: bool) -> Vec<u8> {
        let node = node.after_power_failure(keeps_len);
        let mut bytes = vec![9; usize::try_from(node.len()).expect("small")];
        node.seen.read(0, &mut bytes);
        bytes
    }

    #[test]
    fn a_sync_covers_what_had_landed_before() {
        let mut node = Node::default();
        node.write(1, 0, b"one", false);
        node.write(2, 3, b"two", false);
        node.sync(1);
        assert_eq!(left(&node, false), b"one");
        assert_eq!(left(&node, true), b"one\0\0\0");
        node.sync(2);
        assert_eq!(left(&node, false), b"onetwo");
        assert!(node.undurable().is_empty() && !node.is_resized());
    }

    #[test]
    fn a_write_that_changes_nothing_cannot_be_lost() {
        let mut node = Node::default();
        node.allocate(1, 0, 4096);
        node.write(2, 0, &[0; 512], false);
        assert!(node.undurable().is_empty());
        node.write(3, 0, b"bytes", false);
        node.write(4, 1024, b"durable", true);
        node.write(5, 1024, b"durable", false);
        assert_eq!(node.undurable().len(), 1);
        // These are what is there now, and not after a power failure; or not what is there.
        node.write(6, 0, b"bytes", false);
        node.write(7, 512, &[0; 600], false);
        node.write(8, 4000, &[0; 200], false);
        assert_eq!(node.undurable().len(), 4);
        // Whichever of the two survives, it is the same.
        node.write(9, 600, &[0; 8], false);
        node.write(10, 4100, &[0; 100], false);
        assert_eq!(node.undurable().len(), 4);
        node.write(11, 2, &[0; 8], false);
        node.write(12, 4, &[0; 4], false);
        assert_eq!(
            node.undurable().len(),
            6,
            "without the former it would be bytes"
        );
    }

    #[test]
    fn a_durable_write_covers_itself_and_is_not_undone_by_older_ones() {
        let mut node = Node::default();
        node.write(1, 0, b"aaaaaa", false);
        node.write(2, 2, b"BB", true);
        assert_eq!(left(&node, false), b"\0\0BB");
        node.sync(2);
        assert_eq!(left(&node, false), b"aaBBaa");
        node.write(3, 0, b"cc", false);
        node.write(4, 0, b"DD", true);
        assert!(node.undurable().is_empty());
        assert_eq!(left(&node, true), b"DDBBaa");
    }

    #[test]
    fn what_a_failed_sync_has_dropped_stays_undurable() {
        let mut node = Node::default();
        node.write(1, 0, b"lost", false);
        node.drop_undurable(1);
        node.write(2, 4, b"kept", false);
        node.sync(2);
        assert_eq!(left(&node, false), b"\0\0\0\0kept");
        assert_eq!(node.undurable().len(), 1);
    }

    #[test]
    fn a_cut_is_not_durable_before_a_sync_and_leaves_zeroes() {
        let mut node = Node::default();
        node.write(1, 0, b"12345678", true);
        node.truncate(2, 4);
        node.truncate(3, 8);
        assert_eq!(left(&node, false), b"12345678");
        assert_eq!(left(&node, true), b"1234\0\0\0\0");
        node.sync(3);
        assert_eq!(left(&node, false), b"1234\0\0\0\0");
    }

    #[test]
    fn a_write_is_torn_where_sectors_end() {
        let pieces: Vec<_> = sectors(1000, 1100).collect();
        assert_eq!(pieces, [0..24, 24..536, 536..1048, 1048..1100]);
        assert_eq!(sectors(512, 1024).count(), 2);
        assert_eq!(sectors(3, 0).count(), 0);
    }
}
