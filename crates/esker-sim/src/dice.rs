//! [`Dice`]: everything that is left to chance, drawn from one seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Chance that repeats: the same seed gives the same draws.
///
/// # Examples
///
/// ```
/// use esker_sim::Dice;
///
/// let (mut one, mut other) = (Dice::new(7), Dice::new(7));
/// assert_eq!(one.draw(), other.draw());
/// assert!(one.below(10) < 10);
/// ```
#[derive(Clone, Debug)]
pub struct Dice {
    rng: ChaCha8Rng,
}

impl Dice {
    /// The dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A number below `bound`; 0 if that is 0. Not quite even for bounds near 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// An index into something of this length; 0 if it is empty.
    #[expect(clippy::cast_possible_truncation, reason = "below a `usize`")]
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Yes, `times` out of `of`.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }
}
