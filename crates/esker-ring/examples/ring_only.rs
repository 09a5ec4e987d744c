//! The ring alone, with a sink of its own on plain `std::fs`: eight threads append a million records
//! through four small buffers, a thread of its own writes each sealed buffer at its address, and
//! then the file is read back and every byte of it checked. Once with a reservation for each record,
//! once through appenders.
//!
//! ```text
//! cargo run -p esker-ring --example ring_only [RECORDS]
//! ```

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use esker_ring::{Reserve, Ring, Seal, SealedBuffer};

type AnyError = Box<dyn Error + Send + Sync>;

const THREADS: u32 = 8;
const RECORDS: u64 = 1_000_000;
const BUFFERS: usize = 4;
const CAPACITY_BYTES: usize = 16 << 10;

/// Before the records of each buffer: sealed length and next base.
const HEADER_BYTES: usize = 16;
/// Before the payload of each record: its length with this head, its thread, its number.
const HEAD_BYTES: usize = 16;
/// All that is left of a record which nobody filled: its length, and this for a thread.
const VOID: u32 = u32::MAX;
const VOID_BYTES: usize = 8;

/// What payloads are cut from.
const TEXT: &[u8; 64] = b"Many threads append records; full buffers come out in one piece.";

/// The payload of a record: it follows from who wrote it, and is up to 32 bytes long.
fn payload(thread: u32, number: u64) -> &'static [u8] {
    let [start, len, ..] = number.wrapping_add(u64::from(thread)).to_le_bytes();
    let (start, len) = (usize::from(start % 32), usize::from(len % 33));
    &TEXT[start..start + len]
}

/// How many records a thread wrote, and the sum of their addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    records: u64,
    addresses: u64,
}

impl Tally {
    fn add(&mut self, address: u64) {
        self.records += 1;
        self.addresses = self.addresses.wrapping_add(address);
    }
}

/// The sink: it gives each buffer a header and a place, and only then gives its memory back.
fn write_out(file: &File, buffers: Receiver<SealedBuffer>) -> std::io::Result<()> {
    for mut buffer in buffers {
        let (len, next_base) = (buffer.len() as u64, buffer.next_base());
        let header = buffer.header_mut();
        header[..8].copy_from_slice(&len.to_le_bytes());
        header[8..].copy_from_slice(&next_base.to_le_bytes());
        file.write_all_at(buffer.padded_bytes(), buffer.base())?;
        buffer.recycle();
    }
    Ok(())
}

fn hand_over(sink: &Sender<SealedBuffer>, buffer: SealedBuffer) -> Result<(), AnyError> {
    // A sink that is gone leaves the buffer here, and dropping it lets the others go on; but the
    // log has a hole then, and there is no point in going on.
    sink.send(buffer).map_err(|_| "the sink is gone".into())
}

/// One of the writers.
fn append_all(
    ring: &Ring,
    sink: &Sender<SealedBuffer>,
    thread: u32,
    records: u64,
    leases: bool,
) -> Result<Tally, AnyError> {
    let mut appender = leases.then(|| ring.appender());
    let mut tally = Tally::default();
    for number in 0..records {
        let payload = payload(thread, number);
        let len = HEAD_BYTES + payload.len();
        loop {
            let outcome = match &mut appender {
                Some(appender) => appender.reserve(len)?,
                None => ring.reserve(len)?,
            };
            match outcome {
                Reserve::Reserved(mut record) => {
                    record[..4].copy_from_slice(&u32::try_from(len)?.to_le_bytes());
                    record[4..8].copy_from_slice(&thread.to_le_bytes());
                    record[8..HEAD_BYTES].copy_from_slice(&number.to_le_bytes());
                    record[HEAD_BYTES..].copy_from_slice(payload);
                    tally.add(record.address());
                    if let Some(buffer) = record.commit() {
                        hand_over(sink, buffer)?;
                    }
                    break;
                }
                Reserve::Sealed(buffer) => hand_over(sink, buffer)?,
                Reserve::Limit { .. } => unreachable!("no limit is set"),
            }
        }
    }
    Ok(tally)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, AnyError> {
    let number = bytes.get(at..at + 4).ok_or("a record ends early")?;
    Ok(u32::from_le_bytes(number.try_into()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, AnyError> {
    let number = bytes.get(at..at + 8).ok_or("a record ends early")?;
    Ok(u64::from_le_bytes(number.try_into()?))
}

/// Reads the log in `file` up to `end` and accounts for every byte: headers, records, what is void,
/// padding. Returns what each thread wrote.
fn read_back(file: &File, end: u64) -> Result<Vec<Tally>, AnyError> {
    let mut tallies = vec![Tally::default(); THREADS as usize];
    let mut buffer = vec![0; CAPACITY_BYTES];
    let mut base = 0;
    while base < end {
        file.read_exact_at(&mut buffer[..HEADER_BYTES], base)?;
        let (len, next_base) = (usize::try_from(u64_at(&buffer, 0)?)?, u64_at(&buffer, 8)?);
        let padded_len = usize::try_from(next_base.checked_sub(base).ok_or("a base sinks")?)?;
        if !(HEADER_BYTES < len && len <= padded_len && padded_len <= buffer.len()) {
            return Err(format!("{len} of {padded_len} bytes at {base}").into());
        }
        file.read_exact_at(&mut buffer[..padded_len], base)?;
        let mut at = HEADER_BYTES;
        while at < len {
            at += check_record(&buffer[at..len], base + at as u64, &mut tallies)?;
        }
        if buffer[len..padded_len].iter().any(|&byte| byte != 0) {
            return Err(format!("the padding at {base} is not zero").into());
        }
        base = next_base;
    }
    Ok(tallies)
}

/// Checks the record at the start of `bytes` and returns its length.
fn check_record(bytes: &[u8], address: u64, tallies: &mut [Tally]) -> Result<usize, AnyError> {
    let (len, thread) = (u32_at(bytes, 0)? as usize, u32_at(bytes, 4)?);
    let record = bytes.get(..len).ok_or("a record passes its buffer")?;
    if thread == VOID {
        let is_void = len >= VOID_BYTES && record[VOID_BYTES..].iter().all(|&byte| byte == 0);
        return is_void.then_some(len).ok_or("a void record".into());
    }
    let number = u64_at(record, 8)?;
    let tally = tallies
        .get_mut(thread as usize)
        .ok_or("no such thread wrote")?;
    // Each thread's records are in the order in which it wrote them: none is missing or there twice.
    if number != tally.records || record[HEAD_BYTES..] != *payload(thread, number) {
        return Err(format!("not record {} of thread {thread}", tally.records).into());
    }
    tally.add(address);
    Ok(len)
}

fn run(records: u64, leases: bool) -> Result<String, AnyError> {
    let file = tempfile::tempfile()?;
    let ring = Ring::builder()
        .buffers(BUFFERS)
        .capacity_bytes(CAPACITY_BYTES)
        .header_bytes(HEADER_BYTES)
        .min_reservation_bytes(VOID_BYTES)
        .void(|_, bytes| {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            bytes.fill(0);
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            bytes[4..8].copy_from_slice(&VOID.to_le_bytes());
        })
        .build()?;

    let (sink, buffers) = channel();
    let written = thread::scope(|scope| {
        let flusher = scope.spawn(|| write_out(&file, buffers));
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (ring, sink) = (&ring, sink.clone());
                let records = (records + u64::from(thread)) / u64::from(THREADS);
                scope.spawn(move || append_all(ring, &sink, thread, records, leases))
            })
            .collect();
        let written = writers
            .into_iter()
            .map(|writer| writer.join().map_err(|_| "a writer panicked")?)
            .collect::<Result<Vec<_>, AnyError>>();
        // What is left in the open buffer: nobody writes to it any more.
        if let Seal::Sealed {
            buffer: Some(buffer),
            ..
        } = ring.seal()
        {
            hand_over(&sink, buffer)?;
        }
        drop(sink);
        flusher.join().map_err(|_| "the sink panicked")??;
        written
    })?;

    let (seq, end) = ring.current();
    if read_back(&file, end)? != written {
        return Err("what was read is not what was written".into());
    }
    let records: u64 = written.iter().map(|tally| tally.records).sum();
    Ok(format!("{records} records in {seq} buffers, {end} bytes"))
}

fn main() -> Result<(), AnyError> {
    let records = match std::env::args().nth(1) {
        Some(records) => records.parse()?,
        None => RECORDS,
    };
    for (name, leases) in [("one by one", false), ("through appenders", true)] {
        let report = run(records, leases)?;
        println!("{THREADS} threads, {name}: {report}; every byte read back");
    }
    Ok(())
}
