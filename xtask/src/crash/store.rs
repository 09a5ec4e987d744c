//! What there is in a store that lives, or has crashed, with a disk.

use super::history::{Found, History, Known};
use crate::trial::{Esker, Failure};

/// Everything that is in a store.
fn read(esker: &Esker, history: &History) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    esker.cat(|lsn, payload| {
        found.push((lsn, history.identify(payload)));
        Ok(())
    })?;
    Ok(found)
}

/// Notes what the lives have left, for the next one to go on from, and gives the LSNs.
pub(super) fn settle(esker: &Esker, history: &mut History) -> Result<Vec<u64>, Failure> {
    let found = read(esker, history)?;
    history.settle(&found);
    Ok(found.into_iter().map(|(lsn, _)| lsn).collect())
}

/// Looks at the store of a crashed disk, and goes on with it if wanted.
pub(super) fn look(
    esker: &Esker,
    history: &History,
    known: &Known,
    go_on: bool,
) -> Result<(), Failure> {
    let judge = |found: &[_]| {
        let judged = history.judge(known, found);
        judged.map_err(|wrong| Failure::Command(wrong.to_string()))
    };
    esker.run("verify")?;
    let found = read(esker, history)?;
    judge(&found)?;
    if !go_on {
        return Ok(());
    }
    esker.append(b"one more\n")?;
    esker.run("verify")?;
    let mut after = read(esker, history)?;
    let last = after.pop();
    if after != found || !matches!(last, Some((_, None))) {
        return Err(Failure::Command(format!(
            "{} records were read from the crashed disk, and they are not what precedes the record \
             that was appended then",
            found.len()
        )));
    }
    Ok(())
}
