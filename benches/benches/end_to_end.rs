//! The store against the bare device, in one run: `cargo bench -p esker-benches --bench end_to_end`.
//!
//! Each round measures, one after the other: bare 1 MiB O_DIRECT writes, four in flight, through the
//! `esker-io` layer's io_uring backend into a prewritten file, with one sync at the end; the same
//! into a file whose space was only reserved, as a new segment's is; the store appending records
//! flat out with one flush at the end, into new segments and into ones written ahead; reading the
//! file sequentially; verifying, scanning and opening a store that crashed without a checkpoint, so
//! that all of it is read; bare durable 4 KiB writes of one thread; and durable appends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use esker_benches::{Rounds, cpu_time, timed};
use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::{
    Action, AnyBackend, Backend, Create, Direct, Durability, FileOptions, Operation, ReadMemory,
    WriteMemory,
};
use esker_lss::{Maintenance, Options, Store};

const MIB: usize = 1 << 20;
const SEGMENT_BYTES: usize = 64 * MIB;

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
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let bytes = arguments.mebibytes * MIB;
    let mut flat = Rounds::default();
    let mut read = Rounds::default();
    let mut durable = Rounds::default();
    for round in 0..arguments.rounds {
        eprintln!("round {}", round + 1);
        let dir = tempfile::tempdir_in(&base)?;
        let raw = dir.path().join("raw");
        for (name, prewritten) in [("raw 1 MiB x 4, reserved", false), ("raw 1 MiB x 4", true)] {
            let (mbps, cpu) = raw_write(&raw, bytes, prewritten)?;
            flat.add(name, "MB/s", mbps);
            flat.add(&format!("{name}, CPU"), "s/GB", cpu);
        }
        read.add("raw 1 MiB x 4", "MB/s", raw_read(&raw, bytes)?);
        std::fs::remove_file(&raw)?;
        for (record, threads) in [(1024, 1), (1024, 4), (1024, 8), (256, 1), (256, 4), (64, 4)] {
            for (space, spares) in [("new", 1), ("written", bytes.div_ceil(SEGMENT_BYTES) + 1)] {
                let path = dir.path().join("store");
                let name = format!("{record} B, {threads} threads, {space} segments");
                let (mbps, cpu) = append_flat_out(&path, bytes, record, threads, spares)?;
                flat.add(&name, "MB/s", mbps);
                flat.add(&format!("{name}, CPU"), "s/GB", cpu);
                if (record, threads, space) == (1024, 4, "new") {
                    read.add("verify", "MB/s", verify(&path, bytes)?);
                    read.add("scan", "MB/s", scan(&path, bytes)?);
                    read.add(
                        "open after a crash, no checkpoint",
                        "MB/s",
                        reopen(&path, bytes)?,
                    );
                }
                std::fs::remove_dir_all(&path)?;
            }
        }
        let commits = 4000;
        durable.add(
            "raw 4 KiB RWF_DSYNC, 1 thread",
            "per s",
            raw_durable(&raw, commits)?,
        );
        for threads in [1, 2, 4, 8, 64] {
            let path = dir.path().join("store");
            let name = format!("append_durable, 256 B, {threads} threads");
            durable.add(
                &name,
                "per s",
                append_durable(&path, commits * threads.min(8), threads)?,
            );
            std::fs::remove_dir_all(&path)?;
        }
    }
    println!(
        "\nflat out, {} MiB, one sync at the end",
        arguments.mebibytes
    );
    flat.print("raw 1 MiB x 4");
    println!("\nreading");
    read.print("raw 1 MiB x 4");
    println!("\ndurable");
    durable.print("raw 4 KiB RWF_DSYNC, 1 thread");
    Ok(())
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
        backend.submit(vec![Operation {
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

/// MB/s and CPU seconds per GB of bare writes.
fn raw_write(
    path: &Path,
    bytes: usize,
    prewritten: bool,
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
    // One buffer shared by all the writes: it is only read.
    let memory = Arc::new(huge(4 * MIB)?);
    let cpu = cpu_time();
    let (time, result) = timed(|| {
        pipelined(&backend, &file, bytes / MIB, |index| Action::Write {
            offset: (index * MIB) as u64,
            memory: WriteMemory::slice(Arc::clone(&memory), index % 4 * MIB..(index % 4 + 1) * MIB)
                .expect("within the buffer"),
            durability: Durability::Written,
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
            backend.submit(vec![Operation {
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
    raw_write(path, 64 * MIB, false)?;
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
    bytes: usize,
    record: usize,
    threads: usize,
    spares: usize,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    // No checkpoint is written, so that opening it again has to read it all.
    let options = Options::default()
        .spare_segments(spares)
        .maintenance(Maintenance::Manual);
    let store = Store::open(path, AnyBackend::auto(), options)?;
    while spares > 1 && store.info()?.spare_segments < spares as u64 {
        store.maintain()?;
    }
    let payload = vec![0x5A; record];
    let cpu = cpu_time();
    let (time, result) = timed(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        (0..bytes / record / threads)
                            .try_for_each(|_| store.append(&payload).map(|_lsn| ()))
                    })
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("no panic"))
        })?;
        store.flush()?;
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    result?;
    Ok((
        megabytes_per_second(bytes, time),
        per_gigabyte(cpu_time() - cpu, bytes),
    ))
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
