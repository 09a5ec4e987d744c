//! [`Table`]: the operations in the kernel's hands, by index and generation.

use super::Accepted;
use super::regions::Region;
use crate::sync::Arc;

/// An operation, and what the kernel needs for it besides.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) operation: Accepted,
    /// What the entry for a write from gathered memory points to.
    pub(crate) vectors: Vectors,
    /// The registered memory that the operation's lies in, if it does (G2).
    pub(super) region: Option<Arc<Region>>,
}

/// Vectors that name memory of an operation.
#[derive(Debug, Default)]
pub(crate) struct Vectors(pub(crate) Box<[libc::iovec]>);

// SAFETY: they only name memory, which belongs to the operation beside them and is Send itself.
unsafe impl Send for Vectors {}

/// Names an operation in the table; the kernel carries it as user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// The user data of an operation that only ends a wait. No token has it: an index is never so
    /// large.
    pub(crate) const KICK: u64 = u64::MAX;

    pub(crate) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "takes the two halves apart"
    )]
    pub(crate) fn from_user_data(user_data: u64) -> Self {
        Self {
            index: user_data as u32,
            generation: (user_data >> 32) as u32,
        }
    }
}

#[derive(Debug)]
struct Slot {
    /// Counts the slot's tenants, so that a token of an earlier one finds nothing.
    generation: u32,
    tenant: Option<InFlight>,
}

/// A fixed number of slots. An operation keeps its slot, and so its memory its owner, from before
/// the kernel is told of it until the kernel has said for the last time that it is over.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Table {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots: (0..slots)
                .map(|_| Slot {
                    generation: 0,
                    tenant: None,
                })
                .collect(),
            free: (0..slots).rev().collect(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes an operation in; gives it back if there is no slot.
    pub(crate) fn insert(&mut self, tenant: InFlight) -> Result<Token, Box<InFlight>> {
        let Some(index) = self.free.pop() else {
            return Err(Box::new(tenant));
        };
        let slot = &mut self.slots[index as usize];
        slot.tenant = Some(tenant);
        Ok(Token {
            index,
            generation: slot.generation,
        })
    }

    /// The operation that the token names, if it is still there.
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut InFlight> {
        self.slots
            .get_mut(token.index as usize)
            .filter(|slot| slot.generation == token.generation)
            .and_then(|slot| slot.tenant.as_mut())
    }

    /// Takes the operation out and frees its slot.
    pub(crate) fn remove(&mut self, token: Token) -> Option<InFlight> {
        let slot = self
            .slots
            .get_mut(token.index as usize)
            .filter(|slot| slot.generation == token.generation)?;
        let tenant = slot.tenant.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.index);
        Some(tenant)
    }
}
