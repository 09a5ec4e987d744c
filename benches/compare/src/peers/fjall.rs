//! `fjall`: an LSM tree of keys and values, whose journal is the log.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::log::{About, Address, Log, Outcome};
use crate::peers::{Next, key};

/// `fjall`, with its defaults. A record's key is its thread and its number there.
pub(crate) struct Fjall {
    database: Database,
    records: Keyspace,
}

impl Log for Fjall {
    type Writer<'a> = Next;

    const ABOUT: About = About {
        name: "fjall",
        how: "insert; persist(SyncData)",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let database = Database::builder(dir).open()?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(Self { database, records })
    }

    fn writer(&self, thread: usize) -> Outcome<Next> {
        Ok(Next::of(thread))
    }

    fn append_durable(&self, writer: &mut Next, record: &[u8]) -> Outcome<()> {
        self.records.insert(key(writer.address()), record)?;
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn append(&self, writer: &mut Next, record: &[u8]) -> Outcome<Address> {
        let address = writer.address();
        self.records.insert(key(address), record)?;
        Ok(address)
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn read(&self, address: Address) -> Outcome<usize> {
        let value = self.records.get(key(address))?;
        Ok(value.ok_or("there is no such record")?.len())
    }

    fn scan(&self) -> Outcome<u64> {
        let mut bytes = 0;
        for record in self.records.iter() {
            bytes += record.value()?.len() as u64;
        }
        Ok(bytes)
    }
}
