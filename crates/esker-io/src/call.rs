//! [`Call`]: one request to the kernel that moves none of an operation's own memory.
//!
//! It is asked by a system call here, or by an entry of a ring.

use std::io;
use std::os::fd::RawFd;

/// A request. What it points to is good until it has been answered: the one who has made it owns that.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// A descriptor for a path, a C string.
    Open {
        path: *const libc::c_char,
        flags: libc::c_int,
    },
    /// What the file system knows of an open file, or a directory.
    Measure {
        fd: RawFd,
        facts: *mut libc::statx,
    },
    /// All of it made durable.
    Sync {
        fd: RawFd,
    },
    Fallocate {
        fd: RawFd,
        mode: libc::c_int,
        offset: u64,
        len: u64,
    },
    SetLen {
        fd: RawFd,
        len: u64,
    },
    /// So many bytes written, of which there are no fewer.
    Write {
        fd: RawFd,
        from: *const u8,
        offset: u64,
        len: u32,
    },
}

/// The descriptor of a file that a call is not about.
pub(crate) const NONE: RawFd = -1;

/// Who may read and write a new file, before the process's mask.
pub(crate) const MODE: libc::mode_t = 0o666;

/// What [`Call::Measure`] asks for.
pub(crate) const FACTS: libc::c_uint = libc::STATX_TYPE | libc::STATX_SIZE;

impl Call {
    /// Asks by a system call: a count, or an error number below zero.
    ///
    /// # Safety
    ///
    /// What it points to must be good for what is asked for.
    #[expect(
        clippy::cast_possible_wrap,
        reason = "whoever has made it bounds offsets and lengths"
    )]
    pub(crate) unsafe fn make(self) -> i64 {
        returned(match self {
            Self::Open { path, flags } => {
                // SAFETY: the caller's promise.
                unsafe { libc::open(path, flags, MODE as libc::c_uint) as isize }
            }
            Self::Measure { fd, facts } => {
                // SAFETY: the path is a C string; of `facts` it is the caller's promise.
                unsafe { libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, FACTS, facts) as isize }
            }
            Self::Sync { fd } => {
                // SAFETY: fsync touches no memory of this process.
                unsafe { libc::fsync(fd) as isize }
            }
            Self::Fallocate {
                fd,
                mode,
                offset,
                len,
            } => {
                // SAFETY: fallocate touches no memory of this process.
                unsafe { libc::fallocate(fd, mode, offset as i64, len as i64) as isize }
            }
            Self::SetLen { fd, len } => {
                // SAFETY: ftruncate touches no memory of this process.
                unsafe { libc::ftruncate(fd, len as i64) as isize }
            }
            Self::Write {
                fd,
                from,
                offset,
                len,
            } => {
                // SAFETY: the caller's promise.
                unsafe { libc::pwrite(fd, from.cast(), len as usize, offset as i64) }
            }
        })
    }
}

/// What a system call returned: a count, or the error number below zero.
pub(crate) fn returned(result: isize) -> i64 {
    if result >= 0 {
        return result as i64;
    }
    -i64::from(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}
