//! [`Alignment`]: a power of two that addresses, offsets and lengths are checked against.

use core::fmt;

/// A power of two, in bytes, from 1 B to 1 GiB.
///
/// Direct I/O asks three things to be multiples of such a number: the address of the memory, the
/// offset in the file and the length of the transfer. Carrying it as a type means that the check
/// was made once, where the number came from.
///
/// # Examples
///
/// ```
/// use esker_buf::Alignment;
///
/// let block = Alignment::BLOCK;
/// assert_eq!((block.bytes(), block.to_string()), (4096, "4096 B".to_owned()));
/// assert!(block.divides(8192) && !block.divides(8193));
/// assert_eq!((block.floor(8193), block.ceil(8193)), (8192, Some(12_288)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alignment {
    log2: u8,
}

/// The number is not a power of two between 1 B and 1 GiB.
///
/// # Examples
///
/// ```
/// use esker_buf::{Alignment, AlignmentError};
///
/// let refused = Alignment::new(1000);
/// assert_eq!(refused, Err(AlignmentError { bytes: 1000 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an alignment is a power of two from 1 to {max} bytes, and {bytes} is not", max = Alignment::MAX.bytes())]
pub struct AlignmentError {
    /// The number that was refused, in bytes.
    pub bytes: usize,
}

impl Alignment {
    /// 1 B: no requirement.
    pub const ONE: Self = Self { log2: 0 };
    /// 512 B: the logical block of most disks, and the unit in which a write can tear.
    pub const SECTOR: Self = Self { log2: 9 };
    /// 4096 B: the physical block of most disks, and the page of most processors.
    pub const BLOCK: Self = Self { log2: 12 };
    /// 2 MiB: a huge page on x86-64 and on AArch64 with 4 KiB pages.
    pub const HUGE_PAGE: Self = Self { log2: 21 };
    /// 1 GiB: the largest alignment that is accepted.
    pub const MAX: Self = Self { log2: 30 };

    /// Checks that `bytes` is a power of two from 1 to 1 GiB.
    ///
    /// # Errors
    ///
    /// [`AlignmentError`] for every other number, zero included.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_buf::Alignment;
    ///
    /// assert_eq!(Alignment::new(4096)?, Alignment::BLOCK);
    /// assert!(Alignment::new(1000).is_err());
    /// # Ok::<(), esker_buf::AlignmentError>(())
    /// ```
    pub const fn new(bytes: usize) -> Result<Self, AlignmentError> {
        if bytes.is_power_of_two() && bytes <= Self::MAX.bytes() {
            #[expect(clippy::cast_possible_truncation, reason = "at most 30")]
            let log2 = bytes.trailing_zeros() as u8;
            Ok(Self { log2 })
        } else {
            Err(AlignmentError { bytes })
        }
    }

    /// The alignment in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.log2
    }

    /// Whether `value` (an address, an offset or a length in bytes) is a multiple of it.
    #[must_use]
    pub const fn divides(self, value: u64) -> bool {
        value & self.mask() == 0
    }

    /// The largest multiple that is not above `value`.
    #[must_use]
    pub const fn floor(self, value: u64) -> u64 {
        value & !self.mask()
    }

    /// The smallest multiple that is not below `value`; `None` if it would exceed `u64::MAX`.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_buf::Alignment;
    ///
    /// assert_eq!(Alignment::BLOCK.ceil(1), Some(4096));
    /// assert_eq!(Alignment::BLOCK.ceil(u64::MAX), None);
    /// ```
    #[must_use]
    pub const fn ceil(self, value: u64) -> Option<u64> {
        match value.checked_add(self.mask()) {
            Some(raised) => Some(self.floor(raised)),
            None => None,
        }
    }

    const fn mask(self) -> u64 {
        (1u64 << self.log2) - 1
    }
}

impl fmt::Debug for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alignment({} B)", self.bytes())
    }
}

impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_powers_of_two_up_to_a_gibibyte_are_accepted() {
        for bytes in [0, 3, 1000, 4095, 4097, (1 << 30) + 1, 1 << 31, usize::MAX] {
            assert_eq!(Alignment::new(bytes), Err(AlignmentError { bytes }));
        }
        for log2 in 0..=30 {
            assert_eq!(
                Alignment::new(1 << log2).map(Alignment::bytes),
                Ok(1 << log2)
            );
        }
    }

    proptest! {
        #[test]
        fn floor_and_ceil_are_the_nearest_multiples(log2 in 0u8..=30, value: u64) {
            let alignment = Alignment { log2 };
            let step = alignment.bytes() as u64;
            let floor = alignment.floor(value);
            prop_assert!(floor <= value && value - floor < step && floor.is_multiple_of(step));
            prop_assert_eq!(alignment.divides(value), floor == value);
            match alignment.ceil(value) {
                Some(ceil) => prop_assert!(ceil >= value && ceil - value < step && ceil.is_multiple_of(step)),
                None => prop_assert!(value > u64::MAX - step),
            }
        }
    }
}
