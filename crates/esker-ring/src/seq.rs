//! [`BufferSeq`]: which buffer, counted over the whole life of the log.

use core::fmt;

/// The sequence number of a flush buffer. They have no gaps: an extent takes one like any buffer,
/// and an empty buffer never uses one up.
///
/// # Examples
///
/// ```
/// use esker_ring::BufferSeq;
///
/// let seq = BufferSeq::new(7);
/// assert_eq!(seq.next().map(BufferSeq::get), Some(8));
/// assert_eq!(BufferSeq::new(u64::MAX).next(), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferSeq(u64);

impl BufferSeq {
    /// The buffer with number `seq`.
    #[must_use]
    pub const fn new(seq: u64) -> Self {
        Self(seq)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The buffer after this one; `None` after the last number.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(seq) => Some(Self(seq)),
            None => None,
        }
    }
}

impl fmt::Debug for BufferSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferSeq({})", self.0)
    }
}

impl fmt::Display for BufferSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
