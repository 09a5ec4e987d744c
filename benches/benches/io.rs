//! The I/O layer against the bare `io-uring` crate and bare system calls, in one run:
//! `cargo bench -p esker-benches --bench io`.
//!
//! Each round measures, one after the other, on one prewritten file opened with O_DIRECT and with
//! buffers on huge pages: 1 MiB writes, 4 in flight; 256 KiB writes, 8 in flight; random 4 KiB reads
//! with 1, 8 and 32 in flight, which wait for a quarter of them at a time (with 1 also by `execute`,
//! which is how the layer does a single one); and durable 4 KiB writes
//! of one thread, one after the other. Each cell first through the bare interface, then through the
//! layer, with the same order of offsets.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use esker_benches::{Rounds, cpu_time, timed};
use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_io::{
    Action, Backend, Completion, Create, Direct, Durability, FileHandle, FileOptions, Operation,
    ReadMemory, Uring, UringConfig, WriteMemory,
};
use io_uring::{IoUring, opcode, types::Fd};
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
    /// Where the file goes; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Through what a cell goes.
#[derive(Clone, Copy)]
enum Way {
    Bare,
    Submit,
    Execute,
}

/// What a cell does.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    is_read: bool,
    block: usize,
    depth: usize,
    /// How many completions to wait for at a time.
    gather: usize,
}

const LOADS: [Load; 5] = [
    load("write 1 MiB x 4", false, MIB, 4, 1),
    load("write 256 KiB x 8", false, MIB / 4, 8, 1),
    load("read 4 KiB x 1", true, BLOCK, 1, 1),
    load("read 4 KiB x 8", true, BLOCK, 8, 2),
    load("read 4 KiB x 32", true, BLOCK, 32, 8),
];

const fn load(
    name: &'static str,
    is_read: bool,
    block: usize,
    depth: usize,
    gather: usize,
) -> Load {
    Load {
        name,
        is_read,
        block,
        depth,
        gather,
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(base)?;
    let path = dir.path().join("file");
    let bytes = arguments.mebibytes * MIB;
    let uring = Uring::new(UringConfig::default())?;
    let file = prewritten(&uring, &path, bytes)?;
    let bare = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)?;
    // SAFETY: F_SETFL takes an integer and touches no memory.
    if unsafe { libc::fcntl(bare.as_raw_fd(), libc::F_SETFL, libc::O_DIRECT) } != 0 {
        return Err("the file system takes no direct transfers".into());
    }
    let mut ring = IoUring::new(128)?;
    let mut cells: Vec<_> = (0..2 * LOADS.len() + 2)
        .map(|_| Rounds::default())
        .collect();
    for round in 0..arguments.rounds {
        eprintln!("round {}", round + 1);
        for (index, load) in LOADS.iter().enumerate() {
            let count = if load.is_read {
                arguments.reads
            } else {
                bytes / load.block
            };
            let offsets = offsets(load, bytes, count, round as u64);
            let mut both = [
                (format!("{}: bare", load.name), true),
                (format!("{}: layer", load.name), false),
            ];
            // Whoever comes second finds a device in another state: take turns.
            if round % 2 == 1 {
                both.reverse();
            }
            let at_once = (load.depth == 1).then(|| format!("{}: layer, execute", load.name));
            let cells_of_load = both
                .into_iter()
                .map(|(name, is_bare)| (name, if is_bare { Way::Bare } else { Way::Submit }))
                .chain(at_once.map(|name| (name, Way::Execute)));
            for (name, way) in cells_of_load {
                let cpu = cpu_time();
                let (time, result) = timed(|| match way {
                    Way::Bare => through_the_crate(&mut ring, bare.as_raw_fd(), load, &offsets),
                    Way::Submit => through_the_layer(&uring, &file, load, &offsets),
                    Way::Execute => one_by_one(&uring, &file, load, &offsets),
                });
                result?;
                let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / count as f64;
                let rate = count as f64 / time.as_secs_f64();
                cells[2 * index].add(&name, "op/s", rate);
                cells[2 * index + 1].add(&name, "us CPU", cpu);
            }
        }
        let mut both = [true, false];
        if round % 2 == 1 {
            both.reverse();
        }
        for is_bare in both {
            let name = if is_bare {
                "durable 4 KiB: bare"
            } else {
                "durable 4 KiB: layer"
            };
            let cpu = cpu_time();
            let (time, result) = timed(|| {
                if is_bare {
                    durable_calls(bare.as_raw_fd(), arguments.durable)
                } else {
                    durable_operations(&uring, &file, arguments.durable)
                }
            });
            result?;
            let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / arguments.durable as f64;
            let last = cells.len() - 2;
            let rate = arguments.durable as f64 / time.as_secs_f64();
            cells[last].add(name, "op/s", rate);
            cells[last + 1].add(name, "us CPU", cpu);
        }
    }
    let names = LOADS.iter().map(|load| load.name).chain(["durable 4 KiB"]);
    for (name, pair) in names.zip(cells.chunks(2)) {
        for cell in pair {
            cell.print(&format!("{name}: bare"));
        }
    }
    Ok(())
}

fn prewritten(uring: &Uring, path: &Path, bytes: usize) -> Result<FileHandle> {
    let options = FileOptions::read_write()
        .create(Create::New)
        .direct(Direct::Try);
    let file = uring.open(path, &options)?;
    for at in (0..bytes).step_by(MIB) {
        let memory = WriteMemory::new(buffer(MIB)?);
        let action = Action::Write {
            offset: at as u64,
            memory,
            durability: Durability::Written,
        };
        uring.execute(&file, action).result?;
    }
    uring.execute(&file, Action::SyncData).result?;
    Ok(file)
}

fn buffer(len: usize) -> Result<AlignedBuf> {
    Ok(AlignedBuf::zeroed_on(
        len,
        Alignment::BLOCK,
        HugePages::Try,
    )?)
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

fn through_the_crate(ring: &mut IoUring, fd: i32, load: &Load, offsets: &[u64]) -> Result<()> {
    let mut buffers = (0..load.depth)
        .map(|_| buffer(load.block))
        .collect::<Result<Vec<_>>>()?;
    let (mut next, mut done) = (0, 0);
    let mut free: Vec<usize> = (0..load.depth).collect();
    while done < offsets.len() {
        while next < offsets.len()
            && let Some(slot) = free.pop()
        {
            let memory = &mut buffers[slot];
            let len = u32::try_from(load.block)?;
            let entry = if load.is_read {
                opcode::Read::new(Fd(fd), memory.as_mut_ptr(), len)
                    .offset(offsets[next])
                    .build()
            } else {
                opcode::Write::new(Fd(fd), memory.as_ptr(), len)
                    .offset(offsets[next])
                    .build()
            };
            // SAFETY: the buffers outlive the operations: all are waited for below, and an error
            // ends the process.
            unsafe { ring.submission().push(&entry.user_data(slot as u64)) }?;
            next += 1;
        }
        let in_flight = load.depth - free.len();
        ring.submit_and_wait(load.gather.min(in_flight))?;
        for completion in ring.completion() {
            assert_eq!(usize::try_from(completion.result()), Ok(load.block));
            free.push(usize::try_from(completion.user_data())?);
            done += 1;
        }
    }
    Ok(())
}

fn through_the_layer(uring: &Uring, file: &FileHandle, load: &Load, offsets: &[u64]) -> Result<()> {
    let back: Arc<Mutex<VecDeque<Completion>>> = Arc::default();
    let mut free = (0..load.depth)
        .map(|_| buffer(load.block))
        .collect::<Result<Vec<_>>>()?;
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
        uring.submit(batch);
        let in_flight = load.depth - free.len();
        let gather = load.gather.min(in_flight);
        uring.wait_until(&mut || back.lock().len() >= gather, None);
        for completion in back.lock().drain(..) {
            assert_eq!(completion.result?, load.block);
            let buf = completion.memory.into_inner::<AlignedBuf>();
            free.push(buf.map_err(|_| "another's memory")?);
            done += 1;
        }
    }
    Ok(())
}

/// Reads in this thread, as the layer does a single action.
fn one_by_one(uring: &Uring, file: &FileHandle, load: &Load, offsets: &[u64]) -> Result<()> {
    let mut buf = buffer(load.block)?;
    for &offset in offsets {
        let memory = ReadMemory::new(buf);
        let completion = uring.execute(file, Action::Read { offset, memory });
        assert_eq!(completion.result?, load.block);
        let memory = completion.memory.into_inner::<AlignedBuf>();
        buf = memory.map_err(|_| "another's memory")?;
    }
    Ok(())
}

fn durable_calls(fd: i32, count: usize) -> Result<()> {
    let buf = buffer(BLOCK)?;
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

fn durable_operations(uring: &Uring, file: &FileHandle, count: usize) -> Result<()> {
    let mut buf = buffer(BLOCK)?;
    for number in 0..count {
        let action = Action::Write {
            offset: (number * BLOCK) as u64,
            memory: WriteMemory::new(buf),
            durability: Durability::Durable,
        };
        let completion = uring.execute(file, action);
        completion.result?;
        let memory = completion.memory.into_inner::<AlignedBuf>();
        buf = memory.map_err(|_| "another's memory")?;
    }
    Ok(())
}
