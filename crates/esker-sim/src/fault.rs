//! [`Fault`]: what a device is told to do wrong, and when.

use esker_io::IoError;

/// Something that goes wrong once. Operations are counted as they are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A write ends with EIO; whether it has landed is for the seed to say.
    WriteFails,
    /// A write ends with EIO after its first sectors of 512 bytes have been transferred.
    WriteIsShort {
        /// So many of them.
        sectors: usize,
    },
    /// A write succeeds, and nothing of it is there: the old content stays.
    WriteIsLost,
    /// A write succeeds, and its bytes are at another offset of its file.
    WriteGoesTo {
        /// Where they are, in bytes.
        offset: u64,
    },
    /// A data sync ends with EIO. What it should have covered is made durable by no later sync.
    SyncFails,
    /// A sync of a directory ends with EIO.
    DirSyncFails,
    /// A sync of either kind ends with EIO, because the device has failed to flush its cache: nothing
    /// that was written before, to any file, is made durable by a later one.
    FlushFails,
    /// A read ends with EIO.
    ReadFails,
    /// A file cannot be opened, be it there or not: EIO.
    OpenFails,
    /// An allocation finds the disk full.
    NoSpace,
}

/// What is counted to tell when a fault is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Write,
    Sync,
    DirSync,
    Read,
    Open,
    Allocate,
}

impl Fault {
    fn comes_with(self, turn: Turn) -> bool {
        match self {
            Self::WriteFails
            | Self::WriteIsShort { .. }
            | Self::WriteIsLost
            | Self::WriteGoesTo { .. } => turn == Turn::Write,
            Self::SyncFails => turn == Turn::Sync,
            Self::DirSyncFails => turn == Turn::DirSync,
            Self::FlushFails => matches!(turn, Turn::Sync | Turn::DirSync),
            Self::ReadFails => turn == Turn::Read,
            Self::OpenFails => turn == Turn::Open,
            Self::NoSpace => turn == Turn::Allocate,
        }
    }
}

/// The faults that are still to come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    due: Vec<(u64, Fault)>,
}

impl Faults {
    /// After `skipped` more operations of its kind, the next has this fault.
    pub(crate) fn add(&mut self, fault: Fault, skipped: u64) {
        self.due.push((skipped, fault));
    }

    /// How many have not come yet.
    pub(crate) fn left(&self) -> usize {
        self.due.len()
    }

    /// An operation is carried out; what goes wrong with it, if anything.
    pub(crate) fn take(&mut self, turn: Turn) -> Option<Fault> {
        let mut found = None;
        self.due.retain_mut(|(skipped, fault)| {
            if !fault.comes_with(turn) {
                return true;
            }
            if *skipped == 0 && found.is_none() {
                found = Some(*fault);
                return false;
            }
            *skipped = skipped.saturating_sub(1);
            true
        });
        found
    }
}

/// The machine has stopped: nothing that is asked of it from then on happens.
///
/// It is the source of every [`IoError`] of a simulation that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the machine is down")]
pub struct MachineDown;

impl MachineDown {
    /// Whether this is why an operation failed.
    #[must_use]
    pub fn caused(error: &IoError) -> bool {
        match error {
            IoError::Os { source, .. } => source.get_ref().is_some_and(|inner| inner.is::<Self>()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_comes_once_and_in_its_turn() {
        let mut faults = Faults::default();
        faults.add(Fault::WriteFails, 1);
        faults.add(Fault::SyncFails, 0);
        faults.add(Fault::WriteIsLost, 1);
        assert_eq!(faults.take(Turn::Write), None);
        assert_eq!(faults.take(Turn::Write), Some(Fault::WriteFails));
        assert_eq!(faults.take(Turn::Write), Some(Fault::WriteIsLost));
        assert_eq!(faults.take(Turn::Write), None);
        assert_eq!(faults.take(Turn::Sync), Some(Fault::SyncFails));
        assert_eq!(faults.take(Turn::Sync), None);
    }
}
