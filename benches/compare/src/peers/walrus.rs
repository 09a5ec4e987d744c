//! `walrus-rust`: topics of entries, through io_uring or memory maps.

use std::path::Path;
use std::sync::OnceLock;

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use crate::log::{About, Address, Log, Outcome};

/// `walrus-rust`, with its default backend. Whether each entry is synced is chosen when it is
/// opened, so there is one of each.
pub(crate) struct WalrusLog {
    lazy: OnceLock<Walrus>,
    each: OnceLock<Walrus>,
}

const TOPIC: &str = "records";

fn open(schedule: FsyncSchedule) -> Walrus {
    Walrus::with_consistency_and_schedule(
        ReadConsistency::AtLeastOnce {
            persist_every: 1 << 20,
        },
        schedule,
    )
    .unwrap_or_else(|error| panic!("walrus: {error}"))
}

impl WalrusLog {
    fn each(&self) -> &Walrus {
        self.each.get_or_init(|| open(FsyncSchedule::SyncEach))
    }

    fn lazy(&self) -> &Walrus {
        self.lazy
            .get_or_init(|| open(FsyncSchedule::Milliseconds(10)))
    }
}

impl Log for WalrusLog {
    type Writer<'a> = ();

    const ABOUT: About = About {
        name: "walrus",
        how: "append_for_topic, SyncEach; or synced every 10 ms by itself: it has no sync to call; opening reads headers only",
        appends: true,
        reads: false,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        // SAFETY: the process has one thread yet.
        unsafe {
            std::env::set_var("WALRUS_DATA_DIR", dir);
            std::env::set_var("WALRUS_QUIET", "1");
        }
        let this = Self {
            lazy: OnceLock::new(),
            each: OnceLock::new(),
        };
        if dir.read_dir()?.next().is_some() {
            this.lazy();
        }
        Ok(this)
    }

    fn writer(&self, _thread: usize) -> Outcome<()> {
        Ok(())
    }

    fn append_durable(&self, (): &mut (), record: &[u8]) -> Outcome<()> {
        // It refuses a second writer of one topic, so they take turns.
        Ok(retried(|| self.each().append_for_topic(TOPIC, record))?)
    }

    fn append(&self, (): &mut (), record: &[u8]) -> Outcome<Address> {
        retried(|| self.lazy().append_for_topic(TOPIC, record))?;
        Ok([0; 2])
    }

    fn append_many(&self, (): &mut (), _record: &[u8], _count: usize) -> Outcome<()> {
        Err("it has no sync to call".into())
    }

    fn scan(&self) -> Outcome<u64> {
        let mut bytes = 0;
        loop {
            let entries = self.lazy().batch_read_for_topic(TOPIC, 1 << 20, true)?;
            if entries.is_empty() {
                return Ok(bytes);
            }
            bytes += entries
                .iter()
                .map(|entry| entry.data.len() as u64)
                .sum::<u64>();
        }
    }
}

fn retried(mut append: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    loop {
        match append() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}
