//! `esker trim`: gives up a prefix of the log.

use esker_lss::Options;

use crate::args::Trim;
use crate::failure::Failure;
use crate::output::Output;
use crate::store;

/// Runs the command.
pub(crate) fn run(args: &Trim) -> Result<(), Failure> {
    let options = Options::default().create(false);
    let store = store::open_to_append(&args.store, args.backend, options)?;
    let dir = args.store.display();
    let trimmed = store.trim_before(args.before);
    let closed = store.close();
    let first = trimmed.map_err(|error| Failure::new(format!("cannot trim {dir}"), &error))?;
    closed.map_err(|error| Failure::new(format!("cannot close {dir}"), &error))?;
    let mut output = Output::new()?;
    output.line(&format!("the log begins at LSN {first}"))?;
    output.flush()
}
