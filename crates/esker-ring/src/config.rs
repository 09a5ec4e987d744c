//! [`RingBuilder`]: the shape of a ring, checked before any memory is taken.

use esker_buf::{AlignedBuf, Alignment, HugePages};

use crate::fences::Fences;
use crate::shared::Shared;
use crate::{BufferSeq, Ring, RingConfigError};

/// Writes a void record over the bytes of a dropped reservation, given its address.
pub(crate) type VoidWriter = Box<dyn Fn(u64, &mut [u8]) + Send + Sync>;

/// The largest capacity of a buffer: 1 GiB. Sums of two offsets stay below the 32 bits that the
/// state word has for one.
pub(crate) const MAX_CAPACITY_BYTES: usize = 1 << 30;

/// The longest lease, unless it is said otherwise: long enough to make the shared word's part of a
/// record's cost small, short enough that what is left of it at a seal is little.
const LEASE_BYTES: usize = 16 << 10;

/// And at least so many of them fill a buffer.
const LEASES_IN_A_BUFFER: usize = 8;

/// How a ring is built. Comes from [`Ring::builder`].
///
/// # Examples
///
/// ```
/// use esker_buf::{Alignment, HugePages};
/// use esker_ring::{BufferSeq, Ring, TryReserve};
///
/// let ring = Ring::builder()
///     .buffers(4)
///     .capacity_bytes(64 << 10)
///     .header_bytes(32)
///     .min_reservation_bytes(16)
///     .lease_bytes(4096)
///     .alignment(Alignment::SECTOR)
///     .huge_pages(HugePages::Never)
///     // The log goes on where it ended.
///     .start(BufferSeq::new(1000), 1 << 30)
///     .limit((1 << 30) + (1 << 20))
///     .void(|address, bytes| {
///         bytes.fill(0);
///         bytes[..8].copy_from_slice(&address.to_le_bytes());
///     })
///     .build()?;
/// let TryReserve::Reserved(record) = ring.try_reserve(16)? else {
///     panic!("the first buffer is open and empty");
/// };
/// assert_eq!(record.address(), (1 << 30) + 32);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct RingBuilder {
    buffers: usize,
    capacity_bytes: usize,
    header_bytes: usize,
    min_reservation_bytes: usize,
    lease_bytes: Option<usize>,
    alignment: Alignment,
    huge_pages: HugePages,
    start: (BufferSeq, u64),
    limit: u64,
    void: VoidWriter,
}

/// The checked sizes that the protocol works with. All fit the state word.
pub(crate) struct Shape {
    pub(crate) capacity: u32,
    pub(crate) header: u32,
    pub(crate) min_reservation: u32,
    /// The longest lease.
    pub(crate) lease: u32,
    pub(crate) alignment: Alignment,
}

impl RingBuilder {
    pub(crate) fn new() -> Self {
        Self {
            buffers: 8,
            capacity_bytes: 1 << 20,
            header_bytes: 64,
            min_reservation_bytes: 8,
            lease_bytes: None,
            alignment: Alignment::BLOCK,
            huge_pages: HugePages::Try,
            start: (BufferSeq::new(0), 0),
            limit: u64::MAX,
            void: Box::new(|_, bytes| bytes.fill(0)),
        }
    }

    /// How many buffers, at least 2; 8 by default.
    pub fn buffers(mut self, buffers: usize) -> Self {
        self.buffers = buffers;
        self
    }

    /// The size of each buffer in bytes, header area included: a multiple of the alignment, at
    /// most 1 GiB; 1 MiB by default.
    pub fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.capacity_bytes = bytes;
        self
    }

    /// The area at the start of each buffer, in bytes, that no reservation gets; 64 by default. It
    /// is zeroed before the buffer is handed over, for the layer above to fill.
    pub fn header_bytes(mut self, bytes: usize) -> Self {
        self.header_bytes = bytes;
        self
    }

    /// The smallest reservation in bytes, at least 1; 8 by default. The layer above chooses the
    /// size of the smallest void record it can write.
    pub fn min_reservation_bytes(mut self, bytes: usize) -> Self {
        self.min_reservation_bytes = bytes;
        self
    }

    /// How many bytes an [`Appender`](crate::Appender) leases at a time, at most; 0 for no leases.
    /// By default 16 KiB, but no more than an eighth of a buffer.
    ///
    /// Unless it is 0, building the ring announces to the kernel that the process uses
    /// `membarrier(2)`, which takes some milliseconds the first time if it has several threads.
    pub fn lease_bytes(mut self, bytes: usize) -> Self {
        self.lease_bytes = Some(bytes);
        self
    }

    /// What base addresses are multiples of and sealed lengths are rounded up to; 4096 by default.
    pub fn alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = alignment;
        self
    }

    /// Whether the memory, one allocation for all buffers, should lie on huge pages; by default it
    /// does where the kernel has them and the buffers together are at least 2 MiB.
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// The first buffer's sequence number and base address, a multiple of the alignment; both zero
    /// by default.
    pub fn start(mut self, seq: BufferSeq, base: u64) -> Self {
        self.start = (seq, base);
        self
    }

    /// The address that no buffer or extent may reach past, until it is
    /// [raised](Ring::raise_limit); `u64::MAX` by default.
    pub fn limit(mut self, address: u64) -> Self {
        self.limit = address;
        self
    }

    /// What fills the bytes of a reservation that was dropped or cancelled, given its address, so
    /// that whoever reads the buffer can skip them; by default zeroes.
    ///
    /// It runs in the dropping thread, while that may be unwinding: it should not panic.
    pub fn void(mut self, write: impl Fn(u64, &mut [u8]) + Send + Sync + 'static) -> Self {
        self.void = Box::new(write);
        self
    }

    /// Checks the shape, allocates the buffers and opens the first one.
    ///
    /// # Errors
    ///
    /// [`RingConfigError`] says which part does not go, or that there is no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Ring, RingConfigError};
    ///
    /// let refused = Ring::builder().capacity_bytes(1000).build().map(drop);
    /// assert_eq!(
    ///     refused,
    ///     Err(RingConfigError::UnalignedCapacity {
    ///         capacity_bytes: 1000,
    ///         alignment_bytes: 4096,
    ///     })
    /// );
    /// ```
    pub fn build(self) -> Result<Ring, RingConfigError> {
        let shape = self.shape()?;
        let (seq, base) = self.start;
        if !shape.alignment.divides(base) {
            return Err(RingConfigError::UnalignedBase {
                base,
                alignment_bytes: shape.alignment.bytes(),
            });
        }
        let arena_bytes = self
            .buffers
            .checked_mul(self.capacity_bytes)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(RingConfigError::TooLarge {
                buffers: self.buffers,
                capacity_bytes: self.capacity_bytes,
            })?;
        let arena = AlignedBuf::zeroed_on(arena_bytes, self.alignment, self.huge_pages)?;
        let fences = match shape.lease {
            0 => Fences::Symmetric,
            _ => Fences::cheapest(),
        };
        Ok(Ring::from_shared(Shared::new(
            shape,
            self.buffers,
            arena,
            (seq.get(), base),
            self.limit,
            self.void,
            fences,
        )))
    }

    fn shape(&self) -> Result<Shape, RingConfigError> {
        let alignment_bytes = self.alignment.bytes();
        if self.buffers < 2 {
            return Err(RingConfigError::TooFewBuffers {
                buffers: self.buffers,
            });
        }
        if !self.capacity_bytes.is_multiple_of(alignment_bytes) {
            return Err(RingConfigError::UnalignedCapacity {
                capacity_bytes: self.capacity_bytes,
                alignment_bytes,
            });
        }
        if self.min_reservation_bytes == 0 {
            return Err(RingConfigError::ZeroReservation);
        }
        let too_large = RingConfigError::CapacityTooLarge {
            capacity_bytes: self.capacity_bytes,
            max_bytes: MAX_CAPACITY_BYTES,
        };
        if self.capacity_bytes > MAX_CAPACITY_BYTES {
            return Err(too_large);
        }
        let no_room = RingConfigError::NoRoom {
            header_bytes: self.header_bytes,
            min_reservation_bytes: self.min_reservation_bytes,
            capacity_bytes: self.capacity_bytes,
        };
        let room = self.capacity_bytes.checked_sub(self.header_bytes);
        if room.is_none_or(|room| room < self.min_reservation_bytes) {
            return Err(no_room);
        }
        let room = self.capacity_bytes - self.header_bytes;
        let lease = match self.lease_bytes {
            Some(bytes) => bytes.min(room),
            None => LEASE_BYTES.min(room / LEASES_IN_A_BUFFER),
        };
        let fit = |bytes: usize| u32::try_from(bytes).map_err(|_| too_large.clone());
        Ok(Shape {
            capacity: fit(self.capacity_bytes)?,
            header: fit(self.header_bytes)?,
            min_reservation: fit(self.min_reservation_bytes)?,
            lease: fit(lease)?,
            alignment: self.alignment,
        })
    }
}

impl core::fmt::Debug for RingBuilder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RingBuilder")
            .field("buffers", &self.buffers)
            .field("capacity_bytes", &self.capacity_bytes)
            .field("header_bytes", &self.header_bytes)
            .field("min_reservation_bytes", &self.min_reservation_bytes)
            .field("lease_bytes", &self.lease_bytes)
            .field("alignment", &self.alignment)
            .field("huge_pages", &self.huge_pages)
            .field("start", &self.start)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_may_have_the_largest_capacity_and_no_more() {
        let capacity = |bytes| RingBuilder::new().capacity_bytes(bytes).shape();
        let largest = capacity(MAX_CAPACITY_BYTES).expect("it is not too large");
        assert_eq!(largest.capacity, 1 << 30);
        assert!(matches!(
            capacity(MAX_CAPACITY_BYTES + 4096),
            Err(RingConfigError::CapacityTooLarge { .. })
        ));
    }

    #[test]
    fn one_record_of_the_smallest_length_has_to_fit_and_may_fill_the_buffer() {
        let builder = RingBuilder::new().capacity_bytes(4096).header_bytes(64);
        let shape = builder.min_reservation_bytes(4032).shape();
        assert_eq!(shape.expect("it fits").min_reservation, 4032);
    }

    #[test]
    fn a_lease_is_at_most_an_eighth_of_what_a_buffer_has_for_records_unless_it_is_said() {
        let small = || RingBuilder::new().capacity_bytes(4096).header_bytes(96);
        let lease = |builder: RingBuilder| builder.shape().expect("a shape").lease;
        assert_eq!(lease(RingBuilder::new()), 16_384);
        assert_eq!(lease(small()), 500);
        assert_eq!(lease(small().lease_bytes(3000)), 3000);
        assert_eq!(lease(small().lease_bytes(5000)), 4000);
        assert_eq!(lease(small().lease_bytes(0)), 0);
    }
}
