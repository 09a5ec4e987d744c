//! [`SimOptions`]: what a simulated disk is like.

use esker_buf::Alignment;
use esker_io::Allocated;

/// When an operation that was submitted completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Completions {
    /// When somebody waits or polls, in an order that the seed draws.
    #[default]
    Drawn,
    /// Before `submit` returns, in the order of submission.
    Immediate,
}

/// What a simulated disk is like.
///
/// # Examples
///
/// ```
/// use esker_sim::{Sim, SimOptions};
///
/// let sim = Sim::with(SimOptions::new(42).capacity_bytes(1 << 20).alone(true));
/// # drop(sim);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimOptions {
    pub(crate) seed: u64,
    pub(crate) completions: Completions,
    pub(crate) alone: bool,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) alignment: Alignment,
    pub(crate) allocated: Allocated,
    pub(crate) slow_one_in: u64,
}

impl SimOptions {
    /// A disk without bounds, direct I/O in sectors of 512 bytes, and completions in an order that
    /// `seed` draws.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            completions: Completions::default(),
            alone: false,
            capacity_bytes: None,
            alignment: Alignment::SECTOR,
            allocated: Allocated::Reserved,
            slow_one_in: 0,
        }
    }

    /// When operations complete.
    #[must_use]
    pub fn completions(mut self, completions: Completions) -> Self {
        self.completions = completions;
        self
    }

    /// Of the operations submitted, one in so many, drawn by the seed, is slow: it completes only when
    /// nothing else is in flight. None by default.
    #[must_use]
    pub fn slow_one_in(mut self, operations: u64) -> Self {
        self.slow_one_in = operations;
        self
    }

    /// Whether one thread alone uses the disk, so that every run of a seed is the same. Time does
    /// not pass then: a wait with a timeout completes what is in flight and ends. One without a
    /// timeout that nothing can end panics instead of hanging.
    #[must_use]
    pub fn alone(mut self, alone: bool) -> Self {
        self.alone = alone;
        self
    }

    /// How much space there is for files, in bytes. Without a bound by default.
    #[must_use]
    pub fn capacity_bytes(mut self, bytes: u64) -> Self {
        self.capacity_bytes = Some(bytes);
        self
    }

    /// What direct I/O has to be aligned to; 512 bytes by default.
    #[must_use]
    pub fn alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = alignment;
        self
    }

    /// What an allocation claims to have made of its range; [`Allocated::Reserved`] by default.
    #[must_use]
    pub fn allocated(mut self, allocated: Allocated) -> Self {
        self.allocated = allocated;
        self
    }
}
