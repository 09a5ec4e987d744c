//! [`FileHandle`], the open file of both kernel backends, and the blocking calls on files that they
//! share.

use core::fmt;
use core::ops::Range;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use esker_buf::Alignment;

use crate::action::Action;
use crate::backend::{Direct, FileFacts, FileOptions};
use crate::error::{Context, IoError, Misaligned, OperationKind};
use crate::memory::WriteMemory;
use crate::sync::Arc;
use crate::uring::Place;

#[expect(clippy::cast_possible_truncation, reason = "small constants")]
const EXCLUSIVE: libc::c_short = libc::F_WRLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "small constants")]
const UNLOCKED: libc::c_short = libc::F_UNLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "small constants")]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// The largest offset that a file can have.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// An open regular file; clones share one open file description.
#[derive(Clone)]
pub struct FileHandle {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where a ring's table has the file, if it has. Before the descriptor, which is closed only
    /// after it has been emptied.
    place: Option<Place>,
    /// Whether completions of direct transfers can be polled for, as far as the one who opened it
    /// has found out.
    polled: bool,
    fd: OwnedFd,
    path: Arc<Path>,
    alignment: Alignment,
    direct: bool,
    readable: bool,
    writable: bool,
    /// Whether the file system answers no question about a file once it has been shut down; see
    /// [`FileHandle::confirm`].
    falls_silent: bool,
}

impl FileHandle {
    /// The path that the file was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(crate) fn shared_path(&self) -> Arc<Path> {
        Arc::clone(&self.inner.path)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.inner.fd.as_raw_fd()
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        self.inner.place.as_ref()
    }

    /// Whether direct transfers can be polled for.
    pub(crate) fn is_polled(&self) -> bool {
        self.inner.polled && self.inner.direct
    }

    /// The same file, on a device that polls: of a handle that nobody has a clone of.
    pub(crate) fn on_a_polling_device(mut self) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.polled = true;
        }
        self
    }

    /// The same file with a place in a ring's table: of a handle that nobody has a clone of.
    pub(crate) fn in_place(mut self, place: Place) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.place = Some(place);
        }
        self
    }

    /// What a short transfer must be rounded to before it can be continued.
    pub(crate) fn alignment(&self) -> Alignment {
        self.inner.alignment
    }

    pub(crate) fn context(&self, operation: OperationKind) -> Context {
        Context::new(operation, Arc::clone(&self.inner.path))
    }

    pub(crate) fn action_context(&self, action: &Action) -> Context {
        action.context(Arc::clone(&self.inner.path))
    }

    /// Refuses what the handle or the file can't take, before any system call.
    pub(crate) fn check(&self, action: &Action) -> Result<(), IoError> {
        let address = match action {
            Action::Read { .. } if !self.inner.readable => {
                return Err(IoError::NotReadable {
                    context: self.action_context(action),
                });
            }
            Action::Write { .. }
            | Action::Allocate { .. }
            | Action::Truncate { .. }
            | Action::PunchHole { .. }
                if !self.inner.writable =>
            {
                return Err(IoError::NotWritable {
                    context: self.action_context(action),
                });
            }
            Action::Read { memory, .. } => memory.as_mut_ptr().addr(),
            Action::Write { memory, .. } => match memory.as_ptr() {
                Some(start) => start.addr(),
                None => self.misaligned_piece(memory),
            },
            _ => 0,
        };
        let (offset, len_bytes) = (action.offset(), action.len_bytes() as u64);
        if offset
            .checked_add(action.range_bytes())
            .is_none_or(|end| end > MAX_OFFSET)
        {
            return Err(IoError::OutOfRange {
                context: self.action_context(action),
            });
        }
        for (what, value) in [
            (Misaligned::Offset, offset),
            (Misaligned::Length, len_bytes),
            (Misaligned::Memory, address as u64),
        ] {
            // The address of an empty range is never looked at.
            if !self.inner.alignment.divides(value) && len_bytes > 0 {
                return Err(IoError::Misaligned {
                    context: self.action_context(action),
                    what,
                    value,
                    alignment: self.inner.alignment,
                });
            }
        }
        Ok(())
    }

    /// Takes the kernel's word that an action has made something durable, or finds that it is worth
    /// nothing.
    ///
    /// XFS shuts down when its journal fails, or somebody asks for it, and drops what it has not
    /// written of that journal. A sync that meets this may find that nothing is left to wait for,
    /// and succeed, though what it takes to find the data is lost. But the file system is marked
    /// first, and from then on tells nothing about its files: a success that is followed by an
    /// answer is one.
    pub(crate) fn confirm(&self, action: &Action) -> Result<(), IoError> {
        let promises = action.is_durable() || action.kind() == OperationKind::Sync;
        if !promises || !self.inner.falls_silent || canary!("io-sync-unconfirmed") {
            return Ok(());
        }
        statx(self.fd())
            .map(drop)
            .map_err(|error| IoError::from_os(self.action_context(action), error))
    }

    /// The first address or inner end in gathered memory that is not aligned; 0 if all are.
    fn misaligned_piece(&self, memory: &WriteMemory) -> usize {
        memory
            .pieces()
            .filter(|piece| !piece.is_empty())
            .flat_map(|piece| [piece.as_ptr().addr(), piece.as_ptr().addr() + piece.len()])
            .find(|&address| !self.inner.alignment.divides(address as u64))
            .unwrap_or(0)
    }

    fn writable(&self, operation: OperationKind) -> Result<(), IoError> {
        if self.inner.writable {
            Ok(())
        } else {
            Err(IoError::NotWritable {
                context: self.context(operation),
            })
        }
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileHandle")
            .field("path", &self.inner.path)
            .field("fd", &self.fd())
            .field("direct", &self.inner.direct)
            .finish_non_exhaustive()
    }
}

/// The result of a system call that returns -1 on failure.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Repeats a system call for as long as signals interrupt it.
fn uninterrupted(mut call: impl FnMut() -> libc::c_int) -> io::Result<libc::c_int> {
    loop {
        match checked(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn statx(fd: RawFd) -> io::Result<libc::statx> {
    // SAFETY: all zeroes is a valid `statx`, which has only integers.
    let mut facts: libc::statx = unsafe { core::mem::zeroed() };
    uninterrupted(|| {
        // SAFETY: the path is a C string, and `facts` is good for writing one `statx`.
        unsafe {
            libc::statx(
                fd,
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_TYPE | libc::STATX_SIZE | libc::STATX_DIOALIGN,
                &raw mut facts,
            )
        }
    })?;
    Ok(facts)
}

/// Whether a file lies on a file system for which [`FileHandle::confirm`] asks. Of those that are
/// known to fail in that way only this one does; the others answer whatever has happened.
fn falls_silent(fd: RawFd) -> io::Result<bool> {
    // SAFETY: all zeroes is a valid `statfs`, which has only integers.
    let mut facts: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: `facts` is good for writing one `statfs`.
    uninterrupted(|| unsafe { libc::fstatfs(fd, &raw mut facts) })?;
    Ok(facts.f_type == libc::XFS_SUPER_MAGIC)
}

/// What direct transfers to a file must be aligned to; `None` if it takes none.
///
/// A file system that accepts `O_DIRECT` but reports no alignment is given whole blocks.
fn direct_alignment(facts: &libc::statx) -> Option<Alignment> {
    if facts.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Some(Alignment::BLOCK);
    }
    let wanted = facts.stx_dio_mem_align.max(facts.stx_dio_offset_align);
    if facts.stx_dio_offset_align == 0 {
        return None;
    }
    usize::try_from(wanted)
        .ok()
        .and_then(|wanted| Alignment::new(wanted).ok())
}

impl FileHandle {
    /// The handle of what was opened so; anything but a regular file is closed again.
    pub(crate) fn opened(
        fd: OwnedFd,
        path: Arc<Path>,
        options: &FileOptions,
    ) -> Result<Self, IoError> {
        let context = || Context::new(OperationKind::Open, Arc::clone(&path));
        let failed = |error| IoError::from_os(context(), error);
        let facts = statx(fd.as_raw_fd()).map_err(failed)?;
        if u32::from(facts.stx_mode) & libc::S_IFMT != libc::S_IFREG {
            return Err(IoError::NotAFile { context: context() });
        }
        // Asking for O_DIRECT afterwards leaves no empty file behind where it is refused.
        let set_flags = |flags: libc::c_int| {
            // SAFETY: F_SETFL takes an integer and touches no memory.
            checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })
        };
        let alignment = match options.direct {
            Direct::Never => None,
            Direct::Try => direct_alignment(&facts).filter(|_| set_flags(libc::O_DIRECT).is_ok()),
        };
        if alignment.is_none() {
            set_flags(0).map_err(failed)?;
        }
        let falls_silent = falls_silent(fd.as_raw_fd()).map_err(failed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                place: None,
                polled: false,
                fd,
                path,
                alignment: alignment.unwrap_or(Alignment::ONE),
                direct: alignment.is_some(),
                readable: options.read || !options.write,
                writable: options.write,
                falls_silent,
            }),
        })
    }

    pub(crate) fn facts(&self) -> Result<FileFacts, IoError> {
        let facts = statx(self.fd())
            .map_err(|error| IoError::from_os(self.context(OperationKind::Facts), error))?;
        Ok(FileFacts {
            len_bytes: facts.stx_size,
            alignment: self.inner.alignment,
            direct: self.inner.direct,
        })
    }

    /// Runs a lock command on the whole file and gives back what the kernel made of the request.
    fn lock_command(&self, command: libc::c_int) -> io::Result<libc::flock> {
        // SAFETY: all zeroes is a valid `flock`: from the start, of unlimited length, and with
        // the process id of zero that locks of open file descriptions ask for.
        let mut lock: libc::flock = unsafe { core::mem::zeroed() };
        lock.l_type = EXCLUSIVE;
        lock.l_whence = FROM_START;
        uninterrupted(|| {
            // SAFETY: `lock` is good for reading and writing one `flock`.
            unsafe { libc::fcntl(self.fd(), command, &raw mut lock) }
        })?;
        Ok(lock)
    }

    pub(crate) fn try_lock(&self) -> Result<bool, IoError> {
        self.writable(OperationKind::Lock)?;
        match self.lock_command(libc::F_OFD_SETLK) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Ok(false)
            }
            Err(error) => Err(IoError::from_os(self.context(OperationKind::Lock), error)),
        }
    }

    pub(crate) fn is_locked(&self) -> Result<bool, IoError> {
        self.lock_command(libc::F_OFD_GETLK)
            .map(|lock| lock.l_type != UNLOCKED)
            .map_err(|error| IoError::from_os(self.context(OperationKind::Lock), error))
    }

    /// Reserved space that was never written is a hole to the kernel.
    pub(crate) fn first_hole(&self, offset: u64) -> Result<Option<Range<u64>>, IoError> {
        let len_bytes = self.facts()?.len_bytes;
        let Some(start) = self.seek(offset, libc::SEEK_HOLE)? else {
            return Ok(None);
        };
        // To the kernel every file ends with a hole.
        if start >= len_bytes {
            return Ok(None);
        }
        let end = self.seek(start, libc::SEEK_DATA)?.unwrap_or(len_bytes);
        Ok((end > start).then_some(start..end))
    }

    /// Where the next of what is looked for begins. This moves the description's own offset, which
    /// nothing else here uses.
    fn seek(&self, offset: u64, whence: libc::c_int) -> Result<Option<u64>, IoError> {
        let context = self.context(OperationKind::Facts).at(offset, 0);
        let Ok(from) = i64::try_from(offset) else {
            return Err(IoError::OutOfRange { context });
        };
        // SAFETY: lseek touches no memory of this process.
        let found = unsafe { libc::lseek(self.fd(), from, whence) };
        u64::try_from(found).map(Some).or_else(|_| {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // There is none; or the file system has no such command.
                Some(libc::ENXIO | libc::EINVAL) => Ok(None),
                _ => Err(IoError::from_os(context, error)),
            }
        })
    }
}

/// The methods of [`Backend`](crate::Backend) that every kernel backend has alike: names and the
/// properties of files, by blocking calls. What is an operation too is each one's own.
macro_rules! names_and_files {
    () => {
        fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
            $crate::names::create_dir_all(path)
        }

        fn list(&self, dir: &Path) -> Result<Vec<OsString>, IoError> {
            $crate::names::list(dir)
        }

        fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
            $crate::names::rename(from, to)
        }

        fn remove(&self, path: &Path) -> Result<(), IoError> {
            $crate::names::remove(path)
        }

        fn path(&self, file: &FileHandle) -> Arc<Path> {
            file.shared_path()
        }

        fn facts(&self, file: &FileHandle) -> Result<FileFacts, IoError> {
            file.facts()
        }

        fn try_lock(&self, file: &FileHandle) -> Result<bool, IoError> {
            file.try_lock()
        }

        fn is_locked(&self, file: &FileHandle) -> Result<bool, IoError> {
            file.is_locked()
        }

        fn first_hole(
            &self,
            file: &FileHandle,
            offset: u64,
        ) -> Result<Option<Range<u64>>, IoError> {
            file.first_hole(offset)
        }
    };
}
pub(crate) use names_and_files;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreported_alignment_is_taken_as_a_block_and_zero_as_no_direct_io() {
        // SAFETY: all zeroes is a valid `statx`.
        let mut facts: libc::statx = unsafe { core::mem::zeroed() };
        assert_eq!(direct_alignment(&facts), Some(Alignment::BLOCK));
        facts.stx_mask = libc::STATX_DIOALIGN;
        assert_eq!(direct_alignment(&facts), None);
        facts.stx_dio_offset_align = 512;
        facts.stx_dio_mem_align = 4;
        assert_eq!(direct_alignment(&facts), Some(Alignment::SECTOR));
    }
}
