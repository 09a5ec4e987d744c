//! [`Opening`] and [`DirSync`]: the calls of operations on names.
//!
//! Each owns the path, and the descriptor that it opens, until the kernel is done with them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::backend::{Create, FileOptions};
use crate::call::Call;
use crate::error::{Context, IoError, OperationKind};
use crate::transfer::{Stalls, Step};

pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The descriptor that an open call returned.
fn descriptor(result: i64) -> Option<OwnedFd> {
    let fd = i32::try_from(result).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor was just opened and has no other owner.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn errno(result: i64) -> i32 {
    i32::try_from(-result).unwrap_or(libc::EIO)
}

/// The opening of a regular file, up to its descriptor.
#[derive(Debug)]
pub(crate) struct Opening {
    path: CString,
    flags: libc::c_int,
    stalls: Stalls,
    fd: Option<OwnedFd>,
}

impl Opening {
    pub(crate) fn new(path: &Path, options: &FileOptions) -> Result<Self, IoError> {
        let access = match (options.read, options.write) {
            (true, true) => libc::O_RDWR,
            (false, true) => libc::O_WRONLY,
            (_, false) => libc::O_RDONLY,
        };
        let create = match options.create {
            Create::Never => 0,
            Create::New => libc::O_CREAT | libc::O_EXCL,
            Create::IfMissing => libc::O_CREAT,
        };
        let c_path = c_path(path)
            .map_err(|error| IoError::from_os(Context::new(OperationKind::Open, path), error))?;
        Ok(Self {
            path: c_path,
            // O_NONBLOCK only until the type is known: opening a pipe must not hang.
            flags: access | create | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK,
            stalls: Stalls::default(),
            fd: None,
        })
    }

    pub(crate) fn call(&self) -> Call {
        Call::Open {
            path: self.path.as_ptr(),
            flags: self.flags,
        }
    }

    pub(crate) fn returned(&mut self, result: i64) -> Step {
        self.fd = descriptor(result);
        if self.fd.is_some() {
            return Step::Done(0);
        }
        let errno = errno(result);
        let passing = self.stalls.passing(errno);
        passing.unwrap_or(Step::Failed(errno))
    }

    /// The descriptor, once it is there.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        self.fd
    }
}

/// The making durable of a directory's names.
///
/// Like the sync of a file it is believed only when the file system still answers after it
/// (`FileHandle::confirm`); here on any of them, since it is rare.
pub(crate) struct DirSync {
    path: CString,
    stage: Stage,
    stalls: Stalls,
    fd: Option<OwnedFd>,
    facts: libc::statx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Sync,
    Confirm,
}

impl DirSync {
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            path: c_path(dir)?,
            stage: Stage::Open,
            stalls: Stalls::default(),
            fd: None,
            // SAFETY: all zeroes is a valid `statx`, which has only integers.
            facts: unsafe { core::mem::zeroed() },
        })
    }

    /// What is asked for next. It points into this, which has to stay where it is until it is answered.
    pub(crate) fn call(&mut self) -> Call {
        let fd = self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        match self.stage {
            Stage::Open => Call::Open {
                path: self.path.as_ptr(),
                flags: libc::O_RDONLY | libc::O_CLOEXEC,
            },
            Stage::Sync => Call::Sync { fd },
            Stage::Confirm => Call::Measure {
                fd,
                facts: &raw mut self.facts,
            },
        }
    }

    pub(crate) fn returned(&mut self, result: i64) -> Step {
        if result < 0 {
            let errno = errno(result);
            let passing = self.stalls.passing(errno);
            return passing.unwrap_or(Step::Failed(errno));
        }
        self.stalls = Stalls::default();
        self.stage = match self.stage {
            Stage::Open => {
                self.fd = descriptor(result);
                Stage::Sync
            }
            Stage::Sync => Stage::Confirm,
            Stage::Confirm => return Step::Done(0),
        };
        Step::Next
    }

    /// Whether anything may have come of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.stage != Stage::Open
    }
}

impl core::fmt::Debug for DirSync {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DirSync")
            .field("path", &self.path)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_nul_is_an_error() {
        let path = Path::new("a\0b");
        let error = Opening::new(path, &FileOptions::read()).expect_err("no such path");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(DirSync::new(path).is_err());
    }

    #[test]
    fn a_directory_is_opened_synced_and_asked_in_this_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut sync = DirSync::new(dir.path()).expect("a path");
        assert!(!sync.has_begun());
        let passing = -i64::from(libc::EINTR);
        for stage in [Stage::Open, Stage::Sync, Stage::Confirm] {
            assert_eq!((sync.stage, sync.returned(passing)), (stage, Step::Retry));
            let call = sync.call();
            // SAFETY: it points into `sync`.
            let step = sync.returned(unsafe { call.make() });
            let last = stage == Stage::Confirm;
            assert_eq!(step, if last { Step::Done(0) } else { Step::Next });
            assert!(sync.has_begun());
        }
        let mut sync = DirSync::new(dir.path()).expect("a path");
        let failed = Step::Failed(libc::EIO);
        assert_eq!(sync.returned(-i64::from(libc::EIO)), failed);
    }
}
