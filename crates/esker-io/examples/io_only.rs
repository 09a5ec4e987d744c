//! A durable append-only file on the I/O layer alone: no log, no ring of buffers.

use std::error::Error;

use esker_io::{AnyBackend, Backend, BackendExt, Create, Durability, FileOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("esker-io-only-{}", std::process::id()));
    let backend = AnyBackend::auto();
    println!("backend: {}", backend.description());
    backend.create_dir_all(&dir)?;
    let path = dir.join("lines");

    let file = backend.open(&path, &FileOptions::read_write().create(Create::IfMissing))?;
    backend.sync_dir(&dir)?; // The name is durable before what stands under it.
    assert!(backend.try_lock(&file)?, "somebody else is appending");

    // One at a time: a system call each, durable when it returns.
    let mut end = backend.facts(&file)?.len_bytes;
    for line in ["a line\n", "another\n"] {
        backend.write_at(&file, end, line.as_bytes(), Durability::Durable)?;
        end += line.len() as u64;
    }
    // Many in flight, made durable by one sync.
    let mut pending = Vec::new();
    for number in 0..100 {
        let line = format!("line {number}\n").into_bytes();
        let at = end;
        end += line.len() as u64;
        pending.push(backend.start_write(&file, at, line, Durability::Written));
    }
    for write in pending {
        write.wait(&backend)?;
    }
    backend.sync_data(&file)?;

    let len = usize::try_from(end)?;
    let (count, bytes) = backend.read_at(&file, 0, vec![0; len])?;
    let lines = bytes[..count]
        .split_inclusive(|&byte| byte == b'\n')
        .count();
    println!(
        "{lines} lines, {count} bytes, {:?}",
        backend.statistics().writes
    );
    assert_eq!(lines, 102);

    backend.remove(&path)?;
    std::fs::remove_dir(&dir)?;
    Ok(())
}
