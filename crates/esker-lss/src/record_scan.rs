//! [`RecordScan`]: the records of a log in the order of their addresses.

use esker_io::Backend;

use crate::Lsn;
use crate::error::{Damage, ReadError};
use crate::format::array_at;
use crate::format::chain;
use crate::format::record::{HEADER_BYTES, Kind, RecordHeader};
use crate::format::slot::{self, Sealed, SlotHeader};
use crate::log::{Log, room, to_usize};
use crate::stream::LogStream;

/// A record, as it is read in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its address.
    pub lsn: Lsn,
    /// What was appended.
    pub payload: Vec<u8>,
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
/// 6 MiB of what comes next.
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
    /// As [`Log::records`].
    pub(crate) fn new(log: &Log<B>, from: Lsn, until: Lsn, end: Lsn) -> Self {
        let start = log.segments.geometry().block().floor(from.get());
        let mut stream = LogStream::new(&log.segments, start, end.get());
        stream.advance(from.get() - start);
        Self {
            log: log.clone(),
            stream,
            until,
            end,
            place: ScanPlace::Unknown,
            first: None,
            over: false,
        }
    }

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
                let geometry = self.log.segments.geometry();
                let fits = |slot: Sealed| chain::fits(&slot.header, at, geometry).is_ok();
                let boundary = block.divides(at);
                let zeroes = bytes[..HEADER_BYTES].iter().all(|&byte| byte == 0);
                if boundary && SlotHeader::decode(bytes).is_ok_and(fits) {
                    self.place = ScanPlace::Boundary;
                    return Ok(None);
                }
                // A record may hold zeroes, too.
                if !boundary && zeroes && self.log.is_padding(lsn, self.end)? {
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
            let mut copy = room(len)?;
            copy.extend_from_slice(payload);
            copy
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
        let mut payload = room(len)?;
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
