//! Reading what this process writes: a record is found wherever it is at the moment, in the open
//! buffer, in a buffer on its way to the disk, or on the disk.

use std::sync::Arc;
use std::time::Duration;

use esker_io::Backend;
use esker_ring::PinCommitted;

use crate::Lsn;
use crate::core::Core;
use crate::dispatch::By;
use crate::error::ReadError;
use crate::format::{record, slot};
use crate::log::{Log, room};
use crate::read_many::Source;
use crate::resident::Whereabouts;
use crate::sync::Ordering;

/// How long a reader sleeps before it looks again for a buffer that is between two places.
const BETWEEN_PLACES: Duration = Duration::from_micros(200);

impl<B: Backend> Core<B> {
    pub(crate) fn first(&self) -> Lsn {
        // Acquire: pairs with the release in `trim_before`.
        Lsn::new(self.first.load(Ordering::Acquire))
    }

    /// Reads the record at `lsn` back.
    pub(crate) fn read(self: &Arc<Self>, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        let result = self.find(lsn);
        // A segment that was trimmed while it was being read is not damaged.
        let first = self.first();
        if lsn < first {
            return Err(ReadError::Trimmed { lsn, first });
        }
        // A sync that has failed may have taken what was written: that is no damage either.
        match result {
            Err(ReadError::Corrupt(_) | ReadError::NotARecord { .. })
                if lsn.get() >= self.durable.lsn() =>
            {
                self.check_poison()
                    .map_err(|source| ReadError::Lost { lsn, source })?;
                result
            }
            result => result,
        }
    }

    fn find(self: &Arc<Self>, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        let address = lsn.get();
        let mut has_revoked = false;
        loop {
            let written = self.written.lsn();
            if address < written {
                return self.log.read_record(lsn, Lsn::new(written));
            }
            let tail = self.ring.tail();
            if address >= tail {
                return Err(ReadError::BeyondEnd {
                    lsn,
                    end: Lsn::new(tail),
                });
            }
            match self.resident.find(address) {
                Whereabouts::InMemory(slot) => {
                    let payload = self.parse(lsn, slot.base(), slot.bytes());
                    // The ring may open its next buffer where this one was.
                    drop(slot);
                    self.backend.wake();
                    return payload;
                }
                Whereabouts::OnDisk { end } => return self.log.read_record(lsn, Lsn::new(end)),
                Whereabouts::Unknown => {}
            }
            match self.ring.pin_committed(address) {
                PinCommitted::Pinned(pin) => {
                    let payload = self.parse(lsn, pin.base(), &pin);
                    if let Some(sealed) = pin.release() {
                        self.hand_over(sealed, By::Passing);
                    }
                    return payload;
                }
                // A live lease looks like a writer. What is committed under it shows without it.
                PinCommitted::Busy if !has_revoked => {
                    has_revoked = true;
                    if let Some(sealed) = self.ring.revoke_leases() {
                        self.hand_over(sealed, By::Passing);
                    }
                    continue;
                }
                // Records are being copied into it right now: once it is sealed they have ended.
                PinCommitted::Busy => self.seal_below(address + 1, By::Passing),
                PinCommitted::NotHere => {
                    let (_, base) = self.ring.current();
                    if (base..base + slot::HEADER_BYTES as u64).contains(&address) {
                        return Err(ReadError::NotARecord { lsn });
                    }
                }
            }
            if let Err(poison) = self.check_poison() {
                return Err(ReadError::Lost {
                    lsn,
                    source: poison,
                });
            }
            // Sealed, and its last writer is about to hand it over; or it waits for the window.
            self.backend.wait_until(
                &mut || {
                    self.written.lsn() > address
                        || self.poison.get().is_some()
                        || !matches!(self.resident.find(address), Whereabouts::Unknown)
                },
                Some(BETWEEN_PLACES),
            );
        }
    }

    /// The record at `lsn` in a buffer that is in memory.
    fn parse(&self, lsn: Lsn, base: u64, bytes: &[u8]) -> Result<Vec<u8>, ReadError> {
        let offset = usize::try_from(lsn.get() - base).unwrap_or(usize::MAX);
        bytes
            .get(offset..)
            .and_then(|bytes| record::parse(bytes, &self.checksums, lsn).ok())
            .filter(|record| record.kind == record::Kind::Data)
            .ok_or(ReadError::NotARecord { lsn })
            .and_then(|record| copy(record.payload))
    }
}

impl<B: Backend> Source<B> for Arc<Core<B>> {
    fn log(&self) -> &Log<B> {
        &self.log
    }

    fn on_disk(&self, lsn: Lsn) -> Option<Lsn> {
        let written = Lsn::new(self.written.lsn());
        (lsn >= Core::first(self) && lsn < written).then_some(written)
    }

    fn first(&self) -> Lsn {
        Core::first(self)
    }

    fn read_one(&self, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
        self.read(lsn)
    }
}

fn copy(payload: &[u8]) -> Result<Vec<u8>, ReadError> {
    let mut copy = room(payload.len())?;
    copy.extend_from_slice(payload);
    Ok(copy)
}
