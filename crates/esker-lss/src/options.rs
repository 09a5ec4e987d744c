//! [`Options`]: how a store is created and opened.

use std::time::Duration;

use esker_buf::HugePages;
use esker_io::Ordering;

/// Who does the work that nobody waits for: preparing the next segment, moving the checkpoint,
/// and leaving a stability slot behind when the store falls idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maintenance {
    /// A thread of the store's own, parked while there is nothing to do.
    #[default]
    Thread,
    /// Nobody, until somebody calls [`Store::maintain`](crate::Store::maintain).
    Manual,
}

/// How a store is created and opened. The defaults suit a machine with few cores and an SSD.
///
/// # When records become durable
///
/// | policy | how | what an append that has returned promises |
/// |---|---|---|
/// | immediate | [`append_durable`](crate::Store::append_durable), or a wait for each record | the record, and all before it, are durable; those who wait share device writes |
/// | in groups | appends, then one wait, future or [`flush`](crate::Store::flush) for all of them | nothing before that |
/// | at most k in flight | [`commit_writes`](Self::commit_writes) | as those above; how many commits write at a time |
/// | by size | [`sync_every_bytes`](Self::sync_every_bytes), always on | nothing; no more than so many bytes are written and not durable, or about to be |
/// | by time | [`commit_every`](Self::commit_every) | nothing; it is durable within about this time |
/// | manual | none of these | nothing; what is in a full buffer is written |
///
/// The block, segment, record and window sizes are fixed when the store is created and ignored when
/// it is opened again; the rest holds for as long as the store is open.
///
/// # Examples
///
/// ```
/// use esker_lss::Options;
///
/// let options = Options::default().buffers(4).buffer_bytes(256 << 10).segment_bytes(16 << 20);
/// assert_ne!(options, Options::default());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub(crate) create: bool,
    pub(crate) ordering: Ordering,
    pub(crate) buffers: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) huge_pages: HugePages,
    pub(crate) evict_written: bool,
    pub(crate) block_bytes: u32,
    pub(crate) segment_bytes: u64,
    pub(crate) max_record_bytes: u64,
    pub(crate) window_slots: u32,
    pub(crate) commit_writes: usize,
    pub(crate) gather: Duration,
    pub(crate) sync_every_bytes: u64,
    pub(crate) spare_segments: usize,
    pub(crate) lock_timeout: Duration,
    pub(crate) idle: Option<Duration>,
    pub(crate) commit_every: Option<Duration>,
    pub(crate) maintenance: Maintenance,
    pub(crate) store_id: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            ordering: Ordering::TailLocalised,
            buffers: 16,
            buffer_bytes: 1 << 20,
            huge_pages: HugePages::Try,
            evict_written: true,
            block_bytes: 4096,
            segment_bytes: 64 << 20,
            max_record_bytes: 64 << 20,
            window_slots: 64,
            commit_writes: 1,
            gather: Duration::from_micros(60),
            sync_every_bytes: 16 << 20,
            spare_segments: 1,
            lock_timeout: Duration::from_secs(2),
            idle: Some(Duration::from_millis(10)),
            commit_every: None,
            maintenance: Maintenance::Thread,
            store_id: None,
        }
    }
}

impl Options {
    /// Whether a missing store is created (the default) or refused.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// In which order buffers are written: several in flight at a time, in any order within the
    /// ring's window (tail-localised, the default), or one after the other.
    #[must_use]
    pub fn ordering(mut self, ordering: Ordering) -> Self {
        self.ordering = ordering;
        self
    }

    /// How many flush buffers the ring has; 16 by default, at least 2, at most the window. All are
    /// allocated when the store is opened.
    #[must_use]
    pub fn buffers(mut self, buffers: usize) -> Self {
        self.buffers = buffers;
        self
    }

    /// The size of a flush buffer in bytes, a multiple of the block; 1 MiB by default. Records that
    /// do not fit into one are written on their own, from memory of their own, as many at a time
    /// as there are buffers.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Whether the ring's memory should lie on huge pages. It does where the kernel has them, by
    /// default.
    #[must_use]
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Whether a buffer that has been written is dropped from the processors' caches before it is
    /// filled again, by default, and what a scan has read before more is read into the same memory. It
    /// costs about 25 µs a mebibyte, and saves ten times as much where a hypervisor's processor copies
    /// the buffer; where the device reaches memory itself, `false` is a little cheaper.
    #[must_use]
    pub fn evict_written(mut self, evict: bool) -> Self {
        self.evict_written = evict;
        self
    }

    /// At creation: the unit, in bytes, to which every write is padded; 4096 by default, 512 where
    /// the device's logical block allows it.
    #[must_use]
    pub fn block_bytes(mut self, bytes: u32) -> Self {
        self.block_bytes = bytes;
        self
    }

    /// At creation: the size of a segment file in bytes, a power of two; 64 MiB by default.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// At creation: the largest record in bytes; 64 MiB by default. The window in bytes is at least
    /// twice that and a MiB: so much of the log may be written and not durable, and so much memory may
    /// be taken by records that are larger than a buffer.
    #[must_use]
    pub fn max_record_bytes(mut self, bytes: u64) -> Self {
        self.max_record_bytes = bytes;
        self
    }

    /// At creation: how many buffers may be written and not yet durable; 64 by default.
    #[must_use]
    pub fn window_slots(mut self, slots: u32) -> Self {
        self.window_slots = slots;
        self
    }

    /// How many commits may be writing at the same time, at least 1, the default. While that many
    /// are, those who wait gather for the next.
    #[must_use]
    pub fn commit_writes(mut self, writes: usize) -> Self {
        self.commit_writes = writes;
        self
    }

    /// How long a commit may wait for those who shared the last one to come back; 60 µs by default.
    /// It never waits when they are all there, so a lone thread does not wait at all. It waits by
    /// giving up the processor; where that takes much longer, because there is more work than
    /// processors, the next 256 commits do not wait.
    #[must_use]
    pub fn gather(mut self, gather: Duration) -> Self {
        self.gather = gather;
        self
    }

    /// After how many bytes written and not yet durable a data sync is started in the background;
    /// 16 MiB by default.
    #[must_use]
    pub fn sync_every_bytes(mut self, bytes: u64) -> Self {
        self.sync_every_bytes = bytes;
        self
    }

    /// How many segments the maintenance keeps ready ahead of the log, written with zeroes while the
    /// device is not busy, and how many trimmed ones are kept to be used again; 1 by default. The
    /// log is written faster into them than into new ones. The store's thread begins with that when
    /// something has been appended: a store that is only read writes nothing.
    #[must_use]
    pub fn spare_segments(mut self, segments: usize) -> Self {
        self.spare_segments = segments;
        self
    }

    /// How long opening waits for another process to let go of the store; 2 s by default. A process
    /// that was killed may hold it for a moment, until its last writes have ended.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// After how long without a write the store is idle, and leaves a stability slot on disk (one
    /// block), which lets recovery tell damage from a torn tail up to the last commit; 10 ms by
    /// default, `None` for never.
    #[must_use]
    pub fn idle(mut self, idle: Option<Duration>) -> Self {
        self.idle = idle;
        self
    }

    /// After how long at most everything that has been appended is committed, whether anybody waits
    /// for it or not; `None`, the default, for never.
    ///
    /// So a crash takes no more with it than what was appended within this time and the time of one
    /// commit, as long as the device and the scheduler keep up. It promises nothing of a single
    /// record: who has to know waits for it, or asks [`Store::durable`](crate::Store::durable).
    /// The maintenance thread does it, which then wakes this often, or once a
    /// millisecond, also while nothing is appended; with
    /// [`Maintenance::Manual`] each call of [`maintain`](crate::Store::maintain) commits if this time
    /// has passed since the last that did.
    #[must_use]
    pub fn commit_every(mut self, time: Option<Duration>) -> Self {
        self.commit_every = time;
        self
    }

    /// Who does the work in the background.
    #[must_use]
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.maintenance = maintenance;
        self
    }

    /// At creation: the store's identity, for runs that have to repeat exactly; random by default.
    #[must_use]
    pub fn store_id(mut self, id: u64) -> Self {
        self.store_id = Some(id);
        self
    }
}
