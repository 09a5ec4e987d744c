//! Runs the cells in rounds and gathers what they say.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cell::{Figures, Workload};
use crate::durability::{self, Durability};
use crate::grid::{self, Extent, Grid, Group, Line};
use crate::log::Outcome;
use crate::{machine, peers, report};

/// How much to measure, of what, and where.
#[derive(Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds of all cells; figures are medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these stores, by name, separated by commas.
    #[arg(long, value_delimiter = ',')]
    stores: Vec<String>,
    /// Only these groups of workloads, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Group>,
    /// How many record sizes and counts of threads.
    #[arg(long, value_enum, default_value = "usual")]
    grid: Grid,
    /// All workloads in about a quarter of an hour: a few sizes and counts, 3 rounds, 256 MiB a cell,
    /// 512 MiB to open, 400 ms a timed cell.
    #[arg(long)]
    quick: bool,
    /// Payload of each flat-out, read and scan cell, in MiB.
    #[arg(long, default_value_t = 512)]
    mebibytes: u64,
    /// Payload of what is reopened, in MiB.
    #[arg(long, default_value_t = 1024)]
    reopen_mebibytes: u64,
    /// How long each timed cell takes, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    milliseconds: u64,
    /// Where the stores go; the system's temporary directory by default. It should be on the disk
    /// that is asked about.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes `report.md`, `compare.jsonl` and the plots into this directory.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// One cell of one round.
#[derive(Serialize)]
struct Record<'a> {
    round: usize,
    group: Group,
    line: &'a str,
    store: &'a str,
    threads: usize,
    record_bytes: usize,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// What is known of one cell: its figures by round, or why there are none.
#[derive(Default)]
pub(crate) struct Cell {
    pub(crate) figures: Vec<Figures>,
    pub(crate) refused: Option<String>,
}

/// Everything that a run found.
pub(crate) struct Results {
    pub(crate) command: String,
    pub(crate) rounds: usize,
    pub(crate) machine: Vec<String>,
    pub(crate) stores: Vec<&'static str>,
    pub(crate) lines: Vec<Line>,
    /// By index of the line and of the store.
    pub(crate) cells: BTreeMap<(usize, usize), Cell>,
    pub(crate) durability: Vec<Durability>,
}

/// A cell that takes longer than this is ended.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the comparison.
pub(crate) fn run(arguments: &Arguments) -> Outcome<()> {
    let quick = Arguments {
        rounds: 3,
        grid: Grid::Quick,
        mebibytes: 256,
        reopen_mebibytes: 512,
        milliseconds: 400,
        ..arguments.clone()
    };
    let arguments = if arguments.quick { &quick } else { arguments };
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let stores: Vec<_> = peers::all()
        .into_iter()
        .map(|about| about.name)
        .filter(|name| arguments.stores.is_empty() || arguments.stores.iter().any(|it| it == name))
        .collect();
    if let Some(unknown) = arguments
        .stores
        .iter()
        .find(|name| !stores.contains(&name.as_str()))
    {
        return Err(format!("there is no store called {unknown} here").into());
    }
    let groups = if arguments.only.is_empty() {
        Group::ALL.to_vec()
    } else {
        arguments.only.clone()
    };
    let extent = Extent {
        mebibytes: arguments.mebibytes,
        reopen_mebibytes: arguments.reopen_mebibytes,
        milliseconds: arguments.milliseconds,
        grid: arguments.grid,
    };
    let lines: Vec<_> = groups
        .into_iter()
        .flat_map(|group| grid::lines(group, extent))
        .collect();
    let mut journal = match &arguments.report {
        Some(dir) => {
            fs::create_dir_all(dir)?;
            Some(File::create(dir.join("compare.jsonl"))?)
        }
        None => None,
    };
    let mut results = Results {
        command: command(),
        rounds: arguments.rounds,
        machine: machine::describe(&base),
        stores,
        lines,
        cells: BTreeMap::new(),
        durability: Vec::new(),
    };
    for &store in &results.stores {
        let dir = tempfile::tempdir_in(&base)?;
        match durability::check(store, dir.path()) {
            Ok(Some(found)) => results.durability.push(found),
            Ok(None) => {
                eprintln!("strace is not installed: what each store syncs is not counted");
                break;
            }
            Err(error) => eprintln!("{store}: {error}"),
        }
    }
    for round in 0..arguments.rounds {
        for (line_at, line) in results.lines.iter().enumerate() {
            eprintln!(
                "round {} of {}: {}: {}",
                round + 1,
                arguments.rounds,
                line.group.title(),
                line.label
            );
            for (store_at, store) in results.stores.iter().enumerate() {
                let cell = results.cells.entry((line_at, store_at)).or_default();
                if cell.refused.is_some() {
                    continue;
                }
                match measure(store, line, &base) {
                    Ok(figures) => {
                        if let Some(journal) = &mut journal {
                            let record = Record {
                                round,
                                group: line.group,
                                line: &line.label,
                                store,
                                threads: line.threads,
                                record_bytes: line.record,
                                figures: &figures,
                            };
                            serde_json::to_writer(&mut *journal, &record)?;
                            writeln!(journal)?;
                        }
                        cell.figures.push(figures);
                    }
                    Err(error) => {
                        eprintln!("  {store}: {error}");
                        cell.refused = Some(error.to_string());
                    }
                }
            }
        }
    }
    report::print(&results);
    if let Some(dir) = &arguments.report {
        report::write(&results, dir)?;
    }
    Ok(())
}

/// The command that repeats this run.
fn command() -> String {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let features = if cfg!(feature = "rocksdb") {
        "--rocksdb "
    } else {
        ""
    };
    format!(
        "cargo xtask bench compare {features}-- {}",
        arguments.join(" ")
    )
}

/// Runs one cell on a fresh directory.
fn measure(store: &str, line: &Line, base: &Path) -> Outcome<Figures> {
    let outer = tempfile::tempdir_in(base)?;
    let dir = outer.path().join("store");
    fs::create_dir(&dir)?;
    if let Some(mebibytes) = line.fill {
        let fill = Workload::Fill {
            record: line.record,
            mebibytes,
        };
        child(store, fill, &dir)?;
    }
    child(store, line.workload, &dir)
}

/// Runs a workload in a process of its own.
fn child(store: &str, workload: Workload, dir: &Path) -> Outcome<Figures> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["cell", store, &serde_json::to_string(&workload)?])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("it took longer than {} s", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it said nothing");
        return Err(format!("{last} ({})", output.status).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().ok_or("it printed no figures")?;
    Ok(serde_json::from_str(last)?)
}
