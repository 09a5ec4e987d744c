//! This store.

use std::path::Path;

use esker_io::AnyBackend;
use esker_lss::{Appender, Lsn, Options, Store};

use crate::log::{About, Address, Log, Outcome};

/// The store, with its defaults.
pub(crate) struct Esker(Store<AnyBackend>);

impl Log for Esker {
    type Writer<'a> = Appender<'a, AnyBackend>;

    const ABOUT: About = About {
        name: "esker",
        how: "append_durable; an appender for each thread where one sync is enough, and flush; follow_new",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        Ok(Self(Store::open(
            dir,
            AnyBackend::auto(),
            Options::default(),
        )?))
    }

    fn writer(&self, _thread: usize) -> Outcome<Appender<'_, AnyBackend>> {
        Ok(self.0.appender())
    }

    fn append_durable(&self, _writer: &mut Appender<'_, AnyBackend>, record: &[u8]) -> Outcome<()> {
        self.0.append_durable(record)?;
        Ok(())
    }

    fn append_many(
        &self,
        _writer: &mut Appender<'_, AnyBackend>,
        record: &[u8],
        count: usize,
    ) -> Outcome<()> {
        for _ in 0..count {
            self.0.append(record)?;
        }
        self.0.flush()?;
        Ok(())
    }

    fn append(&self, writer: &mut Appender<'_, AnyBackend>, record: &[u8]) -> Outcome<Address> {
        Ok([writer.append(record)?.get(), 0])
    }

    fn sync(&self) -> Outcome<()> {
        self.0.flush()?;
        Ok(())
    }

    fn read(&self, [lsn, _]: Address) -> Outcome<usize> {
        Ok(self.0.read(Lsn::new(lsn))?.len())
    }

    fn scan(&self) -> Outcome<u64> {
        let mut bytes = 0;
        for record in self.0.scan(..)? {
            bytes += record?.payload.len() as u64;
        }
        Ok(bytes)
    }

    fn follow(&self, ready: &dyn Fn(), seen: &dyn Fn() -> bool) -> Outcome<()> {
        let follower = self.0.follow_new();
        ready();
        for record in follower {
            record?;
            if !seen() {
                break;
            }
        }
        Ok(())
    }

    fn close(self) -> Outcome<()> {
        Ok(self.0.close()?)
    }
}
