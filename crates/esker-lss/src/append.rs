//! Appending: a record is copied once, into the flush buffer that the ring gives it room in, or,
//! when it is larger than a buffer, into memory of its own that takes a place in the same order.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::Backend;
use esker_ring::{ReserveExtent, TryReserve, Wait};

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

impl<B: Backend> Core<B> {
    /// Appends one record and returns its address.
    pub(crate) fn append(self: &Arc<Self>, payload: &[u8]) -> Result<Lsn, AppendError> {
        self.check_poison()?;
        let max_bytes = self.geometry.max_record_bytes();
        let len = match record::encoded_len(payload.len()) {
            Some(len) if payload.len() as u64 <= max_bytes => len,
            _ => {
                return Err(AppendError::TooLarge {
                    len_bytes: payload.len() as u64,
                    max_bytes,
                });
            }
        };
        if len > self.ring.max_reservation_bytes() {
            return self.append_extent(payload, len);
        }
        let mut tries = 0;
        loop {
            match self.ring.try_reserve(len)? {
                TryReserve::Reserved(mut reservation) => {
                    let lsn = Lsn::new(reservation.address());
                    record::write_into(&mut reservation, &self.checksums, lsn, payload);
                    if let Some(sealed) = reservation.commit() {
                        self.hand_over(sealed, By::Passing);
                    }
                    return Ok(lsn);
                }
                TryReserve::Sealed(sealed) => self.hand_over(sealed, By::Passing),
                TryReserve::Full(wait) => {
                    tries += 1;
                    self.wait_for_room(&wait, tries)?;
                }
                TryReserve::Limit { needed } => self.extend(needed)?,
            }
        }
    }

    /// Appends a record that is larger than a flush buffer. Allocates.
    fn append_extent(self: &Arc<Self>, payload: &[u8], len: usize) -> Result<Lsn, AppendError> {
        let block = self.geometry.block();
        let padded_bytes = (slot::HEADER_BYTES + len).next_multiple_of(block.bytes());
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
                    mut reservation,
                    previous,
                } => {
                    let lsn = Lsn::new(reservation.address());
                    record::write_into(&mut reservation, &self.checksums, lsn, payload);
                    if let Some(previous) = previous {
                        self.hand_over(previous, By::Passing);
                    }
                    if let Some(sealed) = reservation.commit() {
                        self.hand_over(sealed, By::Passing);
                    }
                    return Ok(lsn);
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

    /// Waits until a full ring may have room, completing writes meanwhile.
    fn wait_for_room(self: &Arc<Self>, wait: &Wait, tries: u32) -> Result<(), AppendError> {
        self.check_poison()?;
        if tries <= TRIES_BEFORE_PARKING {
            yield_now();
        } else {
            self.await_ring(wait);
        }
        Ok(self.check_poison()?)
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
        self.check_poison()?;
        let limit = self.segments.ensure(Lsn::new(needed))?;
        self.ring.raise_limit(limit.get());
        self.backend.wake();
        Ok(())
    }
}
