//! Random reads of a store's records, against bare reads of the same blocks of the same files, in one
//! run: `cargo bench -p esker-benches --bench reads`.
//!
//! A store is filled with records of one size and opened again. Each round reads records at random
//! addresses, all of them past the page cache, with 1, 8 and 32 in flight: bare, through the `io-uring`
//! crate, which waits for a quarter of what is in flight at a time, both the aligned 4 KiB in which each
//! record begins and the aligned sectors that hold all of it; and through `read_many`, record by record
//! with checksum and copy. With 1 in flight also through `read`, beside bare `pread`. Every second round
//! goes the other way round.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use clap::{Parser, ValueEnum};
use esker_benches::{Rounds, cpu_time, timed};
use esker_buf::{AlignedBuf, Alignment};
use esker_lss::{AnyBackend, Lsn, Maintenance, Options, Store};
use io_uring::{IoUring, opcode, types::Fd};

const MIB: usize = 1 << 20;
const BLOCK: u64 = 4096;
/// What lies before each record's payload.
const RECORD_HEADER_BYTES: usize = 8;
/// What a direct read of the files has to be aligned to, on most disks.
const SECTOR: u64 = 512;
const SEGMENT_BYTES: u64 = 64 << 20;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Random reads of records against bare reads.
#[derive(Parser)]
struct Arguments {
    /// Rounds of all cells.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How much is appended, in MiB.
    #[arg(long, default_value_t = 256)]
    mebibytes: usize,
    /// Reads of each cell.
    #[arg(long, default_value_t = 8000)]
    reads: usize,
    /// Sizes of records in bytes.
    #[arg(long, value_delimiter = ',', default_value = "256,1024,4000")]
    records: Vec<usize>,
    /// How many reads are in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    depths: Vec<usize>,
    /// Which ways to read; those that read one at a time only where one is in flight.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "bare,bare-whole,read-many,bare-call,read"
    )]
    ways: Vec<Way>,
    /// Where the store goes; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Through what a cell goes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Bare reads of the 4 KiB in which the record begins.
    Bare,
    /// Bare reads of the sectors that hold the record.
    BareWhole,
    ReadMany,
    /// Bare calls that read the 4 KiB in which the record begins.
    BareCall,
    Read,
}

impl Way {
    /// Whether it reads one at a time.
    fn is_call(self) -> bool {
        matches!(self, Self::BareCall | Self::Read)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare 4 KiB",
            Self::BareWhole => "bare, the record's sectors",
            Self::ReadMany => "read_many",
            Self::BareCall => "bare pread",
            Self::Read => "read",
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    for &record in &arguments.records {
        let dir = tempfile::tempdir_in(&base)?;
        let lsns = fill(dir.path(), record, arguments.mebibytes * MIB)?;
        let options = Options::default().maintenance(Maintenance::Manual);
        let store = Store::open(dir.path(), AnyBackend::auto(), options)?;
        let mut files = Files::new(dir.path());
        for &depth in &arguments.depths {
            let (mut rates, mut costs) = (Rounds::default(), Rounds::default());
            for round in 0..arguments.rounds {
                let seed = (round * 100 + depth) as u64;
                let wanted = picked(&lsns, arguments.reads, seed);
                let mut ways = arguments.ways.clone();
                ways.retain(|way| depth == 1 || !way.is_call());
                // Whoever comes second finds a device in another state: take turns.
                if round % 2 == 1 {
                    ways.reverse();
                }
                for way in ways {
                    let cpu = cpu_time();
                    let (time, result) = timed(|| match way {
                        Way::Bare => files.read_all(&wanted, depth, block_of),
                        Way::BareWhole => {
                            files.read_all(&wanted, depth, |lsn| sectors_of(lsn, record))
                        }
                        Way::BareCall => files.read_each(&wanted),
                        Way::ReadMany => read_many(&store, &wanted, depth, record),
                        Way::Read => read_each(&store, &wanted, record),
                    });
                    result?;
                    let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6;
                    rates.add(way.name(), "op/s", per(wanted.len(), time.as_secs_f64()));
                    costs.add(way.name(), "us CPU", 1.0 / per(wanted.len(), cpu));
                }
            }
            println!("\nrecords of {record} B, {depth} in flight");
            let baseline = arguments.ways.first().copied().unwrap_or(Way::Bare);
            rates.print(baseline.name());
            costs.print(baseline.name());
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per(count: usize, of: f64) -> f64 {
    count as f64 / of
}

/// Appends records to a new store, closes it, and returns their addresses.
fn fill(dir: &Path, record: usize, bytes: usize) -> Result<Vec<Lsn>> {
    let options = Options::default()
        .segment_bytes(SEGMENT_BYTES)
        .maintenance(Maintenance::Manual);
    let store = Store::open(dir, AnyBackend::auto(), options)?;
    let payload = vec![0x5A; record];
    let lsns = (0..bytes / record)
        .map(|_| store.append(&payload))
        .collect::<std::result::Result<_, _>>()?;
    store.close()?;
    Ok(lsns)
}

/// Addresses in no order.
fn picked(lsns: &[Lsn], count: usize, seed: u64) -> Vec<Lsn> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            #[expect(clippy::cast_possible_truncation, reason = "less than the length")]
            let index = (state % lsns.len() as u64) as usize;
            lsns[index]
        })
        .collect()
}

fn read_many(store: &Store<AnyBackend>, lsns: &[Lsn], depth: usize, len: usize) -> Result<()> {
    for record in store.read_many(lsns).depth(depth) {
        assert_eq!(record?.len(), len);
    }
    Ok(())
}

fn read_each(store: &Store<AnyBackend>, lsns: &[Lsn], len: usize) -> Result<()> {
    for lsn in lsns {
        assert_eq!(store.read(*lsn)?.len(), len);
    }
    Ok(())
}

/// The 4 KiB in which an address lies.
fn block_of(lsn: Lsn) -> Range<u64> {
    let start = lsn.get() / BLOCK * BLOCK;
    start..start + BLOCK
}

/// The sectors of a record in its file; of one that goes on in the next, those in the first.
fn sectors_of(lsn: Lsn, record: usize) -> Range<u64> {
    let start = lsn.get() / SECTOR * SECTOR;
    let end = lsn.get() + (RECORD_HEADER_BYTES + record) as u64;
    let file_end = (start / SEGMENT_BYTES + 1) * SEGMENT_BYTES;
    start..end.next_multiple_of(SECTOR).min(file_end)
}

/// A store's segment files, without the store.
struct Files<'d> {
    dir: &'d Path,
    open: BTreeMap<u64, File>,
}

impl<'d> Files<'d> {
    fn new(dir: &'d Path) -> Self {
        let open = BTreeMap::new();
        Self { dir, open }
    }

    /// The file in which an address lies, and where in it.
    fn place(&mut self, address: u64) -> Result<(&File, u64)> {
        let segment = address / SEGMENT_BYTES;
        if !self.open.contains_key(&segment) {
            let path = self.dir.join(format!("{segment:016x}.seg"));
            let file = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)?;
            self.open.insert(segment, file);
        }
        Ok((&self.open[&segment], address % SEGMENT_BYTES))
    }

    fn read_each(&mut self, lsns: &[Lsn]) -> Result<()> {
        let mut buf = buffer(BLOCK)?;
        for lsn in lsns {
            let (file, offset) = self.place(block_of(*lsn).start)?;
            file.read_exact_at(&mut buf, offset)?;
        }
        Ok(())
    }

    /// Reads a stretch for each address, `depth` at a time.
    fn read_all(
        &mut self,
        lsns: &[Lsn],
        depth: usize,
        stretch: impl Fn(Lsn) -> Range<u64>,
    ) -> Result<()> {
        let mut ring = IoUring::new(128)?;
        let longest = lsns
            .iter()
            .map(|lsn| stretch(*lsn))
            .map(|it| it.end - it.start);
        let longest = longest.max().unwrap_or(BLOCK);
        let mut buffers = (0..depth)
            .map(|_| buffer(longest))
            .collect::<Result<Vec<_>>>()?;
        let mut wanted = vec![0; depth];
        let (mut next, mut done) = (0, 0);
        let mut free: Vec<usize> = (0..depth).collect();
        while done < lsns.len() {
            while next < lsns.len()
                && let Some(slot) = free.pop()
            {
                let Range { start, end } = stretch(lsns[next]);
                wanted[slot] = u32::try_from(end - start)?;
                let (file, offset) = self.place(start)?;
                let fd = Fd(file.as_raw_fd());
                let entry = opcode::Read::new(fd, buffers[slot].as_mut_ptr(), wanted[slot])
                    .offset(offset)
                    .build();
                // SAFETY: the buffers outlive the operations: all are waited for below, and an error
                // ends the process.
                unsafe { ring.submission().push(&entry.user_data(slot as u64)) }?;
                next += 1;
            }
            let in_flight = depth - free.len();
            ring.submit_and_wait(depth.div_ceil(4).min(in_flight))?;
            for completion in ring.completion() {
                let slot = usize::try_from(completion.user_data())?;
                assert_eq!(u32::try_from(completion.result())?, wanted[slot]);
                free.push(slot);
                done += 1;
            }
        }
        Ok(())
    }
}

fn buffer(len: u64) -> Result<AlignedBuf> {
    Ok(AlignedBuf::zeroed(usize::try_from(len)?, Alignment::BLOCK)?)
}
