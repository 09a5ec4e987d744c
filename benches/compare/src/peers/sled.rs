//! `sled`: a tree of keys and values on a log.

use std::path::Path;

use sled::Db;

use crate::log::{About, Address, Log, Outcome};
use crate::peers::{Next, key};

/// `sled`, with its defaults but for its timed flush, which is off: the workloads sync themselves.
pub(crate) struct Sled(Db);

impl Log for Sled {
    type Writer<'a> = Next;

    const ABOUT: About = About {
        name: "sled",
        how: "insert; flush",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        Ok(Self(
            sled::Config::new().path(dir).flush_every_ms(None).open()?,
        ))
    }

    fn writer(&self, thread: usize) -> Outcome<Next> {
        Ok(Next::of(thread))
    }

    fn append_durable(&self, writer: &mut Next, record: &[u8]) -> Outcome<()> {
        self.0.insert(key(writer.address()), record)?;
        self.0.flush()?;
        Ok(())
    }

    fn append(&self, writer: &mut Next, record: &[u8]) -> Outcome<Address> {
        let address = writer.address();
        self.0.insert(key(address), record)?;
        Ok(address)
    }

    fn sync(&self) -> Outcome<()> {
        self.0.flush()?;
        Ok(())
    }

    fn read(&self, address: Address) -> Outcome<usize> {
        let value = self.0.get(key(address))?;
        Ok(value.ok_or("there is no such record")?.len())
    }

    fn scan(&self) -> Outcome<u64> {
        let mut bytes = 0;
        for record in self.0.iter() {
            bytes += record?.1.len() as u64;
        }
        Ok(bytes)
    }
}
