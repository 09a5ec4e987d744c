//! [`Follower`]: the records of a growing log, as they become durable.
//!
//! It has no waiting of its own: a thread waits at the backend for the durable prefix to pass what it
//! has seen, as a commit does, and a task leaves its waker in a list of [`Tasks`] that whoever moves
//! the prefix looks at. Nobody is asked to commit for it.
//!
//! Invariants:
//! - F1. Every record that it gives out is below the durable end at that moment. So none of them is
//!   ever taken back, by a crash or by a failed write.
//! - F2. It gives out every record from where it began on, in the order of addresses, each once.
//! - F3. While it waits, `next` is the durable end as it saw it last, which is a slot's boundary: the
//!   next scan may begin there. It is woken when the prefix has passed it, or never will.
//! - F4. What comes from memory ([`Fresh`](crate::fresh::Fresh)) is what the disk would give: whole
//!   slots, each looked for only when the durable prefix has passed it and it begins at `next`. A
//!   record of one whose checksum does not match is looked for on the disk.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use esker_io::Backend;

use crate::Lsn;
use crate::core::Core;
use crate::error::ReadError;
use crate::format::record::{self, Kind, RecordSeal};
use crate::format::slot::HEADER_BYTES;
use crate::fresh::Slot;
use crate::log::room;
use crate::record_scan::{Record, RecordScan};
use crate::sync::Ordering;
use crate::tasks::Place;

/// The records of a log from some address on, each as soon as it is durable: what
/// [`Store::follow`](crate::Store::follow) and [`Store::follow_new`](crate::Store::follow_new) return.
///
/// As an iterator it waits for the next record in this thread, for as long as it takes, and ends after
/// the first error; [`next_timeout`](Self::next_timeout), [`try_next`](Self::try_next) and
/// [`poll_next`](Self::poll_next) wait for some time, not at all, or as a task does. Waiting costs
/// nothing, and asks nobody to commit: a record comes when its writer, or somebody else, has made it
/// durable. Each step allocates the record. What has been written of late in slots of up to 64 KiB comes
/// from memory, so that a commit is seen without a read of the device; anything else from the disk, with
/// read-ahead where there is more of it. A follower holds up to 6 MiB of what comes next, and next to
/// nothing while it waits; all of a store's together hold up to 1 MiB of what was written.
pub struct Follower<'s, B: Backend> {
    core: &'s Arc<Core<B>>,
    /// What is durable and has not been given out.
    records: Option<Records<B>>,
    /// Where what comes after that begins.
    next: Lsn,
    /// Records below are left out.
    from: Lsn,
    /// Where this task's waker is.
    place: Option<Place>,
    over: bool,
}

/// Where records come from.
enum Records<B: Backend> {
    Disk(RecordScan<B>),
    Memory(SlotRecords),
}

impl<B: Backend> Records<B> {
    /// The next one; `None` at the end.
    fn next(&mut self, core: &Arc<Core<B>>) -> Option<Result<Record, ReadError>> {
        let damaged = match self {
            Self::Disk(records) => return records.next(),
            Self::Memory(slot) => match slot.next(&core.checksums) {
                Ok(record) => return record.map(Ok),
                Err(Unreadable { lsn }) => (lsn, slot.slot.end),
            },
        };
        let (lsn, end) = damaged;
        let mut records = on_disk(core, lsn, Lsn::new(end));
        let next = records.next();
        *self = Self::Disk(records);
        next
    }

    /// Where the next one is, or the end.
    fn next_lsn(&self) -> Lsn {
        match self {
            Self::Disk(records) => records.next_lsn(),
            Self::Memory(slot) => slot.next_lsn(),
        }
    }
}

/// What is durable from `from` up to `end`, read from the disk.
fn on_disk<B: Backend>(core: &Arc<Core<B>>, from: Lsn, end: Lsn) -> RecordScan<B> {
    let first = Arc::clone(&core.first);
    // Acquire: pairs with the release in `trim_before`.
    let first_now = move || Lsn::new(first.load(Ordering::Acquire));
    core.log.records(from, end, end).with_first(first_now)
}

/// The records of a slot in memory.
struct SlotRecords {
    slot: Slot,
    /// How much of it has been given out.
    done: usize,
}

/// The record there cannot be had from memory: the disk is asked for it, and says why if it cannot be
/// had from there either.
#[derive(Debug)]
struct Unreadable {
    lsn: Lsn,
}

impl SlotRecords {
    fn new(slot: Slot) -> Self {
        let done = HEADER_BYTES;
        Self { slot, done }
    }

    fn next(&mut self, seal: &RecordSeal) -> Result<Option<Record>, Unreadable> {
        loop {
            let rest = self.slot.bytes.get(self.done..).unwrap_or(&[]);
            if rest.is_empty() {
                return Ok(None);
            }
            let lsn = self.next_lsn();
            let found = record::parse(rest, seal, lsn).map_err(|_| Unreadable { lsn })?;
            if found.kind == Kind::Data {
                let mut payload = room(found.payload.len()).map_err(|_| Unreadable { lsn })?;
                payload.extend_from_slice(found.payload);
                self.done += found.encoded_len;
                return Ok(Some(Record { lsn, payload }));
            }
            self.done += found.encoded_len;
        }
    }

    fn next_lsn(&self) -> Lsn {
        Lsn::new(if self.done < self.slot.bytes.len() {
            self.slot.base + self.done as u64
        } else {
            self.slot.end
        })
    }
}

impl<'s, B: Backend> Follower<'s, B> {
    /// Begins at a record's address, or a slot's.
    pub(crate) fn new(core: &'s Arc<Core<B>>, from: Lsn) -> Result<Self, ReadError> {
        let (first, end) = (core.first(), Lsn::new(core.ring.tail()));
        if from < first {
            return Err(ReadError::Trimmed { lsn: from, first });
        }
        if from > end {
            return Err(ReadError::BeyondEnd { lsn: from, end });
        }
        // Past the durable end a scan cannot begin: it begins there, and leaves out what comes first.
        let next = from.min(Lsn::new(core.durable.lsn()));
        Ok(Self::at(core, next, from))
    }

    /// Begins behind what has been appended.
    pub(crate) fn at_end(core: &'s Arc<Core<B>>) -> Self {
        // In this order: the end may be where no record will begin, so no scan may.
        let durable = Lsn::new(core.durable.lsn());
        Self::at(core, durable, Lsn::new(core.ring.tail()))
    }

    fn at(core: &'s Arc<Core<B>>, next: Lsn, from: Lsn) -> Self {
        core.resident.fresh.enter();
        Self {
            core,
            records: None,
            next,
            from,
            place: None,
            over: false,
        }
    }

    /// The next record, if there is one that is durable. Does not wait for any, but for the disk.
    ///
    /// # Errors
    ///
    /// [`ReadError`] as [`Store::read`](crate::Store::read) has, [`ReadError::Lost`] when a write has
    /// failed and everything that is durable has been given out, and [`ReadError::Trimmed`] when the
    /// log was trimmed past it. After an error there is nothing more.
    pub fn try_next(&mut self) -> Result<Option<Record>, ReadError> {
        if self.over {
            return Ok(None);
        }
        let found = self.find();
        self.over = found.is_err();
        found
    }

    /// The next record; waits for it in this thread, but no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Record>, ReadError> {
        let found = self.try_next()?;
        if found.is_some() || self.over || !self.wait(Some(timeout)) {
            return Ok(found);
        }
        self.try_next()
    }

    /// The next record, for a task: if there is none, the task is woken when there may be. Does not
    /// wait for any, but for the disk. `None` after an error.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Record, ReadError>>> {
        let mut found = self.try_next().transpose();
        if found.is_none() && !self.over {
            let core = self.core;
            let end = self.next.get().saturating_add(1);
            core.followers.leave(&mut self.place);
            core.followers.enter(&mut self.place, end, context.waker());
            // After it has entered: V1 of `tasks`.
            found = self.try_next().transpose();
        }
        if found.is_none() && !self.over {
            return Poll::Pending;
        }
        self.core.followers.leave(&mut self.place);
        Poll::Ready(found)
    }

    /// Where it is: every record below has been given out. What is not durable yet may lie here or
    /// further on.
    #[must_use]
    pub fn position(&self) -> Lsn {
        match &self.records {
            Some(records) => records.next_lsn(),
            None => self.next,
        }
    }

    fn find(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            let core = self.core;
            while let Some(record) = self.records.as_mut().and_then(|it| it.next(core)) {
                let record = record?;
                if record.lsn >= self.from {
                    return Ok(Some(record));
                }
            }
            if let Some(records) = self.records.take() {
                self.next = records.next_lsn();
            }
            // Before the look at the end: what was durable when the failure came is given out first.
            let poison = self.core.poison.get();
            let end = if canary!("lss-follows-what-is-written") {
                Lsn::new(self.core.written.lsn())
            } else {
                Lsn::new(self.core.durable.lsn())
            };
            if end <= self.next {
                return match poison {
                    Some(poison) => Err(ReadError::Lost {
                        lsn: self.next,
                        source: poison.clone(),
                    }),
                    None => Ok(None),
                };
            }
            self.records = Some(self.durable_up_to(end));
        }
    }

    /// What is durable from `next` on, up to `end` or less.
    fn durable_up_to(&self, end: Lsn) -> Records<B> {
        // A log that has been trimmed past it says so, as a read would.
        if self.next >= self.core.first()
            && let Some(slot) = self.core.resident.fresh.find(self.next.get())
        {
            return Records::Memory(SlotRecords::new(slot));
        }
        Records::Disk(on_disk(self.core, self.next, end))
    }

    /// Waits until there may be another record; whether there may.
    fn wait(&self, timeout: Option<Duration>) -> bool {
        let (core, seen) = (self.core, self.next.get());
        core.backend.wait_for(
            &|| core.durable.lsn() > seen || core.poison.get().is_some(),
            timeout,
        )
    }
}

impl<B: Backend> Iterator for Follower<'_, B> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.try_next().transpose();
            if found.is_some() || self.over {
                return found;
            }
            self.wait(None);
        }
    }
}

impl<B: Backend> FusedIterator for Follower<'_, B> {}

impl<B: Backend> Drop for Follower<'_, B> {
    fn drop(&mut self) {
        self.core.followers.leave(&mut self.place);
        self.core.resident.fresh.leave();
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;

    const SEAL_OF: u64 = 7;
    const BASE: u64 = 3 << 12;

    /// A slot with the given data records, a void before each.
    fn slot(records: &[&[u8]]) -> Slot {
        let seal = RecordSeal::new(SEAL_OF);
        let mut bytes = vec![0; HEADER_BYTES];
        for payload in records {
            for payload in [None, Some(payload)] {
                let at = bytes.len();
                let lsn = Lsn::new(BASE + at as u64);
                let len = record::encoded_len(payload.map_or(16, |it| it.len())).expect("short");
                bytes.resize(at + len, 0);
                match payload {
                    Some(payload) => record::write_into(&mut bytes[at..], &seal, lsn, payload),
                    None => {
                        let header = record::void_header(&seal, lsn, len);
                        bytes[at..at + header.len()].copy_from_slice(&header);
                    }
                }
            }
        }
        Slot {
            base: BASE,
            end: BASE + 4096,
            bytes: Arc::new(bytes),
        }
    }

    #[test]
    fn a_slot_in_memory_gives_its_records_in_order_and_ends_at_the_next() {
        let seal = RecordSeal::new(SEAL_OF);
        let mut records = SlotRecords::new(slot(&[b"one", b"", &[5; 300]]));
        assert_eq!(records.next_lsn().get(), BASE + HEADER_BYTES as u64);
        let mut found = Vec::new();
        while let Some(record) = records.next(&seal).expect("intact") {
            assert!(record.lsn < records.next_lsn());
            found.push(record.payload);
        }
        assert_eq!(found, [b"one".to_vec(), Vec::new(), vec![5; 300]]);
        assert_eq!(records.next_lsn().get(), BASE + 4096);
    }

    #[test]
    fn no_byte_of_a_record_that_has_changed_in_memory_is_given_out() {
        let seal = RecordSeal::new(SEAL_OF);
        let whole = slot(&[b"first", b"second"]);
        let intact: Vec<_> = (HEADER_BYTES..whole.bytes.len())
            .map(|at| {
                let mut bytes = whole.bytes.to_vec();
                bytes[at] ^= 0x10;
                let bytes = Arc::new(bytes);
                let mut records = SlotRecords::new(Slot {
                    bytes,
                    ..whole.clone()
                });
                let mut found = 0;
                loop {
                    let before = records.next_lsn();
                    match records.next(&seal) {
                        Ok(Some(record)) => {
                            found += 1;
                            assert!([&b"first"[..], b"second"].contains(&&record.payload[..]));
                        }
                        Ok(None) => break (found, None),
                        Err(Unreadable { lsn }) => {
                            assert!(lsn >= before);
                            break (found, Some(lsn));
                        }
                    }
                }
            })
            .collect();
        // What a void holds, and the padding behind a payload, is covered by no record's checksum.
        assert!(
            intact
                .iter()
                .all(|&(found, lsn)| found == 2 || lsn.is_some())
        );
        assert!(intact.iter().any(|&(found, _)| found == 0));
        assert!(intact.iter().any(|&(found, _)| found == 1));
    }
}
