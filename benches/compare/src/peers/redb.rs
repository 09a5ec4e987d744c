//! `redb`: a B-tree of keys and values with copy on write, one writing transaction at a time.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::log::{About, Address, Log, Outcome};
use crate::peers::{Next, key};

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// How many records make a transaction where one sync is enough.
const BATCH: usize = 1000;

/// `redb`, with its defaults.
pub(crate) struct Redb(Database);

/// Which record comes next, and those that wait for their transaction.
pub(crate) struct Pending {
    next: Next,
    records: Vec<([u8; 12], Vec<u8>)>,
}

impl Redb {
    fn write(&self, records: &[([u8; 12], Vec<u8>)], durability: Durability) -> Outcome<()> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (key, record) in records {
                table.insert(key.as_slice(), record.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Log for Redb {
    type Writer<'a> = Pending;

    const ABOUT: About = About {
        name: "redb",
        how: "a transaction a record; transactions of 1000 records, not durable, then one that is",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let this = Self(Database::create(dir.join("redb"))?);
        this.write(&[], Durability::Immediate)?;
        Ok(this)
    }

    fn writer(&self, thread: usize) -> Outcome<Pending> {
        Ok(Pending {
            next: Next::of(thread),
            records: Vec::new(),
        })
    }

    fn append_durable(&self, writer: &mut Pending, record: &[u8]) -> Outcome<()> {
        let key = key(writer.next.address());
        self.write(&[(key, record.to_vec())], Durability::Immediate)
    }

    fn append(&self, writer: &mut Pending, record: &[u8]) -> Outcome<Address> {
        let address = writer.next.address();
        writer.records.push((key(address), record.to_vec()));
        if writer.records.len() == BATCH {
            self.write(&writer.records, Durability::None)?;
            writer.records.clear();
        }
        Ok(address)
    }

    fn pass_on(&self, writer: &mut Pending) -> Outcome<()> {
        self.write(&writer.records, Durability::None)?;
        writer.records.clear();
        Ok(())
    }

    fn sync(&self) -> Outcome<()> {
        self.write(&[], Durability::Immediate)
    }

    fn read(&self, address: Address) -> Outcome<usize> {
        let table = self.0.begin_read()?.open_table(RECORDS)?;
        let value = table.get(key(address).as_slice())?;
        Ok(value.ok_or("there is no such record")?.value().len())
    }

    fn scan(&self) -> Outcome<u64> {
        let table = self.0.begin_read()?.open_table(RECORDS)?;
        let mut bytes = 0;
        for record in table.iter()? {
            bytes += record?.1.value().len() as u64;
        }
        Ok(bytes)
    }
}
