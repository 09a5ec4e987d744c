//! What can be wrong with a configuration or a request.

use esker_buf::{AlignedBuf, AllocError};

/// A ring can't be built like that.
///
/// # Examples
///
/// ```
/// use esker_ring::{Ring, RingConfigError};
///
/// let refused = Ring::builder().buffers(1).build().map(drop);
/// let error = refused.expect_err("one buffer is not a ring");
/// assert_eq!(error, RingConfigError::TooFewBuffers { buffers: 1 });
/// assert_eq!(error.to_string(), "a ring has at least 2 buffers, and 1 were asked for");
/// # Ok::<(), RingConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingConfigError {
    /// Fewer than two buffers.
    #[error("a ring has at least 2 buffers, and {buffers} were asked for")]
    TooFewBuffers {
        /// The number asked for.
        buffers: usize,
    },
    /// The capacity of a buffer is not a multiple of the alignment.
    #[error("the capacity of {capacity_bytes} bytes is not a multiple of {alignment_bytes}")]
    UnalignedCapacity {
        /// The capacity asked for, in bytes.
        capacity_bytes: usize,
        /// The alignment asked for, in bytes.
        alignment_bytes: usize,
    },
    /// The capacity of a buffer is past what the offset in the state word may reach.
    #[error("the capacity of {capacity_bytes} bytes is above the maximum of {max_bytes}")]
    CapacityTooLarge {
        /// The capacity asked for, in bytes.
        capacity_bytes: usize,
        /// The largest capacity, in bytes.
        max_bytes: usize,
    },
    /// The smallest reservation is zero.
    #[error("the smallest reservation is at least 1 byte")]
    ZeroReservation,
    /// Header and smallest reservation do not fit into a buffer.
    #[error(
        "a header of {header_bytes} bytes and a reservation of {min_reservation_bytes} do not \
         fit into {capacity_bytes}"
    )]
    NoRoom {
        /// The header area asked for, in bytes.
        header_bytes: usize,
        /// The smallest reservation asked for, in bytes.
        min_reservation_bytes: usize,
        /// The capacity asked for, in bytes.
        capacity_bytes: usize,
    },
    /// The first base address is not a multiple of the alignment.
    #[error("the first base address {base} is not a multiple of {alignment_bytes}")]
    UnalignedBase {
        /// The address asked for.
        base: u64,
        /// The alignment asked for, in bytes.
        alignment_bytes: usize,
    },
    /// The buffers together are more than memory can be.
    #[error("{buffers} buffers of {capacity_bytes} bytes are more than an allocation can be")]
    TooLarge {
        /// The number of buffers asked for.
        buffers: usize,
        /// The capacity asked for, in bytes.
        capacity_bytes: usize,
    },
    /// There was no memory for the buffers.
    #[error(transparent)]
    Alloc(#[from] AllocError),
}

/// A reservation of that length can never succeed, or not now.
///
/// # Examples
///
/// ```
/// use esker_ring::{ReserveError, Ring};
///
/// let ring = Ring::builder().capacity_bytes(4096).build()?;
/// let refused = ring.try_reserve(7).map(drop);
/// assert_eq!(refused, Err(ReserveError::TooSmall { len: 7, min: 8 }));
/// let refused = ring.try_reserve(4096).map(drop);
/// assert_eq!(refused, Err(ReserveError::TooLarge { len: 4096, max: 4032 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// More than a buffer holds. Nothing happened.
    #[error("a reservation of {len} bytes is above the maximum of {max}")]
    TooLarge {
        /// The length asked for, in bytes.
        len: usize,
        /// The largest length, in bytes.
        max: usize,
    },
    /// Less than the configured minimum. Nothing happened.
    #[error("a reservation of {len} bytes is below the minimum of {min}")]
    TooSmall {
        /// The length asked for, in bytes.
        len: usize,
        /// The smallest length, in bytes.
        min: usize,
    },
    /// More reservations are open in one buffer than its state word can count (2^24 - 2). Nothing
    /// happened.
    #[error("too many reservations are open in one buffer")]
    TooManyWriters,
}

/// An extent of that length or with that memory can never be inserted.
///
/// # Examples
///
/// ```
/// use esker_buf::{AlignedBuf, Alignment};
/// use esker_ring::{ExtentError, Ring};
///
/// let ring = Ring::builder().build()?;
/// let memory = AlignedBuf::zeroed(4096, Alignment::BLOCK)?;
/// let refused = ring.reserve_extent(memory, 4096).expect_err("no room for the header");
/// assert_eq!(
///     refused.error,
///     ExtentError::MemoryTooShort { needed_bytes: 8192, memory_bytes: 4096 }
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtentError {
    /// Less than the smallest reservation.
    #[error("an extent for {len} bytes is below the minimum of {min}")]
    TooSmall {
        /// The length asked for, in bytes.
        len: usize,
        /// The smallest length, in bytes.
        min: usize,
    },
    /// The memory is shorter than header and record, rounded up to the alignment.
    #[error("an extent of {needed_bytes} bytes does not fit into memory of {memory_bytes}")]
    MemoryTooShort {
        /// Header and record, rounded up to the alignment, in bytes.
        needed_bytes: u64,
        /// The length of the memory, in bytes.
        memory_bytes: usize,
    },
    /// The memory does not lie at a multiple of the ring's alignment.
    #[error("the extent's memory does not lie at a multiple of {alignment_bytes}")]
    Misaligned {
        /// The ring's alignment, in bytes.
        alignment_bytes: usize,
    },
}

/// An extent was refused, with the memory it was to have.
///
/// # Examples
///
/// ```
/// use esker_buf::{AlignedBuf, Alignment};
/// use esker_ring::{ReserveExtent, Ring};
///
/// let ring = Ring::builder().build()?;
/// let memory = AlignedBuf::zeroed(1 << 21, Alignment::BLOCK)?;
/// let refused = ring.reserve_extent(memory, 7).expect_err("below the smallest reservation");
/// assert_eq!(refused.to_string(), "an extent for 7 bytes is below the minimum of 8");
/// // The memory comes back, for another attempt.
/// let again = ring.reserve_extent(refused.memory, 1 << 20)?;
/// assert!(matches!(again, ReserveExtent::Reserved { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ExtentRefused {
    /// Why.
    #[source]
    pub error: ExtentError,
    /// The caller's memory, untouched.
    pub memory: AlignedBuf,
}
