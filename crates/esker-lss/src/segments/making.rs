//! The spare that is being made: a file with all its space, written with zeroes bit by bit while the
//! log goes on, so that it is ready when the log needs it and takes little from those who write.
//!
//! Invariants:
//! - Z1. Zeroes are written only to the file in `making`, and under its lock. Whoever takes that file
//!   for the log takes it out of there first: nothing of the log is ever written over.
//! - Z2. A file is a spare only when all its space has been written or reserved, and is durable.
//! - Z3. Whoever holds this lock does not take that of `Growth`, which is taken before it.

use std::path::PathBuf;
use std::sync::Arc;

use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::{Action, Allocated, Backend, BackendExt, Durability, IoError, WriteMemory};

use super::SegmentSet;
use super::names::SegmentName;
use super::space::Syncs;
use crate::error::SpaceError;

/// How much is written at a time while nobody else wants the device.
const SWIFT_BYTES: u64 = 1 << 20;

/// How much is written at a time while the log goes on. A commit that meets such a write waits for
/// it: it is to take less time than the commit does.
const GENTLE_BYTES: u64 = 64 << 10;

/// A spare that is being made.
pub(super) struct Making<F> {
    /// For its name.
    number: u64,
    file: F,
    /// How far it has been written. All before it was reserved at once.
    zeroed: u64,
    zeroes: Arc<AlignedBuf>,
}

/// How far a spare is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// To its end, as fast as the device can.
    Finished,
    /// About so many bytes, or to its end if that is less, in small writes.
    Bytes(u64),
}

/// How far the making of a spare has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spare {
    /// It is there.
    Made,
    /// It has been written as far as asked, but for less than one write, and is not finished.
    AsFarAsAsked,
    /// There is more to write.
    Behind,
    /// None is being made, or not any more: the log has taken it.
    None,
}

impl<B: Backend> SegmentSet<B> {
    /// Whether a spare is being made.
    pub(crate) fn is_making_spare(&self) -> bool {
        self.making.lock().is_some()
    }

    /// Begins to make a spare, a file that [`ensure`](Self::ensure) can take without waiting for its
    /// space: creates it and reserves the space.
    ///
    /// # Errors
    ///
    /// [`SpaceError`]; nothing is left behind.
    pub(crate) fn begin_spare(&self) -> Result<(), SpaceError> {
        // Before the file: where there is no memory, none is left behind.
        let alignment = self.geometry.block().max(Alignment::BLOCK);
        #[expect(clippy::cast_possible_truncation, reason = "at most SWIFT_BYTES")]
        let bytes = self.write_bytes(Goal::Finished) as usize;
        let zeroes = AlignedBuf::zeroed_on(bytes, alignment, HugePages::Never)?;
        let number = self.growth.lock().take_number();
        let path = self.path_of(SegmentName::Unfinished(number));
        let (file, allocated) = self.create(&path)?;
        let making = Making {
            number,
            file,
            zeroed: match allocated {
                Allocated::WrittenZeroes => self.geometry.segment_bytes(),
                Allocated::Reserved => 0,
            },
            zeroes: Arc::new(zeroes),
        };
        *self.making.lock() = Some(making);
        Ok(())
    }

    /// Goes on making the spare: writes the next part of it, if it falls short of the goal by that
    /// much, and makes it a spare when it is written to its end. Blocks for one write, or the syncs.
    ///
    /// # Errors
    ///
    /// [`SpaceError`]; then no spare is being made any more, and nothing is left behind.
    pub(crate) fn continue_spare(
        &self,
        goal: Goal,
        syncs: &dyn Syncs,
    ) -> Result<Spare, SpaceError> {
        let segment_bytes = self.geometry.segment_bytes();
        let mut place = self.making.lock();
        let Some(making) = &mut *place else {
            return Ok(Spare::None);
        };
        if making.zeroed < segment_bytes {
            let bytes = self.write_bytes(goal).min(segment_bytes - making.zeroed);
            if matches!(goal, Goal::Bytes(upto) if making.zeroed + bytes > upto) {
                return Ok(Spare::AsFarAsAsked);
            }
            if let Err(error) = self.write_zeroes(making, bytes) {
                let path = self.path_of(SegmentName::Unfinished(making.number));
                *place = None;
                return self.or_remove(&path, Err(error));
            }
        }
        if making.zeroed < segment_bytes {
            return Ok(Spare::Behind);
        }
        let number = making.number;
        drop(place);
        // Whoever takes it for the log meanwhile does the same.
        let Some(unfinished) = self.take_making(syncs)? else {
            return Ok(Spare::None);
        };
        let path = self.path_of(SegmentName::Spare(number));
        self.backend.rename(&unfinished, &path)?;
        self.sync_names(syncs)?;
        self.growth.lock().made(number);
        Ok(Spare::Made)
    }

    /// Gives up the spare that is being made.
    ///
    /// # Errors
    ///
    /// The file could not be removed; opening the store removes it.
    pub(crate) fn discard_making(&self) -> Result<(), IoError> {
        let Some(making) = self.making.lock().take() else {
            return Ok(());
        };
        self.backend
            .remove(&self.path_of(SegmentName::Unfinished(making.number)))
    }

    /// Takes the spare that is being made, as far as it has come, with all its space durable; its
    /// path (Z1).
    pub(super) fn take_making(&self, syncs: &dyn Syncs) -> Result<Option<PathBuf>, SpaceError> {
        let mut place = self.making.lock();
        let taken = place
            .as_ref()
            .map(|making| (making.number, making.file.clone()));
        if !cfg!(esker_canary = "lss-zeroes-over-the-log") {
            *place = None;
        }
        drop(place);
        let Some((number, file)) = taken else {
            return Ok(None);
        };
        let path = self.path_of(SegmentName::Unfinished(number));
        self.or_remove(&path, syncs.watch(&mut || self.backend.sync_data(&file)))?;
        Ok(Some(path))
    }

    /// How much is written at a time: a part of a segment, and blocks. All three are powers of two.
    fn write_bytes(&self, goal: Goal) -> u64 {
        let bytes = match goal {
            Goal::Finished => SWIFT_BYTES,
            Goal::Bytes(_) => GENTLE_BYTES,
        };
        let block = self.geometry.block().bytes() as u64;
        bytes.min(self.geometry.segment_bytes() / 16).max(block)
    }

    fn write_zeroes(&self, making: &mut Making<B::File>, bytes: u64) -> Result<(), IoError> {
        #[expect(clippy::cast_possible_truncation, reason = "at most SWIFT_BYTES")]
        let memory = WriteMemory::slice(Arc::clone(&making.zeroes), 0..bytes as usize)
            .expect("no write is longer than the longest");
        let action = Action::Write {
            offset: making.zeroed,
            memory,
            durability: Durability::Written,
        };
        self.backend.execute(&making.file, action).result?;
        making.zeroed += bytes;
        Ok(())
    }
}
