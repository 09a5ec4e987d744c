//! [`UringConfig`] and the reasons why there is no ring: [`ConfigError`], [`UringError`].

use std::io;

/// What a ring is to be like. What is asked for takes effect, or [`Uring::new`](crate::Uring::new)
/// refuses it and says what the kernel lacks.
///
/// # Examples
///
/// ```
/// use esker_io::{ConfigError, UringConfig};
///
/// let config = UringConfig::high_throughput().entries(64).cq_entries(512);
/// assert_eq!(config.check(), Ok(()));
/// assert_eq!(
///     UringConfig::default().entries(0).check(),
///     Err(ConfigError::Entries { entries: 0 })
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringConfig {
    pub(crate) entries: u32,
    pub(crate) cq_entries: Option<u32>,
    pub(crate) coop_taskrun: bool,
    pub(crate) sqpoll_idle_ms: Option<u32>,
    pub(crate) registered_buffers: Option<u32>,
    pub(crate) registered_files: u32,
    pub(crate) single_issuer: bool,
    pub(crate) defer_taskrun: bool,
    pub(crate) iopoll: bool,
}

impl Default for UringConfig {
    /// 128 submission entries, 256 completion entries: more than what one log keeps in flight,
    /// and some tens of KiB of memory. No options, so that every kernel that has io_uring with
    /// what is needed takes it.
    fn default() -> Self {
        Self {
            entries: 128,
            cq_entries: None,
            coop_taskrun: false,
            sqpoll_idle_ms: None,
            registered_buffers: None,
            registered_files: 0,
            single_issuer: false,
            defer_taskrun: false,
            iopoll: false,
        }
    }
}

impl UringConfig {
    /// For many operations in flight at once: 512 submission and 4096 completion entries, and
    /// completions that interrupt nobody ([`coop_taskrun`](Self::coop_taskrun), Linux 5.19).
    #[must_use]
    pub fn high_throughput() -> Self {
        Self::default()
            .entries(512)
            .cq_entries(4096)
            .coop_taskrun(true)
    }

    /// For few operations whose completion somebody waits for: 32 submission entries, and
    /// completions that are posted at once, whatever the submitting thread is doing.
    ///
    /// A thread of the kernel's that polls is not part of it: with fewer cores than threads it
    /// makes everything slower. Ask for it by [`sqpoll`](Self::sqpoll) where a core is to spare.
    #[must_use]
    pub fn low_latency() -> Self {
        Self::default().entries(32)
    }

    /// Whether a completion may wait until the thread that submitted the operation next enters
    /// the kernel, instead of interrupting it: `IORING_SETUP_COOP_TASKRUN`. A thread that sleeps
    /// is woken for it all the same.
    #[must_use]
    pub const fn coop_taskrun(mut self, coop_taskrun: bool) -> Self {
        self.coop_taskrun = coop_taskrun;
        self
    }

    /// Has a thread of the kernel's take submissions without system calls, which sleeps when it
    /// has found none for `idle_ms` milliseconds, 1 to 2^31 - 1: `IORING_SETUP_SQPOLL`. `None` is
    /// no such thread. While awake it uses a whole core. Not together with
    /// [`coop_taskrun`](Self::coop_taskrun), which is about threads that submit.
    #[must_use]
    pub const fn sqpoll(mut self, idle_ms: Option<u32>) -> Self {
        self.sqpoll_idle_ms = idle_ms;
        self
    }

    /// How many stretches of memory can be [registered](crate::Backend::register) at a time, 0 to
    /// 16384: a sparse table of so many slots, Linux 5.19. Unless set it is 16 where the kernel
    /// has such a table, and none where it has not.
    #[must_use]
    pub const fn registered_buffers(mut self, slots: u32) -> Self {
        self.registered_buffers = Some(slots);
        self
    }

    /// Has the completions of direct reads, and of direct writes that need not be durable, polled for
    /// instead of interrupted by: `IORING_SETUP_IOPOLL`, in a second ring, since such a ring takes
    /// nothing else. What else there is goes through the first.
    ///
    /// It takes a device with queues for it, such as an NVMe disk with `nvme.poll_queues`. A file for
    /// direct transfers on another one is not opened: [`IoError::NotPolled`](crate::IoError::NotPolled).
    /// Whoever waits spins for as long as such a transfer is in flight; memory that was
    /// registered, and places of files, are not used by them. On a device that polls it has been
    /// tried by itself, not together with [`sqpoll`](Self::sqpoll) or
    /// [`defer_taskrun`](Self::defer_taskrun).
    #[must_use]
    pub const fn iopoll(mut self, iopoll: bool) -> Self {
        self.iopoll = iopoll;
        self
    }

    /// Has one thread of the ring's own be the only one that enters it: `IORING_SETUP_SINGLE_ISSUER`,
    /// Linux 6.0. Any thread submits all the same, and hands over to that one, which calls the sinks;
    /// threads that wait only sleep. The panic of a sink goes on in whoever waits, polls or drops the
    /// backend next.
    ///
    /// It costs a hand-over for what is submitted and one for what completes.
    /// [Registering](crate::Backend::register) memory waits for that thread, so hold no lock then
    /// that a sink takes. Not together with [`registered_files`](Self::registered_files): the kernel
    /// lets no other thread empty a file's place when its handle is dropped.
    #[must_use]
    pub const fn single_issuer(mut self, single_issuer: bool) -> Self {
        self.single_issuer = single_issuer;
        self
    }

    /// Leaves the kernel's part of completions to the one thread that enters the ring, until that
    /// waits: `IORING_SETUP_DEFER_TASKRUN`, Linux 6.1. With it goes all that
    /// [`single_issuer`](Self::single_issuer) says, without which the kernel does not take it. Not
    /// together with [`sqpoll`](Self::sqpoll), whose thread is another one.
    #[must_use]
    pub const fn defer_taskrun(mut self, defer_taskrun: bool) -> Self {
        self.defer_taskrun = defer_taskrun;
        self
    }

    /// Whether a thread of the ring's own is the only one that enters it.
    pub(crate) const fn has_issuer(self) -> bool {
        self.single_issuer || self.defer_taskrun
    }

    /// Has a table of so many files, 0 to 32768, that the kernel has looked up in advance: Linux
    /// 6.13, since older ones keep a file, with its lock, for a while after its place was emptied.
    /// Each file that the ring opens takes a place of it by itself for as long as there is one
    /// free, its submitted operations name it by that, and it gives the place back when the last
    /// handle is dropped and the last operation over. Files beyond the table are named by their
    /// descriptors.
    ///
    /// A table holds its files open. So when the process is killed their locks go only with the
    /// ring, which the kernel takes down a moment later, and not before a child of a fork that it
    /// has left behind has gone as well.
    #[must_use]
    pub const fn registered_files(mut self, slots: u32) -> Self {
        self.registered_files = slots;
        self
    }

    /// How many operations fit into one system call: 1 to 32768. The kernel rounds it up to a
    /// power of two. More operations than that are queued, not refused.
    #[must_use]
    pub const fn entries(mut self, entries: u32) -> Self {
        self.entries = entries;
        self
    }

    /// Bounds the operations in the kernel's hands, which are one fewer: from the number of
    /// submission entries, and at least 2, to 65536. Twice the submission entries unless set; the
    /// kernel rounds it up to a power of two.
    #[must_use]
    pub const fn cq_entries(mut self, cq_entries: u32) -> Self {
        self.cq_entries = Some(cq_entries);
        self
    }

    /// Whether a kernel can take these numbers, and a ring of this crate these options together.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the one that it can't.
    pub const fn check(&self) -> Result<(), ConfigError> {
        let entries = self.entries;
        if entries == 0 || entries > 1 << 15 {
            return Err(ConfigError::Entries { entries });
        }
        if let Some(idle_ms) = self.sqpoll_idle_ms {
            if idle_ms == 0 || idle_ms > i32::MAX as u32 {
                return Err(ConfigError::Idle { idle_ms });
            }
            if self.coop_taskrun {
                return Err(ConfigError::PollerAndCoopTaskrun);
            }
            if self.defer_taskrun {
                return Err(ConfigError::PollerAndDeferTaskrun);
            }
        }
        if let Some(slots) = self.registered_buffers
            && slots > 1 << 14
        {
            return Err(ConfigError::RegisteredBuffers { slots });
        }
        if self.registered_files > 1 << 15 {
            return Err(ConfigError::RegisteredFiles {
                slots: self.registered_files,
            });
        }
        if self.registered_files > 0 && self.has_issuer() {
            return Err(ConfigError::FilesAndSingleIssuer);
        }
        match self.cq_entries {
            Some(cq_entries) if cq_entries < 2 || cq_entries < entries || cq_entries > 1 << 16 => {
                Err(ConfigError::CompletionEntries {
                    cq_entries,
                    entries,
                })
            }
            _ => Ok(()),
        }
    }
}

/// A [`UringConfig`] of which there is no ring, on any kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The number of submission entries.
    #[error("a ring has from 1 to 32768 submission entries, not {entries}")]
    Entries {
        /// What was asked for.
        entries: u32,
    },
    /// The number of completion entries.
    #[error(
        "a ring with {entries} submission entries has from {} to 65536 completion entries, not {cq_entries}",
        if *entries < 2 { 2 } else { *entries }
    )]
    CompletionEntries {
        /// What was asked for.
        cq_entries: u32,
        /// The number of submission entries.
        entries: u32,
    },
    /// The time after which the polling thread sleeps.
    #[error("the polling thread is idle for 1 to 2147483647 ms before it sleeps, not {idle_ms}")]
    Idle {
        /// What was asked for.
        idle_ms: u32,
    },
    /// The number of stretches of registered memory.
    #[error("a ring has slots for 0 to 16384 stretches of registered memory, not {slots}")]
    RegisteredBuffers {
        /// What was asked for.
        slots: u32,
    },
    /// The number of places for registered files.
    #[error("a ring has places for 0 to 32768 registered files, not {slots}")]
    RegisteredFiles {
        /// What was asked for.
        slots: u32,
    },
    /// Both a polling thread, and completions that are left to another one.
    #[error("with a polling thread there is no other that completions could be left to")]
    PollerAndDeferTaskrun,
    /// Both a table of files, and a single thread that may enter the ring.
    #[error(
        "the kernel lets only the single issuer empty a file's place, and a file's lock has to go \
         when its handle is dropped, by any thread"
    )]
    FilesAndSingleIssuer,
    /// Both a polling thread, and completions that wait for the submitting one.
    #[error("with a polling thread no thread submits whose interruption could be spared")]
    PollerAndCoopTaskrun,
}

/// There is no ring to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UringError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel has no io_uring.
    #[error("the kernel has no io_uring")]
    Unknown {
        /// What the system said.
        source: io::Error,
    },
    /// The system has it and does not let this process use it: `kernel.io_uring_disabled`, a
    /// seccomp filter or a security module.
    #[error("io_uring is forbidden to this process")]
    Forbidden {
        /// What the system said.
        source: io::Error,
    },
    /// Setting it up failed.
    #[error("io_uring could not be set up")]
    Setup {
        /// What the system said.
        source: io::Error,
    },
    /// The kernel's io_uring is too old.
    #[error("the kernel's io_uring lacks {what}")]
    Lacks {
        /// The operation or feature that is missing.
        what: &'static str,
    },
    /// The process may not have as many open files as the table was to have places, and then the
    /// kernel makes no such table.
    #[error("no table for {slots} registered files: the process may have fewer files open")]
    FileLimit {
        /// How many places were asked for.
        slots: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave the ring no thread of its own.
    #[error("no thread could be started that alone enters the ring")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// It was set up, but a trial operation did not come back as it should.
    #[error("a trial operation through io_uring failed")]
    Trial {
        /// What the system said.
        source: io::Error,
    },
}

impl UringError {
    pub(crate) fn setup(source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSYS) => Self::Unknown { source },
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden { source },
            _ => Self::Setup { source },
        }
    }
}
