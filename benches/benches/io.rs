//! The I/O layer against the bare `io-uring` crate and bare system calls, in one run:
//! `cargo bench -p esker-benches --bench io`.
//!
//! On one prewritten file opened with O_DIRECT, with buffers cut from huge pages: 1 MiB writes, 4 in
//! flight; 256 KiB writes, 8 in flight; random 4 KiB reads with 1, 8 and 32 in flight; and durable
//! 4 KiB writes of one thread, one after the other. Each load goes through the bare interface and
//! through the layer, with the same options and the same offsets, and besides in each way that is
//! said to be faster: registered memory, huge pages (the plain way is through the layer with ordinary
//! ones), a blocking call where only one is in flight, and, by the bare
//! interface only, because they were found wanting, a registered file, a ring of a single submitter,
//! and waiting for a quarter of the completions at a time; and through the backend without a ring. Last,
//! 1 MiB writes that are made durable every 8 MiB: by a sync that the writes wait for, or by one in flight
//! with the writes behind it. The ways take turns, in rounds; the medians are compared.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use esker_benches::{Rounds, cpu_time, timed};
use esker_buf::{AlignedBuf, Alignment, BufferPool, HugePages, IoRegion, PoolBuf};
use esker_io::{
    Action, Backend, BackendExt, Blocking, Completion, Create, Direct, Durability, FileHandle,
    FileOptions, Operation, Pending, ReadMemory, Uring, UringConfig, WriteMemory,
};
use io_uring::{IoUring, opcode, squeue, types};
use parking_lot::Mutex;

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The I/O layer against the bare interfaces.
#[derive(Parser)]
struct Arguments {
    /// Rounds of all cells.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Size of the file, and bytes written by each write cell, in MiB.
    #[arg(long, default_value_t = 256)]
    mebibytes: usize,
    /// Operations of each cell of 4 KiB reads.
    #[arg(long, default_value_t = 8000)]
    reads: usize,
    /// Operations of each cell of durable writes.
    #[arg(long, default_value_t = 500)]
    durable: usize,
    /// Only loads whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the file goes; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a cell does.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    is_read: bool,
    block: usize,
    depth: usize,
}

const LOADS: [Load; 5] = [
    load("write 1 MiB x 4", false, MIB, 4),
    load("write 256 KiB x 8", false, MIB / 4, 8),
    load("read 4 KiB x 1", true, BLOCK, 1),
    load("read 4 KiB x 8", true, BLOCK, 8),
    load("read 4 KiB x 32", true, BLOCK, 32),
];

const fn load(name: &'static str, is_read: bool, block: usize, depth: usize) -> Load {
    Load {
        name,
        is_read,
        block,
        depth,
    }
}

/// Through what a cell goes.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Bare(Bare),
    Ring {
        registered: bool,
    },
    /// Through the ring, with buffers on ordinary pages.
    Ordinary,
    Execute,
    Threads,
}

/// What is asked for of the bare crate.
#[derive(Clone, Copy, Default, PartialEq)]
struct Bare {
    /// Wait for a quarter of what is in flight at a time.
    gather: bool,
    memory: bool,
    file: bool,
    single: bool,
}

const PLAIN: Bare = Bare {
    gather: false,
    memory: false,
    file: false,
    single: false,
};

/// The cells of a load by name; the first is what the others are compared with.
fn ways(load: &Load) -> Vec<(&'static str, Way)> {
    let ring = |registered| Way::Ring { registered };
    let mut ways = vec![
        ("bare", Way::Bare(PLAIN)),
        ("layer", ring(false)),
        (
            "bare, registered memory",
            Way::Bare(Bare {
                memory: true,
                ..PLAIN
            }),
        ),
        ("layer, registered memory", ring(true)),
        (
            "bare, registered file",
            Way::Bare(Bare {
                file: true,
                ..PLAIN
            }),
        ),
        (
            "bare, single submitter",
            Way::Bare(Bare {
                single: true,
                ..PLAIN
            }),
        ),
    ];
    if load.depth >= 8 {
        let gather = Bare {
            gather: true,
            ..PLAIN
        };
        ways.push(("bare, a quarter at a time", Way::Bare(gather)));
    }
    if load.block >= MIB / 4 {
        ways.push(("layer, ordinary pages", Way::Ordinary));
    }
    if load.depth == 1 {
        ways.push(("layer, execute", Way::Execute));
    }
    ways.push(("threads", Way::Threads));
    ways
}

/// The file, and what it is reached through.
struct Place {
    path: std::path::PathBuf,
    bare: std::fs::File,
    plain: Uring,
    threads: Blocking,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(base)?;
    let path = dir.path().join("file");
    let bytes = arguments.mebibytes * MIB;
    let plain = Uring::new(UringConfig::default())?;
    prewrite(&plain, &path, bytes)?;
    let bare = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)?;
    // SAFETY: F_SETFL takes an integer and touches no memory.
    if unsafe { libc::fcntl(bare.as_raw_fd(), libc::F_SETFL, libc::O_DIRECT) } != 0 {
        return Err("the file system takes no direct transfers".into());
    }
    let place = Place {
        path,
        bare,
        plain,
        threads: Blocking::new(),
    };
    let loads = LOADS
        .iter()
        .filter(|load| load.name.contains(&arguments.only));
    for load in loads {
        let mut rates = Rounds::default();
        let mut costs = Rounds::default();
        let ways = ways(load);
        for round in 0..arguments.rounds {
            let count = if load.is_read {
                arguments.reads
            } else {
                bytes / load.block
            };
            let offsets = offsets(load, bytes, count, round as u64);
            // Whoever comes later finds a device in another state: take turns.
            for turn in 0..ways.len() {
                let (name, way) = ways[(turn + round) % ways.len()];
                let (rate, cost) = cell(&place, load, way, &offsets)?;
                rates.add(name, "op/s", rate);
                costs.add(name, "us CPU", cost);
            }
        }
        print(load.name, &ways, &rates, &costs);
    }
    if "durable 4 KiB".contains(&arguments.only) {
        durable(&place, &arguments)?;
    }
    if SYNCED.contains(&arguments.only) {
        synced(&place, &arguments)?;
    }
    Ok(())
}

fn print(name: &str, ways: &[(&'static str, Way)], rates: &Rounds, costs: &Rounds) {
    println!("\n== {name}");
    for rounds in [rates, costs] {
        rounds.print(ways[0].0);
    }
}

/// Operations a second, and microseconds of CPU time for each.
fn cell(place: &Place, load: &Load, way: Way, offsets: &[u64]) -> Result<(f64, f64)> {
    let pages = match way {
        Way::Ordinary => HugePages::Never,
        _ => HugePages::Try,
    };
    let pool = BufferPool::new(load.depth, load.block, Alignment::BLOCK, pages)?;
    let options = FileOptions::read_write().direct(Direct::Try);
    let mut cpu = cpu_time();
    let (time, result) = match way {
        Way::Bare(bare) => {
            let mut ring = bare_ring(bare, place.bare.as_raw_fd(), &pool)?;
            cpu = cpu_time();
            timed(|| {
                through_the_crate(
                    &mut ring,
                    bare,
                    place.bare.as_raw_fd(),
                    load,
                    &pool,
                    offsets,
                )
            })
        }
        Way::Ring { .. } | Way::Ordinary => {
            let backend = &place.plain;
            let held = if way == (Way::Ring { registered: true }) {
                Some(backend.register(Box::new(pool.clone()))?)
            } else {
                None
            };
            let file = backend.open(&place.path, &options)?;
            cpu = cpu_time();
            let timed = timed(|| through_the_layer(backend, &file, load, &pool, offsets));
            drop(held);
            timed
        }
        Way::Execute => {
            let file = place.plain.open(&place.path, &options)?;
            timed(|| one_by_one(&place.plain, &file, &pool, offsets))
        }
        Way::Threads => {
            let file = place.threads.open(&place.path, &options)?;
            timed(|| through_the_layer(&place.threads, &file, load, &pool, offsets))
        }
    };
    result?;
    let count = offsets.len() as f64;
    let cost = (cpu_time() - cpu).as_secs_f64() * 1e6 / count;
    Ok((count / time.as_secs_f64(), cost))
}

fn prewrite(uring: &Uring, path: &Path, bytes: usize) -> Result<()> {
    let options = FileOptions::read_write()
        .create(Create::New)
        .direct(Direct::Try);
    let file = uring.open(path, &options)?;
    for at in (0..bytes).step_by(MIB) {
        let zeroes = AlignedBuf::zeroed_on(MIB, Alignment::BLOCK, HugePages::Try)?;
        let action = Action::Write {
            offset: at as u64,
            memory: WriteMemory::new(zeroes),
            durability: Durability::Written,
        };
        uring.execute(&file, action).result?;
    }
    uring.execute(&file, Action::SyncData).result?;
    Ok(())
}

/// Where the operations of a cell begin: in order for writes, anywhere for reads.
fn offsets(load: &Load, bytes: usize, count: usize, seed: u64) -> Vec<u64> {
    let blocks = (bytes / load.block) as u64;
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count as u64)
        .map(|number| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let block = if load.is_read { state } else { number } % blocks;
            block * load.block as u64
        })
        .collect()
}

fn bare_ring(bare: Bare, fd: RawFd, pool: &BufferPool) -> Result<IoUring> {
    let mut builder = IoUring::builder();
    if bare.single {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    let ring = builder.build(128)?;
    if bare.memory {
        let (start, len) = pool.region();
        let memory = libc::iovec {
            iov_base: start.cast_mut().cast(),
            iov_len: len,
        };
        // SAFETY: the pool outlives the ring.
        unsafe { ring.submitter().register_buffers(&[memory]) }?;
    }
    if bare.file {
        ring.submitter().register_files(&[fd])?;
    }
    Ok(ring)
}

/// How many completions to wait for.
fn wanted(gather: bool, in_flight: usize) -> usize {
    if gather { (in_flight / 4).max(1) } else { 1 }
}

fn through_the_crate(
    ring: &mut IoUring,
    bare: Bare,
    fd: RawFd,
    load: &Load,
    pool: &BufferPool,
    offsets: &[u64],
) -> Result<()> {
    let mut buffers: Vec<PoolBuf> = std::iter::from_fn(|| pool.take()).collect();
    let (mut next, mut done) = (0, 0);
    let mut free: Vec<usize> = (0..load.depth).collect();
    while done < offsets.len() {
        while next < offsets.len()
            && let Some(slot) = free.pop()
        {
            let memory = buffers[slot].as_mut_ptr();
            let entry = entry(fd, bare, load, memory, offsets[next]);
            // SAFETY: the buffers outlive the operations: all are waited for below, and an error
            // ends the process.
            unsafe { ring.submission().push(&entry.user_data(slot as u64)) }?;
            next += 1;
        }
        let in_flight = load.depth - free.len();
        ring.submit_and_wait(wanted(bare.gather, in_flight))?;
        for completion in ring.completion() {
            assert_eq!(usize::try_from(completion.result()), Ok(load.block));
            free.push(usize::try_from(completion.user_data())?);
            done += 1;
        }
    }
    Ok(())
}

fn entry(fd: RawFd, bare: Bare, load: &Load, memory: *mut u8, offset: u64) -> squeue::Entry {
    #[expect(clippy::cast_possible_truncation, reason = "at most 1 MiB")]
    let len = load.block as u32;
    // The crate has a type for each kind of file, and no name for both.
    macro_rules! entry {
        ($file:expr) => {
            match (load.is_read, bare.memory) {
                (true, false) => opcode::Read::new($file, memory, len).offset(offset).build(),
                (true, true) => opcode::ReadFixed::new($file, memory, len, 0)
                    .offset(offset)
                    .build(),
                (false, false) => opcode::Write::new($file, memory, len)
                    .offset(offset)
                    .build(),
                (false, true) => opcode::WriteFixed::new($file, memory, len, 0)
                    .offset(offset)
                    .build(),
            }
        };
    }
    if bare.file {
        entry!(types::Fixed(0))
    } else {
        entry!(types::Fd(fd))
    }
}

fn through_the_layer<B: Backend<File = FileHandle>>(
    backend: &B,
    file: &FileHandle,
    load: &Load,
    pool: &BufferPool,
    offsets: &[u64],
) -> Result<()> {
    let back: Arc<Mutex<VecDeque<Completion>>> = Arc::default();
    let mut free: Vec<PoolBuf> = std::iter::from_fn(|| pool.take()).collect();
    let (mut next, mut done) = (0, 0);
    while done < offsets.len() {
        let mut batch = Vec::with_capacity(load.depth);
        while next < offsets.len()
            && let Some(buf) = free.pop()
        {
            let offset = offsets[next];
            let action = if load.is_read {
                Action::Read {
                    offset,
                    memory: ReadMemory::new(buf),
                }
            } else {
                Action::Write {
                    offset,
                    memory: WriteMemory::new(buf),
                    durability: Durability::Written,
                }
            };
            let back = Arc::clone(&back);
            batch.push(Operation::new(file.clone(), action, move |completion| {
                back.lock().push_back(completion);
            }));
            next += 1;
        }
        backend.submit(batch);
        backend.wait_until(&mut || !back.lock().is_empty(), None);
        for completion in back.lock().drain(..) {
            assert_eq!(completion.result?, load.block);
            let buf = completion.memory.into_inner::<PoolBuf>();
            free.push(buf.map_err(|_| "another's memory")?);
            done += 1;
        }
    }
    Ok(())
}

/// Reads in this thread, as the layer does a single action.
fn one_by_one(uring: &Uring, file: &FileHandle, pool: &BufferPool, offsets: &[u64]) -> Result<()> {
    let mut buf = pool.take().ok_or("an empty pool")?;
    for &offset in offsets {
        let memory = ReadMemory::new(buf);
        let completion = uring.execute(file, Action::Read { offset, memory });
        assert_eq!(completion.result?, BLOCK);
        let memory = completion.memory.into_inner::<PoolBuf>();
        buf = memory.map_err(|_| "another's memory")?;
    }
    Ok(())
}

/// Durable writes of one thread: a blocking call, the layer's `execute`, and through the ring.
fn durable(place: &Place, arguments: &Arguments) -> Result<()> {
    let count = arguments.durable;
    let options = FileOptions::read_write().direct(Direct::Try);
    let file = place.plain.open(&place.path, &options)?;
    let (mut rates, mut costs) = (Rounds::default(), Rounds::default());
    let names = ["bare call", "layer, execute", "layer, through the ring"];
    for round in 0..arguments.rounds {
        for turn in 0..names.len() {
            let number = (turn + round) % names.len();
            let pool = BufferPool::new(1, BLOCK, Alignment::BLOCK, HugePages::Never)?;
            let cpu = cpu_time();
            let (time, result) = timed(|| match number {
                0 => durable_calls(place.bare.as_raw_fd(), &pool, count),
                1 => durable_operations(&pool, count, |action| place.plain.execute(&file, action)),
                _ => durable_operations(&pool, count, |action| {
                    through_the_ring(&place.plain, &file, action)
                }),
            });
            result?;
            let cost = (cpu_time() - cpu).as_secs_f64() * 1e6 / count as f64;
            rates.add(names[number], "op/s", count as f64 / time.as_secs_f64());
            costs.add(names[number], "us CPU", cost);
        }
    }
    println!("\n== durable 4 KiB");
    for rounds in [rates, costs] {
        rounds.print(names[0]);
    }
    Ok(())
}

const SYNCED: &str = "write 1 MiB x 4, durable every 8 MiB";

/// When the writes of a cell are made durable.
#[derive(Clone, Copy, PartialEq)]
enum Syncs {
    None,
    /// Each is waited for before anything more is written.
    Stopping,
    /// In flight with the writes that come after what they cover.
    Overlapped,
}

/// Writes with a data sync every 8 MiB.
fn synced(place: &Place, arguments: &Arguments) -> Result<()> {
    let options = FileOptions::read_write().direct(Direct::Try);
    let file = place.plain.open(&place.path, &options)?;
    let (mut rates, mut costs) = (Rounds::default(), Rounds::default());
    let ways = [
        ("waiting for each sync", Syncs::Stopping),
        ("syncs overlapped", Syncs::Overlapped),
        ("no sync but the last", Syncs::None),
    ];
    let pool = BufferPool::new(4, MIB, Alignment::BLOCK, HugePages::Try)?;
    for round in 0..arguments.rounds {
        for turn in 0..ways.len() {
            let (name, syncs) = ways[(turn + round) % ways.len()];
            let cpu = cpu_time();
            let (time, result) =
                timed(|| write_and_sync(&place.plain, &file, &pool, arguments.mebibytes, syncs));
            result?;
            let count = arguments.mebibytes as f64;
            rates.add(name, "MiB/s", count / time.as_secs_f64());
            costs.add(
                name,
                "us CPU",
                (cpu_time() - cpu).as_secs_f64() * 1e6 / count,
            );
        }
    }
    println!("\n== {SYNCED}");
    for rounds in [rates, costs] {
        rounds.print(ways[0].0);
    }
    Ok(())
}

/// Writes so many MiB, four in flight, all durable when it returns.
fn write_and_sync(
    backend: &Uring,
    file: &FileHandle,
    pool: &BufferPool,
    count: usize,
    syncs: Syncs,
) -> Result<()> {
    const EVERY: usize = 8;
    let mut pending = VecDeque::new();
    let mut sync = None;
    for number in 0..count {
        let buf = match pool.take() {
            Some(buf) => buf,
            None => pending
                .pop_front()
                .map(|write: Pending<_>| write.wait(backend))
                .ok_or("lost")??,
        };
        let offset = (number * MIB) as u64;
        pending.push_back(backend.start_write(file, offset, buf, Durability::Written));
        if (number + 1) % EVERY > 0 || syncs == Syncs::None {
            continue;
        }
        if syncs == Syncs::Stopping {
            for write in pending.drain(..) {
                write.wait(backend)?;
            }
            backend.sync_data(file)?;
            continue;
        }
        // It covers what has completed by now, so all but the last few.
        if let Some(earlier) = sync.replace(backend.start_sync(file)) {
            earlier.wait(backend)?;
        }
    }
    for write in pending {
        write.wait(backend)?;
    }
    if let Some(sync) = sync {
        sync.wait(backend)?;
    }
    backend.sync_data(file)?;
    Ok(())
}

fn durable_calls(fd: RawFd, pool: &BufferPool, count: usize) -> Result<()> {
    let buf = pool.take().ok_or("an empty pool")?;
    for number in 0..count {
        let piece = libc::iovec {
            iov_base: buf.as_ptr().cast_mut().cast(),
            iov_len: BLOCK,
        };
        let offset = i64::try_from(number * BLOCK)?;
        // SAFETY: the vector names memory that is good for reading.
        let written = unsafe { libc::pwritev2(fd, &raw const piece, 1, offset, libc::RWF_DSYNC) };
        if usize::try_from(written) != Ok(BLOCK) {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}

fn durable_operations(
    pool: &BufferPool,
    count: usize,
    run: impl Fn(Action) -> Completion,
) -> Result<()> {
    let mut buf = pool.take().ok_or("an empty pool")?;
    for number in 0..count {
        let completion = run(Action::Write {
            offset: (number * BLOCK) as u64,
            memory: WriteMemory::new(buf),
            durability: Durability::Durable,
        });
        completion.result?;
        let memory = completion.memory.into_inner::<PoolBuf>();
        buf = memory.map_err(|_| "another's memory")?;
    }
    Ok(())
}

fn through_the_ring(uring: &Uring, file: &FileHandle, action: Action) -> Completion {
    let back: Arc<Mutex<Option<Completion>>> = Arc::default();
    let sink = {
        let back = Arc::clone(&back);
        move |completion| *back.lock() = Some(completion)
    };
    uring.submit(vec![Operation::new(file.clone(), action, sink)]);
    uring.wait_until(&mut || back.lock().is_some(), None);
    let completion = back.lock().take();
    completion.expect("it was waited for")
}
