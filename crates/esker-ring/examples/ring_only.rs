//! The ring alone, with plain `std::fs`: four threads append lines, whoever gets a sealed buffer
//! writes it at its address, and then the file is read back and checked.
//!
//! ```text
//! cargo run -p esker-ring --example ring_only
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;

use esker_ring::{Reserve, Ring, Seal, SealedBuffer};

const THREADS: u32 = 4;
const EACH: u32 = 5_000;
const HEADER_BYTES: usize = 16;
const LEN_BYTES: usize = 4;

/// The layer above: it gives each buffer a header (sealed length, next base) and a place.
fn write_out(file: &File, mut buffer: SealedBuffer) -> std::io::Result<()> {
    let (len, next_base) = (buffer.len() as u64, buffer.next_base());
    let header = buffer.header_mut();
    header[..8].copy_from_slice(&len.to_le_bytes());
    header[8..].copy_from_slice(&next_base.to_le_bytes());
    file.write_all_at(buffer.padded_bytes(), buffer.base())?;
    // Only now may the ring use the memory again.
    buffer.recycle();
    Ok(())
}

fn append(ring: &Ring, file: &File, line: &str) -> Result<u64, Box<dyn Error + Send + Sync>> {
    loop {
        match ring.reserve(LEN_BYTES + line.len())? {
            Reserve::Reserved(mut record) => {
                let len = u32::try_from(line.len())?;
                record[..LEN_BYTES].copy_from_slice(&len.to_le_bytes());
                record[LEN_BYTES..].copy_from_slice(line.as_bytes());
                let address = record.address();
                if let Some(buffer) = record.commit() {
                    write_out(file, buffer)?;
                }
                return Ok(address);
            }
            Reserve::Sealed(buffer) => write_out(file, buffer)?,
            Reserve::Limit { .. } => unreachable!("no limit is set"),
        }
    }
}

/// Reads the lines of the log in `file` with their addresses.
fn read_back(file: &File, end: u64) -> Result<Vec<(u64, String)>, Box<dyn Error + Send + Sync>> {
    let mut lines = Vec::new();
    let mut base = 0;
    while base < end {
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, base)?;
        let (len, next_base) = header.split_at(8);
        let len = u64::from_le_bytes(len.try_into()?);
        let mut at = base + HEADER_BYTES as u64;
        while at < base + len {
            let mut line_len = [0; LEN_BYTES];
            file.read_exact_at(&mut line_len, at)?;
            let mut line = vec![0; u32::from_le_bytes(line_len) as usize];
            file.read_exact_at(&mut line, at + LEN_BYTES as u64)?;
            let size = (LEN_BYTES + line.len()) as u64;
            lines.push((at, String::from_utf8(line)?));
            at += size;
        }
        base = u64::from_le_bytes(next_base.try_into()?);
    }
    Ok(lines)
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let file = tempfile::tempfile()?;
    let ring = Ring::builder()
        .buffers(4)
        .capacity_bytes(64 << 10)
        .header_bytes(HEADER_BYTES)
        .build()?;

    let appended: BTreeSet<(u64, String)> = thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|id| {
                let (ring, file) = (&ring, &file);
                scope.spawn(move || {
                    (0..EACH)
                        .map(|n| {
                            let line = format!("thread {id} says {n}");
                            append(ring, file, &line).map(|address| (address, line))
                        })
                        .collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        let mut appended = BTreeSet::new();
        for writer in writers {
            appended.extend(writer.join().map_err(|_| "a writer panicked")??);
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(appended)
    })?;

    // What is left in the open buffer.
    if let Seal::Sealed {
        buffer: Some(buffer),
        ..
    } = ring.seal()
    {
        write_out(&file, buffer)?;
    }

    let (seq, end) = ring.current();
    let found: BTreeSet<_> = read_back(&file, end)?.into_iter().collect();
    if found != appended {
        return Err("what was read is not what was written".into());
    }
    println!(
        "{THREADS} threads appended {} lines; {seq} buffers, {end} bytes; all read back",
        found.len()
    );
    Ok(())
}
