//! What the end of a machine or of a process leaves to chance, and who decides it.

use std::path::PathBuf;

use crate::Dice;
use crate::node::sectors;

/// Something that was not durable when the end came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undurable {
    /// What it is.
    pub what: Loss,
    /// The file, by a name that it had.
    pub path: PathBuf,
}

/// What may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A write that had completed.
    Written {
        /// Where it began, in bytes.
        offset: u64,
        /// Its length in bytes.
        len_bytes: usize,
    },
    /// A write that was in flight.
    InFlight {
        /// Where it began, in bytes.
        offset: u64,
        /// Its length in bytes.
        len_bytes: usize,
    },
    /// The length of a file, cut or extended.
    Length,
    /// A name that was given, changed or removed.
    Name,
}

/// What becomes of something that was not durable.
///
/// A length or a name is kept if it is not [`Lost`](Self::Lost).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// It is as if it had never happened.
    Lost,
    /// All of it is there.
    Kept,
    /// Of a write, the sectors of 512 bytes that a seed picks; at least one of them is lost and, if
    /// it has more than one, at least one is kept.
    Torn(u64),
    /// Of a write, the first sectors.
    Prefix(usize),
    /// Of a write in flight when its process was killed: all of it, later, in the next life; its
    /// file stays locked until then. In a power failure it is lost.
    Late,
}

impl Survival {
    /// Any of them but [`Late`](Self::Late).
    #[must_use]
    pub fn drawn(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0..3 => Self::Kept,
            3..6 => Self::Lost,
            6 => Self::Torn(dice.draw()),
            _ => Self::Prefix(dice.index(8)),
        }
    }

    /// Which ranges of a write's bytes reach the disk.
    pub(crate) fn pieces(self, offset: u64, len: usize) -> Vec<core::ops::Range<usize>> {
        let all = || sectors(offset, len).collect::<Vec<_>>();
        match self {
            Self::Lost | Self::Late => Vec::new(),
            Self::Kept => std::iter::once(0..len).collect(),
            Self::Prefix(count) => all().into_iter().take(count).collect(),
            Self::Torn(seed) => {
                let mut pieces = all();
                let mut dice = Dice::new(seed);
                let lost = dice.index(pieces.len());
                let kept = dice.index(pieces.len().saturating_sub(1));
                let kept = if kept >= lost { kept + 1 } else { kept };
                let mut number = 0;
                pieces.retain(|_| {
                    let picked = dice.chance(1, 2);
                    number += 1;
                    (picked || number - 1 == kept) && number - 1 != lost
                });
                pieces
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_is_neither_whole_nor_gone() {
        for seed in 0..200 {
            let count = Survival::Torn(seed).pieces(0, 4096).len();
            assert!((1..8).contains(&count), "seed {seed}: {count}");
            assert!(Survival::Torn(seed).pieces(0, 100).is_empty());
        }
        assert_eq!(Survival::Prefix(2).pieces(512, 2048), [0..512, 512..1024]);
        assert_eq!(Survival::Prefix(9).pieces(0, 1024).len(), 2);
    }
}
