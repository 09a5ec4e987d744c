//! What appending in memory costs: `cargo bench -p esker-benches --bench ring`.
//!
//! Each cell appends records of one size from some threads and reports nanoseconds a record: wall
//! time divided by all records. In turn, in each round: two bare fetch-adds on one word and the
//! copy between them, into as much memory as the ring has; a `parking_lot::Mutex` around the copy;
//! the ring, one reservation for each record; the ring, one reservation for 16; and one appender a
//! thread. Sealed buffers are recycled at once by whoever gets them: there is no I/O, and no
//! checksum.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use crossbeam_utils::CachePadded;
use esker_benches::Rounds;
use esker_buf::{AlignedBuf, Alignment, HugePages};
use esker_ring::{Reserve, Ring, Seal};
use parking_lot::Mutex;

/// What appending in memory costs.
#[derive(Parser)]
struct Arguments {
    /// Rounds of all cells.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Milliseconds that a cell takes, about.
    #[arg(long, default_value_t = 25)]
    cell_ms: u64,
    /// Threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    threads: Vec<usize>,
    /// Payload sizes in bytes.
    #[arg(long, value_delimiter = ',', default_value = "16,64,256,1024,4096")]
    payloads: Vec<usize>,
    /// Buffers of the ring.
    #[arg(long, default_value_t = 4)]
    buffers: usize,
    /// Size of a buffer in KiB.
    #[arg(long, default_value_t = 1024)]
    buffer_kib: usize,
    /// The longest lease of an appender in bytes; the ring's default if not given.
    #[arg(long)]
    lease_bytes: Option<usize>,
    /// Only the schemes whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Memory that a mutex guards.
struct Guarded {
    memory: AlignedBuf,
    at: usize,
}

/// Memory behind one bare word.
struct Bare {
    word: CachePadded<AtomicU64>,
    memory: *mut u8,
    bytes: usize,
}

// SAFETY: the memory is written by whichever thread got its place from the word.
unsafe impl Sync for Bare {}

/// What a cell measures.
#[derive(Clone, Copy)]
enum Scheme {
    Bare,
    Mutex,
    Ring,
    Batch,
    Appender,
}

const SCHEMES: [(Scheme, &str); 5] = [
    (Scheme::Bare, "two fetch-adds"),
    (Scheme::Mutex, "mutex"),
    (Scheme::Ring, "ring"),
    (Scheme::Batch, "ring, 16 a batch"),
    (Scheme::Appender, "ring, appender"),
];

const BATCH: usize = 16;

fn main() {
    let arguments = Arguments::parse();
    for &payload in &arguments.payloads {
        for &threads in &arguments.threads {
            let mut rounds = Rounds::default();
            let mut space = Rounds::default();
            for _ in 0..arguments.rounds {
                for (scheme, name) in SCHEMES {
                    if !name.contains(&arguments.only) {
                        continue;
                    }
                    let (cost, filled) = cell(&arguments, scheme, threads, payload);
                    rounds.add(name, "ns", cost);
                    if let (Scheme::Appender, Some(filled)) = (scheme, filled) {
                        space.add("filled by records, with appenders", "%", 100.0 * filled);
                    }
                }
            }
            println!("\n{payload} B, {threads} threads");
            rounds.print("two fetch-adds");
            space.print("");
        }
    }
}

/// Runs one cell and returns nanoseconds a record, and how much of the log the records take up.
fn cell(
    arguments: &Arguments,
    scheme: Scheme,
    threads: usize,
    payload: usize,
) -> (f64, Option<f64>) {
    let bytes = arguments.buffers * (arguments.buffer_kib << 10);
    assert!(bytes.is_power_of_two(), "the bare word needs a mask");
    let period = Duration::from_millis(arguments.cell_ms);
    match scheme {
        Scheme::Bare => {
            let mut memory = aligned(bytes + payload);
            let bare = Bare {
                word: CachePadded::new(AtomicU64::new(0)),
                memory: memory.as_mut_ptr(),
                bytes,
            };
            let (cost, _) = measure(threads, payload, period, || {
                |record: &[u8]| bare.append(record)
            });
            (cost, None)
        }
        Scheme::Mutex => {
            let guarded = Mutex::new(Guarded {
                memory: aligned(bytes),
                at: 0,
            });
            let (cost, _) = measure(threads, payload, period, || {
                |record: &[u8]| guarded.lock().append(record)
            });
            (cost, None)
        }
        Scheme::Ring | Scheme::Batch | Scheme::Appender => {
            let mut builder = Ring::builder()
                .buffers(arguments.buffers)
                .capacity_bytes(arguments.buffer_kib << 10)
                .huge_pages(HugePages::Never);
            if let Some(bytes) = arguments.lease_bytes {
                builder = builder.lease_bytes(bytes);
            }
            let ring = builder.build().expect("a ring");
            touch(&ring);
            let before = ring.tail();
            let (cost, records) = match scheme {
                Scheme::Ring => measure(threads, payload, period, || {
                    |record: &[u8]| append(&ring, record)
                }),
                Scheme::Batch => {
                    measure(threads, payload, period, || {
                        let mut pending = 0;
                        let ring = &ring;
                        // Every sixteenth call appends sixteen records.
                        move |record: &[u8]| {
                            pending += 1;
                            if pending == BATCH {
                                pending = 0;
                                append_batch(ring, record);
                            }
                        }
                    })
                }
                _ => measure(threads, payload, period, || {
                    let mut appender = ring.appender();
                    move |record: &[u8]| {
                        loop {
                            match appender.reserve(record.len()).expect("it fits") {
                                Reserve::Reserved(mut room) => {
                                    room.copy_from_slice(record);
                                    drop(room.commit());
                                    break;
                                }
                                Reserve::Sealed(buffer) => buffer.recycle(),
                                Reserve::Limit { .. } => unreachable!("no limit is set"),
                            }
                        }
                    }
                }),
            };
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let filled = (records * payload as u64) as f64 / (ring.tail() - before) as f64;
            (cost, Some(filled))
        }
    }
}

/// Memory that is aligned as a ring's is, and there: how far copies are aligned, and who meets page
/// faults, must not differ between the schemes.
fn aligned(bytes: usize) -> AlignedBuf {
    let len = Alignment::BLOCK.ceil(bytes as u64).expect("far below 2^63");
    let len = usize::try_from(len).expect("64 bits");
    let mut memory =
        AlignedBuf::zeroed_on(len, Alignment::BLOCK, HugePages::Never).expect("memory");
    memory.fill(1);
    memory
}

/// Writes to all memory of a ring once: the other schemes' memory is there when they start, too.
fn touch(ring: &Ring) {
    for _ in 0..ring.buffers() {
        append(ring, &vec![1; ring.max_reservation_bytes()]);
        if let Seal::Sealed { buffer, .. } = ring.seal() {
            drop(buffer);
        }
    }
}

/// Runs one appender, made by `make` in its thread, on each of `threads` threads for about `period`.
fn measure<F: FnMut(&[u8])>(
    threads: usize,
    payload: usize,
    period: Duration,
    make: impl Fn() -> F + Sync,
) -> (f64, u64) {
    const BURST: u64 = 256;
    let start = Barrier::new(threads + 1);
    let (total, elapsed) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|_| {
                let (start, make) = (&start, &make);
                scope.spawn(move || {
                    let record = aligned(payload);
                    let mut append = make();
                    start.wait();
                    let (begin, mut count) = (Instant::now(), 0u64);
                    while begin.elapsed() < period {
                        for _ in 0..BURST {
                            append(&record[..payload]);
                        }
                        count += BURST;
                    }
                    (count, begin, Instant::now())
                })
            })
            .collect();
        start.wait();
        let runs: Vec<_> = writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"))
            .collect();
        let total: u64 = runs.iter().map(|run| run.0).sum();
        let begin = runs.iter().map(|run| run.1).min().expect("a thread");
        let end = runs.iter().map(|run| run.2).max().expect("a thread");
        (total, end - begin)
    });
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let figure = elapsed.as_nanos() as f64 / total as f64;
    (figure, total)
}

impl Bare {
    #[inline]
    fn append(&self, record: &[u8]) {
        let len = record.len() as u64;
        // Acquire and Release: what reserving and committing need.
        let at = self.word.fetch_add(len, Ordering::Acquire);
        let at = usize::try_from(at).expect("64 bits") & (self.bytes - 1);
        // SAFETY: there are `bytes` bytes and room for one record more. Two threads write to one
        // place only if one of them sleeps while the others fill all the memory; nobody reads it.
        unsafe {
            std::ptr::copy_nonoverlapping(record.as_ptr(), self.memory.add(at), record.len());
        }
        self.word.fetch_add(0, Ordering::Release);
    }
}

impl Guarded {
    #[inline]
    fn append(&mut self, record: &[u8]) {
        if self.at + record.len() > self.memory.len() {
            self.at = 0;
        }
        self.memory[self.at..self.at + record.len()].copy_from_slice(record);
        self.at += record.len();
    }
}

#[inline]
fn append(ring: &Ring, record: &[u8]) {
    loop {
        match ring.reserve(record.len()).expect("it fits") {
            Reserve::Reserved(mut room) => {
                room.copy_from_slice(record);
                drop(room.commit());
                return;
            }
            Reserve::Sealed(buffer) => buffer.recycle(),
            Reserve::Limit { .. } => unreachable!("no limit is set"),
        }
    }
}

#[inline]
fn append_batch(ring: &Ring, record: &[u8]) {
    loop {
        let lens = [record.len(); BATCH];
        match ring.reserve_batch(&lens).expect("it fits") {
            Reserve::Reserved(mut batch) => {
                for (_, room) in batch.records(&lens) {
                    room.copy_from_slice(record);
                }
                drop(batch.commit());
                return;
            }
            Reserve::Sealed(buffer) => buffer.recycle(),
            Reserve::Limit { .. } => unreachable!("no limit is set"),
        }
    }
}
