//! The store against the bare device, in one run: `cargo bench -p esker-benches --bench end_to_end`.
//!
//! Each round measures, one after the other, what was asked for of:
//! - *flat*: bare 1 MiB O_DIRECT writes, four in flight, through the `esker-io` layer's io_uring
//!   backend, with one sync at the end, into a prewritten file and into one whose space was only
//!   reserved, as a new segment's is, and into either from memory that is filled before each write; then
//!   the store appending records flat out with one flush at the end, for every record size, number of
//!   threads, way to append and kind of segment asked for.
//! - *read*: reading the file sequentially; verifying, scanning and opening a store that crashed
//!   without a checkpoint, so that all of it is read.
//! - *durable*: bare durable 4 KiB writes of one thread; and durable appends.
//!
//! `-- --only flat --records 64 --threads 1,8 --ways appender` measures two cells beside the bare
//! ones.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::{Parser, ValueEnum};
use esker_benches::{Rounds, cpu_time, timed};
use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::{
    Action, AnyBackend, Backend, Create, Direct, Durability, FileOptions, Operation, ReadMemory,
    WriteMemory,
};
use esker_lss::{AppendError, Maintenance, Options, Store};

const MIB: usize = 1 << 20;

/// The store against the bare device.
#[derive(Parser)]
struct Arguments {
    /// Rounds of all cells.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes to append in each cell, in MiB.
    #[arg(long, default_value_t = 1024)]
    mebibytes: usize,
    /// Where the files go; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Which of the three groups.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "flat,read,durable"
    )]
    only: Vec<Group>,
    /// Flat out: sizes of records in bytes.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,4096")]
    records: Vec<usize>,
    /// Flat out: numbers of threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    threads: Vec<usize>,
    /// Flat out: ways to append.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "append,appender"
    )]
    ways: Vec<Way>,
    /// Flat out: what the log goes into.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "written")]
    segments: Vec<Segments>,
    /// Flat out: flush buffers; the store's own default if it is not given.
    #[arg(long)]
    buffers: Option<usize>,
    /// Flat out: the size of a flush buffer in KiB; the store's own default if it is not given.
    #[arg(long)]
    buffer_kib: Option<usize>,
    /// Flat out: after how many MiB a sync is started in the background; the store's own default if
    /// it is not given.
    #[arg(long)]
    sync_every_mib: Option<u64>,
    /// Flat out: the size of a segment in MiB.
    #[arg(long, default_value_t = 64)]
    segment_mib: usize,
    /// Flat out: with the store's own maintenance thread.
    #[arg(long)]
    maintained: bool,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    Flat,
    Read,
    Durable,
}

/// How a thread appends.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Through the store, in the order of all threads.
    Append,
    /// Through an appender of its own.
    Appender,
}

/// What the log goes into.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Segments {
    /// Segments that are made as they are needed, as in a store that was just created.
    New,
    /// Segments that have all been written ahead.
    Written,
    /// Segments that a trim has freed.
    Recycled,
}

/// A store and what is appended to it flat out.
#[derive(Clone, Copy)]
struct Flat {
    bytes: usize,
    record: usize,
    threads: usize,
    way: Way,
    segments: Segments,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let bytes = arguments.mebibytes * MIB;
    let mut flat = Rounds::default();
    let mut read = Rounds::default();
    let mut durable = Rounds::default();
    let asked = |group| arguments.only.contains(&group);
    for round in 0..arguments.rounds {
        eprintln!("round {}", round + 1);
        let dir = tempfile::tempdir_in(&base)?;
        let raw = dir.path().join("raw");
        let store = dir.path().join("store");
        if asked(Group::Flat) || asked(Group::Read) {
            for (name, prewritten, filled) in [
                ("raw 1 MiB x 4, reserved", false, false),
                ("raw 1 MiB x 4, reserved, filled each time", false, true),
                ("raw 1 MiB x 4", true, false),
                ("raw 1 MiB x 4, filled each time", true, true),
            ] {
                let (mbps, cpu) = raw_write(&raw, bytes, prewritten, filled)?;
                flat.add(name, "MB/s", mbps);
                flat.add(&format!("{name}, CPU"), "s/GB", cpu);
            }
        }
        if asked(Group::Flat) {
            for cell in flat_cells(&arguments, bytes) {
                let (mbps, cpu) = append_flat_out(&store, &arguments, cell)?;
                flat.add(&cell.name(), "MB/s", mbps);
                flat.add(&format!("{}, CPU", cell.name()), "s/GB", cpu);
                std::fs::remove_dir_all(&store)?;
            }
        }
        if asked(Group::Read) {
            read.add("raw 1 MiB x 4", "MB/s", raw_read(&raw, bytes)?);
            std::fs::remove_file(&raw)?;
            let cell = Flat {
                bytes,
                record: 1024,
                threads: 4,
                way: Way::Append,
                segments: Segments::New,
            };
            append_flat_out(&store, &arguments, cell)?;
            read.add("verify", "MB/s", verify(&store, bytes)?);
            read.add("scan", "MB/s", scan(&store, bytes)?);
            let name = "open after a crash, no checkpoint";
            read.add(name, "MB/s", reopen(&store, bytes)?);
            std::fs::remove_dir_all(&store)?;
        }
        if asked(Group::Durable) {
            let commits = 4000;
            let name = "raw 4 KiB RWF_DSYNC, 1 thread";
            durable.add(name, "per s", raw_durable(&raw, commits)?);
            for threads in [1, 2, 4, 8, 64] {
                let name = format!("append_durable, 256 B, {threads} threads");
                let count = commits * threads.min(8);
                durable.add(&name, "per s", append_durable(&store, count, threads)?);
                std::fs::remove_dir_all(&store)?;
            }
        }
    }
    let tables = [
        (
            Group::Flat,
            "flat out, one sync at the end",
            &flat,
            "raw 1 MiB x 4",
        ),
        (Group::Read, "reading", &read, "raw 1 MiB x 4"),
        (
            Group::Durable,
            "durable",
            &durable,
            "raw 4 KiB RWF_DSYNC, 1 thread",
        ),
    ];
    for (_, title, rounds, baseline) in tables.into_iter().filter(|table| asked(table.0)) {
        println!("\n{title}, {} MiB", arguments.mebibytes);
        rounds.print(baseline);
    }
    Ok(())
}

/// The flat-out cells that were asked for.
fn flat_cells(arguments: &Arguments, bytes: usize) -> Vec<Flat> {
    let mut cells = Vec::new();
    for &record in &arguments.records {
        for &threads in &arguments.threads {
            for &way in &arguments.ways {
                for &segments in &arguments.segments {
                    cells.push(Flat {
                        bytes,
                        record,
                        threads,
                        way,
                        segments,
                    });
                }
            }
        }
    }
    cells
}

impl Flat {
    fn name(&self) -> String {
        let way = match self.way {
            Way::Append => "append",
            Way::Appender => "appender",
        };
        let segments = match self.segments {
            Segments::New => "new",
            Segments::Written => "written",
            Segments::Recycled => "recycled",
        };
        let (record, threads) = (self.record, self.threads);
        format!("{record} B x {threads}, {way}, {segments}")
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn megabytes_per_second(bytes: usize, time: std::time::Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per_gigabyte(cpu: std::time::Duration, bytes: usize) -> f64 {
    cpu.as_secs_f64() / (bytes as f64 / 1e9)
}

/// Runs `count` actions on a file, four in flight, and waits for all.
fn pipelined(
    backend: &AnyBackend,
    file: &<AnyBackend as Backend>::File,
    count: usize,
    mut action: impl FnMut(usize) -> Action,
) {
    let done = Arc::new(AtomicUsize::new(0));
    for index in 0..count {
        backend.wait_until(&mut || index < done.load(Ordering::Acquire) + 4, None);
        let done = Arc::clone(&done);
        backend.submit(vec![Operation::OnFile {
            file: file.clone(),
            action: action(index),
            sink: Box::new(move |completion: esker_io::Completion| {
                completion.result.expect("the bare device");
                done.fetch_add(1, Ordering::Release);
            }),
        }]);
    }
    backend.wait_until(&mut || done.load(Ordering::Acquire) == count, None);
}

fn huge(len: usize) -> Result<AlignedBuf, esker_buf::AllocError> {
    let mut buf = AlignedBuf::zeroed_on(len, Alignment::BLOCK, HugePages::Try)?;
    buf.fill(0xA5);
    Ok(buf)
}

/// MB/s and CPU seconds per GB of bare writes: of the same four buffers over and over, or of eight
/// that are filled with 1 KiB pieces before each write, as a log's have to be.
fn raw_write(
    path: &Path,
    bytes: usize,
    prewritten: bool,
    filled: bool,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let backend = AnyBackend::auto();
    let options = FileOptions::read_write()
        .create(Create::IfMissing)
        .direct(Direct::Try);
    if !prewritten {
        let _missing = std::fs::remove_file(path);
    }
    let file = backend.open(path, &options)?;
    if !prewritten {
        backend.allocate(&file, 0, bytes as u64)?;
        backend.execute(&file, Action::SyncData).result?;
    }
    let cpu = cpu_time();
    let write = |offset: usize, memory| Action::Write {
        offset: offset as u64,
        memory,
        durability: Durability::Written,
    };
    // One buffer shared by all the writes where it is only read.
    let memory = Arc::new(huge(4 * MIB)?);
    let slice = |at: usize| {
        let shared = Arc::clone(&memory);
        WriteMemory::slice(shared, at..at + MIB).expect("within the buffer")
    };
    // Two mebibytes each, so that they lie on huge pages.
    let pool: Vec<_> = (0..8).map(|_| huge(2 * MIB)).collect::<Result<_, _>>()?;
    let mut pool: Vec<Arc<AlignedBuf>> = pool.into_iter().map(Arc::new).collect();
    let record = [0x5A; 1024];
    let (time, result) = timed(|| {
        pipelined(&backend, &file, bytes / MIB, |index| {
            if !filled {
                return write(index * MIB, slice(index % 4 * MIB));
            }
            // The one that was used longest ago, unless it is still in flight.
            pool.rotate_left(1);
            let free = pool
                .iter_mut()
                .find(|buffer| Arc::strong_count(buffer) == 1);
            let buffer = free.expect("four of eight are in flight at most");
            let room = Arc::get_mut(buffer).expect("it is free");
            for piece in room[..MIB].chunks_exact_mut(record.len()) {
                piece.copy_from_slice(std::hint::black_box(&record));
            }
            let memory = WriteMemory::slice(Arc::clone(buffer), 0..MIB);
            write(index * MIB, memory.expect("within the buffer"))
        });
        backend.execute(&file, Action::SyncData).result
    });
    result?;
    Ok((
        megabytes_per_second(bytes, time),
        per_gigabyte(cpu_time() - cpu, bytes),
    ))
}

/// MB/s of bare sequential reads.
fn raw_read(path: &Path, bytes: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let backend = AnyBackend::auto();
    let file = backend.open(path, &FileOptions::read().direct(Direct::Try))?;
    let pool: Arc<parking_lot::Mutex<Vec<AlignedBuf>>> = Arc::default();
    for _ in 0..4 {
        // Two mebibytes, so that it lies on a huge page.
        pool.lock().push(huge(2 * MIB)?);
    }
    let done = Arc::new(AtomicUsize::new(0));
    let (time, ()) = timed(|| {
        for index in 0..bytes / MIB {
            backend.wait_until(&mut || index < done.load(Ordering::Acquire) + 4, None);
            let buf = pool.lock().pop().expect("four buffers, four in flight");
            let (done, pool) = (Arc::clone(&done), Arc::clone(&pool));
            backend.submit(vec![Operation::OnFile {
                file: file.clone(),
                action: Action::Read {
                    offset: (index * MIB) as u64,
                    memory: ReadMemory::slice(buf, 0..MIB).expect("within the buffer"),
                },
                sink: Box::new(move |completion: esker_io::Completion| {
                    completion.result.expect("the bare device");
                    if let esker_io::Memory::Read(memory) = completion.memory {
                        pool.lock().extend(memory.into_inner::<AlignedBuf>().ok());
                    }
                    done.fetch_add(1, Ordering::Release);
                }),
            }]);
        }
        backend.wait_until(&mut || done.load(Ordering::Acquire) == bytes / MIB, None);
    });
    Ok(megabytes_per_second(bytes, time))
}

/// Bare durable 4 KiB writes per second, into space that was written before.
fn raw_durable(path: &Path, count: usize) -> Result<f64, Box<dyn std::error::Error>> {
    raw_write(path, 64 * MIB, false, false)?;
    let backend = AnyBackend::auto();
    let file = backend.open(path, &FileOptions::read_write().direct(Direct::Try))?;
    let memory = Arc::new(AlignedBuf::zeroed(4096, Alignment::BLOCK)?);
    let (time, result) = timed(|| {
        for index in 0..count {
            let action = Action::Write {
                offset: (index % (64 * MIB / 4096) * 4096) as u64,
                memory: WriteMemory::new(Arc::clone(&memory)),
                durability: Durability::Durable,
            };
            backend.execute(&file, action).result?;
        }
        Ok::<_, esker_io::IoError>(())
    });
    result?;
    std::fs::remove_file(path)?;
    Ok(rate(count, time))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(count: usize, time: std::time::Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// MB/s and CPU seconds per GB of appends, with one flush at the end. The store is left as a crash
/// would leave it.
fn append_flat_out(
    path: &Path,
    arguments: &Arguments,
    cell: Flat,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let Flat { bytes, record, .. } = cell;
    let spares = match cell.segments {
        Segments::New => 1,
        // Small records take more room than their bytes.
        _ => (bytes + bytes / record * 16).div_ceil(arguments.segment_mib * MIB) + 2,
    };
    // No checkpoint is written, so that opening it again has to read it all.
    let mut options = Options::default()
        .spare_segments(spares)
        .segment_bytes((arguments.segment_mib * MIB) as u64)
        .maintenance(Maintenance::Manual);
    if arguments.maintained {
        options = options.maintenance(Maintenance::Thread);
    }
    if let Some(buffers) = arguments.buffers {
        options = options.buffers(buffers);
    }
    if let Some(kib) = arguments.buffer_kib {
        options = options.buffer_bytes(kib << 10);
    }
    if let Some(mib) = arguments.sync_every_mib {
        options = options.sync_every_bytes(mib << 20);
    }
    let store = Store::open(path, AnyBackend::auto(), options)?;
    match cell.segments {
        Segments::New => {}
        Segments::Written => {
            while store.info()?.spare_segments < spares as u64 {
                store.maintain()?;
            }
        }
        Segments::Recycled => {
            append_all(&store, cell)?;
            let end = store.flush()?;
            store.trim_before(end)?;
        }
    }
    let cpu = cpu_time();
    let (time, result) = timed(|| {
        append_all(&store, cell)?;
        store.flush()?;
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    result?;
    Ok((
        megabytes_per_second(bytes, time),
        per_gigabyte(cpu_time() - cpu, bytes),
    ))
}

/// Appends a cell's records.
fn append_all(store: &Store<AnyBackend>, cell: Flat) -> Result<(), AppendError> {
    let payload = vec![0x5A; cell.record];
    let count = cell.bytes / cell.record / cell.threads;
    let append = || match cell.way {
        Way::Append => (0..count).try_for_each(|_| store.append(&payload).map(|_lsn| ())),
        Way::Appender => {
            let mut appender = store.appender();
            (0..count).try_for_each(|_| appender.append(&payload).map(|_lsn| ()))
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cell.threads).map(|_| scope.spawn(append)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no panic"))
    })
}

/// MB/s of checking everything.
fn verify(path: &Path, bytes: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let (time, report) = timed(|| esker_lss::verify(path, AnyBackend::auto(), |_| {}));
    assert!(report?.is_intact(), "nothing is damaged");
    Ok(megabytes_per_second(bytes, time))
}

/// MB/s of opening a store that was not closed and has no checkpoint: all of it is read.
fn reopen(path: &Path, bytes: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let options = Options::default().maintenance(Maintenance::Manual);
    let (time, store) = timed(|| Store::open(path, AnyBackend::auto(), options));
    assert!(store?.durable().get() > bytes as u64, "everything is there");
    Ok(megabytes_per_second(bytes, time))
}

/// MB/s of reading every record back in order.
fn scan(path: &Path, bytes: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let reader = esker_lss::Reader::open(path, AnyBackend::auto())?;
    let (time, count) = timed(|| {
        let mut count = 0usize;
        for record in reader.scan(..)? {
            count += record?.payload.len();
        }
        Ok::<_, Box<dyn std::error::Error>>(count)
    });
    assert!(
        count? >= bytes / 1024 * 1024 / 4 * 4,
        "every record comes back"
    );
    Ok(megabytes_per_second(bytes, time))
}

/// Durable appends per second, each thread waiting for each record.
fn append_durable(
    path: &Path,
    count: usize,
    threads: usize,
) -> Result<f64, Box<dyn std::error::Error>> {
    let store = Store::open(path, AnyBackend::auto(), Options::default())?;
    let (time, result) = timed(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        (0..count / threads)
                            .try_for_each(|_| store.append_durable(&[7; 256]).map(|_lsn| ()))
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
    Ok(rate(count / threads * threads, time))
}
