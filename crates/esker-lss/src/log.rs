//! [`Log`]: records read back from the segments, one by address or many in order.
//!
//! Every record that is returned has its own checksum checked, which covers its address and the
//! store's identity. Slots' checksums are not needed for that; they decide, when a record is not
//! what it should be, whether the address is wrong or the disk is.

use std::sync::Arc;

use esker_buf::{AlignedBuf, Alignment};
use esker_io::{Backend, BackendExt, IoError};

use crate::Lsn;
use crate::error::{Damage, ReadError};
use crate::format::array_at;
use crate::format::chain;
use crate::format::record::{HEADER_BYTES, Kind, RecordHeader, RecordSeal};
use crate::format::slot::{self, Sealed, SlotHeader};
use crate::position::Position;
use crate::recovery::corruption;
use crate::segments::SegmentSet;
use crate::slots::{Body, Place, RecordWalk, check_body};
use crate::stream::LogStream;

/// The first read of a record that is read by its address.
const FIRST_READ_BYTES: u64 = 4096;
/// A record whose rest is no longer than this is read by one more call, a longer one by several
/// reads in flight.
const SECOND_READ_BYTES: u64 = 256 << 10;
/// How far to go back at a time in search of the slot that holds an address.
const SEARCH_BYTES: u64 = 1 << 20;
/// How many damaged slots may claim an address before the search for an intact one is given up.
const CLAIMS: u32 = 16;

/// A record, as it is read in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its address.
    pub lsn: Lsn,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// The records in the segments of one store.
pub(crate) struct Log<B: Backend> {
    segments: Arc<SegmentSet<B>>,
    seal: RecordSeal,
}

impl<B: Backend> Clone for Log<B> {
    fn clone(&self) -> Self {
        Self {
            segments: Arc::clone(&self.segments),
            seal: self.seal,
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
        let start = self.segments.geometry().block().floor(from.get());
        let mut stream = LogStream::new(&self.segments, start, end.get());
        stream.advance(from.get() - start);
        RecordScan {
            log: self.clone(),
            stream,
            until,
            end,
            place: ScanPlace::Unknown,
            first: None,
            over: false,
        }
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

    fn damage(&self, lsn: Lsn, damage: Damage) -> ReadError {
        corruption(&self.segments, lsn, None, damage).into()
    }

    /// The payload of the data record at `lsn`; `None` if there is none that is intact.
    fn try_read(&self, lsn: Lsn, end: Lsn) -> Result<Option<Vec<u8>>, ReadError> {
        if !lsn.get().is_multiple_of(HEADER_BYTES as u64) {
            return Ok(None);
        }
        let geometry = self.segments.geometry();
        let end = geometry.block().ceil(end.get()).unwrap_or(end.get());
        let unit = geometry.block().max(Alignment::BLOCK);
        let start = unit.floor(lsn.get());
        let Some(buf) = self.read_in_file(start, FIRST_READ_BYTES.max(unit.bytes() as u64), end)?
        else {
            return Ok(None);
        };
        let bytes = buf.get(to_usize(lsn.get() - start)..).unwrap_or(&[]);
        let header = (bytes.len() >= HEADER_BYTES)
            .then(|| RecordHeader::decode(array_at(bytes, 0)))
            .flatten()
            .filter(|header| self.is_possible(lsn, *header, end));
        let Some(header) = header.filter(|header| header.kind == Kind::Data) else {
            return Ok(None);
        };
        let len = header.len as usize;
        let here = &bytes[HEADER_BYTES..bytes.len().min(HEADER_BYTES + len)];
        let mut payload = Vec::with_capacity(len);
        payload.extend_from_slice(here);
        let rest_start = start + buf.len() as u64;
        if payload.len() < len && !self.read_rest(rest_start, len, end, &mut payload)? {
            return Ok(None);
        }
        let matches = self.seal.matches(lsn, header, &payload);
        Ok(matches.then_some(payload))
    }

    /// Whether a record with this header can be at `lsn`, before its checksum is known: what it
    /// makes one allocate and read is bounded.
    fn is_possible(&self, lsn: Lsn, header: RecordHeader, end: u64) -> bool {
        let fits = lsn
            .get()
            .checked_add(header.encoded_len())
            .is_some_and(|to| to <= end);
        let geometry = self.segments.geometry();
        fits && (header.kind == Kind::Void || u64::from(header.len) <= geometry.max_record_bytes())
    }

    /// Appends what comes from `start` on, a multiple of the block, to `payload` until that is
    /// `len` long; `false` where there is no file.
    fn read_rest(
        &self,
        start: u64,
        len: usize,
        end: u64,
        payload: &mut Vec<u8>,
    ) -> Result<bool, ReadError> {
        let missing = (len - payload.len()) as u64;
        let block = self.segments.geometry().block();
        let mut at = start;
        if missing <= SECOND_READ_BYTES {
            let missing = block.ceil(missing).unwrap_or(missing);
            if let Some(buf) = self.read_in_file(start, missing, end)? {
                let taken = buf.len().min(len - payload.len());
                payload.extend_from_slice(&buf[..taken]);
                at = start + buf.len() as u64;
            }
        }
        let left = |payload: &Vec<u8>| len - payload.len();
        let mut stream = LogStream::new(&self.segments, at, at + left(payload) as u64);
        while left(payload) > 0 {
            let bytes = stream.available()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let taken = bytes.len().min(left(payload));
            payload.extend_from_slice(&bytes[..taken]);
            stream.advance(taken as u64);
        }
        Ok(true)
    }

    /// At most `len` bytes at `start`, both multiples of the block, in one read, up to the end of
    /// the file or `end`; `None` where there is nothing.
    fn read_in_file(
        &self,
        start: u64,
        len: u64,
        end: u64,
    ) -> Result<Option<AlignedBuf>, ReadError> {
        let geometry = self.segments.geometry();
        let offset = start % geometry.segment_bytes();
        let len = len
            .min(geometry.segment_bytes() - offset)
            .min(end.saturating_sub(start));
        let Some(file) = self.segments.file(geometry.segment_of(start))? else {
            return Ok(None);
        };
        let alignment = geometry.block().max(Alignment::BLOCK);
        let buf = AlignedBuf::zeroed(to_usize(len), alignment)?;
        let (read, buf) = self
            .segments
            .backend()
            .read_at(&file, offset, buf)
            .map_err(IoError::from)?;
        // A file that has been cut short is damage, which the search for the slot finds.
        Ok((read == buf.len() && read > 0).then_some(buf))
    }

    /// Why no record could be read at `lsn`: none begins there, or it is damaged.
    fn explain(&self, lsn: Lsn, end: Lsn) -> Result<ReadError, ReadError> {
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
                if let Some(answer) = self.ask_slot(&sealed, padded_len, lsn)? {
                    return Ok(answer);
                }
                claims -= 1;
                if claims == 0 {
                    return Ok(self.damage(lsn, Damage::NoSlot));
                }
            }
            to = from;
        }
        let segment = geometry.segment_of(lsn.get());
        Ok(self.damage(
            lsn,
            if self.segments.file(segment)?.is_none() {
                Damage::Missing
            } else {
                Damage::NoSlot
            },
        ))
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
fn to_usize(len: u64) -> usize {
    len as usize
}

/// Where in its slot a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanPlace {
    /// At a record of a slot whose header has not been seen, or at a slot.
    Unknown,
    /// Where a slot must begin.
    Boundary,
    /// In a slot whose used part ends there.
    Slot { end: u64 },
}

/// Records in the order of their addresses, read ahead. Voids are skipped.
///
/// An iterator that ends after its first error. Blocks while it waits for the disk. Holds up to
/// 10 MiB of what comes next.
pub(crate) struct RecordScan<B: Backend> {
    log: Log<B>,
    stream: LogStream<B>,
    until: Lsn,
    end: Lsn,
    place: ScanPlace,
    /// Where the log begins now: below, what is not there is no damage.
    first: Option<FirstNow>,
    over: bool,
}

/// Says where a log that may be trimmed meanwhile begins.
type FirstNow = Box<dyn Fn() -> Lsn + Send + Sync>;

impl<B: Backend> RecordScan<B> {
    /// Asks `first` where the log begins when something is not there: what has been trimmed
    /// meanwhile is reported as that.
    pub(crate) fn with_first(mut self, first: impl Fn() -> Lsn + Send + Sync + 'static) -> Self {
        self.first = Some(Box::new(first));
        self
    }

    /// The address of what comes next: a later scan may begin there.
    pub(crate) fn next_lsn(&self) -> Lsn {
        Lsn::new(self.stream.position())
    }

    /// The next record; `None` at the end.
    fn advance(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            let at = self.stream.position();
            if at > self.end.get() {
                let lsn = Lsn::new(at);
                return Err(ReadError::BeyondEnd { lsn, end: self.end });
            }
            if at >= self.end.get() || at >= self.until.get() {
                return Ok(None);
            }
            match self.place {
                ScanPlace::Boundary => self.enter_slot()?,
                ScanPlace::Slot { end } if at >= end => self.leave_slot()?,
                ScanPlace::Unknown | ScanPlace::Slot { .. } => {
                    if let Some(record) = self.next_in_slot()? {
                        return Ok(Some(record));
                    }
                }
            }
        }
    }

    fn enter_slot(&mut self) -> Result<(), ReadError> {
        let at = self.stream.position();
        let geometry = *self.log.segments.geometry();
        let bytes = self.stream.available()?;
        let header = (bytes.len() >= slot::HEADER_BYTES)
            .then(|| SlotHeader::decode(bytes).ok())
            .flatten()
            .map(|sealed| sealed.header)
            .filter(|header| chain::fits(header, at, &geometry).is_ok())
            .filter(|header| at + chain::padded_len(header, &geometry) <= self.end.get());
        let Some(header) = header else {
            let missing = bytes.is_empty();
            let damage = if missing {
                Damage::Missing
            } else {
                Damage::NoSlot
            };
            return Err(self.log.damage(Lsn::new(at), damage));
        };
        self.stream.advance(slot::HEADER_BYTES as u64);
        self.place = ScanPlace::Slot {
            end: at + header.len as u64,
        };
        Ok(())
    }

    /// Passes the padding behind a slot's used part, which is zeroes: if it is not, the header's
    /// length is wrong, and records would be missed.
    fn leave_slot(&mut self) -> Result<(), ReadError> {
        let at = self.stream.position();
        let block = self.log.segments.geometry().block();
        let next = block.ceil(at).unwrap_or(at);
        if next > at {
            let len = to_usize(next - at);
            let bytes = self.stream.available()?;
            if !bytes
                .get(..len)
                .is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
            {
                return Err(self.failure(at));
            }
            self.stream.advance(next - at);
        }
        self.place = ScanPlace::Boundary;
        Ok(())
    }

    /// The record at the position; `None` if that was a void, or no record, and has been passed.
    fn next_in_slot(&mut self) -> Result<Option<Record>, ReadError> {
        let at = self.stream.position();
        let lsn = Lsn::new(at);
        if !at.is_multiple_of(HEADER_BYTES as u64) {
            return Err(self.failure(at));
        }
        let slot_end = match self.place {
            ScanPlace::Slot { end } => end,
            _ => self.end.get(),
        };
        let block = self.log.segments.geometry().block();
        let bytes = self.stream.available()?;
        let header = (bytes.len() >= HEADER_BYTES)
            .then(|| RecordHeader::decode(array_at(bytes, 0)))
            .flatten();
        let Some(header) = header.filter(|header| self.log.is_possible(lsn, *header, slot_end))
        else {
            if self.place == ScanPlace::Unknown && header.is_none() && !bytes.is_empty() {
                // At a slot's beginning, or at the padding behind the last record of one.
                let boundary = block.divides(at);
                let padding = bytes[..HEADER_BYTES].iter().all(|&byte| byte == 0);
                if boundary && SlotHeader::decode(bytes).is_ok() {
                    self.place = ScanPlace::Boundary;
                    return Ok(None);
                }
                if !boundary && padding {
                    self.place = ScanPlace::Slot { end: at };
                    return Ok(None);
                }
            }
            return Err(self.failure(at));
        };
        if header.kind == Kind::Void {
            if !self.log.seal.matches(lsn, header, &[]) {
                return Err(self.failure(at));
            }
            self.stream.advance(header.encoded_len());
            return Ok(None);
        }
        let len = header.len as usize;
        let whole = HEADER_BYTES + len;
        let payload = if let Some(payload) = bytes.get(HEADER_BYTES..whole) {
            payload.to_vec()
        } else {
            self.stream.advance(HEADER_BYTES as u64);
            self.gather(at, len)?
        };
        if !self.log.seal.matches(lsn, header, &payload) {
            return Err(self.failure(at));
        }
        let passed = self.stream.position() - at;
        self.stream.advance(header.encoded_len() - passed);
        Ok(Some(Record { lsn, payload }))
    }

    /// A payload that lies in more than one chunk.
    fn gather(&mut self, record: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let mut payload = Vec::with_capacity(len);
        while payload.len() < len {
            let bytes = self.stream.available()?;
            if bytes.is_empty() {
                return Err(self.failure(record));
            }
            let taken = bytes.len().min(len - payload.len());
            payload.extend_from_slice(&bytes[..taken]);
            self.stream.advance(taken as u64);
        }
        Ok(payload)
    }

    /// The error for a record that should be at `at` and is not.
    fn failure(&self, at: u64) -> ReadError {
        let lsn = Lsn::new(at);
        let known = self.place != ScanPlace::Unknown;
        match self.log.explain(lsn, self.end) {
            // The slots say that something has to be there.
            Ok(ReadError::NotARecord { .. }) if known => self.log.damage(lsn, Damage::Layout),
            Ok(error) | Err(error) => error,
        }
    }
}

impl<B: Backend> Iterator for RecordScan<B> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let lsn = self.next_lsn();
        match self.advance() {
            Ok(record) => record.map(Ok),
            Err(error) => {
                self.over = true;
                let first = self.first.as_ref().map_or(Lsn::ZERO, |first| first());
                let trimmed = lsn < first;
                Some(Err(if trimmed {
                    ReadError::Trimmed { lsn, first }
                } else {
                    error
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use esker_io::Blocking;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{BLOCK, LogBuilder, Part, SEGMENT};

    fn log_of(log: &LogBuilder) -> Log<Blocking> {
        Log::new(&log.segments())
    }

    fn scanned(log: &LogBuilder, from: Lsn) -> Result<Vec<(Lsn, Vec<u8>)>, ReadError> {
        log_of(log)
            .records(from, Lsn::LIMIT, log.at.lsn)
            .map(|record| record.map(|record| (record.lsn, record.payload)))
            .collect()
    }

    /// Records of many sizes, voids between them, and slots across segments' ends.
    fn mixed() -> LogBuilder {
        let mut log = LogBuilder::new();
        for fill in 0..12u8 {
            let round = usize::from(fill);
            let big = vec![fill; 1 + round * 1300];
            log.slot_of(&[
                Part::Data(b"small"),
                Part::Void(8 + 8 * round),
                Part::Data(&big),
                Part::Data(b""),
            ]);
            log.slot(400, 1);
            log.slot_of(&[Part::Void(1200)]);
        }
        assert!(log.at.lsn.get() > SEGMENT);
        log
    }

    #[test]
    fn every_record_is_read_by_its_address() {
        let log = mixed();
        let read = log_of(&log);
        for (lsn, payload) in &log.records {
            assert_eq!(
                read.read_record(*lsn, log.at.lsn).as_ref().ok(),
                Some(payload)
            );
        }
    }

    #[test]
    fn a_scan_from_any_record_or_slot_gives_what_follows_in_order() {
        let log = mixed();
        assert_eq!(scanned(&log, Lsn::ZERO).expect("intact"), log.records);
        for (index, (lsn, _)) in log.records.iter().enumerate() {
            assert_eq!(scanned(&log, *lsn).expect("intact"), log.records[index..]);
        }
        for slot in &log.slots {
            let index = log.records.partition_point(|(lsn, _)| *lsn < slot.lsn);
            assert_eq!(
                scanned(&log, slot.lsn).expect("intact"),
                log.records[index..]
            );
        }
        assert_eq!(scanned(&log, log.at.lsn).expect("empty"), []);
        let scan = log_of(&log).records(Lsn::ZERO, log.records[5].0, log.at.lsn);
        assert_eq!(scan.count(), 5);
    }

    #[test]
    fn addresses_where_no_record_begins_are_told_from_damage() {
        let log = mixed();
        let read = log_of(&log);
        let starts: Vec<_> = log.records.iter().map(|(lsn, _)| *lsn).collect();
        for lsn in (0..8192).map(Lsn::new).filter(|lsn| !starts.contains(lsn)) {
            let result = read.read_record(lsn, log.at.lsn);
            assert!(
                matches!(result, Err(ReadError::NotARecord { .. })),
                "{lsn}: {result:?}"
            );
        }
        for lsn in [log.at.lsn, Lsn::new(u64::MAX)] {
            let result = read.read_record(lsn, log.at.lsn);
            assert!(matches!(result, Err(ReadError::BeyondEnd { .. })));
        }
    }

    #[test]
    fn a_damaged_record_is_named_by_reads_and_scans() {
        let log = mixed();
        let (lsn, payload) = &log.records[7];
        log.flip(lsn.get() + 8 + payload.len() as u64 / 2);
        let Err(ReadError::Corrupt(damage)) = log_of(&log).read_record(*lsn, log.at.lsn) else {
            panic!("it is damaged");
        };
        assert_eq!((damage.lsn, damage.damage), (*lsn, Damage::RecordChecksum));
        assert_eq!(
            (damage.file, damage.offset),
            (log.segment_path(0), lsn.get())
        );
        let mut scan = log_of(&log).records(Lsn::ZERO, Lsn::LIMIT, log.at.lsn);
        assert_eq!(scan.by_ref().take_while(Result::is_ok).count(), 7);
        assert!(scan.next().is_none(), "a scan ends after its first error");
    }

    #[test]
    fn a_missing_file_is_damage() {
        let log = mixed();
        let last = log.records.last().expect("records").0;
        fs::remove_file(log.segment_path(1)).expect("removed");
        let result = log_of(&log).read_record(last, log.at.lsn);
        assert!(matches!(result, Err(ReadError::Corrupt(_))), "{result:?}");
        assert!(matches!(
            scanned(&log, Lsn::ZERO),
            Err(ReadError::Corrupt(_))
        ));
    }

    #[test]
    fn a_boundary_is_found_at_or_below_an_address() {
        let log = mixed();
        let read = log_of(&log);
        for target in (0..log.at.lsn.get()).step_by(700) {
            let expected = log
                .slots
                .iter()
                .rfind(|slot| slot.lsn.get() <= target)
                .expect("one");
            let found = read
                .boundary_before(Position::START, Lsn::new(target))
                .expect("intact");
            assert_eq!(
                (found.lsn, found.seq),
                (expected.lsn, expected.seq),
                "{target}"
            );
        }
        let found = read
            .boundary_before(Position::START, log.at.lsn)
            .expect("intact");
        assert_eq!(found, log.at);
    }

    /// A header that claims to be shorter would hide the records behind.
    #[test]
    fn a_slot_that_claims_to_end_early_hides_no_record() {
        let mut log = LogBuilder::new();
        log.slot_of(&[Part::Data(b"one"), Part::Data(b"two")]);
        log.slot(10, 1);
        log.write(slot::LEN_AT as u64, &80u32.to_le_bytes());
        let mut scan = log_of(&log).records(Lsn::ZERO, Lsn::LIMIT, log.at.lsn);
        assert_eq!(
            scan.next()
                .and_then(Result::ok)
                .map(|record| record.payload),
            Some(b"one".into())
        );
        assert!(matches!(scan.next(), Some(Err(ReadError::Corrupt(_)))));
    }

    #[test]
    fn every_flipped_byte_is_noticed_or_changes_no_record() {
        let mut log = LogBuilder::new();
        log.slot_of(&[Part::Data(b"one"), Part::Void(40), Part::Data(&[3; 700])]);
        log.slot(600, 1);
        for at in 0..log.at.lsn.get() {
            log.flip(at);
            for (lsn, payload) in &log.records {
                match log_of(&log).read_record(*lsn, log.at.lsn) {
                    Ok(read) => assert_eq!(read, *payload, "byte {at}"),
                    Err(ReadError::Corrupt(_)) => {}
                    Err(other) => panic!("byte {at}: {other}"),
                }
            }
            match scanned(&log, Lsn::ZERO) {
                Ok(records) => assert_eq!(records, log.records, "byte {at}"),
                Err(ReadError::Corrupt(_)) => {}
                Err(other) => panic!("byte {at}: {other}"),
            }
            log.flip(at);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn no_content_makes_reading_panic_or_return_what_was_not_written(
            writes in proptest::collection::vec(
                (0u64..9000, proptest::collection::vec(any::<u8>(), 1..100)), 1..6
            ),
            probes in proptest::collection::vec(0u64..9000, 1..10),
            word: u32,
        ) {
            let mut log = LogBuilder::new();
            log.slot(100, 1).slot(3000, 1).slot_of(&[Part::Data(b"a"), Part::Void(400)]);
            log.slot(5000, 1);
            for (at, bytes) in &writes {
                log.write(*at, bytes);
            }
            // The header of a record of any length.
            log.write(4096 + BLOCK, &word.to_le_bytes());
            let read = log_of(&log);
            let written = |lsn: Lsn, payload: &[u8]| {
                log.records.iter().any(|(at, bytes)| *at == lsn && bytes == payload)
            };
            for probe in probes {
                if let Ok(payload) = read.read_record(Lsn::new(probe), log.at.lsn) {
                    prop_assert!(written(Lsn::new(probe), &payload));
                }
                let from = Lsn::new(probe / 8 * 8);
                for record in read.records(from, Lsn::LIMIT, log.at.lsn).flatten() {
                    prop_assert!(written(record.lsn, &record.payload));
                }
            }
        }
    }
}
