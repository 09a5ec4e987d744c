//! [`Lsn`]: a byte address in the log.

use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;

/// A log sequence number: a byte address in one endless log that starts at 0.
///
/// It is given out once per life of the store and stays valid until it is trimmed. An address past
/// the end that was dropped in a crash is given out again, with other content, in a later epoch.
///
/// # Examples
///
/// ```
/// use esker_lss::Lsn;
///
/// let lsn: Lsn = "4160".parse()?;
/// assert_eq!(lsn.get(), 4160);
/// assert_eq!(lsn.to_string(), "4160");
/// assert_eq!(lsn.checked_add(8), Some(Lsn::new(4168)));
/// # Ok::<(), esker_lss::ParseLsnError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The start of every log.
    pub const ZERO: Self = Self(0);

    /// No log is longer than this: 4 EiB. Nothing on disk may name an address above it, so that
    /// sums of an address and a length never overflow.
    pub const LIMIT: Self = Self(1 << 62);

    /// The address `bytes` from the start of the log.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The distance from the start of the log in bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on; `None` if that exceeds `u64::MAX`.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// How many bytes lie between `earlier` and this address; `None` if it is the later one.
    #[must_use]
    pub const fn checked_distance_from(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a decimal number below 2^64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an LSN is a decimal number below 2^64")]
pub struct ParseLsnError(#[from] ParseIntError);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(value: u64) {
            prop_assert_eq!(Lsn::new(value).to_string().parse(), Ok(Lsn::new(value)));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", " 1", "1 ", "-1", "0x10", "18446744073709551616", "one"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn arithmetic_is_checked() {
        assert_eq!(Lsn::new(u64::MAX).checked_add(1), None);
        assert_eq!(Lsn::new(8).checked_distance_from(Lsn::new(9)), None);
        assert_eq!(Lsn::new(9).checked_distance_from(Lsn::new(8)), Some(1));
    }
}
