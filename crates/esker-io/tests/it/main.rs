//! Every backend of this crate through the conformance suite, on the disk and in memory, and what
//! the suite can't cause by itself.
#![cfg(feature = "conformance")]

mod configuration;
mod driving;
mod fallback;
mod faults;
mod file_systems;
mod forking;
mod injected;
mod issuer;
mod mounts;
mod ordering;
mod ownership;
mod polled;
mod registration;
mod shutdown;
mod traced;

use std::path::Path;
use std::time::Duration;

use esker_io::{AnyBackend, Blocking, Uring, UringConfig, UringError, conformance};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Directories on the disk and, where there is one, on a file system in memory.
fn roots() -> Vec<tempfile::TempDir> {
    let mut roots = vec![tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")];
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        roots.extend(tempfile::tempdir_in(shm).ok());
    } else {
        println!("skipped: there is no /dev/shm");
    }
    roots
}

/// Waits until the last sink has returned, which may be later than what it tells somebody.
fn until_idle(backend: &impl esker_io::Backend) {
    let over = backend.wait_until(&mut || backend.in_flight() == 0, Some(PATIENCE));
    assert!(over, "{} are left in flight", backend.in_flight());
}

fn conforms<B: esker_io::Backend>(make: impl Fn() -> B) {
    for root in roots() {
        let report = conformance::run(root.path(), |_| make());
        println!("{}:\n{report}", root.path().display());
        report.assert();
    }
}

/// A ring, or `None` and a word about it where the system has none.
fn ring(config: UringConfig) -> Option<Uring> {
    match Uring::new(config) {
        Ok(uring) => Some(uring),
        Err(
            error @ (UringError::Unknown { .. }
            | UringError::Forbidden { .. }
            | UringError::Lacks { .. }),
        ) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn ring_conforms(config: UringConfig) {
    if ring(config).is_some() {
        conforms(|| Uring::new(config).expect("it was there just now"));
    }
}

#[test]
fn the_blocking_backend_conforms() {
    conforms(Blocking::new);
}

#[test]
fn the_blocking_backend_without_threads_conforms() {
    conforms(Blocking::inline);
}

#[test]
fn the_blocking_backend_with_one_thread_conforms() {
    conforms(|| Blocking::with_threads(core::num::NonZeroUsize::MIN));
}

#[test]
fn a_ring_of_the_default_size_conforms() {
    ring_conforms(UringConfig::default());
}

#[test]
fn a_ring_of_four_entries_conforms() {
    ring_conforms(UringConfig::default().entries(4).cq_entries(4));
}

#[test]
fn a_ring_of_one_entry_conforms() {
    ring_conforms(UringConfig::default().entries(1));
}

#[test]
fn the_presets_conform() {
    ring_conforms(UringConfig::high_throughput());
    ring_conforms(UringConfig::low_latency());
}

#[test]
fn a_polled_ring_conforms() {
    ring_conforms(UringConfig::default().entries(8).sqpoll(Some(5)));
}

#[test]
fn a_ring_with_registered_files_conforms() {
    // Enough for all of them, and too few.
    ring_conforms(UringConfig::default().registered_files(64));
    let few = UringConfig::default().entries(8).registered_files(1);
    ring_conforms(few.sqpoll(Some(5)));
}

#[test]
fn a_ring_with_a_single_issuer_conforms() {
    let single = UringConfig::default().single_issuer(true);
    ring_conforms(single.entries(4).cq_entries(4).sqpoll(Some(5)));
}

#[test]
fn a_ring_that_defers_its_work_conforms() {
    let deferred = UringConfig::default().defer_taskrun(true);
    ring_conforms(deferred);
    ring_conforms(deferred.entries(1));
}

#[test]
fn whatever_is_picked_conforms() {
    conforms(AnyBackend::auto);
}
