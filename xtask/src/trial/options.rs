//! Options and prerequisites that the suites have in common.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use clap::{Arg, value_parser};

use super::esker::file_system;
use super::program::Program;
use crate::suite::{SuiteError, Tally};

/// An option that takes a number.
pub(crate) fn number_arg(name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_name("N").help(help);
    arg.value_parser(value_parser!(u64))
}

/// An option that takes a path.
pub(crate) fn path_arg(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_name(value).help(help);
    arg.value_parser(value_parser!(PathBuf))
}

/// A seed that is another one every time.
pub(crate) fn clock_seed() -> Result<u64, SuiteError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::from(now.subsec_nanos()) ^ now.as_secs())
}

/// The first of these directories that does not lie in memory.
pub(crate) fn on_disk(dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let in_memory = ["tmpfs", "ramfs"];
    dirs.into_iter()
        .find(|dir| file_system(dir).is_some_and(|kind| !in_memory.contains(&kind.as_str())))
}

/// The backends that work here, tried in `dir`.
pub(crate) fn working_backends(
    program: &Program,
    dir: &Path,
    tally: &mut Tally,
) -> Result<Vec<&'static str>, SuiteError> {
    let scratch = tempfile::Builder::new()
        .prefix("esker-probe-")
        .tempdir_in(dir)?;
    let probe = program
        .command()
        .arg("append")
        .arg(scratch.path().join("store"))
        .args(["--backend", "uring"])
        .stdin(Stdio::null())
        .output()?;
    if probe.status.success() {
        return Ok(vec!["uring", "blocking"]);
    }
    let why = String::from_utf8_lossy(&probe.stderr);
    tally.skip("the io_uring backend", why.trim_end());
    Ok(vec!["blocking"])
}
