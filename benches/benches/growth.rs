//! What grows with the log, and what does not: `cargo bench -p esker-benches --bench growth`.
//!
//! One store grows to each of the sizes asked for. At each size: what the last appends have taken, what
//! closing and opening it again takes and how much of the device that reads, and the same of records read
//! at random. The disk is a simulated one, which keeps no zeroes: it holds 64 GiB of them in the space of
//! their headers. It has no speed of its own, so times there are those of the processor alone. With
//! `-- --dir DIR` it is a directory on a real one, which the sizes have to fit on; then memory shows too.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use esker_benches::{cpu_time, timed};
use esker_io::{AnyBackend, Backend, Statistics};
use esker_lss::{Lsn, Options, Store};
use esker_sim::{Completions, Sim, SimOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const GIB: u64 = 1 << 30;

/// What grows with the log, and what does not.
#[derive(Parser)]
struct Arguments {
    /// How far the log is to grow, in GiB.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    gibibytes: Vec<u64>,
    /// The size of a record in bytes.
    #[arg(long, default_value_t = 1_000_000)]
    record: usize,
    /// How many records are read at random at each size.
    #[arg(long, default_value_t = 500)]
    reads: usize,
    /// A directory on a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(dir) = &arguments.dir {
        let dir = tempfile::tempdir_in(dir)?;
        return grow(&arguments, &dir.path().join("store"), AnyBackend::auto);
    }
    let sim = Sim::with(SimOptions::new(1).completions(Completions::Immediate));
    grow(&arguments, Path::new("/store"), || sim.clone())
}

/// One in so many addresses is kept, so that they take no memory worth mentioning.
const KEPT_ONE_IN: usize = 16;

/// What has been appended so far.
#[derive(Default)]
struct Appended {
    count: usize,
    kept: Vec<Lsn>,
}

/// A line of the table.
struct Line {
    appended_mbps: f64,
    append_cpu_us: f64,
    close_ms: f64,
    open_ms: f64,
    open_reads: u64,
    open_bytes: u64,
    read_us: f64,
    reads_each: f64,
    bytes_each: f64,
}

/// Grows a store; each life of it has a backend of its own.
fn grow<B: Backend>(arguments: &Arguments, dir: &Path, backend: impl Fn() -> B) -> Result<()> {
    let mut store: Store<B> = Store::open(dir, Arc::new(backend()), Options::default())?;
    let payload = vec![0; arguments.record];
    let mut appended = Appended::default();
    println!(
        "{:>5}  {:>18}  {:>9}  {:>28}  {:>34}  {:>9}",
        "", "appends", "close", "open", "a record read at random", "memory"
    );
    for &gibibytes in &arguments.gibibytes {
        let end = gibibytes * GIB;
        // The last quarter of a GiB is timed.
        let timed_from = end.saturating_sub(GIB / 4);
        append_to(&store, timed_from, &payload, &mut appended)?;
        let (cpu, count) = (cpu_time(), appended.count);
        let (time, result) = timed(|| append_to(&store, end, &payload, &mut appended));
        result?;
        let count = (appended.count - count).max(1);
        let appended_mbps = (count * payload.len()) as f64 / time.as_secs_f64() / 1e6;
        let append_cpu_us = (cpu_time() - cpu).as_secs_f64() / count as f64 * 1e6;

        let (closed, result) = timed(|| store.close());
        result?;
        let next = Arc::new(backend());
        let before = next.statistics();
        let (opened, result) = timed(|| Store::open(dir, Arc::clone(&next), Options::default()));
        store = result?;
        let opening = reads_since(&store.backend().statistics(), &before);

        let before = store.backend().statistics();
        let (time, result) = timed(|| read_some(&store, &appended, arguments.reads, &payload));
        result?;
        let reading = reads_since(&store.backend().statistics(), &before);
        let each = |of: f64| of / arguments.reads.max(1) as f64;
        print(
            gibibytes,
            &Line {
                appended_mbps,
                append_cpu_us,
                close_ms: closed.as_secs_f64() * 1e3,
                open_ms: opened.as_secs_f64() * 1e3,
                open_reads: opening.0,
                open_bytes: opening.1,
                read_us: each(time.as_secs_f64() * 1e6),
                reads_each: each(reading.0 as f64),
                bytes_each: each(reading.1 as f64),
            },
            arguments.dir.is_some(),
        );
    }
    store.close()?;
    Ok(())
}

fn append_to<B: Backend>(
    store: &Store<B>,
    end: u64,
    payload: &[u8],
    appended: &mut Appended,
) -> Result<()> {
    while store.tail().get() < end {
        let lsn = store.append(payload)?;
        if appended.count.is_multiple_of(KEPT_ONE_IN) {
            appended.kept.push(lsn);
        }
        appended.count += 1;
    }
    store.flush()?;
    Ok(())
}

/// Reads records all over the log, always the same ones of a log of one size.
fn read_some<B: Backend>(
    store: &Store<B>,
    appended: &Appended,
    count: usize,
    payload: &[u8],
) -> Result<()> {
    let kept = &appended.kept;
    for index in 0..count {
        let record = store.read(kept[index * 7_919_999 % kept.len()])?;
        assert!(record == payload, "it is what was appended");
    }
    Ok(())
}

/// How many reads there have been, and of how many bytes.
fn reads_since(now: &Statistics, before: &Statistics) -> (u64, u64) {
    let since = now.since(before);
    (since.reads.completed, since.reads.bytes)
}

fn print(gibibytes: u64, line: &Line, has_memory: bool) {
    let memory = match resident_mib() {
        Some(mib) if has_memory => format!("{mib} MiB"),
        _ => String::from("-"),
    };
    println!(
        "{:>5}  {:>6.0} MB/s {:>6.1} us  {:>6.1} ms  {:>6.1} ms {:>4} reads {:>7} B  {:>7.1} us {:>4.2} reads {:>9.0} B  {:>9}",
        format!("{gibibytes} G"),
        line.appended_mbps,
        line.append_cpu_us,
        line.close_ms,
        line.open_ms,
        line.open_reads,
        line.open_bytes,
        line.read_us,
        line.reads_each,
        line.bytes_each,
        memory,
    );
}

/// The most memory that this process has had, in MiB.
fn resident_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}
