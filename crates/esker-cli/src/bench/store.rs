//! The store, with its defaults, as its user has it.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use esker_io::AnyBackend;
use esker_lss::{Lsn, Maintenance, Options, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Ask, READ_RECORD_BYTES};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Appending stops here even if its time is not up, so that a run's need of space is known.
const APPEND_BYTES: u64 = 1 << 30;
/// The most of what is opened, scanned and read.
const CRASHED_BYTES: u64 = 256 << 20;
/// How much of that for each second that is measured, so that a short run is short.
const CRASHED_BYTES_PER_SECOND: u64 = 8 << 20;
/// What the store's files need at most.
pub(super) const MOST_BYTES: u64 = APPEND_BYTES + CRASHED_BYTES + (256 << 20);

/// Records per second, or megabytes.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn rate(amount: u64, bytes: bool, time: Duration) -> f64 {
    let amount = amount as f64 / time.as_secs_f64();
    if bytes { amount / 1e6 } else { amount }
}

/// One figure of the store.
pub(super) fn measure(
    ask: Ask,
    dir: &Path,
    crashed: &Path,
    backend: AnyBackend,
    time: Duration,
) -> Outcome<f64> {
    match ask {
        Ask::AppendDurable { threads } => fresh(dir, backend, |store| {
            let start = Instant::now();
            let records = together(threads, |_| {
                let mut records = 0;
                while records == 0 || start.elapsed() < time {
                    store.append_durable(&[7; 256])?;
                    records += 1;
                }
                Ok(records)
            })?;
            Ok(rate(records, false, start.elapsed()))
        }),
        Ask::Append { record, threads } => fresh(dir, backend, |store| {
            let payload = vec![0x5A; record];
            let start = Instant::now();
            let left = AtomicU64::new(APPEND_BYTES / BATCH_BYTES);
            let bytes = together(threads, |_| {
                let mut bytes = 0;
                // The clock is looked at after a batch.
                while (bytes == 0 || start.elapsed() < time) && take_one(&left) {
                    for _ in 0..BATCH_BYTES / record as u64 {
                        store.append(&payload)?;
                        bytes += record as u64;
                    }
                }
                Ok(bytes)
            })?;
            store.flush()?;
            Ok(rate(bytes, true, start.elapsed()))
        }),
        Ask::Open => {
            let start = Instant::now();
            let store = Store::open(crashed, backend, unchanging())?;
            let took = start.elapsed();
            let bytes = store.durable().get();
            Ok(rate(bytes, true, took))
        }
        Ask::Scan => {
            let store = Store::open(crashed, backend, unchanging())?;
            let start = Instant::now();
            let mut bytes = 0;
            for record in store.scan(..)? {
                bytes += record?.payload.len() as u64;
            }
            Ok(rate(bytes, true, start.elapsed()))
        }
        Ask::Read { threads } => {
            let store = Store::open(crashed, backend, unchanging())?;
            let lsns: Vec<Lsn> = store
                .scan(..)?
                .map(|record| record.map(|record| record.lsn))
                .collect::<Result<_, _>>()?;
            let start = Instant::now();
            let records = together(threads, |thread| {
                let mut random = SmallRng::seed_from_u64(thread as u64);
                let mut records = 0;
                while records == 0 || start.elapsed() < time {
                    let lsn = lsns[random.random_range(..lsns.len())];
                    if store.read(lsn)?.len() != READ_RECORD_BYTES {
                        return Err("a record came back with another length".into());
                    }
                    records += 1;
                }
                Ok(records)
            })?;
            Ok(rate(records, false, start.elapsed()))
        }
    }
}

const BATCH_BYTES: u64 = 1 << 20;

fn take_one(left: &AtomicU64) -> bool {
    // Relaxed: a count, nothing else.
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

/// Writes what is opened, scanned and read: a store with no mark of a close and no checkpoint, so
/// that opening it reads all of it.
pub(super) fn leave_as_a_crash_would(dir: &Path, backend: AnyBackend, seconds: u32) -> Outcome<()> {
    let bytes = CRASHED_BYTES.min(u64::from(seconds) * CRASHED_BYTES_PER_SECOND);
    let store = Store::open(dir, backend, unchanging())?;
    let payload = [0x5A; READ_RECORD_BYTES];
    for _ in 0..bytes / READ_RECORD_BYTES as u64 {
        store.append(&payload)?;
    }
    store.flush()?;
    Ok(())
}

/// Nothing is done in the background, so that a store stays as it was left.
fn unchanging() -> Options {
    Options::default().maintenance(Maintenance::Manual)
}

/// Runs `body` on a new store, and removes it.
fn fresh(
    dir: &Path,
    backend: AnyBackend,
    body: impl FnOnce(&Store<AnyBackend>) -> Outcome<f64>,
) -> Outcome<f64> {
    let path = dir.join("store");
    let store = Store::open(&path, backend, Options::default())?;
    let figure = body(&store)?;
    store.close()?;
    fs::remove_dir_all(&path)?;
    Ok(figure)
}

/// Runs `body` on that many threads and adds up what they return.
fn together(threads: usize, body: impl Fn(usize) -> Outcome<u64> + Sync) -> Outcome<u64> {
    thread::scope(|scope| {
        let body = &body;
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || body(thread)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a thread panicked")?)
            .sum()
    })
}
