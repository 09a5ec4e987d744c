//! One cell of the comparison: one workload on one store, in a process of its own.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use esker_benches::cpu_time;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::log::{Address, Failure, Log, Outcome};
use crate::peers::{self, Visit};

/// What is done with a store. Sizes are in bytes of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// Threads append, each waiting until its record is durable, for some time.
    Durable {
        threads: usize,
        record: usize,
        milliseconds: u64,
    },
    /// One thread appends so many records at a time, and waits until they are durable.
    Outstanding {
        outstanding: usize,
        record: usize,
        milliseconds: u64,
    },
    /// One thread appends durably, another waits for each record and sees it.
    Tail { record: usize, milliseconds: u64 },
    /// Threads append as fast as they can; one sync at the end, or one every so often as well.
    Flat {
        threads: usize,
        record: usize,
        mebibytes: u64,
        sync_every_ms: Option<u64>,
    },
    /// Fills a store, notes the addresses, and ends the process without closing it: what the next
    /// three find.
    Fill { record: usize, mebibytes: u64 },
    /// Opens what a killed process left, with nothing of it in the page cache.
    Reopen { mebibytes: u64 },
    /// Reads records at random addresses, `depth` threads at a time, with nothing in the page
    /// cache at the start.
    Read {
        record: usize,
        depth: usize,
        milliseconds: u64,
    },
    /// Reads all in order, with nothing in the page cache at the start.
    Scan { record: usize, mebibytes: u64 },
    /// Half of the threads append durably, half read what was there, for some time.
    Mixed {
        threads: usize,
        record: usize,
        milliseconds: u64,
    },
}

/// What a cell measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Records done; for opening and scanning, as many as the bytes make.
    pub(crate) records: u64,
    /// Payload bytes done.
    pub(crate) bytes: u64,
    /// Wall time.
    pub(crate) seconds: f64,
    /// User and system time of the whole process.
    pub(crate) cpu_seconds: f64,
    /// Records read meanwhile.
    pub(crate) reads: Option<u64>,
    /// Latencies in microseconds where each record is waited for.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    /// Flushes that the block device completed meanwhile, where the kernel counts them.
    pub(crate) device_flushes: Option<u64>,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }
}

/// Runs a workload on the store of that name in `dir`.
pub(crate) fn run(store: &str, workload: Workload, dir: &Path) -> Outcome<Figures> {
    peers::visit(store, Run { workload, dir })
}

struct Run<'a> {
    workload: Workload,
    dir: &'a Path,
}

impl Visit for Run<'_> {
    type Output = Figures;

    fn visit<L: Log + 'static>(self) -> Outcome<Figures> {
        let Self { workload, dir } = self;
        match workload {
            Workload::Durable {
                threads,
                record,
                milliseconds,
            } => durable::<L>(dir, threads, 0, record, milliseconds),
            Workload::Outstanding {
                outstanding,
                record,
                milliseconds,
            } => many::<L>(dir, outstanding, record, milliseconds),
            Workload::Tail {
                record,
                milliseconds,
            } => tail::<L>(dir, record, milliseconds),
            Workload::Flat {
                threads,
                record,
                mebibytes,
                sync_every_ms,
            } => flat::<L>(dir, threads, record, mebibytes << 20, sync_every_ms),
            Workload::Fill { record, mebibytes } => {
                let log = L::open(dir)?;
                let addresses = fill(&log, record, mebibytes << 20)?;
                let bytes = addresses.len() as u64 * record as u64;
                fs::write(addresses_in(dir), serde_json::to_vec(&addresses)?)?;
                println!(
                    "{}",
                    serde_json::to_string(&Figures {
                        bytes,
                        seconds: 1.0,
                        ..Figures::default()
                    })?
                );
                // As a crash leaves it: no destructor runs.
                std::process::exit(0);
            }
            Workload::Reopen { mebibytes } => reopen::<L>(dir, mebibytes << 20),
            Workload::Read {
                record,
                depth,
                milliseconds,
            } => read::<L>(dir, record, depth, milliseconds),
            Workload::Scan { record, mebibytes } => scan::<L>(dir, record, mebibytes << 20),
            Workload::Mixed {
                threads,
                record,
                milliseconds,
            } => durable::<L>(
                dir,
                threads / 2,
                threads - threads / 2,
                record,
                milliseconds,
            ),
        }
    }
}

/// Takes time, CPU and flushes of what runs between its making and its end.
struct Meter {
    start: Instant,
    cpu: Duration,
    flushes: Option<u64>,
    device: u64,
}

impl Meter {
    fn start(dir: &Path) -> Outcome<Self> {
        let device = fs::metadata(dir)?.dev();
        Ok(Self {
            flushes: flushes(device),
            device,
            cpu: cpu_time(),
            start: Instant::now(),
        })
    }

    fn end(self, records: u64, bytes: u64) -> Figures {
        let seconds = self.start.elapsed().as_secs_f64();
        Figures {
            records,
            bytes,
            seconds,
            cpu_seconds: (cpu_time() - self.cpu).as_secs_f64(),
            device_flushes: flushes(self.device)
                .zip(self.flushes)
                .map(|(after, before)| after - before),
            ..Figures::default()
        }
    }
}

/// How many flushes the device has completed.
fn flushes(device: u64) -> Option<u64> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().nth(15)?.parse().ok()
}

/// For latencies in nanoseconds, up to a minute.
fn histogram() -> Outcome<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// A record whose bytes do not repeat.
fn payload(record: usize) -> Vec<u8> {
    let mut bytes = vec![0; record];
    SmallRng::seed_from_u64(7).fill(bytes.as_mut_slice());
    bytes
}

/// Appends durably from `writers` threads, and reads from `readers` threads what was there before.
fn durable<L: Log>(
    dir: &Path,
    writers: usize,
    readers: usize,
    record: usize,
    milliseconds: u64,
) -> Outcome<Figures> {
    let log = L::open(dir)?;
    let addresses = if readers > 0 {
        fill(&log, record, 64 << 20)?
    } else {
        Vec::new()
    };
    let bytes = payload(record);
    let histograms = Mutex::new(histogram()?);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let (warm, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let barrier = Barrier::new(writers + readers + 1);
    let (appended, read) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = |thread: usize| -> Outcome<()> {
        let count = if thread < writers { &appended } else { &read };
        let mut latencies = histogram()?;
        let mut random = SmallRng::seed_from_u64(thread as u64);
        // Thread 0 is the one that filled it.
        let mut writer = log.writer(thread + 1)?;
        let mut done = 0;
        barrier.wait();
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            if thread < writers {
                log.append_durable(&mut writer, &bytes)?;
            } else {
                log.read(addresses[random.random_range(..addresses.len())])?;
            }
            if warm.load(Ordering::Relaxed) {
                if thread < writers {
                    latencies.saturating_record(nanoseconds(begun.elapsed()));
                }
                done += 1;
            }
        }
        count.fetch_add(done, Ordering::Relaxed);
        histograms.lock().add(latencies)?;
        log.finish(writer)
    };
    let figures = std::thread::scope(|scope| {
        for thread in 0..writers + readers {
            let (work, failed, stop) = (&work, &failed, &stop);
            scope.spawn(move || {
                if let Err(error) = work(thread) {
                    *failed.lock() = Some(error);
                    stop.store(true, Ordering::Relaxed);
                }
            });
        }
        barrier.wait();
        std::thread::sleep(Duration::from_millis(milliseconds / 5));
        let meter = Meter::start(dir);
        warm.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(milliseconds));
        let figures = meter.map(|meter| meter.end(0, 0));
        stop.store(true, Ordering::Relaxed);
        figures
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    let histogram = histograms.into_inner();
    let records = appended.into_inner();
    log.close()?;
    let figures = Figures {
        records,
        bytes: records * record as u64,
        reads: (readers > 0).then(|| read.into_inner()),
        ..figures?
    };
    Ok(with_latencies(figures, &histogram))
}

/// Figures with what a histogram of nanoseconds says.
fn with_latencies(figures: Figures, histogram: &Histogram<u64>) -> Figures {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let quantile = |q| Some(histogram.value_at_quantile(q) as f64 / 1e3);
    Figures {
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        ..figures
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Appends `outstanding` records at a time from one thread.
fn many<L: Log>(
    dir: &Path,
    outstanding: usize,
    record: usize,
    milliseconds: u64,
) -> Outcome<Figures> {
    if !L::ABOUT.appends {
        return Err("it has no append that is not durable".into());
    }
    let log = L::open(dir)?;
    let bytes = payload(record);
    let mut writer = log.writer(0)?;
    let mut latencies = histogram()?;
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(milliseconds / 5) {
        log.append_many(&mut writer, &bytes, outstanding)?;
    }
    let meter = Meter::start(dir)?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(milliseconds) {
        let begun = Instant::now();
        log.append_many(&mut writer, &bytes, outstanding)?;
        latencies.saturating_record_n(nanoseconds(begun.elapsed()), outstanding as u64);
    }
    let records = latencies.len();
    let figures = meter.end(records, records * record as u64);
    log.finish(writer)?;
    log.close()?;
    Ok(with_latencies(figures, &latencies))
}

/// Appends durably, each record when a reader has seen the one before; the latencies are from when
/// the append had returned to when the reader had the record.
fn tail<L: Log>(dir: &Path, record: usize, milliseconds: u64) -> Outcome<Figures> {
    let log = L::open(dir)?;
    let bytes = payload(record);
    let stop = AtomicBool::new(false);
    let (saw, sees) = mpsc::channel();
    let mut latencies = histogram()?;
    let figures = std::thread::scope(|scope| -> Outcome<Figures> {
        let (log, stop) = (&log, &stop);
        let reader = scope.spawn(move || {
            // What is sent first says that it follows.
            let tell = || saw.send(Instant::now()).is_ok();
            let ready = || {
                tell();
            };
            log.follow(&ready, &|| tell() && !stop.load(Ordering::Relaxed))
        });
        let follows = sees.recv().is_ok();
        let mut writer = log.writer(0)?;
        let meter = Meter::start(dir)?;
        let start = Instant::now();
        while follows && !stop.load(Ordering::Relaxed) {
            if start.elapsed() >= Duration::from_millis(milliseconds) {
                stop.store(true, Ordering::Relaxed);
            }
            log.append_durable(&mut writer, &bytes)?;
            let acknowledged = Instant::now();
            let Ok(seen) = sees.recv_timeout(PATIENCE) else {
                stop.store(true, Ordering::Relaxed);
                break;
            };
            latencies.saturating_record(nanoseconds(seen - acknowledged).max(1));
        }
        let records = latencies.len();
        let figures = meter.end(records, records * record as u64);
        log.finish(writer)?;
        reader.join().map_err(|_| "the reader panicked")??;
        Ok(figures)
    })?;
    log.close()?;
    Ok(with_latencies(figures, &latencies))
}

/// No store gets longer than this for one flat-out cell; what it has done by then counts.
const PATIENCE: Duration = Duration::from_secs(6);

fn flat<L: Log>(
    dir: &Path,
    threads: usize,
    record: usize,
    bytes: u64,
    sync_every_ms: Option<u64>,
) -> Outcome<Figures> {
    if !L::ABOUT.appends {
        return Err("it has no append that is not durable".into());
    }
    let log = L::open(dir)?;
    let payload = payload(record);
    let each = bytes / record as u64 / threads as u64;
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    let meter = Meter::start(dir)?;
    let start = Instant::now();
    let work = |thread| -> Outcome<()> {
        let mut writer = log.writer(thread)?;
        let mut done = 0;
        while done < each {
            log.append(&mut writer, &payload)?;
            done += 1;
            if done % 256 == 0 && start.elapsed() > PATIENCE {
                break;
            }
        }
        count.fetch_add(done, Ordering::Relaxed);
        log.finish(writer)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (work, failed) = (&work, &failed);
                scope.spawn(move || {
                    if let Err(error) = work(thread) {
                        *failed.lock() = Some(error);
                    }
                })
            })
            .collect();
        if let Some(every) = sync_every_ms {
            let (log, failed, stop) = (&log, &failed, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(every));
                    if let Err(error) = log.sync() {
                        *failed.lock() = Some(error);
                        return;
                    }
                }
            });
        }
        for worker in workers {
            if worker.join().is_err() {
                *failed.lock() = Some("a thread panicked".into());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    log.sync()?;
    let records = count.into_inner();
    let figures = meter.end(records, records * record as u64);
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    log.close()?;
    Ok(figures)
}

/// Appends `bytes` of records from one thread, and makes them durable.
fn fill<L: Log>(log: &L, record: usize, bytes: u64) -> Outcome<Vec<Address>> {
    if !L::ABOUT.appends {
        return Err("it has no append that is not durable".into());
    }
    let payload = payload(record);
    let mut writer = log.writer(0)?;
    let mut addresses = Vec::new();
    for _ in 0..bytes / record as u64 {
        addresses.push(log.append(&mut writer, &payload)?);
    }
    log.finish(writer)?;
    log.sync()?;
    Ok(addresses)
}

/// Where the addresses of what fills a store are noted: beside it.
fn addresses_in(dir: &Path) -> PathBuf {
    dir.with_extension("addresses")
}

/// Drops the files' pages from the page cache.
fn chill(dir: &Path) -> Outcome<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            chill(&entry.path())?;
        } else if kind.is_file() {
            let file = fs::File::open(entry.path())?;
            file.sync_all()?;
            // SAFETY: a system call on an open file, with no memory.
            let refused =
                unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            if refused != 0 {
                return Err(std::io::Error::from_raw_os_error(refused).into());
            }
        }
    }
    Ok(())
}

fn reopen<L: Log>(dir: &Path, bytes: u64) -> Outcome<Figures> {
    chill(dir)?;
    let meter = Meter::start(dir)?;
    let log = L::open(dir)?;
    let bytes = if L::ABOUT.name == "raw" {
        // What reading it all back costs the bare device.
        log.scan()?
    } else {
        bytes
    };
    let figures = meter.end(1, bytes);
    log.close()?;
    Ok(figures)
}

fn read<L: Log>(dir: &Path, record: usize, depth: usize, milliseconds: u64) -> Outcome<Figures> {
    if !L::ABOUT.reads {
        return Err("it does not read by address".into());
    }
    let addresses: Vec<Address> = serde_json::from_slice(&fs::read(addresses_in(dir))?)?;
    let log = L::open(dir)?;
    chill(dir)?;
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    let histograms = Mutex::new(histogram()?);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let meter = Meter::start(dir)?;
    let work = |thread: usize| -> Outcome<()> {
        let mut latencies = histogram()?;
        let mut random = SmallRng::seed_from_u64(thread as u64);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let len = log.read(addresses[random.random_range(..addresses.len())])?;
            if len != record && L::ABOUT.name != "raw" {
                return Err("a record came back with another length".into());
            }
            latencies.saturating_record(nanoseconds(begun.elapsed()));
        }
        count.fetch_add(latencies.len(), Ordering::Relaxed);
        histograms.lock().add(latencies)?;
        Ok(())
    };
    std::thread::scope(|scope| {
        for thread in 0..depth {
            let (work, failed) = (&work, &failed);
            scope.spawn(move || {
                if let Err(error) = work(thread) {
                    *failed.lock() = Some(error);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(milliseconds));
        stop.store(true, Ordering::Relaxed);
    });
    let records = count.into_inner();
    let figures = meter.end(records, records * record as u64);
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    Ok(with_latencies(figures, &histograms.into_inner()))
}

fn scan<L: Log>(dir: &Path, record: usize, bytes: u64) -> Outcome<Figures> {
    if !L::ABOUT.scans {
        return Err("it does not scan".into());
    }
    let log = L::open(dir)?;
    chill(dir)?;
    let meter = Meter::start(dir)?;
    let found = log.scan()?;
    let figures = meter.end(found / record as u64, found);
    if found != bytes && L::ABOUT.name != "raw" {
        return Err(format!("{found} of {bytes} bytes came back").into());
    }
    Ok(figures)
}
