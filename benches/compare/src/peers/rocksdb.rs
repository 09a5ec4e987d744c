//! RocksDB: its write-ahead log, with a memtable behind it.

use std::path::Path;

use rocksdb::{DB, IteratorMode, Options, WriteOptions};

use crate::log::{About, Address, Log, Outcome};
use crate::peers::{Next, key};

/// RocksDB, with its defaults.
pub(crate) struct Rocks(DB);

impl Log for Rocks {
    type Writer<'a> = Next;

    const ABOUT: About = About {
        name: "rocksdb",
        how: "put, synced or not; flush_wal",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        Ok(Self(DB::open(&options, dir)?))
    }

    fn writer(&self, thread: usize) -> Outcome<Next> {
        Ok(Next::of(thread))
    }

    fn append_durable(&self, writer: &mut Next, record: &[u8]) -> Outcome<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.0.put_opt(key(writer.address()), record, &options)?)
    }

    fn append(&self, writer: &mut Next, record: &[u8]) -> Outcome<Address> {
        let address = writer.address();
        self.0.put(key(address), record)?;
        Ok(address)
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.0.flush_wal(true)?)
    }

    fn read(&self, address: Address) -> Outcome<usize> {
        let value = self.0.get_pinned(key(address))?;
        Ok(value.ok_or("there is no such record")?.len())
    }

    fn scan(&self) -> Outcome<u64> {
        let mut bytes = 0;
        for record in self.0.iterator(IteratorMode::Start) {
            bytes += record?.1.len() as u64;
        }
        Ok(bytes)
    }
}
