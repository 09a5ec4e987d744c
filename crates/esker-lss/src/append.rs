//! Appending: a record is copied once, into the flush buffer that the ring gives it room in, or,
//! when it is larger than a buffer, into memory of its own that takes a place in the same order.
//!
//! A sealed buffer can fall to whoever leaves it last, and is lost if it is dropped. So nothing
//! here, nor a caller's code that runs here, lets go of a reservation in another way than through
//! [`Filling`].

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::Backend;
use esker_ring::{Reservation, ReserveError, ReserveExtent, Ring, TryReserve, Wait};

use crate::Lsn;
use crate::core::Core;
use crate::dispatch::By;
use crate::format::{record, slot};
use crate::sync::yield_now;
use crate::write_error::AppendError;

/// How often a reservation is tried again before its thread parks: what is in the way is mostly
/// another thread between two instructions.
const TRIES_BEFORE_PARKING: u32 = 3;

/// Wakes whoever waits at the backend when the ring has room.
struct RingWaker<B>(Arc<B>);

impl<B: Backend> Wake for RingWaker<B> {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}

/// Where the room for records comes from: the ring, record by record and in the order of all
/// threads, or one thread's leases in it.
pub(crate) trait Room {
    fn try_reserve(&mut self, len: usize) -> Result<TryReserve<'_>, ReserveError>;
}

impl Room for &Ring {
    #[inline(always)]
    fn try_reserve(&mut self, len: usize) -> Result<TryReserve<'_>, ReserveError> {
        Ring::try_reserve(self, len)
    }
}

impl Room for esker_ring::Appender {
    #[inline(always)]
    fn try_reserve(&mut self, len: usize) -> Result<TryReserve<'_>, ReserveError> {
        Self::try_reserve(self, len)
    }
}

/// A reservation that is being filled. If it is not committed, whatever the reason, a panic among
/// them, a void takes its place, and a buffer that falls to it goes its way.
struct Filling<'r, B: Backend> {
    core: &'r Arc<Core<B>>,
    reservation: Option<Reservation<'r>>,
}

impl<B: Backend> Filling<'_, B> {
    #[inline(always)]
    fn commit(mut self) {
        if let Some(sealed) = self.reservation.take().and_then(Reservation::commit) {
            self.core.hand_over(sealed, By::Passing);
        }
    }
}

impl<B: Backend> Drop for Filling<'_, B> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            void(self.core, reservation);
        }
    }
}

#[cold]
fn void<B: Backend>(core: &Arc<Core<B>>, reservation: Reservation<'_>) {
    if let Some(sealed) = reservation.cancel() {
        core.hand_over(sealed, By::Passing);
    }
}

impl<B: Backend> Core<B> {
    /// Appends one record and returns its address.
    #[inline]
    pub(crate) fn append(
        self: &Arc<Self>,
        room: &mut impl Room,
        payload: &[u8],
    ) -> Result<Lsn, AppendError> {
        let placed = self.place(room, payload.len(), |room, lsn| {
            record::write_into(room, &self.checksums, lsn, payload);
            Ok::<_, Infallible>(())
        })?;
        let Ok(lsn) = placed;
        Ok(lsn)
    }

    /// Appends a record of `len` bytes that `fill` writes in place. A void takes its place if
    /// `fill` fails, which is the inner error.
    #[inline]
    pub(crate) fn append_with<E>(
        self: &Arc<Self>,
        room: &mut impl Room,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<Lsn, E>, AppendError> {
        self.place(room, len, |room, lsn| {
            record::fill_into(room, &self.checksums, lsn, len, fill)
        })
    }

    /// [`append_with`](Self::append_with) for what cannot fail.
    #[inline]
    pub(crate) fn append_with_all(
        self: &Arc<Self>,
        room: &mut impl Room,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Lsn, AppendError> {
        let appended = self.append_with(room, len, |bytes| {
            fill(bytes);
            Ok::<_, Infallible>(())
        })?;
        let Ok(lsn) = appended;
        Ok(lsn)
    }

    /// Appends several records, one right behind the other in one buffer.
    pub(crate) fn append_batch(
        self: &Arc<Self>,
        room: &mut impl Room,
        records: &[&[u8]],
    ) -> Result<Vec<Lsn>, AppendError> {
        self.check_poison()?;
        let mut len = 0;
        for record in records {
            // Both below 2^32, as every batch that goes on is.
            len += self.check_len(record.len())?;
            let max_bytes = self.ring.max_reservation_bytes();
            if len > max_bytes {
                return Err(AppendError::BatchTooLarge { max_bytes });
            }
        }
        if canary!("lss-batch-in-parts") {
            let records = records.iter();
            return records.map(|record| self.append(room, record)).collect();
        }
        let mut lsns = Vec::with_capacity(records.len());
        if records.is_empty() {
            return Ok(lsns);
        }
        let placed = self.place_in_buffer(room, len, |room, first| {
            let (mut rest, mut lsn) = (room, first.get());
            for record in records {
                let len = record::encoded_len(record.len()).unwrap_or(rest.len());
                let (room, after) = rest.split_at_mut(len);
                record::write_into(room, &self.checksums, Lsn::new(lsn), record);
                lsns.push(Lsn::new(lsn));
                lsn += len as u64;
                rest = after;
            }
            Ok::<_, Infallible>(())
        })?;
        let Ok(_first) = placed;
        Ok(lsns)
    }

    /// The room that a record takes, if it is not too large for the store.
    #[inline]
    fn check_len(&self, payload_len: usize) -> Result<usize, AppendError> {
        let max_bytes = self.geometry.max_record_bytes();
        match record::encoded_len(payload_len) {
            Some(len) if payload_len as u64 <= max_bytes => Ok(len),
            _ => Err(AppendError::TooLarge {
                len_bytes: payload_len as u64,
                max_bytes,
            }),
        }
    }

    /// Reserves room for a record with such a payload, wherever it fits, and has `write` fill it.
    #[inline]
    fn place<E>(
        self: &Arc<Self>,
        room: &mut impl Room,
        payload_len: usize,
        write: impl FnOnce(&mut [u8], Lsn) -> Result<(), E>,
    ) -> Result<Result<Lsn, E>, AppendError> {
        self.check_poison()?;
        let len = self.check_len(payload_len)?;
        if len > self.ring.max_reservation_bytes() {
            self.place_in_extent(len, write)
        } else {
            self.place_in_buffer(room, len, write)
        }
    }

    #[inline]
    fn place_in_buffer<E>(
        self: &Arc<Self>,
        room: &mut impl Room,
        len: usize,
        write: impl FnOnce(&mut [u8], Lsn) -> Result<(), E>,
    ) -> Result<Result<Lsn, E>, AppendError> {
        let mut tries = 0;
        loop {
            match room.try_reserve(len)? {
                TryReserve::Reserved(reservation) => return Ok(self.fill(reservation, write)),
                TryReserve::Sealed(sealed) => self.hand_over(sealed, By::Passing),
                TryReserve::Full(wait) => {
                    tries += 1;
                    self.wait_for_room(&wait, tries)?;
                }
                TryReserve::Limit { needed } => self.extend(needed)?,
            }
        }
    }

    /// A record that is larger than a flush buffer. Allocates.
    fn place_in_extent<E>(
        self: &Arc<Self>,
        len: usize,
        write: impl FnOnce(&mut [u8], Lsn) -> Result<(), E>,
    ) -> Result<Result<Lsn, E>, AppendError> {
        let block = self.geometry.block();
        let padded_bytes = (slot::HEADER_BYTES + len).next_multiple_of(block.bytes());
        self.wait_for_window(padded_bytes as u64)?;
        let mut memory =
            AlignedBuf::zeroed_on(padded_bytes, block.max(Alignment::BLOCK), HugePages::Try)?;
        let mut tries = 0;
        loop {
            let outcome = self
                .ring
                .reserve_extent(memory, len)
                .map_err(|refused| refused.error)?;
            memory = match outcome {
                ReserveExtent::Reserved {
                    reservation,
                    previous,
                } => {
                    // Before the record is written: others may wait for what is in it.
                    if let Some(previous) = previous {
                        self.hand_over(previous, By::Passing);
                    }
                    return Ok(self.fill(reservation, write));
                }
                ReserveExtent::Sealed { buffer, memory } => {
                    self.hand_over(buffer, By::Passing);
                    memory
                }
                ReserveExtent::Full { wait, memory } => {
                    tries += 1;
                    self.wait_for_room(&wait, tries)?;
                    memory
                }
                ReserveExtent::Limit { needed, memory } => {
                    self.extend(needed)?;
                    memory
                }
            };
        }
    }

    /// Has `write` fill what was reserved, and commits it.
    #[inline(always)]
    fn fill<E>(
        self: &Arc<Self>,
        reservation: Reservation<'_>,
        write: impl FnOnce(&mut [u8], Lsn) -> Result<(), E>,
    ) -> Result<Lsn, E> {
        let lsn = Lsn::new(reservation.address());
        let mut filling = Filling {
            core: self,
            reservation: None,
        };
        let room = filling.reservation.insert(reservation);
        write(room, lsn)?;
        filling.commit();
        Ok(lsn)
    }

    /// Waits until a full ring may have room, completing writes meanwhile.
    fn wait_for_room(self: &Arc<Self>, wait: &Wait, tries: u32) -> Result<(), AppendError> {
        self.check_alive()?;
        if tries <= TRIES_BEFORE_PARKING {
            yield_now();
        } else {
            self.await_ring(wait);
        }
        Ok(self.check_poison()?)
    }

    /// Waits until a slot of so many bytes, with everything before it that is not written, takes no
    /// more than the window, or until there is nothing before it. What lies past the window could not
    /// be on its way yet, and would only take memory.
    fn wait_for_window(&self, padded_bytes: u64) -> Result<(), AppendError> {
        loop {
            let written = self.written.lsn();
            // Everything before the open buffer is sealed, and is written without anybody's help (D5).
            let (_, base) = self.ring.current();
            let before = base.saturating_sub(written);
            if before == 0 || before.saturating_add(padded_bytes) <= self.geometry.window_bytes() {
                return Ok(());
            }
            self.check_alive()?;
            self.check_poison()?;
            self.backend.wait_until(
                &mut || self.written.lsn() > written || self.poison.get().is_some(),
                None,
            );
        }
    }

    /// Waits until what was in the way in the ring is gone, or the store is poisoned; completes
    /// writes for all meanwhile.
    pub(crate) fn await_ring(&self, wait: &Wait) {
        let waker = Waker::from(Arc::new(RingWaker(Arc::clone(&self.backend))));
        let mut over = !self.ring.notify(wait, &waker);
        self.backend.wait_until(
            &mut || {
                over = over || self.ring.wait(wait, Some(Duration::ZERO));
                over || self.poison.get().is_some()
            },
            None,
        );
    }

    /// Makes space for addresses up to `needed` and lets the ring use it.
    fn extend(self: &Arc<Self>, needed: u64) -> Result<(), AppendError> {
        self.check_alive()?;
        let limit = self.ensure_space(needed)?;
        self.ring.raise_limit(limit.get());
        self.backend.wake();
        Ok(())
    }
}
