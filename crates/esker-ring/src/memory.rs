//! [`RingMemory`]: the memory behind a ring's buffers, for a kernel to be told of once.

use core::fmt;

use esker_buf::IoRegion;

use crate::shared::Shared;
use crate::sync::Arc;

/// Holds the memory of a ring's buffers, extents excepted. Gives no access to it.
///
/// # Examples
///
/// ```
/// use esker_buf::IoRegion;
/// use esker_ring::{Ring, RingMemory};
///
/// let ring = Ring::builder().build()?;
/// let memory: RingMemory = ring.memory();
/// let (_, len_bytes) = memory.region();
/// assert!(len_bytes >= ring.buffers() * ring.capacity_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RingMemory {
    shared: Arc<Shared>,
}

impl RingMemory {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }
}

// SAFETY: the arena is neither freed, moved nor mapped anew before the last owner of `shared`.
unsafe impl IoRegion for RingMemory {
    fn region(&self) -> (*const u8, usize) {
        self.shared.arena()
    }
}

impl fmt::Debug for RingMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingMemory")
            .field("len_bytes", &self.region().1)
            .finish_non_exhaustive()
    }
}
