//! `okaywal`: entries of chunks, group commit by fsync, checkpoints by the caller.

use std::path::Path;

use okaywal::{
    Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog,
};

use crate::log::{About, Address, Log, Outcome};

/// `okaywal`. It checkpoints as much as its default says; the checkpointer has nothing to do.
pub(crate) struct OkayWal(WriteAheadLog);

#[derive(Debug)]
struct Nothing;

impl LogManager for Nothing {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            chunk.read_all()?;
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log for OkayWal {
    type Writer<'a> = Batch;

    const ABOUT: About = About {
        name: "okaywal",
        how: "one entry a record; entries of 1 MiB of chunks where one sync is enough (each is durable)",
        appends: true,
        reads: false,
        scans: false,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        Ok(Self(Configuration::default_for(dir).open(Nothing)?))
    }

    fn writer(&self, _thread: usize) -> Outcome<Batch> {
        Ok(Batch::default())
    }

    fn append_durable(&self, _writer: &mut Batch, record: &[u8]) -> Outcome<()> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(record)?;
        entry.commit()?;
        Ok(())
    }

    fn append(&self, writer: &mut Batch, record: &[u8]) -> Outcome<Address> {
        // Its entries keep others out while they are open, so the records are gathered first.
        writer.lengths.push(record.len());
        writer.bytes.extend_from_slice(record);
        if writer.bytes.len() >= BATCH_BYTES {
            self.flush(writer)?;
        }
        // Its address is known when its entry is written.
        Ok([0; 2])
    }

    fn pass_on(&self, writer: &mut Batch) -> Outcome<()> {
        self.flush(writer)
    }

    fn close(self) -> Outcome<()> {
        Ok(self.0.shutdown()?)
    }
}

const BATCH_BYTES: usize = 1 << 20;

/// Records that wait for their entry.
#[derive(Default)]
pub(crate) struct Batch {
    lengths: Vec<usize>,
    bytes: Vec<u8>,
}

impl OkayWal {
    fn flush(&self, batch: &mut Batch) -> Outcome<()> {
        let mut entry = self.0.begin_entry()?;
        let mut rest = batch.bytes.as_slice();
        for len in batch.lengths.drain(..) {
            let (record, after) = rest.split_at(len);
            entry.write_chunk(record)?;
            rest = after;
        }
        entry.commit()?;
        batch.bytes.clear();
        Ok(())
    }
}
