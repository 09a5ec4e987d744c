//! What the tests share.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use esker_io::{AnyBackend, Backend, Blocking, Create, Direct, FileOptions};
use esker_lss::{Lsn, Maintenance, Options, Reader, Store};
use tempfile::TempDir;

pub(crate) type AnyStore = Store<AnyBackend>;

/// Small buffers and segments, so that little data meets every boundary; no thread of the store's.
pub(crate) fn small() -> Options {
    Options::default()
        .buffers(4)
        .buffer_bytes(16 << 10)
        .segment_bytes(64 << 10)
        .max_record_bytes(256 << 10)
        .maintenance(Maintenance::Manual)
}

/// A temporary directory whose files can be written directly in blocks of 512 bytes: below the system's,
/// or, if that is on a file system such as tmpfs, which wants pages, below the build's.
pub(crate) fn sector_dir() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let probe = FileOptions::read_write()
        .create(Create::New)
        .direct(Direct::Try);
    let backend = Blocking::inline();
    let path = dir.path().join("probe");
    let file = backend.open(&path, &probe).expect("a file");
    let needed = backend.facts(&file).expect("facts").alignment;
    backend.remove(&path).expect("removed");
    if needed.bytes() <= 512 {
        return dir;
    }
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

pub(crate) fn backends() -> Vec<AnyBackend> {
    let mut backends = vec![AnyBackend::blocking()];
    match AnyBackend::uring() {
        Ok(uring) => backends.push(uring),
        Err(error) => eprintln!("io_uring skipped: {error}"),
    }
    backends
}

pub(crate) fn open(dir: &Path) -> AnyStore {
    open_with(dir, small())
}

pub(crate) fn open_with(dir: &Path, options: Options) -> AnyStore {
    Store::open(dir, AnyBackend::auto(), options).expect("the store opens")
}

/// Ends the store as a killed process would: nothing is flushed or marked.
pub(crate) fn crash<B: Backend>(store: Store<B>) {
    drop(store);
}

/// A record whose content says which it is, of a length that varies with it.
pub(crate) fn record(index: usize) -> Vec<u8> {
    let len = match index % 7 {
        0 => 0,
        1 => 1,
        2 => 100,
        3 => 1000,
        4 => 4096,
        5 => 9000,
        _ => 33,
    };
    let mut bytes = format!("{index}:").into_bytes();
    bytes.resize(bytes.len() + len, b'a' + (index % 26) as u8);
    bytes
}

/// Every record from `from` on.
pub(crate) fn all(store: &AnyStore) -> Vec<(Lsn, Vec<u8>)> {
    store
        .scan(..)
        .expect("a range")
        .map(|record| record.map(|record| (record.lsn, record.payload)))
        .collect::<Result<_, _>>()
        .expect("every record is whole")
}

/// Every record, as another process sees them.
pub(crate) fn all_beside(dir: &Path) -> Vec<(Lsn, Vec<u8>)> {
    let reader = Reader::open(dir, AnyBackend::auto()).expect("the store opens for reading");
    reader
        .scan(..)
        .expect("a range")
        .map(|record| record.map(|record| (record.lsn, record.payload)))
        .collect::<Result<_, _>>()
        .expect("every record is whole")
}

/// Appends the same record a number of times, and returns the last one's address.
pub(crate) fn append_times<B: Backend>(store: &Store<B>, times: usize, record: &[u8]) -> Lsn {
    let mut last = Lsn::ZERO;
    for _ in 0..times {
        last = store.append(record).expect("appends");
    }
    last
}

/// Flips the bits of the byte at an address of a [`small`] store.
pub(crate) fn flip(dir: &Path, address: u64) {
    let segment_bytes = 64 << 10;
    let path = dir.join(format!("{:016x}.seg", address / segment_bytes));
    let file = File::options().read(true).write(true).open(path);
    let (file, mut byte) = (file.expect("it is there"), [0]);
    let at = address % segment_bytes;
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[!byte[0]], at).expect("written");
    file.sync_all().expect("synced");
}
