//! What each store really does when it calls a record durable, counted from outside.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::log::{Log, Outcome};
use crate::peers::{self, Visit};

/// How many records are appended under the eyes of `strace`.
const RECORDS: u64 = 200;

/// What was counted, for `RECORDS` durable appends of one thread and the opening before.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Durability {
    pub(crate) store: &'static str,
    pub(crate) records: u64,
    /// Calls that make data durable: `fsync`, `fdatasync`, `msync(MS_SYNC)`, `sync_file_range`.
    pub(crate) syncs: u64,
    /// Writes that are durable themselves: `pwritev2` with `RWF_DSYNC`.
    pub(crate) durable_writes: u64,
    /// Files opened with `O_DSYNC` or `O_SYNC`: all their writes are durable.
    pub(crate) sync_opens: u64,
    /// Entries into io_uring, whose operations `strace` does not show.
    pub(crate) uring_enters: u64,
}

impl Durability {
    /// Whether each record was covered by something that makes it durable, as far as can be seen.
    pub(crate) fn verdict(&self) -> &'static str {
        if self.syncs + self.durable_writes >= self.records || self.sync_opens > 0 {
            "yes"
        } else if self.uring_enters >= self.records {
            "through io_uring"
        } else {
            "no"
        }
    }
}

/// Counts a store's calls; `None` where `strace` is not installed.
pub(crate) fn check(store: &'static str, dir: &Path) -> Outcome<Option<Durability>> {
    let trace = dir.join("strace.out");
    let store_dir = dir.join("traced");
    fs::create_dir_all(&store_dir)?;
    let status = Command::new("strace")
        .args(["-f", "-qq", "-s", "0", "-e"])
        .arg("trace=fsync,fdatasync,msync,sync_file_range,pwritev2,openat,io_uring_enter")
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe()?)
        .args(["appends", store, &RECORDS.to_string()])
        .arg(&store_dir)
        .stdout(Stdio::null())
        .status();
    let status = match status {
        Ok(status) => status,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !status.success() {
        return Err(format!("{store}: its appends under strace ended with {status}").into());
    }
    let text = fs::read_to_string(&trace)?;
    fs::remove_dir_all(&store_dir)?;
    let count = |wanted: &dyn Fn(&str) -> bool| text.lines().filter(|line| wanted(line)).count();
    let syncs = count(&|line| {
        line.contains(" fsync(")
            || line.contains(" fdatasync(")
            || line.contains(" sync_file_range(")
            || line.contains("MS_SYNC")
    });
    Ok(Some(Durability {
        store,
        records: RECORDS,
        syncs: syncs as u64,
        durable_writes: count(&|line| line.contains("RWF_DSYNC")) as u64,
        sync_opens: count(&|line| line.contains("O_DSYNC") || line.contains("O_SYNC")) as u64,
        uring_enters: count(&|line| line.contains(" io_uring_enter(")) as u64,
    }))
}

/// What the traced process does.
pub(crate) fn append(store: &str, records: u64, dir: &Path) -> Outcome<()> {
    struct Append<'a>(u64, &'a Path);
    impl Visit for Append<'_> {
        type Output = ();
        fn visit<L: Log + 'static>(self) -> Outcome<()> {
            let log = L::open(self.1)?;
            let mut writer = log.writer(0)?;
            for _ in 0..self.0 {
                log.append_durable(&mut writer, &[7; 256])?;
            }
            // Nothing that only closing does is to be counted.
            std::process::exit(0);
        }
    }
    peers::visit(store, Append(records, dir))
}
