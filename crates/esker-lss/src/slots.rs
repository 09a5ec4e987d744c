//! Reading slots: the next one of the chain, and the records in one, checked as their bytes pass
//! by. Nothing is held in memory but what the stream holds.

use esker_io::Backend;

use crate::Lsn;
use crate::error::Damage;
use crate::format::array_at;
use crate::format::chain::{self, ChainFault};
use crate::format::record::{
    HEADER_BYTES as RECORD_HEADER_BYTES, Kind, RecordCheck, RecordHeader, RecordSeal,
};
use crate::format::slot::{HEADER_BYTES, HeaderFault, Sealed, SlotHeader};
use crate::format::superblock::Superblock;
use crate::position::Position;
use crate::stream::{LogStream, StreamError};

/// Why the log does not go on at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotFault {
    /// There is no file, or it ends, at this address.
    Missing { at: u64 },
    /// No slot begins here.
    Header(HeaderFault),
    /// One does, and does not continue the log.
    Chain(ChainFault),
    /// One does that would; its checksum does not match.
    Checksum(SlotHeader),
    /// An intact slot of an epoch that the superblock does not know of.
    LaterEpoch,
}

/// Whether a slot's body is what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Intact,
    Damaged,
    /// There is no file, or it ends, at this address.
    Missing {
        at: u64,
    },
}

/// Checks the slot at `position` and passes it. Its bytes behind the header, padding included, go
/// through `visit` piece by piece as they are read, before it is known whether they are intact.
pub(crate) fn next_slot<B: Backend>(
    stream: &mut LogStream<B>,
    position: &Position,
    superblock: &Superblock,
    visit: &mut dyn FnMut(&SlotHeader, &[u8]),
) -> Result<Result<(SlotHeader, Position), SlotFault>, StreamError> {
    let bytes = stream.available()?;
    if bytes.is_empty() {
        return Ok(Err(SlotFault::Missing {
            at: position.lsn.get(),
        }));
    }
    let sealed = match SlotHeader::decode(bytes) {
        Ok(sealed) => sealed,
        Err(fault) => return Ok(Err(SlotFault::Header(fault))),
    };
    let header = sealed.header;
    let follows = chain::follows(&header, position, superblock);
    if let Err(fault) = follows
        && fault != ChainFault::LaterEpoch
    {
        return Ok(Err(SlotFault::Chain(fault)));
    }
    let padded_len = chain::padded_len(&header, &superblock.geometry);
    let body = check_body(stream, &sealed, padded_len, &mut |bytes| {
        visit(&header, bytes)
    })?;
    Ok(match (body, follows) {
        (Body::Intact, Ok(after)) => Ok((header, after)),
        (Body::Intact, Err(_)) => Err(SlotFault::LaterEpoch),
        (Body::Damaged, _) => Err(SlotFault::Checksum(header)),
        (Body::Missing { at }, _) => Err(SlotFault::Missing { at }),
    })
}

/// Checks the body of the slot whose header the stream stands at, and passes it.
pub(crate) fn check_body<B: Backend>(
    stream: &mut LogStream<B>,
    sealed: &Sealed,
    padded_len: u64,
    visit: &mut dyn FnMut(&[u8]),
) -> Result<Body, StreamError> {
    let end = stream.position() + padded_len;
    let bytes = stream.available()?;
    if let Ok(len) = usize::try_from(padded_len)
        && len <= bytes.len()
    {
        let body = &bytes[HEADER_BYTES..len];
        visit(body);
        let intact = sealed.matches(body) || canary!("lss-slot-checksum-unchecked");
        stream.advance(padded_len);
        return Ok(if intact { Body::Intact } else { Body::Damaged });
    }
    let mut check = sealed.check();
    let mut skip = HEADER_BYTES;
    while stream.position() < end {
        let left = end - stream.position();
        let bytes = stream.available()?;
        if bytes.is_empty() {
            return Ok(Body::Missing {
                at: stream.position(),
            });
        }
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        check.update(&bytes[skip..taken]);
        visit(&bytes[skip..taken]);
        skip = 0;
        stream.advance(taken as u64);
    }
    Ok(if check.matches() {
        Body::Intact
    } else {
        Body::Damaged
    })
}

/// What the records of one slot, or of many, add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordCounts {
    pub(crate) records: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) voids: u64,
    pub(crate) void_bytes: u64,
}

/// Walks the records of one slot while its bytes pass by.
pub(crate) struct RecordWalk<'s> {
    seal: &'s RecordSeal,
    /// Where the next bytes are.
    at: u64,
    /// Where the used part of the slot ends.
    end: u64,
    /// The record that the bytes are in.
    record: Option<Under>,
    counts: RecordCounts,
    fault: Option<(Lsn, Damage)>,
    /// An address that is looked for.
    sought: Option<u64>,
    place: Place,
}

/// What is known of the address that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No intact record begins or covers it.
    Unknown,
    /// An intact record begins there.
    Start,
    /// An intact record covers it.
    Within,
}

/// A record that has begun and not ended.
struct Under {
    lsn: u64,
    /// Where its payload ends.
    payload_end: u64,
    /// Where the next record begins.
    end: u64,
    header: RecordHeader,
    /// Of a payload that is not all in one piece.
    check: Option<Box<RecordCheck>>,
}

impl Under {
    /// The room that it takes.
    fn len(&self) -> usize {
        usize::try_from(self.end - self.lsn).unwrap_or(usize::MAX)
    }
}

impl<'s> RecordWalk<'s> {
    /// The records of the slot with this header.
    pub(crate) fn new(seal: &'s RecordSeal, header: &SlotHeader) -> Self {
        let base = header.base.get();
        Self {
            seal,
            at: base + HEADER_BYTES as u64,
            end: base + header.len as u64,
            record: None,
            counts: RecordCounts::default(),
            fault: None,
            sought: None,
            place: Place::Unknown,
        }
    }

    /// The same, looking for an address.
    pub(crate) fn seeking(mut self, lsn: Lsn) -> Self {
        self.sought = Some(lsn.get());
        self
    }

    /// The next bytes, from right behind the slot's header on, in pieces that end at multiples of
    /// 8.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.at < self.end && self.fault.is_none() {
            let taken = match self.record.take() {
                None => self.begin(bytes),
                Some(record) => self.go_on(record, bytes),
            };
            bytes = &bytes[taken..];
            self.at += taken as u64;
        }
    }

    fn begin(&mut self, bytes: &[u8]) -> usize {
        let lsn = Lsn::new(self.at);
        let header = (bytes.len() >= RECORD_HEADER_BYTES)
            .then(|| RecordHeader::decode(array_at(bytes, 0)))
            .flatten()
            .filter(|header| self.at + header.encoded_len() <= self.end);
        let Some(header) = header else {
            self.fault = Some((lsn, Damage::Layout));
            return 0;
        };
        let record = Under {
            lsn: self.at,
            payload_end: self.at + RECORD_HEADER_BYTES as u64 + u64::from(header.len),
            end: self.at + header.encoded_len(),
            header,
            check: None,
        };
        let payload = match header.kind {
            // A void is judged by its header; its payload only passes by.
            Kind::Void => Some(&[][..]),
            Kind::Data => bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.len as usize),
        };
        let taken = bytes.len().min(record.len());
        match payload {
            Some(payload) if self.seal.matches(lsn, header, payload) => {
                self.pass(record, taken);
                taken
            }
            Some(_) => self.refuse(lsn),
            None => {
                let mut check = Box::new(RecordCheck::new());
                check.update(&bytes[RECORD_HEADER_BYTES..]);
                self.record = Some(Under {
                    check: Some(check),
                    ..record
                });
                bytes.len()
            }
        }
    }

    fn go_on(&mut self, mut record: Under, bytes: &[u8]) -> usize {
        let left = record.end - self.at;
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if let Some(check) = &mut record.check {
            let payload = record.payload_end.saturating_sub(self.at);
            let payload = usize::try_from(payload).map_or(taken, |len| len.min(taken));
            check.update(&bytes[..payload]);
            let lsn = Lsn::new(record.lsn);
            let is_whole = self.at + taken as u64 >= record.end;
            if is_whole && !check.matches(self.seal, lsn, record.header) {
                return self.refuse(lsn);
            }
        }
        self.pass(record, taken);
        taken
    }

    /// The record at `lsn` is not what its checksum says: nothing behind it is looked at.
    fn refuse(&mut self, lsn: Lsn) -> usize {
        self.fault = Some((lsn, Damage::RecordChecksum));
        0
    }

    /// Keeps the record if it goes on behind the bytes that were taken; else counts it.
    fn pass(&mut self, record: Under, taken: usize) {
        if self.at + (taken as u64) < record.end {
            self.record = Some(record);
            return;
        }
        match self.sought {
            Some(sought) if sought == record.lsn => self.place = Place::Start,
            Some(sought) if sought > record.lsn && sought < record.end => {
                self.place = Place::Within;
            }
            _ => {}
        }
        if record.header.kind == Kind::Void {
            self.counts.voids += 1;
            self.counts.void_bytes += record.end - record.lsn;
        } else {
            self.counts.records += 1;
            self.counts.payload_bytes += u64::from(record.header.len);
        }
    }

    /// What was found: the counts and, if the records do not fill the slot intact, the first that
    /// does not.
    pub(crate) fn finish(self) -> (RecordCounts, Option<(Lsn, Damage)>) {
        let unfinished = self.record.as_ref().map(|record| record.lsn);
        let stopped = (self.at < self.end).then_some(self.at);
        let fault = self.fault.or_else(|| {
            unfinished
                .or(stopped)
                .map(|lsn| (Lsn::new(lsn), Damage::Layout))
        });
        (self.counts, fault)
    }

    /// What is known of the address that was looked for.
    pub(crate) fn place(&self) -> Place {
        self.place
    }
}
