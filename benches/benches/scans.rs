//! Reading a store's records in order, against bare sequential reads of the same files, in one run:
//! `cargo bench -p esker-benches --bench scans`.
//!
//! A store is filled with records of one size and opened again. Each round reads all of it, past the
//! page cache: bare, through the `io-uring` crate, with blocks of each size and depth asked for, on huge
//! pages; and through `Store::scan`, record by record with checksum and copy. Memory and ring of the bare
//! reads are there before the clock starts, those of the scan are not. Every second round goes the other
//! way round.

use std::fs::File;
use std::num::ParseIntError;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use clap::Parser;
use esker_benches::{Rounds, cpu_time, timed};
use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_lss::{AnyBackend, Maintenance, Options, Store};
use io_uring::{IoUring, opcode, types::Fd};

const MIB: usize = 1 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Scans against bare sequential reads.
#[derive(Parser)]
struct Arguments {
    /// Rounds of all cells.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How much is appended, in MiB.
    #[arg(long, default_value_t = 256)]
    mebibytes: usize,
    /// Sizes of records in bytes.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,16384")]
    records: Vec<usize>,
    /// Bare reads: KiB in a block, and how many are in flight. The first is the baseline.
    #[arg(long, value_delimiter = ',', default_value = "1024x4,256x8,2048x4")]
    bare: Vec<Shape>,
    /// Where the store goes; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How bare reads are made.
#[derive(Clone, Copy)]
struct Shape {
    bytes: usize,
    depth: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (kib, depth) = text.split_once('x').ok_or("such as 1024x4")?;
        let number = |text: &str| {
            text.parse()
                .map_err(|error: ParseIntError| error.to_string())
        };
        let (kib, depth): (usize, usize) = (number(kib)?, number(depth)?);
        if kib == 0 || kib % 4 != 0 || !(1..=128).contains(&depth) {
            return Err("KiB are a multiple of 4, the depth is 1 to 128".to_owned());
        }
        let bytes = kib << 10;
        Ok(Self { bytes, depth })
    }
}

impl Shape {
    fn name(self) -> String {
        format!("bare, {} KiB x {}", self.bytes >> 10, self.depth)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    for &record in &arguments.records {
        let dir = tempfile::tempdir_in(&base)?;
        let count = fill(dir.path(), record, arguments.mebibytes * MIB)?;
        let options = Options::default().maintenance(Maintenance::Manual);
        let store = Store::open(dir.path(), AnyBackend::auto(), options)?;
        let end = store.durable().get();
        let (mut rates, mut costs) = (Rounds::default(), Rounds::default());
        for round in 0..arguments.rounds {
            let mut cells: Vec<Option<Shape>> = arguments.bare.iter().copied().map(Some).collect();
            cells.push(None);
            // Whoever comes second finds a device in another state: take turns.
            if round % 2 == 1 {
                cells.reverse();
            }
            for cell in cells {
                let mut bare = cell
                    .map(|shape| Bare::new(dir.path(), end, shape))
                    .transpose()?;
                let cpu = cpu_time();
                let (time, result) = timed(|| match &mut bare {
                    Some(bare) => bare.read(),
                    None => scan(&store, record, count),
                });
                result?;
                let cpu = (cpu_time() - cpu).as_secs_f64();
                let name = cell.map_or_else(|| "scan".to_owned(), Shape::name);
                rates.add(&name, "MB/s", per(end, time.as_secs_f64() * 1e6));
                costs.add(&name, "CPU s/GB", 1e9 / per(end, cpu));
            }
        }
        println!("\n{count} records of {record} B");
        let baseline = arguments
            .bare
            .first()
            .map_or_else(String::new, |shape| shape.name());
        rates.print(&baseline);
        costs.print(&baseline);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per(count: u64, of: f64) -> f64 {
    count as f64 / of
}

/// Appends records to a new store, closes it, and returns how many there are.
fn fill(dir: &Path, record: usize, bytes: usize) -> Result<usize> {
    let options = Options::default()
        .segment_bytes(SEGMENT_BYTES)
        .maintenance(Maintenance::Manual);
    let store = Store::open(dir, AnyBackend::auto(), options)?;
    let payload = vec![0x5A; record];
    let count = bytes / record;
    let mut appender = store.appender();
    for _ in 0..count {
        appender.append(&payload)?;
    }
    drop(appender);
    store.close()?;
    Ok(count)
}

fn scan(store: &Store<AnyBackend>, len: usize, count: usize) -> Result<()> {
    let mut found = 0;
    for record in store.scan(..)? {
        assert_eq!(record?.payload.len(), len);
        found += 1;
    }
    assert_eq!(found, count, "every record comes back");
    Ok(())
}

/// A store's segment files, without the store, and what they are read with.
struct Bare {
    shape: Shape,
    files: Vec<File>,
    /// Which file, from where on, and how long.
    reads: Vec<(usize, u64, u32)>,
    ring: IoUring,
    buffers: Vec<AlignedBuf>,
}

impl Bare {
    /// To read the log from its first segment up to `end`.
    fn new(dir: &Path, end: u64, shape: Shape) -> Result<Self> {
        let mut files = Vec::new();
        let mut reads = Vec::new();
        for segment in 0..end.div_ceil(SEGMENT_BYTES) {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(dir.join(format!("{segment:016x}.seg")))?;
            files.push(file);
            let len = SEGMENT_BYTES.min(end - segment * SEGMENT_BYTES);
            for at in (0..len).step_by(shape.bytes) {
                let len = u32::try_from((len - at).min(shape.bytes as u64))?;
                reads.push((usize::try_from(segment)?, at, len));
            }
        }
        let buffers = (0..shape.depth)
            .map(|_| {
                let len = shape.bytes.max(2 * MIB);
                let mut buf = AlignedBuf::zeroed_on(len, Alignment::BLOCK, HugePages::Try)?;
                buf.fill(1);
                Ok(buf)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            shape,
            files,
            reads,
            ring: IoUring::new(256)?,
            buffers,
        })
    }

    fn read(&mut self) -> Result<()> {
        let mut free: Vec<usize> = (0..self.shape.depth).collect();
        let mut wanted = vec![0; self.shape.depth];
        let (mut next, mut done) = (0, 0);
        while done < self.reads.len() {
            while next < self.reads.len()
                && let Some(slot) = free.pop()
            {
                let (file, offset, len) = self.reads[next];
                wanted[slot] = len;
                let fd = Fd(self.files[file].as_raw_fd());
                let entry = opcode::Read::new(fd, self.buffers[slot].as_mut_ptr(), len)
                    .offset(offset)
                    .build();
                // SAFETY: the buffers outlive the operations: all are waited for below, and an error
                // ends the process.
                unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }?;
                next += 1;
            }
            self.ring.submit_and_wait(1)?;
            for completion in self.ring.completion() {
                let slot = usize::try_from(completion.user_data())?;
                assert_eq!(u32::try_from(completion.result())?, wanted[slot]);
                free.push(slot);
                done += 1;
            }
        }
        Ok(())
    }
}
