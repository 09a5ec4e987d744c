//! `esker cat`: records in log order, and on request those that come later.

use std::ops::Bound;
use std::os::fd::AsFd;
use std::time::Duration;

use esker_lss::{Lsn, OpenError, ReadError};

use crate::args::Cat;
use crate::failure::Failure;
use crate::output::Output;
use crate::store::{self, Reader};
use crate::system::{Stop, wait_beside_output};

/// How long to sleep before looking for more: at first, and at last.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Runs the command.
pub(crate) fn run(args: &Cat) -> Result<(), Failure> {
    let mut printer = Printer {
        args,
        output: Output::new()?,
        from: args.from.map_or(Bound::Unbounded, Bound::Included),
        left: args.limit.unwrap_or(u64::MAX),
    };
    if args.follow {
        return follow(&mut printer);
    }
    let reader = store::open_to_read(&args.store, args.backend)?;
    printer.print(&reader, reader.end())?;
    printer.output.flush()
}

struct Printer<'a> {
    args: &'a Cat,
    output: Output,
    /// Where to go on.
    from: Bound<Lsn>,
    /// How many more to print.
    left: u64,
}

impl Printer<'_> {
    /// Prints what lies below `end` and has not been printed; whether that was anything.
    fn print(&mut self, reader: &Reader, end: Lsn) -> Result<bool, Failure> {
        // Following, it waits for an address that is not there yet; else that is an error.
        let empty = match self.from {
            Bound::Unbounded => reader.first() >= end,
            Bound::Included(from) | Bound::Excluded(from) => {
                from == end || (from > end && self.args.follow)
            }
        };
        if self.left == 0 || empty {
            return Ok(false);
        }
        let before = self.left;
        let result = self.scan(reader, end);
        // What could be read is shown also when the rest could not.
        self.output.flush()?;
        result.map(|()| self.left < before)
    }

    fn scan(&mut self, reader: &Reader, end: Lsn) -> Result<(), Failure> {
        let range = (self.from, Bound::Excluded(end));
        let records = reader
            .scan(range)
            .map_err(|error| self.unreadable(&error))?;
        for record in records {
            let record = record.map_err(|error| self.unreadable(&error))?;
            let lsn = self.args.lsns.then_some(record.lsn);
            self.output
                .record(lsn, &record.payload, self.args.framing)?;
            self.from = Bound::Excluded(record.lsn);
            self.left -= 1;
            if self.left == 0 {
                break;
            }
        }
        Ok(())
    }

    fn unreadable(&self, error: &ReadError) -> Failure {
        let what = format!("cannot read {}", self.args.store.display());
        Failure::with_advice(what, error, store::advice(error))
    }
}

/// Prints what is durable, and then what becomes durable, until there is a reason to end.
fn follow(printer: &mut Printer<'_>) -> Result<(), Failure> {
    let stop = Stop::on_signals()
        .map_err(|error| Failure::new("cannot prepare for being interrupted", &error))?;
    let args = printer.args;
    let mut reader = None;
    let mut sleep = SHORTEST_SLEEP;
    loop {
        let printed = match &mut reader {
            None => {
                reader = open_if_there(printer)?;
                reader.is_some()
            }
            Some(reader) => {
                reader
                    .refresh()
                    .map_err(|error| store::refused(&args.store, &error))?;
                printer.print(reader, reader.durable())?
            }
        };
        if printer.left == 0 {
            return Ok(());
        }
        if printed {
            sleep = SHORTEST_SLEEP;
            if stop.asked() {
                return Ok(());
            }
            continue;
        }
        let [stopped, output] = wait_beside_output(stop.as_fd(), printer.output.as_fd(), sleep)
            .map_err(|error| Failure::new("cannot wait for more records", &error))?;
        if stopped.readable {
            return Ok(());
        }
        if output.closed {
            return Err(Failure::ClosedPipe);
        }
        sleep = (sleep * 2).min(LONGEST_SLEEP);
    }
}

/// The store, or nothing if there is none yet.
fn open_if_there(printer: &Printer<'_>) -> Result<Option<Reader>, Failure> {
    let args = printer.args;
    match Reader::open(&args.store, store::backend(args.backend)?) {
        Ok(reader) => Ok(Some(reader)),
        Err(OpenError::NoStore { .. }) => Ok(None),
        Err(error) => Err(store::refused(&args.store, &error)),
    }
}
