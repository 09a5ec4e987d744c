//! `writeahead`: one writer thread, group commit by fdatasync.

use std::path::Path;

use futures::StreamExt;
use futures::executor::block_on;
use writeahead::{RecordID, SimpleFile, WriteAhead, WriteAheadOptions, WriteHandle};

use crate::log::{About, Address, Log, Outcome};

/// `writeahead`, with its defaults.
pub(crate) struct Writeahead(WriteAhead<SimpleFile>);

/// A handle, and the records that wait for their batch: every write of its is durable, so what need
/// not be durable at once goes in batches of about 1 MiB.
pub(crate) struct Handle {
    handle: WriteHandle,
    batch: Vec<Vec<u8>>,
    bytes: usize,
}

const BATCH_BYTES: usize = 1 << 20;

impl Handle {
    fn flush(&mut self) -> Outcome<()> {
        if !self.batch.is_empty() {
            block_on(self.handle.write_batch(std::mem::take(&mut self.batch)))
                .map_err(|error| error.to_string())?;
            self.bytes = 0;
        }
        Ok(())
    }
}

impl Log for Writeahead {
    type Writer<'a> = Handle;

    const ABOUT: About = About {
        name: "writeahead",
        how: "write; write_batch of 1 MiB where one sync is enough (each is durable)",
        appends: true,
        reads: false,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let mut log = WriteAhead::with_options(WriteAheadOptions {
            log_dir: dir.to_path_buf(),
            ..Default::default()
        });
        log.start().map_err(|error| error.to_string())?;
        Ok(Self(log))
    }

    fn writer(&self, _thread: usize) -> Outcome<Handle> {
        Ok(Handle {
            handle: self.0.writer().map_err(|error| error.to_string())?,
            batch: Vec::new(),
            bytes: 0,
        })
    }

    fn append_durable(&self, writer: &mut Handle, record: &[u8]) -> Outcome<()> {
        block_on(writer.handle.write(record.to_vec())).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn append(&self, writer: &mut Handle, record: &[u8]) -> Outcome<Address> {
        writer.batch.push(record.to_vec());
        writer.bytes += record.len() + 20;
        if writer.bytes >= BATCH_BYTES {
            writer.flush()?;
        }
        // Its address is known when its batch is durable.
        Ok([0; 2])
    }

    fn pass_on(&self, writer: &mut Handle) -> Outcome<()> {
        writer.flush()
    }

    fn scan(&self) -> Outcome<u64> {
        let mut stream = self.0.create_stream().map_err(|error| error.to_string())?;
        block_on(async {
            let mut bytes = 0;
            while let Some(entry) = stream.next().await {
                let (_, record): (RecordID, Vec<u8>) = entry.map_err(|error| error.to_string())?;
                bytes += record.len() as u64;
            }
            Ok(bytes)
        })
    }
}
