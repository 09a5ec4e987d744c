//! What a store has to offer to be compared: one implementation of [`Log`] for each, in `peers`.

use std::error::Error;
use std::path::Path;

/// Any store's error.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// A store's result.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// What a store says of itself in the tables.
pub(crate) struct About {
    /// Its name.
    pub(crate) name: &'static str,
    /// How it is used here, in a few words.
    pub(crate) how: &'static str,
    /// Whether it takes a record that is not to be durable yet ([`Log::append`]).
    pub(crate) appends: bool,
    /// Whether it reads a record back by its address ([`Log::read`]).
    pub(crate) reads: bool,
    /// Whether it gives back all records in order ([`Log::scan`]).
    pub(crate) scans: bool,
}

/// By what a record is read back: whatever a store makes of two numbers.
pub(crate) type Address = [u64; 2];

/// A store under measure, used by several threads at a time.
pub(crate) trait Log: Sized + Sync {
    /// What one thread keeps between its appends.
    type Writer<'a>: 'a
    where
        Self: 'a;
    /// What it is and can do.
    const ABOUT: About;

    /// Opens the store in `dir`, which exists, recovering what is there.
    fn open(dir: &Path) -> Outcome<Self>;

    /// One thread's way in; `thread` counts from 0.
    fn writer(&self, thread: usize) -> Outcome<Self::Writer<'_>>;

    /// Appends a record that is durable when this returns.
    fn append_durable(&self, writer: &mut Self::Writer<'_>, record: &[u8]) -> Outcome<()>;

    /// Appends a record, durable after the next [`Log::sync`].
    fn append(&self, _writer: &mut Self::Writer<'_>, _record: &[u8]) -> Outcome<Address> {
        Err("it has no append that is not durable".into())
    }

    /// Ends one thread's appends.
    fn finish(&self, mut writer: Self::Writer<'_>) -> Outcome<()> {
        self.pass_on(&mut writer)
    }

    /// Makes all that was appended durable.
    fn sync(&self) -> Outcome<()> {
        Ok(())
    }

    /// Appends `count` records without waiting between them, all durable when this returns.
    fn append_many(
        &self,
        writer: &mut Self::Writer<'_>,
        record: &[u8],
        count: usize,
    ) -> Outcome<()> {
        for _ in 0..count {
            self.append(writer, record)?;
        }
        self.pass_on(writer)?;
        self.sync()
    }

    /// What one thread holds back goes to the store.
    fn pass_on(&self, _writer: &mut Self::Writer<'_>) -> Outcome<()> {
        Ok(())
    }

    /// Reads a record back, and returns its length; for the bare device, 4 KiB.
    fn read(&self, _address: Address) -> Outcome<usize> {
        Err("it does not read by address".into())
    }

    /// Reads all records, in order, and returns how many bytes they have.
    fn scan(&self) -> Outcome<u64> {
        Err("it does not scan".into())
    }

    /// Follows the log from its end on: calls `ready` once it does, and `seen` at each record, until
    /// that says no.
    fn follow(&self, _ready: &dyn Fn(), _seen: &dyn Fn() -> bool) -> Outcome<()> {
        Err("nothing tells a reader of new records".into())
    }

    /// Closes the store in an orderly way.
    fn close(self) -> Outcome<()> {
        Ok(())
    }
}
