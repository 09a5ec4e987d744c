//! [`Polled`]: a second ring, in which the kernel finds completions only when it is asked to look.
//!
//! `IOPOLL` spares a device its interrupts, and takes nothing but direct reads and writes on devices
//! with queues for it. These hold:
//!
//! - Q1. Through this ring go direct reads, and direct writes without durability, on files whose
//!   device polls; everything else goes through the ring beside it.
//! - Q2. Its queues are touched by those who touch the other's (U1, U2), and its operations are in the
//!   same table, so neither's completion queue overflows (U3).
//! - Q3. Whoever drives goes to sleep in the other ring only while nothing is in flight here, and who
//!   submits here wakes it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use io_uring::{EnterFlags, IoUring};

use super::Ring;
use super::config::{UringConfig, UringError};
use crate::action::{Action, Durability};
use crate::backend::{Direct, FileOptions};
use crate::error::{Context, IoError, OperationKind};
use crate::file::FileHandle;
use crate::operation::Operation;
use crate::statistics::Counters;
use crate::sync::{AtomicUsize, SeqCst, yield_now};

pub(super) struct Polled {
    pub(super) uring: IoUring,
    /// Entries that the kernel has and whose completions have not been taken. Raised by those who
    /// submit, before they do; lowered by who drives; read by who is about to sleep (Q3): SeqCst.
    in_flight: AtomicUsize,
}

impl Polled {
    /// One with as many entries as the ring beside it.
    pub(super) fn new(config: UringConfig, beside: &IoUring) -> Result<Option<Self>, UringError> {
        if !config.iopoll {
            return Ok(None);
        }
        let (entries, cq_entries) = (beside.params().sq_entries(), beside.params().cq_entries());
        let mut builder = IoUring::builder();
        builder.setup_cqsize(cq_entries).setup_iopoll();
        match builder.build(entries) {
            Ok(uring) => Ok(Some(Self {
                uring,
                in_flight: AtomicUsize::new(0),
            })),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(UringError::Lacks {
                what: "IOPOLL (Linux 5.1)",
            }),
            Err(error) => Err(UringError::setup(error)),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(SeqCst) > 0
    }

    /// So many entries are about to be handed to the kernel.
    pub(super) fn begin(&self, count: usize) {
        self.in_flight.fetch_add(count, SeqCst);
    }

    /// So many are over, or were not taken.
    pub(super) fn end(&self, count: usize) {
        self.in_flight.fetch_sub(count, SeqCst);
    }

    /// Has the kernel look once for what is complete.
    pub(super) fn look(&self, counters: &Counters) {
        if !self.is_busy() {
            return;
        }
        counters.system_call();
        // SAFETY: nothing is submitted, and the call names no memory.
        let looked = unsafe {
            self.uring
                .submitter()
                .enter::<libc::sigset_t>(0, 0, EnterFlags::GETEVENTS.bits(), None)
        };
        if looked.is_err() {
            // It looks again anyhow.
            yield_now();
        }
    }
}

/// Whether the device of a file of that name, if it is there or were, has queues that are polled;
/// `None` if that can't be told, because nothing is there, in which case it can't be opened either.
fn device_polls(path: &Path) -> Option<bool> {
    let metadata = std::fs::metadata(path)
        .or_else(|_| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => std::fs::metadata(parent),
            _ => std::fs::metadata("."),
        })
        .ok()?;
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A part of a disk has its queues there.
    let polls = [
        format!("{device}/queue/io_poll"),
        format!("{device}/../queue/io_poll"),
    ];
    let polls = polls
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok());
    Some(polls.is_some_and(|polls| polls.trim() == "1"))
}

impl Ring {
    /// Opens a file, now.
    pub(super) fn open(&self, path: &Path, options: &FileOptions) -> Result<FileHandle, IoError> {
        self.check_device(path, options)?;
        self.calls.open(path, options).map(|file| self.adopt(file))
    }

    /// Refuses what is not to be opened, before it may be created.
    pub(super) fn check_opening(&self, operation: &Operation<FileHandle>) -> Result<(), IoError> {
        match operation {
            Operation::Open { path, options, .. } => self.check_device(path, options),
            _ => Ok(()),
        }
    }

    fn check_device(&self, path: &Path, options: &FileOptions) -> Result<(), IoError> {
        let polls = self.polled.is_some() && options.direct == Direct::Try;
        if polls && device_polls(path) == Some(false) {
            let context = Context::new(OperationKind::Open, path);
            return Err(IoError::NotPolled { context });
        }
        Ok(())
    }

    /// A file that was just opened, as the ring knows it.
    pub(super) fn adopt(&self, file: FileHandle) -> FileHandle {
        self.place(match self.polled {
            Some(_) => file.on_a_polling_device(),
            None => file,
        })
    }

    /// The ring that an operation goes to, if it is the polled one (Q1).
    pub(super) fn polled_for(&self, operation: &Operation<FileHandle>) -> Option<&Polled> {
        let polled = self.polled.as_ref()?;
        let Operation::OnFile { file, action, .. } = operation else {
            return None;
        };
        let fits = match action {
            Action::Read { .. } => true,
            Action::Write { durability, .. } => *durability == Durability::Written,
            _ => false,
        };
        (fits && file.is_polled()).then_some(polled)
    }

    /// Whether something is in flight that only looking brings to an end.
    pub(super) fn is_polling(&self) -> bool {
        self.polled.as_ref().is_some_and(Polled::is_busy)
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use esker_buf::{AlignedBuf, Alignment};

    use super::*;
    use crate::action::Completion;
    use crate::backend::{Backend, Create};
    use crate::ext::BackendExt;
    use crate::memory::{ReadMemory, WriteMemory};
    use crate::uring::Uring;

    /// A ring that polls, and a file that it takes for one on a device that does, whether that is so
    /// or not; `None` where there is none, or no direct file.
    fn taken_at_its_word() -> Option<(Uring, FileHandle, tempfile::TempDir)> {
        let uring = Uring::new(UringConfig::default().iopoll(true));
        let uring = uring
            .inspect_err(|error| println!("skipped: {error}"))
            .ok()?;
        let dir = tempfile::tempdir().expect("a directory");
        let options = FileOptions::read_write()
            .create(Create::New)
            .direct(Direct::Try);
        let path = dir.path().join("log");
        let file = uring.ring.calls.open(&path, &options).expect("a new file");
        let file = file.on_a_polling_device();
        if !file.is_polled() {
            println!("skipped: the file system has no direct transfers");
            return None;
        }
        Some((uring, file, dir))
    }

    fn memory() -> AlignedBuf {
        AlignedBuf::zeroed(4096, Alignment::BLOCK).expect("memory")
    }

    #[test]
    fn direct_transfers_alone_are_polled_for() {
        let Some((uring, direct, dir)) = taken_at_its_word() else {
            return;
        };
        let options = FileOptions::read_write();
        let buffered = uring
            .open(&dir.path().join("log"), &options)
            .expect("it is there");
        let is_polled = |file: &FileHandle, action: Action| {
            let operation = Operation::new(file.clone(), action, drop::<Completion>);
            uring.ring.polled_for(&operation).is_some()
        };
        let read = || Action::Read {
            offset: 0,
            memory: ReadMemory::new(memory()),
        };
        let write = |durability| Action::Write {
            offset: 0,
            memory: WriteMemory::new(memory()),
            durability,
        };
        assert!(is_polled(&direct, read()));
        assert!(is_polled(&direct, write(Durability::Written)));
        assert!(!is_polled(&direct, write(Durability::Durable)));
        assert!(!is_polled(&direct, Action::SyncData) && !is_polled(&direct, Action::SyncAll));
        assert!(!is_polled(&buffered, read()));
        assert!(!is_polled(&buffered, write(Durability::Written)));
    }

    #[test]
    fn a_device_that_does_not_poll_after_all_is_an_error_and_no_hang() {
        let Some((uring, file, dir)) = taken_at_its_word() else {
            return;
        };
        std::fs::write(dir.path().join("log"), vec![7; 8192]).expect("it is written");
        let device = device_polls(dir.path()).expect("it is there");
        for _ in 0..10 {
            let read = uring.start_read(&file, 0, memory());
            match read.wait(&uring) {
                // An older kernel does it all the same, and is looked at until it has.
                Ok((count, buf)) => {
                    assert!(count == 4096 && buf.iter().all(|&byte| byte == 7));
                }
                Err(failed) => {
                    assert!(!device, "{}", failed.error);
                    assert_eq!(failed.error.raw_os_error(), Some(libc::EOPNOTSUPP));
                }
            }
            // What goes the other way is not touched by it.
            let sync = uring.start_sync(&file);
            sync.wait(&uring).expect("it succeeds");
        }
        assert!(!uring.ring.is_polling());
    }
}
