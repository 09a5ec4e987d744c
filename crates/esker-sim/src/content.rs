//! [`Content`]: the bytes of a file, sparse, and cheap to copy until one of the copies is written.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::sync::Arc;

const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// A length, and the bytes below it; those that were never written are zeroes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

/// Where a range lies in one page.
struct Part {
    page: u64,
    /// Where in the page it begins.
    at: usize,
    /// Where in the range it begins.
    from: usize,
    len: usize,
}

fn parts(offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut from = 0;
    std::iter::from_fn(move || {
        if from == len {
            return None;
        }
        let here = offset + from as u64;
        #[expect(clippy::cast_possible_truncation, reason = "less than a page")]
        let at = (here % PAGE_BYTES as u64) as usize;
        let part = Part {
            page: here / PAGE_BYTES as u64,
            at,
            from,
            len: (len - from).min(PAGE_BYTES - at),
        };
        from += part.len;
        Some(part)
    })
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `into` from `offset` on and says how much of it lay below the end; the rest is left.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let left = self.len.saturating_sub(offset);
        let len = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        for part in parts(offset, len) {
            let target = &mut into[part.from..part.from + part.len];
            match self.pages.get(&part.page) {
                Some(page) => target.copy_from_slice(&page[part.at..part.at + part.len]),
                None => target.fill(0),
            }
        }
        len
    }

    /// The first pages from `offset` on, as far as they lie there and below the end, that hold nothing
    /// but zeroes that nothing else was written over.
    pub(crate) fn first_hole(&self, offset: u64) -> Option<Range<u64>> {
        let mut page = offset / PAGE_BYTES as u64;
        let mut there = self.pages.range(page..).map(|(there, _)| *there);
        let next = loop {
            match there.next() {
                Some(next) if next == page => page += 1,
                next => break next,
            }
        };
        let begin = |page: u64| page.saturating_mul(PAGE_BYTES as u64);
        let start = offset.max(begin(page));
        let end = next.map_or(self.len, begin).min(self.len);
        (start < end).then_some(start..end)
    }

    /// Puts bytes at an offset, and extends the file to their end.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        for part in parts(offset, bytes.len()) {
            let source = &bytes[part.from..part.from + part.len];
            // A page that is not there reads as zeroes.
            if !self.pages.contains_key(&part.page) && source.iter().all(|&byte| byte == 0) {
                continue;
            }
            let page = self
                .pages
                .entry(part.page)
                .or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[part.at..part.at + part.len].copy_from_slice(source);
        }
    }

    /// Puts only those of the bytes that lie below the end.
    pub(crate) fn write_below_end(&mut self, offset: u64, bytes: &[u8]) {
        let left = self.len.saturating_sub(offset);
        let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.write(offset, &bytes[..len]);
    }

    /// Cuts the file, or extends it with zeroes.
    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let page = len / PAGE_BYTES as u64;
            let _cut = self.pages.split_off(&(page + 1));
            #[expect(clippy::cast_possible_truncation, reason = "less than a page")]
            let kept = (len % PAGE_BYTES as u64) as usize;
            if let Some(page) = self.pages.get_mut(&page) {
                Arc::make_mut(page)[kept..].fill(0);
            }
        }
        self.len = len;
    }

    /// Turns one bit of one byte below the end.
    pub(crate) fn flip(&mut self, offset: u64, bit: u32) {
        let mut byte = [0];
        if self.read(offset, &mut byte) == 1 {
            self.write(offset, &[byte[0] ^ (1 << (bit % 8))]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content) -> Vec<u8> {
        let mut bytes = vec![9; usize::try_from(content.len()).expect("small")];
        assert_eq!(content.read(0, &mut bytes), bytes.len());
        bytes
    }

    #[test]
    fn it_is_what_a_vector_would_be() {
        let mut dice = crate::Dice::new(1);
        let (mut content, mut model) = (Content::default(), Vec::new());
        for round in 0..500_u64 {
            let offset = dice.index(20_000);
            if dice.chance(1, 10) {
                content.set_len(offset as u64);
                model.resize(offset, 0);
            } else {
                let fill = u8::try_from(round % 200).expect("small");
                let new = vec![fill; 1 + dice.index(9000)];
                content.write(offset as u64, &new);
                model.resize(model.len().max(offset + new.len()), 0);
                model[offset..offset + new.len()].copy_from_slice(&new);
            }
            assert!(bytes(&content) == model, "round {round}");
        }
    }

    #[test]
    fn a_hole_is_the_first_page_that_was_not_written() {
        let mut content = Content::default();
        assert_eq!(content.first_hole(0), None);
        content.set_len(20_000);
        content.write(0, &[1; 5000]);
        content.write(12_288, &[1; 1]);
        for (from, hole) in [
            (0, Some(8192..12_288)),
            (4096, Some(8192..12_288)),
            (9000, Some(9000..12_288)),
            (13_000, Some(16_384..20_000)),
            (19_999, Some(19_999..20_000)),
            (20_000, None),
            (u64::MAX, None),
        ] {
            assert_eq!(content.first_hole(from), hole, "from {from}");
        }
    }

    #[test]
    fn a_copy_does_not_change_with_the_original() {
        let mut one = Content::default();
        one.write(100, b"before");
        let other = one.clone();
        one.write(100, b"after!");
        one.flip(0, 3);
        assert_eq!(&bytes(&other)[100..], b"before");
        assert_eq!((bytes(&one)[0], &bytes(&one)[100..]), (8, &b"after!"[..]));
    }
}
