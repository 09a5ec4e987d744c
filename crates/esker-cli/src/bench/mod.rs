//! `esker bench`: what this disk can do, and what the store does on it, side by side.
//!
//! Every cell is a short timed run on files of its own. The cells are run in rounds, one after the
//! other, so that a slow spell of the machine strikes the disk's figures and the store's alike; the
//! median of a cell's rounds is shown, and the store's as a share of the disk's.

mod device;
mod show;
mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use esker_io::Backend;
use indicatif::{ProgressBar, ProgressStyle};

use self::device::Device;
use crate::args::Bench;
use crate::failure::Failure;
use crate::output::Output;
use crate::store::backend;
use crate::system::{self, Stop};

/// How often each cell is measured.
const ROUNDS: u32 = 3;
/// What the files of a run may need at most.
const SPACE_BYTES: u64 = device::FILE_BYTES + store::MOST_BYTES + (64 << 20);
/// Bytes of payload of a record in the cells that read.
const READ_RECORD_BYTES: usize = 1024;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    RecordsPerSecond,
    MegabytesPerSecond,
}

/// What the bare disk is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raw {
    DurableWrites,
    Writes,
    Reads,
    RandomReads { depth: usize },
}

/// What the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    AppendDurable { threads: usize },
    Append { record: usize, threads: usize },
    Open,
    Scan,
    Read { threads: usize },
}

/// One line of the table: the store's figure, and the disk's that it is held against.
struct Line {
    label: String,
    unit: Unit,
    raw: Raw,
    ask: Ask,
    raw_figures: Vec<f64>,
    figures: Vec<f64>,
}

impl Line {
    fn raw(&self) -> f64 {
        median(&self.raw_figures)
    }

    fn store(&self) -> f64 {
        median(&self.figures)
    }

    fn share(&self) -> f64 {
        self.store() / self.raw()
    }
}

/// The middle of the figures.
fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn lines() -> Vec<Line> {
    let cores = thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 16);
    let line = |label: String, raw, ask| Line {
        label,
        unit: match raw {
            Raw::DurableWrites | Raw::RandomReads { .. } => Unit::RecordsPerSecond,
            Raw::Writes | Raw::Reads => Unit::MegabytesPerSecond,
        },
        raw,
        ask,
        raw_figures: Vec::new(),
        figures: Vec::new(),
    };
    let threads = |count: usize| match count {
        1 => "1 thread".to_owned(),
        more => format!("{more} threads"),
    };
    let durable = [1, 8, 64].into_iter().map(|count| {
        line(
            format!("append 256 B durably, {}", threads(count)),
            Raw::DurableWrites,
            Ask::AppendDurable { threads: count },
        )
    });
    let flat = [(64, 1), (1024, 1), (1024, cores)]
        .into_iter()
        .map(|(record, count)| {
            line(
                format!("append {record} B, {}", threads(count)),
                Raw::Writes,
                Ask::Append {
                    record,
                    threads: count,
                },
            )
        });
    let back = [
        ("open after a crash", Raw::Reads, Ask::Open),
        ("scan", Raw::Reads, Ask::Scan),
    ]
    .into_iter()
    .map(|(label, raw, ask)| line(label.to_owned(), raw, ask));
    let reads = [1, 8].into_iter().map(|depth| {
        line(
            format!("read 1 KiB anywhere, {}", threads(depth)),
            Raw::RandomReads { depth },
            Ask::Read { threads: depth },
        )
    });
    durable.chain(flat).chain(back).chain(reads).collect()
}

/// Runs the command.
pub(crate) fn run(args: &Bench) -> Result<(), Failure> {
    let base = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let free = system::free_bytes(&base).map_err(|error| {
        Failure::new(
            format!("cannot use the directory {}", base.display()),
            &error,
        )
    })?;
    if free < SPACE_BYTES {
        return Err(Failure::Because(format!(
            "{} has {} MiB free, and measuring needs up to {} MiB; name another directory",
            base.display(),
            free >> 20,
            SPACE_BYTES >> 20
        )));
    }
    // Removed with all that is in it when this function ends.
    let place = tempfile::Builder::new()
        .prefix("esker-bench-")
        .tempdir_in(&base)
        .map_err(|error| {
            Failure::new(
                format!("cannot make a directory in {}", base.display()),
                &error,
            )
        })?;
    let mut lines = lines();
    let raws = distinct(&lines);
    let cells = u32::try_from(raws.len() + lines.len()).unwrap_or(u32::MAX) * ROUNDS;
    let each = Duration::from_secs(args.seconds.into()) / cells;
    let progress = progress(cells);
    let facts = measure(args, place.path(), &mut lines, &raws, each, &progress)?;
    progress.finish_and_clear();
    let mut output = Output::new()?;
    if args.json {
        output.line(&show::json(&lines, &facts).to_string())?;
    } else {
        for line in show::table(&lines, &facts) {
            output.line(&line)?;
        }
    }
    if let Some(path) = &args.svg {
        show::svg(&lines, &facts, path).map_err(|error| {
            Failure::new(format!("cannot draw {}", path.display()), error.as_ref())
        })?;
    }
    output.flush()
}

/// What the figures were measured on.
struct Facts {
    backend: String,
    file_system: String,
    direct: bool,
    seconds: u32,
}

/// What the disk is asked for all lines, each once.
fn distinct(lines: &[Line]) -> Vec<Raw> {
    let mut raws = Vec::new();
    for line in lines {
        if !raws.contains(&line.raw) {
            raws.push(line.raw);
        }
    }
    raws
}

fn progress(cells: u32) -> ProgressBar {
    // Draws on standard error, and only on a terminal.
    let bar = ProgressBar::new(cells.into());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn measure(
    args: &Bench,
    dir: &Path,
    lines: &mut [Line],
    raws: &[Raw],
    each: Duration,
    progress: &ProgressBar,
) -> Result<Facts, Failure> {
    let failed = |what: &str, error: &(dyn std::error::Error + 'static)| {
        Failure::new(format!("cannot measure {what} in {}", dir.display()), error)
    };
    let path = dir.join("device");
    let device =
        Device::new(backend(args.backend)?, &path).map_err(|error| failed("the disk", &*error))?;
    let facts = Facts {
        backend: device.backend().description().to_string(),
        file_system: system::file_system(dir),
        direct: device
            .is_direct()
            .map_err(|error| failed("the disk", &*error))?,
        seconds: args.seconds,
    };
    let stop =
        Stop::on_signals().map_err(|error| Failure::new("cannot watch for signals", &error))?;
    let go_on = || match stop.asked() {
        true => Err(Failure::Because(
            "stopped before its figures were complete".to_owned(),
        )),
        false => Ok(()),
    };
    for _ in 0..ROUNDS {
        for &raw in raws {
            go_on()?;
            progress.set_message("the disk");
            let figure = device
                .measure(raw, each)
                .map_err(|error| failed("the disk", &*error))?;
            for line in lines.iter_mut().filter(|line| line.raw == raw) {
                line.raw_figures.push(figure);
            }
            progress.inc(1);
        }
        // What is opened, scanned and read is made once a round.
        let crashed = dir.join("crashed");
        store::leave_as_a_crash_would(&crashed, backend(args.backend)?, args.seconds)
            .map_err(|error| failed("the store", &*error))?;
        for line in &mut *lines {
            go_on()?;
            progress.set_message(line.label.clone());
            let figure = store::measure(line.ask, dir, &crashed, backend(args.backend)?, each)
                .map_err(|error| failed("the store", &*error))?;
            line.figures.push(figure);
            progress.inc(1);
        }
        fs::remove_dir_all(&crashed).map_err(|error| failed("the store", &error))?;
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_disk_is_asked_everything_once() {
        let lines = lines();
        let raws = distinct(&lines);
        for line in &lines {
            assert_eq!(raws.iter().filter(|raw| **raw == line.raw).count(), 1);
        }
    }
}
