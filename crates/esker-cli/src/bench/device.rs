//! The bare disk: the I/O layer alone, on one file that was written before.

#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of a few mebibytes at most"
)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::{
    Action, AnyBackend, Backend, Completion, Create, Direct, Durability, FileOptions, Memory,
    Operation, ReadMemory, WriteMemory,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Raw;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// The length of the file.
pub(super) const FILE_BYTES: u64 = 256 * MIB;
/// How many 1 MiB operations are in flight.
const DEPTH: u64 = 4;

/// A prewritten file and what writes it.
pub(super) struct Device {
    backend: AnyBackend,
    file: <AnyBackend as Backend>::File,
}

impl Device {
    /// Makes the file and writes all of it.
    pub(super) fn new(backend: AnyBackend, path: &Path) -> Outcome<Self> {
        let options = FileOptions::read_write()
            .create(Create::New)
            .direct(Direct::Try);
        let file = backend.open(path, &options)?;
        let this = Self { backend, file };
        let blocks = FILE_BYTES / MIB;
        let mut next = 0;
        this.write(|| {
            next += 1;
            next <= blocks
        })?;
        Ok(this)
    }

    pub(super) fn backend(&self) -> &AnyBackend {
        &self.backend
    }

    /// Whether the page cache is passed by.
    pub(super) fn is_direct(&self) -> Outcome<bool> {
        Ok(self.backend.facts(&self.file)?.direct)
    }

    /// Records or megabytes per second.
    pub(super) fn measure(&self, raw: Raw, time: Duration) -> Outcome<f64> {
        let start = Instant::now();
        // At least one, however long it took to come here.
        let mut is_first = true;
        let in_time = || std::mem::take(&mut is_first) || start.elapsed() < time;
        let amount = match raw {
            Raw::DurableWrites => self.write_durably(in_time)?,
            Raw::Writes => self.write(in_time)? * MIB,
            Raw::Reads => self.read(in_time)? * MIB,
            Raw::RandomReads { depth } => self.read_anywhere(depth, time)?,
        };
        Ok(super::store::rate(
            amount,
            matches!(raw, Raw::Writes | Raw::Reads),
            start.elapsed(),
        ))
    }

    /// Durable writes of a block each, one at a time.
    fn write_durably(&self, mut more: impl FnMut() -> bool) -> Outcome<u64> {
        let memory = Arc::new(AlignedBuf::zeroed(BLOCK as usize, Alignment::BLOCK)?);
        let mut count = 0;
        while more() {
            let action = Action::Write {
                offset: count * BLOCK % FILE_BYTES,
                memory: WriteMemory::new(Arc::clone(&memory)),
                durability: Durability::Durable,
            };
            self.backend.execute(&self.file, action).result?;
            count += 1;
        }
        Ok(count)
    }

    /// Writes of 1 MiB in order, round the file, and one sync.
    fn write(&self, more: impl FnMut() -> bool) -> Outcome<u64> {
        let memory = Arc::new(huge(DEPTH * MIB)?);
        let count = self.pipelined(more, |index| {
            let start = (index % DEPTH * MIB) as usize;
            let slice = start..start + MIB as usize;
            Ok(Action::Write {
                offset: index * MIB % FILE_BYTES,
                memory: WriteMemory::slice(Arc::clone(&memory), slice)?,
                durability: Durability::Written,
            })
        })?;
        self.backend.execute(&self.file, Action::SyncData).result?;
        Ok(count)
    }

    /// Reads of 1 MiB in order, round the file.
    fn read(&self, more: impl FnMut() -> bool) -> Outcome<u64> {
        // Two mebibytes each, so that each lies on a huge page of its own.
        let pool: Vec<_> = (0..DEPTH)
            .map(|_| huge(2 * MIB))
            .collect::<Result<_, _>>()?;
        let pool = Arc::new(std::sync::Mutex::new(pool));
        self.returning(Arc::clone(&pool), more, |index, buf| {
            Ok(Action::Read {
                offset: index * MIB % FILE_BYTES,
                memory: ReadMemory::slice(buf, 0..MIB as usize)?,
            })
        })
    }

    /// Reads of a block each, anywhere, by as many threads as are to be in flight.
    fn read_anywhere(&self, depth: usize, time: Duration) -> Outcome<u64> {
        let start = Instant::now();
        thread::scope(|scope| {
            let readers: Vec<_> = (0..depth)
                .map(|seed| {
                    scope.spawn(move || -> Outcome<u64> {
                        let mut random = SmallRng::seed_from_u64(seed as u64);
                        let mut buf = AlignedBuf::zeroed(BLOCK as usize, Alignment::BLOCK)?;
                        let mut count = 0;
                        while count == 0 || start.elapsed() < time {
                            let action = Action::Read {
                                offset: random.random_range(..FILE_BYTES / BLOCK) * BLOCK,
                                memory: ReadMemory::new(buf),
                            };
                            let completion = self.backend.execute(&self.file, action);
                            completion.result?;
                            buf = given_back(completion.memory)?;
                            count += 1;
                        }
                        Ok(count)
                    })
                })
                .collect();
            readers
                .into_iter()
                .map(|reader| reader.join().map_err(|_| "a reader panicked")?)
                .sum()
        })
    }

    /// Runs actions, [`DEPTH`] in flight, as long as `more` says so, and returns how many.
    fn pipelined(
        &self,
        mut more: impl FnMut() -> bool,
        mut action: impl FnMut(u64) -> Outcome<Action>,
    ) -> Outcome<u64> {
        let done = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(AtomicBool::new(false));
        let mut submitted = 0;
        while more() && !failed.load(Ordering::Relaxed) {
            let (ended, failed) = (Arc::clone(&done), Arc::clone(&failed));
            self.backend.submit(vec![Operation::OnFile {
                file: self.file.clone(),
                action: action(submitted)?,
                sink: Box::new(move |completion: Completion| {
                    if completion.result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    ended.fetch_add(1, Ordering::Release);
                }),
            }]);
            submitted += 1;
            self.backend.wait_until(
                &mut || submitted < done.load(Ordering::Acquire) + DEPTH,
                None,
            );
        }
        self.backend
            .wait_until(&mut || done.load(Ordering::Acquire) == submitted, None);
        if failed.load(Ordering::Relaxed) {
            return Err("the disk failed an operation".into());
        }
        Ok(submitted)
    }

    /// The same for actions that each take a buffer and give it back.
    fn returning(
        &self,
        pool: Arc<std::sync::Mutex<Vec<AlignedBuf>>>,
        mut more: impl FnMut() -> bool,
        mut action: impl FnMut(u64, AlignedBuf) -> Outcome<Action>,
    ) -> Outcome<u64> {
        let all = lock(&pool).len();
        let failed = Arc::new(AtomicBool::new(false));
        let mut submitted = 0;
        while more() && !failed.load(Ordering::Relaxed) {
            self.backend.wait_until(
                &mut || !lock(&pool).is_empty() || failed.load(Ordering::Relaxed),
                None,
            );
            let Some(buf) = lock(&pool).pop() else { break };
            let (pool, failed) = (Arc::clone(&pool), Arc::clone(&failed));
            self.backend.submit(vec![Operation::OnFile {
                file: self.file.clone(),
                action: action(submitted, buf)?,
                sink: Box::new(
                    move |completion: Completion| match given_back(completion.memory) {
                        Ok(buf) if completion.result.is_ok() => lock(&pool).push(buf),
                        _ => failed.store(true, Ordering::Relaxed),
                    },
                ),
            }]);
            submitted += 1;
        }
        self.backend.wait_until(
            &mut || lock(&pool).len() == all || failed.load(Ordering::Relaxed),
            None,
        );
        if failed.load(Ordering::Relaxed) {
            return Err("the disk failed an operation".into());
        }
        Ok(submitted)
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn given_back(memory: Memory) -> Outcome<AlignedBuf> {
    match memory {
        Memory::Read(memory) => memory
            .into_inner()
            .map_err(|_| "another buffer came back".into()),
        _ => Err("the buffer did not come back".into()),
    }
}

fn huge(bytes: u64) -> Outcome<AlignedBuf> {
    let mut buf = AlignedBuf::zeroed_on(bytes as usize, Alignment::BLOCK, HugePages::Try)?;
    buf.fill(0xA5);
    Ok(buf)
}
