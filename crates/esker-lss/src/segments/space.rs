//! Space for the log to grow into: segments made, taken from spares, and freed.

use std::path::{Path, PathBuf};

use esker_io::{Allocated, Backend, BackendExt, Create, FileOptions, IoError};

use super::names::SegmentName;
use super::{Open, SegmentSet};
use crate::Lsn;
use crate::error::SpaceError;

/// Who hears of a sync from before it begins until its outcome has been dealt with: a failure may
/// concern more than what the sync was for.
pub(crate) trait Syncs {
    /// Calls `sync`, once, and returns what it says.
    ///
    /// # Errors
    ///
    /// Those of `sync`.
    fn watch(&self, sync: &mut dyn FnMut() -> Result<(), IoError>) -> Result<(), IoError>;
}

/// How far the files go, and what there is to go on with.
#[derive(Default)]
pub(super) struct Growth {
    /// The first segment that is not known to be there with all its space.
    pub(super) covered: u64,
    /// The numbers of the spares.
    spares: Vec<u64>,
    /// The number for the name of the next file that is made.
    next_spare: u64,
}

impl Growth {
    /// Takes in a spare that was found.
    pub(super) fn found(&mut self, spare: u64) {
        self.next_spare = self.next_spare.max(spare.saturating_add(1));
        self.spares.push(spare);
    }

    /// Takes in a spare that was made.
    pub(super) fn made(&mut self, spare: u64) {
        self.spares.push(spare);
    }

    /// A number that no spare and no file in the making has.
    pub(super) fn take_number(&mut self) -> u64 {
        let number = self.next_spare;
        self.next_spare = number.saturating_add(1);
        number
    }
}

impl<B: Backend> SegmentSet<B> {
    /// Makes sure that there is space for every address below `end`, and returns the address up to
    /// which there is. Takes spares where there are some, else creates files. Blocks.
    ///
    /// # Errors
    ///
    /// [`SpaceError::NoSpace`] changes nothing: what there was space for there still is.
    pub(crate) fn ensure(&self, end: Lsn, syncs: &dyn Syncs) -> Result<Lsn, SpaceError> {
        if end > Lsn::LIMIT {
            return Err(SpaceError::LogFull);
        }
        let segment_bytes = self.geometry.segment_bytes();
        let wanted = end.get().div_ceil(segment_bytes);
        let mut growth = self.growth.lock();
        while growth.covered < wanted {
            self.add(growth.covered, &mut growth, syncs)?;
            growth.covered += 1;
        }
        Ok(Lsn::new(growth.covered * segment_bytes))
    }

    /// How many spares there are.
    pub(crate) fn spares(&self) -> usize {
        self.growth.lock().spares.len()
    }

    /// Frees the segments that lie below `lsn` as a whole, which no superblock names any more: up
    /// to `keep_spares` of them stay as spares, the others are removed. How many were freed.
    ///
    /// # Errors
    ///
    /// What the file system says; a segment that is still there is freed by the next call.
    pub(crate) fn remove_below(
        &self,
        lsn: Lsn,
        keep_spares: usize,
        syncs: &dyn Syncs,
    ) -> Result<u64, SpaceError> {
        let end = self.geometry.segment_of(lsn.get());
        let mut freed = 0;
        for segment in self.existing()?.range(..end) {
            let path = self.path(*segment);
            let open = self.files.lock().remove(segment);
            if self.spares() < keep_spares && self.is_whole(&path, open.as_ref())? {
                let spare = self.growth.lock().take_number();
                self.backend
                    .rename(&path, &self.path_of(SegmentName::Spare(spare)))?;
                self.growth.lock().spares.push(spare);
            } else {
                self.backend.remove(&path)?;
            }
            freed += 1;
        }
        if freed > 0 {
            self.sync_names(syncs)?;
        }
        Ok(freed)
    }

    fn add(&self, segment: u64, growth: &mut Growth, syncs: &dyn Syncs) -> Result<(), SpaceError> {
        if let Some(file) = self.writable(segment) {
            return self.complete(&file, syncs);
        }
        let path = self.path(segment);
        if !self.take_spare(growth, &path)? {
            // Better a spare that is not finished than another file.
            let new_path = match self.take_making(syncs)? {
                Some(unfinished) => unfinished,
                None => self.make_file(growth.take_number(), syncs)?,
            };
            self.backend.rename(&new_path, &path)?;
        }
        if !canary!("lss-segment-name-unsynced") {
            self.sync_names(syncs)?;
        }
        // Under its new name, for errors to name. The lock may have to wait for a read of the
        // segment that it was.
        let file = self.open_writable(&path, Create::Never)?;
        let open = self.opened(file, true)?;
        self.files.lock().insert(segment, open);
        Ok(())
    }

    /// Gives a file that is too short its full length.
    fn complete(&self, file: &B::File, syncs: &dyn Syncs) -> Result<(), SpaceError> {
        let len = self.backend.facts(file)?.len_bytes;
        let segment_bytes = self.geometry.segment_bytes();
        if len < segment_bytes {
            let from = self.geometry.block().floor(len);
            self.backend.allocate(file, from, segment_bytes - from)?;
            syncs.watch(&mut || self.backend.sync_data(file))?;
        }
        Ok(())
    }

    /// Gives a spare the name `path`; whether there was one.
    fn take_spare(&self, growth: &mut Growth, path: &Path) -> Result<bool, SpaceError> {
        while let Some(number) = growth.spares.pop() {
            let spare = self.path_of(SegmentName::Spare(number));
            let found = match self.backend.open(&spare, &FileOptions::read()) {
                // A spare holds nothing: who removed it, meant the space.
                Err(IoError::NotFound { .. }) => continue,
                found => found?,
            };
            let whole = self.backend.facts(&found)?.len_bytes == self.geometry.segment_bytes();
            if whole {
                self.backend.rename(&spare, path)?;
                return Ok(true);
            }
            // Not one of ours, or not any more.
            self.backend.remove(&spare)?;
        }
        Ok(false)
    }

    /// Creates a file of a segment's length, with all its space, durable; its path. Removes it again
    /// if that fails.
    fn make_file(&self, number: u64, syncs: &dyn Syncs) -> Result<PathBuf, SpaceError> {
        let path = self.path_of(SegmentName::Unfinished(number));
        let (file, _) = self.create(&path)?;
        self.or_remove(&path, syncs.watch(&mut || self.backend.sync_data(&file)))?;
        Ok(path)
    }

    /// Creates a file of a segment's length with all its space; none of that is durable. Removes it
    /// again if that fails.
    pub(super) fn create(&self, path: &Path) -> Result<(B::File, Allocated), SpaceError> {
        let file = self.open_writable(path, Create::IfMissing)?;
        let bytes = self.geometry.segment_bytes();
        let allocated = self.or_remove(path, self.backend.allocate(&file, 0, bytes))?;
        Ok((file, allocated))
    }

    /// What was done with the file at `path`; it is removed if that failed. An error of the removal
    /// comes first: a full disk may be waited out, that not.
    pub(super) fn or_remove<T>(
        &self,
        path: &Path,
        done: Result<T, IoError>,
    ) -> Result<T, SpaceError> {
        if done.is_err() {
            self.backend.remove(path)?;
        }
        Ok(done?)
    }

    pub(super) fn sync_names(&self, syncs: &dyn Syncs) -> Result<(), IoError> {
        syncs.watch(&mut || self.backend.sync_dir(&self.dir))
    }

    fn is_whole(&self, path: &Path, open: Option<&Open<B::File>>) -> Result<bool, SpaceError> {
        let file = match open {
            Some(open) => open.file.clone(),
            None => self.backend.open(path, &FileOptions::read())?,
        };
        Ok(self.backend.facts(&file)?.len_bytes == self.geometry.segment_bytes())
    }
}
