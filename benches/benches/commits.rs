//! Durable appends against bare durable writes, in one run: `cargo bench -p esker-benches --bench
//! commits`.
//!
//! Each round measures, one after the other: bare 4 KiB writes with `RWF_DSYNC` of one thread into a
//! prewritten file; durable appends of several threads, each waiting for each record; one thread with
//! 64 records outstanding, as futures of which each is replaced when it ends; and one thread that
//! appends 64 records and waits for the last.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use clap::Parser;
use esker_benches::{Rounds, cpu_time, timed};
use esker_buf::{AlignedBuf, Alignment};
use esker_io::{
    Action, Allocation, AnyBackend, Backend, Create, Direct, Durability, FileOptions, WriteMemory,
};
use esker_lss::{Options, Store};
use parking_lot::Mutex;

const RAW: &str = "raw 4 KiB RWF_DSYNC, 1 thread";
const RECORD: [u8; 256] = [7; 256];
const OUTSTANDING: usize = 64;

type Failure = Box<dyn std::error::Error>;

/// Durable appends against the bare device.
#[derive(Parser)]
struct Arguments {
    /// Rounds of all cells.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Device writes in each cell, about.
    #[arg(long, default_value_t = 4000)]
    commits: usize,
    /// Threads that wait for each record: a cell for each number.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,64")]
    threads: Vec<usize>,
    /// Where the files go; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let commits = arguments.commits;
    let mut durable = Rounds::default();
    for round in 0..arguments.rounds {
        eprintln!("round {}", round + 1);
        let dir = tempfile::tempdir_in(&base)?;
        let mut cell = |name: &str, count: usize, body: &dyn Fn(&Path) -> Result<f64, Failure>| {
            let path = dir.path().join("cell");
            let cpu = cpu_time();
            let rate = body(&path)?;
            let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6;
            durable.add(name, "per s", rate);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            durable.add(&format!("{name}, CPU"), "us each", cpu / count as f64);
            if path.is_dir() {
                std::fs::remove_dir_all(&path)?;
            } else {
                std::fs::remove_file(&path)?;
            }
            Ok::<_, Failure>(())
        };
        cell(RAW, commits, &|path| raw(path, commits))?;
        for &threads in &arguments.threads {
            let count = commits * threads.min(8) / threads * threads;
            let name = format!("append_durable, 256 B, {threads} threads");
            cell(&name, count, &|path| waiting(path, count, threads))?;
        }
        let count = commits * OUTSTANDING / 4;
        let name = format!("until_durable, 256 B, 1 thread, {OUTSTANDING} outstanding");
        cell(&name, count, &|path| futures(path, count))?;
        let name = format!("append x {OUTSTANDING}, wait_durable, 256 B, 1 thread");
        cell(&name, count, &|path| batches(path, count))?;
    }
    durable.print(RAW);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(count: usize, time: std::time::Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Bare durable 4 KiB writes per second, into space that was written before.
fn raw(path: &Path, count: usize) -> Result<f64, Failure> {
    const LEN: u64 = 64 << 20;
    let backend = AnyBackend::auto();
    let options = FileOptions::read_write()
        .create(Create::New)
        .direct(Direct::Try);
    let file = backend.open(path, &options)?;
    backend.allocate_with(&file, 0, LEN, Allocation::Written)?;
    backend.execute(&file, Action::SyncData).result?;
    let memory = Arc::new(AlignedBuf::zeroed(4096, Alignment::BLOCK)?);
    let (time, result) = timed(|| {
        for index in 0..count as u64 {
            let action = Action::Write {
                offset: index * 4096 % LEN,
                memory: WriteMemory::new(Arc::clone(&memory)),
                durability: Durability::Durable,
            };
            backend.execute(&file, action).result?;
        }
        Ok::<_, esker_io::IoError>(())
    });
    result?;
    Ok(rate(count, time))
}

fn open(path: &Path) -> Result<Store<AnyBackend>, Failure> {
    Ok(Store::open(path, AnyBackend::auto(), Options::default())?)
}

/// Durable appends per second, each thread waiting for each record.
fn waiting(path: &Path, count: usize, threads: usize) -> Result<f64, Failure> {
    let store = open(path)?;
    let (time, result) = timed(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        (0..count / threads)
                            .try_for_each(|_| store.append_durable(&RECORD).map(|_lsn| ()))
                    })
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("no panic"))
        })
    });
    result?;
    store.close()?;
    Ok(rate(count, time))
}

/// Whose turn it is to be polled, and the thread that polls them: the least that an executor is.
struct Ready {
    thread: Thread,
    indices: Mutex<Vec<usize>>,
}

struct Task {
    ready: Arc<Ready>,
    index: usize,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let first = {
            let mut indices = self.ready.indices.lock();
            indices.push(self.index);
            indices.len() == 1
        };
        if first {
            self.ready.thread.unpark();
        }
    }
}

/// Durable appends per second of one thread that has so many outstanding, as futures.
fn futures(path: &Path, count: usize) -> Result<f64, Failure> {
    let store = open(path)?;
    let ready = Arc::new(Ready {
        thread: std::thread::current(),
        indices: Mutex::new((0..OUTSTANDING).collect()),
    });
    let wakers: Vec<_> = (0..OUTSTANDING)
        .map(|index| {
            let ready = Arc::clone(&ready);
            Waker::from(Arc::new(Task { ready, index }))
        })
        .collect();
    let mut waiting: Vec<Option<esker_lss::UntilDurable>> =
        (0..OUTSTANDING).map(|_| None).collect();
    let (time, result) = timed(|| {
        let (mut appended, mut ended) = (0, 0);
        let mut turns = Vec::new();
        while ended < count {
            std::mem::swap(&mut turns, &mut ready.indices.lock());
            if turns.is_empty() {
                std::thread::park();
            }
            for index in turns.drain(..) {
                loop {
                    if let Some(future) = &mut waiting[index] {
                        let mut context = Context::from_waker(&wakers[index]);
                        match Pin::new(future).poll(&mut context) {
                            Poll::Pending => break,
                            Poll::Ready(result) => result?,
                        }
                        ended += 1;
                        waiting[index] = None;
                    }
                    if appended == count {
                        break;
                    }
                    appended += 1;
                    waiting[index] = Some(store.until_durable(store.append(&RECORD)?));
                }
            }
        }
        Ok::<_, Failure>(())
    });
    result?;
    store.close()?;
    Ok(rate(count, time))
}

/// Durable appends per second of one thread that waits for the last of so many.
fn batches(path: &Path, count: usize) -> Result<f64, Failure> {
    let store = open(path)?;
    let (time, result) = timed(|| {
        for _ in 0..count / OUTSTANDING {
            for _ in 1..OUTSTANDING {
                store.append(&RECORD)?;
            }
            store.append_durable(&RECORD)?;
        }
        Ok::<_, Failure>(())
    });
    result?;
    store.close()?;
    Ok(rate(count / OUTSTANDING * OUTSTANDING, time))
}
