//! [`AnyBackend`]: one of the kernel backends, picked by what this system lets.

use core::ops::Range;
use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use esker_buf::IoRegion;

use crate::action::{Action, Completion};
use crate::backend::{Backend, Description, FileFacts, FileOptions};
use crate::blocking::Blocking;
use crate::error::IoError;
use crate::file::FileHandle;
use crate::latency::Latencies;
use crate::operation::Operation;
use crate::registration::{RegisterError, Registration};
use crate::statistics::Statistics;
use crate::sync::Arc;
use crate::uring::{Uring, UringConfig, UringError};

/// A kernel backend whose kind is known only when the program runs.
///
/// # Examples
///
/// ```
/// use esker_io::{AnyBackend, Backend};
///
/// let backend = AnyBackend::auto();
/// println!("{}", backend.description());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyBackend {
    /// io_uring.
    Uring(Uring),
    /// Blocking system calls.
    Blocking(Blocking),
}

impl AnyBackend {
    /// io_uring with its default configuration where a ring can be set up and a trial operation
    /// comes back through it, else blocking calls; [`description`](Backend::description) tells why.
    #[must_use]
    pub fn auto() -> Self {
        match Uring::new(UringConfig::default()) {
            Ok(uring) => Self::Uring(uring),
            Err(error) => Self::Blocking(Blocking::because(explain(&error))),
        }
    }

    /// io_uring with its default configuration.
    ///
    /// # Errors
    ///
    /// [`UringError`] says why there is none.
    pub fn uring() -> Result<Self, UringError> {
        Uring::new(UringConfig::default()).map(Self::Uring)
    }

    /// Blocking calls.
    #[must_use]
    pub fn blocking() -> Self {
        Self::Blocking(Blocking::new())
    }
}

/// An error with what caused it, in one line.
fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

macro_rules! either {
    ($self:expr, $backend:ident => $call:expr) => {
        match $self {
            Self::Uring($backend) => $call,
            Self::Blocking($backend) => $call,
        }
    };
}

impl Backend for AnyBackend {
    type File = FileHandle;

    fn description(&self) -> Description {
        either!(self, backend => backend.description())
    }

    fn statistics(&self) -> Statistics {
        either!(self, backend => backend.statistics())
    }

    fn latencies(&self) -> Latencies {
        either!(self, backend => backend.latencies())
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        either!(self, backend => backend.create_dir_all(path))
    }

    fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        either!(self, backend => backend.open(path, options))
    }

    fn list(&self, dir: &Path) -> Result<Vec<OsString>, IoError> {
        either!(self, backend => backend.list(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        either!(self, backend => backend.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        either!(self, backend => backend.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), IoError> {
        either!(self, backend => backend.sync_dir(dir))
    }

    fn path(&self, file: &FileHandle) -> Arc<Path> {
        either!(self, backend => backend.path(file))
    }

    fn facts(&self, file: &FileHandle) -> Result<FileFacts, IoError> {
        either!(self, backend => backend.facts(file))
    }

    fn try_lock(&self, file: &FileHandle) -> Result<bool, IoError> {
        either!(self, backend => backend.try_lock(file))
    }

    fn is_locked(&self, file: &FileHandle) -> Result<bool, IoError> {
        either!(self, backend => backend.is_locked(file))
    }

    fn first_hole(&self, file: &FileHandle, offset: u64) -> Result<Option<Range<u64>>, IoError> {
        either!(self, backend => backend.first_hole(file, offset))
    }

    fn register(&self, memory: Box<dyn IoRegion>) -> Result<Registration, RegisterError> {
        either!(self, backend => backend.register(memory))
    }

    fn submit(&self, batch: Vec<Operation<FileHandle>>) {
        either!(self, backend => backend.submit(batch));
    }

    fn execute(&self, file: &FileHandle, action: Action) -> Completion {
        either!(self, backend => backend.execute(file, action))
    }

    fn in_flight(&self) -> usize {
        either!(self, backend => backend.in_flight())
    }

    fn wait_until(&self, ready: &mut dyn FnMut() -> bool, timeout: Option<Duration>) -> bool {
        either!(self, backend => backend.wait_until(ready, timeout))
    }

    fn wait_for(&self, ready: &(dyn Fn() -> bool + Sync), timeout: Option<Duration>) -> bool {
        either!(self, backend => backend.wait_for(ready, timeout))
    }

    fn wake(&self) {
        either!(self, backend => backend.wake());
    }

    fn poll(&self) -> usize {
        either!(self, backend => backend.poll())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_ring_is_explained_by_its_cause() {
        let error = UringError::setup(std::io::Error::from_raw_os_error(libc::EPERM));
        let backend = Blocking::because(explain(&error));
        let reason = backend.description().reason;
        assert!(reason.contains("forbidden"), "{reason}");
        assert!(reason.contains("not permitted"), "{reason}");
    }
}
