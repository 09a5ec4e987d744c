//! The spare that is being made: a file with all its space, written with zeroes bit by bit while the
//! log goes on, so that it is ready when the log needs it and takes little from those who write.
//!
//! Invariants:
//! - Z1. Zeroes are written here only to the file in `making`, and under its lock. Whoever takes that
//!   file for the log takes it out of there first: nothing of the log is ever written over. What is
//!   left to write of it is `ahead`'s then.
//! - Z2. A file is a spare only when all its space has been written or reserved, and is durable.
//! - Z3. Whoever holds this lock does not take that of `Growth`, which is taken before it.
//!
//! Z4 and Z5 are in `ahead`.

use std::path::PathBuf;

use esker_io::{Allocated, Backend, BackendExt, IoError};

use super::SegmentSet;
use super::names::SegmentName;
use super::space::Syncs;
use super::zeroes::{Pace, Zeroes};
use crate::error::SpaceError;

/// A spare that is being made.
pub(super) struct Making<F> {
    /// For its name.
    number: u64,
    file: F,
    /// How far it has been written. All before it was reserved at once.
    zeroed: u64,
    zeroes: Zeroes,
}

/// How far a spare is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// To its end, as fast as the device can.
    Finished,
    /// About so many bytes, or to its end if that is less, in small writes.
    Bytes(u64),
}

impl Goal {
    /// How much is written at a time.
    pub(crate) fn pace(self) -> Pace {
        match self {
            Self::Finished => Pace::Swift,
            Self::Bytes(_) => Pace::Gentle,
        }
    }
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
        let zeroes = Zeroes::new(&self.geometry)?;
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
            zeroes,
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
            let bytes = goal.pace().bytes(&self.geometry);
            let bytes = bytes.min(segment_bytes - making.zeroed);
            if matches!(goal, Goal::Bytes(upto) if making.zeroed + bytes > upto) {
                return Ok(Spare::AsFarAsAsked);
            }
            if let Err(error) = self.zero(&making.zeroes, &making.file, making.zeroed, bytes) {
                let path = self.path_of(SegmentName::Unfinished(making.number));
                *place = None;
                return self.or_remove(&path, Err(error));
            }
            making.zeroed += bytes;
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
        if !canary!("lss-zeroes-over-the-log") {
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
}
