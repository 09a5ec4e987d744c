//! `commitlog`: an append-only log for one owner, so a mutex around it.

use std::path::Path;

use commitlog::message::MessageSet;
use commitlog::{CommitLog, LogOptions, ReadLimit};
use parking_lot::Mutex;

use crate::log::{About, Address, Log, Outcome};

/// `commitlog`, with its defaults but for the largest message, which is below 4 KiB of payload.
pub(crate) struct Commitlog(Mutex<CommitLog>);

impl Log for Commitlog {
    type Writer<'a> = ();

    const ABOUT: About = About {
        name: "commitlog",
        how: "append_msg and flush under a mutex; opening reads its index only",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let mut options = LogOptions::new(dir);
        options.message_max_bytes(1 << 20);
        Ok(Self(Mutex::new(CommitLog::new(options)?)))
    }

    fn writer(&self, _thread: usize) -> Outcome<()> {
        Ok(())
    }

    fn append_durable(&self, (): &mut (), record: &[u8]) -> Outcome<()> {
        let mut log = self.0.lock();
        log.append_msg(record).map_err(|error| error.to_string())?;
        Ok(log.flush()?)
    }

    fn append(&self, (): &mut (), record: &[u8]) -> Outcome<Address> {
        let mut log = self.0.lock();
        let offset = log.append_msg(record).map_err(|error| error.to_string())?;
        Ok([offset, 0])
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.0.lock().flush()?)
    }

    fn read(&self, [offset, _]: Address) -> Outcome<usize> {
        let messages = self
            .0
            .lock()
            .read(offset, ReadLimit::max_bytes(8192))
            .map_err(|error| format!("{error:?}"))?;
        let message = messages.iter().next().ok_or("there is no such message")?;
        Ok(message.payload().len())
    }

    fn scan(&self) -> Outcome<u64> {
        let log = self.0.lock();
        let (mut next, mut bytes) = (0, 0);
        loop {
            let messages = log
                .read(next, ReadLimit::max_bytes(1 << 20))
                .map_err(|error| format!("{error:?}"))?;
            if messages.is_empty() {
                return Ok(bytes);
            }
            for message in messages.iter() {
                bytes += message.payload().len() as u64;
                next = message.offset() + 1;
            }
        }
    }
}
