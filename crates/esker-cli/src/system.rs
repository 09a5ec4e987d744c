//! What the standard library has no word for: waiting on several descriptors, being asked to stop,
//! and what lies under a directory.

use std::ffi::CString;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// What happened on a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// It can be read without waiting; so can one that is at its end.
    pub(crate) readable: bool,
    /// Whoever read what is written to it has gone.
    pub(crate) closed: bool,
}

/// Waits until one of the descriptors can be read or is closed, or the time is up.
pub(crate) fn wait<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[Ready; N]> {
    poll(descriptors.map(|fd| (fd, libc::POLLIN)), timeout)
}

/// Waits until the descriptor `stop` can be read, or the reader of `output` has gone, or the time
/// is up.
pub(crate) fn wait_beside_output(
    stop: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    timeout: Duration,
) -> io::Result<[Ready; 2]> {
    // No event is asked of the output: that its other end has gone is always told.
    poll([(stop, libc::POLLIN), (output, 0)], Some(timeout))
}

fn poll<const N: usize>(
    descriptors: [(BorrowedFd<'_>, libc::c_short); N],
    timeout: Option<Duration>,
) -> io::Result<[Ready; N]> {
    let mut fds = descriptors.map(|(fd, events)| libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    });
    let millis = timeout.map_or(-1, |t| {
        libc::c_int::try_from(t.as_millis()).unwrap_or(i32::MAX)
    });
    // SAFETY: `fds` is an array of as many initialised elements as is said, exclusively borrowed
    // for the call; its descriptors are open, because they are borrowed from their owners.
    let result = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, millis) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok([Ready::default(); N]);
    }
    Ok(fds.map(|fd| Ready {
        readable: fd.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0,
        closed: fd.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0,
    }))
}

/// How many bytes whoever runs this may still write below `dir`.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = file_system_of(dir)?;
    // Its signedness differs between architectures.
    Ok(found.f_bavail * u64::try_from(found.f_bsize).unwrap_or(0))
}

/// The name of the file system under `dir`.
pub(crate) fn file_system(dir: &Path) -> String {
    let known = [
        (0xEF53, "ext4"),
        (0x5846_5342, "XFS"),
        (0x9123_683E, "Btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x794C_7630, "overlayfs"),
        (0x2FC1_2FC1, "ZFS"),
        (0xF2F5_2010, "F2FS"),
        (0x6969, "NFS"),
    ];
    let Ok(found) = file_system_of(dir) else {
        return "unknown file system".to_owned();
    };
    // Magic numbers have 32 bits; the field is wider.
    let magic = found.f_type & 0xFFFF_FFFF;
    match known.iter().find(|(number, _)| *number == magic) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("file system {magic:#x}"),
    }
}

fn file_system_of(dir: &Path) -> io::Result<libc::statfs> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: all zeroes is a valid value of this plain C struct.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a NUL, and `found` is exclusively borrowed for the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } == 0 {
        Ok(found)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether to stop: asked for by a signal or by a part of the program, and waited for beside other
/// descriptors.
pub(crate) struct Stop {
    /// Readable from the moment on at which somebody has asked.
    asked: PipeReader,
    ask: PipeWriter,
}

/// The write end of the [`Stop`] that signals go to; -1 before there is one. Written once, by
/// [`Stop::on_signals`]; read by the signal handler.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

impl Stop {
    /// One that SIGINT and SIGTERM ask of too. The second such signal ends the process.
    pub(crate) fn on_signals() -> io::Result<&'static Self> {
        let (asked, ask) = io::pipe()?;
        // Leaked, so that the handler never writes to a descriptor that has become another's.
        let stop: &'static Self = Box::leak(Box::new(Self { asked, ask }));
        // Release: pairs with the Acquire in the handler; the pipe is there before its number.
        SIGNALLED.store(stop.ask.as_raw_fd(), Ordering::Release);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            handle(signal)?;
        }
        Ok(stop)
    }

    /// Asks to stop.
    pub(crate) fn ask(&self) {
        // It fails only if the pipe is full of such requests.
        let _asked_already = (&self.ask).write(&[1]);
    }

    /// Whether somebody has asked.
    pub(crate) fn asked(&self) -> bool {
        wait([self.asked.as_fd()], Some(Duration::ZERO)).is_ok_and(|[ready]| ready.readable)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.asked.as_fd()
    }
}

fn handle(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeroes is a valid value of this plain C struct: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
    // SAFETY: `action` is initialised, and its handler does nothing but what a handler may.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks the [`Stop`] to stop. Only an atomic load and `write(2)`, which a signal handler may use.
extern "C" fn on_signal(_: libc::c_int) {
    // Acquire: pairs with the Release in `on_signals`.
    let fd = SIGNALLED.load(Ordering::Acquire);
    // SAFETY: one byte of static memory is read; the descriptor is the pipe's, which is never
    // closed, or -1, which the call refuses.
    let _asked_already = unsafe { libc::write(fd, [1u8].as_ptr().cast(), 1) };
}
