//! [`Log`]: records read back from the segments by their addresses.
//!
//! Every record that is returned has its own checksum checked, which covers its address and the
//! store's identity. Slots' checksums are not needed for that; they decide, when a record is not
//! what it should be, whether the address is wrong or the disk is.

use std::sync::Arc;

use esker_buf::{AlignedBuf, Alignment, AllocError};
use esker_io::{Backend, BackendExt, IoError};

use crate::Lsn;
use crate::error::{Damage, ReadError};
use crate::format::array_at;
use crate::format::chain;
use crate::format::record::{HEADER_BYTES, Kind, RecordHeader, RecordSeal};
use crate::format::slot::{self, Sealed, SlotHeader};
use crate::position::Position;
use crate::record_scan::RecordScan;
use crate::recovery::corruption;
use crate::segments::{Readable, SegmentSet};
use crate::slots::{Body, Place, RecordWalk, check_body};
use crate::stream::LogStream;
use crate::sync::{AtomicUsize, Ordering};

/// The longest record that the first read is made long enough for.
const EXPECTED_BYTES: usize = 4096;
/// A record whose rest is no longer than this is read by one more call, a longer one by several
/// reads in flight.
pub(crate) const SECOND_READ_BYTES: u64 = 256 << 10;
/// How far to go back at a time in search of the slot that holds an address.
const SEARCH_BYTES: u64 = 1 << 20;
/// How many damaged slots may claim an address before the search for an intact one is given up.
const CLAIMS: u32 = 16;

/// The records in the segments of one store.
pub(crate) struct Log<B: Backend> {
    pub(crate) segments: Arc<SegmentSet<B>>,
    pub(crate) seal: RecordSeal,
    lengths: Arc<Lengths>,
}

/// How long the records that were read by address have been of late, as far as the first read can
/// take that into account. A hint: where it is wrong, a block is read in vain or a second read needed.
#[derive(Default)]
struct Lengths(AtomicUsize);

/// A part of a segment file that is to be read.
pub(crate) struct Span<F> {
    pub(crate) file: F,
    /// The address at which it begins.
    pub(crate) start: u64,
    /// Where in the file that is, in bytes.
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// What the first bytes of a record have shown.
pub(crate) enum Begun {
    /// It is whole and intact.
    Whole(Vec<u8>),
    /// There is more to read.
    Part(Part),
    /// No intact data record begins there.
    Nothing,
}

/// The beginning of a record.
pub(crate) struct Part {
    lsn: Lsn,
    header: RecordHeader,
    payload: Vec<u8>,
}

impl Part {
    /// How many bytes are missing.
    pub(crate) fn missing(&self) -> usize {
        self.header.len as usize - self.payload.len()
    }

    /// Where they begin.
    pub(crate) fn next(&self) -> u64 {
        self.lsn.get() + (HEADER_BYTES + self.payload.len()) as u64
    }

    /// Takes as many of the bytes that come next as are missing, of `bytes`, which begin at address
    /// `start`, at or before them.
    pub(crate) fn take_from(&mut self, start: u64, bytes: &[u8]) {
        let before = self.next().saturating_sub(start);
        self.take(bytes.get(to_usize(before)..).unwrap_or(&[]));
    }

    /// Takes as many of the bytes that come next as are missing.
    fn take(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(self.missing());
        self.payload.extend_from_slice(&bytes[..taken]);
    }
}

impl<B: Backend> Clone for Log<B> {
    fn clone(&self) -> Self {
        Self {
            segments: Arc::clone(&self.segments),
            seal: self.seal,
            lengths: Arc::clone(&self.lengths),
        }
    }
}

impl<B: Backend> Log<B> {
    /// The log in `segments`.
    pub(crate) fn new(segments: &Arc<SegmentSet<B>>) -> Self {
        let seal = RecordSeal::new(segments.geometry().store_id());
        Self {
            segments: Arc::clone(segments),
            seal,
            lengths: Arc::default(),
        }
    }

    /// Reads the record at `lsn` of a log that has been written up to `end`, a slot's boundary.
    /// Blocks.
    ///
    /// What lies below the first address that is not trimmed is the caller's to know.
    pub(crate) fn read_record(&self, lsn: Lsn, end: Lsn) -> Result<Vec<u8>, ReadError> {
        if lsn >= end {
            return Err(ReadError::BeyondEnd { lsn, end });
        }
        match self.try_read(lsn, end)? {
            Some(payload) => Ok(payload),
            None => Err(self.explain(lsn, end)?),
        }
    }

    /// The records from `from` on whose addresses are below `until`, of a log that has been written
    /// up to `end`, a slot's boundary. `from` is a record's address, a slot's, or `end`.
    pub(crate) fn records(&self, from: Lsn, until: Lsn, end: Lsn) -> RecordScan<B> {
        RecordScan::new(self, from, until, end)
    }

    /// The last slot boundary at or below `target`, found by following the chain from `from`, a
    /// boundary at or below it. Reads what lies between.
    pub(crate) fn boundary_before(
        &self,
        from: Position,
        target: Lsn,
    ) -> Result<Position, ReadError> {
        let geometry = self.segments.geometry();
        let mut boundary = from;
        let mut stream = LogStream::new(&self.segments, from.lsn.get(), target.get());
        while boundary.lsn < target {
            let at = boundary.lsn.get();
            let bytes = stream.available()?;
            let header =
                match SlotHeader::decode(bytes.get(..slot::HEADER_BYTES).unwrap_or(&[0; 64])) {
                    Ok(sealed) => sealed.header,
                    Err(_) => return Err(self.damage(boundary.lsn, Damage::NoSlot)),
                };
            if chain::fits(&header, at, geometry).is_err() || header.seq != boundary.seq {
                return Err(self.damage(boundary.lsn, Damage::NoSlot));
            }
            let padded_len = chain::padded_len(&header, geometry);
            if at + padded_len > target.get() {
                break;
            }
            stream.advance(padded_len);
            boundary = Position {
                lsn: Lsn::new(at + padded_len),
                seq: boundary.seq.saturating_add(1),
                epoch: header.epoch,
                epoch_start: header.epoch_start,
            };
        }
        Ok(boundary)
    }

    pub(crate) fn damage(&self, lsn: Lsn, damage: Damage) -> ReadError {
        corruption(&self.segments, lsn, None, damage).into()
    }

    /// The payload of the data record at `lsn`; `None` if there is none that is intact.
    fn try_read(&self, lsn: Lsn, end: Lsn) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(span) = self.first_span(lsn, end)? else {
            return Ok(None);
        };
        let start = span.start;
        let Some(buf) = self.read_span(span)? else {
            return Ok(None);
        };
        match self.begin(lsn, end, start, &buf)? {
            Begun::Whole(payload) => Ok(Some(payload)),
            Begun::Nothing => Ok(None),
            Begun::Part(mut part) => {
                let is_there = self.read_rest(&mut part, end)?;
                Ok(if is_there { self.finish(part) } else { None })
            }
        }
    }

    /// What to read first of the record at `lsn`: the rest of the 4 KiB in which it begins, which cost
    /// a device as much as a part of them, and the sectors behind them that it takes if it is as long
    /// as those that were read of late. So nearly every record up to [`EXPECTED_BYTES`] takes one
    /// read. `None` where no record can begin, or there is no file.
    pub(crate) fn first_span(&self, lsn: Lsn, end: Lsn) -> Result<Option<Span<B::File>>, IoError> {
        if !lsn.get().is_multiple_of(HEADER_BYTES as u64) {
            return Ok(None);
        }
        // Relaxed: a hint.
        let expected = HEADER_BYTES + self.lengths.0.load(Ordering::Relaxed);
        let block_end = Alignment::BLOCK.floor(lsn.get()) + Alignment::BLOCK.bytes() as u64;
        let len = (expected as u64).max(block_end - lsn.get());
        self.span(lsn.get(), len, end)
    }

    /// The sectors that hold `len` bytes at `from`, up to the end of the file or of the log; `None`
    /// where there is nothing.
    pub(crate) fn span(
        &self,
        from: u64,
        len: u64,
        end: Lsn,
    ) -> Result<Option<Span<B::File>>, IoError> {
        let geometry = self.segments.geometry();
        let Some(Readable { file, unit }) = self.segments.readable(geometry.segment_of(from))?
        else {
            return Ok(None);
        };
        // Both ends are multiples of the block, and so of the unit.
        let log_end = geometry.block().ceil(end.get()).unwrap_or(end.get());
        let start = unit.floor(from);
        let offset = start % geometry.segment_bytes();
        let file_end = start.saturating_add(geometry.segment_bytes() - offset);
        let to = from.saturating_add(len);
        let to = unit.ceil(to).unwrap_or(to).min(file_end).min(log_end);
        Ok((to > start).then(|| Span {
            file,
            start,
            offset,
            len: to_usize(to - start),
        }))
    }

    /// A buffer to read a span of `len` bytes into.
    pub(crate) fn buffer(&self, len: usize) -> Result<AlignedBuf, AllocError> {
        // No file asks for more than the block.
        AlignedBuf::zeroed(len, self.segments.geometry().block().max(Alignment::BLOCK))
    }

    /// What `bytes`, read from `start` on, say of the record at `lsn` of a log that has been written
    /// up to `end`.
    pub(crate) fn begin(
        &self,
        lsn: Lsn,
        end: Lsn,
        start: u64,
        bytes: &[u8],
    ) -> Result<Begun, ReadError> {
        let block = self.segments.geometry().block();
        let end = block.ceil(end.get()).unwrap_or(end.get());
        let bytes = bytes.get(to_usize(lsn.get() - start)..).unwrap_or(&[]);
        let header = (bytes.len() >= HEADER_BYTES)
            .then(|| RecordHeader::decode(array_at(bytes, 0)))
            .flatten()
            .filter(|header| self.is_possible(lsn, *header, end));
        let Some(header) = header.filter(|header| header.kind == Kind::Data) else {
            return Ok(Begun::Nothing);
        };
        let payload = room(header.len as usize)?;
        let mut part = Part {
            lsn,
            header,
            payload,
        };
        part.take(&bytes[HEADER_BYTES..]);
        self.learn(header.len as usize);
        if part.missing() > 0 {
            return Ok(Begun::Part(part));
        }
        Ok(self.finish(part).map_or(Begun::Nothing, Begun::Whole))
    }

    /// The record, if its checksum matches.
    pub(crate) fn finish(&self, part: Part) -> Option<Vec<u8>> {
        let Part {
            lsn,
            header,
            payload,
        } = part;
        self.seal.matches(lsn, header, &payload).then_some(payload)
    }

    /// Expects records of this length: at once if it is longer than what was expected, little by
    /// little if it is shorter. The longest need a second read in any case and say nothing.
    fn learn(&self, len: usize) {
        // Relaxed, both: a hint.
        let expected = self.lengths.0.load(Ordering::Relaxed);
        let next = if len >= expected {
            len
        } else {
            expected - (expected - len).div_ceil(16)
        };
        if len <= EXPECTED_BYTES && next != expected {
            self.lengths.0.store(next, Ordering::Relaxed);
        }
    }

    /// Whether a record with this header can be at `lsn`, before its checksum is known: what it
    /// makes one allocate and read is bounded.
    pub(crate) fn is_possible(&self, lsn: Lsn, header: RecordHeader, end: u64) -> bool {
        if canary!("lss-length-before-checksum") {
            return true;
        }
        let fits = lsn
            .get()
            .checked_add(header.encoded_len())
            .is_some_and(|to| to <= end);
        let geometry = self.segments.geometry();
        fits && (header.kind == Kind::Void || u64::from(header.len) <= geometry.max_record_bytes())
    }

    /// Reads what is missing of a record; `false` where there is no file.
    fn read_rest(&self, part: &mut Part, end: Lsn) -> Result<bool, ReadError> {
        let missing = part.missing() as u64;
        if missing <= SECOND_READ_BYTES
            && let Some(span) = self.span(part.next(), missing, end)?
        {
            let start = span.start;
            if let Some(buf) = self.read_span(span)? {
                part.take_from(start, &buf);
            }
        }
        if part.missing() == 0 {
            return Ok(true);
        }
        let start = self.segments.geometry().block().floor(part.next());
        let limit = part.next() + part.missing() as u64;
        let mut stream = LogStream::new(&self.segments, start, limit);
        while part.missing() > 0 {
            let at = stream.position();
            let bytes = stream.available()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            part.take_from(at, bytes);
            let read = bytes.len() as u64;
            stream.advance(read);
        }
        Ok(true)
    }

    /// Reads a span; `None` if its file ends within it.
    fn read_span(&self, span: Span<B::File>) -> Result<Option<AlignedBuf>, ReadError> {
        let buf = self.buffer(span.len)?;
        let (read, buf) = self
            .segments
            .backend()
            .read_at(&span.file, span.offset, buf)
            .map_err(IoError::from)?;
        // A file that has been cut short is damage, which the search for the slot finds.
        Ok((read == buf.len()).then_some(buf))
    }

    /// Why no record could be read at `lsn`: none begins there, or it is damaged.
    pub(crate) fn explain(&self, lsn: Lsn, end: Lsn) -> Result<ReadError, ReadError> {
        let answer = self.ask_claims(lsn, end, |sealed, padded_len| {
            self.ask_slot(sealed, padded_len, lsn)
        })?;
        if let Some(answer) = answer {
            return Ok(answer);
        }
        let segment = self.segments.geometry().segment_of(lsn.get());
        Ok(self.damage(
            lsn,
            if self.segments.file(segment)?.is_none() {
                Damage::Missing
            } else {
                Damage::NoSlot
            },
        ))
    }

    /// Whether `lsn` lies behind the last record of its slot, by the slot's header.
    pub(crate) fn is_padding(&self, lsn: Lsn, end: Lsn) -> Result<bool, ReadError> {
        let behind = self.ask_claims(lsn, end, |sealed, _| {
            let header = &sealed.header;
            Ok(Some(lsn.get() >= header.base.get() + header.len as u64))
        })?;
        Ok(behind == Some(true))
    }

    /// Asks the headers that claim to be of a slot over `lsn`, with their slots' lengths, the last
    /// first, until one has an answer.
    fn ask_claims<T>(
        &self,
        lsn: Lsn,
        end: Lsn,
        mut ask: impl FnMut(&Sealed, u64) -> Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let geometry = *self.segments.geometry();
        let block = geometry.block().bytes() as u64;
        let lowest = geometry
            .block()
            .floor(lsn.get().saturating_sub(geometry.max_slot_bytes()));
        let mut to = geometry.block().floor(lsn.get()) + block;
        let mut claims = CLAIMS;
        while to > lowest {
            let from = to.saturating_sub(SEARCH_BYTES).max(lowest);
            for (at, sealed) in self.headers(from, to)?.into_iter().rev() {
                let padded_len = chain::padded_len(&sealed.header, &geometry);
                if at + padded_len <= lsn.get() || at + padded_len > end.get() {
                    continue;
                }
                if let Some(answer) = ask(&sealed, padded_len)? {
                    return Ok(Some(answer));
                }
                claims -= 1;
                if claims == 0 {
                    return Ok(None);
                }
            }
            to = from;
        }
        Ok(None)
    }

    /// The slot headers at their own addresses in `[from, to)`.
    fn headers(&self, from: u64, to: u64) -> Result<Vec<(u64, Sealed)>, ReadError> {
        let geometry = self.segments.geometry();
        let block = geometry.block().bytes();
        let mut headers = Vec::new();
        let mut at = from;
        while at < to {
            // A stream for each segment: one that is missing hides no other.
            let segment_end =
                (geometry.segment_of(at) + 1).saturating_mul(geometry.segment_bytes());
            let piece_end = to.min(segment_end);
            let mut stream = LogStream::new(&self.segments, at, piece_end);
            loop {
                let at = stream.position();
                let bytes = stream.available()?;
                if bytes.is_empty() {
                    break;
                }
                for (index, bytes) in bytes.chunks(block).enumerate() {
                    let at = at + (index * block) as u64;
                    if let Ok(sealed) = SlotHeader::decode(bytes)
                        && chain::fits(&sealed.header, at, geometry).is_ok()
                    {
                        headers.push((at, sealed));
                    }
                }
                let len = bytes.len() as u64;
                stream.advance(len);
            }
            at = piece_end;
        }
        Ok(headers)
    }

    /// What the slot with this header, which covers `lsn`, says of it; nothing if it is damaged and
    /// none of its intact records says something.
    fn ask_slot(
        &self,
        sealed: &Sealed,
        padded_len: u64,
        lsn: Lsn,
    ) -> Result<Option<ReadError>, ReadError> {
        let base = sealed.header.base;
        let mut stream = LogStream::new(&self.segments, base.get(), base.get() + padded_len);
        let mut walk = RecordWalk::new(&self.seal, &sealed.header).seeking(lsn);
        let body = check_body(&mut stream, sealed, padded_len, &mut |bytes| {
            walk.feed(bytes)
        })?;
        let place = walk.place();
        let (_, fault) = walk.finish();
        let damaged =
            |lsn, damage| Some(corruption(&self.segments, lsn, Some(base), damage).into());
        Ok(match (body, place, fault) {
            // A void, or bytes within a record, or the padding behind them.
            (_, Place::Start | Place::Within, _) | (Body::Intact, _, None) => {
                Some(ReadError::NotARecord { lsn })
            }
            (Body::Intact, _, Some((record, damage))) => damaged(record, damage),
            (Body::Damaged, _, Some((record, _))) if record <= lsn => {
                damaged(record, Damage::RecordChecksum)
            }
            // Its records end before the address, or the damage comes behind it.
            (Body::Damaged, ..) => damaged(lsn, Damage::SlotChecksum),
            (Body::Missing { at }, ..) => damaged(Lsn::new(at), Damage::Missing),
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "callers pass lengths of buffers"
)]
pub(crate) fn to_usize(len: u64) -> usize {
    len as usize
}

/// Memory for a record.
pub(crate) fn room(len: usize) -> Result<Vec<u8>, AllocError> {
    let mut payload = Vec::new();
    payload.try_reserve_exact(len).map_err(|_| AllocError {
        len_bytes: len,
        alignment: Alignment::ONE,
    })?;
    Ok(payload)
}

#[cfg(test)]
mod tests;
