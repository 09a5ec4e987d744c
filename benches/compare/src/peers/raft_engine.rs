//! `raft-engine`: entries of many Raft groups in one log, group commit by a leader.

use std::path::Path;

use raft::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt};

use crate::log::{About, Address, Log, Outcome};

/// `raft-engine`, with its defaults but for compression, which is off: nobody else compresses.
pub(crate) struct RaftEngine(Engine);

struct Extension;

impl MessageExt for Extension {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// A thread is a Raft group.
pub(crate) struct Group {
    id: u64,
    index: u64,
    batch: LogBatch,
}

impl RaftEngine {
    fn write(&self, group: &mut Group, record: &[u8], sync: bool) -> Outcome<Address> {
        group.index += 1;
        let entry = Entry {
            index: group.index,
            data: record.to_vec().into(),
            ..Entry::default()
        };
        group.batch.add_entries::<Extension>(group.id, &[entry])?;
        self.0.write(&mut group.batch, sync)?;
        Ok([group.id, group.index])
    }
}

impl Log for RaftEngine {
    type Writer<'a> = Group;

    const ABOUT: About = About {
        name: "raft-engine",
        how: "write of one entry, synced or not; each thread a group",
        appends: true,
        reads: true,
        scans: false,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let dir = dir.to_str().ok_or("the path is not UTF-8")?.to_owned();
        Ok(Self(Engine::open(Config {
            dir,
            batch_compression_threshold: raft_engine::ReadableSize(0),
            ..Config::default()
        })?))
    }

    fn writer(&self, thread: usize) -> Outcome<Group> {
        let id = thread as u64 + 1;
        Ok(Group {
            id,
            index: self.0.last_index(id).unwrap_or(0),
            batch: LogBatch::default(),
        })
    }

    fn append_durable(&self, group: &mut Group, record: &[u8]) -> Outcome<()> {
        self.write(group, record, true)?;
        Ok(())
    }

    fn append(&self, group: &mut Group, record: &[u8]) -> Outcome<Address> {
        self.write(group, record, false)
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.0.sync()?)
    }

    fn read(&self, [group, index]: Address) -> Outcome<usize> {
        let entry = self.0.get_entry::<Extension>(group, index)?;
        Ok(entry.ok_or("there is no such entry")?.data.len())
    }
}
