//! [`ReadMany`]: records read by address, many at a time.
//!
//! The reads of one iterator are in flight together; what they have brought is given out in the order
//! in which it was asked for. Invariants:
//! - M1. At most `depth` reads are in flight, and at most twice as many records are begun and not
//!   given out. A record whose rest is longer than 256 KiB is read when its turn has come and not
//!   before, and so is one in memory: what is held does not grow with what is asked for.
//! - M2. Whatever is not read as it should be (in memory, not there, damaged, trimmed meanwhile) is
//!   left to the way that a single record is read, which says why.
//! - M3. While the next record to be given out is in flight, something in flight is waited for.

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::sync::Arc;

use esker_buf::{AlignedBuf, AllocError};
use esker_io::{Action, Backend, Completion, Operation, ReadMemory};

use crate::Lsn;
use crate::error::ReadError;
use crate::log::{Begun, Log, Part, SECOND_READ_BYTES, Span};
use crate::sync::Mutex;

/// How many reads are in flight if nothing else is said.
const DEPTH: usize = 32;
/// The most that can be asked for.
const MAX_DEPTH: usize = 1024;

/// How long a buffer for first reads is at least: whatever their length, few are allocated.
const FIRST_BYTES: usize = 8 << 10;

/// Where the records come from.
pub(crate) trait Source<B: Backend>: Sync {
    /// The records on disk.
    fn log(&self) -> &Log<B>;

    /// If the record at `lsn` can only be on disk: up to where the log is.
    fn on_disk(&self, lsn: Lsn) -> Option<Lsn>;

    /// Where the log begins now.
    fn first(&self) -> Lsn;

    /// Reads the record at `lsn`, wherever it is, or says why it cannot be read.
    fn read_one(&self, lsn: Lsn) -> Result<Vec<u8>, ReadError>;
}

/// The records at given addresses, in the order in which those were given, each with a result of its
/// own: that of [`Store::read_many`](crate::Store::read_many) and
/// [`Reader::read_many`](crate::Reader::read_many).
///
/// Each step allocates the record, and blocks while its read is in flight. Nothing is read before the
/// first step; from then on up to [`depth`](Self::depth) reads are in flight, all from the thread that
/// iterates, and at most twice as many records are held, the longest of them 260 KiB. It goes on after
/// an error: that is one record's. Dropping it waits for nothing.
#[must_use = "nothing is read before it is iterated over"]
pub struct ReadMany<'s, B: Backend> {
    source: &'s dyn Source<B>,
    lsns: &'s [Lsn],
    depth: usize,
    /// How many addresses have been given out.
    given: usize,
    /// Those behind them that have been begun.
    window: VecDeque<Entry>,
    /// Second reads that are to be submitted. They count as in flight.
    again: Vec<Operation<B::File>>,
    in_flight: usize,
    arrived: Arrived,
    /// Buffers for first reads.
    spare: Vec<AlignedBuf>,
}

/// Reads that have ended, each with the index of its address.
type Arrived = Arc<Mutex<Vec<(usize, Completion)>>>;

/// The first read of a record, and how far it has come with that.
type Begin<B> = (Operation<<B as Backend>::File>, Entry);

/// How far a record has come.
enum Entry {
    /// Its first bytes are in flight: from `start` on, of a log that goes up to `end`.
    First { start: u64, end: Lsn },
    /// The rest is in flight, from `start` on.
    Rest { part: Part, start: u64 },
    /// This is what it came to.
    Ended(Result<Vec<u8>, ReadError>),
    /// It is to be read on its own, when its turn has come.
    Alone,
}

impl<'s, B: Backend> ReadMany<'s, B> {
    pub(crate) fn new(source: &'s dyn Source<B>, lsns: &'s [Lsn]) -> Self {
        Self {
            source,
            lsns,
            depth: DEPTH,
            given: 0,
            window: VecDeque::new(),
            again: Vec::new(),
            in_flight: 0,
            arrived: Arrived::default(),
            spare: Vec::new(),
        }
    }

    /// How many reads are in flight at most: at least 1, at most 1024; 32 if this is not called.
    pub fn depth(mut self, reads: usize) -> Self {
        self.depth = reads.clamp(1, MAX_DEPTH);
        self
    }

    /// How many completions are waited for at a time, so that reads are submitted together.
    fn gather(&self) -> usize {
        self.depth.div_ceil(4)
    }

    /// Deals with the reads that have ended.
    fn take_arrived(&mut self) {
        let mut arrived = std::mem::take(&mut *self.arrived.lock());
        for (index, completion) in arrived.drain(..) {
            self.in_flight -= 1;
            let place = index - self.given;
            let Some(entry) = self.window.get_mut(place) else {
                continue;
            };
            let before = std::mem::replace(entry, Entry::Alone);
            let after = self.go_on(index, before, completion);
            if let Some(entry) = self.window.get_mut(place) {
                *entry = after;
            }
        }
        // The memory is used again, unless something has arrived meanwhile.
        let mut queue = self.arrived.lock();
        if queue.is_empty() {
            *queue = arrived;
        }
    }

    /// What becomes of a record whose read has ended.
    fn go_on(&mut self, index: usize, entry: Entry, completion: Completion) -> Entry {
        let lsn = self.lsns[index];
        let Completion { result, memory } = completion;
        let buf = memory.into_inner::<AlignedBuf>();
        let (read, buf) = match (result, buf) {
            (Ok(read), Ok(buf)) => (read, buf),
            (Err(error), _) => return Entry::Ended(Err(error.into())),
            // Not what was submitted: this backend breaks its contract.
            (Ok(_), Err(_)) => return Entry::Alone,
        };
        let bytes = buf.get(..read).unwrap_or(&[]);
        match entry {
            Entry::First { start, end } => {
                let begun = self.source.log().begin(lsn, end, start, bytes);
                self.spare.push(buf);
                match begun {
                    Ok(Begun::Whole(payload)) => Entry::Ended(Ok(payload)),
                    Ok(Begun::Part(part)) => self.read_rest(index, part, end),
                    Ok(Begun::Nothing) => Entry::Alone,
                    Err(error) => Entry::Ended(Err(error)),
                }
            }
            Entry::Rest { mut part, start } => {
                part.take_from(start, bytes);
                let whole = (part.missing() == 0).then(|| self.source.log().finish(part));
                match whole.flatten() {
                    Some(payload) => Entry::Ended(Ok(payload)),
                    None => Entry::Alone,
                }
            }
            Entry::Ended(_) | Entry::Alone => entry,
        }
    }

    /// Starts the read of a record's rest, if it is short and in the same file.
    fn read_rest(&mut self, index: usize, part: Part, end: Lsn) -> Entry {
        let log = self.source.log();
        let missing = part.missing() as u64;
        let span = match log.span(part.next(), missing, end) {
            Ok(Some(span)) if missing <= SECOND_READ_BYTES => span,
            Ok(_) => return Entry::Alone,
            Err(error) => return Entry::Ended(Err(error.into())),
        };
        let start = span.start;
        if start + (span.len as u64) < part.next() + missing {
            return Entry::Alone;
        }
        match log.buffer(span.len) {
            Ok(buf) => {
                let operation = self.operation(index, span, ReadMemory::new(buf));
                self.again.push(operation);
                self.in_flight += 1;
                Entry::Rest { part, start }
            }
            Err(error) => Entry::Ended(Err(error.into())),
        }
    }

    fn operation(
        &self,
        index: usize,
        span: Span<B::File>,
        memory: ReadMemory,
    ) -> Operation<B::File> {
        let arrived = Arc::clone(&self.arrived);
        let action = Action::Read {
            offset: span.offset,
            memory,
        };
        Operation::new(span.file, action, move |completion| {
            arrived.lock().push((index, completion));
        })
    }

    /// Begins as many records as there is room for, unless there are so few that it is better to wait
    /// for more.
    fn issue(&mut self) {
        let mut batch = std::mem::take(&mut self.again);
        if self.in_flight + self.gather() <= self.depth {
            while self.in_flight < self.depth && self.window.len() < 2 * self.depth {
                let index = self.given + self.window.len();
                let Some(&lsn) = self.lsns.get(index) else {
                    break;
                };
                let entry = match self.first_read(index, lsn) {
                    Ok(Some((operation, entry))) => {
                        batch.push(operation);
                        self.in_flight += 1;
                        entry
                    }
                    Ok(None) => Entry::Alone,
                    Err(error) => Entry::Ended(Err(error)),
                };
                self.window.push_back(entry);
            }
        }
        if !batch.is_empty() {
            self.source.log().segments.backend().submit(batch);
        }
    }

    /// The first read of a record; `None` if it is not to be read from disk, or cannot be there.
    fn first_read(&mut self, index: usize, lsn: Lsn) -> Result<Option<Begin<B>>, ReadError> {
        let Some(end) = self.source.on_disk(lsn) else {
            return Ok(None);
        };
        let Some(span) = self.source.log().first_span(lsn, end)? else {
            return Ok(None);
        };
        let buf = self.buffer(span.len)?;
        let Ok(memory) = ReadMemory::slice(buf, 0..span.len) else {
            return Ok(None);
        };
        let start = span.start;
        let operation = self.operation(index, span, memory);
        Ok(Some((operation, Entry::First { start, end })))
    }

    /// A buffer for a first read of `len` bytes.
    fn buffer(&mut self, len: usize) -> Result<AlignedBuf, AllocError> {
        if let Some(buf) = self.spare.pop().filter(|buf| buf.len() >= len) {
            return Ok(buf);
        }
        self.source.log().buffer(len.max(FIRST_BYTES))
    }

    /// Waits until enough reads have ended.
    fn wait(&self) {
        let enough = self.gather().min(self.in_flight);
        let arrived = &self.arrived;
        let backend = self.source.log().segments.backend();
        backend.wait_until(&mut || arrived.lock().len() >= enough, None);
    }
}

impl<B: Backend> Iterator for ReadMany<'_, B> {
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let lsn = *self.lsns.get(self.given)?;
        let entry = loop {
            self.take_arrived();
            self.issue();
            match self.window.front() {
                Some(Entry::First { .. } | Entry::Rest { .. }) => self.wait(),
                _ => break self.window.pop_front(),
            }
        };
        self.given += 1;
        let result = match entry {
            Some(Entry::Ended(result)) => result,
            _ => return Some(self.source.read_one(lsn)),
        };
        // A segment that was trimmed while it was being read is not damaged.
        let first = self.source.first();
        Some(if lsn < first {
            Err(ReadError::Trimmed { lsn, first })
        } else {
            result
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.lsns.len() - self.given;
        (left, Some(left))
    }
}

impl<B: Backend> ExactSizeIterator for ReadMany<'_, B> {}
impl<B: Backend> FusedIterator for ReadMany<'_, B> {}
