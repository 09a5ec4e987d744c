//! A file system that is shut down while it is written to, as when its journal fails: what was said
//! to be durable is there when it has been mounted again.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use esker_buf::{AlignedBuf, Alignment};
use esker_io::{Allocation, AnyBackend, Backend, BackendExt, Create, Durability, FileOptions};

use super::mounts::{mount, run};

/// How often the file system is shut down. Believing every sync loses something in one round of
/// four where its disk is memory, else in one of fifteen.
const ROUNDS: u64 = 40;

const THREADS: usize = 6;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 4000;

fn byte_of(block: u64) -> u8 {
    (block % 255) as u8 + 1
}

fn memory_of(byte: u8) -> AlignedBuf {
    let mut memory = AlignedBuf::zeroed(BLOCK, Alignment::BLOCK).expect("there is memory");
    memory.fill(byte);
    memory
}

/// Writes blocks into a new file from threads that each make their block durable before they go on to
/// the next, until that fails. Says which were durable.
fn write_until_it_fails(backend: &AnyBackend, path: &Path, begun: &AtomicU64) -> Vec<u64> {
    let options = FileOptions::read_write().create(Create::New);
    let file = backend.open(path, &options).expect("a new file");
    // Space that was only reserved: the file system notes in its journal what has been written.
    backend
        .allocate_with(&file, 0, BLOCKS * BLOCK as u64, Allocation::Reserved)
        .expect("there is room");
    backend.sync_all(&file).expect("it is made");
    let dir = path.parent().expect("it lies somewhere");
    backend.sync_dir(dir).expect("it is named");
    let write = || {
        let mut durable = Vec::new();
        loop {
            let block = begun.fetch_add(1, Ordering::Relaxed);
            assert!(block < BLOCKS, "it should have been shut down by now");
            let (at, memory) = (block * BLOCK as u64, memory_of(byte_of(block)));
            let is_durable = if block.is_multiple_of(2) {
                let written = backend.write_at(&file, at, memory, Durability::Durable);
                written.is_ok()
            } else {
                let written = backend.write_at(&file, at, memory, Durability::Written);
                written.is_ok() && backend.sync_data(&file).is_ok()
            };
            if !is_durable {
                return durable;
            }
            durable.push(block);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(write)).collect();
        let durable = threads.into_iter().map(|thread| thread.join());
        durable
            .flat_map(|durable| durable.expect("it does not panic"))
            .collect()
    })
}

#[test]
fn what_is_said_to_be_durable_outlives_a_file_system_that_is_shut_down() {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR"))
    };
    let mounted = match mount("xfs", 320, place) {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("skipped: no xfs: {why}");
            return;
        }
    };
    let point = mounted.point.as_os_str();
    let option = OsStr::new;
    if let Err(why) = run("xfs_io", &[option("-c"), option("statfs"), point]) {
        println!("skipped: {why}");
        return;
    }
    let image = mounted.point.with_file_name("image");
    for round in 0..ROUNDS {
        let backend = if round.is_multiple_of(2) {
            AnyBackend::auto()
        } else {
            AnyBackend::blocking()
        };
        let path = mounted.point.join(round.to_string());
        let begun = AtomicU64::new(0);
        let durable = std::thread::scope(|scope| {
            let writing = scope.spawn(|| write_until_it_fails(&backend, &path, &begun));
            while begun.load(Ordering::Relaxed) < 2 + round && !writing.is_finished() {
                std::thread::sleep(Duration::from_micros(50));
            }
            let shutdown = ["-x", "-c", "shutdown"].map(OsStr::new);
            let [expert, command, what] = shutdown;
            run("xfs_io", &[expert, command, what, point]).expect("it shuts down");
            writing.join().expect("it does not panic")
        });
        run("umount", &[point]).expect("it is unmounted");
        run(
            "mount",
            &[option("-o"), option("loop"), image.as_os_str(), point],
        )
        .expect("it mounts");
        let file = backend.open(&path, &FileOptions::read()).expect("the file");
        for block in durable {
            let (count, memory) = backend
                .read_at(&file, block * BLOCK as u64, memory_of(0))
                .expect("it is read");
            let is_there = memory.iter().all(|&byte| byte == byte_of(block));
            assert!(
                count == BLOCK && is_there,
                "round {round}: block {block} was durable and is gone"
            );
        }
        drop(file);
        backend.remove(&path).expect("it goes");
    }
}
