//! [`LogStream`]: the log's bytes in order, read ahead.
//!
//! Several reads are in flight while the bytes before them are being checked. Their buffers are cut
//! from one stretch of huge pages and used again, so memory does not grow with what is read. What has
//! been consumed leaves the processor's caches before more is read into the same memory: where a
//! hypervisor's processor fills it, taking each line away from this one costs more than the reading.
//! Reading starts small and grows with what has been consumed: a look at one block costs one small read.

use std::collections::VecDeque;
use std::sync::Arc;

use esker_buf::{Alignment, AllocError, BufferPool, HugePages, PoolBuf, evict};
use esker_io::{Action, Backend, Completion, IoError, Operation, ReadMemory};

use crate::segments::SegmentSet;
use crate::sync::Mutex;

/// The first read.
const FIRST_BYTES: u64 = 64 << 10;
/// The largest read.
const CHUNK_BYTES: u64 = 1 << 20;
/// How many reads are in flight at most, the one whose bytes are being consumed included.
const DEPTH: usize = 6;
/// A shorter stretch is not worth the trouble.
const EVICTED_BYTES: u64 = 64 << 10;

/// The log could not be read.
#[derive(Debug)]
pub(crate) enum StreamError {
    Io(IoError),
    Memory(AllocError),
}

impl From<IoError> for StreamError {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

impl From<AllocError> for StreamError {
    fn from(error: AllocError) -> Self {
        Self::Memory(error)
    }
}

impl From<StreamError> for crate::OpenError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Io(error) => error.into(),
            StreamError::Memory(error) => error.into(),
        }
    }
}

impl From<StreamError> for crate::ReadError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Io(error) => error.into(),
            StreamError::Memory(error) => error.into(),
        }
    }
}

type Slot = Arc<Mutex<Option<Completion>>>;

/// A read in flight, or what stands for one where there is no file.
struct Ahead {
    start: u64,
    /// `None`: there is no file here.
    slot: Option<Slot>,
}

/// Bytes that have been read.
struct Chunk {
    start: u64,
    /// How many bytes from `start` on there are.
    valid: u64,
    buf: PoolBuf,
}

/// The log from a block's boundary on, up to a limit or to where the files end.
pub(crate) struct LogStream<B: Backend> {
    segments: Arc<SegmentSet<B>>,
    /// What comes next.
    position: u64,
    /// Nothing at or past this address is read: a multiple of the block.
    limit: u64,
    /// Up to where reads have been issued.
    issued: u64,
    /// The length of the next read.
    next_bytes: u64,
    ahead: VecDeque<Ahead>,
    /// How many reads may be in flight by now.
    depth: usize,
    current: Option<Chunk>,
    buffers: Buffers,
}

/// Where a stream's buffers come from: one for the first read, then as many as reads in flight.
#[derive(Default)]
struct Buffers {
    pool: Option<BufferPool>,
}

impl Buffers {
    /// How long the longest buffer is.
    fn len_bytes(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.len_bytes() as u64)
    }

    /// Buffers for reads of `len` bytes or, if that is more than a first read has, for all that come
    /// after it, of which `left` bytes are left. Those that are in use are given back to where they
    /// came from.
    fn replace(&mut self, len: u64, left: u64, alignment: Alignment) -> Result<(), AllocError> {
        let (count, len_bytes) = if len <= FIRST_BYTES {
            (1, to_usize(len))
        } else {
            let count = left.div_ceil(CHUNK_BYTES).min(DEPTH as u64);
            (to_usize(count), to_usize(CHUNK_BYTES))
        };
        self.pool = Some(BufferPool::new(
            count,
            len_bytes,
            alignment,
            HugePages::Try,
        )?);
        Ok(())
    }

    fn take(&self) -> Option<PoolBuf> {
        self.pool.as_ref().and_then(BufferPool::take)
    }
}

impl<B: Backend> LogStream<B> {
    /// The bytes of `[start, limit)`; `start` is a multiple of the block, `limit` is rounded up to
    /// one.
    pub(crate) fn new(segments: &Arc<SegmentSet<B>>, start: u64, limit: u64) -> Self {
        debug_assert!(
            segments.geometry().block().divides(start),
            "streams start at a block"
        );
        let block = segments.geometry().block();
        let limit = block.ceil(limit).unwrap_or_else(|| block.floor(u64::MAX));
        Self {
            segments: Arc::clone(segments),
            position: start,
            limit,
            issued: start,
            next_bytes: FIRST_BYTES,
            ahead: VecDeque::with_capacity(DEPTH),
            depth: 1,
            current: None,
            buffers: Buffers::default(),
        }
    }

    /// The address of what comes next.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// What comes next: at least up to the end of the block. Nothing at the limit, or where there
    /// is no file or it has ended.
    pub(crate) fn available(&mut self) -> Result<&[u8], StreamError> {
        loop {
            if let Some(chunk) = &self.current {
                let within = self.position.checked_sub(chunk.start);
                if within.is_some_and(|within| within < chunk.valid) {
                    break;
                }
            }
            if !self.take_next()? {
                return Ok(&[]);
            }
        }
        let Some(chunk) = &self.current else {
            return Ok(&[]);
        };
        Ok(&chunk.buf[to_usize(self.position - chunk.start)..to_usize(chunk.valid)])
    }

    /// Goes on `bytes` further, be they read already or not.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.position = self.position.saturating_add(bytes);
    }

    /// Makes the chunk that holds the position the current one; `false` where there is none.
    fn take_next(&mut self) -> Result<bool, StreamError> {
        // Its buffer is free: the next read takes it.
        if let Some(chunk) = self.current.take() {
            let is_used_again = self.issued < self.limit && chunk.valid > EVICTED_BYTES;
            if is_used_again && self.segments.evicts() {
                evict(&chunk.buf[..to_usize(chunk.valid)]);
            }
            self.depth = (2 * self.depth).min(DEPTH);
        }
        if self.position >= self.limit {
            return Ok(false);
        }
        if self.ahead.is_empty() && self.issued < self.position {
            // What lies between has been skipped.
            self.issued = self.segments.geometry().block().floor(self.position);
        }
        self.issue()?;
        let Some(front) = self.ahead.front() else {
            return Ok(false);
        };
        if front.start > self.position {
            // The chunk before it was cut short by the end of its file.
            return Ok(false);
        }
        let Some(slot) = front.slot.clone() else {
            // No file from here on, and nothing behind it in the queue.
            return Ok(false);
        };
        let start = front.start;
        self.ahead.pop_front();
        let Completion { result, memory } = self.wait(&slot);
        let buf = memory
            .into_inner::<PoolBuf>()
            .expect("a completion carries its own operation's memory");
        let valid = self.segments.geometry().block().floor(result? as u64);
        self.current = Some(Chunk { start, valid, buf });
        // If the position is past it, the caller has skipped it and asks again; if the file ended
        // before the position, the next chunk is past it and says so.
        Ok(true)
    }

    fn wait(&self, slot: &Slot) -> Completion {
        let mut taken = None;
        self.segments.backend().wait_until(
            &mut || {
                taken = slot.lock().take();
                taken.is_some()
            },
            None,
        );
        taken.expect("the wait has no timeout")
    }

    /// Starts reads until enough are in flight.
    fn issue(&mut self) -> Result<(), StreamError> {
        let segment_bytes = self.segments.geometry().segment_bytes();
        let mut batch = Vec::new();
        while self.ahead.len() < self.depth && self.issued < self.limit {
            if self.ahead.back().is_some_and(|last| last.slot.is_none()) {
                break;
            }
            let start = self.issued;
            let segment = self.segments.geometry().segment_of(start);
            let Some(file) = self.segments.file(segment)? else {
                self.ahead.push_back(Ahead { start, slot: None });
                break;
            };
            let offset = start % segment_bytes;
            let len = self
                .next_bytes
                .min(segment_bytes - offset)
                .min(self.limit - start);
            if self.buffers.len_bytes() < len {
                let alignment = self.segments.geometry().block().max(Alignment::BLOCK);
                self.buffers.replace(len, self.limit - start, alignment)?;
            }
            // Each read ahead has one, and nothing else has. If there is none, there are such reads.
            let Some(buf) = self.buffers.take() else {
                break;
            };
            let memory =
                ReadMemory::slice(buf, 0..to_usize(len)).expect("the buffer is long enough");
            let slot = Slot::default();
            let filled = Arc::clone(&slot);
            let sink = move |completion| *filled.lock() = Some(completion);
            batch.push(Operation::new(file, Action::Read { offset, memory }, sink));
            self.ahead.push_back(Ahead {
                start,
                slot: Some(slot),
            });
            self.issued = start + len;
            self.next_bytes = (self.next_bytes * 4).min(CHUNK_BYTES);
        }
        if !batch.is_empty() {
            self.segments.backend().submit(batch);
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "callers pass lengths of chunks"
)]
fn to_usize(len: u64) -> usize {
    len as usize
}
