//! Memory that the kernel was told of: [`Region`], and the slots of the ring's table of it.
//!
//! These hold:
//!
//! - G1. A region's memory is held from before the kernel is told of it until after the kernel has
//!   been told to forget it: the last owner of a [`Region`] does the latter.
//! - G2. An operation names a region only if all of its memory lies within it, and holds it until
//!   its last completion has been taken: so the kernel never meets a slot that has been emptied.
//! - G3. A slot is given to a new region only after it has been emptied.

use std::{fmt, io};

use esker_buf::IoRegion;

use super::Ring;
use crate::registration::RegisterError;
use crate::sync::{Arc, Mutex, Weak};

/// How many slots a ring has unless another number is asked for.
pub(super) const SLOTS: u32 = 16;

/// The longest stretch that the kernel takes in one slot.
const MAX_BYTES: usize = 1 << 30;

/// The slots of the kernel's table that are free.
#[derive(Debug)]
pub(super) struct Slots {
    free: Mutex<Vec<u16>>,
    count: u32,
}

impl Slots {
    pub(super) fn new(count: u32) -> Self {
        let free = (0..=u16::MAX).take(count as usize).rev().collect();
        Self {
            free: Mutex::new(free),
            count,
        }
    }
}

/// A stretch of memory in one slot.
pub(super) struct Region {
    ring: Weak<Ring>,
    index: u16,
    start: usize,
    end: usize,
    /// Kept for its memory (G1), until the drop.
    memory: Option<Box<dyn IoRegion>>,
}

impl Region {
    /// The slot, if these bytes lie within the region.
    pub(super) fn holds(&self, start: *const u8, len: usize) -> bool {
        let start = start.addr();
        self.start <= start && start.checked_add(len).is_some_and(|end| end <= self.end)
    }

    pub(super) fn index(&self) -> u16 {
        self.index
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // A ring that has gone has taken its table with it.
        let Some(ring) = self.ring.upgrade() else {
            return;
        };
        let (index, memory) = (self.index, self.memory.take());
        ring.entering_soon(move |ring| {
            if ring.set_slot(index, 0, 0).is_ok() {
                ring.slots.free.lock().push(index);
            }
            // Else the slot stays as it is and is not used again: its pages are pinned, not its
            // addresses.
            drop(memory);
        });
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("index", &self.index)
            .field("len_bytes", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

/// What holds a region for the one who registered it: without it no new operation uses it.
pub(super) struct Holder {
    region: Option<Arc<Region>>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        let Some(region) = self.region.take() else {
            return;
        };
        if let Some(ring) = region.ring.upgrade() {
            if !ring.origin.is_here() {
                // O2: the slot is the parent's.
                core::mem::forget(region);
                core::mem::forget(ring);
                return;
            }
            let regions = &mut ring.state.lock().regions;
            regions.retain(|other| !Arc::ptr_eq(other, &region));
        }
        // Here, with no lock held, unless an operation still has it.
        drop(region);
    }
}

impl Ring {
    /// Tells the kernel of memory and lets operations use that from now on.
    pub(super) fn register(
        self: &Arc<Self>,
        memory: Box<dyn IoRegion>,
    ) -> Result<Holder, RegisterError> {
        let (start, len_bytes) = memory.region();
        if self.slots.count == 0 {
            return Err(RegisterError::Unsupported);
        }
        if len_bytes == 0 || len_bytes > MAX_BYTES {
            return Err(RegisterError::Length { len_bytes });
        }
        let Some(index) = self.slots.free.lock().pop() else {
            let slots = self.slots.count;
            return Err(RegisterError::Full { slots });
        };
        let address = start.expose_provenance();
        let set = self.entering(move |ring| ring.set_slot(index, address, len_bytes));
        let gone = || Err(io::Error::from_raw_os_error(libc::ENXIO));
        if let Err(source) = set.unwrap_or_else(gone) {
            self.slots.free.lock().push(index);
            return Err(RegisterError::Refused { source });
        }
        let region = Arc::new(Region {
            ring: Arc::downgrade(self),
            index,
            start: start.addr(),
            end: start.addr() + len_bytes,
            memory: Some(memory),
        });
        self.state.lock().regions.push(Arc::clone(&region));
        Ok(Holder {
            region: Some(region),
        })
    }

    /// Puts memory into a slot of the kernel's table, or with a length of zero empties it.
    fn set_slot(&self, index: u16, address: usize, len: usize) -> io::Result<()> {
        let memory = libc::iovec {
            iov_base: core::ptr::with_exposed_provenance_mut(address),
            iov_len: len,
        };
        let submitter = self.uring.submitter();
        // SAFETY: the memory is held for as long as it is in the slot (G1), and operations that
        // use the slot are over when it is emptied (G2).
        unsafe { submitter.register_buffers_update(u32::from(index), &[memory], None) }
    }
}
