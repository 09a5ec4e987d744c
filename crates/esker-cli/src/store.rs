//! Opening a store, and saying what to do when that fails.

use std::path::Path;

use esker_io::AnyBackend;
use esker_lss::{OpenError, Options, ReadError};

use crate::args::BackendArg;
use crate::failure::Failure;

/// The store, open for writing.
pub(crate) type Store = esker_lss::Store<AnyBackend>;

/// The store, open for reading only.
pub(crate) type Reader = esker_lss::Reader<AnyBackend>;

/// Sets up what does the I/O.
pub(crate) fn backend(wanted: BackendArg) -> Result<AnyBackend, Failure> {
    match wanted {
        BackendArg::Auto => Ok(AnyBackend::auto()),
        BackendArg::Blocking => Ok(AnyBackend::blocking()),
        BackendArg::Uring => AnyBackend::uring().map_err(|error| {
            let advice = "use --backend blocking or --backend auto";
            Failure::with_advice("cannot use io_uring", &error, advice)
        }),
    }
}

/// Opens a store for writing.
pub(crate) fn open_to_append(
    dir: &Path,
    wanted: BackendArg,
    options: Options,
) -> Result<Store, Failure> {
    Store::open(dir, backend(wanted)?, options).map_err(|error| refused(dir, &error))
}

/// Opens a store for reading only.
pub(crate) fn open_to_read(dir: &Path, wanted: BackendArg) -> Result<Reader, Failure> {
    Reader::open(dir, backend(wanted)?).map_err(|error| refused(dir, &error))
}

/// Why a store cannot be opened, and what to do.
pub(crate) fn refused(dir: &Path, error: &OpenError) -> Failure {
    let dir = dir.display();
    let what = format!("cannot open {dir}");
    let advice = match error {
        OpenError::NoStore { .. } => format!("`esker append {dir}` creates one"),
        OpenError::Corrupt(_)
        | OpenError::SuperblockMissing { .. }
        | OpenError::SuperblockDamaged { .. }
        | OpenError::SuperblockEmpty { .. }
        | OpenError::SuperblockTruncated { .. }
        | OpenError::NotASuperblock { .. } => {
            format!("`esker salvage {dir}` gives back what is whole")
        }
        OpenError::Locked { .. } => "wait until that writer has closed it".to_owned(),
        _ => return Failure::new(what, error),
    };
    Failure::with_advice(what, error, advice)
}

/// What to do about a record that cannot be read.
pub(crate) fn advice(error: &ReadError) -> &'static str {
    match error {
        ReadError::Trimmed { .. } => "`esker info` says where the log begins now",
        ReadError::BeyondEnd { .. } => {
            "it was never there, is not written yet, or was dropped in a crash before it was durable"
        }
        ReadError::NotARecord { .. } => {
            "the LSNs of records are what `esker append --lsns` and `esker cat --lsns` print"
        }
        _ => "`esker verify` checks the whole log",
    }
}
