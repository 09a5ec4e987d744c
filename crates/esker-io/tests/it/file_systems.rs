//! The suite on file systems of its own, in loop devices: where the rules for direct transfers and
//! for allocation differ.

use std::path::Path;

use esker_buf::Alignment;
use esker_io::{
    Allocated, Allocation, AnyBackend, Backend, BackendExt, Blocking, Create, Direct, Durability,
    Fate, FileOptions, Punched, Uring, UringConfig, conformance,
};

use super::mounts::{Mounted, mount};

fn conforms(kind: &str, mib: u64) {
    let mounted = match mount(kind, mib, Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("skipped: no {kind}: {why}");
            return;
        }
    };
    suite(kind, &mounted, "blocking", Blocking::new);
    if super::ring(UringConfig::default()).is_some() {
        suite(kind, &mounted, "io_uring", || {
            Uring::new(UringConfig::default()).expect("it was there just now")
        });
    }
}

fn suite<B: Backend>(kind: &str, mounted: &Mounted, name: &str, make: impl Fn() -> B) {
    let root = mounted.point.join(name);
    std::fs::create_dir(&root).expect("a directory");
    let report = conformance::run(&root, |_| make());
    println!("{kind}, {name}:\n{report}");
    report.assert();
}

#[test]
fn the_backends_conform_on_ext4() {
    conforms("ext4", 64);
}

#[test]
fn the_backends_conform_on_xfs() {
    // Smaller ones are refused.
    conforms("xfs", 320);
}

#[test]
fn the_backends_conform_on_tmpfs() {
    conforms("tmpfs", 64);
}

#[test]
fn a_file_system_without_direct_io_or_space_to_reserve_is_written_through_the_page_cache() {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mounted = match mount("ramfs", 64, place) {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: no ramfs: {why}"),
    };
    suite("ramfs", &mounted, "blocking", Blocking::new);
    if super::ring(UringConfig::default()).is_some() {
        suite("ramfs", &mounted, "io_uring", || {
            Uring::new(UringConfig::default()).expect("it was there just now")
        });
    }
    for backend in [Some(AnyBackend::blocking()), AnyBackend::uring().ok()]
        .into_iter()
        .flatten()
    {
        let path = mounted.point.join("log");
        let options = FileOptions::read_write()
            .create(Create::New)
            .direct(Direct::Try);
        let file = backend.open(&path, &options).expect("a new file");
        let facts = backend.facts(&file).expect("facts");
        assert!(!facts.direct && facts.alignment == Alignment::ONE);
        // What no direct transfer may be, durable all the same.
        let write = backend.start_write(&file, 3, vec![5; 1001], Durability::Durable);
        write.wait(&backend).expect("it succeeds");
        let write = backend.write_at(&file, 1004, vec![5; 7], Durability::Durable);
        write.expect("it succeeds");
        for how in [Allocation::Quick, Allocation::Written, Allocation::Reserved] {
            let allocated = backend.allocate_with(&file, 8192, 10_000, how);
            let allocated = allocated.expect("zeroes can be written");
            assert_eq!(allocated, Allocated::WrittenZeroes, "{how:?}");
        }
        let punched = backend.punch_hole(&file, 100, 200).expect("as before");
        assert_eq!(punched, Punched::Zeroed);
        let (count, bytes) = backend
            .read_at(&file, 0, vec![1; 20_000])
            .expect("it is there");
        assert_eq!(count, 18_192);
        for (at, byte) in bytes[..count].iter().enumerate() {
            let written = (3..100).contains(&at) || (300..1011).contains(&at);
            assert_eq!(*byte, if written { 5 } else { 0 }, "{at}");
        }
        backend.remove(&path).expect("it goes");
    }
}

#[test]
fn a_disk_that_fills_fails_the_write_and_says_so() {
    let mounted = match mount("ext4", 16, Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("skipped: no ext4: {why}");
            return;
        }
    };
    for backend in [Some(AnyBackend::blocking()), AnyBackend::uring().ok()]
        .into_iter()
        .flatten()
    {
        let path = mounted.point.join("log");
        let options = FileOptions::read_write().create(Create::New);
        let file = backend.open(&path, &options).expect("a new file");
        let pending: Vec<_> = (0..24)
            .map(|at| backend.start_write(&file, at << 20, vec![7; 1 << 20], Durability::Durable))
            .collect();
        let results: Vec<_> = pending
            .into_iter()
            .map(|pending| pending.wait(&backend))
            .collect();
        let failed = results.iter().filter_map(|result| result.as_ref().err());
        for failed in failed.clone() {
            assert!(failed.error.is_no_space(), "{failed:?}");
            assert_eq!(failed.error.fate(), Fate::Indeterminate);
            assert_eq!(failed.buf.len(), 1 << 20, "the buffer comes back");
        }
        assert!(failed.count() >= 8, "16 MiB do not take 24 MiB");
        for (at, result) in results
            .iter()
            .enumerate()
            .filter(|(_, result)| result.is_ok())
        {
            let buf = vec![0; 1 << 20];
            let (count, buf) = backend
                .read_at(&file, (at as u64) << 20, buf)
                .expect("it was written");
            assert!(count == 1 << 20 && buf == *result.as_ref().expect("filtered"));
        }
        drop(file);
        backend.remove(&path).expect("it goes");
    }
}

#[test]
fn a_file_system_that_is_shut_down_fails_what_is_written() {
    for backend in [Some(AnyBackend::blocking()), AnyBackend::uring().ok()]
        .into_iter()
        .flatten()
    {
        let mounted = match mount("ext4", 16, Path::new(env!("CARGO_TARGET_TMPDIR"))) {
            Ok(mounted) => mounted,
            Err(why) => return println!("skipped: no ext4: {why}"),
        };
        let options = FileOptions::read_write().create(Create::New);
        let path = mounted.point.join("log");
        let file = backend.open(&path, &options).expect("a new file");
        backend
            .write_at(&file, 0, vec![1; 4096], Durability::Durable)
            .expect("it succeeds");
        if let Err(why) = mounted.shut_down() {
            return println!("skipped: {why}");
        }
        let buf = || vec![2; 8192];
        let mut errors = Vec::new();
        for durability in [Durability::Written, Durability::Durable] {
            let write = backend.start_write(&file, 4096, buf(), durability);
            let failed = write.wait(&backend).expect_err("the file system is gone");
            assert_eq!(failed.buf, buf());
            errors.push(failed.error);
            let write = backend.write_at(&file, 4096, buf(), durability);
            errors.push(write.expect_err("the file system is gone").error);
        }
        let sync = backend.start_sync(&file).wait(&backend);
        errors.push(sync.expect_err("the file system is gone"));
        errors.push(
            backend
                .sync_data(&file)
                .expect_err("the file system is gone"),
        );
        for error in errors {
            assert_eq!(error.fate(), Fate::Indeterminate, "{error:?}");
            assert!(error.raw_os_error().is_some(), "{error:?}");
        }
        super::until_idle(&backend);
    }
}
