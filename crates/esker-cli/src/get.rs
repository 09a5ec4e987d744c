//! `esker get`: single records by their LSNs.

use crate::args::Get;
use crate::failure::Failure;
use crate::output::Output;
use crate::store;

/// Runs the command.
pub(crate) fn run(args: &Get) -> Result<(), Failure> {
    let reader = store::open_to_read(&args.store, args.backend)?;
    let mut output = Output::new()?;
    for &lsn in &args.lsns {
        match reader.read(lsn) {
            Ok(payload) => output.record(None, &payload, args.framing)?,
            Err(error) => {
                // Those before it are shown.
                output.flush()?;
                let what = format!("cannot get LSN {lsn} from {}", args.store.display());
                return Err(Failure::with_advice(what, &error, store::advice(&error)));
            }
        }
    }
    output.flush()
}
