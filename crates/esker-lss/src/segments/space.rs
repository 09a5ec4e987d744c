//! Space for the log to grow into: segments made, taken from spares, and freed.

use std::path::Path;

use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::{Allocated, Backend, BackendExt, Create, Durability, FileOptions, IoError};

use super::names::SegmentName;
use super::{Open, SegmentSet};
use crate::Lsn;
use crate::error::SpaceError;

/// How much is written at a time when a spare is filled with zeroes.
const PREWRITE_BYTES: usize = 1 << 20;

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

    /// A number that no spare and no file in the making has.
    fn take_number(&mut self) -> u64 {
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

    /// Makes a file that [`ensure`](Self::ensure) can take without waiting for its space, written
    /// with zeroes where the file system has only reserved it. Blocks for long, but nobody else.
    ///
    /// `keep_going` is asked now and then; `false` undoes what was begun, and is the result.
    ///
    /// # Errors
    ///
    /// [`SpaceError::NoSpace`] leaves nothing behind.
    pub(crate) fn prepare_spare(
        &self,
        keep_going: &mut dyn FnMut() -> bool,
        syncs: &dyn Syncs,
    ) -> Result<bool, SpaceError> {
        let number = self.growth.lock().take_number();
        let new_path = self.path_of(SegmentName::Unfinished(number));
        let mut fill = |file: &_| self.prewrite(file, keep_going);
        if !self.make_file(&new_path, &mut fill, syncs)? {
            return Ok(false);
        }
        let path = self.path_of(SegmentName::Spare(number));
        self.backend.rename(&new_path, &path)?;
        self.sync_names(syncs)?;
        self.growth.lock().spares.push(number);
        Ok(true)
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
        let open = self
            .files
            .lock()
            .get(&segment)
            .filter(|open| open.writable)
            .map(|open| open.file.clone());
        if let Some(file) = open {
            return self.complete(&file, syncs);
        }
        let path = self.path(segment);
        if !self.take_spare(growth, &path)? {
            let new_path = self.path_of(SegmentName::Unfinished(growth.take_number()));
            self.make_file(&new_path, &mut |_| Ok(true), syncs)?;
            self.backend.rename(&new_path, &path)?;
        }
        if !cfg!(esker_canary = "lss-segment-name-unsynced") {
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

    /// Creates a file of a segment's length under a preliminary name, with all its space, durable;
    /// removes it again if that fails or `fill` says no, which is the result.
    fn make_file(
        &self,
        path: &Path,
        fill: &mut dyn FnMut(&B::File) -> Result<bool, SpaceError>,
        syncs: &dyn Syncs,
    ) -> Result<bool, SpaceError> {
        let file = self.open_writable(path, Create::IfMissing)?;
        let made = self.give_space(&file, fill, syncs);
        if !matches!(made, Ok(true)) {
            drop(file);
            self.backend.remove(path)?;
        }
        made
    }

    fn give_space(
        &self,
        file: &B::File,
        fill: &mut dyn FnMut(&B::File) -> Result<bool, SpaceError>,
        syncs: &dyn Syncs,
    ) -> Result<bool, SpaceError> {
        let allocated = self
            .backend
            .allocate(file, 0, self.geometry.segment_bytes())?;
        if allocated == Allocated::Reserved && !fill(file)? {
            return Ok(false);
        }
        syncs.watch(&mut || self.backend.sync_data(file))?;
        Ok(true)
    }

    fn sync_names(&self, syncs: &dyn Syncs) -> Result<(), IoError> {
        syncs.watch(&mut || self.backend.sync_dir(&self.dir))
    }

    /// Writes zeroes to a whole file; whether it was not interrupted.
    fn prewrite(
        &self,
        file: &B::File,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<bool, SpaceError> {
        let segment_bytes = self.geometry.segment_bytes();
        #[expect(clippy::cast_possible_truncation, reason = "at most PREWRITE_BYTES")]
        let chunk = segment_bytes.min(PREWRITE_BYTES as u64) as usize;
        let alignment = self.geometry.block().max(Alignment::BLOCK);
        let mut buf = AlignedBuf::zeroed_on(chunk, alignment, HugePages::Never)?;
        let mut offset = 0;
        // Both are powers of two, so the chunks end where the file does.
        while offset < segment_bytes {
            if !keep_going() {
                return Ok(false);
            }
            buf = self
                .backend
                .write_at(file, offset, buf, Durability::Written)
                .map_err(IoError::from)?;
            offset += chunk as u64;
        }
        Ok(true)
    }

    fn is_whole(&self, path: &Path, open: Option<&Open<B::File>>) -> Result<bool, SpaceError> {
        let file = match open {
            Some(open) => open.file.clone(),
            None => self.backend.open(path, &FileOptions::read())?,
        };
        Ok(self.backend.facts(&file)?.len_bytes == self.geometry.segment_bytes())
    }
}
